"""The fake encoder: the same numbers everywhere, similar ones for similar pictures."""

from __future__ import annotations

import numpy as np
import pytest

from edge_siamese.recognition.embedding import Encoder
from edge_siamese.recognition.imaging import Preprocessing
from edge_siamese.runtimes.fake import FAKE_HEAD, FakeEncoder


def test_the_numbers_are_the_same_on_every_machine() -> None:
    ramp = np.arange(1024, dtype=np.uint32).reshape(32, 32).astype(np.uint8)
    encoder: Encoder = FakeEncoder()
    embedding = encoder.embed(ramp)
    assert embedding.shape == (1, encoder.dimensions) == (1, 64)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding[0, :4], [0.007986, -0.064245, -0.125761, -0.088760], atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-6)


def test_near_pictures_are_near_and_others_are_not() -> None:
    generator = np.random.default_rng(0)
    first, other = generator.integers(0, 256, (2, 32, 32), dtype=np.uint8)
    near = np.clip(first.astype(int) + generator.integers(-9, 10, first.shape), 0, 255).astype(np.uint8)
    a, b, c = FakeEncoder().embed([first, near, other])
    assert a @ b > 0.99
    assert abs(a @ c) < 0.5
    assert FAKE_HEAD.score(a[None], np.stack([b, c])).tolist() == [pytest.approx([0.99, 0.0], abs=0.03)]


def test_one_color_has_a_direction_too() -> None:
    embeddings = FakeEncoder().embed(np.full((2, 40, 40), 200, np.uint8))
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)


def test_other_settings_are_another_model() -> None:
    small = FakeEncoder(Preprocessing(8, 10, "rgb"), dimensions=5, seed=3)
    assert small.model_id == "fake-8x10x3-5-3"
    assert small.embed(np.zeros((20, 20, 3), np.uint8)).shape == (1, 5)
    assert (small.runtime, small.precision) == ("fake", "fp32")
