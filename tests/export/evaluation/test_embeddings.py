"""Supports are embedded as the device does at registration, one frame per object."""

from __future__ import annotations

import numpy as np

from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.embedding import VARIATIONS, embed_view, prepare_variations
from export.evaluation.embeddings import embed_all, embed_supports
from export.evaluation.remote_runtime import open_encoder


def test_a_support_is_what_the_device_would_register(bundle: Bundle) -> None:
    encoder = open_encoder(bundle, "onnxruntime", "int8", threads=1)
    images = np.random.default_rng(0).integers(0, 256, (70, *encoder.preprocessing.shape), dtype=np.uint8)
    found = embed_supports(encoder, images)
    assert found.dtype == np.float32 and found.shape == (70, encoder.dimensions)
    for place in (0, 63, 64, 69):
        np.testing.assert_allclose(found[place], embed_view([images[place]], encoder), atol=1e-6)
    assert np.abs(found - embed_all(encoder, images)).max() > 0.01


def test_a_prepared_picture_is_a_frame_that_recognition_reads_unchanged(bundle: Bundle) -> None:
    to = bundle.manifest.input
    image = np.random.default_rng(1).integers(0, 256, to.shape, dtype=np.uint8)
    views = prepare_variations(image, to, VARIATIONS)
    assert len(views) == 5 and (views[0] == image).all()
    assert all((view != image).any() for view in views[1:])


def test_nothing_becomes_nothing(bundle: Bundle) -> None:
    encoder = open_encoder(bundle, "onnxruntime", "int8", threads=1)
    nothing = np.empty((0, *encoder.preprocessing.shape), dtype=np.uint8)
    assert embed_supports(encoder, nothing).shape == (0, encoder.dimensions)
