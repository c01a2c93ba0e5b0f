"""Results of each held-out class: accuracies, confusions with examples, and the map of embeddings."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.recognition.head import SigmoidDistanceHead
from export import records
from export.data.images import ImageSet
from export.evaluation.class_analysis import MAX_POINTS, ClassAnalysis, analyze_classes

HEAD = SigmoidDistanceHead(scale=1.0, bias=0.0)


def pictures(counts: list[int]) -> ImageSet:
    """Pictures whose shade is 10 times their class plus their number within it."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int64)
    numbers = np.concatenate([np.arange(count) for count in counts])
    images = np.broadcast_to((10 * labels + numbers)[:, None, None, None], (len(labels), 4, 4, 1))
    return ImageSet(
        "shades", images.astype(np.uint8), labels, tuple(f"class {c}" for c in range(len(counts))),
        np.zeros(len(counts), np.int64), ("shades",), np.full(len(labels), -1, np.int64),
    )  # fmt: skip


def directions(images: ImageSet, noise: float, seed: int = 0) -> np.ndarray:
    vectors = np.eye(16)[images.labels] + noise * np.random.default_rng(seed).normal(size=(len(images), 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def shade(uri: str) -> float:
    data = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    return float(np.asarray(Image.open(io.BytesIO(data)).convert("L")).mean())


def test_classes_that_are_apart_are_always_right() -> None:
    images = pictures([5, 6, 7])
    found = analyze_classes(directions(images, 0.05), images, HEAD, "int8 on onnxruntime")
    assert [(c.name, c.pictures, c.accuracy, c.high) for c in found.classes] == [
        ("class 0", 5, 1.0, 1.0), ("class 1", 6, 1.0, 1.0), ("class 2", 7, 1.0, 1.0),
    ]  # fmt: skip
    assert all(0.4 < c.low < 0.8 for c in found.classes)  # of five to seven pictures
    assert found.matrix == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    assert found.confusions == () and found.taken_for(0) is None
    assert (found.accuracy, found.chance, found.model) == (1.0, 1 / 3, "int8 on onnxruntime")
    assert found.decisions == 200 * (18 - 3)


def test_a_class_that_looks_like_another_is_named_with_the_pictures_of_the_mistake() -> None:
    """The last picture of class 1 is in the place of class 0, so queries of it are wrong, and it misleads as a support."""
    images = pictures([6, 6, 6])
    embeddings = directions(images, 0.02)
    embeddings[11] = embeddings[0]
    found = analyze_classes(embeddings, images, HEAD)
    assert found.worst_first[0] == 1 and found.classes[1].accuracy < 0.9
    assert found.matrix[1][0] > 0.1 and found.matrix[1][2] < 0.1
    first = found.confusions[0]
    assert (first.truth, first.chosen) == (1, 0)
    assert first.share == pytest.approx(found.matrix[1][0], abs=1e-4)
    assert shade(first.query) == pytest.approx(15, abs=3)
    assert shade(first.chosen_picture) < 8 and 8 < shade(first.truth_picture) < 17
    name, share = found.taken_for(1) or ("", 0.0)
    assert (name, share) == ("class 0", found.matrix[1][0])
    assert [sum(row) for row in found.matrix] == pytest.approx([1.0, 1.0, 1.0], abs=1e-4)


def test_the_interval_of_a_class_covers_other_supports() -> None:
    """One support in four is useless, so the accuracy depends on the draw, although each query fares alike."""
    images = pictures([8, 8])
    embeddings = directions(images, 0.01)
    embeddings[[0, 1]] = directions(pictures([8, 8]), 0.01)[[8, 9]]
    found = analyze_classes(embeddings, images, HEAD)
    assert found.classes[0].high - found.classes[0].low > 0.4


def test_the_map_has_pictures_of_each_class_at_their_principal_components() -> None:
    images = pictures([400, 3])
    embeddings = np.zeros((403, 4), np.float32)
    embeddings[:, 0] = np.linspace(0, 1, 403)
    embeddings[:, 1] = 0.1 * np.sin(np.arange(403))
    found = analyze_classes(embeddings, images, HEAD)
    assert len(found.points) == MAX_POINTS // 2 + 3
    assert [p.label for p in found.points[-4:]] == [0, 1, 1, 1]
    assert found.explained[0] > 0.9 and sum(found.explained) == pytest.approx(1.0)
    x = np.array([p.x for p in found.points])
    assert abs(np.corrcoef(x[:150], np.arange(150))[0, 1]) > 0.999
    assert all(p.picture.startswith("data:image/webp;base64,") for p in found.points)


def test_an_encoder_that_makes_one_vector_of_everything_is_drawn_at_one_place() -> None:
    images = pictures([3, 3])
    found = analyze_classes(np.ones((6, 4), np.float32), images, HEAD)
    assert {(p.x, p.y) for p in found.points} == {(0.0, 0.0)} and found.explained == (0.0, 0.0)


def test_a_single_dimension_is_enough_for_a_map() -> None:
    images = pictures([3, 3])
    found = analyze_classes(images.labels[:, None].astype(np.float32), images, HEAD)
    assert {p.y for p in found.points} == {0.0}


def test_classes_of_one_picture_are_left_out_and_too_many_are_refused() -> None:
    images = pictures([1, 3, 3])
    assert [c.name for c in analyze_classes(directions(images, 0.1), images, HEAD).classes] == [
        "class 1",
        "class 2",
    ]
    with pytest.raises(DataError, match="shades has 1 classes of two pictures; an analysis needs 2 to 100"):
        analyze_classes(directions(pictures([1, 3]), 0.1), pictures([1, 3]), HEAD)


def test_it_is_the_same_each_time_and_survives_its_file(tmp_path: Path) -> None:
    images = pictures([4, 4, 4])
    found = analyze_classes(directions(images, 0.5), images, HEAD)
    assert found == analyze_classes(directions(images, 0.5), images, HEAD)
    records.write(tmp_path / "classes.json", found)
    assert records.read(ClassAnalysis, tmp_path / "classes.json") == found
