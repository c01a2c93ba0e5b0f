"""The decision: the object that an embedding shows, by distance, thresholds and negatives.

The rules are those of docs/method.md, "The decision" and "Limits of objects".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edge_siamese.errors import EncoderError
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Floats
from edge_siamese.recognition.support import SupportEntry, SupportSet

Rule = Literal[
    "recognized",
    "below threshold",
    "below the object's own threshold",
    "nearer to a negative",
    "nothing registered",
    "nothing to see",
]

MIN_LIMIT_FROM_IMPOSTORS = 0.5
"""Impostors set no limit below this fraction of the general threshold's distance."""
MIN_LIMIT_FROM_NEGATIVES = 0.8
"""Negatives set no limit below this fraction: one double press must not make an object unrecognizable."""

# Rows of the support set compared with all impostors at once: bounds the memory.
_MAX_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Recognition:
    """What a picture shows; as a string, such as `heart (p = 0.98; next: star, 0.03)`."""

    name: str | None
    """The recognized object; None if the picture shows no registered object."""
    probability: float
    """p(same) of the picture and the nearest view of the nearest object, 0 to 1; 0 if nothing is registered."""
    nearest: str | None
    """The nearest object, recognized or not; None if nothing is registered."""
    runner_up: str | None
    """The next nearest object that no negative rejects; None if there is none."""
    margin: float
    """`probability` minus the probability of the runner-up, or minus 0 without one."""
    threshold: float
    """The probability that the nearest object needs: the general threshold, or its own if that is higher."""
    rule: Rule
    """The rule that decided."""
    uid: str | None = None
    """The uid of the recognized object: 32 hexadecimal digits that renaming does not change."""
    nearest_uid: str | None = None
    """The uid of `nearest`."""
    view: int | None = None
    """The id of the nearest view of `nearest`."""
    general_threshold: float = 0.0
    """The threshold for all objects."""
    rejected: tuple[str, ...] = ()
    """Nearer objects that were rejected, because one of their negatives is nearer still; the nearest first."""
    view_place: int | None = None
    """The position of that view among the views of `nearest`, from 1."""
    view_count: int = 0
    """The number of views of `nearest`."""

    def __str__(self) -> str:
        if self.rule == "nothing to see":
            return "unknown (nothing to see)"
        if self.nearest is None:
            return "unknown (nothing is registered)"
        if self.name is not None:
            second = (
                f"; next: {self.runner_up}, {self.probability - self.margin:.2f}" if self.runner_up else ""
            )
            return f"{self.name} (p = {self.probability:.2f}{second})"
        if self.rule == "nearer to a negative":
            return f"unknown (nearest: {self.nearest}, p = {self.probability:.2f}, but a negative of it is nearer)"
        p, threshold = _format_distinct(self.probability, self.threshold)
        own = ", its own threshold" if self.rule == "below the object's own threshold" else ""
        return f"unknown (nearest: {self.nearest}, p = {p} < {threshold}{own})"

    def explain(self) -> tuple[str, ...]:
        """Explain the decision, in sentences for people."""
        if self.rule == "nothing to see":
            return (
                "There is nothing to see: the picture has no contrast, as in the dark or in front of an empty wall.",
            )
        if self.nearest is None:
            return ("Nothing is registered, so nothing can be recognized.",)
        p, threshold = _format_distinct(self.probability, self.threshold)
        whose = "its own threshold" if self.threshold > self.general_threshold else "the general threshold"
        verdict = {
            "recognized": f"This is {self.nearest}: p = {p} reaches {whose}, {threshold}.",
            "below threshold": f"Unknown: {self.nearest} is nearest, but p = {p} is below {whose}, {threshold}.",
            "below the object's own threshold": (
                f"Unknown: {self.nearest} is nearest, but p = {p} is below its own threshold, {threshold}, which is"
                f" stricter than the general one, {self.general_threshold:.2f}, because other things look similar."
            ),
            "nearer to a negative": (
                f"Unknown: {self.nearest} is nearest (p = {p}), but one of its negatives is nearer than any of its views."
            ),
        }[self.rule]
        result = [verdict, self._nearest_view()]
        others = [name for name in self.rejected if name != self.nearest]
        if others:
            result.append(
                f"Rejected, because one of their negatives is nearer than any view: {', '.join(others)}."
            )
        if self.runner_up is None:
            result.append("There is no runner-up.")
        else:
            second = self.probability - self.margin
            result.append(f"The runner-up is {self.runner_up}, p = {second:.2f}: {self.margin:.2f} less.")
        return tuple(result)

    def _nearest_view(self) -> str:
        if self.view_count <= 1:
            return f"The nearest view is the only one of {self.nearest}, id {self.view}."
        return (
            f"The nearest is view {self.view_place} of {self.view_count} of {self.nearest}, id {self.view}."
        )

    def data(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return {**asdict(self), "rejected": list(self.rejected)}

    def describe(self) -> dict[str, Any]:
        """All fields, one line for people, and the explanation, for JSON."""
        return {**self.data(), "text": str(self), "explanation": list(self.explain())}


def nothing_to_see(threshold: float) -> Recognition:
    """The recognition of a picture without contrast, for which the encoder's output is meaningless.

    Args:
        threshold: the general threshold, a probability.
    """
    return Recognition(None, 0.0, None, None, 0.0, threshold, "nothing to see", general_threshold=threshold)


def decide(
    support: SupportSet, head: SigmoidDistanceHead, embedding: Floats, threshold: float
) -> Recognition:
    """Decide what an embedding shows.

    The candidate is the object with the nearest view. If one of its negatives is at least as near, it is rejected, and the
    next nearest object is the candidate. The candidate is recognized if its probability reaches the threshold and its
    distance is within its own limit. Otherwise the nearest object of all is reported as unknown, with the rule that
    refused it; that is its negative only if it would have been recognized without it.

    Args:
        support: the registered objects.
        head: computes distances and probabilities.
        embedding: float32 (D,), of the picture.
        threshold: the general threshold, a probability.

    Raises:
        EncoderError: the embedding does not have D finite numbers.
    """
    query = np.asarray(embedding, dtype=np.float32)
    if query.shape != (support.dimensions,) or not np.isfinite(query).all():
        raise EncoderError(
            f"the encoder computed an embedding that is not {support.dimensions} finite numbers; its file is damaged"
        )
    if not len(support):
        return Recognition(
            None, 0.0, None, None, 0.0, threshold, "nothing registered", general_threshold=threshold
        )
    scores = _Scores(support, head, query, threshold)
    rejected: list[_Candidate] = []
    candidate = scores.nearest()
    while candidate is not None and scores.is_nearer_to_negative(candidate):
        rejected.append(candidate)
        scores.exclude(candidate)
        candidate = scores.nearest()
    if candidate is not None and (not rejected or scores.refusal(candidate) is None):
        nearest, rule = candidate, scores.refusal(candidate) or "recognized"
        scores.exclude(candidate)
    else:
        nearest = rejected[0]
        rule = scores.refusal(nearest) or "nearer to a negative"
    runner_up = scores.nearest()
    name, uid = support.names[nearest.place], support.uids[nearest.place]
    views = support.rows(nearest.place)
    return Recognition(
        name=name if rule == "recognized" else None,
        probability=nearest.probability,
        nearest=name,
        runner_up=None if runner_up is None else support.names[runner_up.place],
        margin=max(0.0, nearest.probability - (0.0 if runner_up is None else runner_up.probability)),
        threshold=max(threshold, float(head.probability(support.limits[nearest.place]))),
        rule=rule,
        uid=uid if rule == "recognized" else None,
        nearest_uid=uid,
        view=int(support.view_ids[nearest.row]),
        general_threshold=threshold,
        rejected=tuple(support.names[other.place] for other in rejected),
        view_place=nearest.row - views.start + 1,
        view_count=views.stop - views.start,
    )


@dataclass(frozen=True)
class _Candidate:
    """An object and its nearest view."""

    place: int
    row: int
    distance: float
    probability: float


class _Scores:
    """The distances of all objects of a support set to one query; objects can be excluded."""

    def __init__(
        self, support: SupportSet, head: SigmoidDistanceHead, query: Floats, threshold: float
    ) -> None:
        self.support, self.head, self.query, self.threshold = support, head, query[np.newaxis], threshold
        # Distances, not probabilities: far from the threshold, float32 rounds different probabilities to the same value.
        self.ranks = support.ranks(head, query)
        has_several_views = len(self.ranks) > len(support)
        self.object_ranks = (
            np.minimum.reduceat(self.ranks, support.starts[:-1]) if has_several_views else self.ranks.copy()
        )

    def nearest(self) -> _Candidate | None:
        """The nearest object that is not excluded; None if all are."""
        place = int(np.argmin(self.object_ranks))
        if self.object_ranks[place] == np.inf:
            return None
        rows = self.support.rows(place)
        row = rows.start + int(np.argmin(self.ranks[rows]))
        distance = self._min_distance(self.support.embeddings[row : row + 1])
        return _Candidate(place, row, distance, float(self.head.probability(distance)))

    def exclude(self, candidate: _Candidate) -> None:
        self.object_ranks[candidate.place] = np.inf

    def is_nearer_to_negative(self, candidate: _Candidate) -> bool:
        """Whether a negative of the object is at least as near as its nearest view."""
        negatives = self.support.negatives[self.support.negative_rows(candidate.place)]
        return len(negatives) > 0 and self._min_distance(negatives) <= candidate.distance

    def refusal(self, candidate: _Candidate) -> Rule | None:
        """The rule that refuses the candidate, by the general threshold and its own limit; None if it passes."""
        if candidate.probability < self.threshold:
            return "below threshold"
        if candidate.distance > self.support.limits[candidate.place]:
            return "below the object's own threshold"
        return None

    def _min_distance(self, rows: Floats) -> float:
        # Equal rows give equal distances, wherever they are stored; a matrix product does not guarantee that.
        return float(self.head.paired_distances(self.query, rows).min())


def build_support(
    entries: Sequence[SupportEntry],
    dimensions: int,
    head: SigmoidDistanceHead,
    threshold: float,
    false_accept_rate: float | None = None,
    impostors: Floats | None = None,
) -> SupportSet:
    """Build the support set of the registered objects, with their limits; see `object_limits`."""
    support = SupportSet.build(entries, dimensions)
    return support.with_limits(object_limits(support, head, threshold, false_accept_rate, impostors))


def object_limits(
    support: SupportSet,
    head: SigmoidDistanceHead,
    threshold: float,
    false_accept_rate: float | None = None,
    impostors: Floats | None = None,
) -> Floats:
    """The limit of each object: the largest distance at which it is recognized, for `SupportSet.with_limits`.

    A threshold at a false-accept rate keeps that rate on average over objects. A plain shape, or an object with many views,
    is near to more unknown things than others. An object's limit is therefore the minimum of

    - the distance of the general threshold;
    - with impostors, the largest distance within which at most the fraction `false_accept_rate` of them is, to the object's
      nearest view: with 512 impostors and a rate of 0.01, just below the distance of the sixth nearest;
    - the distance of its nearest negative to its nearest view.

    Impostors set no limit below half the distance of the general threshold, and negatives none below 0.8 of it. What is
    nearer may be a picture of the object itself, and would make it unrecognizable. A picture that is nearer to a negative is
    refused by `decide` in any case.

    Args:
        support: N objects, with their negatives.
        head: computes the distances.
        threshold: the general threshold, a probability. With 0 or 1 there are no limits.
        false_accept_rate: the rate for which the threshold is stated. None for another threshold: impostors are ignored.
        impostors: float32 (I, D), embeddings of things that nobody registered (`Bundle.impostors`), or None.

    Returns:
        float32 (N,); inf where only the general threshold applies.
    """
    result = np.full(len(support), np.inf, dtype=np.float32)
    if not (len(support) and 0.0 < threshold < 1.0):
        return result
    if impostors is not None and false_accept_rate is not None:
        # The small summand, because 0.29 * 100 is 28.999999999999996.
        accepted = math.floor(false_accept_rate * len(impostors) + 1e-9)
        if accepted < len(impostors):
            for objects, distances in _impostor_distances(support, head, impostors):
                result[objects] = np.partition(distances, accepted, axis=1)[:, accepted]
            result = np.nextafter(result, np.float32(-np.inf))
    general = head.distance_at(threshold)
    # The distance is negative for a threshold that even an identical picture does not reach.
    result = np.maximum(result, min(general, MIN_LIMIT_FROM_IMPOSTORS * general), dtype=np.float32)
    min_limit = min(general, MIN_LIMIT_FROM_NEGATIVES * general)
    # Not np.unique, for which numpy 2 loads its masked arrays, 1.6 MB that nothing else needs.
    for place in dict.fromkeys(support.negative_owners.tolist()):
        views = support.embeddings[support.rows(place)]
        nearest = head.distances(support.negatives[support.negative_rows(place)], views).min()
        result[place] = min(result[place], max(min_limit, nearest))
    result[result >= general] = np.inf
    return result


def object_limit(
    views: Floats,
    head: SigmoidDistanceHead,
    threshold: float,
    false_accept_rate: float | None = None,
    impostors: Floats | None = None,
    negatives: Floats | None = None,
) -> float:
    """The limit of one object with views (V, D) and negatives (K, D); see `object_limits`."""
    entry = SupportEntry(
        "object", "object", tuple(range(len(views))), views, views[:0] if negatives is None else negatives
    )
    support = SupportSet.build((entry,), views.shape[1])
    return float(object_limits(support, head, threshold, false_accept_rate, impostors)[0])


def _impostor_distances(
    support: SupportSet, head: SigmoidDistanceHead, impostors: Floats
) -> Iterator[tuple[slice, Floats]]:
    """Yield blocks of objects with the distance of each impostor to each object's nearest view, (block, I)."""
    start = 0
    while start < len(support):
        end = support.starts[start] + _MAX_ROWS_AT_ONCE
        stop = max(start + 1, int(np.searchsorted(support.starts, end, side="right")) - 1)
        first, last = int(support.starts[start]), int(support.starts[stop])
        distances = head.distances(support.embeddings[first:last], impostors)
        if last - first > stop - start:
            distances = np.minimum.reduceat(distances, support.starts[start:stop] - first, axis=0)
        yield slice(start, stop), distances
        start = stop


def _format_distinct(p: float, threshold: float) -> tuple[str, str]:
    """Format both with as many decimals as show which is larger."""
    digits = next((n for n in range(2, 7) if f"{p:.{n}f}" != f"{threshold:.{n}f}"), 2)
    return f"{p:.{digits}f}", f"{threshold:.{digits}f}"
