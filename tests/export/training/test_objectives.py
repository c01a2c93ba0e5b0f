"""Draws of a batch: pictures of a class together, shares of sources, and a function of seed and step alone."""

from __future__ import annotations

import numpy as np
import pytest

from edge_siamese.errors import SettingsError
from export.data.images import ImageSet
from export.data.sources import together
from export.training.objectives import by_class, shuffled


def image_set(name: str, counts: list[int]) -> ImageSet:
    total = sum(counts)
    return ImageSet(
        name=name,
        images=np.zeros((total, 2, 2, 3), np.uint8),
        labels=np.repeat(np.arange(len(counts)), counts),
        class_names=tuple(f"{name}-{i}" for i in range(len(counts))),
        class_groups=np.zeros(len(counts), np.int64),
        group_names=(name,),
        drawers=np.full(total, -1),
    )


PICTURES = together([image_set("a", [5, 5, 9]), image_set("b", [4] * 7), image_set("c", [1] * 6)])


def test_each_source_has_its_share_and_each_class_its_pictures() -> None:
    draw = by_class([1, 2, 1], 2)
    for step in range(20):
        chosen = draw(PICTURES, 16, 3, step)
        labels = PICTURES.labels[chosen]
        assert PICTURES.class_sources is not None
        assert PICTURES.class_sources[labels].tolist() == [0] * 4 + [1] * 8 + [2] * 4
        assert np.array_equal(labels[0::2], labels[1::2])
        assert (chosen[:12:2] != chosen[1:12:2]).all()  # two different pictures,
        assert (chosen[12::2] == chosen[13::2]).all()  # or the only one twice


def test_all_classes_of_a_source_are_drawn_equally_often() -> None:
    draw = by_class([], 2)
    labels = np.concatenate([PICTURES.labels[draw(PICTURES, 12, 0, step)] for step in range(21)])
    assert np.bincount(labels).tolist() == [28] * 3 + [12] * 7 + [14] * 6


def test_a_draw_depends_on_seed_and_step_alone() -> None:
    draw = by_class([1, 2, 1], 2)
    former = draw(PICTURES, 16, 3, 7)
    draw(PICTURES, 16, 3, 8)
    assert np.array_equal(draw(PICTURES, 16, 3, 7), former)
    assert not np.array_equal(draw(PICTURES, 16, 4, 7), former)


@pytest.mark.parametrize(
    ("shares", "size", "message"),
    [
        ([1, 2], 16, "there are 3 sources of data, but 2 shares of them"),
        ([1, 2, 1], 12, "the batch must be a multiple of 8 with these data_shares, not 12"),
    ],
)
def test_shares_must_fit_the_data_and_the_batch(shares: list[int], size: int, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        by_class(shares, 2)(PICTURES, size, 0, 0)


def test_one_source_is_one_share() -> None:
    single = image_set("a", [3, 3])
    assert single.labels[by_class([], 3)(single, 6, 0, 0)].tolist() in (
        [0, 0, 0, 1, 1, 1],
        [1, 1, 1, 0, 0, 0],
    )


def test_the_draws_of_existing_recipes_have_not_changed() -> None:
    assert shuffled(image_set("a", [2, 3]), 6, 1, 2).tolist() == [4, 0, 1, 0, 3, 2]
