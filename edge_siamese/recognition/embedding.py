"""Embeddings: the encoder protocol, and the support embedding of a view.

The support embedding is the mean of the embeddings of all pictures of a view and of small variations of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from msgspec import structs

from edge_siamese.recognition.imaging import (
    Bytes,
    Floats,
    Frames,
    Preprocessing,
    center_crop,
    downscale,
    prepare,
)

MAX_IMAGES_PER_VIEW = 45
"""Images encoded for one view: bounds the time of a registration on a small board."""
MIN_COMPONENT, MAX_COMPONENT = 1e-6, 1e6
"""Bounds of the largest component of a usable embedding."""
UNIT_TOLERANCE = 1e-2
"""Tolerance of the norm of a unit vector: int8 encoders and float16 storage round."""
MAX_BATCH_SIZE = 16
"""Images encoded at a time: bounds the memory of the runtime."""


class Encoder(Protocol):
    """Computes embeddings of images."""

    @property
    def runtime(self) -> str:
        """onnxruntime, tflite-runtime, ai-edge-litert, torch or fake."""

    @property
    def precision(self) -> str:
        """fp32 or int8."""

    @property
    def reason(self) -> str:
        """Why this runtime was selected, in one line."""

    @property
    def model_id(self) -> str:
        """Identifies the model: only embeddings with equal ids can be compared."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Size, color and crop of the images that the encoder reads."""

    @property
    def dimensions(self) -> int:
        """D, the length of an embedding."""

    @property
    def unit_length(self) -> bool:
        """Whether embeddings are unit vectors: the manifest states the normalization `l2`."""

    def embed(self, images: Frames) -> Floats:
        """Compute the embeddings of frames.

        Args:
            images: one frame or several, of any sizes; see `imaging.prepare_batch`.

        Returns:
            float32 (N, D). The rows are unit vectors, except for encoders whose manifest states no normalization.

        Raises:
            ImageError: something is not an image.
            EncoderError: the runtime failed.
        """

    def embed_prepared(self, images: Bytes) -> Floats:
        """Compute the embeddings, float32 (N, D), of prepared images, uint8 (N, H, W, C)."""


@dataclass(frozen=True)
class Variation:
    """A small change of a picture, as if the object had been held differently."""

    right: float = 0.0
    """Shift of the content, as a fraction of the width."""
    down: float = 0.0
    """Shift of the content, as a fraction of the height."""
    zoom: float = 1.0
    """Scale of the content."""
    rotation: float = 0.0
    """Degrees, clockwise."""
    contrast: float = 1.0
    """Factor on the difference from the picture's mean."""
    brightness: float = 1.0
    """Factor on all values, after the contrast."""


VARIATIONS = (
    Variation(rotation=15),
    Variation(rotation=-15),
    Variation(zoom=0.84),
    Variation(zoom=1.16),
)
"""The variations of the support embedding, the most useful first.

Chosen on drawings that no network was trained on. Changes of contrast and brightness lowered the accuracy."""


def prepare_variations(frame: npt.NDArray[Any], to: Preprocessing, variations: Sequence[Variation]) -> Bytes:
    """Prepare a frame and variations of it.

    The first image is exactly what recognition reads. The others are sampled from the frame at twice the encoder's
    resolution, with repeated margins: they are cheap, and no more blurred than the first.

    Returns:
        uint8 (1 + variations, to.height, to.width, to.channels).

    Raises:
        ImageError: the frame is not an image.
    """
    images = np.empty((1 + len(variations), *to.shape), dtype=np.uint8)
    images[0] = prepare(frame, to)
    if variations:
        fine = _double_resolution(frame, to)
        for index, variation in enumerate(variations, 1):
            images[index] = _apply_variation(fine, to, variation)
    return images


def usable_embeddings(rows: Floats, unit_length: bool = False) -> npt.NDArray[np.bool_]:
    """Return a mask of the embeddings that can be compared: finite, not zero, and short enough that no distance overflows.

    Args:
        rows: float32 (N, D), from any source: a file, another device, a runtime.
        unit_length: whether their model normalizes them (`l2` in its manifest), so that their norms must be 1.

    Returns:
        bool (N,).
    """
    # Infinity and NaN propagate; a sum of squares of large float32 numbers would overflow.
    largest = np.abs(rows).max(axis=1, initial=0.0)
    usable = np.asarray((largest >= MIN_COMPONENT) & (largest <= MAX_COMPONENT))
    if unit_length:
        norms = np.linalg.norm(rows[usable].astype(np.float64), axis=1)
        usable[usable] = np.abs(norms - 1.0) <= UNIT_TOLERANCE
    return usable


def variations_for(frames: int) -> tuple[Variation, ...]:
    """As many variations of each of `frames` frames as `MAX_IMAGES_PER_VIEW` allows."""
    return VARIATIONS[: max(0, MAX_IMAGES_PER_VIEW // max(1, frames) - 1)]


def encode_in_batches(images: Bytes, encoder: Encoder) -> Floats:
    """Embed prepared images, uint8 (N, H, W, C), in batches: float32 (N, D). Raises `EncoderError`."""
    starts = range(0, len(images), MAX_BATCH_SIZE)
    parts = [encoder.embed_prepared(images[start : start + MAX_BATCH_SIZE]) for start in starts]
    return np.concatenate(parts)


def unit_vectors(embeddings: Floats) -> Floats:
    """Each row divided by its Euclidean norm; a row of zeros stays one."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(norms == 0, 1, norms), dtype=np.float32)


def mean_embedding(embeddings: Floats) -> Floats:
    """The mean of embeddings (N, D), float32 (D,); of unit length if the embeddings are unit vectors."""
    mean = embeddings.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    are_units = np.allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-3)
    return (unit_vectors(mean) if are_units else mean)[0]


def embed_view(pictures: Sequence[npt.NDArray[Any]], encoder: Encoder) -> Floats:
    """Compute the support embedding of a view from its pictures.

    Args:
        pictures: one or more, uint8 (h, w) or (h, w, 1, 3 or 4), of any sizes.

    Returns:
        float32 (D,).

    Raises:
        ImageError: an array is not an image.
        EncoderError: the runtime failed.
        ValueError: there is no picture.
    """
    if not pictures:
        raise ValueError("a view without pictures cannot be embedded")
    variations = variations_for(len(pictures))
    parts = [
        encode_in_batches(prepare_variations(picture, encoder.preprocessing, variations), encoder)
        for picture in pictures
    ]
    return mean_embedding(np.concatenate(parts))


def make_crop(frame: npt.NDArray[Any], to: Preprocessing, side: int) -> Bytes:
    """The part of a frame that the encoder reads, reduced, for storage.

    Returns:
        uint8 (h, w) or (h, w, 3), the longer side at most `side`; a copy.
    """
    return downscale(center_crop(frame, to), side)


def _double_resolution(frame: npt.NDArray[Any], to: Preprocessing) -> Floats:
    """(2H - 1, 2W - 1, C): the means of all 2x2 neighbors at twice the encoder's resolution.

    These are the values of the encoder's own area average, at every half pixel.
    """
    double = prepare(frame, structs.replace(to, height=2 * to.height, width=2 * to.width)).astype(np.float32)
    rows = double[1:] + double[:-1]
    return np.asarray((rows[:, 1:] + rows[:, :-1]) / 4)


def _apply_variation(fine: Floats, to: Preprocessing, variation: Variation) -> Bytes:
    """One image, uint8 (H, W, C)."""
    angle = math.radians(variation.rotation)
    cosine, sine = math.cos(angle) / variation.zoom, math.sin(angle) / variation.zoom
    # The source of each pixel of the result, relative to the center, in pixels of the encoder.
    down = np.arange(to.height)[:, None] - (to.height - 1) / 2 - variation.down * to.height
    right = np.arange(to.width)[None, :] - (to.width - 1) / 2 - variation.right * to.width
    y = 2 * (cosine * down - sine * right) + (fine.shape[0] - 1) / 2
    x = 2 * (sine * down + cosine * right) + (fine.shape[1] - 1) / 2
    sampled = _bilinear(fine, np.clip(y, 0, fine.shape[0] - 1), np.clip(x, 0, fine.shape[1] - 1))
    if variation.contrast != 1.0 or variation.brightness != 1.0:
        mean = sampled.mean()
        sampled = (mean + (sampled - mean) * variation.contrast) * variation.brightness
    return np.asarray(np.clip(np.rint(sampled), 0, 255), dtype=np.uint8)


def _bilinear(fine: Floats, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> Floats:
    """Bilinear interpolation at (H, W) positions within (h, w, C)."""
    rows, columns, channels = fine.shape
    top = np.minimum(y.astype(np.intp), rows - 2)
    left = np.minimum(x.astype(np.intp), columns - 2)
    low, far = (y - top).astype(np.float32), (x - left).astype(np.float32)
    corner = top * columns + left
    sampled = np.empty((*y.shape, channels), dtype=np.float32)
    for channel in range(channels):
        # Gathering from a flat plane is several times faster than from interleaved channels.
        plane = np.ascontiguousarray(fine[..., channel]).reshape(-1)
        upper, lower = (
            plane.take(start) * (1 - far) + plane.take(start + 1) * far
            for start in (corner, corner + columns)
        )
        sampled[..., channel] = upper * (1 - low) + lower * low
    return sampled
