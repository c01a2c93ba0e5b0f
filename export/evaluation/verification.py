"""Verification accuracy: are two images of the same class? Measured on pairs of classes that were not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_siamese.models.manifest import Threshold
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet
from export.data.sampling import verification_pairs
from export.evaluation import metrics
from export.evaluation.head_calibration import AllPairs, all_pairs, paired_distances

Embeddings = npt.NDArray[np.float32]
LogOdds = npt.NDArray[np.float64]

PAIRS = 20_000
_HISTOGRAM_BINS = 60
_CURVE_POINTS = 240


@dataclass(frozen=True)
class ReliabilityBin:
    """Pairs whose stated probability falls in one bin of equal width."""

    center: float
    predicted: float | None
    """Mean stated probability; None in an empty bin."""
    observed: float | None
    """Share of genuine pairs; None in an empty bin."""
    count: int


@dataclass(frozen=True)
class Histogram:
    """Distribution of the scores of the verification pairs, over log-odds of p(same)."""

    edges: tuple[float, ...]
    """B + 1 log-odds; the first and the last bin also hold what lies beyond."""
    genuine: tuple[float, ...]
    """B shares of the genuine pairs."""
    impostor: tuple[float, ...]
    """B shares of the impostor pairs."""


@dataclass(frozen=True)
class ErrorCurve:
    """FAR and FRR over thresholds, from all pairs of the evaluated images."""

    log_odds: tuple[float, ...]
    """Thresholds on p(same), as log-odds, rising."""
    far: tuple[float, ...]
    frr: tuple[float, ...]
    impostors: str
    """Description of the impostor pairs."""
    impostor_pairs: int
    genuine_pairs: int
    eer: float
    """Equal error rate over all pairs."""
    within: int | None = None
    """Number of impostor pairs within a group; None in records of an earlier release."""


@dataclass(frozen=True)
class ThresholdCheck:
    """A threshold stated on validation classes, tested on the evaluated ones."""

    false_accept_rate: float
    """The false-accept rate that it was stated for."""
    probability: float
    """Accept when p(same) is at least this."""
    observed_far: float
    observed_frr: float


@dataclass(frozen=True)
class Verification:
    """Same or different, on pairs: half genuine, half impostors of one group; by different drawers where they are known."""

    pairs: int
    accuracy: float
    """Accuracy at p(same) >= 0.5: the head was fitted on validation pairs, so nothing is chosen on these pairs."""
    low: float
    high: float
    best_accuracy: float
    """Accuracy at the threshold that is best on these pairs: optimistic, for comparison with papers that report it."""
    best_threshold: float
    """That threshold, on p(same)."""
    eer: float
    ece: float
    """Expected calibration error, 15 bins of equal width of p(same)."""
    brier: float
    reliability: tuple[ReliabilityBin, ...]
    histogram: Histogram
    curve: ErrorCurve
    thresholds: tuple[ThresholdCheck, ...]
    classes: int = 0
    """Number of classes in the pairs; 0 in records of an earlier release."""
    groups: int = 0
    """Number of groups in the pairs."""
    drawers: bool = False
    """Whether drawers are known, so that the pictures of a pair are by different ones."""
    class_low: float | None = None
    """95 % interval of the accuracy for another sample of classes."""
    class_high: float | None = None

    def describe_pairs(self) -> str:
        """`20,000 pairs of 12 classes, half genuine, half of two classes of one group, by different drawers`."""
        classes = f" of {self.classes:,} classes" if self.classes else ""
        group = "two classes of one group" if self.groups != 1 else "two classes"
        drawers = ", by different drawers" if self.drawers else ""
        return f"{self.pairs:,} pairs{classes}, half genuine, half of {group}{drawers}"


def verification(
    embeddings: Embeddings,
    images: ImageSet,
    head: SigmoidDistanceHead,
    thresholds: Sequence[Threshold] = (),
    pairs: int = PAIRS,
    seed: int = 0,
) -> Verification:
    """Measure verification on pairs of these classes.

    Raises:
        DataError: there are too few classes or images for pairs.
    """
    sampled = verification_pairs(images, pairs, np.random.default_rng([seed, 23]))
    distances = paired_distances(head, embeddings, sampled.a, sampled.b)
    log_odds, p, same = head.log_odds(distances), head.probability(distances), sampled.same
    curve = metrics.roc(log_odds[same], log_odds[~same])
    correct = int(((p >= 0.5) == same).sum())
    interval = metrics.wilson_interval(correct, len(same))
    best, best_log_odds = metrics.best_accuracy(curve, int(same.sum()), int((~same).sum()))
    bins = metrics.reliability(p, same)
    over_classes = metrics.class_accuracy_interval((p >= 0.5) == same, images.labels[sampled.a])
    everything = all_pairs(embeddings, images, head, seed=seed)
    genuine, impostor = head.log_odds(everything.genuine), head.log_odds(everything.impostor)
    checks = tuple(
        ThresholdCheck(
            threshold.false_accept_rate,
            threshold.probability,
            *metrics.error_rates_at(metrics.logit(threshold.probability), genuine, impostor),
        )
        for threshold in thresholds
    )
    return Verification(
        pairs=len(same),
        accuracy=correct / len(same),
        low=interval.low,
        high=interval.high,
        best_accuracy=best,
        best_threshold=float(head.probability((head.bias - best_log_odds) / head.scale)),
        eer=metrics.equal_error_rate(curve),
        ece=metrics.expected_calibration_error(p, same),
        brier=metrics.brier_score(p, same),
        reliability=tuple(
            ReliabilityBin(float(center), _or_none(predicted), _or_none(observed), int(count))
            for center, predicted, observed, count in zip(
                bins.centers, bins.predicted, bins.observed, bins.counts, strict=True
            )
        ),
        histogram=_histogram(log_odds, same),
        curve=_error_curve(genuine, impostor, everything),
        thresholds=checks,
        classes=len(np.unique(images.labels[np.concatenate([sampled.a, sampled.b])])),
        groups=len(np.unique(images.class_groups[images.labels[sampled.a]])),
        drawers=bool((images.drawers[sampled.a] >= 0).all()),
        class_low=over_classes.low,
        class_high=over_classes.high,
    )


def _histogram(log_odds: LogOdds, same: npt.NDArray[np.bool_]) -> Histogram:
    low, high = np.quantile(log_odds, [0.001, 0.999])
    edges = np.linspace(low, max(high, low + 1e-6), _HISTOGRAM_BINS + 1)
    inside = np.clip(log_odds, edges[0], edges[-1])
    shares = [np.histogram(inside[kind], edges)[0] / kind.sum() for kind in (same, ~same)]
    return Histogram(_rounded(edges), _rounded(shares[0]), _rounded(shares[1]))


def _error_curve(genuine: LogOdds, impostor: LogOdds, pairs: AllPairs) -> ErrorCurve:
    """The rates on an even grid of thresholds, from the first impostor to the last genuine pair."""
    same, different = np.sort(genuine), np.sort(impostor)
    low = min(np.quantile(same, 1e-4), np.quantile(different, 0.05))
    high = max(different[-1], np.quantile(same, 0.95))
    grid = np.linspace(low, max(high, low + 1e-6), _CURVE_POINTS)
    far = 1.0 - np.searchsorted(different, grid, side="left") / len(different)
    frr = np.searchsorted(same, grid, side="left") / len(same)
    eer = metrics.equal_error_rate(metrics.roc(same, different))
    return ErrorCurve(
        _rounded(grid),
        tuple(map(float, far)),
        tuple(map(float, frr)),
        pairs.impostors,
        len(different),
        len(same),
        eer,
        pairs.within,
    )


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _rounded(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Round to six significant digits, which keeps the file of a report small."""
    return tuple(float(f"{value:.6g}") for value in values)
