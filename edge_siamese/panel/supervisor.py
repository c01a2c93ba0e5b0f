"""Panel supervisor: a thread that reads edges, plays LED signals, and reopens a panel that fails."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from edge_siamese.errors import PanelError
from edge_siamese.panel.led_signals import LedPlayer, Signal
from edge_siamese.panel.panel import Edge, Panel
from edge_siamese.panel.press_grammar import Gesture, PressGrammar

_POLL_SECONDS = 0.05
"""Maximum length of one turn of the thread's loop, after which it notices new signals and `close`."""
_FIRST_RETRY_SECONDS, _MAX_RETRY_SECONDS = 0.5, 30.0
_MAX_GESTURES = 100
"""Gestures that are kept until the daemon reads them; beyond that, the oldest are dropped."""

LOG = logging.getLogger(__name__)


class PanelSupervisor:
    """A running panel: gestures out, signals in, from any thread. A panel that is lost is reopened.

    supervisor = PanelSupervisor(lambda: open_panel(settings), PressGrammar(...))
    supervisor.wake = event.set
    supervisor.start()

    Args:
        panel: opens the panel, and opens it again after a failure. A panel that is already open is used until it fails.
        grammar: used only by the supervisor's thread.
        clock: the clock of the panel's edges, in seconds.
        first_retry_s: delay before a lost panel is reopened, in seconds; it doubles each time, up to 30 s.
    """

    def __init__(
        self,
        panel: Panel | Callable[[], Panel],
        grammar: PressGrammar,
        clock: Callable[[], float] = time.monotonic,
        *,
        first_retry_s: float = _FIRST_RETRY_SECONDS,
    ) -> None:
        self._open = panel if callable(panel) else _open_once(panel)
        self._grammar, self._led, self._clock = grammar, LedPlayer(), clock
        self._first_retry_s = first_retry_s
        self._signals: queue.SimpleQueue[tuple[bool, Signal | None]] = queue.SimpleQueue()
        """(whether it is the background signal, signal)."""
        self._gestures: queue.SimpleQueue[tuple[Gesture, float]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._problem: str | None = None
        self._description = "panel not opened yet"
        self._type: type[Panel] | None = None
        self._thread = threading.Thread(target=self._run, name="panel", daemon=True)
        self.wake: Callable[[], object] | None = None
        """Called on the supervisor's thread after a gesture, and when the panel is lost or works again."""

    @property
    def problem(self) -> str | None:
        """Why the panel does not work, in one line; None: it works."""
        return self._problem

    @property
    def description(self) -> str:
        """The panel in use, or the last one, in one line."""
        return self._description

    def start(self) -> None:
        """Start the thread, which opens the panel; `problem` says whether that failed."""
        self._thread.start()

    def gestures(self) -> list[tuple[Gesture, float]]:
        """Return the gestures since the last call, oldest first, with the times at which they began."""
        result = []
        while True:
            try:
                result.append(self._gestures.get_nowait())
            except queue.Empty:
                return result

    def show(self, signal: Signal | None) -> None:
        """Play a temporary signal, instead of the current one; None: end the current one."""
        self._signals.put((False, signal))

    def set_background(self, signal: Signal | None) -> None:
        """Set the signal that is played while there is no temporary one; None: off."""
        self._signals.put((True, signal))

    def close(self, timeout: float = 1.0) -> None:
        """Switch the LED off and release the panel within `timeout` seconds. May be called twice."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        retry_s = self._first_retry_s
        while not self._stop.is_set():
            started = self._clock()
            # Signals that were sent while there is no panel are outdated when it returns.
            self._apply_signals(started)
            try:
                panel = self._open()
                try:
                    self._serve(panel)
                finally:
                    panel.close()
            except PanelError as error:
                self._panel_lost(str(error))
            except Exception as error:  # a bug in one driver must not disable the panel until a restart
                LOG.exception("the panel failed")
                self._panel_lost(f"the panel failed: {type(error).__name__}: {error}")
            if self._clock() - started > _MAX_RETRY_SECONDS:  # it had worked for long: this is another fault
                retry_s = self._first_retry_s
            self._stop.wait(retry_s)
            retry_s = min(2 * retry_s, _MAX_RETRY_SECONDS)

    def _serve(self, panel: Panel) -> None:
        """Use an open panel until it fails or the supervisor is closed."""
        # While a button is unplugged, `auto` opens another panel or none, and would never try that button again.
        if self._type not in (None, type(panel)):
            raise PanelError(f"{self._description}: gone ({panel.description})")
        self._type = type(panel)
        # The first edge says whether the button is already down.
        edges = panel.wait(0.0)
        self._add_gestures(self._grammar.restart(self._clock(), bool(edges) and edges[-1].pressed))
        panel.light(False)
        lit = False
        self._panel_found(panel.description)
        while not self._stop.is_set():
            now = self._clock()
            self._apply_signals(now)
            if self._led.at(now) != lit:
                lit = not lit
                panel.light(lit)
            edges = panel.wait(self._wait_seconds(now))
            # However slow this thread is, edges up to this moment are read before the grammar learns of it.
            tick = self._clock()
            edges = edges + panel.wait(0.0)
            now = self._clock()
            gestures = []
            for edge in edges:
                gestures += self._grammar.feed(Edge(min(edge.time, now), edge.pressed))
            self._add_gestures(gestures + self._grammar.tick(tick))

    def _wait_seconds(self, now: float) -> float:
        """Return the seconds until LED or grammar need attention."""
        deadlines = (self._led.deadline(now), self._grammar.deadline, now + _POLL_SECONDS)
        return max(0.0, min(time for time in deadlines if time is not None) - now)

    def _apply_signals(self, now: float) -> None:
        while True:
            try:
                is_background, signal = self._signals.get_nowait()
            except queue.Empty:
                return
            (self._led.set_background if is_background else self._led.show)(signal, now)

    def _add_gestures(self, gestures: list[tuple[Gesture, float]]) -> None:
        for gesture in gestures:
            self._gestures.put(gesture)
            while self._gestures.qsize() > _MAX_GESTURES:
                self._gestures.get_nowait()
        if gestures:
            self._wake()

    def _panel_found(self, description: str) -> None:
        self._description = description
        if self._problem is not None:
            LOG.info("the panel works again: %s", description)
            self._problem = None
            self._wake()

    def _panel_lost(self, reason: str) -> None:
        if reason != self._problem:
            LOG.warning("no panel: %s", reason)
            self._problem = reason
            self._wake()

    def _wake(self) -> None:
        if self.wake is not None:
            try:
                self.wake()
            except Exception:  # a failing callback must not stop the panel
                LOG.exception("the callback of the panel failed")


def _open_once(panel: Panel) -> Callable[[], Panel]:
    """Return a function that returns an open panel once, and then fails."""
    panels = [panel]
    description = panel.description

    def open_again() -> Panel:
        if panels:
            return panels.pop()
        raise PanelError(f"{description}: lost, and cannot be opened again")

    return open_again
