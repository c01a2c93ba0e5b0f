"""Composed pictures: cut-outs of turning objects in front of a background, as a camera on a tripod sees them.

    picture = camera(place(background, cut_out, Placement(x=0.5, y=0.55, side=0.9), light), noise)

Everything is deterministic: random numbers come from the caller's generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from edge_siamese.errors import DataError, ImageError
from edge_siamese.pictures import read_picture
from edge_siamese.recognition.imaging import Bytes, Floats
from export.data.folders import pictures_in

SKIN = (196, 152, 128)
"""Color of a hand: R, G, B."""
SHADOW = 0.45
"""How much darker the surface is directly below an object."""


@dataclass(frozen=True)
class Placement:
    """Position, size and rotation of a cut-out in a picture."""

    x: float
    """Center, as a fraction of the picture's width; outside of 0 to 1 it leaves the picture."""
    y: float
    """Center, as a fraction of the height."""
    side: float
    """Side of the cut-out, as a fraction of the height."""
    roll: float = 0.0
    """Rotation in the plane of the picture, counterclockwise in degrees."""


@dataclass(frozen=True)
class Light:
    """Light on the whole picture."""

    exposure: float = 1.0
    """Factor of all values."""
    warmth: float = 1.0
    """Factor of red, and inverse factor of blue."""


def place(
    background: Bytes, cut_out: Bytes, placement: Placement, *, hand_from: float = 0.0, shadow: bool = True
) -> Bytes:
    """Put a cut-out in front of a background.

    Args:
        background: uint8 (h, w, 3).
        cut_out: uint8 (side, side, 4) RGBA.
        placement: where.
        hand_from: -1 or 1: a hand holds it from the left or the right edge of the picture; 0: none.
        shadow: whether the object darkens the surface below it.

    Returns:
        uint8 (h, w, 3).
    """
    height, width = background.shape[:2]
    scene = Image.fromarray(background)
    side = max(2, round(placement.side * height))
    thing = Image.fromarray(cut_out).resize((side, side))
    if placement.roll:
        thing = thing.rotate(placement.roll, resample=Image.Resampling.BILINEAR)
    left, top = round(placement.x * width - side / 2), round(placement.y * height - side / 2)
    box = thing.getbbox(alpha_only=True) or (0, 0, side, side)
    if shadow:
        _darken_below(scene, (left + box[0], top + box[1], left + box[2], top + box[3]))
    scene.paste(thing, (left, top), thing)
    if hand_from:
        _draw_hand(scene, left + (box[0] + box[2]) / 2, top + (box[1] + box[3]) / 2, side, hand_from)
    return np.asarray(scene)


def _darken_below(scene: Image.Image, box: tuple[int, int, int, int]) -> None:
    left, _, right, bottom = box
    radius = max(2, (right - left) // 12)
    region = (
        max(0, left - 3 * radius),
        max(0, bottom - 6 * radius),
        min(scene.width, right + 3 * radius),
        min(scene.height, bottom + 4 * radius),
    )
    if region[0] >= region[2] or region[1] >= region[3]:
        return
    mask = Image.new("L", (region[2] - region[0], region[3] - region[1]))
    oval = (left - region[0], bottom - 2 * radius - region[1], right - region[0], bottom + radius - region[1])
    ImageDraw.Draw(mask).ellipse(oval, fill=round(255 * SHADOW))
    scene.paste((20, 18, 16), region[:2] + region[2:], mask.filter(ImageFilter.GaussianBlur(radius)))


def _draw_hand(scene: Image.Image, x: float, y: float, side: int, hand_from: float) -> None:
    """Draw a forearm and four fingers over the object's edge."""
    draw = ImageDraw.Draw(scene)
    thick = side * 0.16
    edge = -thick if hand_from < 0 else scene.width + thick
    grip = x + hand_from * side * 0.22
    draw.line(
        (edge, y + side * 0.35, grip + hand_from * thick, y + thick / 2), fill=SKIN, width=round(2 * thick)
    )
    draw.ellipse((grip - thick, y - thick, grip + thick, y + 1.4 * thick), fill=SKIN)
    for finger in range(4):
        middle = y + (finger - 1.5) * thick * 0.55
        tip = grip - hand_from * thick * (1.5 + 0.2 * (finger % 2))
        shade = tuple(value - 6 * finger for value in SKIN)
        draw.line((grip, middle, tip, middle), fill=shade, width=max(1, round(thick * 0.45)))


def photographed(scene: Bytes, light: Light, noise: Floats) -> Bytes:
    """Apply exposure, white balance and noise to a scene, as a camera does.

    Args:
        scene: uint8 (h, w, 3).
        light: exposure and white balance.
        noise: float32 (h, w, 3), in gray levels.

    Returns:
        uint8 (h, w, 3).
    """
    gain = np.array(
        [light.exposure * light.warmth, light.exposure, light.exposure / light.warmth], np.float32
    )
    return np.clip(scene * gain + noise, 0.0, 255.0).astype(np.uint8)


def drawn_background(rng: np.random.Generator, width: int, height: int) -> Bytes:
    """A table with a grain in front of a wall, in random colors; uint8 (height, width, 3)."""
    rows, columns = np.arange(height)[:, None], np.arange(width)[None, :]
    horizon = height * rng.uniform(0.15, 0.4)
    table = rng.uniform(60, 210) + rng.uniform(-35, 35, 3)
    wall = rng.uniform(90, 220) + rng.uniform(-25, 25, 3)
    grain = np.zeros((height, width))
    for _ in range(6):
        along, across, phase = rng.uniform(0.002, 0.03), rng.uniform(0.05, 0.6), rng.uniform(0, 6)
        grain += rng.uniform(1, 7) * np.sin(
            along * columns + across * rows + phase + 2 * np.sin(along * columns)
        )
    grain += rng.normal(0, 4, (height, width))
    shade = 1 - rng.uniform(0, 0.3) * (columns / width - rng.uniform(0, 1)) ** 2
    picture = np.where((rows > horizon)[..., None], table + grain[..., None], wall + 0.2 * grain[..., None])
    return np.clip(picture * shade[..., None], 0, 255).astype(np.uint8)


def read_backgrounds(
    folder: Path, width: int, height: int, max_count: int, rng: np.random.Generator
) -> list[Bytes]:
    """Read some photographs of a folder as backgrounds: cropped to the shape, and out of focus.

    Args:
        folder: the photographs, also in its subfolders.
        width, height: size of the backgrounds.
        max_count: number of photographs to select; all if there are fewer.
        rng: selects them.

    Returns:
        uint8 (height, width, 3) each.

    Raises:
        DataError: the folder has no pictures, or one cannot be read.
    """
    paths = pictures_in(folder)
    backgrounds = []
    for index in rng.permutation(len(paths))[:max_count]:
        try:
            backgrounds.append(_fill(read_picture(paths[index]), width, height, rng.uniform(0.5, 2.5)))
        except (ImageError, OSError) as error:
            raise DataError(f"{paths[index]}: {error}") from error
    return backgrounds


def _fill(pixels: Bytes, width: int, height: int, blur: float) -> Bytes:
    picture = Image.fromarray(pixels).convert("RGB")
    scale = max(width / picture.width, height / picture.height)
    kept = (width / scale, height / scale)
    left, top = (picture.width - kept[0]) / 2, (picture.height - kept[1]) / 2
    picture = picture.resize((width, height), box=(left, top, left + kept[0], top + kept[1]))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(blur)))


def draw_backgrounds(
    folder: Path | None, width: int, height: int, count: int, rng: np.random.Generator
) -> list[Bytes]:
    """Backgrounds from the photographs of a folder, or drawn ones without it; uint8 (height, width, 3) each."""
    if folder is None:
        return [drawn_background(rng, width, height) for _ in range(count)]
    return read_backgrounds(folder, width, height, count, rng)
