"""What a percept goes through before a model reads it: the paper's choices. A model's file carries its own.

| kind | | loss |
|---|---|---|
| standardised | zero mean and unit variance in each dimension, by the statistics of a store | gaussian |
| raw | as the extractor gives them, which is what the paper's text says | gaussian |
| squashed | 2 / (1 + exp(-lambda * max(x, 0))) - 1, a ReLU's output in [0, 1), as the authors' code can | either |

Shapes: D percept dimension; `...` any leading axes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.core.errors import ConfigError
from stages.percepts.artifacts import Moments
from stages.percepts.standardisation import Standardisation

Floats = npt.NDArray[np.float32]
Kind = Literal["standardised", "raw", "squashed"]


@dataclass(frozen=True, kw_only=True)
class TransformConfig:
    """What percepts go through before the model reads them; pixels are not concerned."""

    kind: Kind = "standardised"
    """standardised: zero mean, unit variance; raw: as they are; squashed: ReLU outputs into [0, 1)."""
    squash_lambda: float = 1.0
    """squashed: slope; 2 / (1 + exp(-lambda x)) - 1."""

    def __post_init__(self) -> None:
        if not self.squash_lambda > 0:
            raise ConfigError(f"squash_lambda is {self.squash_lambda}; it must be above 0")

    def build(self, moments: Moments) -> "Transform":
        """For percepts of these statistics."""
        if self.kind == "squashed":
            return Squashing(len(moments.mean_D), self.squash_lambda)
        return Standardisation.of(moments) if self.kind == "standardised" else raw(len(moments.mean_D))


@dataclass(frozen=True)
class Squashing:
    """2 / (1 + exp(-lambda * max(x, 0))) - 1."""

    dim: int
    squash_lambda: float

    def __call__(self, percepts: Tensor) -> Tensor:
        """(..., D) of any float type -> a new float32 tensor in [0, 1] on the same device."""
        # 2 * sigmoid(y) - 1 = tanh(y / 2), which loses no digits near 0.
        return percepts.to(torch.float32, copy=True).clamp_(min=0).mul_(self.squash_lambda / 2).tanh_()

    def into(self, out: Tensor, percepts: Tensor) -> None:
        """The same to the bit, into float32 on the CPU."""
        scaled = percepts.to(torch.float32, copy=True).clamp_(min=0).mul_(self.squash_lambda / 2)
        torch.tanh(scaled, out=out)

    def inverse(self, x: Floats) -> Floats:
        """(..., D) as a model writes them -> percepts. No percept gives 1 or more: the largest below is taken."""
        inside = np.clip(x, 0, np.nextafter(np.float32(1), np.float32(0)))
        return (np.arctanh(inside) * (2 / self.squash_lambda)).astype(np.float32)


Transform = Standardisation | Squashing


def raw(dim: int) -> Standardisation:
    """Leaves percepts as they are, to the bit."""
    return Standardisation(np.zeros(dim, np.float32), np.ones(dim, np.float32))


def to_header(transform: Transform) -> dict[str, Any]:
    """JSON-able."""
    if isinstance(transform, Squashing):
        return {"squash_lambda": transform.squash_lambda, "dim": transform.dim}
    # A float32 survives the way through a JSON double unchanged.
    return {"mean": transform.mean_D.tolist(), "scale": transform.scale_D.tolist()}


def of_header(header: Mapping[str, Any]) -> Transform:
    """Of what `to_header` gave. Raises KeyError, TypeError, AssertionError where it is something else."""
    if "squash_lambda" in header:
        return Squashing(int(header["dim"]), float(header["squash_lambda"]))
    return Standardisation(np.array(header["mean"], np.float32), np.array(header["scale"], np.float32))
