"""The metrics: errors of frames, accuracy of labels, and intervals of means.

Accounting of the paper's tables: a frame's error is summed over its dimensions; a model's is the mean over sequences
and frames. Functions that end in `_per_frame` keep every frame apart: the mean may be taken over any axes.

Shapes: T steps, B sequences, D dimensions of a frame, N frames, H x W pixels.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

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
        _check_same_shape(mean_TBD, target_TBD)
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
    _check_same_shape(logit_TBD, target_TBD)
    softplus_TBD = np.maximum(logit_TBD, 0) + np.log1p(np.exp(-np.abs(logit_TBD)))
    return np.asarray(softplus_TBD.sum(axis=-1, dtype=np.float64) - np.vecdot(target_TBD, logit_TBD))


def squared_error_per_frame(mean_TBD: Frames, target_TBD: Frames) -> Values:
    """Computes the sum over D of (p - t)^2, shape (T, B): the "MSE" of later papers for 64x64 frames in [0, 1]."""
    _check_same_shape(mean_TBD, target_TBD)
    return np.asarray(np.sum(np.square(mean_TBD - target_TBD), axis=-1, dtype=np.float64))


def ssim_per_frame(mean_NHW: Frames, target_NHW: Frames) -> Values:
    """Returns the structural similarity of images in [0, 1], shape (N,), by scikit-image; 1 is equality.

    The window is scikit-image's default, 7x7 uniform with sample covariances, because the Moving MNIST literature
    (PredRNN, SimVP and what follows them) calls it with defaults, and not the 11x11 Gaussian of Wang et al. (2004).
    The data range is 1, the range that pixels have; an old scikit-image took 2 for float images, which gives a higher
    figure.
    """
    from skimage.metrics import structural_similarity  # takes a second to import

    _check_same_shape(mean_NHW, target_NHW)
    similarity_N = np.empty(len(mean_NHW))
    for n, pair in enumerate(zip(mean_NHW.astype(np.float64), target_NHW.astype(np.float64), strict=True)):
        similarity_N[n] = structural_similarity(*pair, data_range=1.0)  # type: ignore[no-untyped-call]
    return similarity_N


def accuracy(predicted: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Returns the share of labels that agree, 0..1. Raises ValueError where there are none."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    _check_same_shape(predicted, truth)
    if not predicted.size:
        raise ValueError("accuracy of no labels at all: give at least one")
    return float(np.mean(predicted == truth))


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float
    num: int
    """Number of values that the mean is taken over."""
    p: float
    """Two-sided p value of the hypothesis that the mean is 0; 1 for a single value."""


def t_interval(values: Sequence[float] | Values, confidence: float = 0.95, *, overlap: float = 0.0) -> Interval:
    """Computes the mean of values and its two-sided interval by Student's t; that of a single value is infinite.

    overlap: test clips per training clip where the values are of splits whose training sets overlap, so that they are
      not independent: the variance of the mean is then s^2 (1/n + overlap) and not s^2 / n (Nadeau and Bengio, 2003:
      "Inference for the generalization error", the corrected resampled t-test). 0: independent values.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"an interval needs a row of values; got shape {x.shape}")
    if overlap < 0:
        raise ValueError(f"overlap is {overlap}; a ratio of clips is at least 0")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, -np.inf, np.inf, 1, 1.0)
    from scipy import stats  # takes a second to import

    error = float(x.std(ddof=1) * np.sqrt(1 / x.size + overlap))
    half = float(stats.t.ppf((1 + confidence) / 2, x.size - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, x.size - 1)) if error else float(mean == 0)
    return Interval(mean, mean - half, mean + half, x.size, p)


def two_way_interval(values_ES: Values, confidence: float = 0.95, *, overlap: float = 0.0) -> Interval:
    """Computes the mean over two crossed factors, E encoders and S samplings or splits, and its two-sided interval.

    Both are random: another run would pretrain other encoders and draw other samplings. With the mean squares of a
    two-way layout without replication, the variance of the grand mean is (MS_E + MS_S - MS_ES) / (E S), where MS_ES is
    the residual (Searle, Casella and McCulloch, "Variance Components", 1992, section 4.4). It is taken to be no less
    than that of either factor alone, where chance makes the difference smaller. Its degrees of freedom are
    Satterthwaite's (1946) where the columns vary more and, because his are too many where a factor of few values
    dominates, E - 1 where the encoders do. From three encoders on, 94.6% of intervals or more hold the mean, whatever
    share either factor has (tests/stages/evaluation/test_two_way_interval.py); with two, 89%. With one row or one
    column there is one factor, and this is `t_interval`.

    overlap: as for `t_interval`, of the columns.
    """
    x_ES = np.asarray(values_ES, dtype=np.float64)
    if x_ES.ndim != 2 or not x_ES.size:
        raise ValueError(f"an interval over two factors needs a table of values; got shape {x_ES.shape}")
    E, S = x_ES.shape
    if E == 1:
        return t_interval(x_ES[0], confidence, overlap=overlap)
    if S == 1:
        return t_interval(x_ES[:, 0], confidence)
    from scipy import stats  # takes a second to import

    mean, mean_E1, mean_1S = float(x_ES.mean()), x_ES.mean(1, keepdims=True), x_ES.mean(0, keepdims=True)
    residual_ES = x_ES - mean_E1 - mean_1S + mean
    of_encoders = S * float(np.square(mean_E1 - mean).sum()) / (E - 1)
    of_columns = E * float(np.square(mean_1S - mean).sum()) / (S - 1) * (1 + S * overlap)
    of_both = float(np.square(residual_ES).sum()) / ((E - 1) * (S - 1))
    total = max(of_encoders + of_columns - of_both, of_encoders, of_columns)
    num_free = float(E - 1 if of_encoders >= of_columns else S - 1)
    if of_encoders < of_columns and total > of_columns:
        spread = of_encoders**2 / (E - 1) + of_columns**2 / (S - 1) + of_both**2 / ((E - 1) * (S - 1))
        num_free = total**2 / spread
    error = float(np.sqrt(total / x_ES.size))
    half = float(stats.t.ppf((1 + confidence) / 2, num_free)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, num_free)) if error else float(mean == 0)
    return Interval(mean, mean - half, mean + half, x_ES.size, p)


def paired_interval(
    worse: Sequence[float], better: Sequence[float], confidence: float = 0.95, *, overlap: float = 0.0
) -> Interval:
    """Computes the interval of the mean of `better - worse`, value by value; above 0, `better` is better."""
    a, b = np.asarray(worse, dtype=np.float64), np.asarray(better, dtype=np.float64)
    _check_same_shape(a, b)
    return t_interval(b - a, confidence, overlap=overlap)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p values of a family of tests (Holm, 1979).

    If those below a level are rejected, the chance that any true null hypothesis of the family is rejected stays below
    that level.
    """
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _check_same_shape(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes {a.shape} and {b.shape} differ; what is compared must have one shape")
