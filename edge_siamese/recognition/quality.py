"""Measures whether a frame is fit to learn from: light, contrast, sharpness and motion, of what the encoder sees.

All of it is measured on a small gray picture, the grid, so that it is cheap and means the same for any camera: blur
that the grid does not show, no encoder of this size sees either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_siamese.recognition.imaging import Bytes, Floats, Preprocessing, prepare, seen_part

GRID = 128
"""The longer side of the grid, in cells."""
BLOCK = 16
"""The side of a block, in cells. Contrast and sharpness are looked for in each block: light that falls off across the
picture does not count as contrast, and a small drawing on a large page counts as much as a large one."""
DARK, BRIGHT = 5, 250
"""Values up to and from which a cell counts as clipped."""

# An edge or a stroke crosses a block in more cells than these, and noise drives fewer to its extremes.
_SPARED = 8
_MAX_BINNED = 16
_MOTION_CELL, _REGION = 4, 32
# Gray levels: keeps noise from being motion where there is next to no contrast.
_STILL = 2.0


@dataclass(frozen=True)
class Quality:
    """Of one frame, in the part that the encoder sees."""

    sharpness: float
    """Percent of an edge's contrast that lies between two neighboring cells, for the picture's strongest edges: 50 and
    more for sharp strokes, 30 for a sharp photo, 10 and less for a blurred one; 0 without contrast."""
    brightness: float
    """The mean, 0 to 255."""
    clipped_dark: float
    """The share of cells that are black, 0 to 1."""
    clipped_bright: float
    """The share of cells that are white, 0 to 1: near 1 for an ordinary drawing on white paper."""
    contrast: float
    """The largest difference within a block, in gray levels, without its few most extreme cells."""
    motion: float | None
    """The difference from the frame before, in percent of what differs within the two pictures: 0 for a still picture,
    towards 100 for another one. None: there was no frame before."""


def grid_of(frame: npt.NDArray[Any], seen: Preprocessing) -> Floats:
    """The small gray picture on which quality is measured.

    Args:
        frame: uint8 (h, w), (h, w, 1), (h, w, 3) RGB or (h, w, 4).
        seen: the encoder's input, which says which part of the frame counts.

    Returns:
        float32 (rows, columns) of whole numbers from 0 to 255; multiples of 32, the longer one `GRID`.

    Raises:
        ImageError: the frame is not an image.
    """
    longer = max(seen.height, seen.width)
    rows, columns = (
        max(_REGION, round(GRID * side / longer / _REGION) * _REGION) for side in (seen.height, seen.width)
    )
    part = _binned(seen_part(frame, seen), rows, columns)
    grid = prepare(part, Preprocessing(rows, columns, "gray", "stretch"))
    return grid.reshape(rows, columns).astype(np.float32)


def measure(grid: Floats, before: Floats | None = None) -> Quality:
    """The quality of a frame.

    Args:
        grid: the frame's (`grid_of`).
        before: the grid of the frame before, of the same shape.
    """
    contrast, sharpness = _detail(grid)
    return Quality(
        sharpness=sharpness,
        brightness=float(grid.mean()),
        clipped_dark=float((grid <= DARK).mean()),
        clipped_bright=float((grid >= BRIGHT).mean()),
        contrast=contrast,
        motion=None if before is None else _motion(grid, before),
    )


def _binned(image: Bytes, rows: int, columns: int) -> Bytes:
    """Means of k x k pixels, k as large as leaves (rows, columns) or more: cheaper than resizing large frames."""
    factor = min(image.shape[0] // rows, image.shape[1] // columns, _MAX_BINNED)
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


def _detail(grid: Floats) -> tuple[float, float]:
    """Contrast and sharpness."""
    # Means over two cells across the direction of a difference halve what noise adds to it.
    down, right = grid[1:] - grid[:-1], grid[:, 1:] - grid[:, :-1]
    steep = np.zeros_like(grid)
    np.maximum(np.abs(down[:, 1:] + down[:, :-1]), np.abs(right[1:] + right[:-1]), out=steep[:-1, :-1])
    values = np.sort(_blocks(grid), axis=1)
    ranges = values[:, -1 - _SPARED] - values[:, _SPARED]
    contrast = float(ranges.max())
    if contrast == 0.0:
        return 0.0, 0.0
    strongest = ranges >= contrast / 2
    slopes = np.sort(_blocks(steep)[strongest], axis=1)[:, -_SPARED] / 2
    return contrast, min(100.0, 100.0 * float(np.median(slopes / ranges[strongest])))


def _blocks(grid: Floats) -> Floats:
    """(rows, columns) to (blocks, BLOCK * BLOCK)."""
    rows, columns = grid.shape
    split = grid.reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
    return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(-1, BLOCK * BLOCK)


def _motion(grid: Floats, before: Floats) -> float:
    """The mean difference of two coarse pictures, whose regions have lost their means: lamps and exposure change these."""
    now, then = _coarse(grid), _coarse(before)
    within = float(np.abs(now).mean() + np.abs(then).mean())
    return 100.0 * float(np.abs(now - then).mean()) / (within + _STILL)


def _coarse(grid: Floats) -> Floats:
    """(rows, columns) to (rows / 4, columns / 4), less the mean of each region of 32 x 32 cells."""
    factor = _REGION // _MOTION_CELL
    cells = _means(grid, _MOTION_CELL)
    regions = _means(cells, factor)
    return np.asarray(cells - np.repeat(np.repeat(regions, factor, axis=0), factor, axis=1), dtype=np.float32)


def _means(grid: Floats, factor: int) -> Floats:
    """Of factor x factor cells; by sums of slices, which are faster than sums along short axes."""
    tall = sum((grid[start::factor] for start in range(1, factor)), start=grid[::factor])
    wide = sum((tall[:, start::factor] for start in range(1, factor)), start=tall[:, ::factor])
    return np.asarray(wide / (factor * factor), dtype=np.float32)
