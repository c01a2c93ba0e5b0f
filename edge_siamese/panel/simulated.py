"""Panels without hardware: a button that a program presses, for demo and tests, and no panel at all."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from edge_siamese.errors import PanelError
from edge_siamese.panel.panel import Edge

_KEPT_CHANGES = 10_000
_MAX_SLEEP_SECONDS = 60.0


class SimulatedPanel:
    """A button and a light of a program; `press`, `lit` and `history` from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._edges: list[Edge] = []
        self._lost: str | None = None
        self._history: deque[tuple[float, bool]] = deque(maxlen=_KEPT_CHANGES)
        self._lit = self._closed = self._contact = False

    @property
    def description(self) -> str:
        return "simulated button and light"

    @property
    def lit(self) -> bool:
        """Whether the light is on."""
        return self._lit

    @property
    def history(self) -> list[tuple[float, bool]]:
        """(time, on) for each change of the light, the latest 10,000."""
        with self._changed:
            return list(self._history)

    def press(self, closed: bool, at: float | None = None) -> None:
        """Close or open the contact, now or at a time of the clock; a real one bounces, this one only if you do so."""
        with self._changed:
            self._contact = closed
            self._edges.append(Edge(self._clock() if at is None else at, closed))
            self._changed.notify_all()

    def lose(self, reason: str = "the simulated panel was unplugged") -> None:
        """Let the next call fail, as if the panel had been unplugged."""
        with self._changed:
            self._lost = reason
            self._changed.notify_all()

    def find(self) -> SimulatedPanel:
        """Plug it in again; returns itself, as a panel just opened does, with an edge if the contact is closed."""
        with self._changed:
            self._lost, self._closed = None, False
            self._edges = [Edge(self._clock(), True)] if self._contact else []
        return self

    def wait(self, timeout: float) -> list[Edge]:
        """See `Panel.wait`."""
        with self._changed:
            self._changed.wait_for(lambda: self._edges or self._lost or self._closed, max(0.0, timeout))
            self._check()
            edges, self._edges = self._edges, []
            return edges

    def light(self, on: bool) -> None:
        """See `Panel.light`."""
        with self._changed:
            self._check()
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

    def _check(self) -> None:
        if self._lost or self._closed:
            raise PanelError(self._lost or "the simulated panel is closed")


class NoPanel:
    """Neither button nor light: objects are registered at the command line."""

    def __init__(self, reason: str = "") -> None:
        """`reason`: why there is none, for people."""
        self._reason = reason
        self._closed = threading.Event()

    @property
    def description(self) -> str:
        return f"no button and no light{f' ({self._reason})' if self._reason else ''}"

    def wait(self, timeout: float) -> list[Edge]:
        """Sleep, for a minute at most, and not beyond `close`; no edge comes."""
        self._closed.wait(min(max(0.0, timeout), _MAX_SLEEP_SECONDS))
        return []

    def light(self, on: bool) -> None:
        """There is none."""

    def close(self) -> None:
        """End a `wait` of another thread."""
        self._closed.set()
