"""Cross-validation that leaves classes out: every class is tested by an encoder that was not trained on it.

With few classes, the figures of a single held-out fifth depend on which classes are in it. Here the classes are divided
into folds; for each fold an encoder is trained on the other classes, with the same settings. The training sets of the folds
overlap, so intervals over the pooled classes do not contain all of the spread of another training (Bengio and Grandvalet,
"No Unbiased Estimator of the Variance of K-Fold Cross-Validation", 2004).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data import load_splits
from export.data.folds import all_classes, fold_splits, folds_of, number_of_folds
from export.data.images import ImageSet, Splits
from export.data.sources import source_names
from export.encoders import build_encoder
from export.evaluation.embeddings import Embeddings
from export.evaluation.one_shot import widest_one_shot
from export.evaluation.verdict import STARTING, TRAINED, Answers, Candidates, run_episodes
from export.training.network import TorchEncoder, load_run
from export.training.settings import RUN_PREFIX, TrainingSettings
from export.training.train import load_initial_weights, train

MAX_CLASSES = 30
"""With at least this many classes, a single split is used unless folds are requested."""
RANKING = SigmoidDistanceHead(scale=1.0, bias=0.0)


@dataclass(frozen=True)
class CrossValidationPlan:
    """The cross-validation to perform."""

    folds: int
    classes: int
    smallest: int
    """Classes of the smallest fold."""
    largest: int

    def announce(self, seconds: float) -> str:
        """The number of training runs to come, and their time estimated from that of one run, `seconds`."""
        sizes = str(self.smallest) if self.smallest == self.largest else f"{self.smallest} to {self.largest}"
        minutes = self.folds * seconds / 60
        time = f"about {minutes:.0f} minutes" if minutes >= 1.5 else "about a minute or less"
        return (
            f"cross-validation: {self.folds} more training runs like this one, each without {sizes} of the {self.classes} "
            f"classes, take {time}; Ctrl-C saves, the same command resumes, and --folds 0 skips it"
        )


def plan(settings: TrainingSettings, splits: Splits, folds: int | None) -> CrossValidationPlan | None:
    """The cross-validation of a training run; None for none.

    Args:
        settings: settings of the run.
        splits: its data.
        folds: requested number; 0 for none; None for the default: cross-validation if the classes of a folder were divided
            at random, and there are fewer than `MAX_CLASSES`.

    Raises:
        SettingsError: folds were requested, and the run or its data do not allow them.
    """
    if folds == 0:
        return None
    reason = _obstacle(settings, splits)
    classes = splits.train.classes + splits.validation.classes + splits.evaluation.classes
    if folds is None:
        drawn = splits.provenance.get("split") != "subfolders"
        if reason or not drawn or classes >= MAX_CLASSES:
            return None
    elif reason:
        raise SettingsError(f"--folds {folds}: {reason}; use --folds 0")
    number = number_of_folds(classes, folds)
    return CrossValidationPlan(number, classes, classes // number, -(-classes // number))


def _obstacle(settings: TrainingSettings, splits: Splits) -> str:
    """Why a run has no cross-validation; empty if it may have one."""
    names = source_names(settings.data)
    if len(names) > 1 or not names[0].startswith("folder:"):
        return "cross-validation is for a single folder of pictures"
    if not splits.train.classes:
        return "there are no classes to train on"
    if not settings.steps:
        return "nothing is trained with 0 steps"
    if settings.start.startswith(RUN_PREFIX):
        return "the earlier run of --start may have been trained on the classes of a fold"
    return ""


def cross_validate(
    settings: TrainingSettings,
    splits: Splits,
    planned: CrossValidationPlan,
    out: Path,
    shared: Candidates,
    *,
    fresh: bool = False,
    progress: Callable[[str], None] = print,
) -> list[Answers]:
    """Train an encoder for each fold, or resume, and run one-shot episodes of its classes.

    Args:
        settings: settings of the run.
        splits: its data; all classes are divided again.
        planned: from `plan`.
        out: each fold is a run in a subdirectory.
        shared: candidates that are the same for all folds: embeddings of the pictures of `all_classes(splits)`, and a head.
        fresh: start over even if there are runs to resume.
        progress: called with a line about each step.

    Raises:
        Interrupted: training was interrupted; the same call resumes.
    """
    images = all_classes(splits)
    larger = _training_pictures(settings, images)
    folds = folds_of(images, planned.folds, settings.seed)
    sets = list(fold_splits(images, folds, larger, settings.seed))
    widest = [widest_one_shot(fold.evaluation) for fold in sets]
    way, within_group = min(way for way, _ in widest), all(within for _, within in widest)
    answers = []
    for number, (fold, held_out) in enumerate(zip(sets, folds, strict=True), 1):
        progress(
            f"fold {number} of {planned.folds}: training on {fold.train.classes} classes, testing "
            f"{fold.evaluation.classes} others"
        )
        run = out / f"{number}-of-{planned.folds}"
        trained = train(settings, fold, run, fresh=fresh)
        progress(f"fold {number} of {planned.folds}: {trained.describe()}")
        kept = np.isin(images.labels, held_out)
        candidates = {
            **_fold_candidates(settings, fold, run),
            **{name: (embeddings[kept], head) for name, (embeddings, head) in shared.items()},
        }
        answers.append(run_episodes(candidates, fold.evaluation, way, within_group, settings.seed + number))
    return answers


def _training_pictures(settings: TrainingSettings, images: ImageSet) -> ImageSet | None:
    """The same pictures in the size that the encoder is trained on, if that size differs."""
    preprocessing = build_encoder(settings.encoder).training_preprocessing
    if preprocessing is None:
        return None
    larger = all_classes(load_splits(settings.data, preprocessing, seed=settings.seed, log=False))
    return replace(larger, class_groups=images.class_groups, group_names=images.group_names)


def _fold_candidates(
    settings: TrainingSettings, fold: Splits, run: Path
) -> dict[str, tuple[Embeddings, SigmoidDistanceHead]]:
    """The encoder of a fold and its starting weights, unless these were random, on the held-out classes."""
    network = load_run(run)
    pictures = fold.evaluation.images
    encoder = TorchEncoder(network.module, network.model_id)
    result = {TRAINED: (encoder.embed_prepared(pictures), network.head or RANKING)}
    if settings.start != "random" and network.head is None:
        module = build_encoder(settings.encoder)
        load_initial_weights(settings, fold, module)
        starting = TorchEncoder(module.eval(), "starting weights")
        result[STARTING] = starting.embed_prepared(pictures), RANKING
    return result
