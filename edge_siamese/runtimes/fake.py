"""Fake encoder: a fixed random projection, for tests and demos."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from edge_siamese.recognition.embedding import unit_vectors
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Bytes, Floats, Frames, Preprocessing, prepare_batch

FAKE_HEAD = SigmoidDistanceHead(scale=12.0, bias=7.0)
"""A head for the fake encoder: p = 0.999 at distance 0, 0.5 at 0.58."""


class FakeEncoder:
    """A fixed random projection of the pixels: equal pictures have equal embeddings, similar pictures similar ones.

    Unlike a trained encoder it depends on each pixel: an object that has moved is another object.
    """

    runtime = "fake"
    precision = "fp32"
    reason = "requested: a seeded projection, not a trained network"
    unit_length = True

    def __init__(
        self, preprocessing: Preprocessing | None = None, dimensions: int = 64, seed: int = 0
    ) -> None:
        self.preprocessing = preprocessing or Preprocessing(32, 32)
        self.dimensions = dimensions
        self.seed = seed
        self.model_id = f"fake-{'x'.join(map(str, self.preprocessing.shape))}-{dimensions}-{seed}"

    def embed(self, images: Frames) -> Floats:
        """See `Encoder.embed`; always unit vectors."""
        return self.embed_prepared(prepare_batch(images, self.preprocessing))

    def embed_prepared(self, images: Bytes) -> Floats:
        """See `Encoder.embed_prepared`."""
        pixels = images.reshape(len(images), -1).astype(np.float32)
        pixels -= pixels.mean(axis=1, keepdims=True)
        # The constant gives a direction to an image of one color, too.
        return unit_vectors(
            np.hstack([pixels, np.ones((len(images), 1), dtype=np.float32)]) @ self._projection
        )

    @cached_property
    def _projection(self) -> Floats:
        """Matrix (pixels + 1, D) of -1 and 1, from raw bits: numpy may change its normal numbers, but not these."""
        rows = int(np.prod(self.preprocessing.shape)) + 1
        bits = np.random.PCG64(self.seed).random_raw(rows * self.dimensions) >> np.uint64(63)
        return (bits.astype(np.float32) * 2 - 1).reshape(rows, self.dimensions)
