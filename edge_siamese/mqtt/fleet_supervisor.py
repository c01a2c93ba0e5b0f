"""Starts the fleet beside the rest of MQTT, which goes on without one that cannot start, and tries that again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edge_siamese.errors import EdgeSiameseError

if TYPE_CHECKING:
    from edge_siamese.fleet import Fleet

FIRST_SECONDS, MAX_SECONDS = 5.0, 300.0
"""Until it is tried again, and at most; doubled each time."""


class FleetSupervisor:
    """This device's place in a fleet."""

    def __init__(self, collection: str, make: Callable[[], Fleet], told: Callable[[str], object]) -> None:
        """Nothing is opened before `start`.

        Args:
            collection: of the fleet.
            make: a fleet that was not started.
            told: is given, once, why it cannot start.
        """
        self._collection, self._make, self._told = collection, make, told
        self._fleet: Fleet | None = None
        self._trouble = ""
        self._wait_s = FIRST_SECONDS
        self._timer: threading.Timer | None = None
        self._closed = False
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin, or try to, now and later."""
        with self._lock:
            if self._closed:
                return
            fleet = self._make()
            try:
                fleet.start()
            except EdgeSiameseError as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    self._told(self._trouble)
                self._timer = threading.Timer(self._wait_s, self.start)
                self._timer.name, self._timer.daemon = "mqtt-fleet", True
                self._timer.start()
                self._wait_s = min(2 * self._wait_s, MAX_SECONDS)
            else:
                self._fleet, self._trouble = fleet, ""

    def report(self) -> dict[str, Any]:
        """How it is, as JSON values."""
        if self._fleet is not None:
            return self._fleet.report()
        return {
            "collection": self._collection,
            "state": "not started",
            "objects": 0,
            "to_tell": 0,
            "to_fetch": 0,
            "last_sync": None,
            "trouble": self._trouble or None,
        }

    def close(self, timeout: float) -> None:
        """End, within so many seconds."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        if self._fleet is not None:
            self._fleet.close(timeout)
