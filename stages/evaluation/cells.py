"""Cells of a score table: the accuracies of an arm at a label count, and the population that an interval is over.

What is repeated is what an interval is taken over. With several official splits these are the splits: the samplings
within one are averaged first, because they share their test clips, and two or three splits do not become thirty
independent values by drawing ten samplings in each. With one split they are its samplings. Where an arm starts from
several encoders, each pretrained from a seed of its own, they are the second factor: an interval over samplings alone
speaks of the one encoder that is there, and another seed's may differ by more than it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stages.evaluation.intervals import Interval, two_way_interval

NUM_RESAMPLES: Final = 2000
SEED: Final = 0
_ROWS_AT_ONCE: Final = 100
Run = tuple[int, int, int]
"""(split, sampling, number of the encoder): the key by which values of two arms are paired."""


@dataclass(frozen=True)
class Cell:
    """One place of the table: an arm at a label count."""

    accuracy: dict[Run, float] = field(default_factory=dict)
    """Share of test clips that are classified correctly."""
    confusions: dict[Run, npt.NDArray[np.int64]] = field(default_factory=dict)
    """Counts by true class (rows) and predicted class (columns), (C, C)."""
    is_correct: dict[Run, npt.NDArray[np.bool_]] = field(default_factory=dict)
    """For each test clip of the split, True if it is classified correctly."""
    clips: dict[tuple[int, int], tuple[str, ...]] = field(default_factory=dict)
    """(split, sampling) -> sha256 of the clips that the classifiers learned from."""
    encoders: dict[str, int] = field(default_factory=dict)
    """Key of an encoder -> its number; the key of classifiers that start from none is empty."""
    overlap: dict[int, float] = field(default_factory=dict)
    """Split -> test clips per clip learned from; all clips only."""

    def total_confusion(self) -> npt.NDArray[np.int64]:
        """Returns the counts (C, C) of all runs together: over splits, samplings and encoders."""
        return np.asarray(np.sum(list(self.confusions.values()), axis=0))

    @property
    def num_encoders(self) -> int:
        """The number of pretrained encoders that the classifiers start from; 0: they start from random weights."""
        return len(self.encoders) - ("" in self.encoders)

    def interval(self, values: Mapping[Run, float]) -> tuple[Interval, str]:
        """Computes the interval of `values`, one a run, and its population, such as "encoders and samplings"."""
        encoders = sorted({encoder for _, _, encoder in values})
        splits = sorted({split for split, _, _ in values})
        if len(splits) == 1:
            columns, overlap, over = sorted({sampling for _, sampling, _ in values}), 0.0, "samplings"
            table_ES = [[values[splits[0], sampling, encoder] for sampling in columns] for encoder in encoders]
        else:
            means = split_means(values)
            columns, over = splits, "splits"
            overlap = float(np.mean(list(self.overlap.values()))) if self.overlap else 0.0
            table_ES = [[means[split, 0, encoder] for split in splits] for encoder in encoders]
        if len(encoders) > 1:
            over = f"encoders and {over}" if len(columns) > 1 else "encoders"
        return two_way_interval(np.array(table_ES), overlap=overlap), over


def differences(worse: Cell, better: Cell) -> dict[Run, float]:
    """Returns better - worse of every run; the runs of an arm without encoders are compared with every encoder's."""
    return {
        (split, sampling, encoder): better.accuracy[run_of(better, split, sampling, encoder)]
        - worse.accuracy[run_of(worse, split, sampling, encoder)]
        for split, sampling in sorted(worse.clips)
        for encoder in range(max(1, worse.num_encoders, better.num_encoders))
    }


def run_of(cell: Cell, split: int, sampling: int, encoder: int) -> Run:
    """Returns the run of a cell that is compared under an encoder's number: the only one, where it has one encoder."""
    return split, sampling, encoder if len(cell.encoders) > 1 else 0


def split_means(values: Mapping[Run, float]) -> dict[Run, float]:
    """Averages the values over each split's samplings, as sampling 0, for each encoder."""
    gathered: dict[Run, list[float]] = {}
    for (split, _, encoder), value in sorted(values.items()):
        gathered.setdefault((split, 0, encoder), []).append(value)
    return {run: float(np.mean(of_run)) for run, of_run in gathered.items()}


def group_bootstrap(worse: Cell, better: Cell, groups: Mapping[int, Sequence[str]]) -> dict[str, Any]:
    """Computes the 95% percentile interval of (better - worse), accuracy, over groups drawn with replacement.

    Three official splits leave an interval two degrees of freedom, which is wider than the paper's gains. Test clips
    are many, and the clips of one group (one piece of footage) are the units that are independent of each other. This
    interval speaks of these classifiers on other footage of the same kind, and not of other training clips or encoders.

    Every clip's difference is its mean over samplings and encoders, which all see the same clips. A group keeps its
    clips of every split together (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; clusters
    as in Davison and Hinkley, 1997, section 3.8).

    groups: split -> the group of each of its test clips, in the order of the predictions.
    Returns the fields of a `PairedDifference`; none where there are fewer than two groups.
    Shapes: N test clips, K groups, R resamples.
    """
    num_encoders = max(1, worse.num_encoders, better.num_encoders)
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for split in sorted({split for split, _ in worse.clips}):
        samplings = [sampling for of_split, sampling in worse.clips if of_split == split]
        runs = [(split, sampling, encoder) for sampling in samplings for encoder in range(num_encoders)]
        difference_N = np.mean(
            [
                better.is_correct[run_of(better, *run)].astype(np.float64) - worse.is_correct[run_of(worse, *run)]
                for run in runs
            ],
            axis=0,
        )
        for group, value in zip(groups[split], difference_N.tolist(), strict=True):
            sums[group] = sums.get(group, 0.0) + value
            counts[group] = counts.get(group, 0) + 1
    if len(sums) < 2:
        return {}
    sum_K, count_K = np.array(list(sums.values())), np.array(list(counts.values()))
    generator, num_groups = np.random.default_rng(SEED), len(sums)
    means: list[float] = []
    while len(means) < NUM_RESAMPLES:
        drawn_RK = generator.integers(num_groups, size=(min(_ROWS_AT_ONCE, NUM_RESAMPLES - len(means)), num_groups))
        means += (sum_K[drawn_RK].sum(1) / count_K[drawn_RK].sum(1)).tolist()
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return {"groups_low": low, "groups_high": high, "num_groups": num_groups}
