from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edge_siamese.errors import DataError
from export.data.images import ImageSet
from export.data.sampling import Pairs, episodes, verification_pairs


def image_set(pictures: list[list[int]], groups: list[int], drawers: str = "known") -> ImageSet:
    """Class c has `pictures[c]`, the drawers of its pictures, and belongs to group `groups[c]`; pictures are shuffled."""
    labels = np.repeat(np.arange(len(pictures)), [len(p) for p in pictures])
    order = np.random.default_rng(99).permutation(len(labels))
    hands = np.array([hand for p in pictures for hand in p], dtype=np.int64)
    return ImageSet(
        name="some",
        images=np.zeros((len(labels), 1, 1, 1), dtype=np.uint8),
        labels=labels[order],
        class_names=tuple(f"class{c}" for c in range(len(pictures))),
        class_groups=np.array(groups, dtype=np.int64),
        group_names=tuple(f"group{g}" for g in range(max(groups, default=-1) + 1)),
        drawers=hands[order] if drawers == "known" else np.full(len(labels), -1),
    )


@pytest.fixture(scope="module")
def alphabets() -> ImageSet:
    """Three alphabets of 3, 5 and 22 characters by the same 6 drawers each."""
    return image_set([list(range(6))] * 30, [0] * 3 + [1] * 5 + [2] * 22)


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def pair_groups(images: ImageSet, pairs: Pairs) -> np.ndarray:
    groups = images.class_groups[images.labels]
    assert np.array_equal(groups[pairs.a], groups[pairs.b])
    return groups[pairs.a]


def test_half_of_the_pairs_are_of_one_class_and_each_alphabet_has_equally_many_of_both(
    alphabets: ImageSet,
) -> None:
    pairs = verification_pairs(alphabets, 600, rng())
    assert len(pairs) == 600
    assert np.array_equal(alphabets.labels[pairs.a] == alphabets.labels[pairs.b], pairs.same)
    groups = pair_groups(alphabets, pairs)
    assert np.bincount(groups[pairs.same]).tolist() == [100, 100, 100]
    assert np.bincount(groups[~pairs.same]).tolist() == [100, 100, 100]


def test_pairs_of_both_kinds_are_by_different_drawers(alphabets: ImageSet) -> None:
    pairs = verification_pairs(alphabets, 3000, rng())
    assert (alphabets.drawers[pairs.a] != alphabets.drawers[pairs.b]).all()


def test_what_does_not_divide_evenly_is_one_pair_a_group(alphabets: ImageSet) -> None:
    extra = np.zeros(3, dtype=np.int64)
    for seed in range(60):
        pairs = verification_pairs(alphabets, 11, np.random.default_rng(seed))
        assert pairs.same.sum() == 5
        groups = pair_groups(alphabets, pairs)
        same = np.bincount(groups[pairs.same], minlength=3)
        assert sorted(same.tolist()) == [1, 2, 2]
        assert np.bincount(groups[~pairs.same], minlength=3).tolist() == [2, 2, 2]
        extra += same - 1
    assert extra.min() > 20  # of 40 on average: no group is favored


def test_pairs_come_in_random_order(alphabets: ImageSet) -> None:
    pairs = verification_pairs(alphabets, 2000, rng())
    assert 400 < pairs.same[:1000].sum() < 600
    # Neither is the first picture of a pair always the earlier one.
    assert 400 < (pairs.a < pairs.b)[pairs.same].sum() < 600


def test_characters_of_an_alphabet_and_pairs_of_them_are_drawn_uniformly(alphabets: ImageSet) -> None:
    pairs = verification_pairs(alphabets, 36_000, rng())
    a, b = alphabets.labels[pairs.a], alphabets.labels[pairs.b]
    # Alphabet 1 has the characters 3 to 7: 6,000 pairs of each kind, so 1,200 a character and 300 an ordered pair.
    assert np.abs(np.bincount(a[pairs.same], minlength=30)[3:8] - 1200).max() < 150
    table = np.zeros((30, 30), dtype=np.int64)
    np.add.at(table, (a[~pairs.same], b[~pairs.same]), 1)
    assert np.abs(table[3:8, 3:8][~np.eye(5, dtype=bool)] - 300).max() < 80
    # 6 drawers: 30 ordered pairs of drawers, all of them possible.
    hands = np.zeros((6, 6), dtype=np.int64)
    np.add.at(hands, (alphabets.drawers[pairs.a], alphabets.drawers[pairs.b]), 1)
    assert np.abs(hands[~np.eye(6, dtype=bool)] - 1200).max() < 150


def test_a_class_by_one_drawer_gives_no_pairs_of_one_class() -> None:
    images = image_set([[0, 0, 0], [0, 0, 1], [2]], [0, 0, 0])
    pairs = verification_pairs(images, 400, rng())
    assert set(images.labels[pairs.a][pairs.same]) == {1}
    assert (images.drawers[pairs.a] != images.drawers[pairs.b])[pairs.same].all()
    assert set(images.labels[pairs.a][~pairs.same]) == {0, 1, 2}


def test_different_classes_by_the_only_drawer_there_is() -> None:
    images = image_set([[0, 1], [0], [0]], [0, 0, 0])
    pairs = verification_pairs(images, 200, rng())
    both_by_the_same = images.drawers[pairs.a] == images.drawers[pairs.b]
    assert not both_by_the_same[pairs.same].any()
    assert {1, 2} <= set(images.labels[pairs.b][~pairs.same])


def test_pictures_by_unknown_hands_are_never_paired_with_themselves() -> None:
    images = image_set([[0, 0], [0, 0, 0], [0]], [0, 0, 0], drawers="unknown")
    pairs = verification_pairs(images, 2000, rng())
    assert (pairs.a != pairs.b).all()
    assert set(images.labels[pairs.a][pairs.same]) == {0, 1}
    # The three pictures of class 1 give six ordered pairs, all of them equally often.
    of_one = pairs.same & (images.labels[pairs.a] == 1)
    _, counts = np.unique(np.stack([pairs.a, pairs.b])[:, of_one], axis=1, return_counts=True)
    assert len(counts) == 6
    assert counts.min() > 0.6 * counts.max()


def test_groups_that_cannot_give_both_kinds_are_left_out() -> None:
    images = image_set([[0, 1], [0, 1], [0, 1], [0], [0]], [0, 0, 1, 2, 2])
    assert set(pair_groups(images, verification_pairs(images, 100, rng()))) == {0}


@pytest.mark.parametrize(
    ("pictures", "groups"), [([[0, 1]], [0]), ([[0], [0]], [0, 0]), ([[0, 1], [0, 1]], [0, 1]), ([], [])]
)
def test_too_little_for_pairs(pictures: list[list[int]], groups: list[int]) -> None:
    with pytest.raises(DataError, match="some: verification pairs need a group with at least two classes"):
        verification_pairs(image_set(pictures, groups), 10, rng())


def test_one_pair_is_too_few(alphabets: ImageSet) -> None:
    with pytest.raises(DataError, match="at least 2 verification pairs are needed"):
        verification_pairs(alphabets, 1, rng())


@pytest.mark.parametrize("within", [True, False])
def test_episodes_have_the_promised_form(alphabets: ImageSet, within: bool) -> None:
    drawn = list(episodes(alphabets, 700, way=5, shot=2, queries=3, rng=rng(), within_group=within))
    assert len(drawn) == 700
    spread = set()
    for episode in drawn:
        assert episode.supports.shape == (5, 2)
        assert episode.queries.shape == (5, 3)
        both = np.concatenate([episode.supports, episode.queries], axis=1)
        classes = alphabets.labels[both]
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0])) == 5
        assert len(set(both.ravel())) == 25
        spread.add(len(set(alphabets.class_groups[classes[:, 0]])))
    assert spread == ({1} if within else {1, 2, 3})


def test_groups_of_too_few_classes_are_never_drawn_and_the_others_equally_often(alphabets: ImageSet) -> None:
    drawn = [
        int(alphabets.class_groups[alphabets.labels[e.supports[0, 0]]])
        for e in episodes(alphabets, 1000, way=4, shot=1, queries=1, rng=rng(), within_group=True)
    ]
    counts = np.bincount(drawn, minlength=3)
    assert counts[0] == 0
    assert 420 < counts[1] < 580


def test_classes_with_too_few_pictures_are_never_drawn() -> None:
    images = image_set([[0, 1, 2], [0, 1], [0, 1, 2], [0]], [0] * 4)
    for episode in episodes(images, 50, way=2, shot=1, queries=2, rng=rng(), within_group=True):
        assert set(images.labels[episode.supports[:, 0]]) == {0, 2}


def test_every_place_of_an_episode_is_drawn_uniformly(alphabets: ImageSet) -> None:
    drawn = list(episodes(alphabets, 6000, way=5, shot=1, queries=1, rng=rng(), within_group=False))
    supports = np.stack([e.supports[:, 0] for e in drawn])
    queries = np.stack([e.queries[:, 0] for e in drawn])
    for place in range(5):
        # 30 classes: 200 each; 6 drawers: 1,000 each.
        assert np.abs(np.bincount(alphabets.labels[supports[:, place]], minlength=30) - 200).max() < 65
        assert np.abs(np.bincount(alphabets.drawers[supports[:, place]], minlength=6) - 1000).max() < 130
        assert np.abs(np.bincount(alphabets.drawers[queries[:, place]], minlength=6) - 1000).max() < 130


def test_equal_generators_draw_equally(alphabets: ImageSet) -> None:
    for _ in range(2):
        first = list(episodes(alphabets, 3, 5, 1, 1, np.random.default_rng(1), within_group=True))
        assert [e.supports.tolist() for e in first] == [
            e.supports.tolist()
            for e in episodes(alphabets, 3, 5, 1, 1, np.random.default_rng(1), within_group=True)
        ]
    assert np.array_equal(
        verification_pairs(alphabets, 50, rng()).a, verification_pairs(alphabets, 50, rng()).a
    )


@pytest.mark.parametrize(
    ("way", "shot", "within", "message"),
    [
        (
            23,
            1,
            True,
            "some: 23-way episodes with 2 pictures per class need 23 such classes, and any one group has 22 at most",
        ),
        (
            31,
            1,
            False,
            "some: 31-way episodes with 2 pictures per class need 31 such classes, and there are 30 at most",
        ),
        (
            2,
            6,
            False,
            "2-way episodes with 7 pictures per class need 2 such classes, and there are 0 at most",
        ),
        (1, 1, False, "episodes need at least 2 ways, 1 shot, 1 query and 1 episode, not 1-way 1-shot"),
        (2, 0, False, "not 2-way 0-shot"),
    ],
)
def test_too_little_for_episodes_is_said_at_the_call(
    alphabets: ImageSet, way: int, shot: int, within: bool, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        episodes(alphabets, 1, way, shot, 1, rng(), within)


class CountedDraws:
    """A generator that counts the calls of its methods."""

    def __init__(self) -> None:
        self.generator = rng()
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        self.calls += 1
        return getattr(self.generator, name)


def test_draws_are_vectorized() -> None:
    images = image_set([list(range(20))] * 600, [c // 30 for c in range(600)])
    draws: Any = CountedDraws()
    drawn = list(episodes(images, 10_000, 20, 1, 1, draws, within_group=True))
    assert len(drawn) == 10_000
    assert draws.calls < 1000  # 20 batches of 512 episodes, some 20 calls for each
    draws = CountedDraws()
    assert len(verification_pairs(images, 30_000, draws)) == 30_000
    assert draws.calls < 20
