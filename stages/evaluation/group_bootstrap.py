"""A paired bootstrap over groups of test clips: the difference of two arms, had other footage been tested.

Three official splits leave an interval two degrees of freedom, which is wider than the paper's gains. Test clips are
many, and the clips of one group (one piece of footage) are the units that are independent of each other. This interval
speaks of these classifiers on other footage of the same kind, and not of other training clips or encoders.

Shapes: N test clips, K groups, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from stages.evaluation.cells import Cell, run_of

NUM_RESAMPLES: Final = 2000
SEED: Final = 0
_ROWS_AT_ONCE: Final = 100


class GroupInterval(NamedTuple):
    """The 95% interval of a difference of accuracies over resampled groups of test clips."""

    low: float
    high: float
    num_groups: int


def group_bootstrap(worse: Cell, better: Cell, groups: Mapping[int, Sequence[str]]) -> GroupInterval | None:
    """Computes the percentile interval of (better - worse), accuracy, over groups drawn with replacement.

    Every clip's difference is its mean over samplings and encoders, which all see the same clips. A group keeps its
    clips of every split together (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; clusters
    as in Davison and Hinkley, 1997, section 3.8).

    groups: split -> the group of each of its test clips, in the order of the predictions.
    Returns None where there are fewer than two groups.
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
        return None
    sum_K, count_K = np.array(list(sums.values())), np.array(list(counts.values()))
    generator, num_groups = np.random.default_rng(SEED), len(sums)
    means: list[float] = []
    while len(means) < NUM_RESAMPLES:
        drawn_RK = generator.integers(num_groups, size=(min(_ROWS_AT_ONCE, NUM_RESAMPLES - len(means)), num_groups))
        means += (sum_K[drawn_RK].sum(1) / count_K[drawn_RK].sum(1)).tolist()
    low, high = np.quantile(means, (0.025, 0.975)).tolist()
    return GroupInterval(low=low, high=high, num_groups=num_groups)
