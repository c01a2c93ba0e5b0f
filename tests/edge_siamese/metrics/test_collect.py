"""Figures: their names, their values, and what is left out where nothing is known."""

from __future__ import annotations

import re
from typing import Any

import pytest

from edge_siamese.daemon.telemetry import BUCKETS_SECONDS, Histogram, Telemetry
from edge_siamese.events import KINDS, Event
from edge_siamese.metrics.collect import (
    MAX_OBJECTS,
    METRICS,
    REASONS,
    SOURCES,
    Labeled,
    Reading,
    Spread,
    families,
    spread,
)
from edge_siamese.metrics.machine import Machine
from edge_siamese.recognition.registration import Reason
from edge_siamese.system.board import Throttling

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
    "extras": {"mqtt": {"state": "the broker is away", "works": False}, "metrics": {"state": "served"}},
}
MACHINE = Machine(temperature_c=61.5, throttling=Throttling(0b0101), memory_limit=10**8, disk_free=10**9)


def telemetry() -> Telemetry:
    made = Telemetry()
    made.frame("recognized", {"wait": 0.004, "imaging": 0.0004, "encode": 0.0012, "frame": 0.002})
    made.frame("recognized", {"wait": 0.004, "imaging": 0.0004, "encode": 7.0, "frame": 7.1})
    made.frame("nothing", {"wait": 0.004, "frame": 0.0001})
    for uid, name, kind in (
        ("a", "mug", "appeared"),
        ("a", "mug", "left"),
        ("b", "pen", "appeared"),
        ("a", "mug", "appeared"),
    ):
        made.event(Event(kind, "", data={"uid": uid, "name": name}))  # type: ignore[arg-type]
    made.event(Event("registered", "", data={"uid": "a", "name": "mug", "source": "button"}))
    made.event(Event("refused", "", data={"reason": Reason.DARK.what, "source": "button"}))
    return made


def values(
    report: dict[str, Any] = REPORT, machine: Machine = MACHINE, labeled: Labeled | None = None, **more: Any
) -> dict[str, dict[tuple[str, ...], Any]]:
    made = more.pop("telemetry", None) or telemetry()
    reading = Reading(
        report=report,
        tally=made.tally(),
        stages=made.stages,
        present=frozenset({"a"}),
        wanted_rate=10.0,
        machine=machine,
    )
    found = families(reading, labeled or Labeled())
    return {family.metric.name.removeprefix("edge_siamese_"): dict(family.samples) for family in found}


def counted(samples: dict[tuple[str, ...], float]) -> dict[str, float]:
    """What is not zero, by the first label."""
    return {labels[0]: value for labels, value in samples.items() if value}


def test_names_are_as_prometheus_has_them() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"edge_siamese_[a-z_]+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.name.endswith("_info") == (metric.kind == "info"), metric.name
        assert not re.search(r"_(ms|mb|kb|milliseconds|percent|count|sum|bucket)$", metric.name)
        assert metric.help.endswith(".") and "\n" not in metric.help
        assert all(re.fullmatch(r"[a-z_]+", label) for label in metric.labels)


def test_every_figure_has_a_value_where_all_is_known() -> None:
    found = values()
    assert [f"edge_siamese_{name}" for name in found] == [metric.name for metric in METRICS]
    labels = {metric.name.removeprefix("edge_siamese_"): metric.labels for metric in METRICS}
    for name, samples in found.items():
        assert samples and {len(of) for of in samples} == {len(labels[name])}, name


def test_values_are_those_of_the_daemon() -> None:
    found = values()
    assert found["frames_total"] == {
        ("recognized",): 2,
        ("unknown",): 0,
        ("nothing",): 1,
        ("learning",): 0,
    }
    assert found["recognitions_total"] == {("b", "pen"): 1, ("a", "mug"): 2}
    assert found["object_present"] == {("b", "pen"): 0, ("a", "mug"): 1}
    assert found["objects_present"] == {(): 1}
    assert found["objects"] == {(): 3} and found["views"] == {(): 7} and found["threshold"] == {(): 0.75}
    # What has not come yet is there as well: Prometheus sees an increase only of what it has seen before.
    assert counted(found["registrations_total"]) == {"button": 1}
    assert set(found["registrations_total"]) == {(source,) for source in SOURCES}
    assert counted(found["refusals_total"]) == {Reason.DARK.what: 1}
    assert set(found["refusals_total"]) == {(reason,) for reason in REASONS}
    assert counted(found["events_total"]) == {"appeared": 3, "left": 1, "registered": 1, "refused": 1}
    assert set(found["events_total"]) == {(kind,) for kind in KINDS}
    assert found["camera_up"] == {(): 1} and found["camera_restarts_total"] == {(): 2}
    assert found["camera_frames_total"] == {(): 900} and found["camera_dropped_frames_total"] == {(): 600}
    assert found["camera_frames_per_second"] == {(): 9.9}
    assert found["camera_wanted_frames_per_second"] == {(): 10}
    assert found["model_info"] == {("objects-187", "tflite-runtime 2.14.0", "int8"): 1}
    assert found["build_info"] == {("1.2.3",): 1}
    assert found["extra_up"] == {("mqtt",): 0, ("metrics",): 1}
    assert found["fault"] == {(): 0} and found["panel_up"] == {(): 1} and found["store_repaired"] == {(): 0}
    assert found["temperature_celsius"] == {(): 61.5}
    assert found["memory_limit_bytes"] == {(): 10**8} and found["disk_free_bytes"] == {(): 10**9}
    assert found["throttled"] == {
        ("under-voltage",): 1,
        ("frequency capped",): 0,
        ("throttled",): 1,
        ("soft temperature limit",): 0,
    }


def test_buckets_count_what_those_before_them_count() -> None:
    times = Histogram()
    for seconds in (0.0001, 0.00025, 0.0003, 0.03, 60.0):
        times.observe(seconds)
    found = spread(times)
    assert found.sum_s == pytest.approx(60.03065)
    assert [bound for bound, _ in found.buckets] == [*map(str, BUCKETS_SECONDS), "+Inf"]
    assert dict(found.buckets)["0.00025"] == 2 and dict(found.buckets)["0.0005"] == 3
    assert dict(found.buckets)["0.025"] == 3 and dict(found.buckets)["0.05"] == 4
    assert dict(found.buckets)["2.5"] == 4 and dict(found.buckets)["+Inf"] == 5
    by_stage = values()["stage_duration_seconds"]
    assert set(by_stage) == {("wait",), ("imaging",), ("encode",), ("decide",), ("frame",)}
    assert by_stage[("encode",)].buckets[-1] == ("+Inf", 2)
    assert by_stage[("decide",)] == Spread(tuple((bound, 0) for bound, _ in found.buckets), 0.0)


def test_what_cannot_be_known_is_left_out() -> None:
    bare = {**REPORT, "model": None, "camera": None, "panel": None, "extras": {}, "fault": "no model"}
    found = values(bare, Machine(), telemetry=Telemetry())
    assert found["fault"] == {(): 1}
    assert found["camera_up"] == {(): 0} and found["camera_frames_per_second"] == {(): 0}
    assert {f"edge_siamese_{name}" for name in found} == {metric.name for metric in METRICS} - {
        f"edge_siamese_{name}"
        for name in (
            *("model_info", "threshold", "camera_frames_total", "camera_dropped_frames_total"),
            *("camera_restarts_total", "panel_up", "extra_up", "recognitions_total", "object_present"),
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
def test_faults_are_figures(part: dict[str, Any], name: str, value: float) -> None:
    assert values({**REPORT, **part})[name] == {(): value}


def test_few_objects_get_series_of_their_own_and_keep_them() -> None:
    labeled = Labeled(2)
    assert labeled.choose(["a", "b", "c"]) == ("a", "b")
    # However they are ordered later, and whatever comes.
    assert labeled.choose(["d", "c", "b", "a"]) == ("a", "b")
    assert labeled.choose(["c", "b"]) == ("b", "c")
    assert labeled.choose([]) == ()
    many = Telemetry()
    for number in range(MAX_OBJECTS + 50):
        many.event(Event("appeared", "", data={"uid": f"u{number}", "name": f"thing {number}"}))
    found = values(telemetry=many)
    assert len(found["recognitions_total"]) == len(found["object_present"]) == MAX_OBJECTS == 200
    assert counted(found["events_total"]) == {"appeared": 250}
