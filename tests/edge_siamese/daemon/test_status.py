"""The line and the report that tell how the daemon is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_siamese import __version__
from edge_siamese.cameras.supervisor import SourceState
from edge_siamese.daemon.quarantine import FailureLog, Fallback, fallback_after, model_part
from edge_siamese.daemon.service import Service, counted
from edge_siamese.panel.led_signals import Signal
from edge_siamese.recognition.imaging import Preprocessing
from edge_siamese.settings import PathSettings, Settings, SettingsOrigin


def state(status: Any = "running", reason: str = "") -> SourceState:
    return SourceState(status, reason, "a camera", 120, 3, 1, 0, 9.871)


def service(
    *, present: tuple[str, ...] = (), objects: int = 2, camera: SourceState | None = None, busy: bool = False
) -> Any:
    encoder = SimpleNamespace(
        model_id="tiny",
        runtime="onnxruntime",
        precision="int8",
        reason="onnxruntime: requested",
        preprocessing=Preprocessing(height=64, width=48),
    )
    engine = SimpleNamespace(
        present=present,
        support=_Sized(objects),
        registrations=SimpleNamespace(busy=busy),
        encoder=encoder,
        bundle=SimpleNamespace(path="/models/tiny"),
        threshold=0.75,
        threshold_source="given",
        frames=100,
    )
    console = SimpleNamespace(description="button 17", problem=None)
    made = Service.__new__(Service)
    made.__dict__ |= {
        "engine": engine,
        "fault": "",
        "hardware": SimpleNamespace(state=camera, console=console, stuck=False, background=Signal.READY),
        "integrations": SimpleNamespace(report=lambda: {"dashboard": {"state": "http://127.0.0.1:8765"}}),
        "settings": Settings(paths=PathSettings(state="/state", runtime="/run/x")),
        "origin": SettingsOrigin(Path("/c.toml"), "d1", "wrong"),
        "_reloading": False,
        "_loading": None,
        "_load_problem": "it failed",
        "_clock": lambda: 12.345,
        "_started": 0.0,
        "repair": None,
        "fallback": Fallback(),
        "quarantine": SimpleNamespace(parts=(model_part("tiny-1", "it failed"),)),
        "failures": FailureLog(),
    }
    return made


class _Sized:
    def __init__(self, objects: int) -> None:
        self._objects, self.embeddings = objects, [0, 0, 0]

    def __len__(self) -> int:
        return self._objects


@pytest.mark.parametrize(
    ("of", "expected"),
    [
        ({"camera": state()}, "sees no known object; 2 objects; 9.9 frames/s"),
        ({"camera": state(), "present": ("mug",), "objects": 1}, "sees mug; 1 object; 9.9 frames/s"),
        ({"camera": state(), "present": ("mug", "pen")}, "sees mug and pen; 2 objects; 9.9 frames/s"),
        ({"camera": state(), "busy": True}, "registering an object"),
        ({"camera": state("stalled", "no frame for 3 s"), "busy": True}, "no frames: no frame for 3 s"),
        ({"camera": state("absent", "there is no camera")}, "no frames: there is no camera"),
        ({"camera": state("starting")}, "waiting for the camera"),
        ({}, "waiting for the camera"),
    ],
)
def test_the_status_line_describes_the_state(of: dict[str, Any], expected: str) -> None:
    assert service(**of).status_line() == expected


def test_without_an_engine_the_line_gives_the_reason() -> None:
    down = service(camera=state())
    down.engine, down.fault = None, "no model is installed"
    assert down.status_line() == "no model is installed"
    found = down.report()
    assert (found["model"], found["objects"], found["views"], found["present"], found["frames"]) == (
        None,
        0,
        0,
        [],
        0,
    )
    assert (found["fault"], found["registering"]) == ("no model is installed", False)


def test_the_report_has_all_keys() -> None:
    found = service(camera=state(), present=("mug",)).report()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == {
        "version": __version__,
        "line": "sees mug; 2 objects; 9.9 frames/s",
        "uptime_s": 12.3,
        "fault": "",
        "model": {
            "model_id": "tiny",
            "bundle": "/models/tiny",
            "runtime": "onnxruntime",
            "precision": "int8",
            "reason": "onnxruntime: requested",
            "threshold": 0.75,
            "threshold_source": "given",
            "input": {"height": 64, "width": 48, "color": "gray", "fit": "crop"},
        },
        "objects": 2,
        "views": 3,
        "present": ["mug"],
        "frames": 100,
        "registering": False,
        "camera": {
            "status": "running",
            "reason": "",
            "description": "a camera",
            "captured": 120,
            "dropped": 3,
            "restarts": 1,
            "fps": 9.87,
        },
        "panel": {"description": "button 17", "problem": None, "stuck": False},
        "store": {"repair": None},
        "quarantine": [
            {
                "id": "model",
                "kind": "model",
                "text": "the model tiny-1 is not used: it failed",
                "reason": "it failed",
                "time": "",
            }
        ],
        "failures": [],
        "integrations": {"dashboard": {"state": "http://127.0.0.1:8765"}},
        "loading": {"busy": False, "problem": "it failed", "settings_problem": "wrong"},
        "paths": {"config": "/c.toml", "state": "/state", "socket": "/run/x/control.sock"},
    }


def test_without_the_store_the_line_says_so_and_the_report_names_it() -> None:
    without = service(camera=state())
    without.fallback = fallback_after(3)
    reason = "the object store is not used: 3 starts of the daemon ended early"
    assert without.status_line() == f"recognizes nothing: {reason}; 9.9 frames/s"
    assert without.report()["quarantine"][0]["text"] == reason


def test_missing_parts_are_null() -> None:
    bare = service()
    bare.hardware.console = None
    found = bare.report()
    assert (found["camera"], found["panel"]) == (None, None)


def test_a_count_of_one_is_singular() -> None:
    assert [counted(number, "view") for number in (0, 1, 2)] == ["0 views", "1 view", "2 views"]
