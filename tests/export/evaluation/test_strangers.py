"""Identification among strangers, on embeddings whose result is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.recognition.decision import Acceptance
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Preprocessing
from export.data.images import ImageSet
from export.evaluation.strangers import OTHER_CLASSES, measure_strangers, read_pictures

HEAD = SigmoidDistanceHead(scale=10.0, bias=5.0)
CLASSES, EACH = 8, 6


@pytest.fixture
def images() -> ImageSet:
    """Eight classes of six pictures, whose content does not matter."""
    labels = np.repeat(np.arange(CLASSES), EACH)
    return ImageSet(
        images=np.zeros((len(labels), 4, 4, 1), np.uint8),
        labels=labels,
        drawers=np.zeros(len(labels), np.int64),
        class_names=tuple(f"class {number}" for number in range(CLASSES)),
        class_groups=np.zeros(CLASSES, np.int64),
        group_names=("all",),
        name="eight classes",
    )


def points(images: ImageSet, spread: float) -> np.ndarray:
    """Each class on an axis of its own, at distance 1.41 from the others; its pictures `spread` apart at most."""
    result = np.zeros((len(images.labels), CLASSES + 1), np.float32)
    result[np.arange(len(result)), images.labels] = 1.0
    result[:, -1] = np.tile(np.linspace(0, spread, EACH), CLASSES)
    return result


def test_well_separated_classes_are_identified_and_strangers_pass_at_the_rate(images: ImageSet) -> None:
    rng = np.random.default_rng(1)
    far = rng.normal(size=(2, 1000, CLASSES + 1)).astype(np.float32)
    embeddings = points(images, 0.1)
    rules = [Acceptance(0.9, "", rate, far[0]) for rate in (0.1, 0.01)]
    found = measure_strangers(
        embeddings, embeddings, images, HEAD, rules, far[1], strangers_are="noise", episodes=20
    )
    assert (found.strangers_are, found.strangers, found.impostors, found.classes) == (
        "noise",
        1000,
        1000,
        8,
    )
    assert [(row.registered, row.pictures, row.false_accept_rate) for row in found.results] == [
        (objects, pictures, rate) for objects in (1, 5) for pictures in (1, 3) for rate in (0.1, 0.01)
    ]
    assert found.skipped == (
        "20 objects from 1 pictures each: 8 classes have more",
        "20 objects from 3 pictures each: 8 classes have more",
    )
    for row in found.results:
        assert (row.identified.value, row.confused.value) == (1.0, 0.0)
        assert row.strangers.value == pytest.approx(row.false_accept_rate, rel=0.4)
        assert row.strangers.low <= row.strangers.value <= row.strangers.high


def test_without_strangers_the_other_classes_are_shown(images: ImageSet) -> None:
    embeddings = points(images, 0.1)
    rule = Acceptance(HEAD.probability(1.0).item())
    found = measure_strangers(embeddings, embeddings, images, HEAD, [rule], episodes=5)
    assert (found.strangers_are, found.strangers, found.impostors) == (OTHER_CLASSES, 48, 0)
    assert [row.strangers.value for row in found.results] == [0.0] * 4
    loose = Acceptance(HEAD.probability(1.6).item())
    found = measure_strangers(embeddings, embeddings, images, HEAD, [loose], episodes=5)
    assert [row.strangers.value for row in found.results] == [1.0] * 4


def test_pictures_of_another_object_are_counted_apart(images: ImageSet) -> None:
    """Supports of class 0 and 1 are exchanged: all their pictures are recognized as the other one."""
    queries = points(images, 0.0)
    supports = queries.copy()
    supports[images.labels == 0], supports[images.labels == 1] = queries[EACH], queries[0]
    rule = Acceptance(HEAD.probability(1.0).item())
    found = measure_strangers(queries, supports, images.select([0, 1]), HEAD, [rule], episodes=5)
    assert [(row.identified.value, row.confused.value) for row in found.results] == [(0.0, 0.0)] * 2
    five = measure_strangers(queries, supports, images, HEAD, [rule], episodes=50).results[2]
    assert five.identified.value + five.confused.value <= 1.0
    assert 0.0 < five.confused.value < 0.5


class TestReadingPictures:
    TO = Preprocessing(8, 8, "rgb", "crop")

    def test_all_pictures_of_a_folder_in_order(self, tmp_path: Path) -> None:
        for name, value in (("b/1.png", 20), ("a.PNG", 10), ("c.jpg", 30)):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", (16, 16), (value,) * 3).save(tmp_path / name)
        (tmp_path / "notes.txt").write_text("not a picture")
        found = read_pictures(tmp_path, self.TO)
        assert (found.shape, found.dtype) == ((3, 8, 8, 3), np.uint8)
        assert found[:, 0, 0, 0].tolist() == [10, 20, 30]

    def test_what_is_wrong_with_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"^there is no folder .*missing$"):
            read_pictures(tmp_path / "missing", self.TO)
        with pytest.raises(DataError, match=r"has no pictures \(\.jpeg, \.jpg, \.png, \.webp\)$"):
            read_pictures(tmp_path, self.TO)
        (tmp_path / "broken.png").write_bytes(b"\x89PNG")
        with pytest.raises(DataError, match=r"broken\.png"):
            read_pictures(tmp_path, self.TO)
