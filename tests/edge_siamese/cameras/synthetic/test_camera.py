"""The synthetic camera: a scene by the clock, and the finger on the button."""

from __future__ import annotations

import pytest

from edge_siamese.cameras.synthetic.camera import SyntheticCamera
from edge_siamese.cameras.synthetic.scene import Scene
from edge_siamese.cameras.synthetic.script import Press, Script, Show, Step
from edge_siamese.cameras.synthetic.sprites import drawn_sprites
from edge_siamese.settings import CameraSettings

SETTINGS = CameraSettings(kind="synthetic", width=64, height=48, frame_rate=10.0)


class Clock:
    """A clock that moves when somebody pauses."""

    def __init__(self) -> None:
        self.now = 500.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


class Watched(Scene):
    """Notes the times of its frames."""

    times: list[float]

    def frame(self, time: float):  # type: ignore[no-untyped-def]
        self.times = [*getattr(self, "times", []), round(time, 3)]
        return super().frame(time)


def camera_of(clock: Clock, *steps: Step) -> tuple[SyntheticCamera, list[tuple[float, bool]], list[str]]:
    pressed: list[tuple[float, bool]] = []
    told: list[str] = []
    scene = Watched(Script(steps), drawn_sprites(48), 64, 48)
    camera = SyntheticCamera(
        SETTINGS,
        "gray",
        lambda closed: pressed.append((round(clock.now - 500, 3), closed)),
        scene=scene,
        on_step=told.append,
        clock=clock,
        sleep=clock.pause,
    )
    return camera, pressed, told


def test_frames_come_at_the_rate_with_rising_numbers() -> None:
    clock = Clock()
    camera, _, _ = camera_of(clock)
    frames = [camera.capture() for _ in range(4)]
    assert [round(frame.time - 500, 3) for frame in frames] == [0.1, 0.2, 0.3, 0.4]
    assert [frame.number for frame in frames] == [1, 2, 3, 4]
    assert frames[0].pixels.shape == (48, 64)
    assert camera.description == "a synthetic scene of drawn symbols, 64 x 48"


def test_a_slow_consumer_misses_frames_but_the_scene_goes_on() -> None:
    clock = Clock()
    camera, _, _ = camera_of(clock)
    camera.capture()
    clock.now += 1.0
    camera.capture()
    camera.capture()
    assert camera.scene.times == [0.1, 1.1, 1.2]  # type: ignore[attr-defined]


def test_the_button_is_pressed_at_its_times_between_frames() -> None:
    clock = Clock()
    camera, pressed, told = camera_of(
        clock, Show("key", 0.0, 1.0, "a key"), Press(0.25, 0.15, "press"), Press(0.45, 0.02)
    )
    for _ in range(5):
        camera.capture()
    assert pressed == [(0.25, True), (0.4, False), (0.45, True), (0.47, False)]
    assert told == ["a key", "press"]
    assert [round(t, 1) for t in camera.scene.times] == [0.1, 0.2, 0.3, 0.4, 0.5]  # type: ignore[attr-defined]


def test_a_press_that_comes_late_keeps_its_length_and_the_scene_waits() -> None:
    clock = Clock()
    camera, pressed, _ = camera_of(clock, Press(0.15, 0.15))
    camera.capture()
    clock.now += 2.0  # an encoder that is loaded meanwhile, say
    for _ in range(3):
        camera.capture()
    assert pressed == [(2.1, True), (2.25, False)]
    assert camera.scene.times == [0.1, 0.15, 0.25, 0.35]  # type: ignore[attr-defined]


def test_closing_lets_the_button_go() -> None:
    clock = Clock()
    camera, pressed, _ = camera_of(clock, Press(0.05, 1.0))
    camera.capture()
    camera.close()
    camera.close()
    assert pressed == [(0.05, True), (0.1, False)]


def test_the_demo_is_played_without_anybody_listening() -> None:
    clock = Clock()
    camera = SyntheticCamera(SETTINGS, "rgb", clock=clock, sleep=clock.pause)
    frames = [camera.capture() for _ in range(30)]
    camera.hold_exposure(True)
    camera.close()
    assert clock.now == pytest.approx(503.0)
    assert frames[-1].pixels.shape == (48, 64, 3)
