"""How long to wait before something that failed is tried again: longer each time, up to a limit."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Pauses, one after the other, each twice as long; from the start again once all is well."""

    def __init__(self, first: float, longest: float, *, chance: Callable[[], float] = lambda: 1.0) -> None:
        """Nothing has failed yet.

        Args:
            first: seconds of the first pause.
            longest: seconds; none is longer.
            chance: a number from 0 to 1, which takes up to a half off a pause. With `random.random`, devices that lost
                something together do not come back to it together.
        """
        self._first, self._longest, self._chance = first, longest, chance
        self._next = first

    def pause(self, least: float = 0.0) -> float:
        """Seconds to wait now; `least` stands in for a pause that would be shorter."""
        now, self._next = max(self._next, least), min(self._longest, self._next * 2)
        return now * (1 + self._chance()) / 2

    def reset(self) -> None:
        """All is well."""
        self._next = self._first
