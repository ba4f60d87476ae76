"""The step whose weights are kept, and early stopping: pure functions of a history, so that a resume agrees.

A history's validations are dictionaries with `step` and `loss`, in the order of their steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.pretraining.config import EarlyStopConfig

Validations = Sequence[Mapping[str, Any]]


def best_step(validations: Validations) -> int:
    """Returns the step of the smallest loss; of equal ones, the first."""
    return int(min(validations, key=lambda point: point["loss"])["step"])


def has_plateaued(config: EarlyStopConfig, validations: Validations) -> bool:
    """Returns True where the validation loss has not improved for `patience` validations in a row."""
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
