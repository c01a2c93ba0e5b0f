"""One-shot accuracy from embeddings that are there already: each image is embedded once, whatever the number of episodes."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.head import SigmoidDistanceHead
from export.data.images import ImageSet

LogOdds = npt.NDArray[np.float64]
Rule = Literal["nearest", "mean-probability"]

MOST_WAYS = 20


def usual_ways(images: ImageSet) -> int:
    """20, or as many classes as the smallest group (alphabet) of two or more has."""
    sizes = np.bincount(images.class_groups)
    sizes = sizes[sizes >= 2]
    if not len(sizes):
        raise DataError(f"{images.name} has no group of at least two classes to tell apart")
    return int(min(MOST_WAYS, sizes.min()))


def widest_one_shot(images: ImageSet) -> tuple[int, bool]:
    """(ways, whether within groups) of the widest one-shot episodes: within groups if a group has two classes for it.

    Raises:
        DataError: fewer than two classes have two pictures.
    """
    rich = images.select(np.flatnonzero(images.counts >= 2))
    try:
        return usual_ways(rich), True
    except DataError:
        if rich.classes < 2:
            raise DataError(
                f"{images.name} does not suffice for any episode: fewer than two of its classes have two pictures"
            ) from None
        return min(MOST_WAYS, rich.classes), False


def class_scores(log_odds: LogOdds, rule: Rule) -> LogOdds:
    """One score a class from the log-odds of its shots: (Q, way, shot) to (Q, way); the highest wins.

    `nearest`: the shot that is most alike speaks for its class. `mean-probability`: the mean of p(same) over
    the shots; classes whose mean is the same number (all certain) are told apart by their nearest shot.
    """
    nearest: LogOdds = log_odds.max(axis=2)
    if rule == "nearest" or log_odds.shape[2] == 1:
        return nearest
    mean = (0.5 * (1.0 + np.tanh(0.5 * log_odds))).mean(axis=2)
    return np.asarray(np.where(mean == mean.max(axis=1, keepdims=True), nearest, -np.inf))


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
        # A tie is wrong: an encoder that makes one vector of all images has recognised nothing.
        right += int(distances[0] < distances[1:].min())
    return right / queries
