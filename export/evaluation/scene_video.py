"""Video of scenes: objects that come to a place, stay and leave, in front of a camera that does not move.

A place is a background. A visit starts and ends with the empty place, as a real camera sees it. Frames are composed from
rendered cut-outs (`export.data.turntable`) as they are needed, and are the same whenever they are composed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_siamese.recognition.imaging import Bytes
from export.data.composition import Light, Placement, draw_backgrounds, photographed, place
from export.data.turntable import load_objects, load_view

WIDTH, HEIGHT = 320, 240
FRAME_RATE = 10.0
EMPTY_BEFORE = 15
"""Frames of the empty place before an object arrives."""
MOVE_FRAMES = 4
"""Frames in which a hand brings an object, and in which it removes it."""
STAY_FRAMES = 25
EMPTY_AFTER = 10
"""Frames of the empty place after an object left."""
ARRIVAL, ARRIVED = EMPTY_BEFORE, EMPTY_BEFORE + MOVE_FRAMES
"""The first frame of an object's arrival, and the first one in which it stands still."""
LEFT = ARRIVED + STAY_FRAMES + MOVE_FRAMES
"""The first frame after its departure."""
NOISE = 3.0
DRIFT = 0.03
"""Amplitude of the automatic exposure's drift."""
MAX_SATURATED = 95.0
"""Percentile of an empty place's values that automatic exposure keeps below saturation."""
BACKGROUNDS = 24


@dataclass(frozen=True)
class Visit:
    """An object in front of the camera, from its arrival to its departure."""

    object: int
    azimuth: int
    elevation: int
    """Indices of the view."""
    background: int
    placement: Placement
    light: Light
    seed: int
    stay: int = STAY_FRAMES
    """Frames in which it stands still."""


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame of video."""

    pixels: Bytes
    """uint8 (HEIGHT, WIDTH, 3)."""
    empty: bool
    """Whether it shows the place without an object or a hand."""


class VideoComposer:
    """Composes video from the objects of a turntable.

    Args:
        folder: rendered objects.
        backgrounds: a folder of photographs; None: drawn tables and walls.
        seed: seed of all random numbers.
    """

    def __init__(self, folder: Path, backgrounds: Path | None = None, seed: int = 0) -> None:
        self.objects = load_objects(folder)
        self._folder = folder
        self.seed = seed
        self.background_name = "drawn" if backgrounds is None else backgrounds.name
        rng = np.random.default_rng([seed, 41])
        self.backgrounds = draw_backgrounds(backgrounds, WIDTH, HEIGHT, BACKGROUNDS, rng)
        self._noise = rng.normal(0, NOISE, (HEIGHT + 61, WIDTH + 67, 3)).astype(np.float32)

    def visit(
        self,
        turning: int,
        azimuth: int,
        background: int,
        rng: np.random.Generator,
        stay: int = STAY_FRAMES,
    ) -> Visit:
        """Draw a visit: position, size, elevation and light.

        Args:
            turning: index of the object.
            azimuth: index of the view, modulo the number of views.
            background: index.
            rng: source of random numbers.
            stay: frames in which the object stands still.
        """
        known = self.objects[turning]
        placement = Placement(
            x=0.5 + rng.uniform(-0.06, 0.06),
            y=0.5 + rng.uniform(-0.05, 0.07),
            side=rng.uniform(0.8, 1.2),
            roll=rng.normal(0, 4),
        )
        return Visit(
            turning,
            azimuth % len(known.azimuths),
            int(rng.integers(len(known.elevations))),
            background,
            placement,
            self.light(background, rng),
            int(rng.integers(2**31)),
            stay,
        )

    def shots(self, visit: Visit) -> Iterator[Shot]:
        """The video of a visit: the empty place, arrival, stay, departure, and the empty place."""
        rng = np.random.default_rng([self.seed, 42, visit.seed])
        background = self.backgrounds[visit.background]
        cut_out = self._cut_out(visit)
        side = 1.0 if rng.random() < 0.5 else -1.0
        phase = rng.uniform(0, 2 * np.pi, 3)
        standing = dict[Placement, Bytes]()
        for number in range(-ARRIVED, visit.stay + MOVE_FRAMES + EMPTY_AFTER):
            away = max(0.0, -number / MOVE_FRAMES, (number - visit.stay + 1) / MOVE_FRAMES)
            # In whole pixels: then few frames of a standing object have to be composed.
            sway = np.rint(0.002 * WIDTH * np.sin(number / np.array([5.1, 6.3]) + phase[:2])) / WIDTH
            placement = replace(
                visit.placement,
                x=visit.placement.x + float(sway[0]) + side * 0.9 * away,
                y=visit.placement.y + float(sway[1]),
            )
            if away > 1.0:
                scene = background
            elif away > 0.0:
                scene = place(background, cut_out, placement, hand_from=side, shadow=False)
            else:
                if placement not in standing:
                    standing[placement] = place(background, cut_out, placement)
                scene = standing[placement]
            yield Shot(self._photograph(scene, visit.light, number, float(phase[2]), rng), away > 1.0)

    def empty_shots(self, background: int, light: Light, count: int, seed: int) -> Iterator[Shot]:
        """Video of an empty place."""
        rng = np.random.default_rng([self.seed, 43, background, seed])
        for number in range(count):
            yield Shot(self._photograph(self.backgrounds[background], light, number, 0.0, rng), True)

    def fingerprint(self, places: Sequence[int], visits: Sequence[Visit]) -> str:
        """A hash of everything that decides the video of visits and of empty places, except the code."""
        digest = hashlib.sha256(f"{self.seed} {places}".encode())
        for background in places:
            digest.update(self.backgrounds[background].tobytes())
        for visit in visits:
            digest.update(repr(visit).encode())
            digest.update(self._cut_out(visit).tobytes())
        return digest.hexdigest()

    def light(self, background: int, rng: np.random.Generator) -> Light:
        """Draw the light at a place; automatic exposure keeps most of the empty place below saturation."""
        exposure, warmth = rng.uniform(0.75, 1.25), rng.uniform(0.94, 1.06)
        bright = float(np.percentile(self.backgrounds[background], MAX_SATURATED))
        return Light(min(exposure, 255.0 / (max(1.0, bright) * (1.0 + DRIFT))), warmth)

    def _cut_out(self, visit: Visit) -> Bytes:
        known = self.objects[visit.object]
        azimuth, elevation = known.azimuths[visit.azimuth], known.elevations[visit.elevation]
        return load_view(self._folder, known, elevation, azimuth)

    def _photograph(
        self, scene: Bytes, light: Light, number: int, phase: float, rng: np.random.Generator
    ) -> Bytes:
        drift = 1 + DRIFT * np.sin(number / 8 + phase)
        top, left = int(rng.integers(61)), int(rng.integers(67))
        noise = self._noise[top : top + HEIGHT, left : left + WIDTH]
        return photographed(scene, replace(light, exposure=light.exposure * drift), noise)
