"""LED signals: a table of distinguishable blink patterns, and the player that shows them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf

# A change this close in the future counts as past: differences of floats are not exact.
_EPSILON_SECONDS = 1e-6


@dataclass(frozen=True)
class Pattern:
    """A blink pattern: when the LED is on and off."""

    steps: tuple[tuple[float, float], ...]
    """Successive (seconds on, seconds off)."""
    rounds: float = inf
    """Number of times that the steps are played; `inf`: until another signal is shown."""
    lead: float = 0.0
    """Seconds off before the first step, which separate the pattern from the previous one."""

    @property
    def continuous(self) -> bool:
        """Whether it never ends by itself."""
        return self.rounds == inf

    @property
    def length(self) -> float:
        """Seconds from start to end; `inf` if it is continuous."""
        return inf if self.continuous else self.lead + self.rounds * self._round

    @property
    def _round(self) -> float:
        return sum(on + off for on, off in self.steps)

    def at(self, elapsed: float) -> bool:
        """Return whether the LED is on, seconds after the start."""
        return self._segment(elapsed)[0]

    def next_change(self, elapsed: float) -> float:
        """Return when the current segment ends, in seconds after the start; `inf` if it never ends."""
        return self._segment(elapsed)[1]

    def _segment(self, elapsed: float) -> tuple[bool, float]:
        """Return (on, when that ends)."""
        elapsed = max(0.0, elapsed) + _EPSILON_SECONDS
        if elapsed < self.lead:
            return False, self.lead
        if elapsed >= self.length:
            return False, inf
        played = 0.0 if self._round == inf else (elapsed - self.lead) // self._round
        end = self.lead + (played * self._round if played else 0.0)
        for on, off in self.steps:
            for lit, seconds in ((True, on), (False, off)):
                end += seconds
                if elapsed < end:
                    return lit, end
        return False, end


def _once(*steps: tuple[float, float], rounds: int = 1) -> Pattern:
    """Off, the steps, and off again before the continuous signal returns."""
    *before, (on, off) = steps
    return Pattern((*before, (on, max(off, 0.8))), rounds, lead=0.3)


def _count(number: int) -> Pattern:
    """A number of short blinks, repeated once, so that they can be counted."""
    return _once(*[(0.2, 0.3)] * number, rounds=2)


def _fault(number: int) -> Pattern:
    """Two long blinks and a number of short ones, for as long as the fault lasts."""
    return Pattern((*[(0.7, 0.3)] * 2, *[(0.2, 0.3)] * (number - 1), (0.2, 2.0)))


class Signal(Enum):
    """Everything that the LED can show: pattern, appearance and meaning."""

    OFF = Pattern(((0.0, inf),)), "off", "The daemon is not running, or has nothing to show."
    STARTING = Pattern(((0.5, 0.7),)), "on and off, slowly", "Starting: the model is being loaded."
    READY = Pattern(((0.06, 3.94),)), "a flash every four seconds", "Ready; no known object is in view."
    RECOGNIZED = Pattern(((inf, 0.0),)), "on", "A known object is in view."
    REGISTERING = (
        Pattern(((0.07, 0.07),)),
        "fast flicker",
        "Registering: hold the object still in front of the camera.",
    )
    SAVED = _once((1.5, 0)), "on for one and a half seconds", "The object is registered and saved to disk."
    VIEW_SAVED = _once(*[(0.7, 0.3)] * 2), "two long", "Another view of the object is registered."
    NEGATIVE_SAVED = (
        _once(*[(0.7, 0.3)] * 3),
        "three long",
        "Saved as a negative of the recognized object.",
    )
    UNDONE = _once((0.7, 0.2), (0.2, 0.2), (0.06, 0)), "long, short, flash", "The last change is undone."
    NOTHING_TO_UNDO = _once((0.7, 0.3), (0.2, 0)), "long, short", "There is nothing to undo."
    BLURRED = _count(2), "two short, twice", "Refused: the picture is blurred."
    DARK = _count(3), "three short, twice", "Refused: it is too dark."
    BRIGHT = _count(4), "four short, twice", "Refused: it is too bright."
    MOVING = _count(5), "five short, twice", "Refused: the object or the camera moves."
    COLLISION = _count(6), "six short, twice", "Refused: it looks like an object that is already registered."
    FAILED = (
        _once((0.7, 0.3), *[(0.2, 0.3)] * 3, rounds=2),
        "long and three short, twice",
        "It failed; `edge-siamese status` and the journal say why.",
    )
    FAULT_CAMERA = _fault(1), "two long and one short, repeated", "The camera delivers no pictures."
    FAULT_STORE = _fault(2), "two long and two short, repeated", "The object store cannot be read or written."
    FAULT_MODEL = _fault(3), "two long and three short, repeated", "No model works."
    STUCK = Pattern(((0.9, 0.1),)), "on, with a blink every second", "The button is stuck: release it."

    def __init__(self, pattern: Pattern, appearance: str, meaning: str) -> None:
        self.pattern = pattern
        """When the LED is on."""
        self.appearance = appearance
        """Description of how it looks."""
        self.meaning = meaning
        """Its meaning, in one sentence."""


def signal_table() -> str:
    """Return all signals as a Markdown table."""
    rows = [f"| {signal.appearance} | {signal.meaning} |" for signal in Signal]
    return "\n".join(["| LED | meaning |", "|---|---|", *rows])


class LedPlayer:
    """Plays one signal at a time: a temporary one, or else the background signal. Has no clock and no thread."""

    def __init__(self) -> None:
        self._temporary: tuple[Signal, float] | None = None
        self._background: tuple[Signal, float] = (Signal.OFF, 0.0)

    def show(self, signal: Signal | None, now: float) -> None:
        """Play a signal instead of the current temporary one; None: end the temporary one.

        A continuous signal stays until the next one. Showing it again while it plays changes nothing.
        """
        self._end_finished(now)
        if signal is None:
            self._temporary = None
        elif not (self._temporary and self._temporary[0] is signal and signal.pattern.continuous):
            self._temporary = (signal, now)

    def set_background(self, signal: Signal | None, now: float = 0.0) -> None:
        """Set the signal that is played while there is no temporary one; None: off.

        Setting the same signal again does not restart it.
        """
        signal = signal or Signal.OFF
        if signal is not self._background[0]:
            self._background = (signal, now)

    def at(self, now: float) -> bool:
        """Return whether the LED is on."""
        signal, start = self._current(now)
        return signal.pattern.at(now - start)

    def signal(self, now: float) -> Signal:
        """Return the signal that is being played."""
        return self._current(now)[0]

    def deadline(self, now: float) -> float | None:
        """Return when the LED changes next at the earliest; None: not before another signal is shown."""
        signal, start = self._current(now)
        change = start + signal.pattern.next_change(now - start)
        return None if change == inf else change

    def _current(self, now: float) -> tuple[Signal, float]:
        self._end_finished(now)
        return self._temporary or self._background

    def _end_finished(self, now: float) -> None:
        """Remove a temporary signal that has ended; the background signal begins where it ended."""
        if self._temporary is None:
            return
        signal, start = self._temporary
        end = start + signal.pattern.length
        if now + _EPSILON_SECONDS >= end:
            self._temporary = None
            self._background = (self._background[0], max(self._background[1], end))
