"""Which encoder to use for your own pictures: the trained one, its starting weights, or the shipped bundle `objects`.

All are measured in the same one-shot episodes of classes that were not trained on. Intervals are over classes
(`metrics.class_interval`): they say how much another choice of as many classes may change a figure. A later candidate
replaces an earlier, simpler one only where the interval of their difference is above zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet, Indices
from export.data.sampling import episodes
from export.evaluation.embeddings import Embeddings
from export.evaluation.metrics import class_accuracy_interval, class_interval
from export.evaluation.one_shot import widest_one_shot

TRAINED, STARTING, SHIPPED = "the trained bundle", "the starting weights", "the shipped bundle objects"
PREFERRED = (SHIPPED, STARTING, TRAINED)
"""The simplest first: no training, no training but its own head and thresholds, training."""
EPISODES = 2000
MIN_CLASSES = 6
"""Of fewer classes, all agree by chance in more than 5 % of the cases (0.5 to the power of 5, on two sides), and no
difference is shown."""
MIN_TRAINING_CLASSES = 10


@dataclass(frozen=True)
class Candidate:
    """One-shot accuracy of an encoder."""

    name: str
    accuracy: float
    low: float
    """95 % interval over classes."""
    high: float


@dataclass(frozen=True)
class Difference:
    """How much more accurate one candidate is than another."""

    name: str
    than: str
    value: float
    low: float
    """95 % interval over classes."""
    high: float
    shown: bool
    """Whether the interval is above zero, over enough classes."""

    def describe(self) -> str:
        """`the trained bundle minus the starting weights: +1.2 points, 95 % interval -0.4 to +2.8`."""
        return (
            f"{self.name} minus {self.than}: {100 * self.value:+.1f} points, 95 % interval {100 * self.low:+.1f} to "
            f"{100 * self.high:+.1f}"
        )


@dataclass(frozen=True)
class Verdict:
    """The candidates, their differences, and the one to use."""

    choice: str
    candidates: tuple[Candidate, ...]
    differences: tuple[Difference, ...]
    """Of each candidate and each simpler one."""
    way: int
    """Classes per episode; the chance level is 1 / `way`."""
    episodes: int
    classes: int
    """Number of classes that were not trained on."""
    training_classes: int
    skipped: tuple[str, ...] = ()
    """Candidates that could not be measured, and why."""
    caution: str = ""
    """Why the figures may be too good; empty if nothing shows it."""
    folds: int = 0
    """Folds of the cross-validation: the trained bundle is measured by encoders that were trained in the same way on other
    classes. 0: the bundle itself, on the held-out classes of its split."""

    @property
    def measured(self) -> str:
        """What was measured, and whose figures these are."""
        if not self.folds:
            return (
                f"The same {self.episodes:,} episodes for all, of {self.classes} classes that were not trained on; "
                f"{self.training_classes} were."
            )
        return (
            f"{self.folds}-fold cross-validation: each of the {self.classes} classes is tested by an encoder that was "
            f"trained without it. {self.episodes:,} episodes, the same for all. The figures of the trained bundle here are "
            f"those of {self.folds} float networks trained with its settings, not of the bundle, which was trained on "
            f"{self.training_classes} classes. Folds share training classes, so another training run may differ by more "
            "than the intervals say."
        )

    @property
    def sentence(self) -> str:
        """Which candidate to use, what shows it, and why the figures may be too good."""
        return f"{self._choice_sentence} {self.caution}".rstrip()

    @property
    def _choice_sentence(self) -> str:
        simpler = [d for d in self.differences if d.name == self.choice]
        if simpler and all(d.shown for d in simpler):
            extra = " (run again with --steps 0)" if self.choice == STARTING else ""
            return f"Use {self.choice}{extra}: {'; '.join(d.describe() for d in simpler)}."
        others = [d for d in self.differences if d.than == self.choice]
        if not others:
            return f"Use {self.choice}: nothing else was measured."
        few = f" ({self.classes} classes are too few to show one)" if self.classes < MIN_CLASSES else ""
        return (
            f"Use {self.choice}: no improvement over it is shown for new classes{few}: "
            f"{'; '.join(d.describe() for d in others)}."
        )

    @property
    def advice(self) -> str:
        """Advice against training on few classes; empty if there are enough."""
        return advice_on(self.training_classes)


def advice_on(training_classes: int) -> str:
    """Advice against training on fewer than ten classes; empty if there are enough."""
    if training_classes >= MIN_TRAINING_CLASSES:
        return ""
    return (
        f"Training is not advised: {training_classes} training classes are fewer than {MIN_TRAINING_CLASSES}. From so "
        "few, an encoder learns what tells these classes apart, and not what tells new objects apart. Use the shipped "
        "bundle objects, or add classes."
    )


Candidates: TypeAlias = Mapping[str, tuple[Embeddings, SigmoidDistanceHead]]
"""For each name, embeddings float32 (N, D) of the same pictures, and the head whose distance ranks."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of all candidates in the same episodes."""

    way: int
    episodes: int
    classes: Indices
    """(Q,): the class of each query."""
    right: Mapping[str, npt.NDArray[np.float64]]
    """For each candidate (Q,): 1 for a correct answer, 0 otherwise."""


def decide(
    candidates: Candidates,
    images: ImageSet,
    training_classes: int,
    seed: int = 0,
    skipped: tuple[str, ...] = (),
    caution: str = "",
) -> Verdict:
    """Measure candidates in the same episodes and choose one.

    Args:
        candidates: embeddings of `images.images`, and heads.
        images: classes that were not trained on.
        training_classes: number of classes that were trained on.
        seed: equal seeds give equal episodes.
        skipped: candidates that are not among these, and why.
        caution: why the figures may be too good.

    Raises:
        DataError: the pictures allow no episode.
    """
    way, within_group = widest_one_shot(images)
    answers = run_episodes(candidates, images, way, within_group, seed)
    return choose_candidate([answers], training_classes, skipped, caution)


def choose_candidate(
    answers: Sequence[Answers],
    training_classes: int,
    skipped: tuple[str, ...] = (),
    caution: str = "",
    folds: int = 0,
) -> Verdict:
    """Choose a candidate by the answers on different classes, such as those of several folds.

    Args:
        answers: on different classes, all of the same candidates and with the same number of ways.
        training_classes, skipped, caution: as for `decide`.
        folds: number of folds; 0 without cross-validation.
    """
    starts = np.cumsum([0, *(int(part.classes.max()) + 1 for part in answers)])
    classes = np.concatenate([p.classes + start for p, start in zip(answers, starts[:-1], strict=True)])
    right = {name: np.concatenate([part.right[name] for part in answers]) for name in answers[0].right}
    count = len(np.unique(classes))
    names = [name for name in PREFERRED if name in right]
    measured = []
    for name in names:
        interval = class_accuracy_interval(right[name], classes)
        measured.append(Candidate(name, float(right[name].mean()), interval.low, interval.high))
    differences = []
    for number, name in enumerate(names):
        for than in names[:number]:
            gain = right[name] - right[than]
            interval = class_interval(gain, classes)
            shown = count >= MIN_CLASSES and interval.low > 0.0
            differences.append(Difference(name, than, float(gain.mean()), interval.low, interval.high, shown))
    return Verdict(
        choice=_choice(names, differences),
        candidates=tuple(measured),
        differences=tuple(differences),
        way=answers[0].way,
        episodes=sum(part.episodes for part in answers),
        classes=count,
        training_classes=training_classes,
        skipped=skipped,
        caution=caution,
        folds=folds,
    )


def run_episodes(
    candidates: Candidates, images: ImageSet, way: int, within_group: bool, seed: int
) -> Answers:
    """Run one-shot episodes with all candidates; a tie of distances is a wrong answer.

    Raises:
        DataError: there is no candidate, or the pictures allow no such episode.
    """
    if not candidates:
        raise DataError("there is no encoder to compare")
    right: dict[str, list[npt.NDArray[np.bool_]]] = {name: [] for name in candidates}
    asked = []
    rng = np.random.default_rng([seed, 31])
    for episode in episodes(images, EPISODES, way, 1, 1, rng, within_group):
        queries, supports = episode.queries[:, 0], episode.supports[:, 0]
        asked.append(images.labels[queries])
        for name, (embeddings, head) in candidates.items():
            distances = head.distances(embeddings[queries], embeddings[supports])
            others = np.where(np.eye(way, dtype=bool), np.inf, distances).min(axis=1)
            right[name].append(distances.diagonal() < others)
    return Answers(
        way,
        EPISODES,
        np.concatenate(asked),
        {name: np.concatenate(answers).astype(np.float64) for name, answers in right.items()},
    )


def _choice(names: list[str], differences: list[Difference]) -> str:
    """The most elaborate candidate that is shown to be better than all simpler ones."""
    shown = {(d.name, d.than): d.shown for d in differences}
    best = names[0]
    for number, name in enumerate(names):
        if number and all(shown[name, than] for than in names[:number]):
            best = name
    return best
