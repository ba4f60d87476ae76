"""The results of a run as typed values, from which the page, the terminal and the sentences are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.svg import number
from pipeline.reporting.view import NodeView, RunView
from stages.datasets.splits import Coverage
from stages.video.ledger import VideoRecord

COPY_LAST, MEAN_FRAME = "copy last frame", "mean frame"
BASELINES = (COPY_LAST, MEAN_FRAME)
"""Names in `forecast.json` of the predictors that know nothing of motion."""


def count_name(labels_per_class: int) -> str:
    """Writes a label count for reading: 0 is all training clips."""
    return "all" if labels_per_class == 0 else str(labels_per_class)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Accuracy (0..1) of one classifier trained on one sampling of the labels."""

    model: str
    labels_per_class: int
    sampling: int
    accuracy: float
    split: int = 0
    """Official split; 0: the parts of the videos' manifest."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Mean accuracy (0..1) over splits and samplings, and its 95% interval. A label count of 0: all training clips."""

    model: str
    labels_per_class: int
    mean: float
    low: float
    high: float
    num_samplings: int
    num_splits: int = 1
    over: str = "samplings"
    """Population of the interval: samplings of the labels, or official splits."""

    @property
    def has_interval(self) -> bool:
        """True if there is more than one value; the bounds of a single one are infinite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Mean of (better - worse) over the same splits and samplings, accuracy, and its 95% interval."""

    worse: str
    better: str
    labels_per_class: int
    difference: float
    low: float
    high: float
    num_samplings: int
    num_splits: int = 1
    over: str = "samplings"
    p_holm: float | None = None
    """p value among all that one model is compared with at this label count; None where it was not measured."""

    @property
    def has_interval(self) -> bool:
        """True if there is more than one value; the bounds of a single one are infinite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def verdict(self) -> str:
        """`holds` if the interval is above zero, `reversed` if it is below, else `unclear`."""
        return "holds" if self.low > 0 else "reversed" if self.high < 0 else "unclear"


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The difference of two models with the fewest labels minus that with the most, in accuracy."""

    worse: str
    better: str
    fewest: int
    most: int
    change: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`holds` if the interval is above zero, `reversed` if it is below, else `unclear`."""
        return "holds" if self.low > 0 else "reversed" if self.high < 0 else "unclear"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The results of one evaluation, a `scores.json`."""

    name: str
    class_names: tuple[str, ...]
    num_test_clips: int
    chance: float
    cells: tuple[tuple[str, int], ...]
    """(model, label count) of all that was trained, judged or not; models in the order of the file."""
    samplings: tuple[Sampling, ...]
    summary: tuple[Score, ...]
    paired: tuple[Pair, ...]
    confusion: dict[str, tuple[tuple[float, ...], ...]]
    dataset: str | None = None
    """UCF-101 or HMDB-51; None: not by official splits."""
    num_clips: int = 0
    """Clips of the data set that were there, of `num_official_clips`."""
    num_official_clips: int = 0
    coverage: tuple[Coverage, ...] = ()
    gains: tuple[Gain, ...] = ()
    weights: dict[str, tuple[float, ...]] | None = None
    """Weight of the first of two fused streams in each split, by rule; None if nothing was fused."""

    @property
    def covered(self) -> str:
        """Sentence below every table that counts the clips that are missing; empty if none is."""
        if all(split.is_whole for split in self.coverage):
            return ""
        said = (
            f"split {split.number}: {split.num_train:,} of {split.num_official_train:,} training and "
            f"{split.num_test:,} of {split.num_official_test:,} test clips"
            f"{f' ({split.gap}: it judges nothing)' if split.gap else ''}"
            for split in self.coverage
            if not split.is_whole
        )
        share = number(100 * self.num_clips / self.num_official_clips)
        there = f"{self.num_clips:,} of the {self.num_official_clips:,} clips of {self.dataset} were there ({share}%)"
        return f"{there}: {'; '.join(said)}."

    @property
    def is_judged(self) -> bool:
        """True if there are accuracies; False if every split lacks training or test clips."""
        return bool(self.summary)

    @property
    def num_splits(self) -> int:
        return max((score.num_splits for score in self.summary), default=0)

    @property
    def models(self) -> tuple[str, ...]:
        """Models as the file orders them: first those that are expected to be worst."""
        return tuple(dict.fromkeys(model for model, _ in self.cells))

    @property
    def label_counts(self) -> tuple[int, ...]:
        """Rising, all clips (0) last."""
        return tuple(sorted({count for _, count in self.cells}, key=lambda n: (n == 0, n)))

    def score(self, model: str, labels_per_class: int) -> Score | None:
        """Returns a cell of the table, None if it was not measured."""
        wanted = (model, labels_per_class)
        return next((s for s in self.summary if (s.model, s.labels_per_class) == wanted), None)

    def best(self, labels_per_class: int) -> Score | None:
        """Returns the highest mean at a label count, the first of equals; None if nothing was measured."""
        measured = (score for score in self.summary if score.labels_per_class == labels_per_class)
        return max(measured, key=lambda score: score.mean, default=None)

    def pair(self, worse: str, better: str, labels_per_class: int) -> Pair | None:
        """Returns the difference of two models, None if it was not measured."""
        wanted = (worse, better)
        return next((p for p in self.pairs(labels_per_class) if (p.worse, p.better) == wanted), None)

    def pairs(self, labels_per_class: int) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.paired if pair.labels_per_class == labels_per_class)


@dataclass(frozen=True, kw_only=True)
class History:
    """One `history.json`: losses (sum over dimensions, mean over sequences and frames) by optimiser step."""

    name: str
    train: tuple[dict[str, float], ...]
    validation: tuple[dict[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """One `forecast.json`: error of each predictor at each frame ahead."""

    name: str
    unit: str
    num_windows: int
    num_dims: int
    frames_ahead: tuple[int, ...]
    predictors: dict[str, tuple[float, ...]]
    means: dict[str, float]
    reconstruction: dict[str, float]

    @property
    def names(self) -> tuple[str, ...]:
        """Models, those that only reconstruct after those that predict, then the baselines."""
        known = dict.fromkeys([*self.predictors, *self.reconstruction])
        return tuple(sorted(known, key=lambda name: name in BASELINES))


@dataclass(frozen=True, kw_only=True)
class PixelScore:
    """A row of `pixel_scores.json`; None: not measured."""

    model: str
    cross_entropy: float | None = None
    squared_error: float | None = None
    reconstruction_cross_entropy: float | None = None
    reconstruction_squared_error: float | None = None
    teacher_forced_cross_entropy: float | None = None
    teacher_forced_squared_error: float | None = None
    mse: float | None = None
    ssim: float | None = None
    seconds: float | None = None
    num_sequences_seen: int | None = None


@dataclass(frozen=True, kw_only=True)
class PixelScores:
    """One `pixel_scores.json`: one protocol, one unit."""

    name: str
    protocol: str
    unit: str
    rows: tuple[PixelScore, ...]
    baselines: tuple[PixelScore, ...]
    num_test_sequences: int | None = None

    @property
    def in_nats(self) -> bool:
        return self.unit.startswith("nats")

    def value(self, row: PixelScore) -> float | None:
        """Returns the figure that `unit` names, lower is better; None if it was not measured."""
        if self.in_nats:
            return row.cross_entropy
        return row.squared_error if row.squared_error is not None else row.mse

    def reconstruction(self, row: PixelScore) -> float | None:
        """Returns the error of the reconstructed input, in the same unit."""
        return row.reconstruction_cross_entropy if self.in_nats else row.reconstruction_squared_error

    def teacher_forced(self, row: PixelScore) -> float | None:
        """Returns the error of each frame given the true ones before it: another protocol, never beside `value`."""
        return row.teacher_forced_cross_entropy if self.in_nats else row.teacher_forced_squared_error

    @property
    def best(self) -> PixelScore | None:
        """The model with the lowest value; None where nothing was measured."""
        measured = [(value, i) for i, row in enumerate(self.rows) if (value := self.value(row)) is not None]
        return self.rows[min(measured)[1]] if measured else None


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture of a gallery; `data_uri` is None where the file is too large for the page."""

    title: str
    caption: str
    kind: str
    uri: str
    data_uri: str | None


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The rows of one `ledger.parquet` (`decoded`) or `index.parquet` (promises only)."""

    name: str
    decoded: bool
    records: tuple[VideoRecord, ...]

    def count(self, verdict: str) -> int:
        return sum(record.verdict == verdict for record in self.records)

    def frames(self, kind: str) -> int:
        """Sums `frames_<kind>` (expected, decoded, dropped or missing) over the videos whose frames were counted."""
        return sum(getattr(record, f"frames_{kind}") for record in self.records if record.frames_decoded is not None)

    @property
    def frames_promised(self) -> int:
        """Frames that the videos say they hold, counted or not."""
        return sum(record.frames_expected for record in self.records)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """One `selection.json`: what was chosen on validation clips for an arm."""

    arm: str
    choices: tuple[dict[str, Any], ...]
    """Split, labels_per_class, num_validation_clips, chosen (settings), accuracy."""


@dataclass(frozen=True, kw_only=True)
class SuspectPair:
    """A test clip and the pretraining video that is most like it."""

    test: str
    pretraining: str
    similarity: float


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """One `duplicates.json`: test clips that may be among the videos that were pretrained on."""

    sentence: str
    num_suspects: int
    pairs: tuple[SuspectPair, ...]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that a report shows, in the order of the plan."""

    view: RunView
    scores: tuple[Scores, ...]
    histories: tuple[History, ...]
    forecasts: tuple[Forecast, ...]
    pixel_scores: tuple[PixelScores, ...]
    galleries: tuple[tuple[Picture, ...], ...]
    ledgers: tuple[Ledger, ...]
    choices: tuple[Choices, ...] = ()
    duplicates: tuple[Duplicates, ...] = ()
    percepts: tuple[NodeView, ...]
    """The nodes that wrote a ledger."""

    @property
    def videos(self) -> Ledger:
        """Every video of the run once, as the first ledger (else index) that names it has it."""
        rows = [record for ledger in self.ledgers for record in ledger.records]
        unique = {record.uri: record for record in reversed(rows)}
        records = tuple(reversed(unique.values()))
        return Ledger(name="all", decoded=any(ledger.decoded for ledger in self.ledgers), records=records)

    @property
    def bad_videos(self) -> tuple[VideoRecord, ...]:
        """Every video that is partial or rejected in some ledger or index, once a verdict and reason."""
        bad = [record for ledger in self.ledgers for record in ledger.records if record.verdict != "ok"]
        return tuple({(record.uri, record.verdict, record.reason): record for record in bad}.values())
