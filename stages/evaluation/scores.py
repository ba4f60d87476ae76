"""Tables of predictions: accuracies, intervals, paired differences of arms, confusion matrices.

What is repeated is what an interval is taken over. With several official splits these are the splits: the samplings
within one are averaged first, because they share their test clips, and two or three splits do not become thirty
independent values by drawing ten samplings in each. With one split they are its samplings.

Shapes: G samplings, N clips, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError
from stages.datasets.labelled import ALL_CLIPS
from stages.evaluation.metrics import Interval, accuracy, holm, t_interval
from stages.evaluation.score_table import (
    GainChange,
    MeanAccuracy,
    PairedDifference,
    SamplingAccuracy,
    ScoreTable,
    SplitSize,
)

Run = tuple[int, int]
"""(split, sampling): the key by which values of two arms are paired."""
Pairs = Sequence[tuple[str, str]]
"""(worse, better): arms to compare."""


@dataclass(frozen=True)
class Predictions:
    """The predictions of the classifiers of one arm, label count and split for every test clip of the split."""

    arm: str
    class_names: tuple[str, ...]
    labels_per_class: int
    split: int
    samplings: tuple[int, ...]
    clips: tuple[tuple[str, ...], ...]
    """sha256 of the clips that each sampling's classifier learned from."""
    predicted_GN: npt.NDArray[np.int16]
    """The class of the highest probability."""
    probability_GN: npt.NDArray[np.float32]
    """The probability of the predicted class."""
    probabilities_GNC: npt.NDArray[np.float32] | None
    """The probability of every class, where it is kept."""
    num_padded: int
    """Number of test clips without a whole window."""


@dataclass(frozen=True)
class NotEvaluable:
    """Classifiers of a split of which no test clip is there."""

    arm: str
    class_names: tuple[str, ...]
    labels_per_class: int
    split: int


@dataclass(frozen=True)
class Cell:
    """One place of the table: an arm at a label count."""

    confusion_CC: npt.NDArray[np.int64]
    """Counts by true class (rows) and predicted class (columns), summed over splits and samplings."""
    accuracy: dict[Run, float] = field(default_factory=dict)
    """Share of test clips that are classified correctly."""
    clips: dict[Run, tuple[str, ...]] = field(default_factory=dict)
    """sha256 of the clips that the classifier learned from."""
    overlap: dict[int, float] = field(default_factory=dict)
    """Split -> test clips per clip learned from; all clips only."""

    def interval(self, values: Mapping[Run, float]) -> tuple[Interval, str]:
        """Computes the interval of `values`, one a run of the cell, and its population: "splits" or "samplings"."""
        by_split: dict[int, list[float]] = {}
        for (split, _), value in sorted(values.items()):
            by_split.setdefault(split, []).append(value)
        if len(by_split) == 1:
            return t_interval(next(iter(by_split.values()))), "samplings"
        overlap = float(np.mean(list(self.overlap.values()))) if self.overlap else 0.0
        return t_interval([float(np.mean(of_split)) for of_split in by_split.values()], overlap=overlap), "splits"


def by_count(labels_per_class: int) -> tuple[bool, int]:
    """Sorts label counts: rising, all clips last."""
    return labels_per_class == ALL_CLIPS, labels_per_class


def scores_of(
    predictions: Sequence[Predictions | NotEvaluable], labels: Mapping[int, Sequence[str]], *, pairs: Pairs = ()
) -> ScoreTable:
    """Builds the table of all arms. `predictions`: in the order of the arms; `labels`: split -> test clips' classes.

    Accuracies are fractions; an interval over a single value has bounds of None. `pairs` empty: each arm and the next.
    `cells` names every arm and label count that has classifiers: those that no split could evaluate are only there.

    Raises:
        ConfigError: arms of other classes or splits, one sampling twice, other labelled clips in the same sampling, or
          a pair that names an arm that is not there.
    """
    class_names = predictions[0].class_names
    index = {name: number for number, name in enumerate(class_names)}
    if any(one.class_names != class_names for one in predictions):
        other = next(one.arm for one in predictions if one.class_names != class_names)
        raise ConfigError(f"arms {predictions[0].arm!r} and {other!r} know different classes; finetune them alike")
    truth = {split: np.array([index[label] for label in named]) for split, named in labels.items()}
    cells = _cells([one for one in predictions if isinstance(one, Predictions)], truth, num_classes=len(class_names))
    arms = list(dict.fromkeys(one.arm for one in predictions))
    trained = {(one.arm, one.labels_per_class) for one in predictions}
    counts = sorted({count for _, count in cells}, key=by_count)
    unknown = {arm for pair in pairs for arm in pair} - set(arms)
    if unknown:
        raise ConfigError(f"pairs names {min(unknown)!r}; the arms here are {', '.join(arms)}")
    compared = list(pairs) or list(pairwise(arms))
    return ScoreTable(
        class_names=class_names,
        num_test_clips=sum(len(named) for named in labels.values()),
        splits=tuple(SplitSize(number=split, num_test_clips=len(named)) for split, named in sorted(labels.items())),
        chance=1.0 / len(class_names),
        cells=tuple(sorted(trained, key=lambda cell: (arms.index(cell[0]), by_count(cell[1])))),
        samplings=tuple(
            SamplingAccuracy(model=arm, labels_per_class=count, split=split, sampling=sampling, accuracy=value)
            for (arm, count), cell in cells.items()
            for (split, sampling), value in sorted(cell.accuracy.items())
        ),
        summary=tuple(
            MeanAccuracy(model=arm, labels_per_class=count, **_figures("mean", cell, cell.accuracy))
            for (arm, count), cell in cells.items()
        ),
        paired=_with_holm(
            [
                _paired(worse, better, count, cells[worse, count], cells[better, count])
                for worse, better in compared
                for count in counts
                if (worse, count) in cells and (better, count) in cells
            ]
        ),
        gains=tuple(gain for pair in compared if (gain := _gain_change(pair, counts, cells)) is not None),
        confusion={
            arm: _rows(cells[arm, max((c for a, c in cells if a == arm), key=by_count)].confusion_CC)
            for arm in dict.fromkeys(arm for arm, _ in cells)
        },
    )


def _rows(confusion_CC: npt.NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in confusion_CC.tolist())


def _cells(
    predictions: Sequence[Predictions], truth: Mapping[int, npt.NDArray[np.int64]], *, num_classes: int
) -> dict[tuple[str, int], Cell]:
    """Builds the cells by arm, in the order given, and label count, rising."""
    gathered: dict[tuple[str, int], Cell] = {}
    for prediction in predictions:
        empty = Cell(np.zeros((num_classes, num_classes), np.int64))
        cell = gathered.setdefault((prediction.arm, prediction.labels_per_class), empty)
        truth_N = truth[prediction.split]
        if prediction.labels_per_class == ALL_CLIPS:
            cell.overlap[prediction.split] = len(truth_N) / len(prediction.clips[0])
        for group, sampling in enumerate(prediction.samplings):
            run = (prediction.split, sampling)
            if run in cell.accuracy:
                raise ConfigError(f"two arms are called {prediction.arm!r}; give each a name of its own")
            predicted_N = prediction.predicted_GN[group]
            cell.accuracy[run] = accuracy(predicted_N, truth_N)
            cell.clips[run] = prediction.clips[group]
            np.add.at(cell.confusion_CC, (truth_N, predicted_N), 1)
    arms = list(dict.fromkeys(arm for arm, _ in gathered))
    return {key: gathered[key] for key in sorted(gathered, key=lambda key: (arms.index(key[0]), by_count(key[1])))}


def _paired(worse: str, better: str, count: int, worse_cell: Cell, better_cell: Cell) -> PairedDifference:
    if worse_cell.clips != better_cell.clips:
        raise ConfigError(
            f"arms {worse!r} and {better!r} learned from different clips at {count or 'all'} labels a class, so that "
            "their difference is not a paired one; finetune them with the same part, splits, seed and num_samplings"
        )
    differences = _differences(worse_cell, better_cell)
    interval, _ = better_cell.interval(differences)
    figures = _figures("difference", better_cell, differences)
    return PairedDifference(worse=worse, better=better, labels_per_class=count, **figures, p=interval.p)


def _differences(worse: Cell, better: Cell) -> dict[Run, float]:
    return {run: better.accuracy[run] - worse.accuracy[run] for run in worse.accuracy}


def _with_holm(pairs: list[PairedDifference]) -> tuple[PairedDifference, ...]:
    """Adjusts p values: a family is what one arm is compared with at one label count."""
    families: dict[tuple[str, int], list[int]] = {}
    for position, pair in enumerate(pairs):
        families.setdefault((pair.worse, pair.labels_per_class), []).append(position)
    adjusted = list(pairs)
    for positions in families.values():
        p_values = [p for position in positions if (p := pairs[position].p) is not None]
        for position, p_holm in zip(positions, holm(p_values), strict=True):
            adjusted[position] = replace(pairs[position], p_holm=p_holm)
    return tuple(adjusted)


def _gain_change(
    pair: tuple[str, str], counts: Sequence[int], cells: Mapping[tuple[str, int], Cell]
) -> GainChange | None:
    """Computes the growth of a pair's difference from the most labels to the fewest; None with fewer than two counts.

    Over splits; with one split over samplings, at the most labels that have the same samplings as the fewest.
    """
    worse, better = pair
    differences = {
        count: _differences(cells[worse, count], cells[better, count])
        for count in counts
        if (worse, count) in cells and (better, count) in cells
    }
    means = {count: _split_means(values) for count, values in differences.items()}
    if any(len(values) == 1 for values in means.values()):
        first = next(iter(differences.values()))
        means = {count: values for count, values in differences.items() if values.keys() == first.keys()}
    if len(means) < 2:
        return None
    fewest, most = next(iter(means)), list(means)[-1]
    change = {run: value - means[most][run] for run, value in means[fewest].items()}
    interval, _ = cells[better, fewest].interval(change)
    figures = _figures("change", cells[better, fewest], change)
    return GainChange(worse=worse, better=better, fewest=fewest, most=most, **figures, p=interval.p)


def _split_means(values: Mapping[Run, float]) -> dict[Run, float]:
    """Averages the values over each split's samplings, as sampling 0."""
    splits = sorted({split for split, _ in values})
    return {(split, 0): float(np.mean([v for (s, _), v in values.items() if s == split])) for split in splits}


def _figures(name: str, cell: Cell, values: Mapping[Run, float]) -> dict[str, Any]:
    """Returns a mean under `name`, its interval and the population of that."""
    interval, over = cell.interval(values)
    num_splits = len({split for split, _ in values})
    counted = {"num_samplings": len(values) // num_splits, "num_splits": num_splits, "over": over}
    return {name: interval.mean, "low": interval.low, "high": interval.high, **counted}
