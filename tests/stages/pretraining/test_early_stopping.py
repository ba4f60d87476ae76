"""Which weights a training leaves, and when it ends: rules against plain transcriptions of their sentences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.errors import ConfigError
from stages.pretraining.checkpoints import best_step, has_plateaued
from stages.pretraining.config import EarlyStopConfig, WeightsConfig
from stages.pretraining.optimisation import ExponentialMovingAverage


def validations(*losses: float) -> list[dict[str, float]]:
    return [{"step": 10 * number, "loss": loss} for number, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "patience", "min_improvement", "ends"),
    [
        ((5, 4, 3, 3, 3), 2, 0.0, True),
        ((5, 4, 3, 3), 2, 0.0, False),
        ((5, 4, 4.1, 3, 3.1), 2, 0.0, False),
        ((5, 4, 3.99, 3.98), 2, 0.01, True),
        ((5, 4, 3.99, 3.95), 2, 0.01, False),  # since the best that counted, 4, more than 1%
        ((5, 6, 7, 8, 9), 0, 0.0, False),
        ((5,), 1, 0.0, False),
    ],
)
def test_a_plateau_ends_a_training(
    losses: tuple[float, ...], patience: int, min_improvement: float, ends: bool
) -> None:
    config = EarlyStopConfig(patience=patience, min_improvement=min_improvement)
    assert has_plateaued(config, validations(*losses)) is ends


def test_the_best_is_the_first_of_the_smallest() -> None:
    assert best_step(validations(5, 3, 4, 3)) == 10


def test_the_average_is_that_of_numpy() -> None:
    module = nn.Linear(3, 2)
    average = ExponentialMovingAverage(module, 0.9)
    expected = module.weight.detach().numpy().astype(np.float64)
    for step in range(30):
        with torch.no_grad():
            module.weight.add_(torch.randn(2, 3, generator=torch.Generator().manual_seed(step)))
        average.update(module, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * module.weight.detach().numpy()
    np.testing.assert_allclose(average.module.weight.numpy(), expected, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())


def test_settings_are_checked() -> None:
    for wrong in ({"patience": -1}, {"min_improvement": 1.0}):
        with pytest.raises(ConfigError, match=r"cannot be negative|it is a share"):
            EarlyStopConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"average_decay is 1.0; it must lie in \[0, 1\)"):
        WeightsConfig(average_decay=1.0)
