"""Augmentation of training sequences of percepts: with few videos, a model learns to carry any content.

Nearly all variance of a percept lies between videos. A model that has seen a score of them knows a score of contents,
and cannot carry that of another video through its state. Moved by a random vector that is the same for all of its
frames, a sequence has a content never seen, and the motion that it had. With the signs of random dimensions turned, its
motion is a new one, too, as smooth and as fast as before: what is left to learn is how percepts move, not where to.

Shapes: T frames, B sequences of a worker's share, D percept dimension, X either 1 or D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.core.numbers import check_numbers

if TYPE_CHECKING:  # torch takes seconds to import
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Augmentation of training sequences, in units of what the model reads; validation sequences stay unchanged."""

    offset_std: float = 0.0
    """Standard deviation of the random vector that is added to all frames of a sequence; 0: none."""
    scale_std: float = 0.0
    """Standard deviation of the logarithm of the random factor that multiplies all frames of a sequence; 0: none."""
    flip_signs: bool = False
    """Turn the sign of each dimension with probability 1/2, for all frames of a sequence."""

    def __post_init__(self) -> None:
        check_numbers(self)

    def __bool__(self) -> bool:
        """Returns True if any augmentation is on."""
        return self.offset_std > 0 or self.scale_std > 0 or self.flip_signs


def augment(
    config: AugmentationConfig, x_TBD: Tensor, *, seed: int, step: int, batch_size: int, rank: int, world_size: int
) -> Tensor:
    """Augments a worker's share x_TBD of step `step`; the result has the shape, dtype and device of x_TBD.

    Random numbers are a function of (seed, step) and of a sequence's place in the global batch of `batch_size`: they
    are the same on any number of workers.
    """
    if not config:
        return x_TBD
    import torch

    from stages.datasets.sequences import share

    rows = share(batch_size, rank, world_size)
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, step], np.uint64)))
    log_factor_B = config.scale_std * generator.standard_normal(batch_size, np.float32)[rows]
    offset_BD = config.offset_std * generator.standard_normal((batch_size, x_TBD.shape[2]), np.float32)[rows]
    factor_BX = np.exp(log_factor_B)[:, None]
    if config.flip_signs:
        factor_BX = factor_BX * generator.choice(np.array([-1, 1], np.float32), (batch_size, x_TBD.shape[2]))[rows]
    return x_TBD * torch.from_numpy(factor_BX).to(x_TBD.device) + torch.from_numpy(offset_BD).to(x_TBD.device)
