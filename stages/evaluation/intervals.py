"""Confidence intervals of means: over samplings, over encoders and samplings, of paired differences, and of ratios.

Shapes: E encoders, S samplings or splits, N windows, G groups of them.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from stages.evaluation.metrics import Values

CONFIDENCE: Final = 0.95


class Interval(NamedTuple):
    """A mean and its confidence interval."""

    mean: float
    low: float
    high: float
    num: int
    """Number of values that the mean is taken over."""
    p: float
    """Two-sided p value of the hypothesis that the mean is 0; 1 for a single value."""


def t_interval(values: Sequence[float] | Values, *, overlap: float = 0.0) -> Interval:
    """Computes the mean of values and its two-sided 95% interval by Student's t; that of a single value is infinite.

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
    return _interval(mean, float(x.std(ddof=1) * np.sqrt(1 / x.size + overlap)), x.size - 1, x.size)


def _interval(mean: float, error: float, num_free: float, num: int) -> Interval:
    """Returns the interval of a mean by its standard error and degrees of freedom."""
    from scipy import stats  # takes a second to import

    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, num_free)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, num_free)) if error else float(mean == 0)
    return Interval(mean, mean - half, mean + half, num, p)


def two_way_interval(values_ES: Values, *, overlap: float = 0.0) -> Interval:
    """Computes the mean over two crossed factors, E encoders and S samplings or splits, and its two-sided interval.

    Both are random: another run would pretrain other encoders and draw other samplings. With the mean squares of a
    two-way layout without replication, the variance of the grand mean is (MS_E + MS_S - MS_ES) / (E S), where MS_ES is
    the residual (Searle, Casella and McCulloch, "Variance Components", 1992, section 4.4). It is taken to be no less
    than that of either factor alone, where chance makes the difference smaller. Its degrees of freedom are
    Satterthwaite's (1946) where the columns vary more and, because his are too many where a factor of few values
    dominates, E - 1 where the encoders do. From three encoders on, 94.6% of intervals or more hold the mean, whatever
    share either factor has (tests/stages/evaluation/test_intervals.py); with two, 89%. With one row or one
    column there is one factor, and this is `t_interval`.

    overlap: as for `t_interval`, of the columns.
    """
    x_ES = np.asarray(values_ES, dtype=np.float64)
    if x_ES.ndim != 2 or not x_ES.size:
        raise ValueError(f"an interval over two factors needs a table of values; got shape {x_ES.shape}")
    E, S = x_ES.shape
    if E == 1:
        return t_interval(x_ES[0], overlap=overlap)
    if S == 1:
        return t_interval(x_ES[:, 0])
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
    return _interval(mean, float(np.sqrt(total / x_ES.size)), num_free, x_ES.size)


def ratio_interval(error_N: Values, reference_N: Values, group_N: npt.NDArray[np.int64]) -> Interval | None:
    """Computes the ratio of two sums over the same windows, and its two-sided interval over groups; None: divides by 0.

    Another draw of groups would have other windows, and other numbers of them: the variance is that of a ratio of sums
    over clusters (Cochran, "Sampling Techniques", 1977, section 6.3). A residual is divided by the share of the
    reference that is not its own group's, as in HC3 (MacKinnon and White, 1985), since the ratio leans towards large
    groups. So of 5, 12 and 50 groups that differ much, 94 to 95% of intervals hold the ratio, and 89 to 93% without.

    error_N, reference_N: paired, as of a model and of a baseline. group_N: the group of each window, from 0 on.
    """
    error_G, reference_G = (np.bincount(group_N, values_N) for values_N in (error_N, reference_N))
    total, num_groups = float(reference_G.sum()), len(reference_G)
    if not total:
        return None
    ratio = float(error_G.sum()) / total
    others_G = 1 - reference_G / total
    if not others_G.all():
        return Interval(ratio, -np.inf, np.inf, num_groups, 1.0)
    residual_G = (error_G - ratio * reference_G) / others_G
    error = float(np.sqrt(np.square(residual_G).sum() * num_groups / (num_groups - 1))) / total
    return _interval(ratio, error, num_groups - 1, num_groups)


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
