"""Pictures of paper that shows none of the registered characters: impostors and strangers for handwriting.

There are four kinds, equally many of each: characters of generated alphabets, scribbles, printed letters, and paper with
nothing written on it (texture, lines, folds, edges). Half of them look photographed (`InkAugmentation`). A picture
depends on its role, seed and number alone. The two roles have different alphabets, fonts and random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from edge_siamese.recognition.imaging import Bytes
from export.data.glyphs import SIDE, GlyphSettings, write_alphabet
from export.data.photometric import Draws, InkAugmentation

Role = Literal["impostors", "strangers"]
ROLES: tuple[Role, ...] = get_args(Role)
FIRST_ALPHABET = 2_000_000
"""Index of the first generated alphabet; data sets and training use lower ones."""
CHARACTERS = 8
"""Characters of each generated alphabet; each is written once."""
SCALE = 4
"""Pictures are drawn at this multiple of their size."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789&?!%@#"
FONTS = ("DejaVuSans", "DejaVuSerif-Bold", "DejaVuSansMono", "STIXGeneralItalic", "cmtt10", "DejaVuSans-BoldOblique") + (
    "DejaVuSerif", "DejaVuSans-Bold", "STIXGeneral", "cmss10", "DejaVuSerif-Italic", "STIXGeneralBol",
)  # fmt: skip
"""Fonts that come with matplotlib; the first half is for impostors, the second for strangers."""


def paper_pictures(role: Role, count: int, seed: int = 0) -> Iterator[tuple[str, Bytes]]:
    """Draw `count` pictures for a role.

    Yields:
        The name of a picture, such as `scribble-0003`, and uint8 (105, 105).
    """
    for index in range(count):
        number, kind = divmod(index, len(KINDS))
        name, draw = KINDS[kind]
        rng = np.random.default_rng([seed, ROLES.index(role), kind, number])
        ink = draw(rng, role, number)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        pixels = torch.from_numpy(ink.astype(np.float32))[None, None]
        seen = InkAugmentation().apply(pixels, Draws(generator, 1))
        yield f"{name}-{number:04d}", seen[0, 0].round().to(torch.uint8).numpy()


def write_paper_pictures(folder: Path, role: Role, count: int, seed: int = 0) -> None:
    """Write `count` pictures for a role to `folder/NAME.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in paper_pictures(role, count, seed):
        Image.fromarray(picture).save(folder / f"{name}.png")


def _character(rng: np.random.Generator, role: Role, number: int) -> Bytes:
    """A character of an alphabet that no data set has."""
    alphabet, character = divmod(number, CHARACTERS)
    first = FIRST_ALPHABET + 500_000 * ROLES.index(role)
    return write_alphabet(0, first + alphabet, CHARACTERS, GlyphSettings(drawers=2))[2 * character]


def _scribble(rng: np.random.Generator, role: Role, number: int) -> Bytes:
    """One to three lines that turn at random: loops, zigzags, hatching."""
    sheet = Image.new("L", (SIDE * SCALE, SIDE * SCALE), 255)
    pen = ImageDraw.Draw(sheet)
    width = round(SCALE * rng.uniform(2.0, 4.0))
    for _ in range(rng.integers(1, 4)):
        steps = int(rng.integers(20, 120))
        turn = rng.normal(rng.normal(0.0, 0.25), rng.uniform(0.05, 0.9), steps)
        heading = rng.uniform(0.0, 2 * np.pi) + np.cumsum(turn)
        length = rng.uniform(2.0, 9.0)
        path = np.cumsum(length * np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
        path += rng.uniform(0.25, 0.75, 2) * SIDE - path.mean(axis=0)
        pen.line([(x * SCALE, y * SCALE) for x, y in path], fill=0, width=width, joint="curve")
    return _downscale(sheet)


def _printed(rng: np.random.Generator, role: Role, number: int) -> Bytes:
    """One to five printed letters or digits, slightly rotated."""
    half = len(FONTS) // 2
    font_name = FONTS[half * ROLES.index(role) + int(rng.integers(half))]
    letters = "".join(rng.choice(list(LETTERS), 1 if rng.random() < 0.5 else int(rng.integers(2, 6))))
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font_name}.ttf"
    size = rng.uniform(0.5, 0.95) * SIDE * SCALE / max(1.0, 0.6 * len(letters))
    font = ImageFont.truetype(str(path), int(size))
    sheet = Image.new("L", (SIDE * SCALE, SIDE * SCALE), 255)
    middle = tuple(SIDE * SCALE * rng.uniform(0.4, 0.6, 2))
    ImageDraw.Draw(sheet).text(middle, letters, fill=0, font=font, anchor="mm")
    return _downscale(sheet.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR, fillcolor=255))


def _blank(rng: np.random.Generator, role: Role, number: int) -> Bytes:
    """Paper without writing: plain, textured, ruled, gridded, folded, or with an edge of the table behind it."""
    side = SIDE * SCALE
    sheet = Image.new("L", (side, side), 255)
    pen = ImageDraw.Draw(sheet)
    style = rng.choice(["plain", "textured", "ruled", "gridded", "folded", "edge"])
    gray = int(rng.integers(60, 220))
    if style in ("ruled", "gridded"):
        spacing, start = rng.uniform(12.0, 40.0) * SCALE, rng.uniform(0.0, 12.0) * SCALE
        for position in np.arange(start, side, spacing):
            pen.line([(0, position), (side, position)], fill=gray, width=SCALE)
            if style == "gridded":
                pen.line([(position, 0), (position, side)], fill=gray, width=SCALE)
    elif style in ("folded", "edge"):
        angle, (x, y) = rng.uniform(0.0, np.pi), side * rng.uniform(0.2, 0.8, 2)
        along, normal = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
        ends = [(x, y) + 2 * side * along, (x, y) - 2 * side * along]
        if style == "folded":
            pen.line([tuple(end) for end in ends], fill=gray, width=SCALE)
        else:
            pen.polygon(
                [tuple(p) for p in (*ends, ends[1] + 2 * side * normal, ends[0] + 2 * side * normal)],
                fill=gray,
            )
    elif style == "textured":
        grain = int(rng.choice([2, 4, 8, 16]))
        noise = rng.integers(0, 256, (SIDE // grain + 1, SIDE // grain + 1)).astype(np.uint8)
        texture = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
        sheet = Image.blend(sheet, texture, float(rng.uniform(0.05, 0.5)))
    rotated = sheet.rotate(float(rng.uniform(-8, 8)), Image.Resampling.BILINEAR, fillcolor=255)
    return _downscale(rotated.filter(ImageFilter.GaussianBlur(SCALE * float(rng.uniform(0.0, 1.0)))))


def _downscale(sheet: Image.Image) -> Bytes:
    return np.asarray(sheet.resize((SIDE, SIDE), Image.Resampling.BOX))


KINDS: tuple[tuple[str, Callable[[np.random.Generator, Role, int], Bytes]], ...] = (
    ("character", _character),
    ("scribble", _scribble),
    ("printed", _printed),
    ("blank", _blank),
)
