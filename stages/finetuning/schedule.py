"""The schedule of an arm's work: trials of settings, and classifiers as soon as the trials that they wait for are done.

    schedule = TrainingSchedule(config, uri, chunks, subsets, log)
    for item in schedule.begin():      # and, when one is done, schedule.next_jobs(item, seconds)
        ...

Trials and classifiers go to the same workers: a split and label count whose settings are selected need not wait for
the others. The files of an earlier, killed attempt are kept and not made again.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pipeline.core.errors import CorruptArtifact
from pipeline.core.files import exists, join
from pipeline.core.stage import Context
from stages.datasets.labelled import ALL_CLIPS
from stages.datasets.split_subsets import SplitSubsets
from stages.finetuning.arm import ArmConfig
from stages.finetuning.selection import SELECTION_FILE, SelectedSettings, Selection, TrialResult, TriedSettings
from stages.finetuning.trained_classifiers import TrainedClassifiers
from stages.finetuning.trainer import Job, Trial

START_CLIPS: Final = 3
"""The time of a training beside that of its clips, in clips of each class: measured with 1 to 10 (tests/RESULTS.md)."""
Cell = tuple[int, int]
"""(split, labelled clips a class)."""


@dataclass
class TrainingSchedule:
    """The jobs and trials of an arm, and their order."""

    config: ArmConfig
    uri: str
    chunks: Mapping[int, Sequence[tuple[int, ...]]]
    """Label count, rising, all clips last -> samplings that train side by side."""
    subsets: Sequence[SplitSubsets]
    log: Callable[[str], None]
    seconds: dict[int, float] = field(default_factory=dict)
    """Label count -> processor-bound seconds of training its classifiers, summed over workers."""
    _awaited: dict[Cell, int] = field(default_factory=dict)
    """Trials that are not done yet."""
    _first: list[Job | Trial] = field(default_factory=list)
    _kept: set[int] = field(default_factory=set)
    """Label counts of which an earlier attempt has trained classifiers."""

    def begin(self) -> list[Job | Trial]:
        """Returns the work that can start at once, the longest first, so that workers end at about the same time."""
        for count in reversed(list(self.chunks)):
            for subset in self.subsets:
                cell = (subset.number, count)
                missing = [trial for trial in self.trials(cell) if not self._is_tried(trial)]
                self._awaited[cell] = len(missing)
                self._first += missing or self._missing_jobs(cell)
        return self._first

    def next_jobs(self, item: Job | Trial, seconds: float) -> list[Job | Trial]:
        """Marks the item as done, and returns the work that can start now."""
        count = item.labels_per_class
        if isinstance(item, Job):
            self.seconds[count] = self.seconds.get(count, 0.0) + seconds
            return []
        self._awaited[item.split, count] -= 1
        return [] if self._awaited[item.split, count] else [*self._missing_jobs((item.split, count))]

    def seconds_of_all(self) -> dict[int, float]:
        """Returns `seconds` of the label counts all of whose classifiers were trained in this attempt."""
        return {count: value for count, value in self.seconds.items() if count not in self._kept}

    def work(self, items: Iterable[Job | Trial]) -> float:
        """Returns the time of trainings, in that of reading a clip of each class: it grows with the clips."""
        most = max((len(s.fit) + len(s.validation)) / len(s.class_names) for s in self.subsets)
        return sum(num_trainings(i) * (START_CLIPS + (i.labels_per_class or most)) for i in items)

    def all_work(self) -> float:
        """Returns the `work` of all trials and classifiers."""
        return sum(self.work([*self.trials(cell), *self._bare_jobs(cell)]) for cell in self._cells())

    def left(self) -> list[Job | Trial]:
        """Returns the jobs and trials that were not done at `begin`; of those that wait for trials, all jobs."""
        waiting = [job for cell, trials in self._awaited.items() if trials for job in self._bare_jobs(cell)]
        return [*self._first, *waiting]

    def num_trials(self) -> int:
        """Counts the trials of all cells."""
        return sum(len(self.trials(cell)) for cell in self._cells())

    def num_classifiers(self) -> int:
        """Counts the classifiers of all cells."""
        return sum(len(job.samplings) for cell in self._cells() for job in self._bare_jobs(cell))

    def files(self, labels_per_class: int) -> list[str]:
        """Returns the URIs of the files of a label count's classifiers."""
        jobs = [job for subset in self.subsets for job in self._bare_jobs((subset.number, labels_per_class))]
        return [join(self.uri, job.file) for job in jobs]

    def trials(self, cell: Cell) -> list[Trial]:
        """Returns a trial of every candidate; none where nothing is selected."""
        split, count = cell
        selection, numbers = self.config.selection, range(len(self.config.selection.candidates()))
        held_out = next(subset.validation for subset in self.subsets if subset.number == split)
        if not selection.is_on:
            return []
        if selection.labels_only and count != ALL_CLIPS:
            samplings = [sampling for chunk in self.chunks[count] for sampling in chunk]
            within = samplings if selection.num_folds(count) else []
            return [Trial(count, split, number, sampling) for sampling in within for number in numbers]
        return [Trial(count, split, number) for number in numbers] if held_out else []

    def write_choices(self) -> None:
        """Writes selection.json once every trial is done: the settings selected for each cell, and those tried."""
        rows = tuple(
            self._choice_row(cell, sampling)
            for cell in sorted(self._cells())
            for sampling in dict.fromkeys(trial.sampling for trial in self.trials(cell))
        )
        Selection(arm=self.config.arm, choices=rows).write(join(self.uri, SELECTION_FILE))

    def _cells(self) -> list[Cell]:
        return [(subset.number, count) for count in self.chunks for subset in self.subsets]

    def _bare_jobs(self, cell: Cell) -> list[Job]:
        split, count = cell
        return [Job(count, chunk, split) for chunk in self.chunks[count]]

    def _missing_jobs(self, cell: Cell) -> list[Job]:
        """Returns the jobs of a cell, with the selected settings, that no earlier attempt has finished."""
        jobs = [replace(job, **self._choice(cell, job.samplings[0])) for job in self._bare_jobs(cell)]
        missing = [job for job in jobs if not self._is_finished(job)]
        self._kept |= {cell[1]} if len(missing) < len(jobs) else set()
        return missing

    def _choice(self, cell: Cell, sampling: int | None) -> dict[str, Any]:
        """Returns the fields of a job that come from its trials: those of the best one, and the clips of all."""
        trials = [trial for trial in self.trials(cell) if trial.sampling in (None, sampling)]
        results = [TrialResult.load(join(self.uri, trial.file)) for trial in trials]
        if not results:
            return {}
        best = _best(results)
        return {
            "candidate": self.config.selection.candidates()[best],
            "stop": (results[best].best_check + 1) / self.config.selection.num_checks,
            "search_clips": tuple(sorted({seen for result in results for seen in result.search_clips})),
        }

    def _choice_row(self, cell: Cell, sampling: int | None) -> SelectedSettings:
        candidates = self.config.selection.candidates()
        trials = [trial for trial in self.trials(cell) if trial.sampling == sampling]
        results = [TrialResult.load(join(self.uri, trial.file)) for trial in trials]
        best, choice = _best(results), self._choice(cell, sampling)
        return SelectedSettings(
            split=cell[0],
            labels_per_class=cell[1],
            sampling=sampling,
            num_validation_clips=len(results[best].videos),
            chosen={**candidates[best], "stop": choice["stop"]},
            accuracy=max(results[best].accuracies),
            trial=trials[best].file,
            tried=tuple(
                TriedSettings(settings=dict(candidate), accuracies=result.accuracies)
                for candidate, result in zip(candidates, results, strict=True)
            ),
        )

    def _is_tried(self, trial: Trial) -> bool:
        if not exists(join(self.uri, trial.file)):
            return False
        try:
            TrialResult.load(join(self.uri, trial.file))
        except CorruptArtifact as error:
            self.log(f"trying again: {error}")
            return False
        return True

    def _is_finished(self, job: Job) -> bool:
        """Returns True if an earlier attempt has left this job's file, whole."""
        if not exists(join(self.uri, job.file)):
            return False
        try:
            trained = TrainedClassifiers.load(join(self.uri, job.file))
        except CorruptArtifact as error:
            self.log(f"training again: {error}")
            return False
        identity = (trained.arm, trained.labels_per_class, trained.split, trained.samplings)
        return identity == (self.config.arm, job.labels_per_class, job.split, job.samplings)


class ScheduleProgress:
    """A schedule that reports its progress as jobs are done.

    Jobs are few and long, so that what the other workers have done of theirs counts, too: as much as they do in the
    time since each was last given a job.
    """

    def __init__(
        self, schedule: TrainingSchedule, context: Context, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._schedule, self._context, self._clock = schedule, context, clock
        left = schedule.left()
        self._total = schedule.num_trials() + schedule.num_classifiers()
        self._done = self._total - sum(map(num_trainings, left))
        self._all_work = schedule.all_work()
        self._work_left = schedule.work(left)
        self._worked = self._worked_s = 0.0
        """The work that is done, and the time of workers that it took."""
        self._num_items_left = len(left)
        self._begun_at: list[float] = []
        """When each worker was given its job; empty until the first is done."""
        self._report()

    def next_jobs(self, item: Job | Trial, seconds: float) -> list[Job | Trial]:
        """Returns the jobs that a finished one has made possible."""
        jobs = self._schedule.next_jobs(item, seconds)
        self._done += num_trainings(item)
        work = self._schedule.work([item])
        self._work_left -= work
        kind = "" if isinstance(item, Job) else ", choosing settings"
        count = "all" if item.labels_per_class == ALL_CLIPS else str(item.labels_per_class)
        note = f"{count} label{'' if item.labels_per_class == 1 else 's'} a class{kind}"
        self._report(note, self._in_flight(work, seconds))
        return jobs

    def _in_flight(self, work: float, seconds: float) -> float:
        """Returns the work that is done of jobs in flight, as one of this work has ended that took so many seconds."""
        now = self._clock()
        if not self._begun_at:
            self._begun_at = [now - seconds] * self._context.resources.num_workers
        self._begun_at.remove(min(self._begun_at, key=lambda begun: abs(now - seconds - begun)))
        self._worked, self._worked_s = self._worked + work, self._worked_s + seconds
        rate = self._worked / max(self._worked_s, 1e-6)
        self._num_items_left -= 1  # where fewer are left than workers, those that were begun last are idle
        in_flight = sum(min((now - begun) * rate, work) for begun in sorted(self._begun_at)[: self._num_items_left])
        self._begun_at.append(now)
        return min(in_flight, self._work_left * (1 - 1 / (1 + len(self._begun_at))))

    def _report(self, note: str = "", in_flight: float = 0.0) -> None:
        share = 1 - (self._work_left - in_flight) / self._all_work if self._all_work else 1.0
        self._context.progress(self._done, self._total, "trainings", note, share)

    def may_continue(self, item: Job | Trial) -> bool:
        """Returns True for a trial, whose result may lead to jobs."""
        return isinstance(item, Trial)


def num_trainings(item: Job | Trial) -> int:
    """Counts the classifiers that an item trains."""
    return len(item.samplings) if isinstance(item, Job) else 1


def _best(results: Sequence[TrialResult]) -> int:
    """Returns the number of the result with the highest accuracy at any check; of equals, the first."""
    return max(range(len(results)), key=lambda number: max(results[number].accuracies))
