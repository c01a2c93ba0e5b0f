"""Preprocessing: turns camera frames and pictures into the bytes that an encoder reads.

Training, calibration, evaluation and the device all call `prepare`, so the network gets the same pixels everywhere. Scaling
to the network's range is part of the exported graph; here, bytes go in and bytes come out.

The resize is an area average (downscaling) or a linear interpolation (upscaling), applied to rows and to columns as a
matrix product. The weights are integers that sum to 256 for each output pixel, so after rows and columns every
partial sum is an integer of at most 255 * 256 * 256 < 2**24, which float32 holds exactly: any BLAS, in any order of
summation, on any processor, returns the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from edge_siamese.errors import ImageError
from edge_siamese.validation import Record

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Frames = npt.NDArray[Any] | Sequence[npt.NDArray[Any]]

WEIGHT_SUM = 256
# ITU-R BT.601 luma, in 256ths.
LUMA = np.array([77, 150, 29], dtype=np.uint16)

# Number of output rows, and of values in an output row, that are computed together. Each depends on few source pixels; a
# product with all of them would mostly multiply by zero.
_BAND_ROWS, _BAND_VALUES = 8, 16


class Preprocessing(Record):
    """The encoder's input: a uint8 image of shape (height, width, channels)."""

    height: Annotated[int, Meta(ge=1)]
    """Rows of the prepared image, in pixels."""
    width: Annotated[int, Meta(ge=1)]
    """Columns of the prepared image, in pixels."""
    color: Literal["gray", "rgb"] = "gray"
    """`gray`: one channel of BT.601 luma. `rgb`: three channels in that order."""
    fit: Literal["crop", "stretch"] = "crop"
    """`crop`: the largest centered part with the target's aspect ratio. `stretch`: the whole frame."""

    @property
    def channels(self) -> int:
        return 1 if self.color == "gray" else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of a prepared image."""
        return self.height, self.width, self.channels


@dataclass(frozen=True)
class Box:
    """A rectangular part of a frame, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, frame: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The part of a frame (h, w) or (h, w, c); a view, not a copy."""
        return frame[self.top : self.top + self.height, self.left : self.left + self.width]


def crop_box(height: int, width: int, to: Preprocessing) -> Box:
    """The part of a frame of this size that `prepare` reads: the largest centered one with the target's aspect ratio."""
    if to.fit == "stretch":
        return Box(0, 0, height, width)
    kept_height = min(height, max(1, width * to.height // to.width))
    kept_width = min(width, max(1, height * to.width // to.height))
    return Box((height - kept_height) // 2, (width - kept_width) // 2, kept_height, kept_width)


def prepare(frame: npt.NDArray[Any], to: Preprocessing) -> Bytes:
    """Crop, convert and resize one frame.

    Args:
        frame: uint8 or bool, of shape (h, w), (h, w, 1), (h, w, 3) RGB or (h, w, 4) RGB with an ignored fourth channel.
        to: the encoder's input.

    Returns:
        uint8 of shape `to.shape`; the same bytes on every machine.

    Raises:
        ImageError: the array is not such an image.
    """
    return _resize(_color(center_crop(frame, to), to.color), to)


def prepare_batch(frames: Frames, to: Preprocessing) -> Bytes:
    """Prepare one frame, a batch of equal frames, or a sequence of frames of any sizes.

    One frame has two dimensions, or three of which the last is 1, 3 or 4; an array of (n, h, w) or (n, h, w, c), or a
    list or tuple of frames, is a batch.

    Returns:
        uint8 of shape (n, to.height, to.width, to.channels).
    """
    if isinstance(frames, np.ndarray):
        if frames.ndim == 4 and frames.shape[1:] == to.shape and frames.dtype == np.uint8:
            return frames  # prepared already: preparing is the identity on such images
        if frames.ndim == 2 or (frames.ndim == 3 and frames.shape[2] in (1, 3, 4)):
            frames = [frames]
    prepared = np.empty((len(frames), *to.shape), dtype=np.uint8)
    for index, frame in enumerate(frames):
        prepared[index] = prepare(frame, to)
    return prepared


def center_crop(frame: npt.NDArray[Any], to: Preprocessing) -> Bytes:
    """The part of a frame that `prepare` reads, at its own size and colors; not a copy. Raises `ImageError`."""
    checked = _checked(frame)
    part: Bytes = crop_box(checked.shape[0], checked.shape[1], to).of(checked)
    return part


def downscale(pixels: npt.NDArray[Any], side: int) -> Bytes:
    """Reduce a picture by area averaging so that its longer side is at most `side` pixels; never enlarge it.

    Args:
        pixels: uint8 or bool, (h, w) or (h, w, 1, 3 or 4).

    Returns:
        uint8 (h, w) for gray and (h, w, 3) for color; its own memory.

    Raises:
        ImageError: the array is not an image.
    """
    color = pixels.ndim == 3 and pixels.shape[2] > 1
    height, width = pixels.shape[:2] if pixels.ndim > 1 else (1, 1)
    scale = min(1.0, side / max(height, width, 1))
    to = Preprocessing(
        height=max(1, round(height * scale)),
        width=max(1, round(width * scale)),
        color="rgb" if color else "gray",
        fit="stretch",
    )
    small = prepare(pixels, to)
    return np.array(small if color else small[..., 0])


def _checked(frame: npt.NDArray[Any]) -> Bytes:
    frame = np.asarray(frame)
    if frame.dtype == np.bool_:
        frame = frame.astype(np.uint8) * 255
    if frame.dtype != np.uint8:
        raise ImageError(f"an image must be uint8 with values 0 to 255, not {frame.dtype}")
    if frame.ndim not in (2, 3) or (frame.ndim == 3 and frame.shape[2] not in (1, 3, 4)):
        raise ImageError(
            f"an image has shape (height, width) or (height, width, 1, 3 or 4), not {frame.shape}"
        )
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise ImageError(f"an image of shape {frame.shape} has no pixels")
    return frame


def _color(frame: Bytes, color: str) -> Bytes:
    """(h, w[, 1|3|4]) to (h, w) for gray and to (h, w, 3) for rgb."""
    if frame.ndim == 3 and frame.shape[2] == 1:
        frame = frame[..., 0]
    if color == "rgb":
        return np.repeat(frame[..., np.newaxis], 3, axis=2) if frame.ndim == 2 else frame[..., :3]
    if frame.ndim == 2:
        return frame
    # Planes first: numpy is several times faster on adjacent bytes than on every third byte.
    planes = np.ascontiguousarray(frame[..., :3].transpose(2, 0, 1)).astype(np.uint16)
    planes *= LUMA[:, np.newaxis, np.newaxis]
    luma = planes[0]
    luma += planes[1]
    luma += planes[2]
    luma += np.uint16(128)
    luma >>= np.uint16(8)
    return luma.astype(np.uint8)


def _resize(image: Bytes, to: Preprocessing) -> Bytes:
    """(h, w) or (h, w, 3) to (to.height, to.width, channels)."""
    rows, columns = image.shape[:2]
    if (rows, columns) == (to.height, to.width):
        return np.ascontiguousarray(image.reshape(to.shape))
    # Down first, with all channels in one product: rows are adjacent in memory, channels are not.
    low = np.empty((to.height, columns * to.channels), dtype=np.float32)
    for targets, sources, weights in _bands(rows, to.height, _BAND_ROWS):
        band = image[sources].astype(np.float32)
        np.matmul(weights, band.reshape(len(band), -1), out=low[targets])
    # The channels stay interleaved. Weights between different channels are zero; multiplying by them is cheaper than
    # separating the channels.
    exact = np.empty((to.height, to.width * to.channels), dtype=np.float32)
    for targets, sources, weights in _column_bands(columns, to.width, to.channels):
        np.matmul(low[:, sources], weights, out=exact[:, targets])
    # Adding a half and truncating rounds to the nearest; 255 * 2**16 + 2**15 is still below 2**24.
    exact += np.float32(WEIGHT_SUM**2 / 2)
    exact *= np.float32(1 / WEIGHT_SUM**2)
    return exact.astype(np.uint8).reshape(to.shape)


@lru_cache(maxsize=4)
def _weights(source: int, target: int) -> npt.NDArray[np.float32]:
    """Integer-valued resize weights of shape (target, source), each row summing to `WEIGHT_SUM`."""
    return (_area_weights if source > target else _linear_weights)(source, target)


@lru_cache(maxsize=64)
def _bands(source: int, target: int, size: int) -> tuple[tuple[slice, slice, npt.NDArray[np.float32]], ...]:
    """The weights in bands of `size` target pixels: the band's targets, the sources they read, and their weights."""
    weights = _weights(source, target)
    bands = []
    for start in range(0, target, size):
        band = weights[start : start + size]
        read = np.flatnonzero(band.any(axis=0))
        sources = slice(int(read[0]), int(read[-1]) + 1)
        bands.append((slice(start, start + len(band)), sources, np.ascontiguousarray(band[:, sources])))
    return tuple(bands)


@lru_cache(maxsize=64)
def _column_bands(
    source: int, target: int, channels: int
) -> tuple[tuple[slice, slice, npt.NDArray[np.float32]], ...]:
    """Bands of a row with interleaved channels: their targets, sources, and weights of shape (sources, targets).

    Targets and sources count values, not pixels. Weights between different channels are zero.
    """
    bands = []
    for targets, sources, weights in _bands(source, target, _BAND_VALUES // channels):
        # Stored transposed: numpy is slower with a transposed view of a small matrix.
        interleaved = np.zeros((weights.shape[1] * channels, weights.shape[0] * channels), np.float32)
        for channel in range(channels):
            interleaved[channel::channels, channel::channels] = weights.T
        bands.append(
            (
                slice(targets.start * channels, targets.stop * channels),
                slice(sources.start * channels, sources.stop * channels),
                interleaved,
            )
        )
    return tuple(bands)


def _area_weights(source: int, target: int) -> npt.NDArray[np.float32]:
    """The share of each source pixel in the interval that a target pixel covers."""
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return _to_integers(np.clip(overlap, 0.0, None) * target / source)


def _linear_weights(source: int, target: int) -> npt.NDArray[np.float32]:
    """Linear interpolation between the two nearest source pixel centers."""
    centers = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    return _to_integers(np.clip(1.0 - np.abs(centers[:, None] - np.arange(source)), 0.0, None))


def _to_integers(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Round each row of shares (which sum to 1) to integers that sum to `WEIGHT_SUM`, by largest remainder."""
    # A coarse grid before the floor keeps representation noise of the divisions above from deciding a tie.
    exact = np.round(shares * WEIGHT_SUM, 6)
    whole = np.floor(exact)
    missing = (WEIGHT_SUM - whole.sum(axis=1)).astype(np.int64)
    order = np.argsort(-(exact - whole), axis=1, kind="stable")
    rank = np.argsort(order, axis=1, kind="stable")
    whole += rank < missing[:, None]
    weights = whole.astype(np.float32)
    weights.setflags(write=False)
    return weights
