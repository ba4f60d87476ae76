"""From answers to a table: accuracies, intervals over samplings, paired differences of arms, confusion matrices.

Shapes: G samplings, N clips, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ConfigError
from stages.metrics import Interval, accuracy, paired_interval, t_interval


@dataclass(frozen=True)
class Answers:
    """What the classifiers of one arm and label count say about every test clip."""

    arm: str
    class_names: tuple[str, ...]
    labels_per_class: int
    samplings: tuple[int, ...]
    clips: tuple[tuple[str, ...], ...]
    """sha256 of the clips that each sampling's classifier learned from."""
    probabilities_GNC: npt.NDArray[np.float32]
    num_padded: int
    """Test clips without a whole window."""


@dataclass(frozen=True)
class Cell:
    """One place of the table: an arm at a label count."""

    accuracy: dict[int, float]
    """Sampling -> share of test clips that are named rightly."""
    clips: dict[int, tuple[str, ...]]
    """Sampling -> the clips that were learned from."""
    confusion_CC: npt.NDArray[np.int64]
    """Rows: truth, columns: answer; summed over samplings."""


def scores_of(found: Sequence[Answers], labels: Sequence[str]) -> dict[str, Any]:
    """The content of scores.json. `found` in the order of the arms; `labels`: the test clips' classes.

    Accuracies are fractions; an interval over a single sampling has bounds of None.

    Raises:
        ConfigError: arms of other classes, one sampling twice, or other labelled clips in the same sampling.
    """
    class_names = found[0].class_names
    cells = _cells(found, np.array([class_names.index(label) for label in labels]))
    arms = list(dict.fromkeys(arm for arm, _ in cells))
    counts = sorted({count for _, count in cells})
    return {
        "num_classes": len(class_names),
        "class_names": list(class_names),
        "num_test_clips": len(labels),
        "chance": 1.0 / len(class_names),
        "rows": [
            {"model": arm, "labels_per_class": count, "sampling": sampling, "accuracy": value}
            for (arm, count), cell in cells.items()
            for sampling, value in sorted(cell.accuracy.items())
        ],
        "summary": [_summary(arm, count, cell) for (arm, count), cell in cells.items()],
        "paired": [
            _paired(worse, better, count, cells[worse, count], cells[better, count])
            for worse, better in pairwise(arms)
            for count in counts
            if (worse, count) in cells and (better, count) in cells
        ],
        "confusion": {arm: cells[arm, max(c for a, c in cells if a == arm)].confusion_CC.tolist() for arm in arms},
    }


def _cells(found: Sequence[Answers], truth_N: npt.NDArray[np.int64]) -> dict[tuple[str, int], Cell]:
    """By arm, in the order given, and label count, rising."""
    names = found[0].class_names
    gathered: dict[tuple[str, int], Cell] = {}
    for answers in found:
        if answers.class_names != names:
            raise ConfigError(f"arms {found[0].arm!r} and {answers.arm!r} know different classes; finetune them alike")
        empty = Cell({}, {}, np.zeros((len(names), len(names)), np.int64))
        cell = gathered.setdefault((answers.arm, answers.labels_per_class), empty)
        for group, sampling in enumerate(answers.samplings):
            if sampling in cell.accuracy:
                raise ConfigError(f"two arms are called {answers.arm!r}; give each a name of its own")
            predicted_N = answers.probabilities_GNC[group].argmax(1)
            cell.accuracy[sampling] = accuracy(predicted_N, truth_N)
            cell.clips[sampling] = answers.clips[group]
            np.add.at(cell.confusion_CC, (truth_N, predicted_N), 1)
    arms = list(dict.fromkeys(arm for arm, _ in gathered))
    return {key: gathered[key] for key in sorted(gathered, key=lambda key: (arms.index(key[0]), key[1]))}


def _summary(arm: str, count: int, cell: Cell) -> dict[str, Any]:
    interval = t_interval(list(cell.accuracy.values()))
    return {"model": arm, "labels_per_class": count, "mean": interval.mean, **_bounds(interval)}


def _paired(worse: str, better: str, count: int, worse_cell: Cell, better_cell: Cell) -> dict[str, Any]:
    if worse_cell.clips != better_cell.clips:
        raise ConfigError(
            f"arms {worse!r} and {better!r} learned from different clips at {count} labels a class, so that their "
            "difference is not a paired one; finetune them with the same part, seed and num_samplings"
        )
    samplings = sorted(worse_cell.accuracy)
    pair = [[cell.accuracy[sampling] for sampling in samplings] for cell in (worse_cell, better_cell)]
    interval = paired_interval(pair[0], pair[1])
    difference = {"worse": worse, "better": better, "labels_per_class": count, "difference": interval.mean}
    return {**difference, **_bounds(interval)}


def _bounds(interval: Interval) -> dict[str, float | int | None]:
    """JSON has no infinity."""
    low, high = (bound if math.isfinite(bound) else None for bound in (interval.low, interval.high))
    return {"low": low, "high": high, "num_samplings": interval.num}
