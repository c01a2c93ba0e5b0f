"""Exponential backoff for retries."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Pauses between retries, each twice as long as the one before, up to a limit."""

    def __init__(self, first: float, maximum: float, *, jitter: Callable[[], float] = lambda: 1.0) -> None:
        """Start with the shortest pause.

        Args:
            first: seconds of the first pause.
            maximum: seconds of the longest pause.
            jitter: returns a number from 0 to 1, which shortens a pause by up to half. With `random.random`, devices that
                lost a server together do not reconnect at the same moment.
        """
        self._first, self._maximum, self._jitter = first, maximum, jitter
        self._next = first

    def pause(self, minimum: float = 0.0) -> float:
        """Seconds to wait now, at least `minimum`."""
        now, self._next = max(self._next, minimum), min(self._maximum, self._next * 2)
        return now * (1 + self._jitter()) / 2

    def reset(self) -> None:
        """Start again with the shortest pause, after a success."""
        self._next = self._first
