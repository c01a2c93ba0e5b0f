"""Evaluates an encoder and its head on classes that were never trained on: trials, episodes, verification.

Works on the `Encoder` interface, so that a bundle is evaluated by the device's own code (imaging, runtime and
head of `edge_siamese`) and its figures are the device's figures. Each image is embedded once, whatever the
number of episodes.
"""

from __future__ import annotations

import datetime
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.head import SigmoidDistanceHead
from edge_siamese.manifest import Threshold
from edge_siamese.runtimes.base import Encoder
from export import metrics
from export.data.images import ImageSet, OneShotRun, Splits
from export.data.sampling import episodes
from export.evaluation import (
    DataUsed,
    EncoderUsed,
    EpisodesResult,
    Evaluation,
    Mistake,
    OfficialTrials,
    RunResult,
    as_data_uri,
)
from export.one_shot import Rule, class_scores, widest_one_shot
from export.pair_scores import PAIRS, verification
from export.provenance import machine
from export.remote import RemoteEncoder

Embeddings = npt.NDArray[np.float32]
Split = Literal["evaluation", "validation", "train"]

RULES: tuple[Rule, ...] = ("nearest", "mean-probability")
SHAPES = ((20, 1), (5, 1), (20, 5))
"""(way, shot) of the usual episodes."""
EPISODES = 2000
MISTAKES = 18
HEAVY_MACS = 300_000_000
"""An encoder of more multiply-accumulates an image is looked at with fewer pictures, so that it takes minutes."""


@dataclass(frozen=True)
class Effort:
    """How much an encoder is looked at."""

    shapes: tuple[tuple[int, int], ...] = SHAPES
    episodes: int = EPISODES
    """Of each kind."""
    per_class: int | None = None
    """Images of each class, for episodes and pairs; None for all. Official trials are always complete."""


LIGHT, HEAVY = Effort(), Effort(((20, 1),), 200, 4)


@dataclass(frozen=True, eq=False)
class _Wrong:
    """One query that took the wrong support."""

    where: str
    query: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.uint8]
    choice: npt.NDArray[np.uint8]
    truth_name: str
    choice_name: str
    truth_log_odds: float
    choice_log_odds: float


def evaluate(
    encoder: Encoder,
    splits: Splits,
    head: SigmoidDistanceHead,
    *,
    split: Split = "evaluation",
    thresholds: Sequence[Threshold] = (),
    shapes: Sequence[tuple[int, int]] = SHAPES,
    episode_count: int = EPISODES,
    rule: Rule = "nearest",
    pairs: int = PAIRS,
    per_class: int | None = None,
    seed: int = 0,
    command: str = "",
) -> Evaluation:
    """Evaluate an encoder with a head.

    Args:
        encoder: the device's, or a stand-in with the same interface.
        splits: the data.
        head: fitted on validation classes.
        split: whose classes; the official trials belong to `evaluation`.
        thresholds: stated on validation classes, to be tried on these.
        shapes: (way, shot) of the episodes; each is drawn within groups and across them. If the data suffice for none
            of them, and there is no official run, the widest one-shot episodes stand in.
        episode_count: episodes of each kind, with one query a class.
        rule: how several shots make one score, see `class_scores`.
        pairs: verification pairs.
        per_class: look at no more than so many images of each class.
        seed: equal seeds draw equal episodes and pairs.
        command: what was typed, for the report.

    Raises:
        DataError: there is neither an official run, nor data for any episode at all.
    """
    started = time.monotonic()
    images = thin(getattr(splits, split), per_class, seed)
    embeddings = embed_all(encoder, images.images)
    official, wrong = None, list[_Wrong]()
    if split == "evaluation" and splits.official_runs:
        official, wrong = official_trials(encoder, splits.official_runs, head)
    results, skipped, errors = _every_kind(
        embeddings, images, head, shapes, episode_count, rule, seed, stand_in=official is None
    )
    if official:
        mistakes_of = f"the {official.trials} official trials"
    else:
        mistakes_of, wrong = f"{results[0].title} episodes {_scope(results[0].within_group)}", errors
    try:
        pair_scores = verification(embeddings, images, head, thresholds, pairs, seed)
    except DataError as error:
        pair_scores = None
        skipped.append(f"verification: {error}")
    return Evaluation(
        encoder=EncoderUsed(encoder.model_id, encoder.runtime, encoder.precision, encoder.reason),
        data=DataUsed(
            images.name, split, images.classes, len(np.unique(images.class_groups)), len(images.images)
        ),
        official=official,
        episodes=tuple(results),
        skipped=tuple(skipped),
        verification=pair_scores,
        mistakes=_worst(wrong),
        mistakes_of=mistakes_of,
        seconds=round(time.monotonic() - started, 1),
        seed=seed,
        command=command or shlex.join(["python", "-m", "export", *sys.argv[1:]]),
        machine=machine(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def embed_all(encoder: Encoder, images: npt.NDArray[np.uint8], block: int = 1024) -> Embeddings:
    """Embed prepared images, uint8 (N, H, W, C), to float32 (N, D)."""
    if isinstance(encoder, RemoteEncoder):
        block = max(1, len(images))  # each call starts an interpreter
    parts = [encoder.embed(images[start : start + block]) for start in range(0, len(images), block)]
    return np.concatenate(parts) if parts else np.empty((0, encoder.dimensions), dtype=np.float32)


def thin(images: ImageSet, per_class: int | None, seed: int = 0) -> ImageSet:
    """The same classes with at most `per_class` images of each."""
    if per_class is None:
        return images
    rng = np.random.default_rng([seed, 21])
    kept = [rng.permutation(images.images_of(c))[:per_class] for c in range(images.classes)]
    index = np.sort(np.concatenate(kept)) if kept else np.empty(0, dtype=np.int64)
    return replace(
        images, images=images.images[index], labels=images.labels[index], drawers=images.drawers[index]
    )


def is_heavy(macs: int) -> bool:
    """Whether an encoder of so many multiply-accumulates an image takes long."""
    return macs > HEAVY_MACS


def usual_effort(macs: int) -> Effort:
    """How much an encoder is looked at, unless told otherwise."""
    return HEAVY if is_heavy(macs) else LIGHT


def affordable(images: ImageSet, macs: int) -> ImageSet:
    """All images, or a few of each class if the encoder is heavy."""
    return thin(images, usual_effort(macs).per_class)


def official_trials(
    encoder: Encoder, runs: Sequence[OneShotRun], head: SigmoidDistanceHead
) -> tuple[OfficialTrials, list[_Wrong]]:
    """Lake's runs: each query takes its nearest support, on its own; no assignment across a run's queries."""
    embedded = embed_all(
        encoder, np.concatenate([np.concatenate([run.supports, run.queries]) for run in runs])
    )
    results, wrong, offset = list[RunResult](), list[_Wrong](), 0
    for run in runs:
        supports = embedded[offset : offset + len(run.supports)]
        offset += len(run.supports)
        queries = embedded[offset : offset + len(run.queries)]
        offset += len(run.queries)
        log_odds = head.log_odds(head.distances(queries, supports))
        chosen = log_odds.argmax(axis=1)
        results.append(RunResult(run.name, int((chosen == run.answers).sum()), len(chosen)))
        for item in np.flatnonzero(chosen != run.answers):
            truth, choice = int(run.answers[item]), int(chosen[item])
            wrong.append(
                _Wrong(
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
) -> tuple[EpisodesResult, list[_Wrong]]:
    """Accuracy over N-way K-shot episodes with one query a class, and what went wrong in them.

    Args:
        embeddings: float32 (N, D), of `images.images`.
        images: the classes to draw from.
        head: scores; its distance ranks.
        way: classes an episode.
        shot: supports a class.
        count: episodes.
        within_group: all classes of an episode from one group.
        rule: see `class_scores`.
        seed: equal seeds give equal episodes.

    Raises:
        DataError: too few classes or images.
    """
    rng = np.random.default_rng([seed, 22, way, shot, int(within_group)])
    accuracies, wrong, answers = list[float](), list[_Wrong](), np.arange(way)
    scope = "within a group" if within_group else "across groups"
    for number, episode in enumerate(episodes(images, count, way, shot, 1, rng, within_group)):
        queries, supports = episode.queries[:, 0], episode.supports
        distances = head.distances(embeddings[queries], embeddings[supports.ravel()])
        log_odds = head.log_odds(distances).reshape(way, way, shot)
        chosen = class_scores(log_odds, rule).argmax(axis=1)
        accuracies.append(float((chosen == answers).mean()))
        for row in np.flatnonzero(chosen != answers):
            # Of several shots, the one that spoke loudest is shown.
            truth = supports[row, log_odds[row, row].argmax()]
            choice = supports[chosen[row], log_odds[row, chosen[row]].argmax()]
            wrong.append(
                _Wrong(
                    f"episode {number + 1} {scope}",
                    images.images[queries[row]],
                    images.images[truth],
                    images.images[choice],
                    images.class_names[images.labels[truth]],
                    images.class_names[images.labels[choice]],
                    float(log_odds[row, row].max()),
                    float(log_odds[row, chosen[row]].max()),
                )
            )
    interval = metrics.mean_interval(accuracies) if len(accuracies) > 1 else metrics.Interval(0.0, 1.0)
    mean = float(np.mean(accuracies))
    low, high = max(0.0, interval.low), min(1.0, interval.high)
    return EpisodesResult(way, shot, within_group, len(accuracies), 1, rule, mean, low, high), wrong


def _every_kind(
    embeddings: Embeddings,
    images: ImageSet,
    head: SigmoidDistanceHead,
    shapes: Sequence[tuple[int, int]],
    count: int,
    rule: Rule,
    seed: int,
    stand_in: bool,
) -> tuple[list[EpisodesResult], list[str], list[_Wrong]]:
    """Episodes of every shape within and across groups, what the data do not suffice for, and the mistakes of the first.

    With `stand_in`, data that suffice for none of them are measured by the widest one-shot episodes that they allow.
    """
    results, skipped, wrong = list[EpisodesResult](), list[str](), list[_Wrong]()
    for within_group in (True, False):
        for way, shot in shapes:
            try:
                result, errors = episode_result(
                    embeddings, images, head, way, shot, count, within_group, rule, seed
                )
            except DataError as error:
                skipped.append(f"{way}-way {shot}-shot {_scope(within_group)}: {error}")
                continue
            wrong = wrong if results else errors
            results.append(result)
    if stand_in and not results:
        way, within_group = widest_one_shot(images)
        result, wrong = episode_result(embeddings, images, head, way, 1, count, within_group, rule, seed)
        results.append(result)
        skipped.append(
            f"all episodes that were asked for; {result.title} {_scope(within_group)}, the widest that there are, stand in"
        )
    return results, skipped, wrong


def _scope(within_group: bool) -> str:
    return "within groups" if within_group else "across groups"


def _worst(wrong: Sequence[_Wrong]) -> tuple[Mistake, ...]:
    """The mistakes in which the encoder was most sure of the wrong one."""
    ranked = sorted(wrong, key=lambda w: (w.truth_log_odds - w.choice_log_odds, w.where))
    return tuple(
        Mistake(
            where=w.where,
            query=as_data_uri(w.query),
            truth=as_data_uri(w.truth),
            choice=as_data_uri(w.choice),
            truth_name=w.truth_name,
            choice_name=w.choice_name,
            truth_probability=_sigmoid(w.truth_log_odds),
            choice_probability=_sigmoid(w.choice_log_odds),
        )
        for w in ranked[:MISTAKES]
    )


def _sigmoid(log_odds: float) -> float:
    return float(0.5 * (1.0 + np.tanh(0.5 * log_odds)))
