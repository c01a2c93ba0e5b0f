"""Camera and panel of the daemon: opened as the settings say, supervised, reported once, and closed in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec import structs

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.hardware import Hardware
from edge_siamese.errors import CameraEnded, CameraStalled, PanelError
from edge_siamese.events import Event
from edge_siamese.panel.led_signals import Signal
from edge_siamese.panel.panel import SimulatedPanel
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.settings import CameraSettings, PanelSettings, Settings
from tests.edge_siamese.daemon.running import MUG, Stage, returns, until

SETTINGS = Settings(
    camera=CameraSettings(kind="usb", frame_rate=240.0, timeout_s=0.2),
    panel=PanelSettings(kind="simulated", debounce_s=0.002, double_press_s=0.05, hold_s=0.2, stuck_s=0.3),
)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    made = Stage()
    monkeypatch.setattr("edge_siamese.daemon.hardware.open_camera", made.open)
    yield made
    made.free.set()


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def hardware(stage: Stage, events: list[Event]) -> Iterator[Hardware]:
    made = Hardware(SETTINGS, events.append)
    yield made
    made.close()


def watched(hardware: Hardware, condition: Any) -> list[bool]:
    """What `watch` says until a condition holds."""
    said: list[bool] = []

    def turn() -> Any:
        said.append(hardware.watch())
        return condition()

    until(turn)
    return said


def panel_of(hardware: Hardware) -> SimulatedPanel:
    assert hardware._simulated is not None
    return hardware._simulated


def test_nothing_is_opened_initially(hardware: Hardware) -> None:
    assert (hardware.state, hardware.console, hardware.camera_down, hardware.needs_restart) == (
        None,
        None,
        False,
        False,
    )
    assert (hardware.camera_report(), hardware.panel_report()) == (None, None)
    assert (hardware.next_frame(0.0), hardware.gestures(), hardware.watch()) == (None, [], False)
    hardware.hold_exposure(True)
    hardware.show(Signal.SAVED)
    hardware.show_background(Signal.READY)
    assert hardware.background is None


class TestCamera:
    def test_each_frame_is_returned_once(self, hardware: Hardware, stage: Stage) -> None:
        stage.picture = MUG
        hardware.open_camera("gray")
        first, second = (until(lambda: hardware.next_frame(0.1)) for _ in range(2))
        assert isinstance(first, Frame)
        assert first.number < second.number
        assert first.pixels is MUG

    def test_the_camera_is_reopened_only_for_other_colors(self, hardware: Hardware, stage: Stage) -> None:
        for color in ("gray", "gray", "rgb"):
            hardware.open_camera(color)  # type: ignore[arg-type]
            until(lambda: hardware.next_frame(0.1))
        assert stage.opened == ["gray", "rgb"]

    def test_camera_changes_are_reported_once(
        self, hardware: Hardware, stage: Stage, events: list[Event]
    ) -> None:
        hardware.open_camera("gray")
        assert watched(hardware, lambda: events)[-1] is False
        stage.error = CameraStalled("no frame came")
        said = watched(hardware, lambda: hardware.camera_down and len(events) == 2)
        assert said.count(True) == 1
        stage.absent = True
        said = watched(hardware, lambda: len(events) == 3)
        assert not any(said)  # it was lost before
        stage.absent, stage.error = False, None
        watched(hardware, lambda: len(events) == 4)
        assert [(event.kind, event.text) for event in events] == [
            ("camera", "the camera is running: a stage"),
            ("camera", "no frames: no frame came"),
            ("camera", "no frames: there is no camera"),
            ("camera", "the camera is running: a stage"),
        ]
        assert [event.data.get("status") for event in events] == [None, "stalled", "absent", None]

    def test_the_end_of_the_camera_is_reported(
        self, hardware: Hardware, stage: Stage, events: list[Event]
    ) -> None:
        stage.error = CameraEnded("all was shown")
        hardware.open_camera("gray")
        watched(hardware, lambda: events)
        assert events[0].text == "the camera has ended: all was shown"
        assert not hardware.camera_down

    def test_holding_the_exposure_does_not_block(self, hardware: Hardware, stage: Stage) -> None:
        hardware.open_camera("gray")
        until(lambda: hardware.next_frame(0.1))
        hardware.hold_exposure(True)
        until(lambda: stage.holds == [True])
        stage.hangs = True
        until(lambda: stage.stuck)
        returns(lambda: hardware.hold_exposure(False))
        returns(hardware.close)

    def test_two_stuck_threads_need_a_restart(
        self, hardware: Hardware, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge_siamese.cameras.supervisor.MARGIN_SECONDS", 0.0)
        stage.hangs = True
        hardware.open_camera("gray")
        until(lambda: hardware.camera_down)
        assert not hardware.needs_restart
        until(lambda: hardware.needs_restart)

    def test_one_stuck_thread_with_an_absent_camera_needs_a_restart(
        self, hardware: Hardware, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge_siamese.cameras.supervisor.MARGIN_SECONDS", 0.0)
        hardware.open_camera("gray")
        until(lambda: hardware.next_frame(0.1))
        stage.absent = True  # "Device or resource busy", as the thread that hangs still has it
        assert not hardware.needs_restart
        stage.hangs = True
        until(lambda: hardware.needs_restart)
        state = hardware.state
        assert state is not None and (state.status, state.stuck_threads) == ("absent", 1)

    def test_a_low_frame_rate_extends_the_timeout(self, events: list[Event]) -> None:
        camera = CameraSettings(kind="synthetic", frame_rate=0.1, timeout_s=3.0)
        hardware = Hardware(structs.replace(SETTINGS, camera=camera), events.append)
        hardware.open_camera("gray")
        assert hardware.source is not None
        assert hardware.source._capture_s == 14.0  # until one is wanted, the camera's own time, and a second
        hardware.close()


class TestPanel:
    def test_gestures_and_signals_pass_through(self, hardware: Hardware) -> None:
        hardware.open_panel()
        panel = panel_of(hardware)
        until(lambda: hardware.console and hardware.console.description == "simulated button and LED")
        panel.press(True)
        time.sleep(0.02)
        panel.press(False)
        assert until(hardware.gestures) == [Gesture.PRESS]
        hardware.show_background(Signal.RECOGNIZED)
        until(lambda: panel.lit)
        hardware.show_background(Signal.OFF)
        until(lambda: not panel.lit)
        hardware.show(Signal.REGISTERING)
        until(lambda: panel.lit)
        assert hardware.background is Signal.OFF

    def test_a_stuck_button_and_its_release_are_reported(
        self, hardware: Hardware, events: list[Event]
    ) -> None:
        hardware.open_panel()
        panel = panel_of(hardware)
        until(lambda: hardware.console and hardware.console.description == "simulated button and LED")
        panel.press(True)
        made: list[Gesture] = []
        until(lambda: made.extend(hardware.gestures()) or hardware.stuck)
        panel.press(False)
        until(lambda: made.extend(hardware.gestures()) or not hardware.stuck)
        assert made == [Gesture.HOLD]
        assert [event.text for event in events] == [
            "the button is stuck: it is held, or its line is shorted",
            "the button works again",
        ]

    def test_a_lost_panel_and_its_return_are_reported(self, hardware: Hardware, events: list[Event]) -> None:
        hardware.open_panel()
        panel = panel_of(hardware)
        until(lambda: hardware.console and hardware.console.description == "simulated button and LED")
        panel.disconnect("unplugged")
        watched(hardware, lambda: len(events) == 2)
        assert [event.text for event in events] == [
            "no button and no LED: unplugged",
            "the panel is working",
        ]

    def test_without_a_panel_there_are_no_gestures(self, hardware: Hardware) -> None:
        hardware.settings = structs.replace(SETTINGS, panel=PanelSettings(kind="none"))
        hardware.open_panel()
        until(lambda: hardware.console and hardware.console.description == "no button and no LED")
        assert hardware.gestures() == []

    def test_a_panel_that_cannot_be_opened_is_reported(
        self, hardware: Hardware, events: list[Event], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: Any) -> Any:
            raise PanelError("GPIO 17 is used by another program")

        monkeypatch.setattr("edge_siamese.daemon.hardware.open_panel", fail)
        hardware.settings = structs.replace(SETTINGS, panel=PanelSettings(kind="gpio"))
        hardware.open_panel()
        watched(hardware, lambda: events)
        assert events[0].text == "no button and no LED: GPIO 17 is used by another program"

    def test_a_panel_that_hangs_is_abandoned(self, hardware: Hardware, stage: Stage) -> None:
        hardware.open_panel()
        panel = panel_of(hardware)
        until(lambda: hardware.console and hardware.console.description == "simulated button and LED")
        panel.wait = lambda timeout: stage.free.wait() and []  # type: ignore[method-assign,assignment,return-value]
        returns(hardware.close)

    def test_the_scene_presses_the_current_panel(self, stage: Stage) -> None:
        scene = structs.replace(SETTINGS, camera=structs.replace(SETTINGS.camera, kind="synthetic"))
        scene = structs.replace(scene, panel=structs.replace(scene.panel, kind="auto"))
        hardware = Hardware(scene, lambda _: None)
        hardware.open_panel()
        hardware.open_camera("gray")
        former = panel_of(hardware)
        hardware.open_panel()
        assert panel_of(hardware) is not former
        until(lambda: hardware.console and hardware.console.description == "simulated button and LED")
        hardware._press(True)
        time.sleep(0.02)
        hardware._press(False)
        assert until(hardware.gestures) == [Gesture.PRESS]
        hardware.close()
