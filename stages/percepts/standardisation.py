"""Percepts to zero mean and unit variance, by the statistics of a store. Whoever trains or predicts uses this one rule.

Shapes: D percept dimension; `...` any leading axes.
"""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.percepts.artifacts import Moments

SCALE_FLOOR: Final = 0.01
"""Least scale, as a share of the root mean square of all standard deviations: a channel that is nearly always silent
would otherwise shout when it speaks, and one that never changed has no deviation to divide by."""


@dataclass(frozen=True)
class Standardisation:
    """(percept - mean) / scale."""

    mean_D: npt.NDArray[np.float32]
    scale_D: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        assert self.mean_D.shape == self.scale_D.shape == self.mean_D.shape[:1], (self.mean_D.shape, self.scale_D.shape)
        assert (self.scale_D > 0).all(), "a scale must be positive"

    @classmethod
    def of(cls, moments: Moments) -> Self:
        """The rule: scale is the standard deviation, or SCALE_FLOOR of their root mean square where that is more."""
        typical = float(np.sqrt(np.mean(np.square(moments.std_D, dtype=np.float64))))
        floor = SCALE_FLOOR * typical if typical > 0 else 1.0
        return cls(moments.mean_D.astype(np.float32), np.maximum(moments.std_D, floor).astype(np.float32))

    def __call__(self, percepts: Tensor) -> Tensor:
        """(..., D) of any float type -> a new float32 tensor on the same device."""
        mean_D, scale_D = (torch.from_numpy(array).to(percepts.device) for array in (self.mean_D, self.scale_D))
        return percepts.to(torch.float32, copy=True).sub_(mean_D).div_(scale_D)

    def into(self, out: Tensor, percepts: Tensor) -> None:
        """The same to the bit, (..., D) of any float type into float32 on the CPU; the last operation alone writes."""
        centred = percepts.to(torch.float32, copy=True).sub_(torch.from_numpy(self.mean_D))
        torch.div(centred, torch.from_numpy(self.scale_D), out=out)

    def inverse(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(..., D) standardised -> percepts."""
        return x * self.scale_D + self.mean_D

    @property
    def dim(self) -> int:
        """D."""
        return len(self.mean_D)

    def __eq__(self, other: object) -> bool:
        """Whether every number is the same."""
        if not isinstance(other, Standardisation):
            return NotImplemented
        return np.array_equal(self.mean_D, other.mean_D) and np.array_equal(self.scale_D, other.scale_D)

    __hash__ = None  # type: ignore[assignment]
