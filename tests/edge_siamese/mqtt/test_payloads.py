"""What is told of objects, events and the device."""

from __future__ import annotations

from typing import Any

import pytest

from edge_siamese.events import KINDS, Event
from edge_siamese.mqtt.payloads import (
    BEING_THERE,
    CATALOG,
    ObjectState,
    event_payload,
    lost_payload,
    problem_of,
    state_payload,
)
from edge_siamese.recognition.tracking import Sighting
from edge_siamese.store import StoredObject

CREATED = "2026-01-01T00:00:00.000+00:00"
STORED = StoredObject(1, "a" * 32, "mug", CREATED, 2, 1, 2, 2)
MUG = ObjectState.of(STORED)
STATUS: dict[str, Any] = {
    "version": "1.0.0",
    "line": "sees mug; 1 object; 9.8 frames/s",
    "uptime_s": 12.3,
    "fault": "",
    "model": {
        "model_id": "objects-1",
        "runtime": "tflite-runtime",
        "threshold": 0.7,
        "bundle": "/var/lib/secret",
    },
    "objects": 1,
    "views": 2,
    "present": ["mug"],
    "learning": False,
    "camera": {"status": "running", "reason": "", "fps": 9.8123},
    "panel": {"problem": None, "stuck": False},
    "store": {"repair": None},
    "paths": {"state": "/var/lib/secret"},
}


def event(kind: str, **data: Any) -> Event:
    return Event(kind, "text", "2026-02-02T00:00:00.000+00:00", {"uid": MUG.uid, "name": "mug", **data})  # type: ignore[arg-type]


def test_an_object_that_was_never_seen_says_so() -> None:
    assert MUG.payload() == {
        "uid": "a" * 32,
        "name": "mug",
        "present": False,
        "probability": None,
        "last_seen": None,
        "views": 2,
        "negatives": 1,
        "created": CREATED,
    }


def test_events_say_whether_it_is_there_how_probably_and_when() -> None:
    there = MUG.after(event("appeared", probability=0.97))
    assert (there.present, there.probability, there.last_seen) == (
        True,
        0.97,
        "2026-02-02T00:00:00.000+00:00",
    )
    left = there.after(Event("left", "", "2026-03-03T00:00:00.000+00:00", {"uid": MUG.uid, "name": "cup"}))
    assert (left.present, left.probability, left.last_seen, left.name) == (
        False, 0.97, "2026-02-02T00:00:00.000+00:00", "cup",
    )  # fmt: skip
    assert MUG.after(event("left")).last_seen == "2026-02-02T00:00:00.000+00:00"


def test_what_was_known_stays_when_the_store_is_read_again() -> None:
    there = MUG.after(event("appeared", probability=0.97))
    renamed = ObjectState.of(StoredObject(1, "a" * 32, "cup", CREATED, 3, 1, 3, 3), there)
    assert (renamed.name, renamed.views, renamed.present, renamed.probability) == ("cup", 3, True, 0.97)


def test_what_is_there_now_and_when_it_was_seen_before() -> None:
    sighting = Sighting("seen", MUG.uid, "mug", "s", 0.912345, 0.7, 3, 0.0, 1.0)
    now = MUG.seen(sighting, "2026-01-05T00:00:00.000+00:00")
    assert (now.present, now.probability, now.last_seen) == (True, 0.9123, "2026-01-05T00:00:00.000+00:00")
    later = now.seen(None, "2026-01-04T00:00:00.000+00:00")
    assert (later.present, later.probability, later.last_seen) == (
        False,
        0.9123,
        "2026-01-05T00:00:00.000+00:00",
    )
    assert MUG.seen(None, None).last_seen is None


def test_kinds_are_kinds_of_events() -> None:
    assert set(BEING_THERE) | set(CATALOG) <= set(KINDS)
    assert not set(BEING_THERE) & set(CATALOG)


def test_an_event_has_an_id_and_the_device_beside_what_it_says() -> None:
    assert event_payload(event("appeared", probability=0.97), "ab-1", "hall") == {
        "kind": "appeared",
        "time": "2026-02-02T00:00:00.000+00:00",
        "text": "text",
        "uid": "a" * 32,
        "name": "mug",
        "probability": 0.97,
        "id": "ab-1",
        "device": "hall",
    }
    assert lost_payload(3, "ab-2", "hall", "t")["count"] == 3


def test_the_state_is_what_a_home_wants_to_know_and_gives_no_paths_away() -> None:
    found = state_payload(STATUS, started=CREATED, temperature_c=51.26, memory_mb=91.7)
    assert found == {
        "version": "1.0.0",
        "line": "sees mug; 1 object; 9.8 frames/s",
        "problem": "",
        "model": "objects-1",
        "runtime": "tflite-runtime",
        "threshold": 0.7,
        "objects": 1,
        "views": 2,
        "present": ["mug"],
        "learning": False,
        "frames_per_second": 9.8,
        "temperature_c": 51.3,
        "memory_mb": 92,
        "started": CREATED,
    }
    assert "secret" not in str(found)


def test_a_device_without_model_camera_and_thermometer_has_a_state_as_well() -> None:
    bare = {**STATUS, "model": None, "camera": None, "panel": None, "fault": "loading the model"}
    found = state_payload(bare, started=CREATED, temperature_c=None, memory_mb=None)
    unknown = ("model", "runtime", "threshold", "frames_per_second", "temperature_c", "memory_mb")
    assert [found[key] for key in unknown] == [None] * 6
    assert found["problem"] == "loading the model"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"fault": "no model"}, "no model"),
        ({"camera": {"status": "stalled", "reason": "no frame for 3 s"}}, "no frames: no frame for 3 s"),
        ({"camera": {"status": "absent", "reason": "no camera"}}, "no frames: no camera"),
        ({"camera": {"status": "starting", "reason": ""}}, ""),
        ({"panel": {"problem": "no chip", "stuck": False}}, "the button: no chip"),
        ({"panel": {"problem": None, "stuck": True}}, "the button is stuck"),
        ({"store": {"repair": "1 view was lost"}}, "1 view was lost"),
    ],
)
def test_a_problem_is_what_somebody_should_look_at(changes: dict[str, Any], problem: str) -> None:
    assert problem_of({**STATUS, **changes}) == problem
