"""Common behavior of graph encoders: preparation, unit length, and refusal of graphs that do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edge_siamese.errors import EncoderError, ImageError
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.manifest import EmbeddingInfo
from edge_siamese.recognition.embedding import unit_vectors
from edge_siamese.recognition.imaging import Bytes, Floats
from edge_siamese.runtimes.encoder import GraphEncoder, default_threads
from tests.tiny_network import pictures


class Sums:
    """A graph whose embedding is the sum of the pixels, times 1 to 8."""

    def __init__(
        self, input_shape: tuple[int, ...] = (12, 12, 1), dimensions: int = 8, factor: float = 1.0
    ) -> None:
        self.input_shape, self.dimensions, self.factor = input_shape, dimensions, factor
        self.seen: list[Bytes] = []

    def run(self, images: Bytes) -> Floats:
        self.seen.append(images)
        sums = images.sum(axis=(1, 2, 3), dtype=np.float32)[:, np.newaxis]
        return np.float32(self.factor) * sums * np.arange(1, 9, dtype=np.float32)


def encoder(bundle: Bundle, graph: Sums | None = None, **changes: Any) -> GraphEncoder:
    return GraphEncoder(
        graph or Sums(),
        structs.replace(bundle.manifest, **changes),
        Path("encoder.fp32.onnx"),
        runtime="sums",
        version="1.2",
        precision="fp32",
        threads=2,
        reason="for a test",
        import_seconds=None,
        load_seconds=0.0,
    )


def test_the_properties_of_an_encoder(bundle: Bundle) -> None:
    found = encoder(bundle)
    assert (found.runtime, found.version, found.precision, found.threads) == ("sums", "1.2", "fp32", 2)
    assert (found.model_id, found.dimensions, found.reason) == ("tiny-0123456789ab", 8, "for a test")
    assert found.preprocessing is bundle.manifest.input
    assert repr(found) == "<tiny-0123456789ab fp32 on sums 1.2, threads=2>"


def test_embeddings_are_unit_vectors(bundle: Bundle) -> None:
    direction = np.arange(1, 9) / np.sqrt(204)
    embeddings = encoder(bundle).embed_prepared(pictures(3))
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, np.tile(direction, (3, 1)), rtol=1e-6)


def test_embeddings_stay_as_they_are_where_the_manifest_says_so(bundle: Bundle) -> None:
    raw = encoder(bundle, embedding=EmbeddingInfo(8, "none")).embed_prepared(pictures(3))
    np.testing.assert_array_equal(raw[:, 0], pictures(3).sum(axis=(1, 2, 3)))


def test_frames_are_prepared_before_the_graph(bundle: Bundle) -> None:
    graph = Sums()
    found = encoder(bundle, graph)
    frame = np.full((30, 40, 3), 77, np.uint8)
    assert found.embed(frame).shape == (1, 8)
    assert found.embed([frame, frame[:20, :20, 0]]).shape == (2, 8)
    assert found.embed(np.full((4, 30, 40), 77, np.uint8)).shape == (4, 8)
    for images in graph.seen:
        assert images.shape[1:] == (12, 12, 1)
        assert (images == 77).all()


def test_no_images_give_no_embeddings(bundle: Bundle) -> None:
    embeddings = encoder(bundle).embed_prepared(np.empty((0, 12, 12, 1), np.uint8))
    assert embeddings.shape == (0, 8)
    assert embeddings.dtype == np.float32


@pytest.mark.parametrize(
    ("images", "shown"),
    [
        (np.zeros((1, 12, 12, 1), np.float32), "float32 (1, 12, 12, 1)"),
        (np.zeros((12, 12, 1), np.uint8), "uint8 (12, 12, 1)"),
        (np.zeros((1, 12, 13, 1), np.uint8), "uint8 (1, 12, 13, 1)"),
        (np.zeros((1, 12, 12, 3), np.uint8), "uint8 (1, 12, 12, 3)"),
    ],
)
def test_images_that_are_not_prepared(bundle: Bundle, images: np.ndarray, shown: str) -> None:
    with pytest.raises(ImageError) as caught:
        encoder(bundle).embed_prepared(images)
    assert str(caught.value) == f"prepared images are uint8 (n, 12, 12, 1), not {shown}"


@pytest.mark.parametrize("graph", [Sums(input_shape=(12, 12, 3)), Sums(dimensions=9)])
def test_a_file_that_is_not_what_the_manifest_says(bundle: Bundle, graph: Sums) -> None:
    with pytest.raises(EncoderError) as caught:
        encoder(bundle, graph)
    assert str(caught.value) == (
        f"encoder.fp32.onnx maps images of {graph.input_shape} to {graph.dimensions} numbers, "
        "but the manifest says (12, 12, 1) to 8; export the bundle again"
    )


def test_numbers_that_are_not_finite(bundle: Bundle) -> None:
    with pytest.raises(EncoderError, match=r"returned numbers that are not finite on sums 1\.2$"):
        encoder(bundle, Sums(factor=np.inf)).embed_prepared(pictures(1))


def test_a_vector_of_zeros_stays_one() -> None:
    found = unit_vectors(np.array([[0, 0], [3, 4]], np.float32))
    np.testing.assert_array_equal(found, np.array([[0, 0], [0.6, 0.8]], np.float32))


@pytest.mark.parametrize(
    ("machine", "logical", "threads"),
    [
        ("aarch64", 4, 4),
        ("aarch64", 8, 4),
        ("aarch64", 1, 1),
        ("x86_64", 4, 2),
        ("x86_64", 1, 1),
        ("AMD64", 32, 4),
    ],
)
def test_threads_follow_the_cores(
    monkeypatch: pytest.MonkeyPatch, machine: str, logical: int, threads: int
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(logical)))
    assert default_threads() == threads
