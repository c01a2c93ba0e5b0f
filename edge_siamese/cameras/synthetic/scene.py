"""Frames of a synthetic scene: what a camera sees while a script is played.

Drawings and photos lie on paper below the camera. Turning objects stand on a table in front of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.cameras.synthetic.script import Script, Show, Step, demo_script
from edge_siamese.cameras.synthetic.sprites import (
    PAPER,
    AnySprite,
    Sprite,
    TurningSprite,
    drawn_sprites,
    sprites_of_folder,
)
from edge_siamese.errors import CameraError
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.settings import CameraSettings

PAPER_COLOR = (231, 230, 227)
TABLE, WALL = (188, 152, 112), (214, 210, 201)
"""R, G, B."""
HORIZON = 0.4
"""Where the table ends and the wall begins, as a share of the frame's height."""
STAND = 0.82
"""Where a turning object stands, as a share of the frame's height."""
EXPOSURE = 1.2
"""The exposure makes paper white, as in a scan: encoders for drawings are trained on white paper."""
GRAY = np.array([0.299, 0.587, 0.114])
NOISE = 3.0
"""Standard deviation of the sensor's noise, in gray levels."""
MAX_NOISE = 12
"""Maximum of the noise. Objects stay this far from 0 and 255, so that adding noise cannot overflow."""
TURNING_PACE = 1.4
"""Factor for the length of a scene of turning objects: they can be seen to turn, and slow machines keep up."""
MOVE_SECONDS = 0.4
"""Time in which an object arrives, and leaves."""
MAX_CACHED_SPRITES = 24
"""Rotated sprites in the cache: rotating one takes as long as several frames."""
_ROLL = (61, 67)


class Scene:
    """Frames of a script; the same seed and times give the same frames.

    Args:
        script: the steps of the scene.
        sprites: the objects by name, all of one kind.
        width, height: size of a frame, in pixels.
        color: color of the frames.
        seed: seed of the noise, the background and the positions of objects.

    Raises:
        CameraError: the script shows an object that has no sprite.
    """

    def __init__(
        self,
        script: Script,
        sprites: Mapping[str, AnySprite],
        width: int,
        height: int,
        color: Literal["gray", "rgb"] = "gray",
        seed: int = 0,
    ) -> None:
        shown = {step.name for step in script.steps if isinstance(step, Show)}
        if missing := sorted(shown - set(sprites)):
            raise CameraError(
                f"the scene shows {missing[0]!r}, which is not one of {', '.join(sorted(sprites))}"
            )
        self.script = script
        self.sprites = sprites
        self.color = color
        self._seed = seed
        self._size = (height, width)
        self._has_table = any(isinstance(sprite, TurningSprite) for sprite in sprites.values())
        self._background = self._draw_table() if self._has_table else self._draw_paper()
        self._noise = self._draw_noise()
        self._cache: OrderedDict[tuple[str, int, int], tuple[Bytes, npt.NDArray[np.bool_] | None]]
        self._cache = OrderedDict()
        self._views: OrderedDict[tuple[str, int], tuple[Bytes, Bytes]] = OrderedDict()

    @property
    def steps(self) -> tuple[Step, ...]:
        """See `Script.steps`."""
        return self.script.steps

    @property
    def captions(self) -> tuple[tuple[float, str], ...]:
        """See `Script.captions`."""
        return self.script.captions

    def frame(self, time: float) -> Bytes:
        """Render a frame.

        Args:
            time: seconds since the scene began.

        Returns:
            uint8 (height, width) gray or (height, width, 3) RGB; read-only.
        """
        canvas = self._background.copy()
        for number, (step, since, rounds) in enumerate(self.script.shows(time)):
            self._put(canvas, step, since, rounds + 1000 * number)
        number = round(time * 1000)
        # Lamps drift over seconds and flicker with the mains.
        flicker = 1 + 0.025 * np.sin(2 * np.pi * time / 17) + 0.006 * np.sin(2 * np.pi * time * 11.3)
        top, left = number * 29 % _ROLL[0], number * 37 % _ROLL[1]
        noise = self._noise[top : top + self._size[0], left : left + self._size[1]]
        np.add(canvas, noise, out=canvas)
        exposure = 1.0 if self._has_table else EXPOSURE
        levels = np.arange(256) * (exposure * self.script.light(time) * flicker)
        table = np.minimum(np.round(levels), 255).astype(np.uint8)
        # bytes.translate looks up a byte several times as fast as numpy 1.24 does.
        seen = canvas.tobytes().translate(table.tobytes())
        return np.frombuffer(seen, dtype=np.uint8).reshape(canvas.shape)

    def _put(self, canvas: Bytes, step: Show, since: float, salt: int) -> None:
        """Draw an object, each time with another small offset, rotation and scale, as if a hand had put it down."""
        height, width = self._size
        rng = np.random.default_rng([self._seed, salt, round(step.start * 1000)])
        angle, scale, right, down = rng.uniform(-1, 1, 4)
        phase = rng.uniform(0, 2 * np.pi, 3)
        side_of_entry = 1 if rng.random() < 0.5 else -1
        # It arrives fast and slows down, and leaves in reverse.
        away = max(0.0, 1 - since / MOVE_SECONDS, 1 - (step.end - step.start - since) / MOVE_SECONDS)
        sprite = self.sprites[step.name]
        if isinstance(sprite, TurningSprite):
            turned = since / (step.end - step.start)
            number = min(int(turned * len(sprite.views)), len(sprite.views) - 1)
            colors, rest = self._view(sprite, number if side_of_entry > 0 else len(sprite.views) - 1 - number)
            x = width / 2 + height * 0.05 * right + side_of_entry * away**2 * (width + colors.shape[1]) / 2
            y = height * (STAND + 0.02 * down)
            _blend(canvas, colors, rest, round(y - sprite.stand), round(x - colors.shape[1] / 2))
            return
        sway = np.sin(2 * np.pi * since / np.array([3.1, 3.7, 4.3]) + phase)
        rotated, inside = self._rotated_sprite(
            sprite,
            round(4 * angle + 1.2 * float(sway[0])),
            round(100 * (1 + 0.03 * scale)),
        )
        x = width / 2 + height * (0.02 * right + 0.006 * float(sway[1]))
        y = height / 2 + height * (0.02 * down + 0.006 * float(sway[2]))
        x += side_of_entry * away**2 * (width + len(rotated)) / 2
        _paste(canvas, rotated, inside, round(y - len(rotated) / 2), round(x - len(rotated) / 2))

    def _view(self, sprite: TurningSprite, number: int) -> tuple[Bytes, Bytes]:
        """Return a view of a turning object: its colors times their opacity, and the share of the background, 0 to 255.

        Both are (h, w) or (h, w, 3) and (h, w, 1).
        """
        key = (sprite.name, number)
        if key in self._views:
            self._views.move_to_end(key)
            return self._views[key]
        view = sprite.views[number]
        pixels = np.clip(view[..., :3], MAX_NOISE, 255 - MAX_NOISE)
        opacity, rest = view[..., 3:] / np.float32(255), 255 - view[..., 3:]
        if self.color == "gray":
            pixels, opacity, rest = pixels @ GRAY, opacity[..., 0], rest[..., 0]
        self._views[key] = (np.round(pixels * opacity).astype(np.uint8), rest)
        if len(self._views) > MAX_CACHED_SPRITES:
            self._views.popitem(last=False)
        return self._views[key]

    def _rotated_sprite(
        self, sprite: Sprite, degrees: int, percent: int
    ) -> tuple[Bytes, npt.NDArray[np.bool_] | None]:
        """Return a rotated and scaled sprite and a mask of where it covers the paper; None: only its dark parts do."""
        key = (sprite.name, degrees, percent)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        pixels = sprite.pixels
        if self.color == "rgb" and pixels.ndim == 2:
            pixels = np.repeat(pixels[..., np.newaxis], 3, axis=2)
        elif self.color == "gray" and pixels.ndim == 3:
            pixels = np.round(pixels @ GRAY).astype(np.uint8)
        # A photo is already exposed.
        exposed = pixels if sprite.on_paper else pixels / EXPOSURE
        pixels = np.clip(exposed, MAX_NOISE, 255 - MAX_NOISE).astype(np.uint8)
        rotated, inside = _warp(pixels, np.radians(degrees), percent / 100)
        self._cache[key] = (rotated, None if sprite.on_paper else inside)
        if len(self._cache) > MAX_CACHED_SPRITES:
            self._cache.popitem(last=False)
        return self._cache[key]

    def _draw_paper(self) -> Bytes:
        """Draw the paper, which is not lit evenly."""
        height, width = self._size
        rng = np.random.default_rng([self._seed, 1])
        x, y = np.arange(width) / width, np.arange(height)[:, None] / height
        shade = 1 - 0.05 * ((x - rng.uniform(0.3, 0.7)) ** 2 + (y - rng.uniform(0.3, 0.7)) ** 2)
        for _ in range(3):
            across, along, phase = rng.uniform(2, 14, 2).tolist() + [rng.uniform(0, 6)]
            shade = shade + 0.004 * np.sin(across * x + along * y + phase)
        if self.color == "gray":
            return np.round(shade * (np.array(PAPER_COLOR) @ GRAY)).astype(np.uint8)
        return np.round(shade[..., np.newaxis] * np.array(PAPER_COLOR)).astype(np.uint8)

    def _draw_table(self) -> Bytes:
        """Draw a wooden table in front of a wall."""
        height, width = self._size
        rng = np.random.default_rng([self._seed, 3])
        x = np.arange(width) / height
        below = np.arange(height)[:, None] / height - HORIZON
        depth = 1 / (0.35 + np.maximum(below, 0.0))
        grain = np.zeros((height, width))
        for _ in range(7):
            waves, bend, phase = rng.uniform(6, 70), rng.uniform(0.5, 2.0), rng.uniform(0, 6, 2)
            grain += np.sin(waves * depth + bend * np.sin(1.7 * x / bend + phase[0]) + phase[1])
        grain = 3.0 * grain + rng.normal(0, 1.5, (height, 1))
        light = 1 - 0.10 * (x - rng.uniform(0.4, 0.9)) ** 2
        table = np.array(TABLE) + grain[..., None] * np.array([1.0, 0.9, 0.75])
        wall = np.array(WALL) - 14 * np.exp(below / 0.02)[..., None]
        picture = light[..., None] * np.where((below > 0)[..., None], table + 40 * below[..., None], wall)
        picture = np.clip(picture, MAX_NOISE, 255 - MAX_NOISE)
        return np.round(picture if self.color == "rgb" else picture @ GRAY).astype(np.uint8)

    def _draw_noise(self) -> Bytes:
        """Draw more noise than a frame needs, of which each frame uses another part; negative numbers modulo 256."""
        shape: tuple[int, ...] = (self._size[0] + _ROLL[0], self._size[1] + _ROLL[1])
        if self.color == "rgb":
            shape = (*shape, 3)
        noise = np.random.default_rng([self._seed, 2]).standard_normal(shape, dtype=np.float32) * NOISE
        return np.clip(np.round(noise), -MAX_NOISE, MAX_NOISE).astype(np.int8).view(np.uint8)


def demo_scene(
    settings: CameraSettings, color: Literal["gray", "rgb"] = "gray", seed: int = 0, pace: float = 1.0
) -> Scene:
    """Create the scene of `demo_script`, with drawn symbols or with the objects of the folder `settings.path`.

    Raises:
        CameraError: the folder has fewer than five objects, or a picture that cannot be read.
    """
    sprites: Mapping[str, AnySprite]
    if settings.path:
        sprites = sprites_of_folder(Path(settings.path).expanduser(), settings.height, limit=5)
        if any(isinstance(sprite, TurningSprite) for sprite in sprites.values()):
            pace *= TURNING_PACE
    else:
        sprites = drawn_sprites(settings.height, seed)
    script = demo_script(list(sprites), pace)
    return Scene(script, sprites, settings.width, settings.height, color, seed)


def _paste(canvas: Bytes, rotated: Bytes, inside: npt.NDArray[np.bool_] | None, top: int, left: int) -> None:
    """Draw pixels on the canvas with their corner at (top, left), which may be outside of it."""
    place, own = _overlap(canvas, rotated, top, left)
    part = canvas[place]
    if inside is None:
        np.minimum(part, rotated[own], out=part)
    else:
        mask = inside[own]
        np.copyto(part, rotated[own], where=mask if part.ndim == 2 else mask[..., np.newaxis])


def _blend(canvas: Bytes, colors: Bytes, rest: Bytes, top: int, left: int) -> None:
    """Blend colors with the canvas, of which `rest` 255ths remain, with their corner at (top, left)."""
    place, own = _overlap(canvas, colors, top, left)
    remaining = canvas[place].astype(np.uint16)
    remaining *= rest[own]
    remaining += 127
    remaining //= 255
    canvas[place] = remaining + colors[own]


def _overlap(
    canvas: Bytes, pixels: Bytes, top: int, left: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the part of the canvas that pixels at (top, left) cover, and that part of the pixels; empty if none."""
    rows = slice(max(0, top), max(0, min(canvas.shape[0], top + pixels.shape[0])))
    columns = slice(max(0, left), max(0, min(canvas.shape[1], left + pixels.shape[1])))
    own_rows = slice(rows.start - top, max(rows.start, rows.stop) - top)
    own_columns = slice(columns.start - left, max(columns.start, columns.stop) - left)
    return (rows, columns), (own_rows, own_columns)


def _warp(pixels: Bytes, angle: float, scale: float) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Rotate clockwise and scale about the center, with nearest-neighbor interpolation.

    Args:
        pixels: uint8 (side, side) or (side, side, 3).
        angle: rotation in radians.
        scale: factor of the size.

    Returns:
        uint8 of the same shape, white outside the original, and a mask (side, side) of the original.
    """
    side = len(pixels)
    # In 65536ths of a pixel: integer arithmetic is several times as fast as rounding floats.
    across = np.arange(side) - (side - 1) / 2
    cosine, sine = (np.round(across * part / scale * 65536) for part in (np.cos(angle), np.sin(angle)))
    center = side * 32768
    x = (cosine.astype(np.int32) + (sine.astype(np.int32)[:, None] + center)) >> 16
    y = (cosine.astype(np.int32)[:, None] + (center - sine.astype(np.int32))) >> 16
    # Negative numbers are large as unsigned ones.
    inside = (x.view(np.uint32) < side) & (y.view(np.uint32) < side)
    warped = np.take(pixels.reshape(side * side, -1), y * side + x, axis=0, mode="clip")
    warped[~inside] = PAPER
    return warped.reshape(pixels.shape), inside
