"""Draws of a batch: pictures of a class together, shares of sources, and a function of seed and step alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edge_siamese.errors import SettingsError
from export.data.augment import SYMMETRIES
from export.data.images import ImageSet
from export.data.sources import together
from export.encoders import Koch2015
from export.training.objectives import AllPairs, build_objective, by_class, shuffled


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


def alphabets(sizes: list[int], drawers: int = 4) -> ImageSet:
    classes = sum(sizes)
    return ImageSet(
        name="alphabets",
        images=np.zeros((classes * drawers, 2, 2, 1), np.uint8),
        labels=np.repeat(np.arange(classes), drawers),
        class_names=tuple(f"character-{i}" for i in range(classes)),
        class_groups=np.repeat(np.arange(len(sizes)), sizes),
        group_names=tuple(f"alphabet-{i}" for i in range(len(sizes))),
        drawers=np.tile(np.arange(drawers), classes),
    )


def test_a_block_of_all_pairs_has_two_drawings_of_each_of_16_characters_of_an_alphabet() -> None:
    images = alphabets([20, 16, 30])
    objective = build_objective("all-pairs", Koch2015(), images.classes, symmetries=False)
    seen = set()
    for step in range(30):
        batch = objective.batch(images, 64, 3, step)
        assert np.array_equal(batch.labels, images.labels[batch.images])
        groups = images.class_groups[batch.labels].reshape(2, 32)
        assert (groups == groups[:, :1]).all() and groups[0, 0] != groups[1, 0]
        assert (np.unique(batch.labels, return_counts=True)[1] == 2).all() and len(set(batch.images)) == 64
        seen |= set(batch.labels)
    assert len(seen) == images.classes
    again = objective.batch(images, 64, 3, 29)
    assert np.array_equal(again.images, batch.images) and np.array_equal(again.labels, batch.labels)


def test_symmetries_rotate_or_mirror_a_block_of_all_pairs_as_a_whole() -> None:
    images = alphabets([20, 16, 30])
    plain = build_objective("all-pairs", Koch2015(), images.classes, symmetries=False)
    objective = build_objective("all-pairs", Koch2015(), images.classes, symmetries=True)
    seen = set()
    for step in range(40):
        batch = objective.batch(images, 64, 3, step)
        assert np.array_equal(batch.images, plain.batch(images, 64, 3, step).images)
        assert batch.symmetry is not None
        first, second = batch.symmetry.reshape(2, 32)
        assert len(set(first)) == len(set(second)) == 1
        seen |= {(int(first[0]), int(second[0]))}
    assert {first for first, _ in seen} == {second for _, second in seen} == set(range(SYMMETRIES))
    assert any(first != second for first, second in seen)
    assert plain.batch(images, 64, 3, 0).symmetry is None


def test_the_loss_of_all_pairs_weights_same_and_different_alike_and_crosses_no_alphabet() -> None:
    torch.manual_seed(0)
    encoder = Koch2015()
    objective = AllPairs(encoder)
    assert objective.head is encoder.head
    embeddings, labels = torch.rand(64, 4096), torch.arange(64) // 2
    same, different = [], []
    for i in range(64):
        for j in range(i + 1, 64):
            if i // 32 == j // 32:
                p = torch.sigmoid(encoder.head(embeddings[i][None], embeddings[j][None]))[0]
                (same if labels[i] == labels[j] else different).append(
                    -torch.log(p if labels[i] == labels[j] else 1 - p)
                )
    assert (len(same), len(different)) == (32, 2 * (32 * 31 // 2) - 32)
    expected = 0.5 * (torch.stack(same).mean() + torch.stack(different).mean())
    assert float(objective(embeddings, labels).detach()) == pytest.approx(float(expected.detach()), rel=1e-3)


def test_data_that_give_no_pairs_are_refused() -> None:
    objective = AllPairs(Koch2015())
    with pytest.raises(SettingsError, match="must be a multiple of 32 with the objective all-pairs, not 48"):
        objective.batch(alphabets([16]), 48, 0, 0)
    with pytest.raises(SettingsError, match="alphabets has no group of two classes with two pictures each"):
        objective.batch(alphabets([5], drawers=1), 32, 0, 0)
    few = objective.batch(alphabets([5, 1]), 64, 0, 0)
    assert set(few.labels) == set(range(5))
