"""Instants for people from a clock that jumps."""

from __future__ import annotations

import pytest

from edge_siamese.system import wall_clock
from edge_siamese.system.wall_clock import local_time, steady, utc_ago, utc_now

MOMENT_MS = 1_769_904_000_000


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wall_clock, "unix_ms", lambda: MOMENT_MS)
    monkeypatch.setenv("TZ", "UTC")


def test_instants_have_milliseconds_and_are_in_utc() -> None:
    assert utc_now() == "2026-02-01T00:00:00.000+00:00"
    assert utc_ago(1.5) == "2026-01-31T23:59:58.500+00:00"
    assert utc_ago(-9.0) == utc_now()


def test_a_clock_that_starts_in_1970_and_an_age_from_before_are_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wall_clock, "unix_ms", lambda: 5_000)
    assert utc_ago(86_400) == "1969-12-31T00:00:05.000+00:00"


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        ("", "2026-01-01T00:00:00+00:00", "now"),
        ("2026-01-01T00:00:00+00:00", "2026-01-01T00:00:59+00:00", "before"),
        ("2026-01-01T00:00:59+00:00", "2026-01-01T00:00:00+00:00", "before"),
        ("2025-08-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00", "now"),
        ("2026-01-01T05:00:00+00:00", "2026-01-01T00:00:00+00:00", "now"),
    ],
)
def test_an_instant_changes_only_with_a_clock_that_was_set(before: str, now: str, expected: str) -> None:
    assert steady(before, now) == {"before": before, "now": now}[expected]


@pytest.mark.parametrize(
    ("instant", "expected"),
    [
        ("2026-02-01T00:00:00.000+00:00", "2026-02-0"),
        ("", ""),
        ("soon", "soon"),
        ("0001-01-01T00:00:00+14:00", "0001-"),
    ],
)
def test_instants_from_files_are_formatted_or_stay_as_they_are(instant: str, expected: str) -> None:
    assert local_time(instant).startswith(expected)
