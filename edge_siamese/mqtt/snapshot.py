"""The JPEG snapshot of the camera that is published over MQTT."""

from __future__ import annotations

from edge_siamese.pictures import encode_jpeg
from edge_siamese.recognition.imaging import Bytes

MAX_SIDE = 960
"""Pixels of its longer side."""
QUALITY = 80


def encode_snapshot(pixels: Bytes) -> bytes:
    """Encode a frame, uint8 (h, w) or (h, w, 3) RGB, as JPEG."""
    return encode_jpeg(pixels, QUALITY, MAX_SIDE)
