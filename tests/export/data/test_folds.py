"""Folds of classes: each class is tested once, and never by an encoder that was trained on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_siamese.errors import SettingsError
from export.data.folds import all_classes, fold_splits, folds_of, number_of_folds
from export.data.images import ImageSet, Splits


def image_set(names: list[str], first: int = 0) -> ImageSet:
    """Two pictures of each class, whose shade is the number of the class."""
    labels = np.repeat(np.arange(len(names)), 2).astype(np.int64)
    images = np.broadcast_to((first + labels)[:, None, None, None], (len(labels), 2, 2, 1)).astype(np.uint8)
    return ImageSet(
        "part", images, labels, tuple(names), np.zeros(len(names), np.int64), ("part",),
        np.full(len(labels), -1, np.int64),
    )  # fmt: skip


def splits(names: list[str]) -> Splits:
    half = len(names) // 2
    return Splits(
        image_set(names[:half]), image_set(names[half:-2], half), image_set(names[-2:], len(names) - 2),
        provenance={"data": "folder:photos"},
    )  # fmt: skip


@pytest.mark.parametrize(("classes", "folds"), [(6, 3), (7, 3), (8, 2), (9, 3), (12, 4), (15, 5), (29, 5)])
def test_the_usual_number_of_folds(classes: int, folds: int) -> None:
    assert number_of_folds(classes) == folds


@pytest.mark.parametrize(("classes", "wanted"), [(6, 2), (6, 4), (9, 1), (9, 5), (5, 2)])
def test_folds_that_are_too_small_or_too_large_are_refused(classes: int, wanted: int) -> None:
    with pytest.raises(SettingsError, match=rf"--folds {wanted} does not suit {classes} classes"):
        number_of_folds(classes, wanted)


def test_a_wish_is_granted_and_too_few_classes_are_refused() -> None:
    assert number_of_folds(29, 14) == 14
    with pytest.raises(SettingsError, match="5 classes are too few for cross-validation; use --folds 0"):
        number_of_folds(5)


def test_each_class_is_tested_once_by_an_encoder_that_does_not_know_it() -> None:
    names = [f"c{number:02d}" for number in range(14)]
    images = all_classes(splits(names))
    assert images.class_names == tuple(names) and images.name == "folder:photos"
    folds = folds_of(images, 4, seed=3)
    assert sorted(map(len, folds)) == [3, 3, 4, 4]
    tested: list[str] = []
    for fold in fold_splits(images, folds, None, seed=3):
        parts = [fold.train, fold.validation, fold.evaluation]
        assert sorted(name for part in parts for name in part.class_names) == names
        assert fold.validation.classes == 2 and fold.training_pictures is None
        for part in parts:  # the pictures went with their classes
            shades = [int(name[1:]) for name in part.class_names]
            assert part.images[:, 0, 0, 0].tolist() == np.asarray(shades)[part.labels].tolist()
        tested += fold.evaluation.class_names
    assert sorted(tested) == names
    again = folds_of(images, 4, seed=3)
    assert all(np.array_equal(one, other) for one, other in zip(folds, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(folds, folds_of(images, 4, seed=4), strict=True))


def test_classes_of_a_group_are_tested_together() -> None:
    names = [f"{group}/{number}" for group in ("fruit", "tools", "toys") for number in range(3)]
    images = all_classes(splits(names))
    assert images.group_names == ("fruit", "tools", "toys")
    for fold in fold_splits(images, folds_of(images, 3, seed=0), None, seed=0):
        assert len({name.split("/")[0] for name in fold.evaluation.class_names}) == 1


def test_training_pictures_are_those_of_the_training_classes() -> None:
    images = all_classes(splits([f"c{number:02d}" for number in range(8)]))
    larger = replace(images, images=images.images.repeat(2, axis=1).repeat(2, axis=2))
    for fold in fold_splits(images, folds_of(images, 2, 0), larger, 0):
        assert fold.training_pictures is not None
        assert fold.training_pictures.class_names == fold.train.class_names
        assert fold.training_pictures.images.shape[1:] == (4, 4, 1)
