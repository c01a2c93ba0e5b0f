"""Results of each held-out class: its accuracy, its confusions, and a map of the embeddings.

All held-out classes are registered from one picture each, drawn many times, and every other picture is a query. So each
pair of classes is compared, with the same chance level for all: 1 / classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.embedded_pictures import thumbnail
from export.data.images import ImageSet, Indices
from export.evaluation.embeddings import Embeddings
from export.evaluation.metrics import Interval, class_accuracy_interval

DRAWS = 200
"""Draws of the supports."""
MAX_CLASSES = 100
"""With more classes, table and map are unreadable."""
MAX_CONFUSIONS = 8
MAX_POINTS = 300
"""Pictures on the map, the same number of each class."""


@dataclass(frozen=True)
class ClassResult:
    """One-shot results of the queries of a class."""

    name: str
    pictures: int
    accuracy: float
    low: float
    """95 % interval for other pictures of this class, as queries or as support: the wider of the two."""
    high: float
    picture: str
    """A picture of the class as a data URI."""


@dataclass(frozen=True)
class Confusion:
    """A class that is taken for another one, with an example."""

    truth: int
    """Index of the class."""
    chosen: int
    share: float
    """Share of the decisions on the class."""
    query: str
    """Data URI of a picture of `truth` that was taken for `chosen`."""
    chosen_picture: str
    """The support of `chosen`."""
    truth_picture: str
    """The support of `truth`."""


@dataclass(frozen=True)
class MapPoint:
    """A picture on the map of embeddings."""

    x: float
    """Projection on the first principal component."""
    y: float
    """Projection on the second principal component."""
    label: int
    picture: str
    """Data URI."""


@dataclass(frozen=True)
class ClassAnalysis:
    """Results of all held-out classes."""

    model: str
    """The encoder: its precision and runtime."""
    draws: int
    decisions: int
    accuracy: float
    low: float
    """95 % interval over classes."""
    high: float
    classes: tuple[ClassResult, ...]
    matrix: tuple[tuple[float, ...], ...]
    """Row i, column j: share of the decisions on class i that chose class j."""
    confusions: tuple[Confusion, ...]
    """The most frequent first."""
    points: tuple[MapPoint, ...]
    explained: tuple[float, float]
    """Share of the variance of the embeddings along each axis of the map."""

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1.0 / len(self.classes)

    @property
    def worst_first(self) -> list[int]:
        """Indices of the classes, by their accuracy."""
        return sorted(range(len(self.classes)), key=lambda label: self.classes[label].accuracy)

    def taken_for(self, label: int) -> tuple[str, float] | None:
        """The class that a class is most often taken for, with the share of the decisions; None if there is none."""
        share, other = max((s, o) for o, s in enumerate(self.matrix[label]) if o != label)
        return (self.classes[other].name, share) if share > 0 else None


@dataclass(frozen=True, eq=False)
class _Decisions:
    chosen: Indices
    """(draws, N): the class chosen for each picture; -1 for supports."""
    supports: Indices
    """(draws, classes): the supporting picture of each class."""


def analyze_classes(
    embeddings: Embeddings, images: ImageSet, head: SigmoidDistanceHead, model: str = "", seed: int = 0
) -> ClassAnalysis:
    """Measure each class among all others.

    Args:
        embeddings: float32 (N, D), of `images.images`.
        images: classes that were not trained on.
        head: its distance ranks the supports.
        model: name of the encoder for the report.
        seed: equal seeds draw equal supports.

    Raises:
        DataError: fewer than two classes have two pictures, or there are more than `MAX_CLASSES`.
    """
    usable = np.flatnonzero(images.counts >= 2)
    if not 2 <= len(usable) <= MAX_CLASSES:
        raise DataError(
            f"{images.name} has {len(usable)} classes of two pictures; an analysis needs 2 to {MAX_CLASSES}"
        )
    kept = np.isin(images.labels, usable)
    images, embeddings = images.select(usable), embeddings[kept]
    decisions = _decide(embeddings, images, head, seed)
    asked = decisions.chosen >= 0
    truth = np.broadcast_to(images.labels, asked.shape)
    counts = np.zeros((images.classes, images.classes))
    np.add.at(counts, (truth[asked], decisions.chosen[asked]), 1.0)
    right = decisions.chosen == truth
    overall = class_accuracy_interval(right[asked], truth[asked])
    points, explained = _map(embeddings, images)
    return ClassAnalysis(
        model=model,
        draws=DRAWS,
        decisions=int(asked.sum()),
        accuracy=float(right[asked].mean()),
        low=overall.low,
        high=overall.high,
        classes=tuple(_class_result(c, images, decisions, counts) for c in range(images.classes)),
        matrix=tuple(tuple(row) for row in (counts / counts.sum(axis=1, keepdims=True)).round(5).tolist()),
        confusions=_confusions(images, decisions, counts),
        points=points,
        explained=explained,
    )


def _decide(embeddings: Embeddings, images: ImageSet, head: SigmoidDistanceHead, seed: int) -> _Decisions:
    rng = np.random.default_rng([seed, 33])
    places = rng.integers(0, images.counts, (DRAWS, images.classes))
    supports = images.by_class[images.starts + places]
    chosen = np.empty((DRAWS, len(images)), np.int64)
    for row, drawn in zip(chosen, supports, strict=True):
        row[:] = head.distances(embeddings, embeddings[drawn]).argmin(axis=1)
        row[drawn] = -1
    return _Decisions(chosen, supports)


def _class_result(
    label: int, images: ImageSet, decisions: _Decisions, counts: npt.NDArray[np.float64]
) -> ClassResult:
    own = images.images_of(label)
    chosen = decisions.chosen[:, own]
    asked = chosen >= 0
    right = (chosen == label)[asked]
    queries = np.broadcast_to(own, chosen.shape)[asked]
    supports = np.broadcast_to(decisions.supports[:, label, None], chosen.shape)[asked]
    intervals: list[Interval] = [class_accuracy_interval(right, units) for units in (queries, supports)]
    return ClassResult(
        name=images.class_names[label],
        pictures=len(own),
        accuracy=float(counts[label, label] / counts[label].sum()),
        low=min(interval.low for interval in intervals),
        high=max(interval.high for interval in intervals),
        picture=thumbnail(images.images[own[0]]),
    )


def _confusions(
    images: ImageSet, decisions: _Decisions, counts: npt.NDArray[np.float64]
) -> tuple[Confusion, ...]:
    shares = counts / counts.sum(axis=1, keepdims=True)
    np.fill_diagonal(shares, 0.0)
    result = []
    for flat in np.argsort(-shares, axis=None, kind="stable")[:MAX_CONFUSIONS]:
        truth, chosen = divmod(int(flat), images.classes)
        if not shares[truth, chosen]:
            break
        own = images.images_of(truth)
        confused = decisions.chosen[:, own] == chosen
        query = int(confused.sum(axis=0).argmax())  # the picture that is confused most often
        draw = int(confused[:, query].argmax())
        result.append(
            Confusion(
                truth,
                chosen,
                float(shares[truth, chosen]),
                thumbnail(images.images[own[query]]),
                thumbnail(images.images[decisions.supports[draw, chosen]]),
                thumbnail(images.images[decisions.supports[draw, truth]]),
            )
        )
    return tuple(result)


def _map(embeddings: Embeddings, images: ImageSet) -> tuple[tuple[MapPoint, ...], tuple[float, float]]:
    """Pictures at the first two principal components of all embeddings."""
    centered = embeddings.astype(np.float64) - embeddings.mean(axis=0)
    _, scales, axes = np.linalg.svd(centered, full_matrices=False)
    variance = np.append(scales**2, 0.0)
    flat = centered @ axes[:2].T
    if flat.shape[1] < 2:
        flat = np.pad(flat, ((0, 0), (0, 1)))
    each = max(1, MAX_POINTS // images.classes)
    points = [
        MapPoint(round(float(flat[i, 0]), 4), round(float(flat[i, 1]), 4), label, thumbnail(images.images[i]))
        for label in range(images.classes)
        for i in images.images_of(label)[:each]
    ]
    total = max(float(variance.sum()), 1e-12)
    return tuple(points), (float(variance[0]) / total, float(variance[1]) / total)
