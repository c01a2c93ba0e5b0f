"""Makes the picture that is sent of what the camera sees: JPEG, or a small PNG where Pillow is not installed."""

from __future__ import annotations

import numpy as np

from edge_siamese.errors import PictureError
from edge_siamese.pictures import encode_jpeg
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.store.crops import encode_png

MAX_SIDE = 960
"""Pixels of its longer side."""
MAX_SIDE_OF_PNG = 320
"""The same of a PNG, which is ten times as large for as many pixels."""
QUALITY = 80


def encode_snapshot(pixels: Bytes) -> bytes:
    """A frame as it is sent: uint8 (h, w) or (h, w, 3) RGB."""
    try:
        return encode_jpeg(pixels, QUALITY, MAX_SIDE)
    except PictureError:  # no Pillow
        step = -(-max(pixels.shape[:2]) // MAX_SIDE_OF_PNG)
        return encode_png(np.ascontiguousarray(pixels[::step, ::step]))
