"""The one rule that makes percepts standard."""

from __future__ import annotations

import numpy as np
import torch

from stages.percepts.artifacts import Moments
from stages.percepts.transforms import SCALE_FLOOR, Standardisation


def test_zero_mean_and_unit_variance_against_numpy() -> None:
    rows = (5 + np.array([1.0, 2.0, 3.0]) * np.random.default_rng(0).standard_normal((500, 3))).astype(np.float16)
    exact = rows.astype(np.float64)
    standardise = Standardisation.of(Moments(exact.mean(0).astype(np.float32), exact.std(0).astype(np.float32), 500))
    found = standardise(torch.from_numpy(rows))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, (exact - exact.mean(0)) / exact.std(0), atol=1e-5)


def test_silent_channels_stay_quiet() -> None:
    moments = Moments(np.zeros(3, np.float32), np.array([0.0, 1e-6, 1.0], np.float32), 10)
    scale = Standardisation.of(moments).scale_D
    np.testing.assert_allclose(scale, [SCALE_FLOOR / np.sqrt(3), SCALE_FLOOR / np.sqrt(3), 1.0], rtol=1e-6)
    constant = Moments(np.ones(2, np.float32), np.zeros(2, np.float32), 10)
    assert Standardisation.of(constant)(torch.ones(4, 2)).eq(0).all()


def test_equal_where_every_number_is() -> None:
    one, other = (Standardisation(np.zeros(2, np.float32), np.array([1.0, s], np.float32)) for s in (1.0, 2.0))
    assert one == Standardisation(one.mean_D.copy(), one.scale_D.copy())
    assert one != other
    assert one != "another thing"
