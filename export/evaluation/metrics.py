"""Metrics of verification: error rates, calibration, confidence intervals.

Terms: a pair is *genuine* if both images are of one class, and an *impostor* pair otherwise. A higher score means "more
likely the same"; a pair is accepted if its score is at least the threshold. FAR (false-accept rate) is the share of
impostor pairs that are accepted, FRR (false-reject rate) the share of genuine pairs that are rejected.

It uses only numpy and the standard library, so the metrics can be computed wherever embeddings can.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

CONFIDENCE = 0.95
RULE_OF_30 = 30
"""Minimum number of expected errors for an error rate to be stated.

With 30 errors the true rate is within 30 % of the observed one at 90 % confidence, for independent trials
(Doddington, Przybocki, Martin, Reynolds, "The NIST speaker recognition evaluation", Speech Communication 31,
2000). Pairs that share images are not independent, so this is a lower bound.
"""


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a mean or a proportion."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Roc:
    """Error rates at every threshold that separates two scores, from the strictest to the most lenient."""

    thresholds: Floats
    """(T,), falling from +infinity."""
    far: Floats
    """(T,), rising from 0 to 1."""
    frr: Floats
    """(T,), falling from 1 to 0."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Stated against observed probability, in bins of equal width over [0, 1]."""

    centers: Floats
    """(B,), the middle of each bin."""
    predicted: Floats
    """(B,), mean stated probability of the pairs in a bin; NaN in an empty one."""
    observed: Floats
    """(B,), share of genuine pairs in a bin; NaN in an empty one."""
    counts: npt.NDArray[np.int64]
    """(B,), pairs in a bin."""


def roc(genuine: npt.ArrayLike, impostor: npt.ArrayLike) -> Roc:
    """Error rates at all thresholds.

        FAR(t) = #{impostor >= t} / #impostor        FRR(t) = #{genuine < t} / #genuine

    Args:
        genuine: scores of genuine pairs, of any shape, finite.
        impostor: scores of impostor pairs, of any shape, finite.
    """
    same, different = _scores(genuine, "genuine"), _scores(impostor, "impostor")
    values = np.unique(np.concatenate([same, different]))[::-1]
    rejected = np.searchsorted(np.sort(same), values, side="left")
    accepted = len(different) - np.searchsorted(np.sort(different), values, side="left")
    return Roc(
        thresholds=np.concatenate([[np.inf], values]),
        far=np.concatenate([[0.0], accepted / len(different)]),
        frr=np.concatenate([[1.0], rejected / len(same)]),
    )


def equal_error_rate(curve: Roc) -> float:
    """The rate at which FAR and FRR are equal, on the line between the two ROC points that bracket it."""
    difference = curve.far - curve.frr  # rises from -1 to 1
    after = int(np.argmax(difference >= 0.0))
    before = after - 1
    share = -difference[before] / (difference[after] - difference[before])
    return float(curve.far[before] + share * (curve.far[after] - curve.far[before]))


def error_rates_at(threshold: float, genuine: npt.ArrayLike, impostor: npt.ArrayLike) -> tuple[float, float]:
    """(FAR, FRR) when scores of at least `threshold` are accepted."""
    same, different = _scores(genuine, "genuine"), _scores(impostor, "impostor")
    return float(np.mean(different >= threshold)), float(np.mean(same < threshold))


def threshold_at_far(impostor: npt.ArrayLike, rate: float, min_errors: int = RULE_OF_30) -> float | None:
    """The most lenient threshold whose FAR on these impostor pairs is at most `rate`.

    It is half-way between the last impostor score that may pass and the first that may not, so that rounding
    differences on another machine do not move it past one of them.

    Args:
        impostor: scores of impostor pairs.
        rate: false-accept rate, in (0, 1).
        min_errors: minimum number of expected false accepts at `rate` for a meaningful figure.

    Returns:
        The threshold; None if `rate` times the number of pairs is below `min_errors`, or if too many scores
        are equal for any threshold to have a FAR above zero and at most `rate`.
    """
    if not 0.0 < rate < 1.0:
        raise ValueError(f"a false-accept rate lies strictly between 0 and 1, not at {rate}")
    scores = _scores(impostor, "impostor")
    # The product of a rate like 1e-4 and a count must not fall below a whole number by a rounding error.
    allowed = math.floor(rate * len(scores) + 1e-9)
    if allowed < max(1, min_errors):
        return None
    # Only the two scores at the cut are needed: a partition, not a sort, of millions of scores.
    cut = len(scores) - allowed
    parted = np.partition(scores, (cut - 1, cut))
    first_refused, last_accepted = float(parted[cut - 1]), float(parted[cut])
    if first_refused < last_accepted:
        return 0.5 * (first_refused + last_accepted)
    above = scores[scores > last_accepted]
    return 0.5 * (last_accepted + float(above.min())) if len(above) else None


def best_accuracy(curve: Roc, genuine: int, impostor: int) -> tuple[float, float]:
    """(accuracy, threshold) of the threshold that is best on these pairs: an optimistic figure.

    Args:
        curve: the ROC curve of the pairs.
        genuine: number of genuine pairs of the curve.
        impostor: number of impostor pairs of the curve.
    """
    errors = curve.far * impostor + curve.frr * genuine
    best = int(np.argmin(errors))
    return float(1.0 - errors[best] / (genuine + impostor)), float(curve.thresholds[best])


def reliability(probabilities: npt.ArrayLike, same: npt.ArrayLike, bins: int = 15) -> Reliability:
    """The reliability curve (DeGroot and Fienberg, 1983) of stated probabilities.

    The bins are of equal width over [0, 1]; a probability of exactly 1 belongs to the last.

    Args:
        probabilities: p(same) of each pair, (P,), in [0, 1].
        same: whether each pair is genuine, (P,).
        bins: number of bins.
    """
    stated, outcome = _stated(probabilities, same)
    index = np.minimum((stated * bins).astype(np.int64), bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        predicted = np.bincount(index, weights=stated, minlength=bins) / counts
        observed = np.bincount(index, weights=outcome, minlength=bins) / counts
    return Reliability((np.arange(bins) + 0.5) / bins, predicted, observed, counts)


def expected_calibration_error(probabilities: npt.ArrayLike, same: npt.ArrayLike, bins: int = 15) -> float:
    """Mean difference of stated probabilities and observed frequencies, over the pairs.

        ECE = sum_b (n_b / n) |observed_b - predicted_b|

    over bins of equal width of p(same), not of the confidence in the decision (Naeini, Cooper, Hauskrecht,
    2015; with 15 bins as in Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", 2017).
    """
    curve = reliability(probabilities, same, bins)
    filled = curve.counts > 0
    gaps = np.abs(curve.observed[filled] - curve.predicted[filled])
    return float(np.sum(gaps * curve.counts[filled]) / curve.counts.sum())


def brier_score(probabilities: npt.ArrayLike, same: npt.ArrayLike) -> float:
    """Mean squared difference of stated probability and outcome (Brier, 1950).

    0 is perfect; always saying 1/2 gives 0.25.
    """
    stated, outcome = _stated(probabilities, same)
    return float(np.mean((stated - outcome) ** 2))


def wilson_interval(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a proportion (Wilson, 1927), which stays inside [0, 1] and works near 0 and 1.

    (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials is not a proportion")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, z2 = successes / trials, z * z
    middle = p + z2 / (2 * trials)
    half = z * math.sqrt(p * (1 - p) / trials + z2 / (4 * trials * trials))
    scale = 1 + z2 / trials
    # At p = 0 and p = 1 one end is exactly 0 or 1, which rounding misses.
    return Interval(
        0.0 if successes == 0 else (middle - half) / scale,
        1.0 if successes == trials else (middle + half) / scale,
    )


def mean_interval(values: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a mean over independent episodes: mean +- t_{n-1} s / sqrt(n) (Student, 1908).

    Args:
        values: one figure per episode, at least two.
        confidence: two-sided confidence level of the interval.
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    if len(numbers) < 2:
        raise ValueError("an interval needs at least two episodes")
    half = student_t(confidence, len(numbers) - 1) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    mean = float(numbers.mean())
    return Interval(mean - half, mean + half)


def class_interval(values: npt.ArrayLike, classes: npt.ArrayLike) -> Interval:
    """Interval of a mean over queries, for another sample of classes: Student's, over the means of the classes.

    It is wider than an interval over queries or episodes, which draw the same few classes repeatedly.

    Args:
        values: one figure per query, (Q,).
        classes: the class of each query, (Q,); at least two different ones.
    """
    numbers = np.asarray(values, dtype=np.float64).ravel()
    _, index, counts = np.unique(np.asarray(classes).ravel(), return_inverse=True, return_counts=True)
    if len(counts) < 2:
        raise ValueError("an interval over classes needs at least two of them")
    over_classes = mean_interval(np.bincount(index, weights=numbers) / counts)
    half, mean = 0.5 * (over_classes.high - over_classes.low), float(numbers.mean())
    return Interval(mean - half, mean + half)


def class_accuracy_interval(correct: npt.ArrayLike, classes: npt.ArrayLike) -> Interval:
    """Interval of an accuracy for another choice of classes, within [0, 1].

    If all classes have the same accuracy, such as 1, it is Wilson's interval with one trial per class.

    Args:
        correct: whether each query was answered correctly, (Q,).
        classes: the class of each query, (Q,).
    """
    count = len(np.unique(np.asarray(classes)))
    if count < 2:
        return Interval(0.0, 1.0)
    interval = class_interval(correct, classes)
    if interval.low < interval.high:
        return Interval(max(0.0, interval.low), min(1.0, interval.high))
    wilson = wilson_interval(round(interval.low * count), count)
    return Interval(min(wilson.low, interval.low), max(wilson.high, interval.high))


def poisson_interval(events: int, confidence: float = CONFIDENCE) -> Interval:
    """Exact interval of the mean of a Poisson distribution, for independent events (Garwood, 1936).

    Without any event, the upper end is 3.69: the rule of three, two-sided.
    """
    if events < 0:
        raise ValueError(f"{events} events cannot be observed")
    tail = 0.5 * (1.0 - confidence)
    low = 0.0 if events == 0 else _poisson_mean(events - 1, 1.0 - tail)
    return Interval(low, _poisson_mean(events, tail))


def rate_interval(counts: npt.ArrayLike, classes: npt.ArrayLike) -> Interval:
    """Interval of the mean count of a query, for another choice of classes; at least as wide as for independent events.

    Args:
        counts: events in each query, (Q,).
        classes: the class of each query, (Q,).
    """
    numbers = np.asarray(counts, dtype=np.int64).ravel()
    poisson = poisson_interval(int(numbers.sum()))
    low, high = poisson.low / len(numbers), poisson.high / len(numbers)
    if len(np.unique(np.asarray(classes))) < 2:
        return Interval(low, high)
    over_classes = class_interval(numbers, classes)
    return Interval(max(0.0, min(low, over_classes.low)), max(high, over_classes.high))


def student_t(confidence: float, freedom: int) -> float:
    """The two-sided quantile of Student's t.

    By the expansion around the normal quantile (Abramowitz and Stegun, 26.7.5), within 0.1 % for five degrees of
    freedom or more at 95 %; below, from the distribution itself (26.7.3 and 26.7.4).
    """
    if freedom < 5:
        low, high = 0.0, math.pi / 2
        while high - low > 1e-14:
            angle = 0.5 * (low + high)
            low, high = (angle, high) if _student_within(angle, freedom) < confidence else (low, angle)
        return math.sqrt(freedom) * math.tan(0.5 * (low + high))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return float(sum(term / freedom**power for power, term in enumerate(terms)))


def _poisson_mean(events: int, probability: float) -> float:
    """The mean at which the probability of at most `events` events is `probability`."""
    number = np.arange(events + 1)
    log_factorials = np.cumsum(np.log(np.maximum(number, 1)))
    low, high = 0.0, 2.0 * events + 40.0
    while high - low > 1e-12 * high:
        mean = 0.5 * (low + high)
        at_most = float(np.exp(number * math.log(mean) - mean - log_factorials).sum())
        low, high = (mean, high) if at_most > probability else (low, mean)
    return 0.5 * (low + high)


def _student_within(angle: float, freedom: int) -> float:
    """Probability that |t| is at most sqrt(freedom) * tan(angle), for 1 to 4 degrees of freedom."""
    sine, cosine = math.sin(angle), math.cos(angle)
    if freedom % 2:
        return 2.0 / math.pi * (angle + (sine * cosine if freedom == 3 else 0.0))
    return sine * (1.0 + (0.5 * cosine * cosine if freedom == 4 else 0.0))


def logit(probability: float) -> float:
    """The log-odds of a probability in (0, 1)."""
    return float(np.log(probability) - np.log1p(-probability))


def sigmoid(log_odds: float) -> float:
    """The probability of log-odds; the inverse of `logit`, and never an overflow."""
    return float(0.5 * (1.0 + np.tanh(0.5 * log_odds)))


def _scores(scores: npt.ArrayLike, kind: str) -> Floats:
    """Flat float64 scores, checked."""
    flat = np.asarray(scores, dtype=np.float64).ravel()
    if not len(flat):
        raise ValueError(f"there are no {kind} scores")
    if not np.isfinite(flat).all():
        raise ValueError(f"a {kind} score is not a finite number")
    return flat


def _stated(probabilities: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Flat probabilities and outcomes (1 for genuine), checked."""
    stated = np.asarray(probabilities, dtype=np.float64).ravel()
    outcome = np.asarray(same, dtype=np.float64).ravel()
    if not len(stated):
        raise ValueError("there are no probabilities")
    if len(stated) != len(outcome):
        raise ValueError(f"{len(stated)} probabilities need as many outcomes, not {len(outcome)}")
    if not (np.isfinite(stated).all() and (stated >= 0.0).all() and (stated <= 1.0).all()):
        raise ValueError("a probability lies in [0, 1]")
    return stated, outcome
