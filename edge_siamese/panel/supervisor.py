"""The thread between a panel and the daemon: it waits for edges, plays the lamp, and keeps gestures until asked."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from edge_siamese.errors import PanelError
from edge_siamese.panel.led_signals import Lamp, Signal
from edge_siamese.panel.panel import Edge, Panel
from edge_siamese.panel.press_grammar import Gesture, PressGrammar

# How long a turn of the thread may be: within it, it notices a new signal, and that it shall end.
_TURN_SECONDS = 0.05
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 0.5, 30.0
# Nobody waits for gestures of a daemon that does not ask for them: the oldest go.
_KEPT_GESTURES = 100

LOG = logging.getLogger(__name__)


class Console:
    """A panel that lives: gestures out, signals in, from any thread; a panel that is lost is opened anew.

    console = Console(lambda: open_panel(settings), PressGrammar(...), Lamp())
    console.wake = event.set
    console.start()
    """

    def __init__(
        self,
        panel: Panel | Callable[[], Panel],
        grammar: PressGrammar,
        lamp: Lamp,
        clock: Callable[[], float] = time.monotonic,
        *,
        first_retry_s: float = _FIRST_RETRY_SECONDS,
    ) -> None:
        """Nothing is opened before `start`.

        Args:
            panel: opens the panel, and opens it again when it was lost. A panel that is open already is used as long as
                it works.
            grammar, lamp: used by the console's thread alone from now on.
            clock: the one of the panel's edges.
            first_retry_s: how long to wait before a lost panel is opened again; doubled each time, 30 s at most.
        """
        self._open = panel if callable(panel) else _once(panel)
        self._grammar, self._lamp, self._clock = grammar, lamp, clock
        self._first_retry_s = first_retry_s
        self._commands: queue.SimpleQueue[tuple[bool, Signal | None]] = queue.SimpleQueue()
        self._gestures: queue.SimpleQueue[tuple[Gesture, float]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._problem: str | None = None
        self._description = "panel not opened yet"
        self._kind: type[Panel] | None = None
        self._thread = threading.Thread(target=self._run, name="panel", daemon=True)
        self.wake: Callable[[], object] | None = None
        """Called on the console's thread when a gesture was made, and when the panel is lost or back."""

    @property
    def problem(self) -> str | None:
        """Why there is no panel now, in one line; None: it works."""
        return self._problem

    @property
    def description(self) -> str:
        """One line for people: the panel in use, or the one that was."""
        return self._description

    def start(self) -> None:
        """Open the panel, on the console's own thread; `problem` says if that fails."""
        self._thread.start()

    def gestures(self) -> list[tuple[Gesture, float]]:
        """The gestures since the last call, oldest first, with the times at which they began."""
        result = []
        while True:
            try:
                result.append(self._gestures.get_nowait())
            except queue.Empty:
                return result

    def show(self, signal: Signal | None) -> None:
        """Play a passing signal, instead of the one being played; None ends that one."""
        self._commands.put((False, signal))

    def lasting(self, signal: Signal | None) -> None:
        """Set what the light says while no passing signal is played; None: nothing."""
        self._commands.put((True, signal))

    def close(self, timeout: float = 1.0) -> None:
        """Switch the light off and let the panel go; takes 0.2 s, and `timeout` at most. May be called twice."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        retry = self._first_retry_s
        while not self._stop.is_set():
            began = self._clock()
            # What is asked for while there is no panel is over when it comes back, and is not to pile up.
            self._obey(began)
            try:
                panel = self._open()
                try:
                    self._serve(panel)
                finally:
                    panel.close()
            except PanelError as error:
                self._lost(str(error))
            except (
                Exception
            ) as error:  # a fault of ours in one panel must not silence it until the next start
                LOG.exception("the panel failed")
                self._lost(f"the panel failed: {type(error).__name__}: {error}")
            if self._clock() - began > _LAST_RETRY_SECONDS:  # it had worked for long: this is another fault
                retry = self._first_retry_s
            self._stop.wait(retry)
            retry = min(2 * retry, _LAST_RETRY_SECONDS)

    def _serve(self, panel: Panel) -> None:
        """Use an open panel until it fails or the console is closed."""
        # `auto` finds something else, or nothing, while a button is unplugged: it would never look for that one again.
        if self._kind not in (None, type(panel)):
            raise PanelError(f"{self._description}: gone ({panel.description})")
        self._kind = type(panel)
        # What is there before anybody could have pressed for us: whether the button is down.
        edges = panel.wait(0.0)
        self._keep(self._grammar.restart(self._clock(), bool(edges) and edges[-1].pressed))
        panel.light(False)
        lit = False
        self._found(panel.description)
        while not self._stop.is_set():
            now = self._clock()
            self._obey(now)
            if self._lamp.at(now) != lit:
                lit = not lit
                panel.light(lit)
            edges = panel.wait(self._turn(now))
            # Edges up to this moment are read before the grammar hears that it has come, however slow this thread is.
            reached = self._clock()
            edges = edges + panel.wait(0.0)
            now = self._clock()
            made = []
            for edge in edges:
                made += self._grammar.feed(Edge(min(edge.time, now), edge.pressed))
            self._keep(made + self._grammar.tick(reached))

    def _turn(self, now: float) -> float:
        """Seconds until something is due."""
        deadlines = (self._lamp.deadline(now), self._grammar.deadline, now + _TURN_SECONDS)
        return max(0.0, min(time for time in deadlines if time is not None) - now)

    def _obey(self, now: float) -> None:
        while True:
            try:
                lasting, signal = self._commands.get_nowait()
            except queue.Empty:
                return
            (self._lamp.base if lasting else self._lamp.show)(signal, now)

    def _keep(self, gestures: list[tuple[Gesture, float]]) -> None:
        for gesture in gestures:
            self._gestures.put(gesture)
            while self._gestures.qsize() > _KEPT_GESTURES:
                self._gestures.get_nowait()
        if gestures:
            self._call()

    def _found(self, description: str) -> None:
        self._description = description
        if self._problem is not None:
            LOG.info("the panel works again: %s", description)
            self._problem = None
            self._call()

    def _lost(self, reason: str) -> None:
        if reason != self._problem:
            LOG.warning("no panel: %s", reason)
            self._problem = reason
            self._call()

    def _call(self) -> None:
        if self.wake is not None:
            try:
                self.wake()
            except Exception:  # who is woken must not take the panel down
                LOG.exception("the panel could not wake the daemon")


def _once(panel: Panel) -> Callable[[], Panel]:
    """Opens a panel that is open already; it cannot be opened a second time."""
    given: list[Panel] = [panel]
    lost: list[str] = [panel.description]

    def open_again() -> Panel:
        if given:
            return given.pop()
        raise PanelError(f"{lost[0]}: lost, and cannot be opened again")

    return open_again
