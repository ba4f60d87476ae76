"""evaluate: classifiers on test clips, by the paper's protocol, with intervals and paired differences.

    scores = evaluate(EvaluateConfig(), context, classifiers=(frame, scratch, pretrained), percepts=percepts)

A window's probabilities are the mean over its frames, a clip's the mean over its windows; the largest is the answer.
Intervals are Student's t: over official splits where there are several (`stages.evaluation.cells`), else over
samplings: these say how sure the mean over draws of labelled clips is, on these test clips. An arm may come as several
classifiers, one for each encoder that was pretrained from another seed; intervals are then over encoders, too, and
speak of the method and not of one encoder. Differences are paired:
both arms learned from the same clips in each sampling, which is checked. So is that no test clip, nor one of its
group, was learned from or looked at when settings were chosen.

A split that lacks training or test clips is not evaluable; where all do, the tables have no figures and say why.

Writes `scores.json`, `predictions.parquet`, and `probabilities.parquet` with every class's probability, of the
classifiers with the most labels.

Shapes: G samplings, N clips, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.files import join, write_bytes
from pipeline.core.numbers import check_at_least, check_numbers
from pipeline.core.rates import EVALUATE_S, EVALUATION_SPEEDUP, FLOP_PER_S, WORKER_START_S, lstm_weights
from pipeline.core.stage import Context, Estimate, stage
from stages.datasets.arrow_of_time import reversal_pairs, with_reversals
from stages.datasets.labelled import ClipFinder, labelled, refuse_leaks
from stages.datasets.split_subsets import MANIFEST_SPLIT, clips_of, records_of, split_numbers
from stages.datasets.splits import Splits
from stages.evaluation.artifacts import Scores
from stages.evaluation.predictions import PREDICTIONS_FILE, PROBABILITIES_FILE, predictions, probabilities
from stages.evaluation.score_table import ScoreTable
from stages.evaluation.scores import NotEvaluable, Predictions, by_count, scores_of
from stages.finetuning.artifacts import Classifiers
from stages.models.config import MODEL_FILE
from stages.percepts.artifacts import Percepts
from stages.video.ledger import VideoRecord, amounts_of

if TYPE_CHECKING:  # torch takes seconds to import
    from stages.finetuning.trained_classifiers import TrainedClassifiers


TEST_SHARE: Final = 1 / 3
"""The share of the videos that are test clips, for estimates: about that of UCF-101."""
WINDOWS_OF_A_FRAME: Final = 2
"""The windows that hold a frame, for estimates."""
FLOP_TO_READ: Final = 50
"""The time of reading a number of a percept, in FLOP: it weighs jobs against each other."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """The clips that are evaluated, how a clip is cut into windows, and the arms that are compared."""

    part: str = "test"
    """Part of the ledger to evaluate."""
    stride: int = 8
    """Frames between the beginnings of two windows of a clip; windows are as long as in training."""
    splits: tuple[int, ...] = ()
    """Official splits whose coverage stands beside the scores; empty: all of them."""
    arrow: bool = False
    """Each test clip is evaluated a second time, played backwards, as one of its class's reversal."""
    reversals: tuple[tuple[str, str], ...] = ()
    """(class, class) that have the same frames in reverse order: how often each arm takes one for the other is
    measured. With arrow they are the classes and their reversals."""
    pairs: tuple[tuple[str, str], ...] = ()
    """(worse, better) names of arms whose difference is measured; none: each arm and the next."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "stride")
        check_numbers(self)


def _estimate(config: EvaluateConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    """Estimates the time of the matrix products: every weight of every classifier, by every frame of the test clips."""
    classifiers, percepts = inputs["classifiers"], inputs["percepts"]
    if not (classifiers.num_bytes and percepts.num_frames):
        return Estimate()
    num_frames = percepts.num_frames * TEST_SHARE * WINDOWS_OF_A_FRAME
    flop = 2.0 * classifiers.num_bytes / 4 * num_frames
    seconds = WORKER_START_S + EVALUATE_S + flop / (EVALUATION_SPEEDUP * FLOP_PER_S)
    return Estimate(num_frames=int(num_frames), seconds=seconds)


@stage(version=4, estimate=_estimate)
def evaluate(
    config: EvaluateConfig,
    context: Context,
    *,
    classifiers: tuple[Classifiers, ...],
    percepts: Percepts,
    splits: Splits | None = None,
) -> Scores:
    """Evaluates every classifier of every arm; `classifiers` in the order of comparison, worst first.

    Raises:
        ConfigError: no classifiers, two arms of one name or other classes or samplings, official splits here and
          not there, or a pair of arms that are not there.
        SourceError: no labelled clips in `config.part`, where there are no official splits; a clip that a classifier
          has learned from or was chosen by (by content or by group), or one of a class that classifiers do not know.
    """
    from stages.finetuning.trained_classifiers import TrainedClassifiers

    if not classifiers:
        raise ConfigError("evaluate needs classifiers; connect at least one finetune stage")
    _ = split_numbers(splits, config.splits)
    files = [arm.path(name) for arm in classifiers for name in arm.files()]
    served = [TrainedClassifiers.load(arm.path(MODEL_FILE)) for arm in classifiers]
    work = [_work_of_a_frame(trained) for arm, trained in zip(classifiers, served, strict=True) for _ in arm.files()]
    most = max((trained.labels_per_class for trained in served), key=by_count)
    device = "cuda" if context.resources.gpus_per_worker else "cpu"
    factory = EvaluateFile(config, percepts, splits, most, device)
    by_file: dict[int, Predictions | NotEvaluable] = {}
    for position, answers in context.workers.map(
        factory,
        files,
        num_workers=context.resources.num_workers,
        cpus_per_worker=context.resources.cpus_per_worker,
        gpus_per_worker=context.resources.gpus_per_worker,
    ):
        by_file[position] = answers
        plural = "" if answers.labels_per_class == 1 else "s"
        note = f"{answers.arm}, {answers.labels_per_class or 'all'} label{plural}"
        share = sum(work[done] for done in by_file) / sum(work)
        context.progress(len(by_file), len(files), "jobs", note, share)
    ordered = [by_file[position] for position in range(len(files))]
    evaluated = [answers for answers in ordered if isinstance(answers, Predictions)]
    records = clips_of(percepts, splits)
    clips = {
        number: evaluated_clips(records, splits, number, config.part, arrow=config.arrow)
        for number in sorted({answers.split for answers in evaluated})
    }
    labels = {number: [str(clip.label) for clip in members] for number, members in clips.items()}
    groups = {number: [clip.group or clip.sha256 for clip in members] for number, members in clips.items()}
    reversals = reversal_pairs(ordered[0].class_names) if config.arrow else config.reversals
    table = scores_of(
        ordered, labels, pairs=config.pairs, groups=groups if splits is not None else None, reversals=reversals
    )
    table = replace(table, arrow=config.arrow)
    if splits is not None:
        table = _with_coverage(table, splits, config.splits, records, context)
    scores = Scores(context.uri, context.key)
    scores.write(table)
    write_bytes(join(context.uri, PREDICTIONS_FILE), predictions(evaluated, clips))
    write_bytes(join(context.uri, PROBABILITIES_FILE), probabilities(evaluated, clips, table.class_names))
    context.record(
        num_test_clips=table.num_test_clips,
        num_classifiers=len(table.samplings),
        **amounts_of(records, test={clip.sha256 for members in clips.values() for clip in members}),
        num_padded_clips=sum({answers.split: answers.num_padded for answers in evaluated}.values()),
    )
    return scores


def _work_of_a_frame(trained: TrainedClassifiers) -> float:
    """Returns the work of a classifier on a frame, in FLOP."""
    config = trained.classifier.config
    is_lstm = config.model == "lstm"
    num_weights = lstm_weights(config.dim, config.num_units, config.num_layers) if is_lstm else config.dim
    return 2.0 * num_weights + FLOP_TO_READ * config.dim


def _with_coverage(
    table: ScoreTable, splits: Splits, numbers: Sequence[int], records: Sequence[VideoRecord], context: Context
) -> ScoreTable:
    """Adds the clips that the scores stand on, and logs which splits cannot be evaluated."""
    coverage = [splits.coverage(number, records) for number in split_numbers(splits, numbers)]
    for split in coverage:
        if split.gap:
            context.log(f"warning: {split}")
    if all(split.gap for split in coverage):
        context.log(f"warning: no split of {splits.name} has training and test clips that are there: no accuracies")
    num_clips, num_official_clips = splits.count(records)
    return replace(
        table,
        dataset=splits.name,
        num_clips=num_clips,
        num_official_clips=num_official_clips,
        coverage=tuple(coverage),
    )


def evaluated_clips(
    records: Sequence[VideoRecord], splits: Splits | None, number: int, part: str, *, arrow: bool = False
) -> list[VideoRecord]:
    """Returns the clips that a split is evaluated by. Raises SourceError (`labelled`, `refuse_leaks`)."""
    clips = records_of(records, splits, number)
    refuse_leaks([record for record in clips if record.label is not None], part)
    evaluated = labelled(clips, part)
    return with_reversals(evaluated) if arrow else evaluated


@dataclass(frozen=True)
class EvaluateFile:
    """The start of a worker process: it opens the percepts once, and returns the function that evaluates a file."""

    config: EvaluateConfig
    percepts: Percepts
    splits: Splits | None
    most_labels: int
    """Label count whose probabilities are kept."""
    device: str

    def __call__(self) -> Callable[[str], Predictions | NotEvaluable]:
        from stages.evaluation.clip_inference import infer_clips
        from stages.finetuning.trained_classifiers import TrainedClassifiers

        finder, records = ClipFinder(self.percepts.open()), clips_of(self.percepts, self.splits)
        arrow, part = self.config.arrow, self.config.part
        evaluated = cache(lambda number: evaluated_clips(records, self.splits, number, part, arrow=arrow))

        def evaluate_file(uri: str) -> Predictions | NotEvaluable:
            trained = TrainedClassifiers.load(uri, device=self.device)
            if (trained.split == MANIFEST_SPLIT) != (self.splits is None):
                raise ConfigError(
                    f"arm {trained.arm!r} was finetuned {'without' if self.splits else 'with'} official splits; "
                    "connect the same splits to finetune and evaluate"
                )
            if self.splits is not None and not self.splits.coverage(trained.split, records).num_test:
                return NotEvaluable(trained.arm, trained.class_names, trained.labels_per_class, trained.split)
            clips = evaluated(trained.split)
            _check(trained, clips)
            probabilities_GNC, num_padded = infer_clips(
                trained.probabilities,
                clips,
                finder,
                trained.transform,
                num_frames=trained.num_frames,
                stride=self.config.stride,
                device=self.device,
            )
            return Predictions(
                arm=trained.arm,
                class_names=trained.class_names,
                labels_per_class=trained.labels_per_class,
                split=trained.split,
                samplings=trained.samplings,
                clips=trained.clips,
                predicted_GN=probabilities_GNC.argmax(-1).astype(np.int16),
                probability_GN=probabilities_GNC.max(-1),
                probabilities_GNC=probabilities_GNC if trained.labels_per_class == self.most_labels else None,
                num_padded=num_padded,
                encoder=trained.encoder,
            )

        return evaluate_file


def _check(trained: TrainedClassifiers, clips: Sequence[VideoRecord]) -> None:
    """Raises SourceError where these classifiers may not be evaluated by these clips."""
    seen, search_clips = {sha256 for sampling in trained.clips for sha256 in sampling}, set(trained.search_clips)
    known, groups = set(trained.class_names), set(trained.groups)
    for clip in clips:
        if clip.sha256 in seen or clip.sha256 in search_clips or clip.group in groups:
            does = "has learned from" if clip.sha256 not in search_clips - seen else "was chosen by"
            what = f"its group {clip.group!r}" if clip.sha256 not in seen | search_clips else "itself"
            raise SourceError(
                f"leak: arm {trained.arm!r} {does} test clip {clip.uri}: from {what}; "
                "a group must lie on one side of a split: correct the videos' manifest"
            )
        if clip.label not in known:
            raise SourceError(
                f"test clip {clip.uri} is of class {clip.label!r}, which arm {trained.arm!r} does not know; "
                "give every class of the test part training clips, or leave it out of the manifest"
            )
