"""Authorities: SciPy's tests, least squares written out, and how often an interval holds the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stages.evaluation.intervals import ratio_interval, t_interval, two_way_interval
from stages.evaluation.scores import Predictions, scores_of

CLASSES = ("a", "b")
NUM_CLIPS = 400


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12))
def test_t_interval_is_scipy_s(values: list[float]) -> None:
    found = t_interval(values)
    assert found.num == len(values)
    if np.std(values) < 1e-9:
        assert found.high - found.low < 1e-6
        return
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], [expected.low, expected.high], rtol=1e-9, atol=1e-9)


def test_one_value_has_no_finite_interval() -> None:
    assert t_interval([0.5]) == (0.5, -np.inf, np.inf, 1, 1.0)
    with pytest.raises(ValueError, match="row of values"):
        t_interval([])


def test_the_variance_is_that_of_a_least_squares_fit_of_both_factors() -> None:
    generator = np.random.default_rng(0)
    x_ES = generator.normal(size=(3, 1)) + 2 * generator.normal(size=(1, 5)) + generator.normal(size=(3, 5))
    rows, columns = np.repeat(np.eye(3), 5, axis=0), np.tile(np.eye(5), (3, 1))

    def squares(*factors: np.ndarray) -> float:
        """Returns the residual sum of squares of a linear model."""
        design = np.hstack([np.ones((15, 1)), *factors])
        fit = design @ np.linalg.lstsq(design, x_ES.ravel(), rcond=None)[0]
        return float(np.square(x_ES.ravel() - fit).sum())

    both = squares(rows, columns) / 8
    of_rows = (squares(columns) - squares(rows, columns)) / 2
    of_columns = (squares(rows) - squares(rows, columns)) / 4
    assert of_columns > of_rows > both, "the data should show Satterthwaite's case"
    variance = (of_rows + of_columns - both) / 15
    freedom = (variance * 15) ** 2 / (of_rows**2 / 2 + of_columns**2 / 4 + both**2 / 8)
    low, high = stats.t.interval(0.95, freedom, x_ES.mean(), np.sqrt(variance))
    interval = two_way_interval(x_ES)
    assert (interval.low, interval.high) == pytest.approx((low, high))
    assert interval.p == pytest.approx(2 * stats.t.sf(abs(x_ES.mean()) / np.sqrt(variance), freedom))


def test_one_row_or_one_column_is_the_interval_of_one_factor() -> None:
    values = np.array([0.1, 0.4, 0.2])
    assert two_way_interval(values[None]) == t_interval(values)
    assert two_way_interval(values[:, None]) == t_interval(values)
    assert two_way_interval(values[None], overlap=0.5) == t_interval(values, overlap=0.5)
    with pytest.raises(ValueError, match="two factors needs a table"):
        two_way_interval(values)


@pytest.mark.parametrize("encoder_sd", [0.0, 0.75, 3.4])
@pytest.mark.parametrize(("sampling_sd", "num_samplings"), [(0.5, 10), (2.0, 10), (2.0, 5)])
def test_a_row_that_is_compared_with_itself_cannot_be_told_apart(
    encoder_sd: float, sampling_sd: float, num_samplings: int
) -> None:
    """Draws two of the same method, three encoders each, samplings that they share, in points of accuracy.

    The spread between seeds is that measured on the demo, 0.75 to 3.4 points; 10 and 5 are the numbers of its tables.
    """
    generator, told_apart, runs = np.random.default_rng(0), 0, 1000
    for _ in range(runs):
        first, second = (
            generator.normal(scale=encoder_sd, size=(3, 1)) + generator.normal(scale=1.0, size=(3, num_samplings))
            for _ in "12"
        )
        shared = generator.normal(scale=sampling_sd, size=(1, num_samplings)) * generator.normal(loc=1.0, scale=0.3)
        interval = two_way_interval(second + shared - first)
        told_apart += not interval.low <= 0 <= interval.high
    # 5 of 100, and three standard errors of a thousand draws.
    assert told_apart / runs <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / runs)


def one_arm(arm: str, encoder: str, num_correct: list[int]) -> Predictions:
    """Makes the predictions of an arm of which each sampling classifies so many of the clips correctly."""
    predicted_GN = np.ones((len(num_correct), NUM_CLIPS), np.int16)
    for row, number in zip(predicted_GN, num_correct, strict=True):
        row[:number] = 0
    return Predictions(
        arm=arm,
        class_names=CLASSES,
        labels_per_class=5,
        split=0,
        samplings=tuple(range(len(num_correct))),
        clips=tuple((f"clip-{n}",) for n in range(len(num_correct))),
        predicted_GN=predicted_GN,
        probability_GN=predicted_GN.astype(np.float32),
        probabilities_GNC=None,
        num_padded=0,
        encoder=encoder,
    )


def test_a_table_pairs_every_encoder_with_the_arm_that_has_none() -> None:
    scratch = [200, 210, 190, 205]
    pretrained = {"e0": [240, 250, 238, 246], "e1": [260, 268, 255, 262], "e2": [230, 236, 228, 240]}
    arms = [one_arm("scratch", "", scratch), *(one_arm("pretrained", *pair) for pair in pretrained.items())]
    table = scores_of(arms, {0: ["a"] * NUM_CLIPS}, groups={0: [f"g{n % 20}" for n in range(NUM_CLIPS)]})
    (pair,) = table.paired
    values_ES = (np.array(list(pretrained.values())) - scratch) / NUM_CLIPS
    expected = two_way_interval(values_ES)
    assert (pair.difference, pair.low, pair.high) == pytest.approx(expected[:3])
    assert (pair.num_encoders, pair.num_samplings, pair.over) == (3, 4, "encoders and samplings")
    assert pair.population == "3 encoders and 4 samplings"
    assert [row.encoder for row in table.samplings] == [""] * 4 + ["e0", "e1", "e2"] * 4
    # One encoder, and its interval is narrower than the method's, and says whose it is.
    (single,) = scores_of(arms[:2], {0: ["a"] * NUM_CLIPS}).paired
    assert single.high - single.low < pair.high - pair.low
    assert single.population == "4 samplings, for this encoder"


def test_groups_are_resampled_whole() -> None:
    """Clips of a group share their fate, so that an interval over groups is that of so many independent values."""
    generator = np.random.default_rng(1)
    group_N = np.repeat(np.arange(25), 16)
    better = generator.random(25) < 0.6
    predictions = [one_arm("worse", "", [0]), one_arm("better", "", [0])]
    predictions[1].predicted_GN[0] = np.where(better[group_N], 0, 1)
    (pair,) = scores_of(predictions, {0: ["a"] * NUM_CLIPS}, groups={0: [f"group {n}" for n in group_N]}).paired
    share = better.mean()
    spread = 1.96 * np.sqrt(share * (1 - share) / 25)
    assert pair.num_groups == 25
    assert (pair.groups_low, pair.groups_high) == pytest.approx((share - spread, share + spread), abs=0.05)


def test_arms_of_other_numbers_of_encoders_are_refused() -> None:
    arms = [one_arm("one", "a", [1]), *(one_arm("two", key, [2]) for key in "bc")]
    with pytest.raises(Exception, match="start from 1 and 2 encoders"):
        scores_of(arms, {0: ["a"] * NUM_CLIPS})


def test_a_ratio_over_groups_is_the_textbook_s_and_holds_the_truth() -> None:
    """The formula of Cochran with HC3's residuals, and about 95% of intervals over draws of groups."""
    rng = np.random.default_rng(0)
    num_draws, num_groups, num_right = 2000, 12, 0
    for _ in range(num_draws):
        group_N = np.repeat(np.arange(num_groups), rng.integers(1, 20, num_groups))
        of_group = rng.gamma(9, 1 / 9, num_groups)[group_N]
        reference_N = of_group * rng.gamma(4, 1 / 4, len(group_N))
        error_N = 0.8 * reference_N * rng.gamma(9, 1 / 9, num_groups)[group_N]
        interval = ratio_interval(error_N, reference_N, group_N)
        assert interval is not None
        num_right += interval.low <= 0.8 <= interval.high
    assert 0.93 <= num_right / num_draws <= 0.97
    error_G, reference_G = (
        np.array([values_N[group_N == group].sum() for group in range(num_groups)])
        for values_N in (error_N, reference_N)
    )
    ratio = error_N.sum() / reference_N.sum()
    residual_G = (error_G - ratio * reference_G) / (1 - reference_G / reference_G.sum())
    variance = (residual_G**2).sum() / (num_groups - 1) / num_groups / reference_G.mean() ** 2
    low, high = stats.t.interval(0.95, num_groups - 1, ratio, np.sqrt(variance))
    np.testing.assert_allclose((interval.mean, interval.low, interval.high), (ratio, low, high))
    assert ratio_interval(error_N, np.zeros_like(error_N), group_N) is None
    for groups in (np.zeros_like(group_N), np.minimum(group_N, 1)):  # one group, or one with all of the reference
        interval = ratio_interval(error_N, np.where(groups == 0, reference_N, 0), groups)
        assert interval is not None
        assert not np.isfinite([interval.low, interval.high]).any()
