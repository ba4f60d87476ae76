"""Transforms of percepts before a model reads them: the paper's choices. A model's file carries its own.

| kind | | loss |
|---|---|---|
| standardised | zero mean and unit variance in each dimension, by the statistics of a store | gaussian |
| raw | as the extractor gives them, which is what the paper's text says | gaussian |
| squashed | 2 / (1 + exp(-lambda * max(x, 0))) - 1, a ReLU's output in [0, 1), as the authors' code can | either |

Shapes: D percept dimension; `...` any leading axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ConfigError
from pipeline.core.numbers import check_numbers
from stages.percepts.artifacts import Moments

if TYPE_CHECKING:  # torch takes a second to import, and configs of recipes lie here
    from torch import Tensor

Floats = npt.NDArray[np.float32]
Kind = Literal["standardised", "raw", "squashed"]


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """The transform of percepts before the model reads them; pixels are not concerned."""

    kind: Kind = "standardised"
    """standardised: zero mean, unit variance; raw: as they are; squashed: ReLU outputs into [0, 1)."""
    squash_lambda: float = 1.0
    """squashed: slope; 2 / (1 + exp(-lambda x)) - 1."""

    def __post_init__(self) -> None:
        if not self.squash_lambda > 0:
            raise ConfigError(f"squash_lambda is {self.squash_lambda}; it must be above 0")
        check_numbers(self)

    def build(self, moments: Moments) -> Transform:
        """Builds the transform for percepts of these statistics."""
        if self.kind == "squashed":
            return Squashing(len(moments.mean_D), self.squash_lambda)
        return Standardisation.of(moments) if self.kind == "standardised" else raw(len(moments.mean_D))


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
        """Builds the transform for percepts of these moments.

        The scale is the standard deviation, or SCALE_FLOOR of the root mean square of all if that is more.
        """
        typical = float(np.sqrt(np.mean(np.square(moments.std_D, dtype=np.float64))))
        floor = SCALE_FLOOR * typical if typical > 0 else 1.0
        return cls(moments.mean_D.astype(np.float32), np.maximum(moments.std_D, floor).astype(np.float32))

    def __call__(self, percepts: Tensor, out: Tensor | None = None) -> Tensor:
        """Transforms (..., D) of any float type into a new float32 tensor on the same device, or into `out`.

        Only the last operation writes to `out`.
        """
        import torch

        mean_D, scale_D = (torch.from_numpy(array).to(percepts.device) for array in (self.mean_D, self.scale_D))
        centred = percepts.to(torch.float32, copy=True).sub_(mean_D)
        return torch.div(centred, scale_D, out=centred if out is None else out)

    def inverse(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Transforms (..., D) standardised values back to percepts."""
        return x * self.scale_D + self.mean_D

    @property
    def dim(self) -> int:
        """The percept dimension D."""
        return len(self.mean_D)

    def __eq__(self, other: object) -> bool:
        """Returns whether every number is the same."""
        if not isinstance(other, Standardisation):
            return NotImplemented
        return np.array_equal(self.mean_D, other.mean_D) and np.array_equal(self.scale_D, other.scale_D)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Squashing:
    """2 / (1 + exp(-lambda * max(x, 0))) - 1."""

    dim: int
    squash_lambda: float

    def __call__(self, percepts: Tensor, out: Tensor | None = None) -> Tensor:
        """Transforms as `Standardisation` does, into [0, 1]."""
        import torch

        # 2 * sigmoid(y) - 1 = tanh(y / 2), which loses no digits near 0.
        scaled = percepts.to(torch.float32, copy=True).clamp_(min=0).mul_(self.squash_lambda / 2)
        return torch.tanh(scaled, out=scaled if out is None else out)

    def inverse(self, x: Floats) -> Floats:
        """Transforms (..., D) of a model back to percepts.

        No percept gives 1 or more: the largest number below 1 is taken.
        """
        inside = np.clip(x, 0, np.nextafter(np.float32(1), np.float32(0)))
        return (np.arctanh(inside) * (2 / self.squash_lambda)).astype(np.float32)


Transform = Standardisation | Squashing


def raw(dim: int) -> Standardisation:
    """Leaves percepts as they are, to the bit."""
    return Standardisation(np.zeros(dim, np.float32), np.ones(dim, np.float32))


def to_header(transform: Transform) -> dict[str, Any]:
    """Returns the transform as JSON values."""
    if isinstance(transform, Squashing):
        return {"squash_lambda": transform.squash_lambda, "dim": transform.dim}
    # A float32 survives the way through a JSON double unchanged.
    return {"mean": transform.mean_D.tolist(), "scale": transform.scale_D.tolist()}


def of_header(header: Mapping[str, Any]) -> Transform:
    """Reads what `to_header` gave. Raises KeyError, TypeError, AssertionError where it is something else."""
    if "squash_lambda" in header:
        return Squashing(int(header["dim"]), float(header["squash_lambda"]))
    return Standardisation(np.array(header["mean"], np.float32), np.array(header["scale"], np.float32))
