"""One-shot and few-shot accuracy: the official Omniglot trials, and N-way K-shot episodes drawn at random.

Each image is embedded once, whatever the number of episodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.recognition.embedding import Encoder, mean_embedding
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet, OneShotRun
from export.data.sampling import Episode, episodes
from export.evaluation import metrics
from export.evaluation.embeddings import Embeddings, Supports, embed_all, embed_as
from export.training.validation import MAX_WAYS, default_ways

LogOdds = npt.NDArray[np.float64]
Rule = Literal["nearest", "mean-probability", "prototype"]

RULES: tuple[Rule, ...] = ("nearest", "mean-probability", "prototype")
EPISODES = 2000
TRIAL_WAYS = 20
"""Supports of a run of Omniglot's official trials."""


@dataclass(frozen=True)
class RunResult:
    """One official run of 20 queries."""

    name: str
    correct: int
    trials: int


@dataclass(frozen=True)
class OfficialTrials:
    """Lake's within-alphabet 20-way one-shot trials; each query is assigned its nearest support independently."""

    correct: int
    trials: int
    accuracy: float
    low: float
    """95 % Wilson interval of the accuracy."""
    high: float
    runs: tuple[RunResult, ...]

    @property
    def way(self) -> int:
        """Supports of a run, which has one query of each."""
        return round(self.trials / len(self.runs)) if self.runs else TRIAL_WAYS

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1.0 / self.way


def scope(within_group: bool) -> str:
    """Description of where the classes of an episode are from."""
    return "within a group" if within_group else "across groups"


@dataclass(frozen=True)
class EpisodesResult:
    """N-way K-shot accuracy over random episodes."""

    way: int
    shot: int
    within_group: bool
    """All classes of an episode from one group (alphabet), or from anywhere."""
    episodes: int
    queries: int
    """Number of queries per class and episode."""
    rule: str
    """How several shots are combined into one score per class; see `class_scores`."""
    accuracy: float
    low: float
    """95 % Student interval over the episodes' accuracies."""
    high: float
    iconic: bool = False
    """The supports are pictures of a catalog, the queries photographs."""
    classes: int = 0
    """Number of classes of the queries; 0 in records of an earlier release."""
    class_low: float | None = None
    """95 % interval for another sample of classes."""
    class_high: float | None = None

    @property
    def title(self) -> str:
        return f"{self.way}-way {self.shot}-shot"

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1.0 / self.way

    @property
    def class_interval(self) -> tuple[float, float]:
        """95 % interval over classes, or over episodes in a record of an earlier release."""
        known = self.class_low is not None and self.class_high is not None
        return (self.class_low or 0.0, self.class_high or 0.0) if known else (self.low, self.high)

    @property
    def scope(self) -> str:
        """Origin of classes and supports, and the rule for several shots if it is not `nearest`."""
        place = scope(self.within_group)
        iconic = ", iconic supports" if self.iconic else ""
        return place + iconic + (f", {self.rule}" if self.shot > 1 and self.rule != "nearest" else "")


@dataclass(frozen=True, eq=False)
class WrongAnswer:
    """A query whose nearest support is of another class."""

    where: str
    query: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    choice: npt.NDArray[np.uint8]
    truth_name: str
    choice_name: str
    truth_log_odds: float
    choice_log_odds: float


@dataclass(frozen=True, eq=False)
class SupportPool:
    """Images to draw supports from, and their embeddings."""

    images: ImageSet
    embeddings: Embeddings
    """float32 (N, D), of `images.images` as supports."""


def widest_one_shot(images: ImageSet) -> tuple[int, bool]:
    """(ways, whether within groups) of the widest one-shot episodes that the data allow.

    Raises:
        DataError: fewer than two classes have two pictures.
    """
    rich = images.select(np.flatnonzero(images.counts >= 2))
    try:
        return default_ways(rich), True
    except DataError:
        if rich.classes < 2:
            raise DataError(
                f"{images.name} has too few pictures for any episode: fewer than two of its classes have two pictures"
            ) from None
        return min(MAX_WAYS, rich.classes), False


def class_scores(log_odds: LogOdds, rule: Rule) -> LogOdds:
    """One score per class from the log-odds of its shots: (Q, way, shot) to (Q, way); the highest wins.

    `nearest`: the score of the nearest shot. `mean-probability`: the mean of p(same) over the shots; ties, such as
    several means of 1, are broken by the nearest shot. With `prototype` a class has one shot, made by `prototypes`.
    """
    nearest: LogOdds = log_odds.max(axis=2)
    if rule != "mean-probability" or log_odds.shape[2] == 1:
        return nearest
    mean = (0.5 * (1.0 + np.tanh(0.5 * log_odds))).mean(axis=2)
    return np.asarray(np.where(mean == mean.max(axis=1, keepdims=True), nearest, -np.inf))


def prototypes(supports: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean embedding of each class's shots, float32 (way, shot, D) to (way, D), as the device stores it for a view.

    Snell, Swersky, Zemel, "Prototypical Networks for Few-shot Learning", 2017, equation 1.
    """
    return np.stack([mean_embedding(shots) for shots in supports])


def episode_scores(
    head: SigmoidDistanceHead,
    queries: npt.NDArray[np.float32],
    supports: npt.NDArray[np.float32],
    rule: Rule,
) -> tuple[LogOdds, LogOdds]:
    """Scores of queries against the classes of an episode.

    Args:
        head: its distance is used.
        queries: float32 (Q, D).
        supports: float32 (way, shot, D).
        rule: how several shots are combined into one score.

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


def official_trials(
    encoder: Encoder,
    runs: Sequence[OneShotRun],
    head: SigmoidDistanceHead,
    supports: Supports = "plain",
    frames: Sequence[OneShotRun] | None = None,
) -> tuple[OfficialTrials, list[WrongAnswer]]:
    """Lake's runs: each query is assigned its nearest support, independently of the other queries of the run.

    Args:
        encoder: the device's encoder, or another one with the same interface.
        runs: the published trials.
        head: scores the queries; its distance ranks the supports.
        supports: how they are embedded.
        frames: the same runs in a higher resolution, to make augmented supports from.
    """
    all_supports = embed_as(supports, encoder, np.concatenate([run.supports for run in frames or runs]))
    all_queries = embed_all(encoder, np.concatenate([run.queries for run in runs]))
    results, wrong = list[RunResult](), list[WrongAnswer]()
    for run in runs:
        own, all_supports = all_supports[: len(run.supports)], all_supports[len(run.supports) :]
        queries, all_queries = all_queries[: len(run.queries)], all_queries[len(run.queries) :]
        log_odds = head.log_odds(head.distances(queries, own))
        chosen = log_odds.argmax(axis=1)
        results.append(RunResult(run.name, int((chosen == run.answers).sum()), len(chosen)))
        for item in np.flatnonzero(chosen != run.answers):
            truth, choice = int(run.answers[item]), int(chosen[item])
            wrong.append(
                WrongAnswer(
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
) -> tuple[EpisodesResult, list[WrongAnswer]]:
    """Accuracy over N-way K-shot episodes with one query per class, and the mistakes.

    Args:
        embeddings: float32 (N, D), of `images.images` as queries.
        images: the classes to draw from.
        head: scores the queries; its distance ranks the supports.
        way: classes per episode.
        shot: supports per class.
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
    pool = SupportPool(images, embeddings if supports is None else supports)
    answers, wrong = _play(drawn, embeddings, images, pool, head, rule, scope(within_group))
    return _result(answers, way, shot, within_group, rule), wrong


def iconic_result(
    embeddings: Embeddings,
    images: ImageSet,
    catalog: SupportPool,
    head: SigmoidDistanceHead,
    way: int,
    count: int = EPISODES,
    seed: int = 0,
) -> tuple[EpisodesResult, list[WrongAnswer]]:
    """Accuracy over one-shot episodes across groups whose supports are pictures of a catalog, with one query per class.

    Args:
        embeddings: float32 (N, D), of `images.images` as queries.
        images: source of the queries.
        catalog: source of the supports; classes are matched by name.
        head: scores the queries; its distance ranks the supports.
        way: classes per episode.
        count: episodes.
        seed: equal seeds give equal episodes.

    Raises:
        DataError: fewer than `way` classes have pictures on both sides.
    """
    rng = np.random.default_rng([seed, 24, way])
    drawn = _iconic_episodes(images, catalog.images, count, way, rng)
    where = f"{scope(within_group=False)}, iconic supports"
    answers, wrong = _play(drawn, embeddings, images, catalog, head, "nearest", where)
    return _result(answers, way, 1, False, "nearest", iconic=True), wrong


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
            drawn = [[pool[c][rng.integers(len(pool[c]))] for c in classes] for pool in (supports, queries)]
            support_images, query_images = np.array(drawn, dtype=np.int64)[..., None]
            yield Episode(supports=support_images, queries=query_images)

    return draw()


def _play(
    drawn: Iterable[Episode],
    embeddings: Embeddings,
    images: ImageSet,
    pool: SupportPool,
    head: SigmoidDistanceHead,
    rule: Rule,
    where: str,
) -> tuple[_Answers, list[WrongAnswer]]:
    """Answers to the queries of episodes, and all mistakes."""
    answers, classes, wrong = (
        list[npt.NDArray[np.bool_]](),
        list[npt.NDArray[np.int64]](),
        list[WrongAnswer](),
    )
    for number, episode in enumerate(drawn):
        queries, supports = episode.queries[:, 0], episode.supports
        scores, log_odds = episode_scores(head, embeddings[queries], pool.embeddings[supports], rule)
        chosen = scores.argmax(axis=1)
        right = chosen == np.arange(len(chosen))
        answers.append(right)
        classes.append(images.labels[queries])
        for row in np.flatnonzero(~right):
            # Of several shots, the one with the highest score is shown.
            truth = supports[row, log_odds[row, row].argmax()]
            choice = supports[chosen[row], log_odds[row, chosen[row]].argmax()]
            wrong.append(
                WrongAnswer(
                    f"episode {number + 1} {where}",
                    images.images[queries[row]],
                    pool.images.images[truth],
                    pool.images.images[choice],
                    pool.images.class_names[pool.images.labels[truth]],
                    pool.images.class_names[pool.images.labels[choice]],
                    float(log_odds[row, row].max()),
                    float(log_odds[row, chosen[row]].max()),
                )
            )
    return _Answers(np.stack(answers), np.stack(classes)), wrong


@dataclass(frozen=True, eq=False)
class _Answers:
    right: npt.NDArray[np.bool_]
    """(episodes, way)."""
    classes: npt.NDArray[np.int64]
    """(episodes, way): the class of each query."""


def _result(
    answers: _Answers, way: int, shot: int, within_group: bool, rule: Rule, iconic: bool = False
) -> EpisodesResult:
    accuracies = answers.right.mean(axis=1)
    interval = metrics.mean_interval(accuracies) if len(accuracies) > 1 else metrics.Interval(0.0, 1.0)
    over_classes = metrics.class_accuracy_interval(answers.right, answers.classes)
    return EpisodesResult(
        way=way,
        shot=shot,
        within_group=within_group,
        episodes=len(accuracies),
        queries=1,
        rule=rule,
        accuracy=float(np.mean(accuracies)),
        low=max(0.0, interval.low),
        high=min(1.0, interval.high),
        iconic=iconic,
        classes=len(np.unique(answers.classes)),
        class_low=over_classes.low,
        class_high=over_classes.high,
    )
