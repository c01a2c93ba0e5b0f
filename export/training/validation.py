"""One-shot accuracy on validation classes, by which training and quantization select weights and files.

It works on embeddings, so each image is embedded once, whatever the number of trials.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet

MAX_WAYS = 20


@dataclass(frozen=True, eq=False)
class Trials:
    """One-shot trials. Those of two encoders with equal seeds are the same, so they can be compared in pairs."""

    right: npt.NDArray[np.bool_]
    """(Q,): whether the nearest support of each query is of its class."""
    classes: npt.NDArray[np.int64]
    """(Q,): the class of each query."""
    ways: int

    @property
    def accuracy(self) -> float:
        return int(self.right.sum()) / len(self.right)

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1.0 / self.ways


def default_ways(images: ImageSet) -> int:
    """20, or as many classes as the smallest group (alphabet) of two or more has."""
    sizes = np.bincount(images.class_groups)
    sizes = sizes[sizes >= 2]
    if not len(sizes):
        raise DataError(f"{images.name} has no group of at least two classes to tell apart")
    return int(min(MAX_WAYS, sizes.min()))


def one_shot_accuracy(
    embeddings: npt.NDArray[np.float32], images: ImageSet, head: SigmoidDistanceHead, queries: int, seed: int
) -> float:
    """Share of queries whose nearest support is of their class; see `one_shot_trials`."""
    return one_shot_trials(embeddings, images, head, queries, seed).accuracy


def one_shot_trials(
    embeddings: npt.NDArray[np.float32], images: ImageSet, head: SigmoidDistanceHead, queries: int, seed: int
) -> Trials:
    """Trials with one query and one support per class, all from one group.

    Args:
        embeddings: (N, D), of `images.images`.
        images: the classes and groups that they belong to.
        head: its distance ranks the supports.
        queries: how many trials; each draws its own classes, supports and query.
        seed: equal seeds give equal trials.
    """
    ways = default_ways(images)
    rng = np.random.default_rng([seed, 5])
    members = [images.images_of(c) for c in range(images.classes)]
    groups = [np.flatnonzero(images.class_groups == g) for g in np.unique(images.class_groups)]
    groups = [group for group in groups if len(group) >= ways]
    right, asked = np.zeros(queries, dtype=np.bool_), np.zeros(queries, dtype=np.int64)
    for trial in range(queries):
        classes = rng.choice(groups[rng.integers(len(groups))], ways, replace=False)
        query, support = rng.choice(members[classes[0]], 2, replace=False)
        others = [members[c][rng.integers(len(members[c]))] for c in classes[1:]]
        distances = head.distances(embeddings[query][None], embeddings[[support, *others]])[0]
        # A tie counts as wrong: otherwise an encoder with the same vector for all images would be perfect.
        right[trial], asked[trial] = distances[0] < distances[1:].min(), classes[0]
    return Trials(right, asked, ways)
