"""Counters: quantiles from buckets, what events are counted as, and that they stay bounded."""

from __future__ import annotations

import pytest

from edge_siamese.daemon import telemetry
from edge_siamese.daemon.telemetry import BUCKETS_SECONDS, Histogram, Telemetry
from edge_siamese.events import Event


def test_bucket_bounds_are_inclusive() -> None:
    times = Histogram()
    for seconds in (0.0, 0.00025, 0.00026, 0.3, 9.0):
        times.observe(seconds)
    assert times.counts == [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1]
    assert times.count == 5
    assert times.sum_s == pytest.approx(9.30051)


def test_quantiles_are_interpolated_within_a_bucket() -> None:
    times = Histogram()
    assert times.quantile(0.5) is None
    for _ in range(90):
        times.observe(0.0015)
    for _ in range(10):
        times.observe(0.07)
    assert 0.001 < times.quantile(0.5) < 0.0025  # type: ignore[operator]
    assert 0.05 < times.quantile(0.95) < 0.1  # type: ignore[operator]
    # Half of the times that lie evenly in a bucket are below its middle.
    even = Histogram()
    for _ in range(4):
        even.observe(0.2)
    assert even.quantile(0.5) == pytest.approx((0.1 + 0.25) / 2)


def test_times_beyond_all_bounds_give_the_last_bound() -> None:
    times = Histogram()
    times.observe(100.0)
    assert times.quantile(0.5) == BUCKETS_SECONDS[-1]


def test_frames_and_events_are_counted() -> None:
    counted = Telemetry()
    counted.frame([("", "recognized")], {"imaging": 0.001, "frame": 0.002})
    counted.frame([("", "blank")], {"imaging": 0.001})
    mug = {"uid": "a" * 32, "name": "mug"}
    for event in (
        Event("registered", "", data={**mug, "source": "button"}),
        Event("view added", "", data={**mug, "source": "dashboard"}),
        Event("refused", "", data={"reason": "too dark"}),
        Event("appeared", "", "2026-01-01T00:00:00.000+00:00", data=mug),
        Event("seen", "", "2026-01-01T00:00:10.000+00:00", data=mug),
        Event("left", "", "2026-01-01T00:00:20.000+00:00", data=mug),
        Event("appeared", "", "2026-01-01T00:01:00.000+00:00", data=mug),
        Event("renamed", "", data={**mug, "name": "cup"}),
    ):
        counted.event(event)
    found = counted.counts()
    assert found.frames == {
        ("recognized", ""): 1,
        ("undecided", ""): 0,
        ("unknown", ""): 0,
        ("blank", ""): 1,
        ("registering", ""): 0,
    }
    assert counted.stages["imaging"].count == 2
    assert counted.stages["frame"].count == 1
    assert found.registrations == {"button": 1, "dashboard": 1}
    assert found.refusals == {"too dark": 1}
    assert found.events["appeared"] == 2
    assert found.recognitions == {("a" * 32, ""): ("cup", 2)}
    # That it left says when it was gone, not when it was seen.
    assert counted.last_seen() == {"a" * 32: "2026-01-01T00:01:00.000+00:00"}


def test_forgotten_and_merged_objects_are_no_longer_counted() -> None:
    counted = Telemetry()
    for uid in ("a", "b", "c"):
        counted.event(Event("appeared", "", data={"uid": uid, "name": uid}))
    counted.event(Event("forgotten", "", data={"uid": "a", "name": "a"}))
    counted.event(Event("merged", "", data={"uid": "c", "name": "c", "from": "b"}))
    assert counted.counts().recognitions == {("c", ""): ("c", 1)}


def test_past_events_do_not_replace_newer_sightings() -> None:
    counted = Telemetry()
    counted.event(Event("appeared", "", "2026-02-01T00:00:00.000+00:00", data={"uid": "a", "name": "a"}))
    counted.remember_seen("a", "2026-01-01T00:00:00.000+00:00")
    counted.remember_seen("b", "2026-01-02T00:00:00.000+00:00")
    assert counted.last_seen() == {
        "b": "2026-01-02T00:00:00.000+00:00",
        "a": "2026-02-01T00:00:00.000+00:00",
    }


def test_the_number_of_counted_objects_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "MAX_OBJECTS", 3)
    counted = Telemetry()
    for uid in ("a", "b", "c", "a", "d"):
        counted.event(Event("appeared", "", data={"uid": uid, "name": uid}))
    assert counted.counts().recognitions == {
        ("c", ""): ("c", 1),
        ("a", ""): ("a", 2),
        ("d", ""): ("d", 1),
    }
