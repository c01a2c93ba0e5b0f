"""Draws pen lines, black on white, for many pictures at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

FINE = 3
"""Pens are stamped on a canvas this many times finer than the picture, which is then averaged: smooth edges."""
MAX_RADIUS = 4.0
MARGIN = 6
"""Pixels around the picture that a pen at its edge may reach."""


def draw_lines(
    points: npt.NDArray[np.float64], owner: npt.NDArray[np.int64], radius: npt.NDArray[np.float64], side: int
) -> npt.NDArray[np.uint8]:
    """Stamp a round pen at every point.

    Args:
        points: (P, 2), x and y in pixels, close enough together that the stamps merge into lines.
        owner: (P,): the picture that each point belongs to.
        radius: (N,): the pen of each picture, in pixels, at most `MAX_RADIUS`, kept to sixths of a pixel.
        side: pixels of a picture's side.

    Returns:
        uint8 of (N, side, side): 0 for ink, 255 for paper. What lies outside is cut off.
    """
    fine = (side + 2 * MARGIN) * FINE
    near = ((points >= -1) & (points < side + 1)).all(axis=1)
    cells = np.floor((points[near] + MARGIN) * FINE).astype(np.int64)
    owner = owner[near]
    centers = (owner * fine + cells[:, 1]) * fine + cells[:, 0]
    canvas = np.zeros(len(radius) * fine * fine, dtype=np.uint8)
    pens = np.clip(np.round(radius * FINE * 2), 2, MAX_RADIUS * FINE * 2).astype(np.int64)
    pen_of_point = pens[owner]
    for pen in np.unique(pens):
        canvas[(centers[pen_of_point == pen][:, None] + _stamp(int(pen), fine)).ravel()] = 1
    picture = canvas.reshape(-1, fine, fine)[
        :, MARGIN * FINE : -MARGIN * FINE, MARGIN * FINE : -MARGIN * FINE
    ]
    rows = picture[:, 0::FINE] + picture[:, 1::FINE] + picture[:, 2::FINE]
    ink = rows[:, :, 0::FINE] + rows[:, :, 1::FINE] + rows[:, :, 2::FINE]
    return _SHADES[ink]


# 0 to 9 fine cells of ink to a shade of gray.
_SHADES = (255 - np.arange(FINE * FINE + 1) * 255 // (FINE * FINE)).astype(np.uint8)


@lru_cache(maxsize=256)
def _stamp(diameter: int, row: int) -> npt.NDArray[np.int64]:
    """Offsets, on a canvas of rows of this length, of the fine cells within a disc."""
    reach = diameter // 2 + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    inside = 4 * (x * x + y * y) <= diameter * diameter
    return np.asarray(y[inside] * row + x[inside], dtype=np.int64)
