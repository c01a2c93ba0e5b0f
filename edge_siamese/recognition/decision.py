"""Decides what an embedding shows: the nearest object, unless a threshold or a negative speaks against it."""

from __future__ import annotations

import math
from collections.abc import Iterator
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

STRICTEST_SHARE = 0.5
"""Impostors make no limit stricter than this share of the general threshold's distance."""
STRICTEST_SHARE_OF_NEGATIVES = 0.8
"""Negatives make none stricter than this share: one double press must not blind an object."""

# Rows of the support set that are compared with all impostors at once: bounds the memory.
_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Recognition:
    """What a frame shows; printed, it reads like `heart (p = 0.98; next: star, 0.03)`."""

    name: str | None
    """The object, or None if it is none that is known."""
    probability: float
    """p(same) of the frame and the nearest object's nearest view; 0 if nothing is registered."""
    nearest: str | None
    """The most probable object, recognized or not; None if nothing is registered."""
    runner_up: str | None
    """The next most probable object that no negative speaks against; None if there is none."""
    margin: float
    """How far the runner-up's probability is below `probability`; all of it if there is no second."""
    threshold: float
    """The probability from which on the nearest object is recognized: the general one, or its own where that is more."""
    rule: Rule
    """What decided."""
    uid: str | None = None
    """Of the object that was recognized."""
    nearest_uid: str | None = None
    """Of `nearest`."""
    view: int | None = None
    """The number of the nearest view of `nearest`."""
    general_threshold: float = 0.0
    """The threshold for all objects, as it was given."""
    set_aside: tuple[str, ...] = ()
    """Objects that are as near, or nearer, but for a negative of theirs that is nearer still; the nearest first."""
    view_place: int | None = None
    """The place of that view among those of `nearest`, from 1."""
    view_count: int = 0
    """How many views `nearest` has."""

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
        p, threshold = _told_apart(self.probability, self.threshold)
        own = ", its own threshold" if self.rule == "below the object's own threshold" else ""
        return f"unknown (nearest: {self.nearest}, p = {p} < {threshold}{own})"

    def explain(self) -> tuple[str, ...]:
        """How it was decided, in sentences for people."""
        if self.rule == "nothing to see":
            return (
                "There is nothing to see: the picture has no contrast, as in the dark or of an empty wall.",
            )
        if self.nearest is None:
            return ("Nothing is registered, so nothing can be recognized.",)
        p, threshold = _told_apart(self.probability, self.threshold)
        whose = "its own threshold" if self.threshold > self.general_threshold else "the general threshold"
        verdict = {
            "recognized": f"This is {self.nearest}: p = {p} reaches {whose}, {threshold}.",
            "below threshold": f"Unknown: {self.nearest} is nearest, but p = {p} is below {whose}, {threshold}.",
            "below the object's own threshold": (
                f"Unknown: {self.nearest} is nearest, but p = {p} is below its own threshold, {threshold}, which is"
                f" stricter than the general one, {self.general_threshold:.2f}, since other things look much like it."
            ),
            "nearer to a negative": (
                f"Unknown: {self.nearest} is nearest (p = {p}), but an example of what it is not is nearer than"
                " any of its views."
            ),
        }[self.rule]
        result = [verdict, self._nearest_view()]
        others = [name for name in self.set_aside if name != self.nearest]
        if others:
            result.append(f"Nearer to an example of what it is not than to any view: {', '.join(others)}.")
        if self.runner_up is None:
            result.append("There is no runner-up.")
        else:
            second = self.probability - self.margin
            result.append(f"The runner-up is {self.runner_up}, p = {second:.2f}: {self.margin:.2f} less.")
        return tuple(result)

    def _nearest_view(self) -> str:
        if self.view_count <= 1:
            return f"The nearest view is the only one of {self.nearest}, number {self.view}."
        place = f"view {self.view_place} of the {self.view_count}"
        return f"The nearest is {place} of {self.nearest}, number {self.view}."

    def data(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "set_aside": list(self.set_aside)}

    def described(self) -> dict[str, Any]:
        """The same with what people are told: in a line, and why."""
        return {**self.data(), "text": str(self), "explanation": list(self.explain())}


def nothing_to_see(threshold: float) -> Recognition:
    """Of a picture without contrast, which an encoder would take for anything.

    Args:
        threshold: the general one, a probability.
    """
    return Recognition(None, 0.0, None, None, 0.0, threshold, "nothing to see", general_threshold=threshold)


def decide(
    support: SupportSet, head: SigmoidDistanceHead, embedding: Floats, threshold: float
) -> Recognition:
    """What an embedding shows.

    The candidate is the object with the nearest view. If one of its negatives is at least as near, the object is set
    aside and the next nearest is the candidate, and so on. The candidate is recognized if its probability is at least
    the threshold, and its distance at most its own limit. If that makes no object known, the nearest of all is
    reported, with the rule that speaks against it: a negative counts where the object would have been recognized
    otherwise.

    Args:
        support: what is registered.
        head: gives distances and probabilities.
        embedding: (D,) float32, of the frame.
        threshold: the general one, a probability.

    Raises:
        EncoderError: the embedding has a number that is not finite, or not D numbers.
    """
    query = np.asarray(embedding, dtype=np.float32)
    if query.shape != (support.dimensions,) or not np.isfinite(query).all():
        raise EncoderError(
            f"the encoder gave an embedding that is not {support.dimensions} finite numbers; its file is damaged"
        )
    if not len(support):
        return Recognition(
            None, 0.0, None, None, 0.0, threshold, "nothing registered", general_threshold=threshold
        )
    frame = _Scored(support, head, query, threshold)
    aside: list[_Candidate] = []
    candidate = frame.nearest()
    while candidate is not None and frame.is_nearer_to_a_negative(candidate):
        aside.append(candidate)
        frame.leave_out(candidate)
        candidate = frame.nearest()
    if candidate is not None and (not aside or frame.refusal(candidate) is None):
        found, rule = candidate, frame.refusal(candidate) or "recognized"
        frame.leave_out(candidate)
    else:
        found = aside[0]
        rule = frame.refusal(found) or "nearer to a negative"
    second = frame.nearest()
    name, uid = support.names[found.place], support.uids[found.place]
    views = support.rows(found.place)
    return Recognition(
        name=name if rule == "recognized" else None,
        probability=found.probability,
        nearest=name,
        runner_up=None if second is None else support.names[second.place],
        margin=found.probability if second is None else max(0.0, found.probability - second.probability),
        threshold=max(threshold, float(head.probability(support.limits[found.place]))),
        rule=rule,
        uid=uid if rule == "recognized" else None,
        nearest_uid=uid,
        view=int(support.view_ids[found.row]),
        general_threshold=threshold,
        set_aside=tuple(support.names[other.place] for other in aside),
        view_place=found.row - views.start + 1,
        view_count=views.stop - views.start,
    )


@dataclass(frozen=True)
class _Candidate:
    """An object, by its nearest view."""

    place: int
    row: int
    distance: float
    probability: float


class _Scored:
    """The objects of a support set, as near as they are to one frame; some may be left out."""

    def __init__(
        self, support: SupportSet, head: SigmoidDistanceHead, query: Floats, threshold: float
    ) -> None:
        self.support, self.head, self.query, self.threshold = support, head, query[np.newaxis], threshold
        # By distance, not by probability: far from the threshold, float32 rounds different probabilities to one.
        self.ranks = support.ranks(head, query)
        several = len(self.ranks) > len(support)
        self.objects = np.minimum.reduceat(self.ranks, support.starts[:-1]) if several else self.ranks.copy()

    def nearest(self) -> _Candidate | None:
        """The nearest object that is not left out."""
        place = int(np.argmin(self.objects))
        if self.objects[place] == np.inf:
            return None
        rows = self.support.rows(place)
        row = rows.start + int(np.argmin(self.ranks[rows]))
        distance = self._least_distance(self.support.embeddings[row : row + 1])
        return _Candidate(place, row, distance, float(self.head.probability(distance)))

    def leave_out(self, candidate: _Candidate) -> None:
        self.objects[candidate.place] = np.inf

    def is_nearer_to_a_negative(self, candidate: _Candidate) -> bool:
        """Whether one of the object's negatives is at least as near as its nearest view."""
        negatives = self.support.negatives[self.support.negative_rows(candidate.place)]
        return len(negatives) > 0 and self._least_distance(negatives) <= candidate.distance

    def refusal(self, candidate: _Candidate) -> Rule | None:
        """The threshold that speaks against it."""
        if candidate.probability < self.threshold:
            return "below threshold"
        if candidate.distance > self.support.limits[candidate.place]:
            return "below the object's own threshold"
        return None

    def _least_distance(self, rows: Floats) -> float:
        # Of the same row it is the same number, wherever the row stands; a matrix product does not promise that.
        return float(self.head.paired_distances(self.query, rows).min())


def object_limits(
    support: SupportSet,
    head: SigmoidDistanceHead,
    threshold: float,
    false_accept_rate: float | None = None,
    impostors: Floats | None = None,
) -> Floats:
    """The largest distance at which each object may be recognized, for `SupportSet.with_limits`.

    A threshold at a false-accept rate keeps that rate on average over objects. A plain shape, or an object with many
    views, comes near to more strangers than others do. So an object's limit is the least of

    - the distance of the general threshold: no limit is laxer;
    - with impostors, the distance below which at most the share `false_accept_rate` of them is to the object's nearest
      view: with 512 and a rate of 0.01, the sixth nearest impostor is too far away already;
    - the distance of its nearest negative to its nearest view;

    but for impostors at least half the distance of the general threshold, and for negatives at least 0.8 of it. What is
    nearer still may be a picture of the object itself, and would make it unrecognizable; a frame that is nearer to a
    negative is refused by `decide` in any case.

    Args:
        support: N objects, with their negatives.
        head: gives the distances.
        threshold: the general one, a probability. With 0 or 1 there are no limits.
        false_accept_rate: for which the threshold is stated; None: it is stated for none, impostors say nothing.
        impostors: (I, D), embeddings of things that nobody registered (`Bundle.impostors`), or None.

    Returns:
        float32 (N,); inf where the general threshold is the least.
    """
    result = np.full(len(support), np.inf, dtype=np.float32)
    if not (len(support) and 0.0 < threshold < 1.0):
        return result
    if impostors is not None and false_accept_rate is not None:
        # The small number: 0.29 * 100 is 28.999999999999996.
        accepted = math.floor(false_accept_rate * len(impostors) + 1e-9)
        if accepted < len(impostors):
            for objects, distances in _impostor_distances(support, head, impostors):
                result[objects] = np.partition(distances, accepted, axis=1)[:, accepted]
            result = np.nextafter(result, np.float32(-np.inf))
    general = head.distance_at(threshold)
    # Of a threshold that even the same picture misses, the distance is below zero.
    result = np.maximum(result, min(general, STRICTEST_SHARE * general), dtype=np.float32)
    least = min(general, STRICTEST_SHARE_OF_NEGATIVES * general)
    # Not np.unique, for which numpy 2 loads its masked arrays: 1.6 MB that nothing else needs.
    for place in dict.fromkeys(support.negative_owners.tolist()):
        views = support.embeddings[support.rows(place)]
        nearest = head.distances(support.negatives[support.negative_rows(place)], views).min()
        result[place] = min(result[place], max(least, nearest))
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
    """The limit of one object, as `object_limits` gives it: (V, D) views, (K, D) negatives."""
    entry = SupportEntry(
        "object", "object", tuple(range(len(views))), views, views[:0] if negatives is None else negatives
    )
    support = SupportSet.build((entry,), views.shape[1])
    return float(object_limits(support, head, threshold, false_accept_rate, impostors)[0])


def _impostor_distances(
    support: SupportSet, head: SigmoidDistanceHead, impostors: Floats
) -> Iterator[tuple[slice, Floats]]:
    """The objects in blocks, with the distance of each impostor to each object's nearest view, (block, I)."""
    start = 0
    while start < len(support):
        most = support.starts[start] + _ROWS_AT_ONCE
        stop = max(start + 1, int(np.searchsorted(support.starts, most, side="right")) - 1)
        first, last = int(support.starts[start]), int(support.starts[stop])
        distances = head.distances(support.embeddings[first:last], impostors)
        if last - first > stop - start:
            distances = np.minimum.reduceat(distances, support.starts[start:stop] - first, axis=0)
        yield slice(start, stop), distances
        start = stop


def _told_apart(p: float, threshold: float) -> tuple[str, str]:
    """Both with as many decimals as it takes to see which is larger."""
    digits = next((n for n in range(2, 7) if f"{p:.{n}f}" != f"{threshold:.{n}f}"), 2)
    return f"{p:.{digits}f}", f"{threshold:.{digits}f}"
