"""Calibration of the head on held-out pairs: probabilities, and thresholds at false-accept rates.

The fit is a logistic regression of "same" on the distance (Platt, "Probabilistic outputs for support vector machines",
1999). Its two parameters generalize from few validation alphabets to new ones if they are estimated from many pairs of all
drawers, equally many per alphabet. `left_out_ece` measures how well: each alphabet is predicted by a head fitted on the
others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError, ExportError
from edge_siamese.models.manifest import Threshold
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet
from export.data.sampling import verification_pairs
from export.evaluation import metrics

Embeddings = npt.NDArray[np.float32]
Distances = npt.NDArray[np.float64]

CALIBRATION_PAIRS = 40_000
MAX_PAIRS = 4_000_000
"""Maximum number of pairs of a set that determine the thresholds."""
FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)
# A weighted L1 distance of 4096 numbers is not a matrix product: it takes 50 times as long.
_MAX_PAIRS_L1 = 500_000
_BLOCK = 512
_PAIR_BLOCK = 4096
_MAX_PER_CLASS = 200
_NEWTON_STEPS = 100


@dataclass(frozen=True, eq=False)
class AllPairs:
    """The distances of all pairs of a set; in a large set, impostor pairs are from an even sample of the images."""

    genuine: npt.NDArray[np.float32]
    """(G,): distances of all pairs of images of the same class."""
    impostor: npt.NDArray[np.float32]
    """(I,): distances of images of different classes: first the pairs within a group, then those across groups."""
    within: int
    """Number of impostor pairs within a group (alphabet)."""
    images: int
    """Number of images in the impostor pairs."""
    drawers: bool = False
    """Whether the drawers of the images are known."""

    @property
    def impostors(self) -> str:
        """Description of the impostor pairs."""
        across = len(self.impostor) - self.within
        drawers = ", any two drawers" if self.drawers else ""
        groups = f": {self.within:,} within a group and {across:,} across groups" if across else ""
        return (
            f"{len(self.impostor):,} pairs of images of different classes{drawers}{groups}; "
            f"all pairs of {self.images:,} images, of the same kind as the genuine ones"
        )


@dataclass(frozen=True, eq=False)
class HeadCalibration:
    """A fitted head and its calibration on the held-out classes that it was fitted on."""

    head: SigmoidDistanceHead
    pairs: int
    """Number of verification pairs of the fit, half of them genuine."""
    ece: float
    """Expected calibration error on these pairs."""
    left_out_ece: float | None
    """Calibration error with each group (alphabet) predicted by a head fitted on the others; None for one group."""
    eer: float
    """Equal error rate on these pairs."""
    brier: float
    reliability: metrics.Reliability
    thresholds: tuple[Threshold, ...]
    """Thresholds at the false-accept rates for which there are enough pairs."""
    not_stated: tuple[float, ...]
    """The false-accept rates for which there are too few pairs."""
    impostors: str
    """Description of the impostors behind the thresholds."""


def fit_head(
    embeddings: Embeddings,
    images: ImageSet,
    distance: Literal["euclidean", "weighted_l1"] = "euclidean",
    trained: SigmoidDistanceHead | None = None,
    pairs: int = CALIBRATION_PAIRS,
    rates: tuple[float, ...] = FALSE_ACCEPT_RATES,
    seed: int = 0,
) -> HeadCalibration:
    """Fit scale and bias on pairs of classes that were not trained on.

    A weighted L1 head was trained along with its encoder. Its weights stay as they are; only an affine
    correction a * log-odds + b is fitted, and folded into scale and bias.

    Args:
        embeddings: float32 (N, D), the embeddings of `images.images`.
        images: the validation classes.
        distance: the distance of the head.
        trained: the head that was trained along with the encoder, for `weighted_l1`.
        pairs: number of verification pairs (Koch 2015: half genuine; equally many of each group; different
            drawers).
        rates: false-accept rates at which to state thresholds.
        seed: equal seeds give equal heads.

    Raises:
        DataError: the set has too few classes or images for pairs.
        ExportError: the distances say nothing about which pairs are the same, or are not finite.
    """
    if (distance == "weighted_l1") != (trained is not None):
        raise ValueError(
            "a weighted_l1 head is corrected from a trained one, a euclidean head is fitted from scratch"
        )
    if not np.isfinite(embeddings).all():
        raise ExportError(
            "an embedding is not finite: the network has diverged; train again with a lower learning rate"
        )
    measure = trained or SigmoidDistanceHead(scale=1.0, bias=0.0)
    sampled = verification_pairs(images, pairs, np.random.default_rng([seed, 11]))
    distances = paired_distances(measure, embeddings, sampled.a, sampled.b)
    scale, bias = fit_scale_and_bias(distances, sampled.same)
    if not scale > 0.0:
        raise ExportError(
            f"the head cannot be fitted: genuine pairs of {images.name} are no closer to each other than "
            "impostor pairs, so the network has learned nothing that generalizes to new classes; train longer"
        )
    head = SigmoidDistanceHead(scale, bias, distance, measure.weights)
    probabilities = head.probability(distances)
    everything = all_pairs(embeddings, images, head, seed=seed)
    at_rates = [threshold_at(rate, everything, head) for rate in rates]
    thresholds = tuple(threshold for threshold in at_rates if threshold is not None)
    stated = {threshold.false_accept_rate for threshold in thresholds}
    return HeadCalibration(
        head=head,
        pairs=len(sampled.same),
        ece=metrics.expected_calibration_error(probabilities, sampled.same),
        left_out_ece=_left_out_ece(distances, sampled.same, images.class_groups[images.labels[sampled.a]]),
        eer=metrics.equal_error_rate(metrics.roc(-distances[sampled.same], -distances[~sampled.same])),
        brier=metrics.brier_score(probabilities, sampled.same),
        reliability=metrics.reliability(probabilities, sampled.same),
        thresholds=thresholds,
        not_stated=tuple(rate for rate in rates if rate not in stated),
        impostors=everything.impostors,
    )


def fit_scale_and_bias(distances: npt.ArrayLike, same: npt.ArrayLike) -> tuple[float, float]:
    """Logistic regression of `same` on the distance: p = sigmoid(bias - scale * distance).

    Newton's method with halved steps where the likelihood would fall (Lin, Lin, Weng, "A note on Platt's
    probabilistic outputs for support vector machines", 2007). The targets are Platt's, (n+ + 1) / (n+ + 2)
    and 1 / (n- + 2) instead of 1 and 0, so that pairs that a distance tells apart without an error still give
    a finite scale.

    Args:
        distances: (P,).
        same: bool (P,), of both kinds.

    Returns:
        (scale, bias); the scale is below zero when genuine pairs are the farther ones.
    """
    d, genuine = np.asarray(distances, dtype=np.float64), np.asarray(same, dtype=bool)
    positive, negative = int(genuine.sum()), int((~genuine).sum())
    if not positive or not negative:
        raise DataError(
            f"a head is fitted on pairs of both kinds, not on {positive} genuine and {negative} impostor ones"
        )
    spread = float(d.std())
    if not spread > 0.0:
        return 0.0, math.log((positive + 1) / (negative + 1))
    center = float(d.mean())
    # In standard units both unknowns are of order one, whatever the distance is measured in.
    features = np.stack([np.ones_like(d), (center - d) / spread], axis=1)
    target = np.where(genuine, (positive + 1) / (positive + 2), 1 / (negative + 2))
    weights = np.array([math.log((positive + 1) / (negative + 1)), 0.0])
    loss = _negative_log_likelihood(features @ weights, target)
    for _ in range(_NEWTON_STEPS):
        p = 0.5 * (1.0 + np.tanh(0.5 * (features @ weights)))
        gradient = features.T @ (p - target)
        if float(np.abs(gradient).max()) < 1e-9 * len(d):
            break
        # The ridge keeps the step finite where all p are 0 or 1; the optimum does not depend on it.
        hessian = (features * (p * (1.0 - p))[:, None]).T @ features + 1e-9 * np.eye(2)
        step, length = np.linalg.solve(hessian, gradient), 1.0
        while length > 1e-10:
            trial = weights - length * step
            trial_loss = _negative_log_likelihood(features @ trial, target)
            if trial_loss <= loss - 1e-4 * length * float(gradient @ step):
                break
            length *= 0.5
        else:
            break
        weights, loss = trial, trial_loss
    scale = float(weights[1]) / spread
    return scale, float(weights[0]) + scale * center


def paired_distances(
    head: SigmoidDistanceHead, embeddings: Embeddings, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]
) -> Distances:
    """Distances of images a[i] and b[i], float64 (P,), a few thousand pairs at a time."""
    result = np.empty(len(a))
    for start in range(0, len(a), _PAIR_BLOCK):
        part = slice(start, start + _PAIR_BLOCK)
        result[part] = head.paired_distances(embeddings[a[part]], embeddings[b[part]])
    return result


def all_pairs(
    embeddings: Embeddings,
    images: ImageSet,
    head: SigmoidDistanceHead,
    max_pairs: int = MAX_PAIRS,
    seed: int = 0,
) -> AllPairs:
    """Distances of all pairs of images; if there are more than `max_pairs`, impostors are from an even sample of the images.

    Args:
        embeddings: float32 (N, D), the embeddings of `images.images`.
        images: N images.
        head: its distance is used.
        max_pairs: maximum number of impostor pairs.
        seed: seed of the sample of images.
    """
    chosen = _even_part(
        images.labels, min(max_pairs, _MAX_PAIRS_L1) if head.weights is not None else max_pairs, seed
    )
    points, labels = embeddings[chosen], images.labels[chosen]
    groups = images.class_groups[labels]
    within, across = [], []
    for start in range(0, len(points), _BLOCK):
        stop = min(start + _BLOCK, len(points))
        block = head.distances(points[start:stop], points[start:])
        # Each pair once: only columns right of the diagonal.
        later = np.arange(start, len(points))[None, :] > np.arange(start, stop)[:, None]
        different = later & (labels[start:stop, None] != labels[None, start:])
        same_group = groups[start:stop, None] == groups[None, start:]
        within.append(block[different & same_group])
        across.append(block[different & ~same_group])
    within_groups = np.concatenate(within)
    return AllPairs(
        genuine=_genuine_distances(embeddings, images, head),
        impostor=np.concatenate([within_groups, *across]),
        within=len(within_groups),
        images=len(points),
        drawers=bool((images.drawers >= 0).any()),
    )


def _genuine_distances(
    embeddings: Embeddings, images: ImageSet, head: SigmoidDistanceHead
) -> npt.NDArray[np.float32]:
    """Distances of all pairs of images of a class, or of its first two hundred images."""
    parts = [np.empty(0, dtype=np.float32)]
    for c in range(images.classes):
        points = embeddings[images.images_of(c)[:_MAX_PER_CLASS]]
        parts.append(head.distances(points, points)[np.triu_indices(len(points), 1)])
    return np.concatenate(parts)


def threshold_at(rate: float, pairs: AllPairs, head: SigmoidDistanceHead) -> Threshold | None:
    """The threshold on p(same) at a false-accept rate.

    None if there are too few pairs (rule of 30), or if the head is so steep that p there is 0 or 1.
    """
    if not len(pairs.genuine) or not len(pairs.impostor):
        return None
    cut = metrics.threshold_at_far(-pairs.impostor, rate)
    if cut is None:
        return None
    # As in `head.probability`: a steep head's log-odds overflow exp.
    probability = 0.5 * (1.0 + math.tanh(0.5 * float(head.log_odds(-cut))))
    if not 0.0 < probability < 1.0:
        return None
    return Threshold(
        false_accept_rate=rate,
        probability=probability,
        false_reject_rate=float(np.mean(-pairs.genuine < cut)),
        impostor_pairs=len(pairs.impostor),
    )


def _negative_log_likelihood(log_odds: Distances, target: Distances) -> float:
    """-sum t log p + (1 - t) log(1 - p), without overflow."""
    return float(np.sum(np.logaddexp(0.0, log_odds) - target * log_odds))


def _left_out_ece(
    distances: Distances, same: npt.NDArray[np.bool_], groups: npt.NDArray[np.int64]
) -> float | None:
    """Expected calibration error when each group is predicted by a head fitted on the other groups."""
    if len(np.unique(groups)) < 2:
        return None
    predicted = np.empty(len(distances))
    for left_out in _groups(groups):
        scale, bias = fit_scale_and_bias(distances[~left_out], same[~left_out])
        predicted[left_out] = SigmoidDistanceHead(scale, bias).probability(distances[left_out])
    return metrics.expected_calibration_error(predicted, same)


def _groups(groups: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.bool_]]:
    return (groups == group for group in np.unique(groups))


def _even_part(labels: npt.NDArray[np.int64], max_pairs: int, seed: int) -> npt.NDArray[np.int64]:
    """Indices of images that make at most `max_pairs` pairs, equally many of each class where possible."""
    keep = int(0.5 + math.sqrt(0.25 + 2 * max_pairs))
    if len(labels) <= keep:
        return np.arange(len(labels))
    rng = np.random.default_rng([seed, 12])
    shuffled = rng.permutation(len(labels))
    order = shuffled[np.argsort(labels[shuffled], kind="stable")]
    classes, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    turn = np.arange(len(order)) - np.repeat(first, sizes)
    rank = np.repeat(rng.permutation(len(classes)), sizes)
    # Four images of each class in turn, then the next four: classes are spread evenly over groups.
    return np.sort(order[np.lexsort((rank, turn // 4))][:keep])
