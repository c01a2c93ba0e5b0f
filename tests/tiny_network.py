"""A network small enough to be written out: the reference for the model files of tests/models.

12 x 12 gray bytes -> [-1, 1] -> 6 filters 3x3, stride 2 -> ReLU -> 8 filters 5x5 -> 8 numbers
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_siamese.recognition.imaging import Preprocessing

PREPROCESSING = Preprocessing(12, 12)
DIMENSIONS = 8

Floats = npt.NDArray[np.float32]


def weights() -> tuple[Floats, Floats]:
    """Filters of shape (out, in, rows, columns); from raw bits, which numpy promises never to change."""
    bits = np.random.PCG64(7).random_raw(6 * 9 + 8 * 6 * 25)
    values = (bits >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - np.float32(1)
    return values[:54].reshape(6, 1, 3, 3) / np.float32(3), values[54:].reshape(8, 6, 5, 5) / np.float32(6)


def forward(images: npt.NDArray[np.uint8]) -> Floats:
    """uint8 (N, 12, 12, 1) to float32 (N, 8), not normalized."""
    first, second = weights()
    pixels = images[..., 0].astype(np.float32) / 127.5 - 1
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (3, 3), axis=(1, 2))[:, ::2, ::2]
    hidden = np.maximum(np.einsum("nrcij,oij->norc", windows, first[:, 0]), 0)
    return np.einsum("nirc,oirc->no", hidden, second).astype(np.float32)


def pictures(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """uint8 (count, 12, 12, 1): dark bars and blots on white, all different."""
    bits = np.random.PCG64(seed).random_raw(count * 8).reshape(count, 2, 4) >> np.uint64(40)
    images = np.full((count, 12, 12, 1), 255, dtype=np.uint8)
    for image, strokes in zip(images, bits.astype(np.int64), strict=True):
        for row, column, height, width in strokes:
            top, left = row % 8, column % 8
            image[top : top + 2 + height % 5, left : left + 2 + width % 5] = (row + column) % 120
    return images
