"""Tables of predictions: accuracies, intervals, paired differences of arms, confusion matrices.

What is repeated is what an interval is taken over (`stages.evaluation.cells`): samplings or splits, and encoders where
an arm has several.

Shapes: G samplings, N clips, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError
from stages.datasets.labelled import ALL_CLIPS
from stages.evaluation.cells import Cell, Run, differences, group_bootstrap, split_means
from stages.evaluation.intervals import holm
from stages.evaluation.score_table import (
    GainChange,
    MeanAccuracy,
    PairedDifference,
    SamplingAccuracy,
    ScoreTable,
    SplitSize,
)

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
    encoder: str = ""
    """Key of the pretrained encoder that the classifiers started from; empty: none."""


@dataclass(frozen=True)
class NotEvaluable:
    """Classifiers of a split of which no test clip is there."""

    arm: str
    class_names: tuple[str, ...]
    labels_per_class: int
    split: int


def by_count(labels_per_class: int) -> tuple[bool, int]:
    """Sorts label counts: rising, all clips last."""
    return labels_per_class == ALL_CLIPS, labels_per_class


def scores_of(
    predictions: Sequence[Predictions | NotEvaluable],
    labels: Mapping[int, Sequence[str]],
    *,
    pairs: Pairs = (),
    groups: Mapping[int, Sequence[str]] | None = None,
    reversals: Pairs = (),
) -> ScoreTable:
    """Builds the table of all arms. `predictions`: in the order of the arms; `labels`: split -> test clips' classes.

    groups: split -> test clips' groups, which differences are bootstrapped over; None: they are not.
    reversals: classes of the same frames in reverse order, between which accuracy is measured, too.
    Accuracies are fractions; an interval over a single value has bounds of None. `pairs` empty: each arm and the next.
    `cells` names every arm and label count that has classifiers: those that no split could evaluate are only there.

    Raises:
        ConfigError: arms of other classes or splits, one sampling of an encoder twice, other labelled clips in the same
          sampling, arms of other numbers of encoders, or a pair that names an arm or class that is not there.
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
    unknown = {name for pair in reversals for name in pair} - set(class_names)
    if unknown:
        raise ConfigError(f"reversals names {min(unknown)!r}; the classes here are {', '.join(class_names)}")
    compared = list(pairs) or list(pairwise(arms))
    order = _order(cells, [(index[name], index[other]) for name, other in reversals])
    return ScoreTable(
        class_names=class_names,
        num_test_clips=sum(len(named) for named in labels.values()),
        splits=tuple(SplitSize(number=split, num_test_clips=len(named)) for split, named in sorted(labels.items())),
        num_train_clips=len({clip for cell in cells.values() for clips in cell.clips.values() for clip in clips}),
        chance=1.0 / len(class_names),
        cells=tuple(sorted(trained, key=lambda cell: (arms.index(cell[0]), by_count(cell[1])))),
        samplings=tuple(
            SamplingAccuracy(
                model=arm,
                labels_per_class=count,
                split=split,
                sampling=sampling,
                encoder=list(cell.encoders)[encoder],
                accuracy=value,
            )
            for (arm, count), cell in cells.items()
            for (split, sampling, encoder), value in sorted(cell.accuracy.items())
        ),
        summary=tuple(
            MeanAccuracy(
                model=arm,
                labels_per_class=count,
                **_figures("mean", cell, cell.accuracy),
                num_encoders=cell.num_encoders,
            )
            for (arm, count), cell in cells.items()
        ),
        paired=_with_holm(
            [
                _paired(worse, better, count, cells[worse, count], cells[better, count], groups)
                for worse, better in compared
                for count in counts
                if (worse, count) in cells and (better, count) in cells
            ]
        ),
        order=order,
        gains=tuple(gain for pair in compared if (gain := _gain_change(pair, counts, cells)) is not None),
        confusion={
            arm: _rows(cells[arm, max((c for a, c in cells if a == arm), key=by_count)].total_confusion())
            for arm in dict.fromkeys(arm for arm, _ in cells)
        },
    )


def _order(cells: Mapping[tuple[str, int], Cell], reversals: Sequence[tuple[int, int]]) -> tuple[MeanAccuracy, ...]:
    """Computes how often clips that are taken for their class or its reversal are taken for their class.

    A run that takes no clip for either counts as chance, a half.
    """
    if not reversals:
        return ()
    rows = []
    for (arm, count), cell in cells.items():
        accuracies: dict[Run, float] = {}
        for run, confusion_CC in cell.confusions.items():
            right = sum(confusion_CC[c, c] + confusion_CC[r, r] for c, r in reversals)
            wrong = sum(confusion_CC[c, r] + confusion_CC[r, c] for c, r in reversals)
            accuracies[run] = float(right / (right + wrong)) if right + wrong else 0.5
        figures = _figures("mean", cell, accuracies)
        rows.append(MeanAccuracy(model=arm, labels_per_class=count, **figures, num_encoders=cell.num_encoders))
    return tuple(rows)


def _rows(confusion_CC: npt.NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row) for row in confusion_CC.tolist())


def _cells(
    predictions: Sequence[Predictions], truth: Mapping[int, npt.NDArray[np.int64]], *, num_classes: int
) -> dict[tuple[str, int], Cell]:
    """Builds the cells by arm, in the order given, and label count, rising."""
    gathered: dict[tuple[str, int], Cell] = {}
    for prediction in predictions:
        cell = gathered.setdefault((prediction.arm, prediction.labels_per_class), Cell())
        truth_N = truth[prediction.split]
        if prediction.labels_per_class == ALL_CLIPS:
            cell.overlap[prediction.split] = len(truth_N) / len(prediction.clips[0])
        encoder = cell.encoders.setdefault(prediction.encoder, len(cell.encoders))
        for group, sampling in enumerate(prediction.samplings):
            run = (prediction.split, sampling, encoder)
            if run in cell.accuracy:
                raise ConfigError(f"two arms are called {prediction.arm!r}; give each a name of its own")
            predicted_N = prediction.predicted_GN[group]
            cell.is_correct[run] = predicted_N == truth_N
            cell.accuracy[run] = float(cell.is_correct[run].mean())
            clips = cell.clips.setdefault((prediction.split, sampling), prediction.clips[group])
            if clips != prediction.clips[group]:
                raise ConfigError(
                    f"the encoders of arm {prediction.arm!r} were finetuned on different clips in sampling {sampling}; "
                    "finetune them with the same part, splits, seed and num_samplings"
                )
            confusion_CC = np.zeros((num_classes, num_classes), np.int64)
            np.add.at(confusion_CC, (truth_N, predicted_N), 1)
            cell.confusions[run] = confusion_CC
    arms = list(dict.fromkeys(arm for arm, _ in gathered))
    return {key: gathered[key] for key in sorted(gathered, key=lambda key: (arms.index(key[0]), by_count(key[1])))}


def _paired(
    worse: str,
    better: str,
    count: int,
    worse_cell: Cell,
    better_cell: Cell,
    groups: Mapping[int, Sequence[str]] | None,
) -> PairedDifference:
    if worse_cell.clips != better_cell.clips:
        raise ConfigError(
            f"arms {worse!r} and {better!r} learned from different clips at {count or 'all'} labels a class, so that "
            "their difference is not a paired one; finetune them with the same part, splits, seed and num_samplings; "
            "where one is older than a takedown, `percepts takedown VIDEO --remove-artifacts` has it made anew"
        )
    numbers = {number for number in (worse_cell.num_encoders, better_cell.num_encoders) if number}
    if len(numbers) > 1:
        raise ConfigError(
            f"arms {worse!r} and {better!r} start from {worse_cell.num_encoders} and {better_cell.num_encoders} "
            "encoders; pretrain as many of each"
        )
    paired = differences(worse_cell, better_cell)
    interval, _ = better_cell.interval(paired)
    return PairedDifference(
        worse=worse,
        better=better,
        labels_per_class=count,
        **_figures("difference", better_cell, paired),
        num_encoders=max(numbers, default=0),
        p=interval.p,
        **({} if groups is None else group_bootstrap(worse_cell, better_cell, groups)),
    )


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
    by_labels = {
        count: differences(cells[worse, count], cells[better, count])
        for count in counts
        if (worse, count) in cells and (better, count) in cells
    }
    means = {count: split_means(values) for count, values in by_labels.items()}
    if any(len({split for split, _, _ in values}) == 1 for values in means.values()):
        first = next(iter(by_labels.values()))
        means = {count: values for count, values in by_labels.items() if values.keys() == first.keys()}
    if len(means) < 2:
        return None
    fewest, most = next(iter(means)), list(means)[-1]
    change = {run: value - means[most][run] for run, value in means[fewest].items()}
    interval, _ = cells[better, fewest].interval(change)
    figures = _figures("change", cells[better, fewest], change)
    num_encoders = max(cells[worse, fewest].num_encoders, cells[better, fewest].num_encoders)
    return GainChange(
        worse=worse, better=better, fewest=fewest, most=most, **figures, num_encoders=num_encoders, p=interval.p
    )


def _figures(name: str, cell: Cell, values: Mapping[Run, float]) -> dict[str, Any]:
    """Returns a mean under `name`, its interval and the population of that."""
    interval, over = cell.interval(values)
    counted = {
        "num_samplings": len({sampling for _, sampling, _ in values}),
        "num_splits": len({split for split, _, _ in values}),
        "over": over,
    }
    return {name: interval.mean, "low": interval.low, "high": interval.high, **counted}
