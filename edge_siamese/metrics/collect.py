"""Metrics of the daemon: definitions and current values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_siamese.daemon.telemetry import BUCKETS_SECONDS, Counts, Histogram, Stage
from edge_siamese.events import KINDS
from edge_siamese.recognition.registration import Reason
from edge_siamese.system import board

PREFIX = "edge_siamese_"
MAX_OBJECTS = 200
"""Objects in regions with time series of their own: Prometheus keeps each series for its whole retention time."""

SOURCES = ("button", "command", "picture", "dashboard", "mqtt")
REASONS = (*(reason.problem for reason in Reason), "failed", "ended")
CONDITIONS = board.Throttling(0b1111).now
"""Conditions that the firmware of a Raspberry Pi reports while it throttles the board."""

Kind = Literal["counter", "gauge", "histogram", "info"]


@dataclass(frozen=True)
class Metric:
    """The definition of a metric."""

    name: str
    """With its unit, and `_total` if it is a counter."""
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


def _metric(name: str, kind: Kind, help: str, *labels: str) -> Metric:
    return Metric(PREFIX + name, kind, help, labels)


METRICS = (
    _metric("build_info", "info", "Version of the program; the value is 1.", "version"),
    _metric("model_info", "info", "The current model; the value is 1.", "model_id", "runtime", "precision"),
    _metric(
        "fault",
        "gauge",
        "1 if recognition is not possible because the model or the store fails, 0 otherwise.",
    ),
    _metric(
        "frames_total",
        "counter",
        "Processed frames, by result (recognized, undecided, unknown, blank, registering) and region.",
        "result",
        "region",
    ),
    _metric(
        "stage_duration_seconds",
        "histogram",
        "Processing time of a frame by stage: wait, imaging, encode, decide; frame is the sum without wait.",
        "stage",
    ),
    _metric(
        "recognitions_total",
        "counter",
        "Number of times that an object appeared in a region.",
        "uid",
        "name",
        "region",
    ),
    _metric(
        "object_present",
        "gauge",
        "1 if the object is present in the region, 0 otherwise.",
        "uid",
        "name",
        "region",
    ),
    _metric("objects_present", "gauge", "Number of objects that are present."),
    _metric("objects", "gauge", "Number of registered objects."),
    _metric("views", "gauge", "Number of views of all objects."),
    _metric("threshold_ratio", "gauge", "Probability above which an object is recognized, 0 to 1."),
    _metric(
        "registrations_total",
        "counter",
        "Registered views, by source of the request: button, command, picture, dashboard, mqtt.",
        "source",
    ),
    _metric("refusals_total", "counter", "Refused registrations, by reason.", "reason"),
    _metric("events_total", "counter", "Published events, by kind.", "kind"),
    _metric("camera_up", "gauge", "1 if the camera delivers frames, 0 otherwise."),
    _metric("camera_frames_total", "counter", "Frames that the camera delivered."),
    _metric(
        "camera_dropped_frames_total",
        "counter",
        "Delivered frames that were not processed: beyond the frame rate, or replaced by a newer frame.",
    ),
    _metric("camera_restarts_total", "counter", "Attempts to reopen the camera."),
    _metric("camera_frames_per_second", "gauge", "Recent rate of processed frames."),
    _metric("camera_target_frames_per_second", "gauge", "Rate of frames to process, from the settings."),
    _metric("panel_up", "gauge", "1 if button and LED work, 0 otherwise."),
    _metric(
        "store_repaired", "gauge", "1 if damage was found in the object store since the start, 0 otherwise."
    ),
    _metric("integration_up", "gauge", "1 if an enabled integration works, 0 otherwise.", "integration"),
    _metric("temperature_celsius", "gauge", "Temperature of the processor."),
    _metric("throttled", "gauge", "1 if the board's firmware reports a condition, 0 otherwise.", "condition"),
    _metric("memory_limit_bytes", "gauge", "Memory that the daemon may use: its limit, or all memory."),
    _metric("disk_free_bytes", "gauge", "Free space for objects, models and events."),
)
"""All metrics of the daemon; those of the process (`process_...`) come from prometheus-client."""


@dataclass(frozen=True)
class HistogramValue:
    """The value of a histogram."""

    buckets: tuple[tuple[str, int], ...]
    """(upper bound, number of observations up to it); the last bound is `+Inf`."""
    sum_s: float
    """Sum of all observations, in seconds."""


@dataclass(frozen=True)
class MetricFamily:
    """A metric and its current samples."""

    metric: Metric
    samples: tuple[tuple[tuple[str, ...], float | HistogramValue], ...]
    """(values of the labels, value); the value of an info is 1."""


@dataclass(frozen=True)
class MachineState:
    """State of the machine; None: not available here."""

    temperature_c: float | None = None
    throttling: board.Throttling | None = None
    memory_limit: int | None = None
    """Memory that the daemon may use, in bytes."""
    disk_free: int | None = None
    """Free space next to the objects, in bytes."""


@dataclass(frozen=True)
class Snapshot:
    """The input of the metrics at one point in time."""

    report: Mapping[str, Any]
    """The daemon's `status`."""
    counts: Counts
    stages: Mapping[Stage, Histogram]
    present: frozenset[tuple[str, str]]
    """(uid, region) of the objects that are present."""
    target_rate: float
    """Frames to process per second."""
    machine: MachineState


class ObjectSeries:
    """The objects in regions with time series of their own: the first ones to appear, until they are forgotten."""

    def __init__(self, limit: int = MAX_OBJECTS) -> None:
        self._limit = limit
        self._keys: dict[tuple[str, str], None] = {}

    def select(self, keys: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Return those of these (uid, region) that have a series: the previous ones, and new ones while there is room."""
        keys = dict.fromkeys(keys)
        self._keys = {key: None for key in self._keys if key in keys}
        for key in keys:
            if len(self._keys) >= self._limit:
                break
            self._keys.setdefault(key)
        return tuple(self._keys)


def collect(snapshot: Snapshot, series: ObjectSeries) -> list[MetricFamily]:
    """Return all metrics that have a value now, in the order of `METRICS`."""
    values = {
        **_recognition_values(snapshot, series),
        **_device_values(snapshot.report),
        **_machine_values(snapshot.machine),
        "camera_target_frames_per_second": snapshot.target_rate,
    }
    families = []
    for metric in METRICS:
        value = values.get(metric.name.removeprefix(PREFIX))
        if value is None:
            continue
        samples = value if isinstance(value, dict) else {(): value}
        if samples:
            families.append(MetricFamily(metric, tuple(samples.items())))
    return families


_Value = float | None | dict[tuple[str, ...], float] | dict[tuple[str, ...], HistogramValue]


def _recognition_values(snapshot: Snapshot, series: ObjectSeries) -> dict[str, _Value]:
    report, counts = snapshot.report, snapshot.counts
    objects = {
        (uid, region): (uid, counts.recognitions[uid, region][0], region)
        for uid, region in series.select(counts.recognitions)
    }
    model = report["model"]
    return {
        "build_info": {(report["version"],): 1.0},
        "model_info": model and {(model["model_id"], model["runtime"], model["precision"]): 1.0},
        "fault": float(bool(report["fault"])),
        "frames_total": {labels: float(count) for labels, count in counts.frames.items()},
        "stage_duration_seconds": {
            (stage,): histogram_value(times) for stage, times in snapshot.stages.items()
        },
        "recognitions_total": {labels: float(counts.recognitions[key][1]) for key, labels in objects.items()},
        "object_present": {labels: float(key in snapshot.present) for key, labels in objects.items()},
        "objects_present": len({uid for uid, _ in snapshot.present}),
        "objects": report["objects"],
        "views": report["views"],
        "threshold_ratio": model and model["threshold"],
        "registrations_total": _by_label(counts.registrations, SOURCES),
        "refusals_total": _by_label(counts.refusals, REASONS),
        "events_total": _by_label(counts.events, KINDS),
    }


def _device_values(report: Mapping[str, Any]) -> dict[str, _Value]:
    camera = report["camera"] or {}
    panel = report["panel"]
    integrations = report.get("integrations") or {}
    return {
        "camera_up": float(camera.get("status") == "running"),
        "camera_frames_total": camera.get("captured"),
        "camera_dropped_frames_total": camera.get("dropped"),
        "camera_restarts_total": camera.get("restarts"),
        "camera_frames_per_second": camera.get("fps", 0.0),
        "panel_up": panel and float(not panel["problem"] and not panel["stuck"]),
        "store_repaired": float(bool(report["store"]["repair"])),
        "integration_up": {(name,): float(state.get("works", True)) for name, state in integrations.items()},
    }


def _machine_values(machine: MachineState) -> dict[str, _Value]:
    conditions: dict[tuple[str, ...], float] = {}
    if machine.throttling is not None:
        conditions = {(condition,): float(condition in machine.throttling.now) for condition in CONDITIONS}
    return {
        "temperature_celsius": machine.temperature_c,
        "throttled": conditions,
        "memory_limit_bytes": machine.memory_limit,
        "disk_free_bytes": machine.disk_free,
    }


def histogram_value(times: Histogram) -> HistogramValue:
    """Convert a histogram to cumulative buckets, as Prometheus expects."""
    total, buckets = 0, []
    for bound, count in zip((*map(str, BUCKETS_SECONDS), "+Inf"), list(times.counts), strict=True):
        total += count
        buckets.append((bound, total))
    return HistogramValue(tuple(buckets), times.sum_s)


def _by_label(counts: Mapping[str, int], known: Iterable[str] = ()) -> dict[tuple[str, ...], float]:
    """Return counts by label, with zeros for known labels: Prometheus counts no increase in the first sample of a series."""
    return {(label,): float(count) for label, count in {**dict.fromkeys(known, 0), **counts}.items()}


def read_machine(state: Path, root: Path = board.ROOT) -> MachineState:
    """Read the state of this machine from a few small files, without running a command.

    Args:
        state: the directory of the objects.
        root: root of the file system.
    """
    return MachineState(
        temperature_c=board.temperature(root),
        throttling=board.throttling(root, run=lambda _: None),
        memory_limit=memory_limit(root),
        disk_free=board.disk_free(state),
    )


def memory_limit(root: Path = board.ROOT) -> int | None:
    """Return the memory limit of this process in bytes: that of its control groups, or all memory; None if unknown."""
    total = board.read_board(root).memory_mib * 1024**2
    limits = [total] if total else []
    # The only hierarchy of version 2 is the line "0::/system.slice/edge-siamese.service".
    lines = _lines(root / "proc/self/cgroup")
    own = next((line[3:] for line in lines if line.startswith("0::/")), "/")
    groups = root / "sys/fs/cgroup"
    group = groups / own.strip("/")
    while group != groups:
        limits += [int(line) for line in _lines(group / "memory.max") if line.isdecimal()]
        group = group.parent
    return min(limits, default=None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
