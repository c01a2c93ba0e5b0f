from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edge_siamese.errors import DataError
from export.data.images import ImageSet


@pytest.fixture
def images() -> ImageSet:
    """Six pictures of three classes; picture i has the value 10 * i in all pixels."""
    return ImageSet(
        name="some",
        images=np.broadcast_to((np.arange(6) * 10).astype(np.uint8)[:, None, None, None], (6, 2, 3, 1)),
        labels=np.array([2, 0, 2, 1, 0, 2]),
        class_names=("a/x", "b/y", "b/z"),
        class_groups=np.array([0, 1, 1]),
        group_names=("a", "b"),
        drawers=np.array([0, 1, 2, 3, 4, 5]),
    )


def test_pictures_of_a_class(images: ImageSet) -> None:
    assert images.classes == 3
    assert len(images) == 6
    assert images.images_of(2).tolist() == [0, 2, 5]
    assert images.images_of(1).tolist() == [3]
    assert repr(images) == "<some: 6 images of 3 classes in 2 groups>"
    assert images.summary() == {"images": 6, "classes": 3, "groups": 2}


def test_selected_classes_are_numbered_in_the_given_order_and_empty_groups_go(images: ImageSet) -> None:
    chosen = images.select([2, 1])
    assert chosen.class_names == ("b/z", "b/y")
    assert chosen.group_names == ("b",)
    assert chosen.class_groups.tolist() == [0, 0]
    assert chosen.labels.tolist() == [0, 0, 1, 0]
    assert chosen.drawers.tolist() == [0, 2, 3, 5]
    assert chosen.images[:, 0, 0, 0].tolist() == [0, 20, 30, 50]


def test_classes_that_are_alone_in_their_groups_become_one_group(images: ImageSet) -> None:
    assert images.comparable() is images
    alone = images.select([0, 2]).comparable()
    assert alone.class_groups.tolist() == [0, 0]
    assert alone.group_names == ("some",)
    assert alone.class_names == ("a/x", "b/z")
    nothing = images.select([])
    assert nothing.comparable() is nothing


def test_no_classes_can_be_selected(images: ImageSet) -> None:
    nothing = images.select([])
    assert nothing.summary() == {"images": 0, "classes": 0, "groups": 0}
    assert nothing.images.shape == (0, 2, 3, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": np.zeros((6, 2, 3, 1), dtype=np.float32)},
            r"must be uint8 \(N, H, W, C\), not float32",
        ),
        ({"images": np.zeros((6, 2, 3), dtype=np.uint8)}, r"not uint8 \(6, 2, 3\)"),
        ({"labels": np.array([0, 1, 2])}, "6 pictures need 6 labels and drawers"),
        ({"labels": np.array([0, 1, 2, 3, 0, 0])}, "labels must be 0 to 2"),
        ({"class_groups": np.array([0, 1])}, "3 classes need 3 groups"),
        ({"class_groups": np.array([0, 1, 2])}, "groups of classes must be 0 to 1"),
    ],
)
def test_contradictions_are_refused(images: ImageSet, change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        replace(images, **change)


def test_a_class_cannot_be_selected_twice(images: ImageSet) -> None:
    with pytest.raises(DataError, match="a class is selected twice"):
        images.select([1, 1])
