"""Which weights a training leaves, and when it ends early: pure functions of its history, so that a resume agrees.

A history's validations are dictionaries with `step` and `loss`, in the order of their steps.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from stages.pretraining.config import EarlyStopConfig

Validations = Sequence[Mapping[str, Any]]
M = TypeVar("M", bound=nn.Module)


def best_step(validations: Validations) -> int:
    """Step of the smallest loss; of equal ones, the first."""
    return int(min(validations, key=lambda point: point["loss"])["step"])


def has_stalled(config: EarlyStopConfig, validations: Validations) -> bool:
    """Whether the training ends here."""
    if not config.patience:
        return False
    best, num_since = float("inf"), 0
    for point in validations:
        # Losses may be negative nowhere: they are squared errors and cross-entropies.
        if point["loss"] < best * (1.0 - config.min_improvement):
            best, num_since = point["loss"], 0
        else:
            num_since += 1
    return num_since >= config.patience


class Average(Generic[M]):
    """An exponential moving average of a module's weights: a module of the same kind, that no gradient reaches."""

    def __init__(self, module: M, decay: float) -> None:
        self.module: M = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: M, step: int) -> None:
        """After step `step` (from 0): average += (1 - d) * (weights - average).

        d is `decay`, but at first only (1 + step) / (10 + step), or the average would remember the random start.
        """
        share = 1.0 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.module.parameters()), [weight.detach() for weight in module.parameters()], share)
