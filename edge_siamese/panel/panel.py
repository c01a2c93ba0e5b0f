"""The panel protocol, a simulated panel for demos and tests, and the panel without a button."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from edge_siamese.errors import PanelError
from edge_siamese.settings import PanelSettings

_MAX_HISTORY = 10_000
_MAX_SLEEP_SECONDS = 60.0


@dataclass(frozen=True)
class Edge:
    """A change of the button's contact, including bounces and glitches."""

    time: float
    """`time.monotonic()` of the edge, in seconds."""
    pressed: bool
    """Whether the contact closed."""


class Panel(Protocol):
    """A button and an LED, used from one thread."""

    @classmethod
    def open(cls, settings: PanelSettings, *, sysfs: Path, devices: Path) -> Self:
        """Open the panel that the settings describe.

        Args:
            settings: the table `[panel]`.
            sysfs, devices: mount points of sysfs and of the device files.

        Raises:
            PanelError: it is missing, used by another program, or must not be used.
        """

    @property
    def description(self) -> str:
        """Button and LED, in one line."""

    def wait(self, timeout: float) -> list[Edge]:
        """Return the edges since the last call; wait for the first one at most `timeout` seconds.

        Raises:
            PanelError: the button is gone.
        """

    def light(self, on: bool) -> None:
        """Switch the LED; does nothing if there is none.

        Raises:
            PanelError: it cannot be switched.
        """

    def close(self) -> None:
        """Switch the LED off and release both; may be called twice."""


class SimulatedPanel:
    """A button and an LED in memory; `press`, `lit` and `history` may be used from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._edges: list[Edge] = []
        self._lost: str | None = None
        self._history: deque[tuple[float, bool]] = deque(maxlen=_MAX_HISTORY)
        self._lit = self._closed = self._contact = False

    @classmethod
    def open(cls, settings: PanelSettings, *, sysfs: Path, devices: Path) -> Self:
        """See `Panel.open`."""
        return cls()

    @property
    def description(self) -> str:
        """See `Panel.description`."""
        return "simulated button and LED"

    @property
    def lit(self) -> bool:
        """Whether the LED is on."""
        return self._lit

    @property
    def history(self) -> list[tuple[float, bool]]:
        """(time, on) for each of the latest 10,000 changes of the LED."""
        with self._changed:
            return list(self._history)

    def press(self, closed: bool, at: float | None = None) -> None:
        """Close or open the contact, now or at a given time of the clock. It does not bounce."""
        with self._changed:
            self._contact = closed
            self._edges.append(Edge(self._clock() if at is None else at, closed))
            self._changed.notify_all()

    def disconnect(self, reason: str = "the simulated panel was unplugged") -> None:
        """Make every call fail until `reconnect`, as if the panel had been unplugged."""
        with self._changed:
            self._lost = reason
            self._changed.notify_all()

    def reconnect(self) -> SimulatedPanel:
        """Make the panel work again; returns itself, with one edge if the contact is closed, as a new panel has."""
        with self._changed:
            self._lost, self._closed = None, False
            self._edges = [Edge(self._clock(), True)] if self._contact else []
        return self

    def wait(self, timeout: float) -> list[Edge]:
        """See `Panel.wait`."""
        with self._changed:
            self._changed.wait_for(lambda: self._edges or self._lost or self._closed, max(0.0, timeout))
            self._require_usable()
            edges, self._edges = self._edges, []
            return edges

    def light(self, on: bool) -> None:
        """See `Panel.light`."""
        with self._changed:
            self._require_usable()
            self._switch(on)

    def close(self) -> None:
        """See `Panel.close`."""
        with self._changed:
            self._switch(False)
            self._closed = True
            self._changed.notify_all()

    def _switch(self, on: bool) -> None:
        if on != self._lit:
            self._lit = on
            self._history.append((self._clock(), on))

    def _require_usable(self) -> None:
        if self._lost or self._closed:
            raise PanelError(self._lost or "the simulated panel is closed")


class NoPanel:
    """No button and no LED: objects are registered with commands.

    Args:
        reason: why there is none; empty if the settings say so.
    """

    def __init__(self, reason: str = "") -> None:
        self._reason = reason
        self._closed = threading.Event()

    @classmethod
    def open(cls, settings: PanelSettings, *, sysfs: Path, devices: Path) -> Self:
        """See `Panel.open`."""
        return cls()

    @property
    def description(self) -> str:
        """See `Panel.description`."""
        return f"no button and no LED{f' ({self._reason})' if self._reason else ''}"

    def wait(self, timeout: float) -> list[Edge]:
        """Sleep for `timeout` seconds, for a minute at most, or until `close`; returns no edge."""
        self._closed.wait(min(max(0.0, timeout), _MAX_SLEEP_SECONDS))
        return []

    def light(self, on: bool) -> None:
        """See `Panel.light`."""

    def close(self) -> None:
        """End a `wait` on another thread."""
        self._closed.set()
