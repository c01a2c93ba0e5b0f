"""Pictures in requests: pixels as JSON values and back, bounded on both sides."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import ImageError

MAX_PIXEL_BYTES = 6_220_800
"""Of a picture in a request: 1920 x 1080 in color, which as base64 leaves room for the rest of the request."""
MAX_SIDE = 65_535


def encode_picture(pixels: npt.NDArray[Any], share: int = 1) -> dict[str, Any]:
    """A picture as JSON values; one that is too large for a request becomes smaller by a whole factor.

    Args:
        pixels: uint8 (h, w), (h, w, 1), or (h, w, 3 or 4) RGB with an ignored fourth channel.
        share: how many pictures one request brings.

    Raises:
        ImageError: the array is no such picture.
    """
    if pixels.ndim == 3 and pixels.shape[2] in (1, 4):
        pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3]
    if pixels.dtype != np.uint8:
        raise ImageError(f"a picture has to be uint8, not {pixels.dtype}")
    shape = _checked_shape(list(pixels.shape))
    factor = math.ceil(math.sqrt(math.prod(shape) * share / MAX_PIXEL_BYTES))
    if factor > 1:
        pixels = _smaller(pixels, min(factor, shape[0], shape[1]))
        _checked_size(pixels.shape)
    return {
        "shape": list(pixels.shape),
        "pixels": base64.b64encode(np.ascontiguousarray(pixels).tobytes()).decode("ascii"),
    }


def decode_picture(value: Any) -> npt.NDArray[np.uint8]:
    """JSON values of `encode_picture` to uint8 (h, w) or (h, w, 3).

    Raises:
        ImageError: they are no picture, or too large a one.
    """
    if not isinstance(value, dict) or set(value) != {"shape", "pixels"}:
        raise ImageError('a picture is an object with "shape" and "pixels"')
    shape = _checked_shape(value["shape"])
    _checked_size(shape)
    try:
        data = base64.b64decode(value["pixels"], validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ImageError("the pixels of a picture have to be base64") from None
    if len(data) != math.prod(shape):
        raise ImageError(f"a picture of shape {shape} has {math.prod(shape)} bytes, not {len(data)}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _checked_shape(shape: Any) -> tuple[int, ...]:
    if (
        not isinstance(shape, list)
        or len(shape) not in (2, 3)
        or not all(type(side) is int and 0 < side <= MAX_SIDE for side in shape)
        or (len(shape) == 3 and shape[2] != 3)
    ):
        raise ImageError(f"a picture has shape [height, width] or [height, width, 3], not {str(shape)[:60]}")
    return tuple(shape)


def _checked_size(shape: tuple[int, ...]) -> None:
    if math.prod(shape) > MAX_PIXEL_BYTES:
        raise ImageError(
            f"a picture of shape {shape} has {math.prod(shape)} bytes; {MAX_PIXEL_BYTES} can be sent"
        )


def _smaller(pixels: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Means of squares of `factor` pixels a side; what is left over right and below is cut off."""
    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    squares = pixels[: rows * factor, : columns * factor].reshape(
        rows, factor, columns, factor, *pixels.shape[2:]
    )
    sums = squares.astype(np.uint32).sum(axis=(1, 3), dtype=np.uint32)
    return ((sums + factor * factor // 2) // (factor * factor)).astype(np.uint8)
