"""One-shot accuracy from embeddings: the nearest support wins, and a tie is not a win."""

import numpy as np
import pytest

from edge_siamese.errors import DataError
from edge_siamese.recognition.head import SigmoidDistanceHead
from export.data.images import ImageSet
from export.training.validation import default_ways, one_shot_accuracy, one_shot_trials

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


def test_classes_that_are_apart_are_told_apart() -> None:
    found = images([0, 0, 0, 1, 1])
    embeddings = np.eye(5, dtype=np.float32)[found.labels]
    assert one_shot_accuracy(embeddings, found, HEAD, 200, seed=0) == 1.0


def test_one_vector_for_all_images_recognizes_nothing() -> None:
    found = images([0, 0, 0, 1, 1])
    assert one_shot_accuracy(np.ones((15, 4), np.float32), found, HEAD, 200, seed=0) == 0.0


def test_noise_is_right_by_chance() -> None:
    found = images([0] * 5, each=20)
    noise = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    assert one_shot_accuracy(noise, found, HEAD, 4000, seed=0) == pytest.approx(0.2, abs=0.03)


def test_trials_of_equal_seeds_are_the_same() -> None:
    found = images([0, 0, 0, 1, 1])
    apart = one_shot_trials(np.eye(5, dtype=np.float32)[found.labels], found, HEAD, 200, seed=0)
    equal = one_shot_trials(np.ones((15, 4), np.float32), found, HEAD, 200, seed=0)
    assert apart.right.all() and not equal.right.any()
    np.testing.assert_array_equal(apart.classes, equal.classes)
    assert set(apart.classes) == set(range(5))
    assert (apart.ways, apart.chance, apart.accuracy) == (2, 0.5, 1.0)


def test_ways_are_those_of_the_smallest_group_that_can_be_told_apart() -> None:
    assert default_ways(images([0, 0, 0, 1, 1, 2])) == 2
    assert default_ways(images([0] * 30)) == 20
    with pytest.raises(DataError, match="no group of at least two classes"):
        default_ways(images([0, 1, 2]))
