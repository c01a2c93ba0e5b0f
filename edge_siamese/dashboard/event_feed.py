"""Numbers the events that happen, and keeps the latest for those who come back after a gap."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

from edge_siamese.daemon.actions import Actions
from edge_siamese.daemon.event_bus import RING
from edge_siamese.events import Event


class Feed:
    """The events since the daemon's start, at most `RING`; any thread may ask.

    Who follows remembers a number, not a queue: a slow one costs nothing, and sees by the numbers what it has missed.
    """

    def __init__(self, actions: Actions) -> None:
        """Nothing is kept before `open`."""
        self._hub = actions.hub
        self._kept: deque[dict[str, Any]] = deque(maxlen=RING)
        # Milliseconds of the clock, so that a number from before a restart is not taken for one of now.
        self._first = self._next = time.time_ns() // 1_000_000
        self._early: list[Event] | None = []
        self._over = False
        self._changing = threading.Lock()

    def open(self) -> None:
        """Listen, and take what has happened before."""
        self._hub.listen(self._hear)
        before = self._hub.latest(RING)
        with self._changing:
            early, self._early = self._early or [], None
            for event in [
                *before,
                *(event for event in early if not any(event is known for known in before)),
            ]:
                self._keep(event)

    def close(self) -> None:
        """Keep nothing any more."""
        self._hub.unlisten(self._hear)
        with self._changing:
            self._over = True
            self._kept.clear()

    @property
    def newest(self) -> int:
        """The number of the latest event."""
        return self._next - 1

    def latest(self, count: int) -> list[dict[str, Any]]:
        """The latest events, at most `count`, the oldest first, each with its number as `seq`."""
        with self._changing:
            return list(self._kept)[-count:] if count > 0 else []

    def after(self, number: int) -> tuple[list[dict[str, Any]], int]:
        """The events after this number, and how many of them are not kept any more.

        After a number of another daemon's life, all that are kept.
        """
        with self._changing:
            if not self._kept:
                return [], 0
            if not self._first - 1 <= number < self._next:
                return list(self._kept), 0
            oldest = self._next - len(self._kept)
            return list(self._kept)[max(0, number + 1 - oldest) :], max(0, oldest - 1 - number)

    def _hear(self, event: Event) -> None:
        with self._changing:
            if self._early is not None:
                self._early.append(event)
            elif not self._over:
                self._keep(event)

    def _keep(self, event: Event) -> None:
        self._kept.append({"seq": self._next, **event.to_dict()})
        self._next += 1
