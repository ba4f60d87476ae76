"""The metrics: errors of frames.

Accounting of the paper's tables: a frame's error is summed over its dimensions; a model's is the mean over sequences
and frames. Functions that end in `_per_frame` keep every frame apart: the mean may be taken over any axes.

Shapes: T steps, B sequences, D dimensions of a frame, N frames, H x W pixels.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]

LOG_FLOOR: Final = -100.0
"""The lower bound of log-probabilities, in nats (as in torch.nn.BCELoss): 0 and 1 cost much, and not infinity."""


def cross_entropy_per_frame(mean_TBD: Frames, target_TBD: Frames) -> Values:
    """Computes -sum over D of [t log p + (1 - t) log(1 - p)], nats, shape (T, B); p and the real t lie in [0, 1].

    Its floor is the entropy of the target, which is above 0 where pixels are grey. `mean_TBD` may hold a single frame,
    which then stands for all of them.
    """
    if mean_TBD.shape[:1] != (1,):
        check_same_shape(mean_TBD, target_TBD)
    with np.errstate(divide="ignore"):
        log_p = np.maximum(np.log(mean_TBD), LOG_FLOOR)
        log_q = np.maximum(np.log1p(-mean_TBD), LOG_FLOOR)
    ink_TB = np.vecdot(target_TBD, log_p - log_q)
    return np.asarray(-(log_q.sum(axis=-1, dtype=np.float64) + ink_TB))


def cross_entropy_of_logits_per_frame(logit_TBD: Frames, target_TBD: Frames) -> Values:
    """Computes the cross-entropy of p = sigmoid(logit), nats, shape (T, B); the real t lie in [0, 1].

    It is exact where p has been rounded to 0 or 1: a pixel that is wrong by a logit of 17 costs 17 nats, and from p it
    would cost the bound of `cross_entropy_per_frame`.
    """
    check_same_shape(logit_TBD, target_TBD)
    softplus_TBD = np.maximum(logit_TBD, 0) + np.log1p(np.exp(-np.abs(logit_TBD)))
    return np.asarray(softplus_TBD.sum(axis=-1, dtype=np.float64) - np.vecdot(target_TBD, logit_TBD))


def squared_error_per_frame(mean_TBD: Frames, target_TBD: Frames) -> Values:
    """Computes the sum over D of (p - t)^2, shape (T, B): the "MSE" of later papers for 64x64 frames in [0, 1]."""
    check_same_shape(mean_TBD, target_TBD)
    return np.asarray(np.sum(np.square(mean_TBD - target_TBD), axis=-1, dtype=np.float64))


def ssim_per_frame(mean_NHW: Frames, target_NHW: Frames) -> Values:
    """Returns the structural similarity of images in [0, 1], shape (N,), by scikit-image; 1 is equality.

    The window is scikit-image's default, 7x7 uniform with sample covariances, because the Moving MNIST literature
    (PredRNN, SimVP and what follows them) calls it with defaults, and not the 11x11 Gaussian of Wang et al. (2004).
    The data range is 1, the range that pixels have; an old scikit-image took 2 for float images, which gives a higher
    figure.
    """
    from skimage.metrics import structural_similarity  # takes a second to import

    check_same_shape(mean_NHW, target_NHW)
    similarity_N = np.empty(len(mean_NHW))
    for n, pair in enumerate(zip(mean_NHW.astype(np.float64), target_NHW.astype(np.float64), strict=True)):
        similarity_N[n] = structural_similarity(*pair, data_range=1.0)  # type: ignore[no-untyped-call]
    return similarity_N


def check_same_shape(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> None:
    """Checks that what is compared has one shape. Raises ValueError."""
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ; what is compared must have one shape")
