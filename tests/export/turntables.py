"""A small 3-D model, and turntables of striped squares that need no renderer."""

from __future__ import annotations

import colorsys
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from export.data.rendering import view_name
from export.data.turntable import INDEX, TurningObject

HUES = 12
MATERIALS = """\
newmtl red
Kd 0.9 0.0 0.0
newmtl blue
Kd 0.0 0.0 0.9
"""


def write_turntable(
    folder: Path, hues: list[int], azimuths: tuple[int, ...] = (0, 90, 180, 270), side: int = 48
) -> None:
    """Write objects of which number `i` has color `hues[i]` of `HUES` from all sides; the outer fifth is transparent."""
    objects = []
    for number, hue in enumerate(hues):
        known = TurningObject(
            f"object-{number}", f"Object {number}", "test", "", "CC0-1.0", 10.0, list(azimuths), [20]
        )
        color = [round(255 * value) for value in colorsys.hsv_to_rgb(hue / HUES, 1.0, 0.8)]
        pixels = np.zeros((side, side, 4), np.uint8)
        edge = side // 5
        pixels[edge:-edge, edge:-edge] = [*color, 255]
        pixels[edge:-edge:6, edge:-edge, :3] = 0
        (folder / known.id).mkdir(parents=True)
        for azimuth in azimuths:
            Image.fromarray(pixels).save(folder / known.id / view_name(azimuth, 20), lossless=True)
        objects.append(known)
    (folder / INDEX).write_bytes(msgspec.json.encode(objects))


def slab() -> str:
    """A slab, twice as high as wide; its front (z = 1) is red, its back blue."""
    corners = [(x, y, z) for z in (0.1, -0.1) for x, y in ((-0.5, -1), (0.5, -1), (0.5, 1), (-0.5, 1))]
    lines = ["mtllib slab.mtl", *(f"v {x} {y} {z}" for x, y, z in corners)]
    return "\n".join([*lines, "usemtl red", "f 1 2 3 4", "usemtl blue", "f 6 5 8 7", ""])
