"""One-shot accuracy on validation classes: what training and quantization select by.

It works on embeddings, so each image is embedded once, whatever the number of trials.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet

MAX_WAYS = 20


def usual_ways(images: ImageSet) -> int:
    """20, or as many classes as the smallest group (alphabet) of two or more has."""
    sizes = np.bincount(images.class_groups)
    sizes = sizes[sizes >= 2]
    if not len(sizes):
        raise DataError(f"{images.name} has no group of at least two classes to tell apart")
    return int(min(MAX_WAYS, sizes.min()))


def one_shot_accuracy(
    embeddings: npt.NDArray[np.float32], images: ImageSet, head: SigmoidDistanceHead, queries: int, seed: int
) -> float:
    """Share of queries whose nearest support is of their class, with one support a class from one group.

    Args:
        embeddings: (N, D), of `images.images`.
        images: the classes and groups that they belong to.
        head: whose distance ranks the supports.
        queries: how many trials; each draws its own classes, supports and query.
        seed: equal seeds give equal trials.

    Returns:
        Accuracy in 0..1.
    """
    ways = usual_ways(images)
    rng = np.random.default_rng([seed, 5])
    members = [images.images_of(c) for c in range(images.classes)]
    groups = [np.flatnonzero(images.class_groups == g) for g in np.unique(images.class_groups)]
    groups = [group for group in groups if len(group) >= ways]
    right = 0
    for _ in range(queries):
        classes = rng.choice(groups[rng.integers(len(groups))], ways, replace=False)
        query, support = rng.choice(members[classes[0]], 2, replace=False)
        others = [members[c][rng.integers(len(members[c]))] for c in classes[1:]]
        distances = head.distances(embeddings[query][None], embeddings[[support, *others]])[0]
        # A tie is wrong: an encoder that makes one vector of all images has recognized nothing.
        right += int(distances[0] < distances[1:].min())
    return right / queries
