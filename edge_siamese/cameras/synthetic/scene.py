"""Draws a synthetic scene: what a camera above a table sees while a script is played."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.cameras.synthetic.script import Script, Show, Step, demo_script
from edge_siamese.cameras.synthetic.sprites import PAPER, Sprite, drawn_sprites, sprites_of_folder
from edge_siamese.errors import CameraError
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.settings import CameraSettings

TABLE = (231, 230, 227)
"""The paper's color: R, G, B."""
EXPOSURE = 1.2
"""The camera is set so that paper comes out white, as in a scan: encoders for drawings are trained on white paper."""
NOISE = 3.0
"""Standard deviation of the sensor's noise, in gray levels."""
LIMIT = 12
"""The largest noise. What is on the table is kept this far from 0 and 255, so that adding noise cannot overflow."""
MOVE_SECONDS = 0.4
"""How long an object takes to come, and to leave."""
KEPT = 24
"""Turned sprites that are kept: turning one costs as much as several frames."""
_ROLL = (61, 67)


class Scene:
    """Frames of a script, the same ones for the same seed and times.

    Args:
        script: what happens.
        sprites: the objects by name.
        width: of a frame, in pixels.
        height: of a frame, in pixels.
        color: what frames are.
        seed: of noise, paper and of how objects are put down.

    Raises:
        CameraError: the script shows an object that is not among the sprites.
    """

    def __init__(
        self,
        script: Script,
        sprites: Mapping[str, Sprite],
        width: int,
        height: int,
        color: Literal["gray", "rgb"] = "gray",
        seed: int = 0,
    ) -> None:
        shown = {step.name for step in script.steps if isinstance(step, Show)}
        if missing := sorted(shown - set(sprites)):
            raise CameraError(
                f"the scene shows {missing[0]!r}, which is not among {', '.join(sorted(sprites))}"
            )
        self.script = script
        self.sprites = sprites
        self.color = color
        self._seed = seed
        self._size = (height, width)
        self._paper = self._draw_paper()
        self._noise = self._draw_noise()
        self._turned: OrderedDict[tuple[str, int, int], tuple[Bytes, npt.NDArray[np.bool_] | None]]
        self._turned = OrderedDict()

    @property
    def steps(self) -> tuple[Step, ...]:
        """What happens."""
        return self.script.steps

    @property
    def captions(self) -> tuple[tuple[float, str], ...]:
        """(when, what people are told), in order."""
        return self.script.captions

    def frame(self, time: float) -> Bytes:
        """What the camera sees.

        Args:
            time: seconds since the scene began.

        Returns:
            uint8 (height, width) gray or (height, width, 3) RGB; read-only.
        """
        canvas = self._paper.copy()
        for number, (step, since, rounds) in enumerate(self.script.shows(time)):
            self._put(canvas, step, since, rounds + 1000 * number)
        number = round(time * 1000)
        # Lamps drift in seconds and flicker with the mains.
        waver = 1 + 0.025 * np.sin(2 * np.pi * time / 17) + 0.006 * np.sin(2 * np.pi * time * 11.3)
        top, left = number * 29 % _ROLL[0], number * 37 % _ROLL[1]
        noise = self._noise[top : top + self._size[0], left : left + self._size[1]]
        np.add(canvas, noise, out=canvas)
        levels = np.arange(256) * (EXPOSURE * self.script.light(time) * waver)
        table = np.minimum(np.round(levels), 255).astype(np.uint8)
        # bytes.translate looks up a byte several times as fast as numpy 1.24 does.
        seen = canvas.tobytes().translate(table.tobytes())
        return np.frombuffer(seen, dtype=np.uint8).reshape(canvas.shape)

    def _put(self, canvas: Bytes, step: Show, since: float, salt: int) -> None:
        """Lay an object on the canvas, as a hand would: never twice in quite the same way."""
        height, width = self._size
        rng = np.random.default_rng([self._seed, salt, round(step.start * 1000)])
        angle, grow, aside, down = rng.uniform(-1, 1, 4)
        phase = rng.uniform(0, 2 * np.pi, 3)
        side_of_entry = 1 if rng.random() < 0.5 else -1
        sway = np.sin(2 * np.pi * since / np.array([3.1, 3.7, 4.3]) + phase)
        turned, inside = self._turn(
            self.sprites[step.name],
            round(4 * angle + 1.2 * float(sway[0])),
            round(100 * (1 + 0.03 * grow)),
        )
        # It comes fast and stops softly, and leaves as it came.
        away = max(0.0, 1 - since / MOVE_SECONDS, 1 - (step.end - step.start - since) / MOVE_SECONDS)
        x = width / 2 + height * (0.02 * aside + 0.006 * float(sway[1]))
        y = height / 2 + height * (0.02 * down + 0.006 * float(sway[2]))
        x += side_of_entry * away**2 * (width + len(turned)) / 2
        _paste(canvas, turned, inside, round(y - len(turned) / 2), round(x - len(turned) / 2))

    def _turn(self, sprite: Sprite, degrees: int, percent: int) -> tuple[Bytes, npt.NDArray[np.bool_] | None]:
        """A sprite turned and scaled, and where it covers the paper; None: its dark parts alone do."""
        key = (sprite.name, degrees, percent)
        if key in self._turned:
            self._turned.move_to_end(key)
            return self._turned[key]
        pixels = sprite.pixels
        if self.color == "rgb" and pixels.ndim == 2:
            pixels = np.repeat(pixels[..., np.newaxis], 3, axis=2)
        elif self.color == "gray" and pixels.ndim == 3:
            pixels = np.round(pixels @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
        # A photo has been exposed already.
        exposed = pixels if sprite.on_paper else pixels / EXPOSURE
        pixels = np.clip(exposed, LIMIT, 255 - LIMIT).astype(np.uint8)
        turned, inside = _warp(pixels, np.radians(degrees), percent / 100)
        self._turned[key] = (turned, None if sprite.on_paper else inside)
        if len(self._turned) > KEPT:
            self._turned.popitem(last=False)
        return self._turned[key]

    def _draw_paper(self) -> Bytes:
        """Paper that no lamp lights quite evenly."""
        height, width = self._size
        rng = np.random.default_rng([self._seed, 1])
        x, y = np.arange(width) / width, np.arange(height)[:, None] / height
        shade = 1 - 0.05 * ((x - rng.uniform(0.3, 0.7)) ** 2 + (y - rng.uniform(0.3, 0.7)) ** 2)
        for _ in range(3):
            across, along, phase = rng.uniform(2, 14, 2).tolist() + [rng.uniform(0, 6)]
            shade = shade + 0.004 * np.sin(across * x + along * y + phase)
        if self.color == "gray":
            return np.round(shade * (np.array(TABLE) @ [0.299, 0.587, 0.114])).astype(np.uint8)
        return np.round(shade[..., np.newaxis] * np.array(TABLE)).astype(np.uint8)

    def _draw_noise(self) -> Bytes:
        """More noise than a frame needs: each frame takes another part of it. Negative numbers modulo 256."""
        shape: tuple[int, ...] = (self._size[0] + _ROLL[0], self._size[1] + _ROLL[1])
        if self.color == "rgb":
            shape = (*shape, 3)
        noise = np.random.default_rng([self._seed, 2]).standard_normal(shape, dtype=np.float32) * NOISE
        return np.clip(np.round(noise), -LIMIT, LIMIT).astype(np.int8).view(np.uint8)


def demo_scene(
    settings: CameraSettings, color: Literal["gray", "rgb"] = "gray", seed: int = 0, pace: float = 1.0
) -> Scene:
    """The scene of `demo_script`, with symbols or with the pictures of the folder `settings.path`.

    Raises:
        CameraError: the folder has fewer than five pictures, or one that cannot be read.
    """
    if settings.path:
        sprites = sprites_of_folder(Path(settings.path).expanduser(), settings.height, limit=5)
    else:
        sprites = drawn_sprites(settings.height, seed)
    script = demo_script(list(sprites), pace)
    return Scene(script, sprites, settings.width, settings.height, color, seed)


def _paste(canvas: Bytes, turned: Bytes, inside: npt.NDArray[np.bool_] | None, top: int, left: int) -> None:
    """Lay pixels on the canvas with their first corner at (top, left), which may be outside of it."""
    rows = slice(max(0, top), min(canvas.shape[0], top + turned.shape[0]))
    columns = slice(max(0, left), min(canvas.shape[1], left + turned.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    own = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    part = canvas[rows, columns]
    if inside is None:
        np.minimum(part, turned[own], out=part)
    else:
        mask = inside[own]
        np.copyto(part, turned[own], where=mask if part.ndim == 2 else mask[..., np.newaxis])


def _warp(pixels: Bytes, angle: float, scale: float) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Turn clockwise and scale about the middle; each pixel is the nearest one of the original.

    Args:
        pixels: uint8 (side, side) or (side, side, 3).
        angle: in radians.
        scale: 2 is twice as large.

    Returns:
        uint8 of the same shape, white where there was nothing, and (side, side) where there was something.
    """
    side = len(pixels)
    # In 65536ths of a pixel: integers are added and shifted several times as fast as floats are rounded.
    across = np.arange(side) - (side - 1) / 2
    cosine, sine = (np.round(across * part / scale * 65536) for part in (np.cos(angle), np.sin(angle)))
    middle = side * 32768
    x = (cosine.astype(np.int32) + (sine.astype(np.int32)[:, None] + middle)) >> 16
    y = (cosine.astype(np.int32)[:, None] + (middle - sine.astype(np.int32))) >> 16
    # Negative ones are very large without their sign.
    inside = (x.view(np.uint32) < side) & (y.view(np.uint32) < side)
    found = np.take(pixels.reshape(side * side, -1), y * side + x, axis=0, mode="clip")
    found[~inside] = PAPER
    return found.reshape(pixels.shape), inside
