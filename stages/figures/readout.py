"""Percepts as pictures: a linear map from a percept to a small picture of its frame, by ridge regression.

Its pictures of the true percepts are the best that a prediction in percept space could give: the ceiling that belongs
beside every picture of a prediction.

Shapes: N frames, D percept dimension, P pixel values of a picture, R = min(N, D).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

PENALTIES: Final = tuple(10.0**exponent for exponent in range(-2, 7))
"""The ridge penalties that are tried, in units of the mean square of a standardised percept dimension."""


@dataclass(frozen=True)
class Readout:
    """A linear map: picture = percept @ weight + bias."""

    weight_DP: Floats
    bias_P: Floats
    penalty: float
    error: float
    """The mean square error of held-out pictures over their variance: 0 is perfect, 1 is the mean picture."""

    def __call__(self, x: Floats) -> Floats:
        """Maps percepts (..., D) to pictures (..., P)."""
        return x @ self.weight_DP + self.bias_P


def fit_readout(x_ND: Floats, picture_NP: Floats, *, num_held_out: int) -> Readout:
    """Fits on all frames but the last `num_held_out`, which choose the penalty; they should be of other videos."""
    num_fit = len(x_ND) - num_held_out
    assert 0 < num_fit < len(x_ND)
    mean_D, mean_P = x_ND[:num_fit].mean(0), picture_NP[:num_fit].mean(0)
    centred_ND, centred_NP = x_ND[:num_fit] - mean_D, picture_NP[:num_fit] - mean_P
    basis_RD, singular_R, projected_RP = _decompose(centred_ND, centred_NP)
    coordinates_NR = (x_ND[num_fit:] - mean_D) @ basis_RD.T
    held_out_NP = picture_NP[num_fit:] - mean_P
    variance = float(np.mean(np.square(held_out_NP)))

    def shrunk(penalty: float) -> Floats:
        factor_R = singular_R / (singular_R**2 + penalty * num_fit)
        return np.asarray(factor_R[:, None] * projected_RP, np.float32)

    def error(penalty: float) -> float:
        return float(np.mean(np.square(coordinates_NR @ shrunk(penalty) - held_out_NP))) / max(variance, 1e-12)

    errors = [error(penalty) for penalty in PENALTIES]
    best = int(np.argmin(errors))
    weight_DP = basis_RD.T @ shrunk(PENALTIES[best])
    return Readout(weight_DP, mean_P - mean_D @ weight_DP, PENALTIES[best], errors[best])


def _decompose(x_ND: Floats, y_NP: Floats) -> tuple[Floats, Floats, Floats]:
    """Decomposes x = U S V', by the smaller of x x' and x' x.

    Returns V' (R, D), the singular values (R,), and U' y (R, P).
    """
    num, dim = x_ND.shape
    square = x_ND.T @ x_ND if dim <= num else x_ND @ x_ND.T
    values, vectors = np.linalg.eigh(square.astype(np.float64))
    kept = values > values[-1] * 1e-7
    singular_R = np.sqrt(values[kept]).astype(np.float32)
    vectors = vectors[:, kept].astype(np.float32)
    if dim <= num:
        return vectors.T, singular_R, (vectors.T @ (x_ND.T @ y_NP)) / singular_R[:, None]
    return (vectors.T @ x_ND) / singular_R[:, None], singular_R, vectors.T @ y_NP
