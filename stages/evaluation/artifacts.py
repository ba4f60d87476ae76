"""Artifacts that hold the results of an evaluation, and the content of their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pipeline.core.records import read_record, write_record
from pipeline.core.result_metrics import ResultMetrics, columns, finite
from pipeline.core.stage import Artifact
from stages.evaluation.score_table import ScoreTable

SCORES_FILE = "scores.json"
FORECAST_FILE = "forecast.json"
PIXEL_SCORES_FILE = "pixel_scores.json"
DUPLICATES_FILE = "duplicates.json"
COPY_LAST, MEAN_FRAME = "copy last frame", "mean frame"
BASELINES = (COPY_LAST, MEAN_FRAME)
"""Names in `forecast.json` of the predictors that know nothing of motion."""


R = TypeVar("R")


class _JsonArtifact(Artifact, Generic[R]):
    """An artifact of one JSON file that holds a record."""

    file: ClassVar[str]
    record: ClassVar[type[Any]]

    def read(self) -> R:
        """Reads the file. Raises CorruptArtifact."""
        record: R = read_record(self.path(self.file), self.record)
        return record

    def write(self, record: R) -> None:
        """Writes the file, atomically."""
        write_record(self.path(self.file), record)


@dataclass(frozen=True)
class Scores(Artifact):
    """Accuracies, intervals, paired differences and confusion matrices of classifiers on test clips."""

    def read(self) -> ScoreTable:
        """Reads `scores.json`. Raises CorruptArtifact."""
        return ScoreTable.read(self.path(SCORES_FILE))

    def write(self, table: ScoreTable) -> None:
        """Writes `scores.json`, atomically."""
        table.write(self.path(SCORES_FILE))

    def metrics(self, facts: Mapping[str, int | float | str]) -> ResultMetrics:
        """Reads accuracies and paired differences with the ends of their intervals."""
        return self.read().metrics()


@dataclass(frozen=True, kw_only=True)
class ErrorRatio:
    """The mean error of a model over that of a baseline on the same windows."""

    model: str
    baseline: str
    ratio: float
    low: float | None
    """The lower end of the 95% interval over groups of videos; None: one group has all of the baseline's error."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class ForecastErrors:
    """The content of `forecast.json`: the error of each predictor at each frame ahead, summed over dimensions."""

    unit: str
    num_windows: int
    num_dims: int
    frames_ahead: tuple[int, ...]
    predictors: dict[str, tuple[float, ...]]
    means: dict[str, float]
    """Predictor -> mean over the frames ahead."""
    reconstruction: dict[str, float]
    """Predictor -> mean error of the frames that were read, reconstructed."""
    num_videos: int = 0
    num_groups: int = 0
    """Groups of videos (`VideoRecord.group`), over which intervals are; a video without one is a group."""
    ratios: tuple[ErrorRatio, ...] = ()
    """Every model by every baseline whose error is above 0."""

    def ratio(self, model: str, baseline: str) -> ErrorRatio | None:
        """Returns the ratio of two errors; None where the baseline has none."""
        return next((each for each in self.ratios if (each.model, each.baseline) == (model, baseline)), None)

    @property
    def names(self) -> tuple[str, ...]:
        """Models, those that only reconstruct after those that predict, then the baselines."""
        known = dict.fromkeys([*self.predictors, *self.reconstruction])
        return tuple(sorted(known, key=lambda name: name in BASELINES))

    def metrics(self) -> ResultMetrics:
        """Returns mean errors, their ratio to that of copying the last frame, and curves of error by frames ahead."""
        copied = self.means.get(COPY_LAST)
        models = [name for name in self.means if name not in BASELINES]
        values: dict[str, float | None] = {f"forecast_error/{name}": mean for name, mean in self.means.items()}
        values |= {f"reconstruction_error/{name}": mean for name, mean in self.reconstruction.items()}
        if copied:
            values |= {f"forecast_error_over_copying/{name}": self.means[name] / copied for name in models}
        for name in models:
            if over := self.ratio(name, COPY_LAST):
                values |= {f"forecast_error_over_copying_{end}/{name}": getattr(over, end) for end in ("low", "high")}
        curves = {
            f"forecast_error_by_frames_ahead/{name}": dict(zip(self.frames_ahead, errors, strict=True))
            for name, errors in self.predictors.items()
        }
        rows: list[dict[str, str | float | None]] = [
            {"predictor": name, "frames_ahead": ahead, "error": error}
            for name, errors in self.predictors.items()
            for ahead, error in zip(self.frames_ahead, errors, strict=True)
        ]
        return ResultMetrics(values=finite(values), curves=curves, table=columns(rows))


@dataclass(frozen=True)
class Forecast(_JsonArtifact[ForecastErrors]):
    """`forecast.json`: errors of each predictor at each frame ahead, their means, and those of reconstruction."""

    file, record = FORECAST_FILE, ForecastErrors

    def metrics(self, facts: Mapping[str, int | float | str]) -> ResultMetrics:
        """Reads errors, their ratio to copying, and their curves."""
        return self.read().metrics()


@dataclass(frozen=True, kw_only=True)
class PixelScoreRow:
    """A row of `pixel_scores.json`; None: not measured."""

    model: str
    cross_entropy: float | None = None
    cross_entropy_low: float | None = None
    cross_entropy_high: float | None = None
    cross_entropy_by_frame: tuple[float, ...] | None = None
    squared_error: float | None = None
    squared_error_low: float | None = None
    squared_error_high: float | None = None
    squared_error_by_frame: tuple[float, ...] | None = None
    reconstruction_cross_entropy: float | None = None
    reconstruction_squared_error: float | None = None
    teacher_forced_cross_entropy: float | None = None
    teacher_forced_squared_error: float | None = None
    mse: float | None = None
    ssim: float | None = None
    softening: float | None = None
    """The share by which the copied pixels of a baseline were moved towards a half."""
    num_parameters: int | None = None
    seconds: float | None = None
    """Time that the model's training took."""
    num_sequences_seen: int | None = None


@dataclass(frozen=True, kw_only=True)
class PixelScoreTable:
    """The content of `pixel_scores.json`: one protocol, one unit; means over sequences and frames."""

    protocol: str
    unit: str
    rows: tuple[PixelScoreRow, ...]
    baselines: tuple[PixelScoreRow, ...] = ()
    num_test_sequences: int | None = None
    num_frames_in: int | None = None
    num_frames_out: int | None = None
    test_set_sha256: str | None = None
    test_set_is_recorded: bool | None = None

    @property
    def in_nats(self) -> bool:
        """True for cross-entropies, false for squared errors."""
        return self.unit.startswith("nats")

    def value(self, row: PixelScoreRow) -> float | None:
        """Returns the figure that `unit` names, lower is better; None where it was not measured."""
        if self.in_nats:
            return row.cross_entropy
        return row.squared_error if row.squared_error is not None else row.mse

    def interval(self, row: PixelScoreRow) -> tuple[float, float] | None:
        """Returns the ends of the 95% interval of `value` over test sequences; None where it was not measured."""
        low, high = row.squared_error_low, row.squared_error_high
        if self.in_nats:
            low, high = row.cross_entropy_low, row.cross_entropy_high
        return None if low is None or high is None else (low, high)

    def reconstruction(self, row: PixelScoreRow) -> float | None:
        """Returns the error of the reconstructed input, in `unit`; None where it was not measured."""
        return row.reconstruction_cross_entropy if self.in_nats else row.reconstruction_squared_error

    def teacher_forced(self, row: PixelScoreRow) -> float | None:
        """Returns the error of each frame given the true ones before it: another protocol, never beside `value`."""
        return row.teacher_forced_cross_entropy if self.in_nats else row.teacher_forced_squared_error

    @property
    def best(self) -> PixelScoreRow | None:
        """The model with the lowest value; None where nothing was measured."""
        measured = [(value, i) for i, row in enumerate(self.rows) if (value := self.value(row)) is not None]
        return self.rows[min(measured)[1]] if measured else None

    def metrics(self) -> ResultMetrics:
        """Returns nats and squared errors of every model and baseline with their intervals, MSE, SSIM and curves."""
        rows = (*self.rows, *self.baselines)
        values: dict[str, float | None] = {}
        for row in rows:
            values |= {
                f"nats/{row.model}": row.cross_entropy,
                f"nats_low/{row.model}": row.cross_entropy_low,
                f"nats_high/{row.model}": row.cross_entropy_high,
                f"nats_teacher_forced/{row.model}": row.teacher_forced_cross_entropy,
                f"nats_of_reconstruction/{row.model}": row.reconstruction_cross_entropy,
                f"squared_error/{row.model}": row.squared_error,
                f"squared_error_low/{row.model}": row.squared_error_low,
                f"squared_error_high/{row.model}": row.squared_error_high,
                f"mse/{row.model}": row.mse,
                f"ssim/{row.model}": row.ssim,
            }
        curves = {
            f"{name}_by_frames_ahead/{row.model}": dict(enumerate(errors, start=1))
            for row in rows
            for name, errors in (
                ("nats", row.cross_entropy_by_frame),
                ("squared_error", row.squared_error_by_frame),
            )
            if errors is not None
        }
        names = (
            *("model", "cross_entropy", "cross_entropy_low", "cross_entropy_high", "squared_error"),
            *("squared_error_low", "squared_error_high", "mse", "ssim", "num_parameters", "seconds"),
        )
        table = columns([{name: getattr(row, name) for name in names} for row in rows])
        return ResultMetrics(values=finite(values), curves=curves, table=table)


@dataclass(frozen=True)
class PixelScores(_JsonArtifact[PixelScoreTable]):
    """`pixel_scores.json`: protocol, unit, a row a model, a row a baseline; means over sequences and frames."""

    file, record = PIXEL_SCORES_FILE, PixelScoreTable

    def metrics(self, facts: Mapping[str, int | float | str]) -> ResultMetrics:
        """Reads nats or squared errors, MSE and SSIM of every model and baseline."""
        return self.read().metrics()


@dataclass(frozen=True, kw_only=True)
class SuspectedClip:
    """A test clip and the pretraining video that is most like it."""

    test: str
    pretraining: str
    similarity: float
    is_same_file: bool = False


@dataclass(frozen=True, kw_only=True)
class DuplicateReport:
    """The content of `duplicates.json`: test clips that may be among the pretraining videos."""

    sentence: str
    suspects: tuple[SuspectedClip, ...]
    """The most similar first."""
    num_test_clips: int = 0
    num_pretraining_videos: int = 0
    num_strangers: int = 0
    """Training clips of other classes and footage, by which the threshold was set."""
    threshold: float | None = None
    false_alarms: float | None = None
    stranger_quantiles: dict[str, float] | None = None
    pretraining_quantiles: dict[str, float] | None = None
    recall_of_other_frames: float | None = None
    """Share of test clips whose other frames the check finds."""


@dataclass(frozen=True)
class NearDuplicates(_JsonArtifact[DuplicateReport]):
    """`duplicates.json`: the threshold, what it rests on, and the suspects, the most similar first."""

    file, record = DUPLICATES_FILE, DuplicateReport
