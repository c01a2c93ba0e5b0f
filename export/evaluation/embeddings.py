"""Embeddings of prepared images: in one pass, or averaged over variations as the device does at registration."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.recognition.embedding import Encoder, mean_embedding, prepare_variations, variations_for
from export.evaluation.remote_runtime import RemoteEncoder

Embeddings = npt.NDArray[np.float32]
Supports = Literal["plain", "augmented"]
"""How a support is embedded. `plain`: in one pass, like a query. `augmented`: the mean over the picture and its variations,
as the device does at registration."""

SUPPORTS: tuple[Supports, ...] = ("plain", "augmented")
_PICTURES_AT_ONCE = 64


def embed_all(encoder: Encoder, images: npt.NDArray[np.uint8], block: int = 1024) -> Embeddings:
    """Embed prepared images, uint8 (N, H, W, C), to float32 (N, D)."""
    if isinstance(encoder, RemoteEncoder):
        block = max(1, len(images))  # each call starts an interpreter
    parts = [encoder.embed(images[start : start + block]) for start in range(0, len(images), block)]
    return np.concatenate(parts) if parts else np.empty((0, encoder.dimensions), dtype=np.float32)


def embed_as(supports: Supports, encoder: Encoder, images: npt.NDArray[np.uint8]) -> Embeddings:
    """Embed images, uint8 (N, H, W, C), as supports: float32 (N, D)."""
    return embed_supports(encoder, images) if supports == "augmented" else embed_all(encoder, images)


def embed_supports(encoder: Encoder, images: npt.NDArray[np.uint8]) -> Embeddings:
    """Embed each frame as the device does at registration, with one frame per object.

    Args:
        encoder: the device's encoder, or another one with the same interface.
        images: uint8 (N, H, W, C), the camera frames, of at least twice the encoder's size; variations of smaller ones would
            be blurrier than on a device.

    Returns:
        float32 (N, D): the mean over each image and its variations, see `edge_siamese.recognition.embedding`.
    """
    variations = variations_for(1)
    each = 1 + len(variations)
    result = np.empty((len(images), encoder.dimensions), dtype=np.float32)
    block = len(images) if isinstance(encoder, RemoteEncoder) else _PICTURES_AT_ONCE
    for start in range(0, len(images), max(1, block)):
        frames = images[start : start + block]
        varied = np.concatenate(
            [prepare_variations(frame, encoder.preprocessing, variations) for frame in frames]
        )
        embedded = embed_all(encoder, varied).reshape(len(frames), each, -1)
        result[start : start + len(frames)] = [mean_embedding(one) for one in embedded]
    return result
