"""Stamps that say which of two changes is the later one, on devices whose clocks disagree and jump.

A hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): the time of day where it moves on, and a
counter where it does not. A stamp is later than every stamp that its device has seen before, its own and others'.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from edge_siamese.validation import SchemaError

_FORM = re.compile(r"([0-9a-f]{13})-([0-9a-f]{4})-([a-z0-9_-]{1,64})")
_DEVICE = re.compile(r"[a-z0-9_-]{1,64}")
_MAX_COUNT = 0xFFFF
LATEST_MS = 4_102_444_800_000
"""The first moment of the year 2100: what claims to be later is no stamp, and must not drag everybody's clock there."""

PLAUSIBLE_MS = 1_767_225_600_000
"""The first moment of the year 2026: a device that thinks it is earlier has no time of day, and judges nobody by it."""
AHEAD_MS = 366 * 86_400_000
"""So far may a stamp be ahead of a device's clock. A board without a clock of its own may be behind by as long as it was
off, where nothing tells it the time; a stamp of the last moment of all would leave none to come after it."""


def wall_ms() -> int:
    """The time of day in milliseconds."""
    return time.time_ns() // 1_000_000


def require_stamp(text: str, key: str = "stamp") -> None:
    """Raise `SchemaError` if a text is no stamp."""
    found = _FORM.fullmatch(text)
    if found is None or int(found[1], 16) >= LATEST_MS:
        raise SchemaError(key, f"a stamp is needed, not {ascii(text)[:60]}")


def device_of(stamp: str) -> str:
    """The device that made a stamp."""
    return stamp[19:]


class Clock:
    """Makes the stamps of one device; used from one thread."""

    def __init__(self, device: str, now_ms: Callable[[], int] = wall_ms) -> None:
        """`device`: its id, of a-z, 0-9, _ and -; two devices with one id would make equal stamps."""
        if not _DEVICE.fullmatch(device):
            raise ValueError(f"a device's id is 1 to 64 of a-z, 0-9, _ and -, not {ascii(device)[:80]}")
        self.device = device
        self._now_ms = now_ms
        self._last = (0, 0)

    def is_late(self, stamp: str) -> bool:
        """Whether a stamp is so far ahead of a time of day that can be one, that it is to be passed over."""
        return self._is_late(int(stamp[:13], 16), self._now_ms())

    def observe(self, stamp: str) -> None:
        """See a stamp of anybody: those to come are later, unless it is to be passed over."""
        if not self.is_late(stamp):
            self._last = max(self._last, (int(stamp[:13], 16), int(stamp[14:18], 16)))

    def next(self) -> str:
        """A stamp that is later than all before; at the end of time, which a device without a time of day may be led to,
        the last one."""
        now, (last, count) = self._now_ms(), self._last
        if self._is_late(last, now):  # seen, or made here, while there was no time of day, or another
            last, count = 0, 0
        if last < now < LATEST_MS:
            self._last = now, 0
        elif count < _MAX_COUNT:
            self._last = last, count + 1
        elif last + 1 < LATEST_MS:
            self._last = last + 1, 0
        return f"{self._last[0]:013x}-{self._last[1]:04x}-{self.device}"

    @staticmethod
    def _is_late(then: int, now: int) -> bool:
        return now >= PLAUSIBLE_MS and then > now + AHEAD_MS
