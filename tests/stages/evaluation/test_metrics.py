"""Authorities: torch's binary cross-entropy, scikit-image's SSIM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from stages.evaluation import metrics


@pytest.fixture
def frames() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mean, target = rng.random((2, 3, 4, 60), dtype=np.float32)
    return mean, target


def test_cross_entropy_is_torch_s(frames: tuple[np.ndarray, np.ndarray]) -> None:
    mean, target = frames
    mean[0, 0, :4] = [0.0, 1.0, 0.0, 1.0]
    target[0, 0, :4] = [0.0, 1.0, 1.0, 0.0]
    entropies = torch.nn.functional.binary_cross_entropy(torch.tensor(mean), torch.tensor(target), reduction="none")
    found = metrics.cross_entropy_per_frame(mean, target)
    assert found.shape == (3, 4)
    np.testing.assert_allclose(found, entropies.sum(-1), rtol=1e-6)
    assert np.isfinite(found).all()


def test_cross_entropy_of_logits_is_torch_s_and_exact_where_a_probability_is_not(
    frames: tuple[np.ndarray, np.ndarray],
) -> None:
    _, target = frames
    logit = np.random.default_rng(1).normal(scale=5, size=target.shape).astype(np.float32)
    logit[0, 0, :2], target[0, 0, :2] = (17.5, -120.0), (0.0, 1.0)
    entropies = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logit, dtype=torch.float64), torch.tensor(target, dtype=torch.float64), reduction="none"
    )
    np.testing.assert_allclose(metrics.cross_entropy_of_logits_per_frame(logit, target), entropies.sum(-1), rtol=1e-6)
    sure = np.full((1, 1, 1), 17.5, np.float32)
    black = np.zeros((1, 1, 1), np.float32)
    assert metrics.cross_entropy_of_logits_per_frame(sure, black).item() == pytest.approx(17.5)
    probability = torch.tensor(sure).sigmoid().numpy()
    assert metrics.cross_entropy_per_frame(probability, black).item() == 100.0


def test_one_frame_may_stand_for_all(frames: tuple[np.ndarray, np.ndarray]) -> None:
    mean, target = frames
    repeated = np.repeat(mean[:1], len(target), axis=0)
    np.testing.assert_array_equal(
        metrics.cross_entropy_per_frame(mean[:1], target), metrics.cross_entropy_per_frame(repeated, target)
    )


def test_squared_error_sums_over_dimensions(frames: tuple[np.ndarray, np.ndarray]) -> None:
    mean, target = frames
    expected = torch.nn.functional.mse_loss(torch.tensor(mean), torch.tensor(target), reduction="none").sum(-1)
    np.testing.assert_allclose(metrics.squared_error_per_frame(mean, target), expected, rtol=1e-6)


def test_ssim_is_scikit_image_s() -> None:
    rng = np.random.default_rng(1)
    target = rng.random((5, 64, 64), dtype=np.float32)
    target[1, 10:40, 10:40] = 1.0
    noisy = np.clip(target + 0.2 * rng.standard_normal(target.shape), 0, 1).astype(np.float32)
    noisy[4] = 0.0
    expected = [structural_similarity(a, b, data_range=1.0) for a, b in zip(noisy, target, strict=True)]
    np.testing.assert_allclose(metrics.ssim_per_frame(noisy, target), expected, rtol=1e-5)
    np.testing.assert_allclose(metrics.ssim_per_frame(target, target), 1.0)


def test_ssim_of_one_window_is_its_formula() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.random((2, 7, 7), dtype=np.float32).astype(np.float64)
    c1, c2 = 0.01**2, 0.03**2
    covariance = np.cov(x.ravel(), y.ravel(), ddof=1)
    expected = (2 * x.mean() * y.mean() + c1) * (2 * covariance[0, 1] + c2)
    expected /= (x.mean() ** 2 + y.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)
    found = metrics.ssim_per_frame(x[None].astype(np.float32), y[None].astype(np.float32))
    np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_what_is_compared_must_have_one_shape() -> None:
    one, other = np.zeros((2, 3, 4), np.float32), np.zeros((2, 3, 5), np.float32)
    with pytest.raises(ValueError, match=r"\(2, 3, 4\) and \(2, 3, 5\)"):
        metrics.cross_entropy_per_frame(one, other)
