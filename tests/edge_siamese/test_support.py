"""The support set: immutable, several views to an object, the nearest view counts."""

from __future__ import annotations

import numpy as np
import pytest

from edge_siamese.errors import SupportError
from edge_siamese.head import SigmoidDistanceHead
from edge_siamese.support import SupportSet

HEAD = SigmoidDistanceHead(scale=10.0, bias=5.0)
EAST, NORTH, WEST = np.array([1, 0], np.float32), np.array([0, 1], np.float32), np.array([-1, 0], np.float32)


def test_objects_are_kept_with_their_views() -> None:
    support = SupportSet.empty(2).with_view("mug", EAST).with_view("key", NORTH).with_view("mug", WEST)
    assert support.names == ("mug", "key")
    assert support.views == (2, 1)
    assert len(support) == 2
    assert "mug" in support
    assert "cup" not in support
    np.testing.assert_array_equal(support.embeddings, [EAST, WEST, NORTH])
    np.testing.assert_array_equal(support.views_of("mug"), [EAST, WEST])
    assert support.embeddings.dtype == np.float32


def test_a_change_gives_a_new_set() -> None:
    first = SupportSet.of({"mug": [EAST], "key": [NORTH]}, 2)
    second = first.with_view("mug", WEST)
    third = second.without("mug")
    assert (first.views, second.views, third.views) == ((1, 1), (2, 1), (1,))
    assert third.names == ("key",)
    np.testing.assert_array_equal(third.embeddings, [NORTH])
    with pytest.raises(ValueError, match="read-only"):
        second.embeddings[0] = 0
    given = EAST.copy()
    kept = SupportSet.empty(2).with_view("mug", given)
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
        SupportSet.empty(2).with_view(name, embedding)


def test_what_is_not_there() -> None:
    with pytest.raises(SupportError, match=r'^there is no object "cup"; registered: mug, key$'):
        SupportSet.of({"mug": [EAST], "key": [NORTH]}, 2).without("cup")
    with pytest.raises(SupportError, match=r'^there is no object "cup"; registered: none$'):
        SupportSet.empty(2).views_of("cup")
