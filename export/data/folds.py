"""Folds of classes, for cross-validation that leaves whole classes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from edge_siamese.errors import SettingsError
from export.data.folders import HELD_OUT_FRACTION, MIN_CLASSES, SPLITS, draw_held_out
from export.data.images import ImageSet, Indices, Splits

MAX_FOLDS = 5
"""Default number of folds: each encoder is trained on about as many classes as the one that is kept."""
MIN_FOLD = 3
"""Classes of a fold, if possible: with two, guessing is right half of the time."""


def all_classes(splits: Splits) -> ImageSet:
    """The pictures of all splits, in groups as their names `GROUP/CLASS` say."""
    parts = [getattr(splits, split) for split in SPLITS]
    names = tuple(name for part in parts for name in part.class_names)
    groups = [name.rpartition("/")[0] for name in names]
    group_names = sorted(set(groups))
    starts = np.cumsum([0, *(part.classes for part in parts)])
    images = ImageSet(
        name=str(splits.provenance.get("data", "all classes")),
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([p.labels + start for p, start in zip(parts, starts[:-1], strict=True)]),
        class_names=names,
        class_groups=np.array([group_names.index(group) for group in groups], np.int64),
        group_names=tuple(group_names),
        drawers=np.concatenate([part.drawers for part in parts]),
    )
    return images.comparable()


def number_of_folds(classes: int, requested: int | None = None) -> int:
    """The number of folds: as requested, or as many as give three classes each, at most `MAX_FOLDS`.

    Raises:
        SettingsError: the requested number leaves too few classes in a fold, or for training and validation.
    """

    def fits(folds: int) -> bool:
        return classes // folds >= MIN_CLASSES and classes - -(-classes // folds) >= 2 * MIN_CLASSES

    possible = [folds for folds in range(2, classes + 1) if fits(folds)]
    if requested is not None:
        if requested not in possible:
            allowed = f"{possible[0]} to {possible[-1]}" if possible else "none"
            raise SettingsError(
                f"--folds {requested} does not suit {classes} classes, of which each fold needs {MIN_CLASSES} and leaves "
                f"{2 * MIN_CLASSES} for training and validation (possible: {allowed}; 0 for no cross-validation)"
            )
        return requested
    if not possible:
        raise SettingsError(f"{classes} classes are too few for cross-validation; use --folds 0")
    usual = min(MAX_FOLDS, max(2, classes // MIN_FOLD))
    return max(usual, possible[0])


def folds_of(images: ImageSet, folds: int, seed: int) -> list[Indices]:
    """The classes of each fold, drawn by the seed, several of a group together; each class is in one fold."""
    left = np.random.default_rng([seed, 35]).permutation(images.classes)
    parts = []
    for remaining in range(folds, 0, -1):
        parts.append(np.sort(draw_held_out(left, images.class_groups, len(left) // remaining)))
        left = left[~np.isin(left, parts[-1])]
    return parts


def fold_splits(
    images: ImageSet, folds: Sequence[Indices], larger: ImageSet | None, seed: int
) -> Iterator[Splits]:
    """For each fold the splits that test its classes, and train and validate on the others.

    Args:
        images: all classes.
        folds: the classes of each fold, from `folds_of`.
        larger: the same classes and pictures for training, in another size; None to train on `images`.
        seed: draws the validation classes.
    """
    for number, held_out in enumerate(folds):
        rest = np.setdiff1d(np.arange(images.classes), held_out)
        rest = np.random.default_rng([seed, 36, number]).permutation(rest)
        count = max(MIN_CLASSES, round(HELD_OUT_FRACTION * len(rest)))
        validation = np.sort(draw_held_out(rest, images.class_groups, count))
        train = np.setdiff1d(rest, validation)
        sets = [
            replace(images.select(part), name=f"{images.name} {name}").comparable()
            for name, part in (("train", train), ("validation", validation), ("test", held_out))
        ]
        yield Splits(
            train=sets[0],
            validation=sets[1],
            evaluation=sets[2],
            provenance={
                "data": images.name,
                "split": f"fold {number + 1} of {len(folds)}",
                "seed": seed,
                **{name: part.summary() for name, part in zip(SPLITS, sets, strict=True)},
                "evaluation_classes": list(sets[2].class_names),
                "warnings": [],
            },
            training_pictures=None if larger is None else larger.select(train),
        )
