"""finetune: action classifiers from a few labelled clips a class, many at once (section 4.2, the label curve).

    classifiers = finetune(FinetuneConfig(arm="LSTM pretrained"), context,
                           percepts=percepts, statistics=statistics, encoder=encoder)

One stage is one row of the tables: every split, label count and sampling of an arm. The samplings of a label count are
groups of one batched model, and models go to worker processes that have mapped the percepts once. A sampling's clips,
first weights, batches and dropout come from seeds of its own, so that it becomes the same classifier whichever
samplings train beside it; its clips and batches are the same in every arm of the same seed, so that their comparison
is a paired one.

With `selection`, settings are chosen first, for each split and label count apart: candidates learn from training clips
that are not held out and are judged by those that are; then the best of them learns from all training clips. Choosing
once for all splits would use the test clips of one of them, which are training clips of another.

Writes `[split-<n>-]labels-<k>-samplings-<first>-<last>.safetensors` for every job, `trial-*.safetensors` for every
candidate, `selection.json`, and `model.safetensors`: the classifier of the most labels and sampling 0, by itself.

Shapes: S training steps, G samplings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.errors import ConfigError, CorruptArtifact, SourceError
from pipeline.files import exists, join, write_json
from pipeline.stage import Context, Estimate, stage
from stages.costs import FLOP_PER_S, lstm_flop
from stages.datasets.labelled import ALL_CLIPS, draw
from stages.datasets.sides import Sides, split_numbers
from stages.datasets.splits import Splits
from stages.models.arm import ArmConfig, check_encoder
from stages.models.artifacts import Classifiers, Encoder
from stages.models.finetuning import Job, Trainer, Trial, arm_sides, count_text
from stages.models.trained import TrainedClassifiers
from stages.models.trials import TrialResult
from stages.models.weights import MODEL_FILE
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.ledger import VideoRecord

METRIC_POINTS = 20
"""Points of each loss curve that go to MLflow."""
SELECTION_FILE = "selection.json"


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(ArmConfig):
    """An arm, and the splits, label counts and samplings that it is measured at."""

    splits: tuple[int, ...] = ()
    """Official splits to learn in; empty: all of them, or the parts of the videos' manifest where there are none."""
    labels_per_class: tuple[int, ...] = (1, 2, 5, 10)
    """Labelled clips of each class to learn from: one row of the table each; 0: all there are."""
    num_samplings: int = 10
    """Independent draws of those clips, for the interval."""
    num_full_samplings: int = 1
    """Classifiers that learn from all clips: these differ by first weights, batches and dropout alone."""
    samplings_per_job: int = 5
    """Samplings that train as one batched model; jobs go to workers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = {name: getattr(self, name) for name in ("num_samplings", "num_full_samplings", "samplings_per_job")}
        if min(numbers.values()) < 1:
            given = ", ".join(f"{name} {value}" for name, value in numbers.items())
            raise ConfigError(f"{given}: give at least 1 of each")
        counts = self.labels_per_class
        if not counts or min(counts) < 0 or len(set(counts)) < len(counts):
            raise ConfigError(
                f"labels_per_class is {counts}; give one or more counts, each at least 1 (or 0: all) and named once"
            )

    def samplings(self, labels_per_class: int) -> range:
        """Numbers of the samplings at a label count."""
        return range(self.num_full_samplings if labels_per_class == ALL_CLIPS else self.num_samplings)

    @property
    def rising_counts(self) -> list[int]:
        """Label counts, all clips last."""
        return sorted(self.labels_per_class, key=lambda count: (count == ALL_CLIPS, count))


def _estimate(config: FinetuneConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    """Frames looked at, and the time of the matrix products."""
    percepts = inputs["percepts"]
    if not (percepts.num_frames and percepts.num_bytes):
        return Estimate()
    dim = percepts.num_bytes // percepts.num_frames // 2
    num = sum(len(config.samplings(count)) for count in config.labels_per_class)
    windows = num * max(1, len(config.splits)) * config.num_steps * config.batch_clips
    flop = lstm_flop(
        num_sequences=windows,
        num_steps=config.num_frames,
        num_inputs=dim,
        num_units=config.num_units if config.model == "lstm" else 1,
        num_layers=config.num_layers,
    )
    return Estimate(num_frames=windows * config.num_frames, seconds=flop / FLOP_PER_S)


@stage(version=3, estimate=_estimate)
def finetune(
    config: FinetuneConfig,
    context: Context,
    *,
    percepts: Percepts,
    statistics: Statistics,
    encoder: Encoder | None = None,
    splits: Splits | None = None,
) -> Classifiers:
    """Train every sampling of every label count and split; with `encoder`, LSTMs start from its weights, and
    read percepts through its transform instead of standardised by `statistics`.

    Raises:
        ConfigError: a class has fewer clips than asked for, nothing is held out to choose settings by, or `encoder`
          does not fit (`check_encoder`).
        SourceError: no labelled clips, or a group of labelled videos on more than one side of a split.
        TrainingDiverged: a loss is not finite.
    """
    if encoder is not None:
        check_encoder(config, encoder)
    records = percepts.records()
    sides = _sides(config, context, records, splits)
    for side in sides:
        if config.selection.is_on and not side.validation:
            context.log(f"{config.arm}, split {side.number}: nothing is held out; settings are the configured ones")
        clips = side.fit if config.selection.is_on else side.learn
        most = max(config.labels_per_class)
        draw(clips, labels_per_class=most, sampling=0, seed=config.seed, allow_fewer=config.allow_fewer)

    device = "cuda" if context.resources.gpus_per_worker else "cpu"
    trainer = Trainer(config, context.uri, percepts, statistics, encoder, splits, device)
    trials = _trials(config, sides)
    _work(config, context, trainer, trials, [not _is_tried(trial, context) for trial in trials], "trials")
    jobs = _jobs(config, sides, _choices(config, context, trials))
    seconds = _work(config, context, trainer, jobs, [not _is_finished(j, config, context) for j in jobs], "classifiers")
    _conclude(config, context, jobs)
    context.record(
        num_classifiers=sum(len(job.samplings) for job in jobs),
        num_trials=len(trials),
        num_labelled_clips=len({clip.sha256 for side in sides for clip in side.learn}),
        **{f"seconds_at_{count_text(count)}": round(value, 3) for count, value in seconds.items()},
    )
    return Classifiers(context.uri, context.key)


def _sides(
    config: FinetuneConfig, context: Context, records: Sequence[VideoRecord], splits: Splits | None
) -> list[Sides]:
    """The splits to learn in; with `allow_fewer` but those of which no training clip is there."""
    numbers = split_numbers(splits, config.splits)
    if splits is not None and config.allow_fewer:
        trainable = [number for number in numbers if splits.coverage(number, records).num_train]
        for number in sorted(set(numbers) - set(trainable)):
            context.log(f"{config.arm}, split {number}: none of its training clips is there; left out")
        if not trainable:
            raise SourceError(f"of {splits.name}'s splits {', '.join(map(str, numbers))} no training clip is there")
        numbers = tuple(trainable)
    return [arm_sides(config, records, splits, number) for number in numbers]


def _work(
    config: FinetuneConfig,
    context: Context,
    trainer: Trainer,
    items: Sequence[Job] | Sequence[Trial],
    is_missing: Sequence[bool],
    unit: str,
) -> dict[int, float]:
    """Does the items whose file is missing, on the stage's workers. Returns the seconds of training at a label count.

    Seconds are processor-bound time of workers, summed; what an earlier attempt has done is not in them.
    """
    sizes = [len(item.samplings) if isinstance(item, Job) else 1 for item in items]
    todo = [number for number, missing in enumerate(is_missing) if missing]
    total, done = sum(sizes), sum(sizes) - sum(sizes[number] for number in todo)
    spent: dict[int, float] = {}
    if items:
        context.progress(done, total, unit)
    resources = context.resources
    for position, seconds in context.workers.map(
        trainer,
        [items[number] for number in todo],
        num_workers=resources.num_workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        describe=partial(_describe, config.arm),
    ):
        item = items[todo[position]]
        done += sizes[todo[position]]
        spent[item.labels_per_class] = spent.get(item.labels_per_class, 0.0) + seconds
        context.progress(done, total, unit, f"{count_text(item.labels_per_class)} labels a class")
    return spent


def _describe(arm: str, item: Job | Trial) -> str:
    return f"{arm}, {item}"


def _trials(config: FinetuneConfig, sides: Sequence[Sides]) -> list[Trial]:
    """Every candidate at every label count of every split, the longest first."""
    if not config.selection.is_on:
        return []
    numbers = range(len(config.selection.candidates()))
    counts = reversed(config.rising_counts)
    chosen = [side for side in sides if side.validation]
    return [Trial(count, side.number, number) for count in counts for side in chosen for number in numbers]


def _is_tried(trial: Trial, context: Context) -> bool:
    if not exists(join(context.uri, trial.file)):
        return False
    try:
        TrialResult.load(join(context.uri, trial.file))
    except CorruptArtifact as error:
        context.log(f"trying again: {error}")
        return False
    return True


def _choices(
    config: FinetuneConfig, context: Context, trials: Sequence[Trial]
) -> dict[tuple[int, int], dict[str, Any]]:
    """By split and label count: what a job takes from the best of its trials. Writes selection.json.

    The highest accuracy at any check wins; of equals the first candidate, and its earliest check.
    """
    candidates = config.selection.candidates()
    found: dict[tuple[int, int], list[TrialResult]] = {}
    for trial in trials:
        results = found.setdefault((trial.split, trial.labels_per_class), [])
        results.append(TrialResult.load(join(context.uri, trial.file)))
    choices: dict[tuple[int, int], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    for (split, count), results in sorted(found.items()):
        best = max(range(len(results)), key=lambda number: max(results[number].accuracies))
        stop = (results[best].best_check + 1) / config.selection.num_checks
        consulted = tuple(sorted({seen for result in results for seen in result.consulted}))
        choices[split, count] = {"candidate": candidates[best], "stop": stop, "consulted": consulted}
        rows.append(
            {
                "split": split,
                "labels_per_class": count,
                "num_validation_clips": len(results[best].videos),
                "chosen": {**candidates[best].settings(), "stop": stop},
                "accuracy": max(results[best].accuracies),
                "trial": Trial(count, split, best).file,
                "tried": [
                    {**candidate.settings(), "accuracies": list(result.accuracies)}
                    for candidate, result in zip(candidates, results, strict=True)
                ],
            }
        )
    write_json(join(context.uri, SELECTION_FILE), {"arm": config.arm, "choices": rows})
    return choices


def _jobs(
    config: FinetuneConfig, sides: Sequence[Sides], choices: Mapping[tuple[int, int], dict[str, Any]]
) -> list[Job]:
    """The longest first, so that no worker is left alone with one at the end."""
    jobs: list[Job] = []
    for count in reversed(config.rising_counts):
        samplings, size = config.samplings(count), config.samplings_per_job
        for side in sides:
            chosen = choices.get((side.number, count), {})
            chunks = [tuple(samplings[first : first + size]) for first in range(0, len(samplings), size)]
            jobs += [Job(count, chunk, side.number, **chosen) for chunk in chunks]
    return jobs


def _is_finished(job: Job, config: FinetuneConfig, context: Context) -> bool:
    """Whether an earlier, killed attempt has left this job's file, and it is whole."""
    if not exists(join(context.uri, job.file)):
        return False
    try:
        found = TrainedClassifiers.load(join(context.uri, job.file))
    except CorruptArtifact as error:
        context.log(f"training again: {error}")
        return False
    theirs = (found.arm, found.labels_per_class, found.split, found.samplings)
    return theirs == (config.arm, job.labels_per_class, job.split, job.samplings)


def _conclude(config: FinetuneConfig, context: Context, jobs: Sequence[Job]) -> None:
    """Loss curves, mean over splits and samplings; and the classifier that is served."""
    counts = config.rising_counts
    for labels_per_class in counts:
        files = [join(context.uri, job.file) for job in jobs if job.labels_per_class == labels_per_class]
        trained = [TrainedClassifiers.load(uri) for uri in files]
        num_steps = min(len(found.losses_SG) for found in trained)
        loss_S = np.concatenate([found.losses_SG[:num_steps] for found in trained], axis=1).mean(1)
        for step in np.linspace(0, len(loss_S) - 1, min(METRIC_POINTS, len(loss_S))).astype(int).tolist():
            context.metrics(step, **{f"loss_{labels_per_class or 'all'}_labels": float(loss_S[step])})
        if labels_per_class == counts[-1]:
            trained[0].select(0).save(join(context.uri, MODEL_FILE))
