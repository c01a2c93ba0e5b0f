"""What is told of the device, its objects and its events, as the JSON values that are published."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from edge_siamese.events import Event
from edge_siamese.recognition.tracking import Sighting
from edge_siamese.store import StoredObject

BEING_THERE = ("appeared", "seen", "left")
CATALOG = (
    "started",
    "registered",
    "view added",
    "view removed",
    "negative added",
    "forgotten",
    "merged",
    "renamed",
    "undone",
    "imported",
    "model",
    "store",
    "fleet",
)
"""Kinds of events after which the objects may be others."""


@dataclass(frozen=True)
class ObjectState:
    """How an object is, as far as anybody knows."""

    uid: str
    name: str
    views: int
    negatives: int
    created: str
    present: bool = False
    probability: float | None = None
    """Of the latest sighting."""
    last_seen: str | None = None
    """UTC, ISO 8601."""

    @classmethod
    def of(cls, known: StoredObject, former: ObjectState | None = None) -> ObjectState:
        """What the store says of it, and what was known of it besides."""
        new = cls(known.uid, known.name, known.views, known.negatives, known.created)
        if former is None:
            return new
        return replace(
            new, present=former.present, probability=former.probability, last_seen=former.last_seen
        )

    def after(self, event: Event) -> ObjectState:
        """As it is after one of `BEING_THERE`."""
        probability = event.data.get("probability")
        return replace(
            self,
            name=str(event.data.get("name", self.name)),
            present=event.kind != "left",
            probability=probability if isinstance(probability, float) else self.probability,
            last_seen=self.last_seen if event.kind == "left" and self.last_seen else event.time,
        )

    def seen(self, there: Sighting | None, last: str | None) -> ObjectState:
        """As it is now.

        Args:
            there: its sighting; None if it is not there.
            last: when it was seen last, as far as the daemon knows.
        """
        return replace(
            self,
            present=there is not None,
            probability=self.probability if there is None else round(there.probability, 4),
            last_seen=max(filter(None, (self.last_seen, last)), default=None),
        )

    def payload(self) -> dict[str, Any]:
        """What is published."""
        return {
            "uid": self.uid,
            "name": self.name,
            "present": self.present,
            "probability": self.probability,
            "last_seen": self.last_seen,
            "views": self.views,
            "negatives": self.negatives,
            "created": self.created,
        }


def event_payload(event: Event, number: str, device: str) -> dict[str, Any]:
    """An event; `number` is its id, by which one that comes twice is known."""
    return {**event.to_dict(), "id": number, "device": device}


def lost_payload(count: int, number: str, device: str, time: str) -> dict[str, Any]:
    """Told instead of events that were too many."""
    text = f"{count} events were lost: they came faster than they could be told"
    return {"kind": "lost", "time": time, "text": text, "count": count, "id": number, "device": device}


def problem_of(status: dict[str, Any]) -> str:
    """What somebody should look at, of the daemon's report; empty if nothing is wrong."""
    if fault := status.get("fault"):
        return str(fault)
    camera = status.get("camera") or {}
    if camera.get("status") in ("stalled", "absent"):
        return f"no frames: {camera.get('reason')}"
    if (panel := status.get("panel") or {}).get("stuck"):
        return "the button is stuck"
    if panel.get("problem"):
        return f"the button: {panel['problem']}"
    if repair := (status.get("store") or {}).get("repair"):
        return str(repair)
    return ""


def state_payload(
    status: dict[str, Any], *, started: str, temperature_c: float | None, memory_mb: float | None
) -> dict[str, Any]:
    """How the device is.

    Args:
        status: the daemon's report.
        started: when it was, UTC, ISO 8601: a time that stays the same, unlike how long ago that is.
        temperature_c: of the processor; None where nothing measures it.
        memory_mb: of the daemon, in MB of a million bytes.
    """
    model, camera = status.get("model") or {}, status.get("camera") or {}
    return {
        "version": status["version"],
        "line": status["line"],
        "problem": problem_of(status),
        "model": model.get("model_id"),
        "runtime": model.get("runtime"),
        "threshold": model.get("threshold"),
        "objects": status["objects"],
        "views": status["views"],
        "present": status["present"],
        "learning": status["learning"],
        "frames_per_second": camera.get("fps") and round(camera["fps"], 1),
        "temperature_c": None if temperature_c is None else round(temperature_c, 1),
        "memory_mb": None if memory_mb is None else round(memory_mb),
        "started": started,
    }
