"""evaluate: classifiers on test clips, by the paper's protocol, with intervals and paired differences.

    scores = evaluate(EvaluateConfig(), context, classifiers=(frame, scratch, pretrained), percepts=percepts,
                      statistics=statistics)

A window's probabilities are the mean over its frames, a clip's the mean over its windows; the largest is the answer.
Intervals are Student's t over samplings: they say how sure the mean over draws of labelled clips is, on these test
clips. Differences are paired: both arms learned from the same clips in each sampling, which is checked.

Writes `scores.json` and `predictions.parquet`.

Shapes: G samplings, N clips, C classes, T frames of a window, B windows of a batch.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.errors import ConfigError, SourceError
from pipeline.files import join, write_bytes, write_json
from pipeline.stage import Context, stage
from stages.datasets.labelled import labelled, load_windows, refuse_leaks
from stages.models.artifacts import Classifiers, Scores
from stages.models.scoring import Answers, scores_of
from stages.models.trained import TrainedClassifiers
from stages.percepts.artifacts import Percepts, Statistics
from stages.percepts.ledger import VideoRecord
from stages.percepts.reader import PerceptStore
from stages.percepts.standardisation import Standardisation

SCORES_FILE = "scores.json"
PREDICTIONS_FILE = "predictions.parquet"

BLOCK_CLIPS = 64
"""Test clips in memory at a time."""
BATCH_WINDOWS = 128


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which clips are judged, and how a clip is cut into windows."""

    part: str = "test"
    """Part of the ledger to judge."""
    stride: int = 8
    """Frames between the beginnings of two windows of a clip; windows are as long as in training."""

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ConfigError(f"stride is {self.stride}; it must be at least 1")


@stage(version=1)
def evaluate(
    config: EvaluateConfig,
    context: Context,
    *,
    classifiers: tuple[Classifiers, ...],
    percepts: Percepts,
    statistics: Statistics,
) -> Scores:
    """Judge every classifier of every arm; `classifiers` in the order in which arms are compared, worst first.

    Raises:
        ConfigError: no classifiers, two arms of one name or other classes or samplings, or other statistics.
        SourceError: no labelled clips in `config.part`, one that a classifier has learned from (by content or by
          group), or one of a class that the classifiers do not know.
    """
    if not classifiers:
        raise ConfigError("evaluate needs classifiers; connect at least one finetune stage")
    records = percepts.records()
    refuse_leaks(records, config.part)
    clips = labelled(records, config.part)
    files = [arm.path(name) for arm in classifiers for name in arm.files()]
    judge = Judge(config, percepts, statistics, "cuda" if context.resources.gpus_per_worker else "cpu")
    found: dict[int, Answers] = {}
    for position, answers in context.workers.map(
        judge,
        files,
        num_workers=context.resources.num_workers,
        cpus_per_worker=context.resources.cpus_per_worker,
        gpus_per_worker=context.resources.gpus_per_worker,
    ):
        found[position] = answers
        context.progress(len(found), len(files), "jobs", f"{answers.arm}, {answers.labels_per_class} labels")
    ordered = [found[position] for position in range(len(files))]
    scores = scores_of(ordered, [str(clip.label) for clip in clips])
    write_json(join(context.uri, SCORES_FILE), scores)
    write_bytes(join(context.uri, PREDICTIONS_FILE), _predictions(ordered, clips))
    context.record(
        num_test_clips=len(clips), num_classifiers=len(scores["rows"]), num_padded_clips=ordered[0].num_padded
    )
    return Scores(context.uri, context.key)


@dataclass(frozen=True)
class Judge:
    """What a worker process starts from: opens the test percepts once, and gives what judges a file of classifiers."""

    config: EvaluateConfig
    percepts: Percepts
    statistics: Statistics
    device: str

    def __call__(self) -> Callable[[str], Answers]:
        clips = labelled(self.percepts.records(), self.config.part)
        store = self.percepts.open(parts=(self.config.part,))
        return partial(_judge, self, clips, store, Standardisation.of(self.statistics.moments()))


def _judge(
    judge: Judge, clips: Sequence[VideoRecord], store: PerceptStore, standardise: Standardisation, uri: str
) -> Answers:
    trained = TrainedClassifiers.load(uri, device=judge.device)
    _check(trained, clips, standardise)
    blocks = [clips[first : first + BLOCK_CLIPS] for first in range(0, len(clips), BLOCK_CLIPS)]
    parts: list[npt.NDArray[np.float32]] = []
    num_padded = 0
    for block in blocks:
        windows = load_windows(store, block, standardise, num_frames=trained.num_frames, stride=judge.config.stride)
        windows = windows.to(judge.device)
        num_padded += windows.num_padded
        starts = np.concatenate(windows.starts_N)
        batches = (starts[first : first + BATCH_WINDOWS] for first in range(0, len(starts), BATCH_WINDOWS))
        window_GWC = torch.cat([trained.probabilities(windows.gather(batch)) for batch in batches], dim=1).cpu().numpy()
        counts = [len(clip_starts) for clip_starts in windows.starts_N]
        first_window_N = np.cumsum([0, *counts[:-1]])
        parts.append(np.add.reduceat(window_GWC, first_window_N, axis=1) / np.array(counts)[:, None])
    return Answers(
        arm=trained.arm,
        class_names=trained.class_names,
        labels_per_class=trained.labels_per_class,
        samplings=trained.samplings,
        clips=trained.clips,
        probabilities_GNC=np.concatenate(parts, axis=1, dtype=np.float32),
        num_padded=num_padded,
    )


def _check(trained: TrainedClassifiers, clips: Sequence[VideoRecord], standardise: Standardisation) -> None:
    """Whether these classifiers may be judged by these clips."""
    if trained.standardise != standardise:
        raise ConfigError(
            f"arm {trained.arm!r} was finetuned on percepts standardised by other statistics than these; "
            "connect the same statistics to finetune and evaluate"
        )
    seen = {sha256 for sampling in trained.clips for sha256 in sampling}
    for clip in clips:
        if clip.sha256 in seen or clip.group in trained.groups:
            what = "itself" if clip.sha256 in seen else f"its group {clip.group!r}"
            raise SourceError(
                f"leak: arm {trained.arm!r} has learned from test clip {clip.uri}: from {what}; "
                "a group must lie on one side of a split: correct the videos' manifest"
            )
        if clip.label not in trained.class_names:
            raise SourceError(
                f"test clip {clip.uri} is of class {clip.label!r}, which arm {trained.arm!r} does not know; "
                "give every class of the test part training clips, or leave it out of the manifest"
            )


def _predictions(found: Sequence[Answers], clips: Sequence[VideoRecord]) -> bytes:
    """A Parquet file with one row a classifier and clip."""
    schema = pa.schema(
        [
            ("model", pa.dictionary(pa.int32(), pa.string())),
            ("labels_per_class", pa.int32()),
            ("sampling", pa.int32()),
            ("video", pa.string()),
            ("label", pa.string()),
            ("predicted", pa.string()),
            ("probability", pa.float32()),
        ]
    )
    table = pa.concat_tables(_prediction_tables(found, clips, schema)).unify_dictionaries()
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _prediction_tables(found: Sequence[Answers], clips: Sequence[VideoRecord], schema: pa.Schema) -> Iterator[pa.Table]:
    for answers in found:
        for group, sampling in enumerate(answers.samplings):
            probabilities_NC = answers.probabilities_GNC[group]
            columns = {
                "model": pa.array([answers.arm] * len(clips)).dictionary_encode(),
                "labels_per_class": [answers.labels_per_class] * len(clips),
                "sampling": [sampling] * len(clips),
                "video": [clip.sha256 for clip in clips],
                "label": [clip.label for clip in clips],
                "predicted": [answers.class_names[best] for best in probabilities_NC.argmax(1)],
                "probability": probabilities_NC.max(1),
            }
            yield pa.table(columns, schema=schema)
