"""The support embedding: the mean over pictures of one view and over small variations of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_siamese.recognition.imaging import Bytes, Floats, Frames, Preprocessing, prepare, reduced, seen_part

MAX_IMAGES = 45
"""Images that are encoded for one view, at most: bounds the time that a registration takes on a small board."""
MAX_ENCODED_AT_ONCE = 16
"""Bounds the memory that a runtime takes for them."""


class Encoder(Protocol):
    """Images to embeddings."""

    @property
    def runtime(self) -> str:
        """onnxruntime, tflite-runtime, ai-edge-litert, torch or fake."""

    @property
    def precision(self) -> str:
        """fp32 or int8."""

    @property
    def reason(self) -> str:
        """Why this runtime was chosen: one line for people."""

    @property
    def model_id(self) -> str:
        """Embeddings of equal ids may be compared."""

    @property
    def preprocessing(self) -> Preprocessing:
        """What the encoder reads."""

    @property
    def dimensions(self) -> int:
        """D, the length of an embedding."""

    def embed(self, images: Frames) -> Floats:
        """One frame or many, of any sizes (see `imaging.prepare_batch`), to float32 (N, D).

        The rows are unit vectors, except for encoders whose manifest says that they are not normalized.

        Raises:
            ImageError: something is not an image.
            EncoderError: the runtime failed.
        """

    def embed_prepared(self, images: Bytes) -> Floats:
        """Prepared images, uint8 (N, H, W, C), to float32 (N, D)."""


@dataclass(frozen=True)
class Variation:
    """How a picture is changed a little, as if the object had been held otherwise."""

    right: float = 0.0
    """Shift of the content, as a share of the width."""
    down: float = 0.0
    """Shift of the content, as a share of the height."""
    zoom: float = 1.0
    """How many times larger the content becomes."""
    turn: float = 0.0
    """Degrees clockwise."""
    contrast: float = 1.0
    """Factor of the distance from the picture's mean."""
    brightness: float = 1.0
    """Factor of all values, after the contrast."""


VARIATIONS = (
    Variation(turn=15),
    Variation(turn=-15),
    Variation(zoom=0.84),
    Variation(zoom=1.16),
)
"""Besides the picture itself, the most useful first. Chosen on drawings that no network was trained on: they raise the
accuracy, whereas changes of contrast and brightness lower it."""


def images_of(frame: npt.NDArray[Any], to: Preprocessing, variations: Sequence[Variation]) -> Bytes:
    """A frame as the encoder reads it, and variations of it.

    The first is exactly what recognition would read. The others are sampled of a picture of twice the encoder's
    resolution, with repeated margins, so that each image costs little and is blurred no more than the first.

    Returns:
        uint8 (1 + variations, to.height, to.width, to.channels).

    Raises:
        ImageError: the frame is not an image.
    """
    images = np.empty((1 + len(variations), *to.shape), dtype=np.uint8)
    images[0] = prepare(frame, to)
    if variations:
        fine = _fine(frame, to)
        for index, variation in enumerate(variations, 1):
            images[index] = _varied(fine, to, variation)
    return images


def variations_for(frames: int) -> tuple[Variation, ...]:
    """As many variations of each of so many frames as `MAX_IMAGES` leaves room for."""
    return VARIATIONS[: max(0, MAX_IMAGES // max(1, frames) - 1)]


def encode(images: Bytes, encoder: Encoder) -> Floats:
    """Prepared images, uint8 (N, H, W, C), to float32 (N, D), a few at a time; raises `EncoderError`."""
    starts = range(0, len(images), MAX_ENCODED_AT_ONCE)
    parts = [encoder.embed_prepared(images[start : start + MAX_ENCODED_AT_ONCE]) for start in starts]
    return np.concatenate(parts)


def unit_vectors(embeddings: Floats) -> Floats:
    """Each row divided by its Euclidean norm; a row of zeros stays one."""
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(norms == 0, 1, norms), dtype=np.float32)


def mean_embedding(embeddings: Floats) -> Floats:
    """(N, D) to (D,): the mean, of unit length if the embeddings are unit vectors."""
    mean = embeddings.mean(axis=0, keepdims=True, dtype=np.float64).astype(np.float32)
    are_units = np.allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-3)
    return (unit_vectors(mean) if are_units else mean)[0]


def embed_crops(crops: Sequence[Bytes], encoder: Encoder) -> Floats:
    """The support embedding of the pictures that a view kept: for embedding it anew with another model.

    Args:
        crops: one or more, uint8 (h, w) or (h, w, 3), of any sizes.

    Returns:
        float32 (D,).

    Raises:
        ImageError: something is not an image.
        EncoderError: the runtime failed.
        ValueError: there is no picture.
    """
    if not crops:
        raise ValueError("a view without pictures cannot be embedded")
    return mean_embedding(np.concatenate([embed_crop(crop, len(crops), encoder) for crop in crops]))


def embed_crop(crop: Bytes, of: int, encoder: Encoder) -> Floats:
    """The part of one of `of` pictures in `embed_crops`: float32 (N, D), for `mean_embedding` of all of them.

    So that one picture at a time is in memory, and something else can be done in between.
    """
    return encode(images_of(crop, encoder.preprocessing, variations_for(of)), encoder)


def crop_of(frame: npt.NDArray[Any], to: Preprocessing, side: int) -> Bytes:
    """What the encoder sees of a frame, as a picture to keep.

    Returns:
        uint8 (h, w) or (h, w, 3), the longer side at most `side`; a copy.
    """
    return reduced(seen_part(frame, to), side)


def _fine(frame: npt.NDArray[Any], to: Preprocessing) -> Floats:
    """(2H - 1, 2W - 1, C): the means of all 2x2 neighbors at twice the encoder's resolution.

    Each is what the encoder's own area average would give at a place, known at every half pixel.
    """
    double = prepare(frame, replace(to, height=2 * to.height, width=2 * to.width)).astype(np.float32)
    rows = double[1:] + double[:-1]
    return np.asarray((rows[:, 1:] + rows[:, :-1]) / 4)


def _varied(fine: Floats, to: Preprocessing, variation: Variation) -> Bytes:
    """One image, uint8 (H, W, C)."""
    angle = math.radians(variation.turn)
    cosine, sine = math.cos(angle) / variation.zoom, math.sin(angle) / variation.zoom
    # Where each pixel of the result comes from, about the center, in pixels of the encoder.
    down = np.arange(to.height)[:, None] - (to.height - 1) / 2 - variation.down * to.height
    right = np.arange(to.width)[None, :] - (to.width - 1) / 2 - variation.right * to.width
    y = 2 * (cosine * down - sine * right) + (fine.shape[0] - 1) / 2
    x = 2 * (sine * down + cosine * right) + (fine.shape[1] - 1) / 2
    sampled = _sampled(fine, np.clip(y, 0, fine.shape[0] - 1), np.clip(x, 0, fine.shape[1] - 1))
    if variation.contrast != 1.0 or variation.brightness != 1.0:
        mean = sampled.mean()
        sampled = (mean + (sampled - mean) * variation.contrast) * variation.brightness
    return np.asarray(np.clip(np.rint(sampled), 0, 255), dtype=np.uint8)


def _sampled(fine: Floats, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> Floats:
    """Bilinear interpolation at (H, W) places inside of (h, w, C)."""
    rows, columns, channels = fine.shape
    top = np.minimum(y.astype(np.intp), rows - 2)
    left = np.minimum(x.astype(np.intp), columns - 2)
    low, far = (y - top).astype(np.float32), (x - left).astype(np.float32)
    corner = top * columns + left
    sampled = np.empty((*y.shape, channels), dtype=np.float32)
    for channel in range(channels):
        # Gathering from a flat plane is several times as fast as from rows of channels.
        plane = np.ascontiguousarray(fine[..., channel]).reshape(-1)
        upper, lower = (
            plane.take(start) * (1 - far) + plane.take(start + 1) * far
            for start in (corner, corner + columns)
        )
        sampled[..., channel] = upper * (1 - low) + lower * low
    return sampled
