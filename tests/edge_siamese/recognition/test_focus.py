"""The focus: which part of a frame is read, in front of a static background and in changing light."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from edge_siamese.recognition.focus import (
    ABSORB_SECONDS,
    LEARN_SECONDS,
    CenterFocus,
    ForegroundFocus,
    choose_focus,
)
from edge_siamese.recognition.imaging import Box, Bytes, Preprocessing
from edge_siamese.settings import FocusName

INPUT = Preprocessing(96, 96, "rgb")
HEIGHT, WIDTH = 240, 320
CELL = 8
"""Side of a cell of such a frame, in pixels."""


class Scene:
    """A static camera in front of a textured table, with noise."""

    def __init__(self, seed: int = 0, gray: bool = False) -> None:
        self._rng = np.random.default_rng(seed)
        coarse = self._rng.uniform(60, 180, (HEIGHT // 16, WIDTH // 16, 1 if gray else 3))
        self._table = np.kron(coarse, np.ones((16, 16, 1)))
        self.focus = ForegroundFocus(INPUT)
        self.now = 50.0

    def frame(self, *things: tuple[int, int, int, int], light: float = 1.0, noise: float = 4.0) -> Bytes:
        """A picture with things at (top, left, height, width), each black and white."""
        scene = self._table.copy()
        for top, left, height, width in things:
            part = scene[top : top + height, left : left + width]
            rows, columns = np.indices(part.shape[:2])
            part[:] = np.where((rows // 10 + columns // 10) % 2, 235.0, 15.0)[..., None]
        scene = scene * light + self._rng.normal(0, noise, scene.shape)
        picture = scene.clip(0, 255).astype(np.uint8)
        return picture if picture.shape[2] == 3 else picture[..., 0]

    def look(self, *things: tuple[int, int, int, int], keep: bool = False, light: float = 1.0) -> Box | None:
        """Show one more frame, a tenth of a second later."""
        self.now += 0.1
        return self.focus.find(self.frame(*things, light=light), self.now, keep)

    def learn(self) -> None:
        """Show the empty table until it is known."""
        for _ in range(int(10 * LEARN_SECONDS) + 2):
            assert self.look() is None


@pytest.fixture(params=["color", "gray"])
def scene(request: pytest.FixtureRequest) -> Scene:
    made = Scene(gray=request.param == "gray")
    made.learn()
    return made


def test_noise_on_an_empty_scene_is_nothing_new(scene: Scene) -> None:
    assert [scene.look() for _ in range(200)] == [None] * 200


def test_the_part_is_a_square_around_what_is_new(scene: Scene) -> None:
    box = scene.look((60, 140, 100, 80))
    assert box is not None
    assert box.height == box.width
    assert 100 <= box.height <= 1.24 * (100 + 2 * CELL)
    assert box.top <= 60 and box.top + box.height >= 160
    assert box.left <= 140 and box.left + box.width >= 220


@pytest.mark.parametrize("thing", [(0, 0, 80, 80), (160, 240, 80, 80), (0, 280, 240, 40)])
def test_the_part_stays_inside_the_frame(scene: Scene, thing: tuple[int, int, int, int]) -> None:
    box = scene.look(thing)
    assert box is not None
    assert box.of(scene.frame()).shape[:2] == (box.height, box.width)
    assert min(box.top, box.left) >= 0
    assert box.top <= thing[0] + CELL
    assert box.left + box.width >= thing[1] + thing[3] - CELL


def test_a_small_thing_is_not_enlarged_much(scene: Scene) -> None:
    box = scene.look((100, 100, 32, 32))
    assert box is not None and box.height == round(0.7 * 96)


def test_a_single_cell_is_noise(scene: Scene) -> None:
    assert scene.look((96, 96, CELL, CELL)) is None


def test_the_larger_of_two_things_is_read(scene: Scene) -> None:
    box = scene.look((80, 20, 40, 40), (60, 200, 90, 90))
    assert box is not None
    assert box.left > 150


def test_the_part_is_steady_while_the_thing_trembles(scene: Scene) -> None:
    parts = {scene.look((60 + shift, 140 + shift, 100, 80)) for shift in (0, 2, 3, 1, 0, 2)}
    assert len(parts) == 1
    moved = scene.look((60, 210, 100, 80))
    assert moved not in parts


def test_the_part_has_the_aspect_ratio_of_the_input() -> None:
    made = Scene()
    made.focus = ForegroundFocus(Preprocessing(60, 120, "rgb"))
    made.learn()
    box = made.look((60, 140, 100, 80))
    assert box is not None
    assert box.width == pytest.approx(2 * box.height, abs=1)


@pytest.mark.parametrize("light", [0.6, 1.35])
def test_exposure_is_nothing_new(scene: Scene, light: float) -> None:
    assert [scene.look(light=light) for _ in range(20)] == [None] * 20
    box = scene.look((60, 140, 100, 80), light=light)
    assert box is not None and box.height < 150


def test_saturated_places_are_nothing_new(scene: Scene) -> None:
    for number in range(60):
        assert scene.look(light=1.0 + 0.8 * number / 60) is None
    found = [scene.look(light=1.8 - 0.8 * number / 60) for number in range(60)]
    assert found == [None] * 60


def test_another_place_becomes_background_also_in_drifting_light() -> None:
    made, elsewhere = Scene(), Scene(seed=1)
    made.learn()
    found = []
    for number in range(int(10 * ABSORB_SECONDS) + 30):
        made.now += 0.1
        light = 1.3 * (1.0 + 0.05 * np.sin(number / 8))
        found.append(made.focus.find(elsewhere.frame(light=light), made.now))
    assert found[0] is not None
    assert found[-10:] == [None] * 10


def test_slow_changes_of_the_light_are_followed(scene: Scene) -> None:
    found = [scene.look(light=1.0 - 0.7 * number / 600) for number in range(600)]
    assert found == [None] * 600


def test_a_change_everywhere_reads_the_middle() -> None:
    made = Scene()
    made.learn()
    elsewhere = Scene(seed=1)
    made.now += 0.1
    assert made.focus.find(elsewhere.frame(), made.now) == Box(0, 40, 240, 240)


def test_what_stands_still_becomes_background_and_its_place_too(scene: Scene) -> None:
    thing = (60, 140, 100, 80)
    for _ in range(int(10 * ABSORB_SECONDS)):
        assert scene.look(thing) is not None
    for _ in range(5):
        scene.look(thing)
    assert scene.look(thing) is None
    assert scene.look() is not None  # where it stood
    for _ in range(int(10 * ABSORB_SECONDS) + 5):
        scene.look()
    assert scene.look() is None


def test_what_is_kept_does_not_become_background(scene: Scene) -> None:
    thing = (60, 140, 100, 80)
    found = [scene.look(thing, keep=True) for _ in range(int(20 * ABSORB_SECONDS))]
    assert None not in found
    assert scene.look() is None


def test_what_moves_does_not_become_background(scene: Scene) -> None:
    for number in range(int(12 * ABSORB_SECONDS)):
        assert scene.look((60, 100 + 40 * (number // 50 % 2), 100, 80)) is not None


@pytest.mark.parametrize("jump", ["size", "time"])
def test_another_camera_starts_over(scene: Scene, jump: str) -> None:
    frame = scene.frame((60, 140, 100, 80))
    if jump == "size":
        frame = frame[:200]
    times = [scene.now + 0.1, scene.now + 0.2] if jump == "size" else [scene.now - 9.0, scene.now - 8.9]
    assert [scene.focus.find(frame, time) for time in times] == [None, None]
    assert all(after > before for before, after in pairwise(times))


def test_the_middle() -> None:
    assert CenterFocus(INPUT).find(np.zeros((480, 640, 3), np.uint8), 0.0) == Box(0, 80, 480, 480)


@pytest.mark.parametrize(("name", "kind"), [("center", CenterFocus), ("foreground", ForegroundFocus)])
def test_settings_choose_the_focus(name: FocusName, kind: type) -> None:
    assert type(choose_focus(name, INPUT)) is kind


def test_frames_as_small_as_can_be_are_read() -> None:
    for shape in [(1, 1), (3, 5, 3), (2, 400, 3)]:
        focus = ForegroundFocus(INPUT)
        for number in range(50):
            box = focus.find(np.full(shape, 250 if number > 30 else 0, np.uint8), float(number))
            assert box is None or box.of(np.empty(shape)).size
