"""Figures: their names, their values, and what is left out where nothing is known."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.daemon.telemetry import BUCKETS_SECONDS, Histogram, Telemetry
from edge_siamese.events import KINDS, Event
from edge_siamese.metrics.collect import (
    CONDITIONS,
    MAX_OBJECTS,
    METRICS,
    REASONS,
    SOURCES,
    HistogramValue,
    MachineState,
    ObjectSeries,
    Snapshot,
    collect,
    histogram_value,
    memory_limit,
    read_machine,
)
from edge_siamese.recognition.registration import Reason
from edge_siamese.system.board import Throttling

GIB = 1024**3
REPORT: dict[str, Any] = {
    "version": "1.2.3",
    "fault": "",
    "model": {
        "model_id": "objects-187",
        "runtime": "tflite-runtime 2.14.0",
        "precision": "int8",
        "threshold": 0.75,
    },
    "objects": 3,
    "views": 7,
    "camera": {"status": "running", "captured": 900, "dropped": 600, "restarts": 2, "fps": 9.9},
    "panel": {"problem": None, "stuck": False},
    "store": {"repair": None},
    "integrations": {"mqtt": {"state": "the broker is away", "works": False}, "metrics": {"state": "served"}},
}
MACHINE = MachineState(temperature_c=61.5, throttling=Throttling(0b0101), memory_limit=10**8, disk_free=10**9)


def telemetry() -> Telemetry:
    made = Telemetry()
    made.frame([("", "recognized")], {"wait": 0.004, "imaging": 0.0004, "encode": 0.0012, "frame": 0.002})
    made.frame([("", "recognized")], {"wait": 0.004, "imaging": 0.0004, "encode": 7.0, "frame": 7.1})
    made.frame([("", "blank")], {"wait": 0.004, "frame": 0.0001})
    for uid, name, kind in (
        ("a", "mug", "appeared"),
        ("a", "mug", "left"),
        ("b", "pen", "appeared"),
        ("a", "mug", "appeared"),
    ):
        made.event(Event(kind, "", data={"uid": uid, "name": name}))  # type: ignore[arg-type]
    made.event(Event("registered", "", data={"uid": "a", "name": "mug", "source": "button"}))
    made.event(Event("refused", "", data={"reason": Reason.DARK.problem, "source": "button"}))
    return made


def values(
    report: dict[str, Any] = REPORT,
    machine: MachineState = MACHINE,
    labeled: ObjectSeries | None = None,
    **more: Any,
) -> dict[str, dict[tuple[str, ...], Any]]:
    made = more.pop("telemetry", None) or telemetry()
    snapshot = Snapshot(
        report=report,
        counts=made.counts(),
        stages=made.stages,
        present=frozenset({("a", "")}),
        target_rate=10.0,
        machine=machine,
    )
    found = collect(snapshot, labeled or ObjectSeries())
    return {family.metric.name.removeprefix("edge_siamese_"): dict(family.samples) for family in found}


def counted(samples: dict[tuple[str, ...], float]) -> dict[str, float]:
    """What is not zero, by the first label."""
    return {labels[0]: value for labels, value in samples.items() if value}


def test_names_follow_prometheus_conventions() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"edge_siamese_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.name.endswith("_info") == (metric.kind == "info"), metric.name
        assert not re.search(r"_(ms|mb|kb|milliseconds|percent|count|sum|bucket)$", metric.name)
        assert metric.help.endswith(".") and "\n" not in metric.help
        assert all(re.fullmatch(r"[a-z_]+", label) for label in metric.labels)


def test_every_metric_has_a_value_if_all_is_known() -> None:
    found = values()
    assert [f"edge_siamese_{name}" for name in found] == [metric.name for metric in METRICS]
    labels = {metric.name.removeprefix("edge_siamese_"): metric.labels for metric in METRICS}
    for name, samples in found.items():
        assert samples and {len(of) for of in samples} == {len(labels[name])}, name


def test_values_match_the_daemon() -> None:
    found = values()
    assert found["frames_total"] == {
        ("recognized", ""): 2,
        ("undecided", ""): 0,
        ("unknown", ""): 0,
        ("blank", ""): 1,
        ("registering", ""): 0,
    }
    assert found["recognitions_total"] == {("b", "pen", ""): 1, ("a", "mug", ""): 2}
    assert found["object_present"] == {("b", "pen", ""): 0, ("a", "mug", ""): 1}
    assert found["objects_present"] == {(): 1}
    assert (
        found["objects"] == {(): 3} and found["views"] == {(): 7} and found["threshold_ratio"] == {(): 0.75}
    )
    # What has not come yet is there as well: Prometheus sees an increase only of what it has seen before.
    assert counted(found["registrations_total"]) == {"button": 1}
    assert set(found["registrations_total"]) == {(source,) for source in SOURCES}
    assert counted(found["refusals_total"]) == {Reason.DARK.problem: 1}
    assert set(found["refusals_total"]) == {(reason,) for reason in REASONS}
    assert counted(found["events_total"]) == {"appeared": 3, "left": 1, "registered": 1, "refused": 1}
    assert set(found["events_total"]) == {(kind,) for kind in KINDS}
    assert found["camera_up"] == {(): 1} and found["camera_restarts_total"] == {(): 2}
    assert found["camera_frames_total"] == {(): 900} and found["camera_dropped_frames_total"] == {(): 600}
    assert found["camera_frames_per_second"] == {(): 9.9}
    assert found["camera_target_frames_per_second"] == {(): 10}
    assert found["model_info"] == {("objects-187", "tflite-runtime 2.14.0", "int8"): 1}
    assert found["build_info"] == {("1.2.3",): 1}
    assert found["integration_up"] == {("mqtt",): 0, ("metrics",): 1}
    assert found["fault"] == {(): 0} and found["panel_up"] == {(): 1} and found["store_repaired"] == {(): 0}
    assert found["temperature_celsius"] == {(): 61.5}
    assert found["memory_limit_bytes"] == {(): 10**8} and found["disk_free_bytes"] == {(): 10**9}
    assert found["throttled"] == {
        ("under-voltage",): 1,
        ("frequency capped",): 0,
        ("throttled",): 1,
        ("soft temperature limit",): 0,
    }


def test_buckets_are_cumulative() -> None:
    times = Histogram()
    for seconds in (0.0001, 0.00025, 0.0003, 0.03, 60.0):
        times.observe(seconds)
    found = histogram_value(times)
    assert found.sum_s == pytest.approx(60.03065)
    assert [bound for bound, _ in found.buckets] == [*map(str, BUCKETS_SECONDS), "+Inf"]
    assert dict(found.buckets)["0.00025"] == 2 and dict(found.buckets)["0.0005"] == 3
    assert dict(found.buckets)["0.025"] == 3 and dict(found.buckets)["0.05"] == 4
    assert dict(found.buckets)["2.5"] == 4 and dict(found.buckets)["+Inf"] == 5
    by_stage = values()["stage_duration_seconds"]
    assert set(by_stage) == {("wait",), ("imaging",), ("encode",), ("decide",), ("frame",)}
    assert by_stage[("encode",)].buckets[-1] == ("+Inf", 2)
    assert by_stage[("decide",)] == HistogramValue(tuple((bound, 0) for bound, _ in found.buckets), 0.0)


def test_unknown_values_are_left_out() -> None:
    bare = {**REPORT, "model": None, "camera": None, "panel": None, "integrations": {}, "fault": "no model"}
    found = values(bare, MachineState(), telemetry=Telemetry())
    assert found["fault"] == {(): 1}
    assert found["camera_up"] == {(): 0} and found["camera_frames_per_second"] == {(): 0}
    assert {f"edge_siamese_{name}" for name in found} == {metric.name for metric in METRICS} - {
        f"edge_siamese_{name}"
        for name in (
            *("model_info", "threshold_ratio", "camera_frames_total", "camera_dropped_frames_total"),
            *("camera_restarts_total", "panel_up", "integration_up", "recognitions_total", "object_present"),
            *("temperature_celsius", "throttled", "memory_limit_bytes", "disk_free_bytes"),
        )
    }


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ({"camera": {**REPORT["camera"], "status": "stalled"}}, "camera_up", 0),
        ({"panel": {"problem": "no line", "stuck": False}}, "panel_up", 0),
        ({"panel": {"problem": None, "stuck": True}}, "panel_up", 0),
        ({"store": {"repair": "one object was lost"}}, "store_repaired", 1),
    ],
)
def test_faults_set_their_metrics(part: dict[str, Any], name: str, value: float) -> None:
    assert values({**REPORT, **part})[name] == {(): value}


def test_the_number_of_object_series_is_limited() -> None:
    labeled = ObjectSeries(2)
    a, a_elsewhere, b, c = ("a", "shelf"), ("a", "door"), ("b", "shelf"), ("c", "shelf")
    assert labeled.select([a, a_elsewhere, b]) == (a, a_elsewhere)
    # However they are ordered later, and whatever comes.
    assert labeled.select([c, b, a_elsewhere, a]) == (a, a_elsewhere)
    assert labeled.select([b, a_elsewhere]) == (a_elsewhere, b)
    assert labeled.select([]) == ()
    many = Telemetry()
    for number in range(MAX_OBJECTS + 50):
        many.event(Event("appeared", "", data={"uid": f"u{number}", "name": f"thing {number}"}))
    found = values(telemetry=many)
    assert len(found["recognitions_total"]) == len(found["object_present"]) == MAX_OBJECTS == 200
    assert counted(found["events_total"]) == {"appeared": 250}


def test_an_object_has_a_series_in_each_region() -> None:
    made = Telemetry()
    made.set_regions(["shelf", "door"])
    made.frame([("shelf", "recognized"), ("door", "unknown")], {})
    for region in ("shelf", "door", "shelf"):
        made.event(Event("appeared", "", data={"uid": "a", "name": "mug", "region": region}))
    made.event(Event("renamed", "", data={"uid": "a", "name": "cup"}))
    found = values(telemetry=made)
    assert found["recognitions_total"] == {("a", "cup", "door"): 1, ("a", "cup", "shelf"): 2}
    assert found["frames_total"]["recognized", "shelf"] == found["frames_total"]["unknown", "door"] == 1
    assert {region for _, region in found["frames_total"]} == {"shelf", "door"}
    made.set_regions(["shelf"])
    assert values(telemetry=made)["recognitions_total"] == {("a", "cup", "shelf"): 2}


# --- the machine, from trees of files ---


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_conditions_cover_all_four_firmware_flags() -> None:
    assert CONDITIONS == ("under-voltage", "frequency capped", "throttled", "soft temperature limit")


def test_the_machine_state_is_read_from_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal:        4000000 kB\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "61500\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        },
    )
    found = read_machine(tmp_path, tmp_path)
    assert found.temperature_c == 61.5
    assert found.throttling == Throttling(0x50005)
    assert found.memory_limit == 3906 * 1024**2
    assert found.disk_free is not None and found.disk_free > 0


def test_an_empty_file_system_gives_no_values(tmp_path: Path) -> None:
    found = read_machine(tmp_path, tmp_path)
    assert (found.temperature_c, found.throttling, found.memory_limit) == (None, None, None)
    assert MachineState() == MachineState(None, None, None, None)


def test_the_memory_limit_is_the_minimum_of_control_groups_and_total(tmp_path: Path) -> None:
    service = "sys/fs/cgroup/system.slice/edge-siamese.service"
    write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal:        1048576 kB\n",
            "proc/self/cgroup": "0::/system.slice/edge-siamese.service\n",
            f"{service}/memory.max": "max\n",
        },
    )
    assert memory_limit(tmp_path) == GIB
    write(tmp_path, {"sys/fs/cgroup/system.slice/memory.max": f"{GIB // 2}\n"})
    assert memory_limit(tmp_path) == GIB // 2
    write(tmp_path, {f"{service}/memory.max": f"{GIB // 4}\n"})
    assert memory_limit(tmp_path) == GIB // 4
    # A limit beyond what there is limits nothing.
    write(
        tmp_path, {f"{service}/memory.max": f"{GIB * 4}\n", "sys/fs/cgroup/system.slice/memory.max": "max\n"}
    )
    assert memory_limit(tmp_path) == GIB


def test_other_hierarchies_and_missing_files_set_no_limit(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal:        1048576 kB\n",
            "proc/self/cgroup": "4:memory:/elsewhere\n1:name=systemd:/x\n",
        },
    )
    assert memory_limit(tmp_path) == GIB
