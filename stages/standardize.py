"""standardize: mean and standard deviation of each percept dimension, over the videos that training may see.

statistics = standardize(StandardizeConfig(parts=("unlabelled",)), context, percepts=percepts)
statistics = standardize(StandardizeConfig(splits=(1, 2, 3)), context, percepts=percepts, splits=splits)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_numbers
from pipeline.core.rates import SCANNED_BYTES_PER_S
from pipeline.core.stage import Context, Estimate, stage
from stages.datasets.splits import Splits
from stages.percepts.artifacts import Moments, Percepts, Statistics, write_moments
from stages.percepts.reader import PerceptStore

BLOCK_ROWS = 4096
"""Rows that are turned into float64 at a time."""


@dataclass(frozen=True, kw_only=True)
class StandardizeConfig:
    """The videos whose percepts the statistics are of."""

    parts: tuple[str, ...] = ()
    """Parts of the index (such as unlabelled, train) to use; empty uses every video. Leave test videos out."""
    splits: tuple[int, ...] = ()
    """With official splits: those that the statistics are for. Clips are used that at least one of them trains on and
    none of them tests, so that one set of statistics serves them all; empty takes every official split."""

    def __post_init__(self) -> None:
        if self.parts and self.splits:
            raise ConfigError("parts and splits cannot both be given: official splits know their own parts")
        check_numbers(self)


def moments_of(store: PerceptStore) -> Moments:
    """Computes mean and population standard deviation of every dimension over all rows, in one pass and in float64.

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


def _estimate(config: StandardizeConfig, inputs: Mapping[str, Estimate]) -> Estimate:
    """Estimates one scan of all percepts; of some parts it is an upper bound."""
    percepts = inputs["percepts"]
    seconds = None if percepts.num_bytes is None else percepts.num_bytes / SCANNED_BYTES_PER_S
    return Estimate(num_videos=percepts.num_videos, num_frames=percepts.num_frames, seconds=seconds)


@stage(version=2, estimate=_estimate)
def standardize(
    config: StandardizeConfig, context: Context, *, percepts: Percepts, splits: Splits | None = None
) -> Statistics:
    """Writes the statistics, `statistics.safetensors`.

    With `splits`, no clip that one of `config.splits` tests is looked at. Where a part of a data set has no other
    clips, the mean is 0 and the deviation 1, which leave percepts as they are, and the log says so.

    Raises:
        ConfigError: `config.splits` without official splits, or one that those do not have.
        SourceError: no video of these parts has frames.
    """
    if splits is None and config.splits:
        raise ConfigError("splits were given to standardize, but no official splits are connected")
    if splits is None:
        store = percepts.open(parts=config.parts or None)
    else:
        numbers = config.splits or splits.numbers()
        records = splits.training_only(splits.named(percepts.iter_records()), numbers)
        store = percepts.open().select([record.sha256 for record in records])
        if not store.videos:
            named = ", ".join(map(str, numbers))
            context.log(f"every clip that is there is tested in one of the splits {named}: nothing is standardised")
    if store.videos:
        moments = moments_of(store)
    else:
        dim = percepts.open().dim
        moments = Moments(np.zeros(dim, np.float32), np.ones(dim, np.float32), 0)
    write_moments(context.uri, moments)
    context.record(
        num_videos=len(store.videos),
        num_frames=moments.num_rows,
        num_constant_dimensions=int(np.count_nonzero(moments.std_D == 0)),
    )
    return Statistics(context.uri, context.key)
