"""The press grammar: raw edges of one button in, presses, double presses and holds out, as a pure state machine.

It has no clock and no thread: time is what the caller says it is. A contact bounces for some milliseconds when it
closes and when it opens, and long wires pick up disturbances; so a change counts only once the level has rested for
`debounce_s`. Until then nothing is decided: a hold or the end of the double window that falls into such a moment waits
until the level rests again.
"""

from __future__ import annotations

from enum import Enum
from math import inf

from edge_siamese.panel.panel import Edge

# The contact of a worn button bounces for some 20 ms. A longer unrest is a disturbance, whose length is no pressing.
_MAX_BOUNCE_SECONDS = 0.1


class Gesture(Enum):
    """What a person did with the button."""

    PRESS = "press"
    DOUBLE_PRESS = "double press"
    HOLD = "hold"
    STUCK = "stuck"
    """Pressed when the daemon started, or for too long; ignored until it is released."""
    RELEASED = "released"
    """A stuck button was let go: it works again."""


class _State(Enum):
    RELEASED = "released"
    FIRST = "the first press goes on"
    WAITING = "released, a second press may follow"
    SECOND = "the second press goes on"
    HELD = "held, and said so"
    STUCK = "stuck, and said so"


class PressGrammar:
    """Gestures of one button; not for several threads.

    The number beside a gesture is the time at which the person began it: the first closing of the contact (of a double
    press: of its first press; of RELEASED: the opening).

    - PRESS comes when `double_s` have passed after the release without a second press.
    - DOUBLE_PRESS comes when the second press is released, because until then it may become a hold. A third press is
      a first one again.
    - HOLD comes at `hold_s` while the button is down, and its release says nothing more. If it was the second press
      that is held, HOLD comes alone: what a person does last and longest is what is meant.
    - STUCK comes once, at `stuck_s`, or when `restart` finds the button down; then nothing until RELEASED.
    """

    def __init__(self, debounce_s: float, double_s: float, hold_s: float, stuck_s: float) -> None:
        """All in seconds; `hold_s` is at most `stuck_s`."""
        self._debounce_s, self._double_s, self._hold_s, self._stuck_s = debounce_s, double_s, hold_s, stuck_s
        self._now = -inf
        self._level = False
        """Where the contact last rested."""
        self._raw = False
        self._last_edge = -inf
        self._unrest: float | None = None
        """The first edge since the level rested; None while it rests."""
        self._state = _State.RELEASED
        self._pressed_at = self._first_pressed_at = self._released_at = -inf
        self._starting = False

    @property
    def down(self) -> bool:
        """Whether the button is pressed, bounces aside."""
        return self._level

    @property
    def deadline(self) -> float | None:
        """When `tick` should be called next if no edge comes; None: not before the next edge."""
        due = self._settles() if self._unrest is not None else self._due()
        return None if due == inf else due

    def restart(self, now: float, pressed: bool) -> list[tuple[Gesture, float]]:
        """Begin anew, with a panel just opened: a button that is down already was not pressed for us.

        What was half done is forgotten. A button that was stuck and is not down any more gives RELEASED.
        """
        was_stuck = self._state is _State.STUCK
        self._now = max(now, self._now)
        self._level = self._raw = False
        self._unrest = None
        if not pressed:
            self._state, self._starting = _State.RELEASED, False
            return [(Gesture.RELEASED, self._now)] if was_stuck else []
        # A stuck button stays so, and is not told twice; else a glitch at the start has to be told from a press.
        self._starting = not was_stuck
        self._level = was_stuck
        self._state = _State.STUCK if was_stuck else _State.RELEASED
        return self.feed(Edge(self._now, True))

    def feed(self, edge: Edge) -> list[tuple[Gesture, float]]:
        """Take one edge; what was due before it comes first. An edge older than what is known counts as of now."""
        time = max(edge.time, self._now)
        gestures = self._advance(time)
        if edge.pressed != self._raw:  # the same level again says nothing: its counterpart was lost
            self._raw, self._last_edge = edge.pressed, time
            if self._unrest is None:
                self._unrest = time
            gestures += self._advance(time)
        return gestures

    def tick(self, now: float) -> list[tuple[Gesture, float]]:
        """Say that no edge came before `now` but those that were fed."""
        return self._advance(max(now, self._now))

    def _settles(self) -> float:
        return self._last_edge + self._debounce_s

    def _due(self) -> float:
        if self._state in (_State.FIRST, _State.SECOND):
            return self._pressed_at + self._hold_s
        if self._state is _State.HELD:
            return self._pressed_at + self._stuck_s
        return self._released_at + self._double_s if self._state is _State.WAITING else inf

    def _advance(self, now: float) -> list[tuple[Gesture, float]]:
        gestures: list[tuple[Gesture, float]] = []
        while True:
            if self._unrest is not None:
                if self._settles() > now:
                    break
                first, self._unrest = self._unrest, None
                if self._raw != self._level:
                    self._level = self._raw
                    gestures += self._press(first) if self._level else self._release(first)
                self._starting = False
            elif self._due() <= now:
                gestures.append(self._pass())
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
        if self._state is _State.WAITING and start <= self._due():
            self._state = _State.SECOND
            return []
        missed = [self._pass()] if self._state is _State.WAITING else []
        self._state, self._first_pressed_at = _State.FIRST, start
        return missed

    def _release(self, first: float) -> list[tuple[Gesture, float]]:
        # The first opening, however long the unrest was: a hold that did not come while pressed never comes.
        state, self._released_at = self._state, first
        self._state = _State.WAITING if state is _State.FIRST else _State.RELEASED
        if state is _State.SECOND:
            return [(Gesture.DOUBLE_PRESS, self._first_pressed_at)]
        return [(Gesture.RELEASED, first)] if state is _State.STUCK else []

    def _pass(self) -> tuple[Gesture, float]:
        """What it means that the state's time has passed."""
        if self._state is _State.WAITING:
            self._state = _State.RELEASED
            return Gesture.PRESS, self._first_pressed_at
        if self._state is _State.HELD:
            self._state = _State.STUCK
            return Gesture.STUCK, self._pressed_at
        self._state = _State.HELD
        return Gesture.HOLD, self._pressed_at
