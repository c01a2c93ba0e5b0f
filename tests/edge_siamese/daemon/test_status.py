"""The status line and the status report of the daemon."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_siamese import __version__
from edge_siamese.cameras.supervisor import SourceState
from edge_siamese.daemon.quarantine import fallback_after, model_part
from edge_siamese.daemon.service import Service
from edge_siamese.daemon.surroundings import ObjectSurroundings, SurroundingsReport
from edge_siamese.events import counted
from edge_siamese.settings import PathSettings, Settings


def state(status: Any = "running", reason: str = "") -> SourceState:
    return SourceState(status, reason, "a camera", 120, 3, 1, 0, 9.871)


@pytest.fixture
def service(tmp_path: Path) -> Callable[..., Any]:
    """Makes services that do not run, with an engine and a camera in the given state."""

    def make(
        *,
        present: tuple[str, ...] = (),
        presence: dict[str, list[str]] | None = None,
        objects: int = 2,
        camera: SourceState | None = None,
        busy: bool = False,
    ) -> Any:
        settings = Settings(paths=PathSettings(state=str(tmp_path), runtime="/run/x"))
        made: Any = Service(settings, "/c.toml", clock=iter([0.0, *[12.345] * 100]).__next__)
        made.loader.engine = SimpleNamespace(
            present=present,
            presence=presence or {"": list(present)},
            support=_Sized(objects),
            registrations=SimpleNamespace(busy=busy),
            model_report=lambda: {"model_id": "tiny"},
            surroundings_report=lambda: SurroundingsReport(
                True, 40, tuple(ObjectSurroundings("0", name, 0.9, True, False, "90 %") for name in "abcdefg")
            ),
            frames=100,
        )
        made.loader.fault, made.loader.problem = "", "it failed"
        made.origin = replace(made.origin, problem="wrong")
        made.hardware.source = None if camera is None else SimpleNamespace(state=camera)
        made.hardware.console = SimpleNamespace(description="button 17", problem=None)
        made.integrations.report = lambda: {"dashboard": {"state": "http://127.0.0.1:8765"}}
        return made

    return make


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
        (
            {"camera": state(), "presence": {"shelf": ["mug", "pen"], "door": [], "desk": ["mug"]}},
            "sees mug and pen in shelf, mug in desk; 2 objects; 9.9 frames/s",
        ),
        ({"camera": state(), "busy": True}, "registering an object"),
        ({"camera": state("stalled", "no frame for 3 s"), "busy": True}, "no frames: no frame for 3 s"),
        ({"camera": state("absent", "there is no camera")}, "no frames: there is no camera"),
        ({"camera": state("starting")}, "waiting for the camera"),
        ({}, "waiting for the camera"),
    ],
)
def test_the_status_line_describes_the_state(
    service: Callable[..., Any], of: dict[str, Any], expected: str
) -> None:
    assert service(**of).status_line() == expected


def test_without_an_engine_the_line_gives_the_reason(service: Callable[..., Any]) -> None:
    down = service(camera=state())
    down.loader.engine, down.loader.fault = None, "no model is installed"
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


def test_the_report_has_all_keys(service: Callable[..., Any], tmp_path: Path) -> None:
    made = service(camera=state(), present=("mug",))
    made.faults.quarantine.parts = (model_part("tiny-1", "it failed"),)
    found = made.report()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == {
        "version": __version__,
        "line": "sees mug; 2 objects; 9.9 frames/s",
        "uptime_s": 12.3,
        "fault": "",
        "model": {"model_id": "tiny"},
        "objects": 2,
        "views": 3,
        "present": ["mug"],
        "regions": {},
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
        "surroundings": {
            "enabled": True,
            "scenes": 40,
            "near": [{"name": name, "text": "90 %"} for name in "abcde"],
        },
        "quarantine": [
            {
                "id": "model",
                "kind": "model",
                "name": "the model tiny-1",
                "text": "the model tiny-1 is not used: it failed",
                "reason": "it failed",
                "time": "",
            }
        ],
        "failures": [],
        "integrations": {"dashboard": {"state": "http://127.0.0.1:8765"}},
        "sound": {"enabled": False, "problem": ""},
        "training": {"collect_pictures": False},
        "loading": {"busy": False, "problem": "it failed", "settings_problem": "wrong", "model_problem": ""},
        "paths": {"config": "/c.toml", "state": str(tmp_path), "socket": "/run/x/control.sock"},
    }


def test_without_the_store_the_line_says_so_and_the_report_names_it(service: Callable[..., Any]) -> None:
    without = service(camera=state())
    without.faults.fallback = fallback_after(3)
    reason = "the object store is not used: 3 starts of the daemon ended early"
    assert without.status_line() == f"recognizes nothing: {reason}; 9.9 frames/s"
    assert without.report()["quarantine"][0]["text"] == reason


def test_missing_parts_are_null(service: Callable[..., Any]) -> None:
    bare = service()
    bare.hardware.console = None
    found = bare.report()
    assert (found["camera"], found["panel"]) == (None, None)


def test_a_count_of_one_is_singular() -> None:
    assert [counted(number, "view") for number in (0, 1, 2)] == ["0 views", "1 view", "2 views"]
