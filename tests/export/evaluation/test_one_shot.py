"""Scores of the classes of an episode: by the nearest shot, by a prototype."""

import numpy as np
import pytest

from edge_siamese.recognition.embedding import mean_embedding, unit_vectors
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet
from export.evaluation.one_shot import (
    episode_scores,
    prototypes,
    widest_one_shot,
)

HEAD = SigmoidDistanceHead(scale=1.0, bias=0.0)


def images(groups: list[int], each: int = 3) -> ImageSet:
    """One class a number in `groups`, with this many blank pictures each."""
    count = len(groups)
    return ImageSet(
        name="blanks",
        images=np.zeros((count * each, 1, 1, 1), np.uint8),
        labels=np.repeat(np.arange(count), each),
        class_names=tuple(map(str, range(count))),
        class_groups=np.array(groups),
        group_names=tuple(map(str, range(max(groups) + 1))),
        drawers=np.tile(np.arange(each), count),
    )


def test_the_widest_episodes_without_a_group_of_two_classes_are_of_all_classes() -> None:
    assert widest_one_shot(images([0, 1, 2])) == (3, False)


@pytest.mark.parametrize("units", [True, False])
def test_a_prototype_is_what_the_device_keeps_of_a_view(units: bool) -> None:
    shots = np.random.default_rng(0).normal(size=(4, 5, 8)).astype(np.float32)
    if units:
        shots = unit_vectors(shots.reshape(20, 8)).reshape(4, 5, 8)
    found = prototypes(shots)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [mean_embedding(one) for one in shots], atol=1e-7)
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0) == units


def test_a_class_is_scored_by_its_nearest_shot_or_by_its_prototype() -> None:
    query = np.array([[0.0, 0.0]], dtype=np.float32)
    # Class 0 has one shot that is near and one that is far; the mean of class 1 is where the query is.
    supports = np.array([[[0.5, 0.0], [9.5, 0.0]], [[-1.0, 0.0], [1.0, 0.0]]], dtype=np.float32)
    nearest, shots = episode_scores(HEAD, query, supports, "nearest")
    assert nearest.tolist() == [[-0.5, -1.0]] and shots.tolist() == [[[-0.5, -9.5], [-1.0, -1.0]]]
    prototype, shots = episode_scores(HEAD, query, supports, "prototype")
    assert prototype.tolist() == [[-5.0, 0.0]] and shots.tolist() == [[[-5.0], [0.0]]]
