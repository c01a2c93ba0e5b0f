"""Timestamps that order changes on devices whose clocks disagree and jump.

A hybrid logical clock (Kulkarni et al., "Logical Physical Clocks", 2014): the time of day while it advances, and a
counter while it does not. A stamp is later than every stamp that its device has generated or seen before.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from edge_siamese.system.wall_clock import unix_ms
from edge_siamese.validation import SchemaError

LATEST_MS = 4_102_444_800_000
"""Start of the year 2100. Later stamps are invalid: they would advance the clock of every device."""
PLAUSIBLE_MS = 1_767_225_600_000
"""Start of the year 2026. A device whose clock is earlier has no valid time, and rejects no stamp."""
MAX_AHEAD_MS = 366 * 86_400_000
"""How far a stamp may be ahead of a device's clock. A board without a clock battery may be behind by as long as it was
off. Without this limit, a change with the last possible stamp could never be superseded."""
_MAX_COUNT = 0xFFFF
_STAMP = re.compile(r"([0-9a-f]{13})-([0-9a-f]{4})-([a-z0-9_-]{1,64})")
_DEVICE = re.compile(r"[a-z0-9_-]{1,64}")


def require_stamp(text: str, key: str = "stamp") -> None:
    """Raise `SchemaError` if a string is not a stamp."""
    match = _STAMP.fullmatch(text)
    if match is None or int(match[1], 16) >= LATEST_MS:
        raise SchemaError(key, f"must be a stamp, not {ascii(text)[:60]}")


def device_of(stamp: str) -> str:
    """Return the device that generated a stamp."""
    return stamp[19:]


class Clock:
    """Generates the stamps of one device. Not thread-safe."""

    def __init__(self, device: str, now_ms: Callable[[], int] = unix_ms) -> None:
        """Create a clock.

        Args:
            device: id of the device, of a-z, 0-9, _ and -; devices with the same id make equal stamps.
            now_ms: returns milliseconds since 1970.

        Raises:
            ValueError: the id is not valid.
        """
        if not _DEVICE.fullmatch(device):
            raise ValueError(
                f"a device id has 1 to 64 characters of a-z, 0-9, _ and -, not {ascii(device)[:80]}"
            )
        self.device = device
        self._now_ms = now_ms
        self._last = (0, 0)

    def is_ahead(self, stamp: str) -> bool:
        """Return whether a stamp is too far in the future to be accepted."""
        return self._is_ahead(int(stamp[:13], 16), self._now_ms())

    def observe(self, stamp: str) -> None:
        """Make all further stamps later than this one, unless it is too far in the future."""
        if not self.is_ahead(stamp):
            self._last = max(self._last, (int(stamp[:13], 16), int(stamp[14:18], 16)))

    def next(self) -> str:
        """Return a stamp later than all before; once the last possible one is reached, return it again."""
        now, (last, count) = self._now_ms(), self._last
        if self._is_ahead(last, now):  # observed or generated while the clock was wrong
            last, count = 0, 0
        if last < now < LATEST_MS:
            self._last = now, 0
        elif count < _MAX_COUNT:
            self._last = last, count + 1
        elif last + 1 < LATEST_MS:
            self._last = last + 1, 0
        return f"{self._last[0]:013x}-{self._last[1]:04x}-{self.device}"

    @staticmethod
    def _is_ahead(then: int, now: int) -> bool:
        return now >= PLAUSIBLE_MS and then > now + MAX_AHEAD_MS
