"""Pins the metrics to numbers that were worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from export.evaluation import metrics

GENUINE = [4.0, 3.0, 2.0, 1.0]
IMPOSTOR = [2.5, 0.5, 0.0, -1.0]


def test_roc_of_four_pairs_of_each_kind() -> None:
    curve = metrics.roc(GENUINE, IMPOSTOR)
    assert curve.thresholds.tolist() == [math.inf, 4.0, 3.0, 2.5, 2.0, 1.0, 0.5, 0.0, -1.0]
    assert curve.far.tolist() == [0, 0, 0, 0.25, 0.25, 0.25, 0.5, 0.75, 1.0]
    assert curve.frr.tolist() == [1, 0.75, 0.5, 0.5, 0.25, 0, 0, 0, 0]


def test_roc_gives_equal_scores_one_threshold() -> None:
    curve = metrics.roc([1.0, 1.0], [1.0, 0.0])
    assert curve.thresholds.tolist() == [math.inf, 1.0, 0.0]
    assert curve.far.tolist() == [0.0, 0.5, 1.0]
    assert curve.frr.tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("genuine", "impostor", "expected"),
    [
        (GENUINE, IMPOSTOR, 0.25),  # at threshold 2: FAR = FRR = 1/4
        ([2.0, 3.0], [0.0, 1.0], 0.0),
        ([0.0, 1.0], [2.0, 3.0], 1.0),
        # Thresholds 3, 2, 1: (FAR, FRR) = (0, 1/2), (1/3, 1/2), (1, 0). Between the last two FAR - FRR goes from
        # -1/6 to 1, crossing zero after 1/7 of the way: FAR there is 1/3 + 2/21 = 3/7.
        ([3.0, 1.0], [2.0, 1.0, 1.0], 3 / 7),
    ],
)
def test_equal_error_rate(genuine: list[float], impostor: list[float], expected: float) -> None:
    assert metrics.equal_error_rate(metrics.roc(genuine, impostor)) == pytest.approx(expected, abs=1e-12)


def test_equal_error_rate_of_two_normal_distributions() -> None:
    # Means two standard deviations apart: the rates are equal half-way, at Phi(-1).
    rng = np.random.default_rng(0)
    curve = metrics.roc(rng.normal(2, 1, 100_000), rng.normal(0, 1, 100_000))
    assert metrics.equal_error_rate(curve) == pytest.approx(0.158655, abs=0.002)


@pytest.mark.parametrize(("threshold", "far", "frr"), [(2.5, 0.25, 0.5), (2.0, 0.25, 0.25), (2.6, 0.0, 0.5)])
def test_error_rates_at_a_threshold(threshold: float, far: float, frr: float) -> None:
    assert metrics.error_rates_at(threshold, GENUINE, IMPOSTOR) == (far, frr)


@pytest.mark.parametrize("scores", [[], [math.nan], [math.inf]])
def test_scores_are_checked(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="genuine score"):
        metrics.roc(scores, IMPOSTOR)


def test_threshold_at_far_lets_through_as_many_as_it_may() -> None:
    impostor = np.arange(10_000, dtype=float)
    threshold = metrics.threshold_at_far(impostor, 1e-2)
    assert threshold == 9899.5
    assert (impostor >= threshold).sum() == 100


@pytest.mark.parametrize(("pairs", "stated"), [(2_999, False), (3_000, True)])
def test_threshold_at_far_follows_the_rule_of_30(pairs: int, stated: bool) -> None:
    threshold = metrics.threshold_at_far(np.arange(pairs, dtype=float), 1e-2)
    assert (threshold is not None) == stated


def test_threshold_at_far_counts_whole_errors_despite_rounding() -> None:
    # 0.0001 * 300,000 is 30.000000000000004 or 29.999999999999996, depending on the machine's mood.
    threshold = metrics.threshold_at_far(np.arange(300_000, dtype=float), 1e-4)
    assert threshold == 299_969.5


def test_threshold_at_far_stays_above_equal_scores() -> None:
    impostor = np.concatenate([np.zeros(960), np.full(39, 1.0), [2.0]])
    # 30 may pass and 40 are at 1 or more, so only the one at 2 does.
    threshold = metrics.threshold_at_far(impostor, 0.03)
    assert threshold == 1.5
    assert metrics.threshold_at_far(np.zeros(1000), 0.03) is None


def test_threshold_at_far_refuses_a_rate_of_zero() -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        metrics.threshold_at_far([0.0], 0.0)


def test_best_accuracy_is_optimistic() -> None:
    curve = metrics.roc(GENUINE, IMPOSTOR)
    assert metrics.best_accuracy(curve, 4, 4) == (0.875, 1.0)


STATED = [0.05, 0.15, 0.15, 0.85, 0.95, 1.0]
SAME = [False, False, True, True, True, True]


def test_reliability_has_bins_of_equal_width() -> None:
    curve = metrics.reliability(STATED, SAME, bins=10)
    assert curve.centers == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
    assert curve.counts.tolist() == [1, 2, 0, 0, 0, 0, 0, 0, 1, 2]
    assert curve.predicted[[0, 1, 8, 9]] == pytest.approx([0.05, 0.15, 0.85, 0.975])
    assert curve.observed[[0, 1, 8, 9]] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert np.isnan(curve.predicted[2:8]).all()
    assert np.isnan(curve.observed[2:8]).all()


def test_expected_calibration_error_weighs_bins_by_their_pairs() -> None:
    # 1/6 * 0.05 + 2/6 * 0.35 + 1/6 * 0.15 + 2/6 * 0.025
    assert metrics.expected_calibration_error(STATED, SAME, bins=10) == pytest.approx(0.95 / 6)


def test_brier_score() -> None:
    # (0.05^2 + 0.15^2 + 0.85^2 + 0.15^2 + 0.05^2 + 0) / 6
    assert metrics.brier_score(STATED, SAME) == pytest.approx(0.7725 / 6)
    assert metrics.brier_score([0.5, 0.5], [True, False]) == 0.25


@pytest.mark.parametrize(
    ("p", "same", "message"),
    [
        ([1.1], [True], r"in \[0, 1\]"),
        ([], [], "no probabilities"),
        ([0.5], [], "1 probabilities need as many outcomes, not 0"),
    ],
)
def test_probabilities_are_checked(p: list[float], same: list[bool], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.brier_score(p, same)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (384, 400, 0.936018, 0.975231),
        (5, 10, 0.236593, 0.763407),
        (0, 10, 0.0, 0.277533),
        (10, 10, 0.722467, 1.0),
    ],
)
def test_wilson_interval(successes: int, trials: int, low: float, high: float) -> None:
    interval = metrics.wilson_interval(successes, trials)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=2e-6)


def test_wilson_interval_refuses_no_trials() -> None:
    with pytest.raises(ValueError, match="0 successes in 0 trials"):
        metrics.wilson_interval(0, 0)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [
        (1, 12.7062),
        (2, 4.302653),
        (3, 3.182446),
        (4, 2.776445),
        (5, 2.570582),
        (9, 2.262157),
        (30, 2.042272),
        (100, 1.983972),
        (10**6, 1.959966),
    ],
)
def test_student_t_against_the_printed_table(freedom: int, quantile: float) -> None:
    assert metrics.student_t(0.95, freedom) == pytest.approx(quantile, rel=1e-3)


def test_an_interval_over_classes_is_that_of_the_classes_not_of_the_queries() -> None:
    # Four queries of each of two classes: means 1 and 0.5, s = 0.353553, t_1 = 12.7062.
    values, classes = [1, 1, 1, 1, 1, 1, 0, 0], [3, 3, 3, 3, 7, 7, 7, 7]
    interval = metrics.class_interval(values, classes)
    half = 12.7062 * 0.353553 / math.sqrt(2)
    assert (interval.low, interval.high) == pytest.approx((0.75 - half, 0.75 + half), abs=1e-4)
    assert metrics.class_interval(values * 100, classes * 100) == pytest.approx(interval)
    bounded = metrics.class_accuracy_interval(values, classes)
    assert (bounded.low, bounded.high) == (0.0, 1.0)
    with pytest.raises(ValueError, match="at least two"):
        metrics.class_interval([1, 0], [5, 5])


def test_two_classes_without_an_error_prove_little() -> None:
    interval = metrics.class_accuracy_interval(np.ones(4000), np.arange(4000) % 2)
    assert (interval.low, interval.high) == pytest.approx((0.342380, 1.0), abs=1e-6)  # Wilson, 2 of 2
    many = metrics.class_accuracy_interval(np.ones(4000), np.arange(4000) % 400)
    assert (many.low, many.high) == pytest.approx((0.990487, 1.0), abs=1e-6)  # 400 of 400
    one = metrics.class_accuracy_interval([True, True], [4, 4])
    assert (one.low, one.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("events", "low", "high"),
    [
        (0, 0.0, 3.688879),
        (1, 0.025318, 5.571643),
        (10, 4.795389, 18.390356),
        (100, 81.363991, 121.626794),
    ],
)
def test_poisson_interval_against_the_printed_table(events: int, low: float, high: float) -> None:
    interval = metrics.poisson_interval(events)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)
    with pytest.raises(ValueError, match="-1 events"):
        metrics.poisson_interval(-1)


def test_a_rate_is_as_uncertain_as_independent_events_or_more() -> None:
    # No event in 360 queries: at most 3.69 of them.
    none = metrics.rate_interval(np.zeros(360), np.arange(360) % 60)
    assert (none.low, none.high) == pytest.approx((0.0, 3.688879 / 360), abs=1e-7)
    # 40 events of one class of four: means 1, 0, 0 and 0, s = 0.5, t_3 = 3.182446. Independent: 28.58 to 54.47 of 160.
    one_of_four = np.arange(160) % 4
    clustered = metrics.rate_interval(one_of_four == 0, one_of_four)
    assert clustered.low == 0.0
    assert clustered.high == pytest.approx(0.25 + 3.182446 * 0.5 / 2, abs=1e-4)
    spread = metrics.rate_interval(np.arange(160) < 40, np.arange(160) % 40)
    assert (spread.low, spread.high) == pytest.approx((28.5766 / 160, 54.4686 / 160), abs=1e-5)
    assert metrics.rate_interval([0, 0], [1, 1]).high == pytest.approx(3.688879 / 2, abs=1e-6)


def test_mean_interval() -> None:
    # Mean 0.55, s = sqrt(0.25 * 10 / 9 ...): ten values 0.1 ... 1.0 have s = 0.302765; t_9 = 2.262157.
    interval = metrics.mean_interval(np.arange(1, 11) / 10)
    half = 2.262157 * 0.302765 / math.sqrt(10)
    assert (interval.low, interval.high) == pytest.approx((0.55 - half, 0.55 + half), abs=1e-4)
    with pytest.raises(ValueError, match="at least two episodes"):
        metrics.mean_interval([1.0])
