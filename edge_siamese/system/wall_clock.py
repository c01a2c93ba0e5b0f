"""The wall clock, which jumps: the only module that reads it.

A board without a clock battery boots with a time that may be months old, and its clock is set later, ahead
or back. Therefore:

- Durations, deadlines and ages use `time.monotonic`, or `asyncio`'s clock. It starts again at each boot.
- Orders come from counters, positions in a file, or revisions, because a later time may belong to an older record.
- A time from this module is only displayed. It may lie in the far past or future, so nothing is removed, refused or chosen
  because of it.
- A time that is displayed for long is stored as monotonic time, and converted by `utc_ago` when it is read.

Stamps that order the changes of several devices are hybrid logical clocks, which start from `unix_ms`: `fleet/clock.py`.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

SET_SECONDS = 60.0
"""A larger jump means that the clock was set; smaller ones are corrections of its rate."""


def unix_ms() -> int:
    """Return the time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def utc_ago(seconds: float) -> str:
    """Return the time some seconds ago, by the current setting of the clock: UTC, ISO 8601, milliseconds."""
    instant = datetime.fromtimestamp(unix_ms() / 1000, UTC) - timedelta(seconds=max(0.0, seconds))
    return instant.isoformat(timespec="milliseconds")


def utc_now() -> str:
    """Return the current time: UTC, ISO 8601, milliseconds."""
    return utc_ago(0.0)


def local_time(instant: str, layout: str = "%Y-%m-%d %H:%M") -> str:
    """Format an instant in local time; text that is not an ISO 8601 time is returned unchanged."""
    try:
        return datetime.fromisoformat(instant).astimezone().strftime(layout)
    except (ValueError, OverflowError):
        return instant


def steady(before: str, now: str) -> str:
    """Return one of two computations of the same time: the former one, unless it is empty or the clock was set since."""
    if not before:
        return now
    difference = datetime.fromisoformat(now) - datetime.fromisoformat(before)
    return now if abs(difference.total_seconds()) > SET_SECONDS else before
