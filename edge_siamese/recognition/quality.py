"""Image quality of a frame for registration: light, contrast, sharpness and motion of the part that the encoder reads.

Quality is measured on a small gray picture, the grid. That is cheap and means the same for every camera. Blur that the grid
does not show does not matter to an encoder of this size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_siamese.recognition.imaging import Bytes, Floats, Preprocessing, center_crop, prepare

GRID = 128
"""The longer side of the grid, in cells."""
BLOCK = 16
"""The side of a block, in cells. Contrast and sharpness are measured in each block: light that falls off across the picture
is not contrast, and a small drawing on a large page counts as much as a large one."""
DARK, BRIGHT = 5, 250
"""Gray levels: a cell at most this dark, or at least this bright, is clipped."""
MIN_CONTRAST = 14.0
"""Gray levels: a picture with less contrast shows only noise."""

# Extreme cells of a block that are ignored. An edge or a stroke crosses more cells than that; noise affects fewer.
_IGNORED_CELLS = 8
_MAX_BINNING = 16
_MOTION_CELL, _REGION = 4, 32
# Gray levels: noise is not motion where there is almost no contrast.
_MOTION_NOISE = 2.0


@dataclass(frozen=True)
class Quality:
    """The quality of one frame, in the part that the encoder reads."""

    sharpness: float
    """Percent of an edge's contrast between two neighboring cells, for the strongest edges: 50 and more for sharp strokes,
    30 for a sharp photo, 10 and less for a blurred one; 0 without contrast."""
    brightness: float
    """The mean, 0 to 255."""
    clipped_dark: float
    """The fraction of black cells, 0 to 1."""
    clipped_bright: float
    """The fraction of white cells, 0 to 1; near 1 for an ordinary drawing on white paper."""
    contrast: float
    """The largest difference within a block, in gray levels, without its most extreme cells."""
    motion: float | None
    """The difference from the previous frame, in percent of the variation within the two: 0 for a still picture, up to 100
    for a different one. None without a previous frame."""


def make_grid(frame: npt.NDArray[Any], preprocessing: Preprocessing) -> Floats:
    """Reduce a frame to the small gray picture on which quality is measured.

    Args:
        frame: uint8 (h, w), (h, w, 1), (h, w, 3) RGB or (h, w, 4).
        preprocessing: the encoder's input, which determines the part of the frame.

    Returns:
        float32 (rows, columns) of whole numbers from 0 to 255; multiples of 32, the longer one `GRID`.

    Raises:
        ImageError: the frame is not an image.
    """
    longer = max(preprocessing.height, preprocessing.width)
    rows, columns = (
        max(_REGION, round(GRID * side / longer / _REGION) * _REGION)
        for side in (preprocessing.height, preprocessing.width)
    )
    part = _bin(center_crop(frame, preprocessing), rows, columns)
    grid = prepare(part, Preprocessing(rows, columns, "gray", "stretch"))
    return grid.reshape(rows, columns).astype(np.float32)


def is_blank(image: Bytes) -> bool:
    """Whether a prepared image, uint8 (H, W, C), has too little contrast to show anything, as in the dark."""
    return int(image.max()) - int(image.min()) < MIN_CONTRAST


def measure_quality(grid: Floats, previous: Floats | None = None) -> Quality:
    """Measure the quality of a frame.

    Args:
        grid: the frame's grid; see `make_grid`.
        previous: the grid of the previous frame, of the same shape.
    """
    contrast, sharpness = _contrast_and_sharpness(grid)
    return Quality(
        sharpness=sharpness,
        brightness=float(grid.mean()),
        clipped_dark=float((grid <= DARK).mean()),
        clipped_bright=float((grid >= BRIGHT).mean()),
        contrast=contrast,
        motion=None if previous is None else _motion(grid, previous),
    )


def _bin(image: Bytes, rows: int, columns: int) -> Bytes:
    """Means of k x k pixels, with the largest k that leaves at least (rows, columns): cheaper than resizing."""
    factor = min(image.shape[0] // rows, image.shape[1] // columns, _MAX_BINNING)
    if factor < 2:
        return image
    # At most 255 * 16 * 16 + 128: uint16 holds it.
    height, width = (side // factor * factor for side in image.shape[:2])
    tall = image[0:height:factor, :width].astype(np.uint16)
    for start in range(1, factor):
        tall += image[start:height:factor, :width]
    total = tall[:, ::factor] + np.uint16(factor * factor // 2)
    for start in range(1, factor):
        total += tall[:, start::factor]
    return np.asarray(total // np.uint16(factor * factor), dtype=np.uint8)


def _contrast_and_sharpness(grid: Floats) -> tuple[float, float]:
    # Each difference is averaged over two cells along the edge, which halves the noise.
    down, right = grid[1:] - grid[:-1], grid[:, 1:] - grid[:, :-1]
    slopes = np.zeros_like(grid)
    np.maximum(np.abs(down[:, 1:] + down[:, :-1]), np.abs(right[1:] + right[:-1]), out=slopes[:-1, :-1])
    values = np.sort(_blocks(grid), axis=1)
    ranges = values[:, -1 - _IGNORED_CELLS] - values[:, _IGNORED_CELLS]
    contrast = float(ranges.max())
    if contrast == 0.0:
        return 0.0, 0.0
    strongest = ranges >= contrast / 2
    steepest = np.sort(_blocks(slopes)[strongest], axis=1)[:, -_IGNORED_CELLS] / 2
    return contrast, min(100.0, 100.0 * float(np.median(steepest / ranges[strongest])))


def _blocks(grid: Floats) -> Floats:
    """(rows, columns) to (blocks, BLOCK * BLOCK)."""
    rows, columns = grid.shape
    split = grid.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(-1, BLOCK * BLOCK)


def _motion(grid: Floats, previous: Floats) -> float:
    """The mean difference of two coarse pictures without their regional means, which lamps and exposure change."""
    now, then = _coarse(grid), _coarse(previous)
    within = float(np.abs(now).mean() + np.abs(then).mean())
    return 100.0 * float(np.abs(now - then).mean()) / (within + _MOTION_NOISE)


def _coarse(grid: Floats) -> Floats:
    """(rows, columns) to (rows / 4, columns / 4), minus the mean of each region of 32 x 32 cells."""
    factor = _REGION // _MOTION_CELL
    cells = _means(grid, _MOTION_CELL)
    regions = _means(cells, factor)
    return np.asarray(cells - np.repeat(np.repeat(regions, factor, axis=0), factor, axis=1), dtype=np.float32)


def _means(grid: Floats, factor: int) -> Floats:
    """Means of factor x factor cells, by sums of slices, which are faster than sums along short axes."""
    tall = sum((grid[start::factor] for start in range(1, factor)), start=grid[::factor])
    wide = sum((tall[:, start::factor] for start in range(1, factor)), start=tall[:, ::factor])
    return np.asarray(wide / (factor * factor), dtype=np.float32)
