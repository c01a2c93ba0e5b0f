"""Scores of the classes of an episode, from embeddings and a head."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.recognition.embedding import mean_embedding
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet
from export.training.validation import MAX_WAYS, usual_ways

LogOdds = npt.NDArray[np.float64]
Rule = Literal["nearest", "mean-probability", "prototype"]

RULES: tuple[Rule, ...] = ("nearest", "mean-probability", "prototype")


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
        return min(MAX_WAYS, rich.classes), False


def class_scores(log_odds: LogOdds, rule: Rule) -> LogOdds:
    """One score a class from the log-odds of its shots: (Q, way, shot) to (Q, way); the highest wins.

    `nearest`: the shot that is most alike speaks for its class. `mean-probability`: the mean of p(same) over
    the shots; classes whose mean is the same number (all certain) are told apart by their nearest shot. With
    `prototype` a class has one shot, which `prototypes` makes.
    """
    nearest: LogOdds = log_odds.max(axis=2)
    if rule != "mean-probability" or log_odds.shape[2] == 1:
        return nearest
    mean = (0.5 * (1.0 + np.tanh(0.5 * log_odds))).mean(axis=2)
    return np.asarray(np.where(mean == mean.max(axis=1, keepdims=True), nearest, -np.inf))


def prototypes(supports: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean embedding of each class's shots, float32 (way, shot, D) to (way, D): what the device keeps of a view.

    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, equation 1.
    """
    return np.stack([mean_embedding(shots) for shots in supports])


def episode_scores(
    head: SigmoidDistanceHead,
    queries: npt.NDArray[np.float32],
    supports: npt.NDArray[np.float32],
    rule: Rule,
) -> tuple[LogOdds, LogOdds]:
    """How alike queries are to the classes of an episode.

    Args:
        head: whose distance is measured.
        queries: float32 (Q, D).
        supports: float32 (way, shot, D).
        rule: how several shots make one score.

    Returns:
        The score of each class, (Q, way), the highest wins; and the log-odds of each support, (Q, way, shot), where
        `prototype` makes one support of all shots: (Q, way, 1).
    """
    if rule == "prototype" and supports.shape[1] > 1:
        supports = prototypes(supports)[:, None]
    way, shot, dimensions = supports.shape
    distances = head.distances(queries, supports.reshape(way * shot, dimensions))
    log_odds = head.log_odds(distances).reshape(len(queries), way, shot)
    return class_scores(log_odds, rule), log_odds
