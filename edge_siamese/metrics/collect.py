"""Names the figures of a daemon as Prometheus does: which there are, what they mean, and their values now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from edge_siamese.daemon.telemetry import BUCKETS_SECONDS, Histogram, Stage, Tally
from edge_siamese.events import KINDS
from edge_siamese.metrics.machine import CONDITIONS, Machine
from edge_siamese.recognition.registration import Reason

PREFIX = "edge_siamese_"
MAX_OBJECTS = 200
"""That get series of their own: each is kept for as long as Prometheus keeps anything."""

SOURCES = ("button", "command", "picture", "page", "mqtt")
REASONS = (*(reason.what for reason in Reason), "failed", "ended")


@dataclass(frozen=True)
class Metric:
    """One figure, with or without labels."""

    name: str
    """As it is exposed: with its unit, and `_total` if it counts up."""
    kind: Literal["counter", "gauge", "histogram", "info"]
    help: str
    labels: tuple[str, ...] = ()


def _metric(
    name: str, kind: Literal["counter", "gauge", "histogram", "info"], text: str, *labels: str
) -> Metric:
    return Metric(PREFIX + name, kind, text, labels)


METRICS = (
    _metric("build_info", "info", "The program: 1.", "version"),
    _metric("model_info", "info", "The model that recognizes: 1.", "model_id", "runtime", "precision"),
    _metric("fault", "gauge", "1 while there is no model or no store to recognize with, else 0."),
    _metric("frames_total", "counter", "Frames that were looked at, by what they came to.", "result"),
    _metric(
        "stage_duration_seconds",
        "histogram",
        "What a frame takes, by stage: it waits, is made ready (imaging), embedded (encode), compared (decide); frame is "
        "all but the wait.",
        "stage",
    ),
    _metric("recognitions_total", "counter", "How often an object appeared.", "uid", "name"),
    _metric("object_present", "gauge", "1 while the object is there, else 0.", "uid", "name"),
    _metric("objects_present", "gauge", "Objects that are there now."),
    _metric("objects", "gauge", "Objects that are registered."),
    _metric("views", "gauge", "Views of all objects."),
    _metric("threshold", "gauge", "The probability from which on an object is recognized."),
    _metric(
        "registrations_total", "counter", "Views that were learned, by where the wish came from.", "source"
    ),
    _metric("refusals_total", "counter", "Registrations that were refused, by the reason.", "reason"),
    _metric("events_total", "counter", "Events, by kind.", "kind"),
    _metric("camera_up", "gauge", "1 while the camera gives frames, else 0."),
    _metric("camera_frames_total", "counter", "Frames that the camera gave."),
    _metric(
        "camera_dropped_frames_total",
        "counter",
        "Of these, frames that were not looked at: beyond the rate, or replaced by a newer one.",
    ),
    _metric("camera_restarts_total", "counter", "How often the camera was opened again, or it was tried."),
    _metric("camera_frames_per_second", "gauge", "Frames looked at in a second, lately."),
    _metric(
        "camera_wanted_frames_per_second", "gauge", "Frames to look at in a second, as the settings say."
    ),
    _metric("panel_up", "gauge", "1 while button and light work, else 0."),
    _metric("store_repaired", "gauge", "1 if this daemon found its store damaged and repaired it, else 0."),
    _metric("extra_up", "gauge", "1 while an extra that is turned on works, else 0.", "extra"),
    _metric("temperature_celsius", "gauge", "Of the processor."),
    _metric(
        "throttled", "gauge", "1 while the firmware of the board tells of a condition, else 0.", "condition"
    ),
    _metric("memory_limit_bytes", "gauge", "What the daemon may take: its limit, or else all memory."),
    _metric("disk_free_bytes", "gauge", "Room for objects, models and events."),
)
"""All figures; those of the process (`process_…`) come from the library."""


@dataclass(frozen=True)
class Spread:
    """The value of a histogram."""

    buckets: tuple[tuple[str, int], ...]
    """Bounds, the last `+Inf`, with how many times were no longer."""
    sum_s: float


@dataclass(frozen=True)
class Family:
    """A figure and its values now."""

    metric: Metric
    samples: tuple[tuple[tuple[str, ...], float | Spread], ...]
    """The labels' values, and the value; of an info the value is 1."""


@dataclass(frozen=True)
class Reading:
    """All that figures are made of, at one moment."""

    report: Mapping[str, Any]
    """As `status` tells it."""
    tally: Tally
    stages: Mapping[Stage, Histogram]
    present: frozenset[str]
    """The uids of the objects that are there."""
    wanted_rate: float
    """Frames a second."""
    machine: Machine


class Labeled:
    """The objects with series of their own: the first ones that appeared, while they are not forgotten."""

    def __init__(self, most: int = MAX_OBJECTS) -> None:
        self._most = most
        self._uids: dict[str, None] = {}

    def choose(self, known: Iterable[str]) -> tuple[str, ...]:
        """Of these uids, those with a series: the same as the last time, and others as far as there is room."""
        known = dict.fromkeys(known)
        self._uids = {uid: None for uid in self._uids if uid in known}
        for uid in known:
            if len(self._uids) >= self._most:
                break
            self._uids.setdefault(uid)
        return tuple(self._uids)


def families(reading: Reading, labeled: Labeled) -> list[Family]:
    """All figures that have a value now, in the order of `METRICS`."""
    values = {
        **_of_recognition(reading, labeled),
        **_of_parts(reading.report),
        **_of_machine(reading.machine),
    }
    values["camera_wanted_frames_per_second"] = reading.wanted_rate
    found = []
    for metric in METRICS:
        value = values.get(metric.name.removeprefix(PREFIX))
        if value is None:
            continue
        samples = value if isinstance(value, dict) else {(): value}
        if samples:
            found.append(Family(metric, tuple(samples.items())))
    return found


_Value = float | None | dict[tuple[str, ...], float] | dict[tuple[str, ...], Spread]


def _of_recognition(reading: Reading, labeled: Labeled) -> dict[str, _Value]:
    report, tally = reading.report, reading.tally
    objects = {uid: (uid, tally.recognitions[uid][0]) for uid in labeled.choose(tally.recognitions)}
    model = report["model"]
    return {
        "build_info": {(report["version"],): 1.0},
        "model_info": model and {(model["model_id"], model["runtime"], model["precision"]): 1.0},
        "fault": float(bool(report["fault"])),
        "frames_total": _by_label(tally.frames),
        "stage_duration_seconds": {(stage,): spread(times) for stage, times in reading.stages.items()},
        "recognitions_total": {labels: float(tally.recognitions[uid][1]) for uid, labels in objects.items()},
        "object_present": {labels: float(uid in reading.present) for uid, labels in objects.items()},
        "objects_present": len(reading.present),
        "objects": report["objects"],
        "views": report["views"],
        "threshold": model and model["threshold"],
        "registrations_total": _by_label(tally.registrations, SOURCES),
        "refusals_total": _by_label(tally.refusals, REASONS),
        "events_total": _by_label(tally.events, KINDS),
    }


def _of_parts(report: Mapping[str, Any]) -> dict[str, _Value]:
    camera = report["camera"] or {}
    panel = report["panel"]
    extras = report.get("extras") or {}
    return {
        "camera_up": float(camera.get("status") == "running"),
        "camera_frames_total": camera.get("captured"),
        "camera_dropped_frames_total": camera.get("dropped"),
        "camera_restarts_total": camera.get("restarts"),
        "camera_frames_per_second": camera.get("fps", 0.0),
        "panel_up": panel and float(not panel["problem"] and not panel["stuck"]),
        "store_repaired": float(bool(report["store"]["repair"])),
        "extra_up": {(name,): float(told.get("works", True)) for name, told in extras.items()},
    }


def _of_machine(machine: Machine) -> dict[str, _Value]:
    conditions: dict[tuple[str, ...], float] = {}
    if machine.throttling is not None:
        conditions = {(condition,): float(condition in machine.throttling.now) for condition in CONDITIONS}
    return {
        "temperature_celsius": machine.temperature_c,
        "throttled": conditions,
        "memory_limit_bytes": machine.memory_limit,
        "disk_free_bytes": machine.disk_free,
    }


def spread(times: Histogram) -> Spread:
    """A histogram as Prometheus has it: each bucket counts what those before it count, too."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, BUCKETS_SECONDS), "+Inf"), list(times.counts), strict=True):
        total += count
        buckets.append((bound, total))
    return Spread(tuple(buckets), times.sum_s)


def _by_label(counted: Mapping[str, int], known: Iterable[str] = ()) -> dict[tuple[str, ...], float]:
    """With a zero for what is known to come: else Prometheus would not see the first one as an increase."""
    return {(label,): float(count) for label, count in {**dict.fromkeys(known, 0), **counted}.items()}
