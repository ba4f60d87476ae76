"""An exponential moving average of the weights in training."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class ExponentialMovingAverage(Generic[M]):
    """An exponential moving average of a module's weights: a module of the same kind, that no gradient reaches."""

    def __init__(self, module: M, decay: float) -> None:
        self.module: M = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: M, step: int) -> None:
        """Moves the average after step `step` (from 0): average += (1 - d) * (weights - average).

        d is `decay`, but at first only (1 + step) / (10 + step), or the average would remember the random start.
        """
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.module.parameters()), [weight.detach() for weight in module.parameters()], share)
