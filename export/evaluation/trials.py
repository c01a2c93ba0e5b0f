"""One-shot trials and few-shot episodes: does a query take the support of its class, and which did it take instead?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet, OneShotRun
from export.data.sampling import Episode, episodes
from export.evaluation import metrics
from export.evaluation.embeddings import Embeddings, Supports, embed_all, embed_as
from export.evaluation.one_shot import Rule, episode_scores
from export.evaluation.results import EpisodesResult, OfficialTrials, RunResult, scope

EPISODES = 2000


@dataclass(frozen=True, eq=False)
class Wrong:
    """One query that took the wrong support."""

    where: str
    query: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    choice: npt.NDArray[np.uint8]
    truth_name: str
    choice_name: str
    truth_log_odds: float
    choice_log_odds: float


@dataclass(frozen=True, eq=False)
class Supply:
    """Pictures that supports are taken from, and their embeddings."""

    images: ImageSet
    embeddings: Embeddings
    """float32 (N, D), of `images.images` as supports."""


def official_trials(
    encoder: Encoder,
    runs: Sequence[OneShotRun],
    head: SigmoidDistanceHead,
    supports: Supports = "plain",
    frames: Sequence[OneShotRun] | None = None,
) -> tuple[OfficialTrials, list[Wrong]]:
    """Lake's runs: each query takes its nearest support, on its own; no assignment across a run's queries.

    Args:
        encoder: the device's, or a stand-in with the same interface.
        runs: the published trials.
        head: scores; its distance ranks.
        supports: how they are embedded.
        frames: the same runs in a higher resolution, of which the supports are taken.
    """
    known = embed_as(supports, encoder, np.concatenate([run.supports for run in frames or runs]))
    asked = embed_all(encoder, np.concatenate([run.queries for run in runs]))
    results, wrong = list[RunResult](), list[Wrong]()
    for run in runs:
        own, known = known[: len(run.supports)], known[len(run.supports) :]
        queries, asked = asked[: len(run.queries)], asked[len(run.queries) :]
        log_odds = head.log_odds(head.distances(queries, own))
        chosen = log_odds.argmax(axis=1)
        results.append(RunResult(run.name, int((chosen == run.answers).sum()), len(chosen)))
        for item in np.flatnonzero(chosen != run.answers):
            truth, choice = int(run.answers[item]), int(chosen[item])
            wrong.append(
                Wrong(
                    f"{run.name}, item {item + 1}",
                    run.queries[item],
                    run.supports[truth],
                    run.supports[choice],
                    f"class {truth + 1}",
                    f"class {choice + 1}",
                    float(log_odds[item, truth]),
                    float(log_odds[item, choice]),
                )
            )
    correct, trials = sum(result.correct for result in results), sum(result.trials for result in results)
    interval = metrics.wilson_interval(correct, trials)
    return OfficialTrials(
        correct, trials, correct / trials, interval.low, interval.high, tuple(results)
    ), wrong


def episode_result(
    embeddings: Embeddings,
    images: ImageSet,
    head: SigmoidDistanceHead,
    way: int,
    shot: int,
    count: int = EPISODES,
    within_group: bool = True,
    rule: Rule = "nearest",
    seed: int = 0,
    supports: Embeddings | None = None,
) -> tuple[EpisodesResult, list[Wrong]]:
    """Accuracy over N-way K-shot episodes with one query a class, and what went wrong in them.

    Args:
        embeddings: float32 (N, D), of `images.images` as queries.
        images: the classes to draw from.
        head: scores; its distance ranks.
        way: classes an episode.
        shot: supports a class.
        count: episodes.
        within_group: all classes of an episode from one group.
        rule: see `class_scores`.
        seed: equal seeds give equal episodes.
        supports: float32 (N, D), of `images.images` as supports; by default as the queries.

    Raises:
        DataError: too few classes or images.
    """
    rng = np.random.default_rng([seed, 22, way, shot, int(within_group)])
    drawn = episodes(images, count, way, shot, 1, rng, within_group)
    supply = Supply(images, embeddings if supports is None else supports)
    accuracies, wrong = _play(drawn, embeddings, images, supply, head, rule, scope(within_group))
    return _result(accuracies, way, shot, within_group, rule), wrong


def iconic_result(
    embeddings: Embeddings,
    images: ImageSet,
    catalog: Supply,
    head: SigmoidDistanceHead,
    way: int,
    count: int = EPISODES,
    seed: int = 0,
) -> tuple[EpisodesResult, list[Wrong]]:
    """Accuracy over one-shot episodes across groups whose supports are pictures of a catalog, with one query a class.

    Args:
        embeddings: float32 (N, D), of `images.images` as queries.
        images: what queries are drawn from.
        catalog: what supports are drawn from; its classes are found by their names.
        head: scores; its distance ranks.
        way: classes an episode.
        count: episodes.
        seed: equal seeds give equal episodes.

    Raises:
        DataError: fewer than `way` classes have pictures on both sides.
    """
    rng = np.random.default_rng([seed, 24, way])
    drawn = _iconic_episodes(images, catalog.images, count, way, rng)
    where = f"{scope(within_group=False)}, iconic supports"
    accuracies, wrong = _play(drawn, embeddings, images, catalog, head, "nearest", where)
    return _result(accuracies, way, 1, False, "nearest", iconic=True), wrong


def _iconic_episodes(
    images: ImageSet, catalog: ImageSet, count: int, way: int, rng: np.random.Generator
) -> Iterator[Episode]:
    names = {name: number for number, name in enumerate(catalog.class_names)}
    both = [
        (number, names[name])
        for number, name in enumerate(images.class_names)
        if name in names and images.counts[number] and catalog.counts[names[name]]
    ]
    if len(both) < way:
        raise DataError(
            f"{catalog.name}: {way}-way episodes need {way} classes that {images.name} has too, and there are {len(both)}"
        )
    queries = [images.images_of(own) for own, _ in both]
    supports = [catalog.images_of(other) for _, other in both]

    def draw() -> Iterator[Episode]:
        for _ in range(count):
            classes = rng.permutation(len(both))[:way]
            chosen = [[pool[c][rng.integers(len(pool[c]))] for c in classes] for pool in (supports, queries)]
            shown, asked = np.array(chosen, dtype=np.int64)[..., None]
            yield Episode(supports=shown, queries=asked)

    return draw()


def _play(
    drawn: Iterable[Episode],
    embeddings: Embeddings,
    images: ImageSet,
    supply: Supply,
    head: SigmoidDistanceHead,
    rule: Rule,
    where: str,
) -> tuple[list[float], list[Wrong]]:
    """The accuracy of each episode, and all mistakes."""
    accuracies, wrong = list[float](), list[Wrong]()
    for number, episode in enumerate(drawn):
        queries, supports = episode.queries[:, 0], episode.supports
        scores, log_odds = episode_scores(head, embeddings[queries], supply.embeddings[supports], rule)
        chosen = scores.argmax(axis=1)
        right = chosen == np.arange(len(chosen))
        accuracies.append(float(right.mean()))
        for row in np.flatnonzero(~right):
            # Of several shots, the one that spoke loudest is shown.
            truth = supports[row, log_odds[row, row].argmax()]
            choice = supports[chosen[row], log_odds[row, chosen[row]].argmax()]
            wrong.append(
                Wrong(
                    f"episode {number + 1} {where}",
                    images.images[queries[row]],
                    supply.images.images[truth],
                    supply.images.images[choice],
                    supply.images.class_names[supply.images.labels[truth]],
                    supply.images.class_names[supply.images.labels[choice]],
                    float(log_odds[row, row].max()),
                    float(log_odds[row, chosen[row]].max()),
                )
            )
    return accuracies, wrong


def _result(
    accuracies: Sequence[float], way: int, shot: int, within_group: bool, rule: Rule, iconic: bool = False
) -> EpisodesResult:
    interval = metrics.mean_interval(accuracies) if len(accuracies) > 1 else metrics.Interval(0.0, 1.0)
    mean = float(np.mean(accuracies))
    low, high = max(0.0, interval.low), min(1.0, interval.high)
    return EpisodesResult(way, shot, within_group, len(accuracies), 1, rule, mean, low, high, iconic)
