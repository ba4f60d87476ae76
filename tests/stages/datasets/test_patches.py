"""Authority: NumPy's own mean and standard deviation."""

from __future__ import annotations

import numpy as np

from stages.datasets.patches import ChannelMoments, moments_of


def some_patches() -> np.ndarray:
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 256, (6, 5, 32, 32, 3)).astype(np.uint8)
    patches[..., 1] //= 3
    return patches


def test_moments_are_numpy_s_in_any_order() -> None:
    patches = some_patches()
    found = moments_of(patches)
    mean_C, std_C = found.arrays
    np.testing.assert_allclose(mean_C, patches.mean((0, 1, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std_C, patches.std((0, 1, 2, 3)), rtol=1e-6)
    assert found == moments_of(patches[::-1])


def test_a_constant_channel_is_left_as_it_is() -> None:
    patches = some_patches()
    patches[..., 2] = 7
    moments = moments_of([patches])
    assert moments.std[2] == 1
    assert (moments.standardise(patches)[:, :, 2::3] == 0).all()


def test_standardised_patches_have_mean_0_and_deviation_1_and_come_back() -> None:
    patches = some_patches()
    moments = moments_of([patches])
    x_TBD = moments.standardise(patches)
    assert x_TBD.shape == (5, 6, 3072)
    assert x_TBD.dtype == np.float32
    channels = x_TBD.reshape(-1, 3)
    np.testing.assert_allclose(channels.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(channels.std(0), 1, atol=1e-4)
    np.testing.assert_array_equal(moments.to_bytes(x_TBD).swapaxes(0, 1), patches)
    mean_C, std_C = moments.arrays
    assert x_TBD[3, 2, (7 * 32 + 5) * 3 + 1] == (np.float32(patches[2, 3, 7, 5, 1]) - mean_C[1]) / std_C[1]


def test_pictures_are_cut_off_and_do_not_wrap() -> None:
    moments = ChannelMoments(mean=(100,) * 3, std=(50,) * 3)
    x_TBD = np.tile(np.array([-9, 0, 9], np.float32), 1024).reshape(1, 1, 3072)
    assert moments.to_bytes(x_TBD)[0, 0, 0, 0].tolist() == [0, 100, 255]
