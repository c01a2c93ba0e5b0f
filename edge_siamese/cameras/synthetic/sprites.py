"""Objects of the synthetic scene: drawn symbols, the pictures of a folder, or cut-outs of turning objects."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge_siamese.cameras.files import list_folders, list_pictures
from edge_siamese.errors import CameraError, PictureError
from edge_siamese.pictures import read_cut_out, read_picture, resize_cut_out
from edge_siamese.recognition.imaging import Bytes, Preprocessing, prepare

Points = npt.NDArray[np.float64]

PAPER, INK = 255, 30
SYMBOL_SIDE = 0.68
"""Longer side of a symbol, as a share of the frame's height."""
SPRITE_SIDE = 0.8
"""Side of a sprite, as a share of the frame's height: the symbol, and paper around it for rotation."""
STROKE_WIDTH = 0.034
"""Width of a stroke, as a share of the frame's height."""
TREMOR = 0.008
"""Amplitude of the hand's tremor in a stroke, as a share of the symbol's size."""
MIN_PAPER_LEVEL = 225
"""A picture with a mean edge level of at least this is a drawing on paper, otherwise a photo."""
TURNING_SIDE = 0.66
"""Side of the square around a turning object, as a share of the frame's height."""
SHADOW, SHADOW_MARGIN = 0.6, 0.12
"""Opacity of the shadow below a turning object, and how far it reaches beyond its square, as a share of that."""


@dataclass(frozen=True, eq=False)
class Sprite:
    """An object as the camera sees it, upright."""

    name: str
    pixels: Bytes
    """uint8 (side, side) gray or (side, side, 3) RGB."""
    on_paper: bool
    """Whether it is dark strokes on the paper; otherwise a photo that covers the paper."""


@dataclass(frozen=True, eq=False)
class TurningSprite:
    """An object on a table that is seen from several sides."""

    name: str
    views: tuple[Bytes, ...]
    """uint8 (h, w, 4) RGBA each, in the order of a turn, with a shadow."""
    stand: int
    """The row of the views on which the object stands."""


AnySprite = Sprite | TurningSprite


def drawn_sprites(height: int, seed: int = 0) -> dict[str, Sprite]:
    """Draw all symbols.

    Args:
        height: height of a frame, in pixels.
        seed: seed of the tremor.
    """
    return {name: _drawn(name, height, seed) for name in SYMBOLS}


def sprites_of_folder(folder: Path, height: int, limit: int = 1000) -> Mapping[str, AnySprite]:
    """Read the objects of a folder in natural order.

    Args:
        folder: a subfolder for each object with its views in the order of a turn, cut out with transparency; or a picture of
            each object, which is cropped to its centered square. Names are those of the files. `1-coffee-cup` is a
            "coffee cup" if it is a subfolder.
        height: height of a frame, in pixels.
        limit: maximum number of objects.

    Raises:
        CameraError: there is no such folder, it contains no picture, or one cannot be read.
    """
    if not folder.is_dir():
        raise CameraError(f"{folder}: there is no such folder; correct camera.path")
    sprites: dict[str, AnySprite] = {}
    try:
        turning = {path: views for path in list_folders(folder) if (views := list_pictures(path))}
        for path, views in itertools.islice(turning.items(), limit):
            name = re.sub(r"^\d+[\W_]+", "", path.name).replace("-", " ") or path.name
            name = path.name if name in sprites else name
            sprites[name] = _turning_sprite(name, [read_cut_out(view) for view in views], height)
        for path in [] if turning else list_pictures(folder)[:limit]:
            sprites[path.stem] = _sprite_of_picture(path.stem, read_picture(path), height)
    except PictureError as error:
        raise CameraError(str(error)) from error
    if not sprites:
        raise CameraError(f"{folder} contains no pictures")
    return sprites


def _turning_sprite(name: str, cut_outs: Sequence[Bytes], height: int) -> TurningSprite:
    """Scale cut-outs of one object by one factor, put them on one level, and add their shadows."""
    side = round(TURNING_SIDE * height)
    scale = side / max(max(cut_out.shape[:2]) for cut_out in cut_outs)
    pictures = []
    for cut_out in cut_outs:
        rows, columns = (max(1, round(scale * length)) for length in cut_out.shape[:2])
        top, left = (side - rows) // 2, (side - columns) // 2
        around = ((top, side - rows - top), (left, side - columns - left), (0, 0))
        pictures.append(np.pad(resize_cut_out(cut_out, rows, columns), around))
    opaque = np.max([picture[..., 3] for picture in pictures], axis=0) > 127
    bottom = side - int(np.argmax(opaque.any(axis=1)[::-1]))
    margin = round(SHADOW_MARGIN * side)
    around = ((side - bottom, margin), (margin, margin), (0, 0))
    views = tuple(_with_shadow(np.pad(picture[:bottom], around), margin) for picture in pictures)
    return TurningSprite(name, views, stand=side)


def _with_shadow(cut_out: Bytes, margin: int) -> Bytes:
    """Put a soft shadow behind the lower part of a cut-out, uint8 (h, w, 4), that stands `margin` above its bottom edge."""
    height, width = cut_out.shape[:2]
    stand = height - margin
    columns = np.flatnonzero((cut_out[stand - stand // 4 : stand, :, 3] > 127).any(axis=0))
    if not len(columns):
        return cut_out
    left, right = columns[0], columns[-1]
    radius = (right - left) / 2 + margin / 2
    x = (np.arange(width) - (left + right) / 2) / radius
    y = (np.arange(height)[:, None] - stand + margin / 2) / (1.2 * margin)
    shadow = SHADOW * np.clip(1 - x**2 - y**2, 0, 1)
    alpha = cut_out[..., 3] / 255
    opacity = alpha + (1 - alpha) * shadow
    result = np.empty_like(cut_out)
    result[..., :3] = cut_out[..., :3] * (alpha / np.maximum(opacity, 1e-6))[..., None]
    result[..., 3] = np.round(255 * opacity)
    return result


def _sprite_of_picture(name: str, picture: Bytes, height: int) -> Sprite:
    color = "gray" if picture.ndim == 2 else "rgb"
    side = round(SPRITE_SIDE * height)
    square = prepare(picture, Preprocessing(side, side, "gray" if color == "gray" else "rgb"))
    edge = np.concatenate([square[0], square[-1], square[:, 0], square[:, -1]])
    pixels = square[..., 0] if color == "gray" else square
    return Sprite(name, pixels, bool(edge.mean() >= MIN_PAPER_LEVEL))


@lru_cache(maxsize=64)
def _drawn(name: str, height: int, seed: int) -> Sprite:
    side = round(SPRITE_SIDE * height)
    strokes = SYMBOLS[name]
    corners = np.concatenate(strokes)
    low, high = corners.min(axis=0), corners.max(axis=0)
    scale = SYMBOL_SIDE * height / float((high - low).max())
    rng = np.random.default_rng([seed, *name.encode()])
    distance = np.full((side, side), np.inf, dtype=np.float32)
    radius = STROKE_WIDTH * height / 2
    for stroke in strokes:
        line = _dense(stroke) + _tremor(rng, len(_dense(stroke))) * TREMOR
        _lower_distances(distance, (line - (low + high) / 2) * scale + side / 2, radius + 2)
    # One pixel of blur at the edge of a stroke, as from a lens.
    ink = np.clip(radius + 0.5 - distance, 0, 1)
    pixels = np.round(PAPER + (INK - PAPER) * ink).astype(np.uint8)
    pixels.setflags(write=False)
    return Sprite(name, pixels, True)


def _lower_distances(distance: npt.NDArray[np.float32], line: Points, reach: float) -> None:
    """Lower distances (side, side) to those from a line (n, 2) of x, y, where these are at most `reach`."""
    side = len(distance)
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        left, right = max(0, int(min(x0, x1) - reach)), min(side, int(max(x0, x1) + reach) + 2)
        top, bottom = max(0, int(min(y0, y1) - reach)), min(side, int(max(y0, y1) + reach) + 2)
        if left >= right or top >= bottom:
            continue
        x = np.arange(left, right, dtype=np.float32) + np.float32(0.5 - x0)
        y = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5 - y0)
        dx, dy = x1 - x0, y1 - y0
        along = np.clip((x * dx + y * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        here = np.hypot(x - along * dx, y - along * dy).astype(np.float32)
        part = distance[top:bottom, left:right]
        np.minimum(part, here, out=part)


def _dense(stroke: Points) -> Points:
    """Return the same line with points at most 0.05 apart, so that tremor bends long segments, too."""
    parts = []
    for start, end in itertools.pairwise(stroke):
        steps = max(1, int(np.ceil(np.hypot(*(end - start)) / 0.05)))
        parts.append(start + (end - start) * (np.arange(steps) / steps)[:, None])
    return np.concatenate([*parts, stroke[-1:]])


def _tremor(rng: np.random.Generator, points: int) -> Points:
    """Return slow waves (points, 2) with an amplitude of about 1."""
    phase = rng.uniform(0, 2 * np.pi, (3, 2))
    place = np.arange(points)[:, None]
    return sum(
        (np.sin(place * pace + phase[k]) for k, pace in enumerate((0.21, 0.37, 0.71))), np.zeros((points, 2))
    )


def _line(*corners: tuple[float, float]) -> Points:
    return np.array(corners, dtype=np.float64)


def _arc(x: float, y: float, radius: float, start: float, end: float) -> Points:
    """Return a part of a circle from `start` to `end` degrees; 0 is right, 90 is down."""
    angle = np.radians(np.linspace(start, end, max(8, int(abs(end - start) / 12))))
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def _spiral(turns: float) -> Points:
    angle = np.linspace(0, turns * 2 * np.pi, int(turns * 30))
    radius = 0.06 + 0.44 * angle / angle[-1]
    return np.stack([0.5 + radius * np.cos(angle), 0.5 + radius * np.sin(angle)], axis=1)


# In a unit square, y down, scaled to SYMBOL_SIDE. No symbol resembles a rotation of another.
SYMBOLS: Mapping[str, tuple[Points, ...]] = {
    "anchor": (
        _arc(0.5, 0.12, 0.1, 0, 360),
        _line((0.5, 0.22), (0.5, 0.95)),
        _line((0.3, 0.36), (0.7, 0.36)),
        _arc(0.5, 0.55, 0.4, 0, 180),
    ),
    "kite": (
        _line((0.5, 0.0), (0.85, 0.35), (0.5, 0.75), (0.15, 0.35), (0.5, 0.0)),
        _line((0.15, 0.35), (0.85, 0.35)),
        _line((0.5, 0.75), (0.4, 0.85), (0.58, 0.92), (0.45, 1.0)),
    ),
    "spiral": (_spiral(2.6),),
    "ladder": (
        _line((0.3, 0.0), (0.2, 1.0)),
        _line((0.7, 0.0), (0.8, 1.0)),
        *(_line((0.29 - 0.08 * y, y), (0.71 + 0.08 * y, y)) for y in (0.2, 0.5, 0.8)),
    ),
    "fish": (
        _arc(0.42, 0.85, 0.5, -140, -40),
        _arc(0.42, 0.2, 0.5, 140, 40),
        _line((0.8, 0.52), (1.0, 0.3), (1.0, 0.75), (0.8, 0.52)),
        _arc(0.24, 0.47, 0.03, 0, 360),
    ),
    "umbrella": (
        _arc(0.5, 0.5, 0.48, 180, 360),
        _line((0.02, 0.5), (0.98, 0.5)),
        _line((0.5, 0.02), (0.5, 0.88)),
        _arc(0.39, 0.88, 0.11, 0, 180),
    ),
    "key": (
        _arc(0.5, 0.2, 0.2, 0, 360),
        _line((0.5, 0.4), (0.5, 1.0)),
        _line((0.5, 0.96), (0.76, 0.96), (0.76, 0.86)),
        _line((0.5, 0.74), (0.72, 0.74)),
    ),
    "house": (
        _line((0.1, 0.45), (0.5, 0.05), (0.9, 0.45)),
        _line((0.2, 0.4), (0.2, 0.98), (0.8, 0.98), (0.8, 0.4)),
        _line((0.42, 0.98), (0.42, 0.65), (0.62, 0.65), (0.62, 0.98)),
    ),
    "hourglass": (
        _line((0.15, 0.0), (0.85, 0.0), (0.15, 1.0), (0.85, 1.0), (0.15, 0.0)),
        _line((0.33, 0.8), (0.67, 0.8)),
    ),
    "trident": (
        _line((0.5, 0.0), (0.5, 1.0)),
        _arc(0.5, 0.12, 0.36, 0, 180),
        _line((0.34, 0.75), (0.66, 0.75)),
    ),
}
