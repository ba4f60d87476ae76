"""Authority: scikit-learn's Ridge."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from stages.figures.readout import PENALTIES, fit_readout


@pytest.mark.parametrize("num_dims", [20, 300])
def test_the_read_out_is_scikit_learn_s_ridge(num_dims: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, num_dims)).astype(np.float32)
    y = (x @ rng.standard_normal((num_dims, 6)) + 3 + 5 * rng.standard_normal((200, 6))).astype(np.float32)
    found = fit_readout(x, y, num_held_out=40)
    errors = []
    for penalty in PENALTIES:
        ridge = Ridge(alpha=160 * penalty).fit(x[:160], y[:160])
        errors.append(np.mean((ridge.predict(x[160:]) - y[160:]) ** 2))
    best = int(np.argmin(errors))
    assert found.penalty == PENALTIES[best]
    expected = Ridge(alpha=160 * found.penalty).fit(x[:160], y[:160]).predict(x)
    np.testing.assert_allclose(found(x), expected, atol=1e-2)
    assert found.error == pytest.approx(errors[best] / np.mean((y[160:] - y[:160].mean(0)) ** 2), rel=1e-3)


def test_what_is_linear_is_read_exactly() -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((100, 10)).astype(np.float32)
    y = (x[:, :4] * 2 + 1).astype(np.float32)
    found = fit_readout(x, y, num_held_out=20)
    assert found.error < 1e-3
    assert found(x.reshape(5, 20, 10)).shape == (5, 20, 4)
