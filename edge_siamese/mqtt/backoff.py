"""How long to wait before a broker is tried again: longer each time, and never in step with other devices."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Pace:
    """Seconds between attempts."""

    first: float = 1.0
    """After the first failure; doubled with each one that follows."""
    most: float = 120.0
    """Never longer than so."""
    refused: float = 60.0
    """At least so long where the broker refuses the user: a wrong password does not mend itself, and tries are logged."""
    stable: float = 10.0
    """A connection that lasted for so long makes the next wait a short one again."""


class Backoff:
    """The waits, one after the other."""

    def __init__(self, pace: Pace, chance: Callable[[], float] = random.random) -> None:
        """Nothing has failed yet.

        Args:
            pace: the seconds.
            chance: a number from 0 to below 1; devices that lost one broker together must not come back together.
        """
        self._pace, self._chance = pace, chance
        self._failures = 0

    def failed(self, *, refused: bool = False) -> float:
        """How long to wait now, in seconds: between a half and all of what is due."""
        due = self._pace.most
        if self._failures < 32:
            due = min(due, self._pace.first * 2**self._failures)
        self._failures += 1
        if refused:
            due = max(due, self._pace.refused)
        return due * (1 + self._chance()) / 2

    def lasted(self, seconds: float) -> None:
        """There was a connection for so long."""
        if seconds >= self._pace.stable:
            self._failures = 0
