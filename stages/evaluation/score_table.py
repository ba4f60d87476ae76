"""Accuracies of classifiers as a table, with intervals and paired differences: the content of `scores.json`.

Accuracies are fractions, 0 to 1. A label count of 0 stands for all training clips.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

from pipeline.core.files import write_json
from pipeline.core.records import read_record
from pipeline.core.result_metrics import ResultMetrics, columns, finite
from stages.datasets.splits import Coverage

INTERVALS: Final = ("summary", "paired", "gains", "order")
"""Fields whose rows have bounds."""
Verdict = Literal["holds", "reversed", "unclear"]


@dataclass(frozen=True, kw_only=True)
class SamplingAccuracy:
    """The accuracy of one classifier: of one sampling of the labels, in one split."""

    model: str
    labels_per_class: int
    sampling: int
    accuracy: float
    split: int = 0
    """The official split; 0: the parts of the videos' manifest."""
    encoder: str = ""
    """Key of the pretrained encoder that the classifier started from; empty: none."""


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """A mean's 95% interval, and the values that it is taken over."""

    low: float
    high: float
    num_samplings: int = 1
    num_splits: int = 1
    num_encoders: int = 0
    """The number of pretrained encoders behind it, each from a seed of its own; 0: nothing was pretrained."""
    over: str = "samplings"
    """The population of the interval: samplings of the labels or official splits, and encoders if there are several."""

    @property
    def population(self) -> str:
        """The population in words, such as "3 encoders and 10 samplings", or "10 samplings, for this encoder"."""
        numbers = {"encoders": self.num_encoders, "samplings": self.num_samplings, "splits": self.num_splits}
        parts = [f"{numbers[name]} {name if numbers[name] != 1 else name[:-1]}" for name in self.over.split(" and ")]
        return " and ".join(parts) + self.limits

    @property
    def limits(self) -> str:
        """The words that keep a sentence to the one encoder that was pretrained; empty where it need not be."""
        return ", for this encoder" if self.num_encoders == 1 else ""

    @property
    def has_interval(self) -> bool:
        """True if there is more than one value; the bounds of a single one are infinite."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def verdict(self) -> Verdict:
        """`holds` where the interval is above zero, `reversed` where it is below, else `unclear`."""
        return "holds" if self.low > 0 else "reversed" if self.high < 0 else "unclear"


@dataclass(frozen=True, kw_only=True)
class MeanAccuracy(Bounded):
    """The mean accuracy of a model at a label count, over splits and samplings."""

    model: str
    labels_per_class: int
    mean: float


@dataclass(frozen=True, kw_only=True)
class PairedDifference(Bounded):
    """The mean of (better - worse) over the same splits and samplings, accuracy."""

    worse: str
    better: str
    labels_per_class: int
    difference: float
    p: float | None = None
    """Two-sided p value of the hypothesis that there is no difference."""
    p_holm: float | None = None
    """The p value adjusted for all that one model is compared with at this label count; None where not measured."""
    groups_low: float | None = None
    """The lower end of the 95% interval over resampled groups of test clips; None where not measured."""
    groups_high: float | None = None
    """The upper end of that interval."""
    num_groups: int = 0
    """The number of groups of test clips that were resampled."""


@dataclass(frozen=True, kw_only=True)
class GainChange(Bounded):
    """The growth of a difference from the most labels to the fewest, accuracy."""

    worse: str
    better: str
    fewest: int
    most: int
    change: float
    p: float | None = None
    """Two-sided p value of the hypothesis that the difference stays the same."""


@dataclass(frozen=True, kw_only=True)
class SplitSize:
    """The number of test clips of a split."""

    number: int
    num_test_clips: int


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """The content of `scores.json`: models in the order in which they are compared, the worst first."""

    class_names: tuple[str, ...]
    num_test_clips: int
    chance: float
    cells: tuple[tuple[str, int], ...]
    """(model, label count) of all that was trained, evaluated or not."""
    samplings: tuple[SamplingAccuracy, ...]
    summary: tuple[MeanAccuracy, ...]
    paired: tuple[PairedDifference, ...]
    confusion: dict[str, tuple[tuple[int, ...], ...]]
    """Model -> clips by class (rows) and predicted class (columns), at the most labels, summed over samplings."""
    gains: tuple[GainChange, ...] = ()
    order: tuple[MeanAccuracy, ...] = ()
    """Accuracy between classes and their time reversals, of clips that are taken for either; chance is a half."""
    splits: tuple[SplitSize, ...] = ()
    num_train_clips: int = 0
    """Labelled clips that samplings were drawn from and that any classifier learned from."""
    arrow: bool = False
    """True if every class is there a second time, its clips played backwards: no published figure is of that task."""
    dataset: str | None = None
    """UCF-101 or HMDB-51; None: not by official splits."""
    num_clips: int = 0
    """Clips of the data set that were there, of `num_official_clips`."""
    num_official_clips: int = 0
    coverage: tuple[Coverage, ...] = ()
    weights: dict[str, tuple[float, ...]] | None = None
    """Rule -> weight of the first stream in each split, of fused streams; None: not fused."""

    def to_json(self) -> dict[str, Any]:
        """Returns the content of the file. A single value's interval has bounds of None: JSON has no infinity."""
        content: dict[str, Any] = {"num_classes": len(self.class_names), **asdict(self)}
        content["cells"] = [{"model": model, "labels_per_class": count} for model, count in self.cells]
        content["rows"] = content.pop("samplings")
        for name in INTERVALS:
            for row in content[name]:
                row |= {bound: row[bound] if math.isfinite(row[bound]) else None for bound in ("low", "high")}
        if self.dataset is None:
            for name in ("dataset", "num_clips", "num_official_clips", "coverage"):
                del content[name]
        if self.weights is None:
            del content["weights"]
        return content

    def write(self, uri: str) -> None:
        """Writes the file."""
        write_json(uri, self.to_json())

    @classmethod
    def read(cls, uri: str) -> ScoreTable:
        """Reads the file that `write` wrote. Raises as `pipeline.core.records.read_record`."""
        return read_record(uri, cls, prepare=_prepared)

    @property
    def is_evaluated(self) -> bool:
        """True if there are accuracies: not where every split lacks training or test clips."""
        return bool(self.summary)

    @property
    def num_splits(self) -> int:
        """The most splits that any cell was measured in."""
        return max((score.num_splits for score in self.summary), default=0)

    @property
    def models(self) -> tuple[str, ...]:
        """Models in the order of the cells: first those that are expected to be worst."""
        return tuple(dict.fromkeys(model for model, _ in self.cells))

    @property
    def label_counts(self) -> tuple[int, ...]:
        """Label counts, rising, all clips (0) last."""
        return tuple(sorted({count for _, count in self.cells}, key=lambda count: (count == 0, count)))

    def score(self, model: str, labels_per_class: int) -> MeanAccuracy | None:
        """Returns the cell of the table, None where it was not measured."""
        cell = (model, labels_per_class)
        return next((s for s in self.summary if (s.model, s.labels_per_class) == cell), None)

    def best(self, labels_per_class: int) -> MeanAccuracy | None:
        """Returns the highest mean at a label count, the first of equals; None where nothing was measured."""
        measured = (score for score in self.summary if score.labels_per_class == labels_per_class)
        return max(measured, key=lambda score: score.mean, default=None)

    def pair(self, worse: str, better: str, labels_per_class: int) -> PairedDifference | None:
        """Returns the difference of two models, None where it was not measured."""
        return next((p for p in self.pairs(labels_per_class) if (p.worse, p.better) == (worse, better)), None)

    def pairs(self, labels_per_class: int) -> tuple[PairedDifference, ...]:
        """Returns every difference that was measured at a label count."""
        return tuple(pair for pair in self.paired if pair.labels_per_class == labels_per_class)

    def metrics(self) -> ResultMetrics:
        """Returns accuracies and paired differences with the ends of their intervals, and accuracy by labels."""
        values: dict[str, float] = {}
        curves: dict[str, dict[int, float]] = {}
        rows: list[dict[str, str | float | None]] = []
        for score in self.summary:
            labels = _labels(score.labels_per_class)
            values |= _with_ends("accuracy", f"{score.model}/{labels}", score.mean, score)
            rows.append({"model": score.model, "over": None, "labels": labels, **_row(score.mean, score)})
            if score.labels_per_class:
                curves.setdefault(f"accuracy_by_labels/{score.model}", {})[score.labels_per_class] = score.mean
        for pair in self.paired:
            labels = _labels(pair.labels_per_class)
            values |= _with_ends("difference", f"{pair.better} over {pair.worse}/{labels}", pair.difference, pair)
            rows.append({"model": pair.better, "over": pair.worse, "labels": labels, **_row(pair.difference, pair)})
        for score in self.order:
            values |= _with_ends("order", f"{score.model}/{_labels(score.labels_per_class)}", score.mean, score)
        return ResultMetrics(values=finite(values), curves=curves, table=columns(rows))


def _labels(labels_per_class: int) -> str:
    return "all labels" if labels_per_class == 0 else f"{labels_per_class} labels"


def _with_ends(quantity: str, name: str, mean: float, interval: Bounded) -> dict[str, float]:
    return {
        f"{quantity}/{name}": mean,
        f"{quantity}_low/{name}": interval.low,
        f"{quantity}_high/{name}": interval.high,
    }


def _row(mean: float, interval: Bounded) -> dict[str, float]:
    return {"mean": mean, "low": interval.low, "high": interval.high}


def _prepared(content: Any) -> Any:
    if not content["cells"]:
        raise ValueError("it names no cells")
    return {
        **content,
        "cells": [[cell["model"], cell["labels_per_class"]] for cell in content["cells"]],
        "samplings": content["rows"],
        **{name: [_with_bounds(row) for row in content.get(name, ())] for name in INTERVALS},
    }


def _with_bounds(row: dict[str, Any]) -> dict[str, Any]:
    low, high = row["low"], row["high"]
    return {**row, "low": -math.inf if low is None else low, "high": math.inf if high is None else high}
