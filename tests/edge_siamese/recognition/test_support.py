"""The support set: immutable, several views of an object, of which the nearest counts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edge_siamese.errors import SupportError
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.support import SupportEntry, SupportSet

HEAD = SigmoidDistanceHead(scale=10.0, bias=5.0)
EAST, NORTH, WEST = np.array([1, 0], np.float32), np.array([0, 1], np.float32), np.array([-1, 0], np.float32)

NONE = np.empty((0, 2), np.float32)


def test_objects_are_kept_with_their_views() -> None:
    support = SupportSet.of({"mug": [EAST, WEST], "key": [NORTH]}, 2)
    assert support.names == ("mug", "key")
    assert support.views == (2, 1)
    assert len(support) == 2
    assert "mug" in support
    assert "cup" not in support
    np.testing.assert_array_equal(support.embeddings, [EAST, WEST, NORTH])
    np.testing.assert_array_equal(support.embeddings[support.rows(0)], [EAST, WEST])
    assert support.embeddings.dtype == np.float32


def test_a_change_gives_a_new_set() -> None:
    first = SupportSet.of({"mug": [EAST], "key": [NORTH]}, 2)
    second = first.without("mug")
    assert (first.views, second.views) == ((1, 1), (1,))
    assert second.names == ("key",)
    np.testing.assert_array_equal(second.embeddings, [NORTH])
    with pytest.raises(ValueError, match="read-only"):
        second.embeddings[0] = 0
    given = EAST.copy()
    kept = SupportSet.of({"mug": [given]}, 2)
    given[:] = 9
    np.testing.assert_array_equal(kept.embeddings, [EAST])


def test_the_nearest_view_counts() -> None:
    support = SupportSet.of({"mug": [NORTH, EAST], "key": [WEST]}, 2)
    distances = support.distances(HEAD, np.stack([EAST, WEST]))
    np.testing.assert_allclose(distances, [[0, 2], [np.sqrt(2), 0]], atol=1e-6)
    assert distances.dtype == np.float32


def test_an_empty_set_has_distances_to_nothing() -> None:
    assert SupportSet.empty(2).distances(HEAD, EAST[np.newaxis]).shape == (1, 0)


@pytest.mark.parametrize(
    ("name", "embedding", "message"),
    [
        ("", EAST, "an object needs a name that is not empty"),
        (" ", EAST, "an object needs a name that is not empty"),
        ("mug", [1, 2, 3], r'"mug": the embedding must have shape \(2,\), not \(3,\)'),
        ("mug", [[1, 2]], r'"mug": the embedding must have shape \(2,\), not \(1, 2\)'),
        ("mug", [1, np.nan], '"mug": the embedding has numbers that are not finite'),
    ],
)
def test_what_cannot_be_taken(name: str, embedding: list[float], message: str) -> None:
    with pytest.raises(SupportError, match=f"^{message}$"):
        SupportSet.of({name: [embedding]}, 2)


def test_what_is_not_there() -> None:
    with pytest.raises(SupportError, match=r'^there is no object "cup"; registered: mug, key$'):
        SupportSet.of({"mug": [EAST], "key": [NORTH]}, 2).without("cup")
    with pytest.raises(SupportError, match=r'^there is no object "cup"; registered: none$'):
        SupportSet.empty(2).without("cup")


NONE = np.empty((0, 2), np.float32)


def entry(
    uid: str,
    name: str,
    first: int,
    *views: npt.NDArray[np.float32],
    negatives: npt.NDArray[np.float32] = NONE,
) -> SupportEntry:
    """An object whose views have the numbers from `first` on."""
    return SupportEntry(
        uid, name, tuple(range(first, first + len(views))), np.array(views, np.float32), negatives
    )


MUG = entry("u1", "mug", 7, EAST, WEST, negatives=np.stack([NORTH]))
KEY = entry("u2", "key", 3, NORTH)
PEN = entry("u3", "pen", 20, -NORTH, negatives=np.stack([EAST, WEST]))


def require_same(found: SupportSet, expected: SupportSet) -> None:
    """Both hold the same, and nothing of it can be written."""
    for field in ("names", "views", "uids"):
        assert getattr(found, field) == getattr(expected, field)
    for field in ("embeddings", "view_ids", "negatives", "negative_owners", "limits", "starts", "half_norms"):
        values = getattr(found, field)
        np.testing.assert_array_equal(values, getattr(expected, field))
        assert values.dtype == getattr(expected, field).dtype
        assert not values.flags.writeable


def test_a_store_hands_over_all_objects_at_once() -> None:
    support = SupportSet.build([MUG, KEY, PEN], 2, [np.inf, 0.5, 0.25])
    assert support.names == ("mug", "key", "pen")
    assert support.uids == ("u1", "u2", "u3")
    assert support.views == (2, 1, 1)
    np.testing.assert_array_equal(support.embeddings, [EAST, WEST, NORTH, -NORTH])
    np.testing.assert_array_equal(support.view_ids, [7, 8, 3, 20])
    np.testing.assert_array_equal(support.negatives, [NORTH, EAST, WEST])
    np.testing.assert_array_equal(support.negative_owners, [0, 2, 2])
    np.testing.assert_array_equal(support.limits, np.array([np.inf, 0.5, 0.25], np.float32))
    np.testing.assert_array_equal(support.half_norms, [0.5] * 4)
    assert (support.rows(0), support.negative_rows(1), support.negative_rows(2)) == (
        slice(0, 2),
        slice(1, 1),
        slice(1, 3),
    )
    assert "u2" in support and "key" in support
    np.testing.assert_array_equal(SupportSet.build([MUG], 2).limits, [np.inf])


def test_an_object_without_a_view_is_left_out() -> None:
    dormant = entry("u9", "dormant", 1, negatives=np.stack([EAST]))
    dormant = SupportEntry("u9", "dormant", (), NONE, dormant.negatives)
    require_same(SupportSet.build([MUG, dormant, KEY], 2, [1, 2, 3]), SupportSet.build([MUG, KEY], 2, [1, 3]))
    assert len(SupportSet.build([dormant], 2)) == 0


def test_a_removed_object_gives_the_same_set_as_build() -> None:
    support = SupportSet.build([MUG, KEY, PEN], 2, [1, 2, 3])
    require_same(support.without("u2"), SupportSet.build([MUG, PEN], 2, [1, 3]))
    require_same(support.without("mug"), SupportSet.build([KEY, PEN], 2, [2, 3]))
    require_same(support.with_limits([3, 2, 1]), SupportSet.build([MUG, KEY, PEN], 2, [3, 2, 1]))
    require_same(SupportSet.build([KEY, MUG], 2).without("key"), SupportSet.build([MUG], 2))
    require_same(SupportSet.build([KEY], 2).without("key"), SupportSet.empty(2))


def test_random_removals_give_the_same_set_as_build() -> None:
    rng = np.random.default_rng(4)
    entries, limits = [], []
    for number in range(60):
        views = rng.normal(size=(rng.integers(1, 4), 3)).astype(np.float32)
        negatives = rng.normal(size=(rng.integers(3), 3)).astype(np.float32)
        numbers = tuple(range(4 * number, 4 * number + len(views)))
        entries.append(SupportEntry(f"u{number}", f"name {number}", numbers, views, negatives))
        limits.append(float(np.float32(rng.random())))
    support = SupportSet.build(entries, 3, limits)
    while entries:
        place = int(rng.integers(len(entries)))
        support = support.without(entries.pop(place).uid)
        del limits[place]
        require_same(support, SupportSet.build(entries, 3, limits))


@pytest.mark.parametrize("head", [HEAD, SigmoidDistanceHead(1, 0, "weighted_l1", np.ones(5, np.float32))])
def test_ranks_stand_in_the_order_of_distances(head: SigmoidDistanceHead) -> None:
    rng = np.random.default_rng(1)
    views = rng.normal(size=(40, 5)).astype(np.float32)
    support = SupportSet.of({"all": views}, 5)
    for query in rng.normal(size=(20, 5)).astype(np.float32):
        distances = head.distances(query[np.newaxis], views)[0]
        np.testing.assert_array_equal(np.argsort(support.ranks(head, query)), np.argsort(distances))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([entry("u1", " ", 1, EAST)], "an object needs a name that is not empty"),
        ([MUG, KEY, entry("u1", "cup", 1, EAST)], "two objects have one uid: u1"),
        (
            [SupportEntry("u1", "mug", (1, 2), EAST[np.newaxis], NONE)],
            '"mug" has 1 views and 2 ids of views',
        ),
        (
            [SupportEntry("u1", "mug", (1,), np.ones((1, 3), np.float32), NONE)],
            r'"mug": the embeddings must have shape \(any, 2\), not \(1, 3\)',
        ),
        (
            [SupportEntry("u1", "mug", (1,), EAST[np.newaxis], EAST)],
            r'"mug": the embeddings must have shape \(any, 2\), not \(2,\)',
        ),
        (
            [SupportEntry("u1", "mug", (1,), np.ones((1, 2)), NONE)],  # type: ignore[arg-type]
            '"mug": the embeddings must be float32, not float64',
        ),
        (
            [MUG, entry("u2", "key", 1, NORTH, negatives=np.array([[np.inf, 0]], np.float32))],
            '"key": the embedding has numbers that are not finite',
        ),
    ],
)
def test_entries_that_cannot_be_taken(wrong: list[SupportEntry], message: str) -> None:
    with pytest.raises(SupportError, match=f"^{message}$"):
        SupportSet.build(wrong, 2)


@pytest.mark.parametrize("limits", [[1.0], [1.0, np.nan], [[1.0, 2.0]]])
def test_each_object_has_one_limit(limits: list[float]) -> None:
    with pytest.raises(SupportError, match=r"^one limit for each of 2 objects is needed, not "):
        SupportSet.build([MUG, KEY], 2, limits)
