"""Press grammar: a state machine that turns raw edges of one button into presses, double presses and holds.

It has no clock and no thread: the caller passes the time. A contact bounces for some milliseconds when it closes and
when it opens, and long wires pick up interference, so a change counts only after the level has rested for `debounce_s`.
Nothing is decided while the contact bounces: a hold or the end of the double-press window waits until the level rests.
"""

from __future__ import annotations

from enum import Enum
from math import inf

from edge_siamese.panel.panel import Edge

_MAX_BOUNCE_SECONDS = 0.1
"""The contact of a worn button bounces for about 20 ms. Longer bouncing is interference and does not count as pressed."""


class Gesture(Enum):
    """A gesture on the button."""

    PRESS = "press"
    DOUBLE_PRESS = "double press"
    HOLD = "hold"
    STUCK = "stuck"
    """The button was down when the daemon started, or for too long; it is ignored until it is released."""
    RELEASED = "released"
    """A stuck button was released: it works again."""


class _State(Enum):
    RELEASED = "released"
    FIRST = "in the first press"
    WAITING = "released, a second press may follow"
    SECOND = "in the second press"
    HELD = "held, and reported"
    STUCK = "stuck, and reported"


class PressGrammar:
    """Gestures of one button. Not thread-safe.

    Each gesture comes with the time at which it began: when the contact first closed (for a double press: in its first
    press; for RELEASED: when it opened).

    - PRESS is reported `double_s` after the release if there was no second press.
    - DOUBLE_PRESS is reported when the second press is released, because until then it may become a hold. A third press
      is a first press again.
    - HOLD is reported after `hold_s` while the button is down; its release is not reported. If the second press is held,
      only HOLD is reported.
    - STUCK is reported once, after `stuck_s` or when `restart` finds the button down. After that, only RELEASED is reported.
    """

    def __init__(self, debounce_s: float, double_s: float, hold_s: float, stuck_s: float) -> None:
        """Set the limits in seconds; `hold_s` is at most `stuck_s`."""
        self._debounce_s, self._double_s, self._hold_s, self._stuck_s = debounce_s, double_s, hold_s, stuck_s
        self._now = -inf
        self._level = False
        """The level at which the contact last rested."""
        self._raw = False
        self._last_edge = -inf
        self._bouncing_since: float | None = None
        """Time of the first edge since the level rested; None while it rests."""
        self._state = _State.RELEASED
        self._pressed_at = self._first_pressed_at = self._released_at = -inf
        self._starting = False

    @property
    def down(self) -> bool:
        """Whether the button is pressed, debounced."""
        return self._level

    @property
    def deadline(self) -> float | None:
        """When to call `tick` if no edge comes before; None: not before the next edge."""
        due = self._settle_time() if self._bouncing_since is not None else self._timeout()
        return None if due == inf else due

    def restart(self, now: float, pressed: bool) -> list[tuple[Gesture, float]]:
        """Start again with a panel just opened. A button that is already down counts as stuck.

        An unfinished gesture is discarded. A button that was stuck and is no longer down is reported as RELEASED.
        """
        was_stuck = self._state is _State.STUCK
        self._now = max(now, self._now)
        self._level = self._raw = False
        self._bouncing_since = None
        if not pressed:
            self._state, self._starting = _State.RELEASED, False
            return [(Gesture.RELEASED, self._now)] if was_stuck else []
        # A stuck button stays stuck and is not reported twice; otherwise a glitch at the start must not count.
        self._starting = not was_stuck
        self._level = was_stuck
        self._state = _State.STUCK if was_stuck else _State.RELEASED
        return self.feed(Edge(self._now, True))

    def feed(self, edge: Edge) -> list[tuple[Gesture, float]]:
        """Process one edge; gestures due before it are reported first. An edge older than the last call counts as now."""
        time = max(edge.time, self._now)
        gestures = self._advance(time)
        if edge.pressed != self._raw:  # the same level again: the edge in between was lost
            self._raw, self._last_edge = edge.pressed, time
            if self._bouncing_since is None:
                self._bouncing_since = time
            gestures += self._advance(time)
        return gestures

    def tick(self, now: float) -> list[tuple[Gesture, float]]:
        """Advance the time to `now`; every edge before it has been fed."""
        return self._advance(max(now, self._now))

    def _settle_time(self) -> float:
        return self._last_edge + self._debounce_s

    def _timeout(self) -> float:
        if self._state in (_State.FIRST, _State.SECOND):
            return self._pressed_at + self._hold_s
        if self._state is _State.HELD:
            return self._pressed_at + self._stuck_s
        return self._released_at + self._double_s if self._state is _State.WAITING else inf

    def _advance(self, now: float) -> list[tuple[Gesture, float]]:
        gestures: list[tuple[Gesture, float]] = []
        while True:
            if self._bouncing_since is not None:
                if self._settle_time() > now:
                    break
                first, self._bouncing_since = self._bouncing_since, None
                if self._raw != self._level:
                    self._level = self._raw
                    gestures += self._press(first) if self._level else self._release(first)
                self._starting = False
            elif self._timeout() <= now:
                gestures.append(self._time_out())
            else:
                break
        self._now = now
        return gestures

    def _press(self, first: float) -> list[tuple[Gesture, float]]:
        start = max(first, self._last_edge - _MAX_BOUNCE_SECONDS)
        self._pressed_at = start
        if self._starting:
            self._state = _State.STUCK
            return [(Gesture.STUCK, start)]
        if self._state is _State.WAITING and start <= self._timeout():
            self._state = _State.SECOND
            return []
        expired = [self._time_out()] if self._state is _State.WAITING else []
        self._state, self._first_pressed_at = _State.FIRST, start
        return expired

    def _release(self, first: float) -> list[tuple[Gesture, float]]:
        # The first opening, however long the contact bounced: a hold that was not reported while pressed never is.
        state, self._released_at = self._state, first
        self._state = _State.WAITING if state is _State.FIRST else _State.RELEASED
        if state is _State.SECOND:
            return [(Gesture.DOUBLE_PRESS, self._first_pressed_at)]
        return [(Gesture.RELEASED, first)] if state is _State.STUCK else []

    def _time_out(self) -> tuple[Gesture, float]:
        """Leave a state that has timed out; returns the resulting gesture."""
        if self._state is _State.WAITING:
            self._state = _State.RELEASED
            return Gesture.PRESS, self._first_pressed_at
        if self._state is _State.HELD:
            self._state = _State.STUCK
            return Gesture.STUCK, self._pressed_at
        self._state = _State.HELD
        return Gesture.HOLD, self._pressed_at
