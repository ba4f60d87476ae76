"""standardize: mean and standard deviation of each percept dimension, over the videos that training may see.

statistics = standardize(StandardizeConfig(parts=("unlabelled",)), context, percepts=percepts)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.stage import Context, stage
from stages.percepts.artifacts import Moments, Percepts, Statistics, write_moments
from stages.percepts.reader import PerceptStore

BLOCK_ROWS = 4096
"""Rows that are turned into float64 at a time."""


@dataclass(frozen=True, kw_only=True)
class StandardizeConfig:
    """Whose percepts are looked at."""

    parts: tuple[str, ...] = ()
    """Parts of the index (such as unlabelled, train) to use; empty uses every video. Leave test videos out."""


def moments_of(store: PerceptStore) -> Moments:
    """Mean and population standard deviation of every dimension over all rows, in one pass and in float64.

    Blocks are merged by Chan, Golub & LeVeque's update, which does not cancel where the mean is large.
    """
    mean_D, sum_of_squares_D, num_rows = np.zeros(store.dim), np.zeros(store.dim), 0
    for piece_ND in store.pieces():
        for first in range(0, len(piece_ND), BLOCK_ROWS):
            block_ND = piece_ND[first : first + BLOCK_ROWS].astype(np.float64)
            block_mean_D = block_ND.mean(0)
            total = num_rows + len(block_ND)
            step_D = block_mean_D - mean_D
            sum_of_squares_D += np.square(block_ND - block_mean_D).sum(0)
            sum_of_squares_D += np.square(step_D) * (num_rows * len(block_ND) / total)
            mean_D += step_D * (len(block_ND) / total)
            num_rows = total
    std_D = np.sqrt(sum_of_squares_D / max(1, num_rows))
    return Moments(mean_D.astype(np.float32), std_D.astype(np.float32), num_rows)


@stage(version=1)
def standardize(config: StandardizeConfig, context: Context, *, percepts: Percepts) -> Statistics:
    """Write `statistics.safetensors`.

    Raises:
        SourceError: no video of these parts has frames.
    """
    moments = moments_of(percepts.open(parts=config.parts or None))
    write_moments(context.uri, moments)
    context.record(num_frames=moments.num_rows, num_constant_dimensions=int(np.count_nonzero(moments.std_D == 0)))
    return Statistics(context.uri, context.key)
