"""The decision: the object that an embedding shows, by distance, thresholds and negatives.

The rules are those of docs/method.md, "The decision" and "Limits of objects".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edge_siamese.errors import EncoderError
from edge_siamese.recognition.embedding import MAX_COMPONENT
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Floats
from edge_siamese.recognition.support import SupportEntry, SupportSet

Rule = Literal[
    "recognized",
    "look-alikes",
    "below threshold",
    "below the object's own threshold",
    "nearer to a negative",
    "nearer to the empty place",
    "nothing registered",
    "nothing to see",
]

MIN_LIMIT_FROM_IMPOSTORS = 0.5
"""Impostors lower the general threshold's distance to no less than this fraction of the fixed threshold's."""
MIN_LIMIT_FROM_NEGATIVES = 0.8
"""Negatives set no limit below this fraction: one double press must not make an object unrecognizable."""

MIN_PLACE_DISTANCE = 0.65
"""An empty place within this fraction of the general threshold's distance of a view may show the object itself."""
ANY_PREFERENCE = 0.5
"""The preference of two objects that are equally close."""

# Rows of the support set compared with all impostors at once: bounds the memory.
_MAX_ROWS_AT_ONCE = 2048


@dataclass(frozen=True)
class Recognition:
    """The result of recognizing a picture; as a string, such as `heart (p = 0.98; next: star, 0.03)`."""

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
    runner_up_uid: str | None = None
    """The uid of `runner_up`."""
    by_surroundings: bool = False
    """Whether the object's own threshold follows from other things the camera sees, not from negatives."""

    @property
    def is_undecided(self) -> bool:
        """Whether the picture shows `nearest` or `runner_up`, which look alike here."""
        return self.rule == "look-alikes"

    @property
    def shows_something_known(self) -> bool:
        """Whether it shows a registered object, even if it is undecided which one."""
        return self.uid is not None or self.is_undecided

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
        if self.is_undecided:
            second_p = self.probability - self.margin
            return f"{self.nearest} or {self.runner_up} (p = {self.probability:.2f} and {second_p:.2f})"
        if self.rule == "nearer to a negative":
            return f"unknown (nearest: {self.nearest}, p = {self.probability:.2f}, but a negative of it is nearer)"
        if self.rule == "nearer to the empty place":
            return f"unknown (nearest: {self.nearest}, p = {self.probability:.2f}, but the empty place is nearer)"
        p, threshold = _format_distinct(self.probability, self.threshold)
        own = ", its own threshold" if self.rule == "below the object's own threshold" else ""
        return f"unknown (nearest: {self.nearest}, p = {p} < {threshold}{own})"

    def explain(self) -> tuple[str, ...]:
        """Explain the decision in sentences."""
        if self.rule == "nothing to see":
            return (
                "There is nothing to see: the picture has no contrast, as in the dark or in front of an empty wall.",
            )
        if self.nearest is None:
            return ("Nothing is registered, so nothing can be recognized.",)
        p, threshold = _format_distinct(self.probability, self.threshold)
        whose = "its own threshold" if self.threshold > self.general_threshold else "the general threshold"
        cause = "things that this camera sees" if self.by_surroundings else "its negatives"
        verdict = {
            "recognized": f"This is {self.nearest}: p = {p} reaches {whose}, {threshold}.",
            "look-alikes": (
                f"This is {self.nearest} or {self.runner_up}: both are about equally close. Turn it, or add a view of "
                "each from the side where they differ."
            ),
            "below threshold": f"Unknown: {self.nearest} is nearest, but p = {p} is below {whose}, {threshold}.",
            "below the object's own threshold": (
                f"Unknown: {self.nearest} is nearest, but p = {p} is below its own threshold, {threshold}, which is"
                f" stricter than the general one, {self.general_threshold:.2f}, because of {cause}."
            ),
            "nearer to a negative": (
                f"Unknown: {self.nearest} is nearest (p = {p}), but one of its negatives is nearer than any of its views."
            ),
            "nearer to the empty place": (
                f"Unknown: {self.nearest} is nearest (p = {p}), but the place as it was before an object was registered is"
                f" nearer. If {self.nearest} is there, add a view of it."
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
        """All fields, a human-readable line, and the explanation, for JSON."""
        return {**self.data(), "text": str(self), "explanation": list(self.explain())}


def blank_recognition(threshold: float) -> Recognition:
    """The recognition of a picture without contrast, for which the encoder's output is meaningless.

    Args:
        threshold: the general threshold, a probability.
    """
    return Recognition(None, 0.0, None, None, 0.0, threshold, "nothing to see", general_threshold=threshold)


def decide(
    support: SupportSet,
    head: SigmoidDistanceHead,
    embedding: Floats,
    threshold: float,
    min_preference: float = ANY_PREFERENCE,
) -> Recognition:
    """Decide what an embedding shows.

    The candidate is the object with the nearest view. If one of its negatives is at least as near, it is rejected, and the
    next nearest object is the candidate. The candidate is recognized if its probability reaches the threshold and its
    distance is within its own limit. Otherwise the nearest object of all is reported as unknown, with the rule that
    refused it; that is its negative only if it would have been recognized without it.

    A recognized object is not named if the runner-up is about as near and not refused by its own limit: if the probability
    of the one object rather than the other, `preference`, is below `min_preference`.

    Args:
        support: the registered objects.
        head: computes distances and probabilities.
        embedding: float32 (D,), of the picture.
        threshold: the general threshold, a probability.
        min_preference: 0.5 to 1; with 0.5 the nearest object is always named.

    Raises:
        EncoderError: the embedding does not have D finite numbers of a plausible size.
    """
    query = np.asarray(embedding, dtype=np.float32)
    if query.shape != (support.dimensions,) or not (np.abs(query) <= MAX_COMPONENT).all():
        raise EncoderError(
            f"the encoder computed an embedding that is not {support.dimensions} finite numbers up to {MAX_COMPONENT:g}; "
            "its file is damaged"
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
    if rule == "recognized" and scores.is_nearer_to_place(nearest):
        rule = "nearer to the empty place"
    if rule == "recognized" and runner_up is not None and min_preference > ANY_PREFERENCE:
        is_possible = scores.refusal(runner_up) != "below the object's own threshold"
        if is_possible and preference(head, nearest.distance, runner_up.distance) < min_preference:
            rule = "look-alikes"
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
        runner_up_uid=None if runner_up is None else support.uids[runner_up.place],
        by_surroundings=bool(support.by_surroundings[nearest.place]),
    )


def preference(head: SigmoidDistanceHead, nearest: float, other: float) -> float:
    """The probability of the nearest of two objects, if it is one of them and both are equally frequent.

    By Bayes' rule, the odds of one object rather than the other are the quotient of the odds that the head gives to each.

    Args:
        head: gives the log-odds.
        nearest, other: distances to the two objects.
    """
    odds = head.log_odds(nearest) - head.log_odds(other)
    return float(0.5 * (1.0 + np.tanh(0.5 * odds)))


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

    def is_nearer_to_place(self, candidate: _Candidate) -> bool:
        """Whether an empty place is nearer than the object, and none of its views may show that place."""
        places = self.support.places
        if not (len(places) and 0.0 < self.threshold < 1.0):
            return False
        distances = self.head.paired_distances(self.query, places)
        nearest = int(np.argmin(distances))
        if float(distances[nearest]) >= candidate.distance:
            return False
        views = self.support.embeddings[self.support.rows(candidate.place)]
        from_views = float(self.head.paired_distances(places[nearest : nearest + 1], views).min())
        return from_views > MIN_PLACE_DISTANCE * self.head.distance_at(self.threshold)

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


@dataclass(frozen=True, eq=False)
class Acceptance:
    """The rule for recognition: a fixed threshold, or a share of impostors that may pass.

    A threshold on pairs of pictures says little about a camera: the more views are registered, the more likely it is that an
    unregistered thing matches one of them. With impostors, the general threshold therefore follows from the registered
    objects: at most the share `false_accept_rate` of the impostors may match any of their views.
    """

    threshold: float
    """Threshold on p(same) of two pictures, for registrations; without impostors, for all pictures."""
    source: str = "given"
    """Human-readable origin of the threshold."""
    false_accept_rate: float | None = None
    """The share of impostors that may be recognized; None: the threshold is fixed."""
    impostors: Floats | None = None
    """float32 (I, D), embeddings of things that nobody registered (`Bundle.impostors`)."""

    def build_support(
        self, entries: Sequence[SupportEntry], dimensions: int, head: SigmoidDistanceHead
    ) -> tuple[SupportSet, float]:
        """The support set of the registered objects, with their limits, and the general threshold, a probability."""
        support = SupportSet.build(entries, dimensions)
        threshold = self.general_threshold(support, head)
        return support.with_limits(object_limits(support, head, threshold)), threshold

    @property
    def is_measured(self) -> bool:
        """Whether there are enough impostors to measure the rate on them: at least one may pass."""
        return self._accepted >= 1

    @property
    def description(self) -> str:
        """Human-readable origin of the general threshold."""
        if self.impostors is None or self.false_accept_rate is None:
            return self.source
        if not self.is_measured:
            return (
                f"{self.source}, or stricter: none of {len(self.impostors)} pictures of other things passes"
            )
        return f"{self.false_accept_rate:.4g} of {len(self.impostors)} pictures of other things pass"

    @property
    def _accepted(self) -> int:
        """The number of impostors that may pass."""
        if self.impostors is None or self.false_accept_rate is None:
            return 0
        # A small summand, because 0.29 * 100 is 28.999999999999996.
        return math.floor(self.false_accept_rate * len(self.impostors) + 1e-9)

    def general_threshold(self, support: SupportSet, head: SigmoidDistanceHead) -> float:
        """The threshold on p(same) for all objects of a support set.

        Its distance is the largest one within which at most the share `false_accept_rate` of the impostors is, to the
        nearest view of any object: with 2,000 impostors and a rate of 0.01, just below that of the 21st nearest. Too few
        impostors for the rate only lower the distance of the fixed threshold. They never lower it below half: what is
        nearer may be a picture of the object itself.
        """
        if self.impostors is None or self.false_accept_rate is None or not len(support):
            return self.threshold
        if not 0.0 < self.threshold < 1.0 or self._accepted >= len(self.impostors):
            return self.threshold
        fixed = head.distance_at(self.threshold)
        nearest = np.sort(_nearest_distances(support, head, self.impostors))
        first_refused = float(nearest[self._accepted])
        last_accepted = float(nearest[: np.searchsorted(nearest, first_refused)].max(initial=0.0))
        # Just below, but further than distances differ that are computed in another order.
        limit = first_refused - min(1e-3, 0.5 * (first_refused - last_accepted))
        if not self.is_measured:
            limit = min(limit, fixed)
        limit = max(limit, min(fixed, MIN_LIMIT_FROM_IMPOSTORS * fixed))
        probability = float(head.probability(limit))
        # A steep head's probabilities are 0 or 1 far from its middle.
        return probability if 0.0 < probability < 1.0 else self.threshold


def object_limits(support: SupportSet, head: SigmoidDistanceHead, threshold: float) -> Floats:
    """The limit of each object with negatives: the distance of its nearest negative to its nearest view.

    Negatives set no limit below 0.8 of the distance of the general threshold. What is nearer may be a picture of the object
    itself, and would make it unrecognizable. A picture that is nearer to a negative is refused by `decide` in any case.

    Args:
        support: N objects, with their negatives.
        head: computes the distances.
        threshold: the general threshold, a probability. With 0 or 1 there are no limits.

    Returns:
        float32 (N,), for `SupportSet.with_limits`; inf where only the general threshold applies.
    """
    result = np.full(len(support), np.inf, dtype=np.float32)
    if not (len(support) and 0.0 < threshold < 1.0):
        return result
    general = head.distance_at(threshold)
    # The distance is negative for a threshold that even an identical picture does not reach.
    min_limit = min(general, MIN_LIMIT_FROM_NEGATIVES * general)
    # Not np.unique, for which numpy 2 loads its masked arrays, 1.6 MB that nothing else needs.
    for place in dict.fromkeys(support.negative_owners.tolist()):
        views = support.embeddings[support.rows(place)]
        nearest = head.distances(support.negatives[support.negative_rows(place)], views).min()
        result[place] = max(min_limit, nearest)
    result[result >= general] = np.inf
    return result


def _nearest_distances(support: SupportSet, head: SigmoidDistanceHead, impostors: Floats) -> Floats:
    """The distance of each impostor to the nearest view of any object, float32 (I,)."""
    nearest = np.full(len(impostors), np.inf, dtype=np.float32)
    for start in range(0, len(support.embeddings), _MAX_ROWS_AT_ONCE):
        rows = support.embeddings[start : start + _MAX_ROWS_AT_ONCE]
        np.minimum(nearest, head.distances(impostors, rows).min(axis=1), out=nearest)
    return nearest


def _format_distinct(p: float, threshold: float) -> tuple[str, str]:
    """Format both with enough decimals to show which is larger."""
    digits = next((n for n in range(2, 7) if f"{p:.{n}f}" != f"{threshold:.{n}f}"), 2)
    return f"{p:.{digits}f}", f"{threshold:.{digits}f}"
