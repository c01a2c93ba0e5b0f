"""The sigmoid distance head: the probability that two embeddings show the same object, from their distance.

    p(same) = sigmoid(bias - scale * d(h1, h2))

There are two distances. `euclidean`, the default, is ||h1 - h2|| of unit vectors. `weighted_l1` is
sum_j w_j |h1_j - h2_j| with learned weights, the reference head of Koch, Zemel and Salakhutdinov, "Siamese Neural
Networks for One-shot Image Recognition" (2015), section 3.1; a weight may be negative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.recognition.imaging import Floats

# Bytes of |h1 - h2| held at a time by the weighted L1 distance.
_L1_BLOCK_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, eq=False)
class SigmoidDistanceHead:
    """p(same) = sigmoid(bias - scale * distance).

    Examples:
        >>> head = SigmoidDistanceHead(scale=12.0, bias=9.0)
        >>> head.score(queries, supports).shape  # of embeddings (N, D) and (M, D)
        (N, M)
    """

    scale: float
    """The decrease of the log-odds per unit of distance."""
    bias: float
    """The log-odds of "same" at distance zero."""
    distance: Literal["euclidean", "weighted_l1"] = "euclidean"
    weights: Floats | None = None
    """float32 (D,), for `weighted_l1` only; raises `ValueError` with `euclidean`."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.bias)):
            raise ValueError(f"a head needs finite numbers, not scale {self.scale} and bias {self.bias}")
        if (self.distance == "weighted_l1") != (self.weights is not None):
            raise ValueError(
                f"a {self.distance} head takes {'no ' if self.weights is not None else ''}weights"
            )

    def distances(self, queries: Floats, supports: Floats) -> Floats:
        """Distances of every query to every support: (N, D) and (M, D) to float32 (N, M)."""
        if self.weights is not None:
            return _weighted_l1(queries, supports, self.weights)
        # ||q - s||^2 = ||q||^2 + ||s||^2 - 2 q.s: one matrix product, whatever the number of supports.
        squared = (
            np.einsum("nd,nd->n", queries, queries)[:, None]
            + np.einsum("md,md->m", supports, supports)[None, :]
            - 2.0 * (queries @ supports.T)
        )
        return np.sqrt(np.maximum(squared, 0.0), dtype=np.float32)

    def paired_distances(self, a: Floats, b: Floats) -> Floats:
        """Distances of row i of `a` to row i of `b`: (N, D) and (N, D) to float32 (N,)."""
        if self.weights is not None:
            return np.asarray(np.abs(a - b) @ self.weights, dtype=np.float32)
        return np.asarray(np.linalg.norm(a - b, axis=1), dtype=np.float32)

    def log_odds(self, distances: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """bias - scale * distance, of any shape."""
        return self.bias - self.scale * np.asarray(distances, dtype=np.float64)

    def probability(self, distances: npt.ArrayLike) -> Floats:
        """p(same) for distances of any shape, float32 in [0, 1]."""
        # sigmoid(x) = (1 + tanh(x / 2)) / 2 never overflows.
        return (0.5 * (1.0 + np.tanh(0.5 * self.log_odds(distances)))).astype(np.float32)

    def score(self, queries: Floats, supports: Floats) -> Floats:
        """p(same) of every query with every support: (N, D) and (M, D) to float32 (N, M)."""
        return self.probability(self.distances(queries, supports))

    def distance_at(self, probability: float) -> float:
        """The distance at which p(same) has the given value; raises `ValueError` outside of (0, 1)."""
        if not 0.0 < probability < 1.0:
            raise ValueError(f"a probability strictly between 0 and 1 is needed, not {probability}")
        return (self.bias - math.log(probability / (1.0 - probability))) / self.scale


def _weighted_l1(queries: Floats, supports: Floats, weights: Floats) -> Floats:
    """(N, D), (M, D), (D,) to (N, M), in blocks of queries and supports."""
    result = np.empty((len(queries), len(supports)), dtype=np.float32)
    pairs = max(1, _L1_BLOCK_BYTES // weights.nbytes)
    columns = max(1, min(pairs, len(supports)))
    rows = pairs // columns
    for row in range(0, len(queries), rows):
        for column in range(0, len(supports), columns):
            several = supports[None, column : column + columns, :]
            difference = np.abs(queries[row : row + rows, None, :] - several)
            result[row : row + rows, column : column + columns] = difference @ weights
    return result
