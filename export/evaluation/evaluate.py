"""Evaluates an encoder and its head on classes that were not trained on: trials, episodes, open sets, verification.

It uses the `Encoder` interface, so a bundle is evaluated by the device's own code (imaging, runtime and head of
`edge_siamese`) and its figures are the device's figures. Each image is embedded once, and again as a support if supports
are embedded as at registration, whatever the number of episodes.
"""

from __future__ import annotations

import datetime
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from edge_siamese.errors import DataError
from edge_siamese.models.manifest import Threshold
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.embedded_pictures import as_data_uri
from export.data.images import ImageSet, Splits
from export.evaluation import metrics
from export.evaluation.embeddings import Embeddings, Supports, embed_all, embed_as
from export.evaluation.one_shot import (
    EPISODES,
    EpisodesResult,
    OfficialTrials,
    Rule,
    SupportPool,
    WrongAnswer,
    episode_result,
    iconic_result,
    official_trials,
    widest_one_shot,
)
from export.evaluation.open_set import OpenSet, open_sets
from export.evaluation.verification import PAIRS, Verification, verification
from export.provenance import machine

Split = Literal["evaluation", "validation", "train"]

SHAPES = ((20, 1), (5, 1), (20, 5), (5, 5))
"""(way, shot) of the default episodes."""
MISTAKES = 18
HEAVY_MACS = 300_000_000
"""Encoders with more multiply-accumulates per image are evaluated on fewer images, so that it takes minutes."""


@dataclass(frozen=True)
class EncoderUsed:
    """The encoder that was evaluated."""

    model_id: str
    runtime: str
    precision: str
    reason: str

    @property
    def title(self) -> str:
        return f"{self.precision} · {self.runtime}"


@dataclass(frozen=True)
class DataUsed:
    """The data that were evaluated."""

    name: str
    split: str
    classes: int
    groups: int
    images: int


@dataclass(frozen=True)
class Mistake:
    """A wrong answer, with its pictures as data URIs."""

    where: str
    query: str
    truth: str
    """The support of the query's class."""
    choice: str
    """The support that was chosen."""
    truth_name: str
    choice_name: str
    truth_probability: float
    choice_probability: float


class OneShot(NamedTuple):
    """One-shot accuracy, with the figures to compare it with."""

    title: str
    accuracy: float
    low: float
    """95 % interval."""
    high: float
    way: int
    """The chance level is 1 / `way`."""
    classes: int
    interval: str
    """The units of the interval: classes, episodes or trials."""
    baseline: float | None = None
    """Accuracy of the starting weights."""

    def describe(self) -> str:
        """`chance 50 %, 2 classes, 95 % interval over classes 89.0 to 100.0 %, starting weights 98.9 %`."""
        baseline = "" if self.baseline is None else f", starting weights {100 * self.baseline:.1f} %"
        interval = f"95 % interval {self.interval} {100 * self.low:.1f} to {100 * self.high:.1f} %"
        return f"chance {100 / self.way:.3g} %, {self.classes:,} classes, {interval}{baseline}"


@dataclass(frozen=True)
class Evaluation:
    """Results of `evaluate` for one encoder on one set of classes."""

    encoder: EncoderUsed
    data: DataUsed
    official: OfficialTrials | None
    episodes: tuple[EpisodesResult, ...]
    skipped: tuple[str, ...]
    """Episodes and pairs for which there are too few data, and why."""
    verification: Verification | None
    mistakes: tuple[Mistake, ...]
    """The worst first."""
    mistakes_of: str
    """The trials or episodes of the mistakes."""
    seconds: float
    seed: int
    command: str
    machine: str
    created: str
    """UTC, ISO 8601."""
    open_set: tuple[OpenSet, ...] = ()
    supports: str = "plain"
    """How supports were embedded: `plain`, or `augmented` as the device does at registration."""
    baseline: float | None = None
    """One-shot accuracy of the starting weights in the headline's trials or episodes, where they were not random."""

    @property
    def title(self) -> str:
        """Precision and runtime, and how supports were embedded if not in one pass."""
        augmented = "" if self.supports == "plain" else f", {self.supports} supports"
        return f"{self.encoder.precision}, {self.encoder.runtime}{augmented}"

    @property
    def one_shot(self) -> OneShot | None:
        """The headline: the official trials, or else the hardest episodes."""
        if self.official:
            official, title = self.official, f"{self.official.trials} official trials, within alphabet"
            return OneShot(
                title, official.accuracy, official.low, official.high, official.way, self.data.classes,
                "over trials", self.baseline,
            )  # fmt: skip
        best = self.hardest
        if best is None:
            return None
        place = "within group" if best.within_group else "across groups"
        title = f"{best.title} episodes" + (f", {place}" if self.data.groups > 1 else "")
        over = "over episodes" if best.class_low is None else "over classes"
        classes = best.classes or self.data.classes
        return OneShot(title, best.accuracy, *best.class_interval, best.way, classes, over, self.baseline)

    @property
    def hardest(self) -> EpisodesResult | None:
        """The one-shot episodes of the most ways, within groups if there are any."""
        one_shot = [e for e in self.episodes if e.shot == 1 and not e.iconic]
        return max(one_shot, key=lambda e: (e.within_group, e.way), default=None)


@dataclass(frozen=True)
class EvaluationSize:
    """Number of episodes and images of an evaluation."""

    shapes: tuple[tuple[int, int], ...] = SHAPES
    episodes: int = EPISODES
    """Number of episodes of each kind."""
    per_class: int | None = None
    """Images of each class, for episodes and pairs; None for all. Official trials are always complete."""


FULL_SIZE, REDUCED_SIZE = EvaluationSize(), EvaluationSize(((20, 1),), 200, 4)


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
    supports: Supports = "plain",
    frames: Splits | None = None,
    pairs: int = PAIRS,
    per_class: int | None = None,
    seed: int = 0,
    command: str = "",
) -> Evaluation:
    """Evaluate an encoder with a head.

    Args:
        encoder: the device's encoder, or another one with the same interface.
        splits: the data.
        head: fitted on validation classes.
        split: the split to evaluate; the official trials belong to `evaluation`.
        thresholds: stated on validation classes, to be tested on these.
        shapes: (way, shot) of the episodes; each is drawn within groups, if there are several, and across them, those
            of one shot also with supports of the data's catalog, if it has one. If the data allow none of them,
            and there is no official run, the widest one-shot episodes replace them.
        episode_count: episodes of each kind, with one query per class.
        rule: how several shots are combined into one score, see `episode_scores`.
        supports: how supports of trials, episodes and open-set identification are embedded.
        frames: the same data in a higher resolution, as a camera would show them: source of augmented supports.
        pairs: verification pairs.
        per_class: maximum number of images of each class.
        seed: equal seeds draw equal episodes and pairs.
        command: the command line, for the report.

    Raises:
        DataError: there is neither an official run, nor data for any episode at all.
    """
    started = time.monotonic()
    images = subsample(getattr(splits, split), per_class, seed)
    embeddings = embed_all(encoder, images.images)
    frames = splits if supports == "plain" or frames is None else frames
    shown = subsample(getattr(frames, split), per_class, seed)
    known = embeddings if supports == "plain" else embed_as(supports, encoder, shown.images)
    official, wrong = None, list[WrongAnswer]()
    if split == "evaluation" and splits.official_runs:
        official, wrong = official_trials(encoder, splits.official_runs, head, supports, frames.official_runs)
    results, skipped, errors = _all_episodes(
        embeddings, known, images, head, shapes, episode_count, rule, seed, fallback=official is None
    )
    if official:
        mistakes_of = f"the {official.trials} official trials"
    else:
        mistakes_of, wrong = f"{results[0].title} episodes {_scope(results[0].within_group)}", errors
    if split == "evaluation" and splits.catalog and frames.catalog:
        catalog = SupportPool(splits.catalog, embed_as(supports, encoder, frames.catalog.images))
        for way in [way for way, shot in shapes if shot == 1]:
            try:
                result, _ = iconic_result(embeddings, images, catalog, head, way, episode_count, seed)
                results.append(result)
            except DataError as error:
                skipped.append(f"{way}-way 1-shot with iconic supports: {error}")
    open_set: tuple[OpenSet, ...] = ()
    try:
        open_set = open_sets(embeddings, images, head, thresholds, episode_count, seed, known)
    except DataError as error:
        skipped.append(f"open-set identification: {error}")
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
        open_set=open_set,
        supports=supports,
    )


def baseline_accuracy(
    encoder: Encoder,
    splits: Splits,
    head: SigmoidDistanceHead,
    like: Evaluation,
    per_class: int | None = None,
) -> float | None:
    """Accuracy of another encoder, such as the starting weights, in the headline's trials or episodes of an evaluation.

    Args:
        encoder: the other encoder.
        splits: the data of the evaluation.
        head: only its distance is used, to rank supports.
        like: the evaluation.
        per_class: as in the evaluation.
    """
    if like.official:
        return official_trials(encoder, splits.official_runs, head)[0].accuracy
    if like.hardest is None:
        return None
    images, kind = subsample(getattr(splits, like.data.split), per_class, like.seed), like.hardest
    embeddings = embed_all(encoder, images.images)
    result, _ = episode_result(
        embeddings, images, head, kind.way, 1, kind.episodes, kind.within_group, seed=like.seed
    )
    return result.accuracy


def subsample(images: ImageSet, per_class: int | None, seed: int = 0) -> ImageSet:
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
    """Whether an encoder is so expensive that it is evaluated on fewer images."""
    return macs > HEAVY_MACS


def default_size(macs: int) -> EvaluationSize:
    """The default size of an evaluation with an encoder of `macs` multiply-accumulates per image."""
    return REDUCED_SIZE if is_heavy(macs) else FULL_SIZE


def subsample_for(images: ImageSet, macs: int) -> ImageSet:
    """All images, or a few of each class for a heavy encoder."""
    return subsample(images, default_size(macs).per_class)


def _all_episodes(
    embeddings: Embeddings,
    known: Embeddings,
    images: ImageSet,
    head: SigmoidDistanceHead,
    shapes: Sequence[tuple[int, int]],
    count: int,
    rule: Rule,
    seed: int,
    fallback: bool,
) -> tuple[list[EpisodesResult], list[str], list[WrongAnswer]]:
    """Episodes of all shapes, within and across groups; what was skipped; and the mistakes of the first kind.

    With `fallback`, data that allow none of them are measured by the widest one-shot episodes that they allow.
    """
    results, skipped, wrong = list[EpisodesResult](), list[str](), list[WrongAnswer]()
    one_group = len(np.unique(images.class_groups)) == 1
    for within_group in (False,) if one_group else (True, False):  # of one group, both would be the same
        for way, shot in shapes:
            try:
                result, errors = episode_result(
                    embeddings, images, head, way, shot, count, within_group, rule, seed, known
                )
            except DataError as error:
                skipped.append(f"{way}-way {shot}-shot {_scope(within_group)}: {error}")
                continue
            wrong = wrong if results else errors
            results.append(result)
    if fallback and not results:
        way, within_group = widest_one_shot(images)
        result, wrong = episode_result(
            embeddings, images, head, way, 1, count, within_group, rule, seed, known
        )
        results.append(result)
        skipped.append(
            f"all requested episodes; replaced by {result.title} {_scope(within_group)}, the widest possible"
        )
    return results, skipped, wrong


def _scope(within_group: bool) -> str:
    return "within groups" if within_group else "across groups"


def _worst(wrong: Sequence[WrongAnswer]) -> tuple[Mistake, ...]:
    """The mistakes with the largest margin in favor of the wrong support."""
    ranked = sorted(wrong, key=lambda w: (w.truth_log_odds - w.choice_log_odds, w.where))
    return tuple(
        Mistake(
            where=w.where,
            query=as_data_uri(w.query),
            truth=as_data_uri(w.truth),
            choice=as_data_uri(w.choice),
            truth_name=w.truth_name,
            choice_name=w.choice_name,
            truth_probability=metrics.sigmoid(w.truth_log_odds),
            choice_probability=metrics.sigmoid(w.choice_log_odds),
        )
        for w in ranked[:MISTAKES]
    )
