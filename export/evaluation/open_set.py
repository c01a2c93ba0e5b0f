"""Open-set identification: which registered object is this, if any?

Some objects are registered from one picture each. Queries are of these objects and of others. A query is accepted when its
best log-odds over all supports reach a threshold. At the threshold at which a given share of the unknown queries is accepted
(the false-accept rate), the *detection and identification rate* is the share of known queries that are accepted and whose
nearest support is the right one: Phillips, Grother, Micheals, "Evaluation Methods in Face Recognition", in Li, Jain (eds.),
Handbook of Face Recognition, 2nd edition, 2011.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.models.manifest import FALLBACK_THRESHOLD, Threshold, default_threshold
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet
from export.data.sampling import Episode, episodes
from export.evaluation import metrics
from export.evaluation.embeddings import Embeddings

Scores = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

REGISTERED = (5, 20)
MAX_UNKNOWN = 20
"""Unregistered classes per episode."""
UNKNOWN_QUERIES = 40
"""Their queries per episode, rounded up so that all classes, known or unknown, have equally many."""
LEFT_UNKNOWN = 0.25
"""Share of the classes that stays unregistered if there are few."""
RATES = (0.1, 0.01, 0.001)
RESAMPLES = 1000
CURVE_POINTS, MIN_CURVE_FAR = 40, 1e-3
"""Thresholds of the curve, evenly over the logarithm of the share of unknown queries that pass, and the least share."""


@dataclass(frozen=True)
class Identification:
    """Results of a threshold on queries of registered and of unknown objects."""

    false_accept_rate: float
    """The requested rate of unknown queries; for a stated threshold, the rate on pairs of validation classes."""
    probability: float
    """A query is accepted when p(same) of its nearest support is at least this."""
    observed_far: float
    """Share of the unknown queries that are accepted."""
    rate: float
    """Detection and identification rate: share of the known queries that are accepted and whose nearest support is right."""
    low: float
    """95 % bootstrap interval of the rate, over episodes; unstated thresholds are determined for each resample."""
    high: float


@dataclass(frozen=True)
class CurvePoint:
    """Results of a fixed threshold, with 95 % intervals for another sample of classes (bootstrap)."""

    probability: float
    """A query is accepted when p(same) of its nearest support is at least this."""
    far: float
    """Share of the unknown queries that are accepted."""
    far_low: float
    far_high: float
    rate: float
    """Share of the known queries that are accepted and whose nearest support is right."""
    low: float
    high: float


@dataclass(frozen=True)
class OpenSet:
    """Open-set identification with some objects registered from one picture each, among unknown ones."""

    registered: int
    """Registered objects per episode."""
    unknown: int
    """Unregistered classes per episode."""
    episodes: int
    known_queries: int
    """In all episodes."""
    unknown_queries: int
    """In all episodes."""
    closed_rate: float
    """Share of the known queries whose nearest support is right, accepted or not."""
    points: tuple[Identification, ...]
    """Results at the thresholds that give the requested false-accept rates on the unknown queries."""
    not_stated: tuple[float, ...]
    """False-accept rates for which there are too few unknown queries."""
    stated: tuple[Identification, ...]
    """Results at the thresholds of the bundle."""
    curve: tuple[CurvePoint, ...] = ()
    """Results at falling thresholds; empty in records of an earlier release."""
    default: CurvePoint | None = None
    """Results at the default threshold: the stated one, or p = 0.5 if none is stated."""

    @property
    def title(self) -> str:
        return f"{self.registered} registered"


@dataclass(frozen=True, eq=False)
class Scored:
    """The queries of all episodes."""

    known: Scores
    """(K,): the best log-odds of each query of a registered object."""
    right: npt.NDArray[np.bool_]
    """(K,): whether its nearest support is of its object."""
    known_episode: Counts
    """(K,): the number of its episode, from 0."""
    unknown: Scores
    """(U,): the best log-odds of each query of an unknown object."""
    unknown_episode: Counts
    """(U,)."""
    episodes: int
    known_class: Counts | None = None
    """(K,): the class of each query; None if it is unknown, and no curve is measured."""
    unknown_class: Counts | None = None
    """(U,)."""


def open_sets(
    embeddings: Embeddings,
    images: ImageSet,
    head: SigmoidDistanceHead,
    thresholds: Sequence[Threshold] = (),
    count: int = 2000,
    seed: int = 0,
    supports: Embeddings | None = None,
) -> tuple[OpenSet, ...]:
    """Identification with 5 and with 20 registered objects, or with as many as the classes allow.

    Args:
        embeddings: float32 (N, D), the embeddings of `images.images` as queries.
        images: the classes to draw known and unknown ones from, of all groups alike.
        head: scores the queries; its distance ranks the supports.
        thresholds: stated on validation classes, to be tested on these.
        count: number of episodes.
        seed: equal seeds give equal episodes and intervals.
        supports: float32 (N, D), the embeddings of `images.images` as supports; default: `embeddings`.

    Raises:
        DataError: fewer than three classes have two pictures.
    """
    usable = int((images.counts >= 2).sum())
    max_registered = usable - max(1, int(LEFT_UNKNOWN * usable))
    if max_registered < 2:
        raise DataError(
            f"{images.name}: open-set identification needs three classes of two pictures, and there are {usable}"
        )
    results = []
    for registered in sorted({min(registered, max_registered) for registered in REGISTERED}):
        unknown = min(MAX_UNKNOWN, usable - registered)
        rng = np.random.default_rng([seed, 25, registered])
        drawn = _draw(images, count, registered + unknown, -(-UNKNOWN_QUERIES // unknown), rng)
        scored = score(
            drawn, registered, embeddings, embeddings if supports is None else supports, head, images.labels
        )
        results.append(identification(scored, registered, unknown, thresholds, seed))
    return tuple(results)


def score(
    drawn: Iterator[Episode],
    registered: int,
    embeddings: Embeddings,
    supports: Embeddings,
    head: SigmoidDistanceHead,
    labels: Counts | None = None,
) -> Scored:
    """Score the queries of episodes in which only the first `registered` classes, one support each, are registered.

    `labels`, (N,), are the classes of the embeddings.
    """
    best, right, classes = list[Scores](), list[npt.NDArray[np.bool_]](), list[Counts]()
    each = ways = 0
    for episode in drawn:
        ways, each = episode.queries.shape
        log_odds = head.log_odds(
            head.distances(embeddings[episode.queries.ravel()], supports[episode.supports[:registered, 0]])
        )
        best.append(log_odds.max(axis=1))
        right.append(log_odds.argmax(axis=1) == np.repeat(np.arange(ways), each))
        if labels is not None:
            classes.append(labels[episode.queries.ravel()])
    scores, correct = np.stack(best), np.stack(right)
    known = registered * each
    number = np.arange(len(best))
    of_queries = np.stack(classes) if classes else None
    return Scored(
        known=scores[:, :known].ravel(),
        right=correct[:, :known].ravel(),
        known_episode=np.repeat(number, known),
        unknown=scores[:, known:].ravel(),
        unknown_episode=np.repeat(number, ways * each - known),
        episodes=len(best),
        known_class=None if of_queries is None else of_queries[:, :known].ravel(),
        unknown_class=None if of_queries is None else of_queries[:, known:].ravel(),
    )


def identification(
    scored: Scored, registered: int, unknown: int, thresholds: Sequence[Threshold] = (), seed: int = 0
) -> OpenSet:
    """The rates of scored queries, with intervals.

    Args:
        scored: the queries.
        registered: registered objects per episode.
        unknown: other classes per episode.
        thresholds: thresholds stated on validation classes.
        seed: seed of the bootstrap.
    """
    reached = [(rate, metrics.threshold_at_far(scored.unknown, rate)) for rate in RATES]
    points = [(rate, limit, metrics.sigmoid(limit)) for rate, limit in reached if limit is not None]
    stated = [(t.false_accept_rate, metrics.logit(t.probability), t.probability) for t in thresholds]
    intervals = _bootstrap(scored, [rate for rate, *_ in points], [limit for _, limit, _ in stated], seed)
    identifications = []
    for (rate, limit, probability), interval in zip(points + stated, intervals, strict=True):
        identified = float(np.mean(scored.right & (scored.known >= limit)))
        identifications.append(
            Identification(
                false_accept_rate=rate,
                probability=probability,
                observed_far=float(np.mean(scored.unknown >= limit)),
                rate=identified,
                # Where a handful of queries decide the threshold, all resampled rates may be on one side.
                low=min(interval.low, identified),
                high=max(interval.high, identified),
            )
        )
    return OpenSet(
        registered=registered,
        unknown=unknown,
        episodes=scored.episodes,
        known_queries=len(scored.known),
        unknown_queries=len(scored.unknown),
        closed_rate=float(scored.right.mean()),
        points=tuple(identifications[: len(points)]),
        not_stated=tuple(rate for rate, limit in reached if limit is None),
        stated=tuple(identifications[len(points) :]),
        **_curve(scored, thresholds, seed),
    )


class _Curve(TypedDict, total=False):
    curve: tuple[CurvePoint, ...]
    default: CurvePoint


def _curve(scored: Scored, thresholds: Sequence[Threshold], seed: int) -> _Curve:
    """Results at fixed thresholds, from a strict one to accepting everything, and at the default one."""
    if scored.known_class is None or scored.unknown_class is None:
        return {}
    stated = default_threshold(thresholds)
    default = FALLBACK_THRESHOLD if stated is None else stated.probability
    shares = np.geomspace(max(MIN_CURVE_FAR, metrics.RULE_OF_30 / len(scored.unknown)), 1.0, CURVE_POINTS)
    limits = np.unique(np.quantile(scored.unknown, 1.0 - shares))[::-1]
    limits = np.append(limits, metrics.logit(default))
    known, unknown = scored.right, np.ones(len(scored.unknown), bool)
    classes = int(max(scored.known_class.max(), scored.unknown_class.max())) + 1
    rates = _class_counts(scored.known, known, scored.known_class, limits, classes)
    fars = _class_counts(scored.unknown, unknown, scored.unknown_class, limits, classes)
    rng = np.random.default_rng([seed, 34])
    present = np.flatnonzero(rates[1] + fars[1])
    draws = rng.multinomial(len(present), np.full(len(present), 1 / len(present)), RESAMPLES)
    rate, low, high = _over_classes(rates[0][:, present], rates[1][present], draws)
    far, far_low, far_high = _over_classes(fars[0][:, present], fars[1][present], draws)
    points = [
        CurvePoint(metrics.sigmoid(float(limit)), *(float(v) for v in values))
        for limit, *values in zip(limits, far, far_low, far_high, rate, low, high, strict=True)
    ]
    return {"curve": tuple(points[:-1]), "default": points[-1]}


def _class_counts(
    scores: Scores, counted: npt.NDArray[np.bool_], labels: Counts, limits: Scores, classes: int
) -> tuple[Scores, Scores]:
    """(L, classes): `counted` queries of each class that reach each limit; and (classes,): all its queries."""
    reached = [np.bincount(labels[counted & (scores >= limit)], minlength=classes) for limit in limits]
    return np.stack(reached).astype(np.float64), np.bincount(labels, minlength=classes).astype(np.float64)


def _over_classes(reached: Scores, totals: Scores, draws: Counts) -> tuple[Scores, Scores, Scores]:
    """Rates at each limit and their 95 % intervals; each row of `draws` says how often each class is drawn."""
    drawn = np.maximum(draws @ totals, 1.0)
    low, high = np.quantile((draws @ reached.T) / drawn[:, None], [0.025, 0.975], axis=0)
    rates = reached.sum(axis=1) / totals.sum()
    return rates, np.minimum(low, rates), np.maximum(high, rates)


def _draw(
    images: ImageSet, count: int, way: int, queries: int, rng: np.random.Generator
) -> Iterator[Episode]:
    """One-shot episodes with up to `queries` queries per class, as many as the pictures allow."""
    enough = np.sort(images.counts)[-way] - 1
    return episodes(images, count, way, 1, int(min(queries, enough)), rng, within_group=False)


def _bootstrap(
    scored: Scored, rates: Sequence[float], limits: Sequence[float], seed: int
) -> list[metrics.Interval]:
    """95 % percentile intervals of the identification rate: at each false-accept rate, then at each fixed limit.

    Episodes are drawn with repetition. The threshold of a false-accept rate is determined from the unknown queries of
    each draw, so that the interval includes its uncertainty.
    """
    order = np.argsort(-scored.unknown, kind="stable")
    unknown, unknown_episode = scored.unknown[order], scored.unknown_episode[order]
    right = np.flatnonzero(scored.right)
    right = right[np.argsort(-scored.known[right], kind="stable")]
    falling, right_episode = -scored.known[right], scored.known_episode[right]
    # Upper bounds of the rank of a resampled threshold.
    candidate_counts = [min(len(unknown), int(4 * rate * len(unknown)) + 100) for rate in rates]
    accepted = [
        np.bincount(scored.known_episode[scored.right & (scored.known >= limit)], minlength=scored.episodes)
        for limit in limits
    ]
    rng = np.random.default_rng([seed, 26])
    correct = np.empty((RESAMPLES, len(rates) + len(limits)))
    for row in correct:
        times = np.bincount(rng.integers(0, scored.episodes, scored.episodes), minlength=scored.episodes)
        for column, (rate, candidates) in enumerate(zip(rates, candidate_counts, strict=True)):
            taken = np.cumsum(times[unknown_episode[:candidates]])
            refused = min(
                int(np.searchsorted(taken, rate * len(unknown) + 1e-9, side="right")), candidates - 1
            )
            limit = 0.5 * (unknown[max(0, refused - 1)] + unknown[refused])
            above = int(np.searchsorted(falling, -limit, side="left"))
            row[column] = times[right_episode[:above]].sum()
        row[len(rates) :] = [times @ counts for counts in accepted]
    low, high = np.quantile(correct / len(scored.known), [0.025, 0.975], axis=0)
    return [metrics.Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]
