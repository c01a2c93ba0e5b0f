"""The demo's last act: what the daemon tells has to be the scene's demo_scene, or the demo fails."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.errors import VerificationFailed
from edge_siamese.models.bundle import Bundle
from edge_siamese.settings import parse_settings
from export import demo_scene
from export.demo_scene import Story, Visit, free_port, settings, told


def event(kind: str, name: str = "", sighting: str = "") -> dict[str, Any]:
    return {"kind": kind, "name": name, "sighting": sighting, "text": f"{name} {kind}"}


def scene() -> list[dict[str, Any]]:
    """All as it should be: while an object is learned it lies there still, so it appears twice."""
    events = [event("started")]
    for number in (1, 2, 3):
        name = f"object {number}"
        events += [event(kind, name) for kind in ("registered", "appeared", "left", "appeared", "left")]
    events += [event(kind, "object 4") for kind in ("registered", "appeared", "left", "undone")]
    return [*events, event("stopping")]


def place(events: list[dict[str, Any]], kind: str, name: str) -> int:
    return next(i for i, found in enumerate(events) if (found["kind"], found["name"]) == (kind, name))


def test_the_story_as_it_should_be() -> None:
    assert told(scene()) == Story(("object 1", "object 2", "object 3"), "object 4", 21, "")


def test_an_object_that_was_not_seen_while_it_was_learned_need_not_appear_twice() -> None:
    events = scene()
    first = place(events, "registered", "object 2")
    del events[first + 1 : first + 3]
    assert told(events).learned[1] == "object 2"


def test_an_object_that_is_not_recognized_when_it_comes_back() -> None:
    events = scene()
    first = place(events, "registered", "object 2")
    del events[first + 1 : first + 5]
    with pytest.raises(
        VerificationFailed, match='"object 2" was learned and came back once, but after that it never'
    ):
        told(events)


def test_an_object_that_flickers() -> None:
    events = scene()
    first = place(events, "registered", "object 1")
    events[first + 5 : first + 5] = [event("appeared", "object 1"), event("left", "object 1")]
    with pytest.raises(VerificationFailed, match="appeared, left, appeared, left, appeared, left"):
        told(events)


@pytest.mark.parametrize("where", ["before the mistake", "after the undo"])
def test_a_stranger_that_is_taken_for_an_object(where: str) -> None:
    events = scene()
    index = place(events, "registered", "object 4") if where == "before the mistake" else len(events) - 1
    events[index:index] = [event("appeared", "object 4")]
    with pytest.raises(
        VerificationFailed, match="something unknown was taken for a known object: object 4 appeared"
    ):
        told(events)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("registered", "object 3", "registered object 1, object 2, object 4 and took back object 4"),
        ("undone", "object 4", "took back none"),
    ],
)
def test_a_registration_or_an_undo_that_is_missing(kind: str, name: str, message: str) -> None:
    events = scene()
    del events[place(events, kind, name)]
    with pytest.raises(VerificationFailed, match=message):
        told(events)


def test_the_settings_are_those_of_the_daemon(bundle: Bundle, tmp_path: Path) -> None:
    place = tmp_path / 'a "quoted" place'
    found = parse_settings(settings(bundle, place, tmp_path / "run", 9000, loop=False))
    assert found.model.bundle == str(bundle.path.resolve())
    assert found.state_directory == place
    assert found.recognition.false_accept_rate == 0.001
    assert (found.dashboard.enabled, found.dashboard.listen, found.dashboard.port) == (
        True,
        "127.0.0.1",
        9000,
    )
    assert (found.camera.kind, found.camera.loop) == ("synthetic", False)


def test_a_port_that_is_taken_is_left_to_who_has_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(demo_scene, "PORT", taken)
            assert free_port() not in (taken, 0)
            other.close()
            assert free_port() == taken


def test_a_dashboard_that_is_not_served_fails_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_scene, "SERVED_WITHIN_SECONDS", 0.5)
    visit = Visit(f"http://127.0.0.1:{free_port()}")
    visit.start()
    with pytest.raises(VerificationFailed, match="the dashboard was not served at"):
        visit.require()
