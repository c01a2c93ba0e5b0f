"""What the LED says: a table of patterns that a person can tell apart, and the lamp that plays them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf

# A light that changes within so little of the time asked for has changed: differences of floats are no exact times.
_INSTANT_SECONDS = 1e-6


@dataclass(frozen=True)
class Pattern:
    """When a light is on."""

    steps: tuple[tuple[float, float], ...]
    """(seconds on, seconds off), one after the other."""
    rounds: float = inf
    """How often the steps are played; `inf`: until something else is shown."""
    lead: float = 0.0
    """Seconds of dark before, so that it can be told from what the light did until then."""

    @property
    def lasting(self) -> bool:
        """Whether it never ends by itself."""
        return self.rounds == inf

    @property
    def length(self) -> float:
        """Seconds from start to end; `inf` if it lasts."""
        return inf if self.lasting else self.lead + self.rounds * self._round

    @property
    def _round(self) -> float:
        return sum(on + off for on, off in self.steps)

    def at(self, elapsed: float) -> bool:
        """Whether the light is on, seconds after the start."""
        return self._part(elapsed)[0]

    def next_change(self, elapsed: float) -> float:
        """The seconds after the start at which the part being played ends; `inf` if nothing changes any more."""
        return self._part(elapsed)[1]

    def _part(self, elapsed: float) -> tuple[bool, float]:
        """(on, when that ends)."""
        elapsed = max(0.0, elapsed) + _INSTANT_SECONDS
        if elapsed < self.lead:
            return False, self.lead
        if elapsed >= self.length:
            return False, inf
        whole = self._round
        played = 0.0 if whole == inf else (elapsed - self.lead) // whole
        end = self.lead + (played * whole if played else 0.0)
        for on, off in self.steps:
            for lit, seconds in ((True, on), (False, off)):
                end += seconds
                if elapsed < end:
                    return lit, end
        return False, end


def _passing(*steps: tuple[float, float], rounds: int = 1) -> Pattern:
    """Dark, the steps, and dark again before the lasting state comes back."""
    *before, (on, off) = steps
    return Pattern((*before, (on, max(off, 0.8))), rounds, lead=0.3)


def _count(number: int) -> Pattern:
    """So many short blinks, twice, for who began to count too late."""
    return _passing(*[(0.2, 0.3)] * number, rounds=2)


def _fault(number: int) -> Pattern:
    """Two long ones and so many short ones, for as long as the fault lasts."""
    return Pattern((*[(0.7, 0.3)] * 2, *[(0.2, 0.3)] * (number - 1), (0.2, 2.0)))


class Signal(Enum):
    """Everything that the light can say: pattern, how it looks, and what it means."""

    OFF = Pattern(((0.0, inf),)), "off", "The daemon is not running, or has nothing to say."
    STARTING = Pattern(((0.5, 0.7),)), "on and off, slowly", "It starts: the model is being loaded."
    READY = Pattern(((0.06, 3.94),)), "a flash every four seconds", "It is ready, and sees nothing it knows."
    RECOGNIZED = Pattern(((inf, 0.0),)), "on", "It sees an object that it knows."
    LOOKING = (
        Pattern(((0.07, 0.07),)),
        "fast flicker",
        "It looks at the object: hold it still before the camera.",
    )
    SAVED = _passing((1.5, 0)), "on for one and a half seconds", "The object is registered and on the disk."
    VIEW_SAVED = _passing(*[(0.7, 0.3)] * 2), "two long", "Another view of the object is registered."
    NEGATIVE_SAVED = (
        _passing(*[(0.7, 0.3)] * 3),
        "three long",
        "It has learned that this is not the object that it took it for.",
    )
    UNDONE = _passing((0.7, 0.2), (0.2, 0.2), (0.06, 0)), "long, short, flash", "The last change is undone."
    NOTHING_TO_UNDO = _passing((0.7, 0.3), (0.2, 0)), "long, short", "There is nothing to undo."
    BLURRED = _count(2), "two short, twice", "Refused: the picture is blurred."
    DARK = _count(3), "three short, twice", "Refused: it is too dark."
    BRIGHT = _count(4), "four short, twice", "Refused: it is too bright."
    MOVING = _count(5), "five short, twice", "Refused: the object or the camera moves."
    COLLISION = _count(6), "six short, twice", "Refused: it looks like an object that is registered already."
    FAILED = (
        _passing((0.7, 0.3), *[(0.2, 0.3)] * 3, rounds=2),
        "long and three short, twice",
        "It could not be done; `edge-siamese status` and the journal say why.",
    )
    FAULT_CAMERA = _fault(1), "two long and one short, again and again", "The camera gives no pictures."
    FAULT_STORE = _fault(2), "two long and two short, again and again", "Objects cannot be read or written."
    FAULT_MODEL = _fault(3), "two long and three short, again and again", "There is no model that works."
    STUCK = Pattern(((0.9, 0.1),)), "on, with a wink every second", "The button is stuck: release it."

    def __init__(self, pattern: Pattern, looks: str, meaning: str) -> None:
        self.pattern = pattern
        """When the light is on."""
        self.looks = looks
        """How it looks to a person."""
        self.meaning = meaning
        """A sentence for people."""


def signal_table() -> str:
    """All signals as a Markdown table: the light, and what it means."""
    rows = [f"| {signal.looks} | {signal.meaning} |" for signal in Signal]
    return "\n".join(["| the light | means |", "|---|---|", *rows])


class Lamp:
    """Plays signals over time, one at once: a passing one over the lasting one; pure, and not for several threads."""

    def __init__(self) -> None:
        self._shown: tuple[Signal, float] | None = None
        self._base: tuple[Signal, float] = (Signal.OFF, 0.0)

    def show(self, signal: Signal | None, now: float) -> None:
        """Play a signal from now on, instead of the one being shown; None: end that one.

        A signal that does not end by itself stays until the next. Showing it again while it plays changes nothing.
        """
        self._settle(now)
        if signal is None:
            self._shown = None
        elif not (self._shown and self._shown[0] is signal and signal.pattern.lasting):
            self._shown = (signal, now)

    def base(self, signal: Signal | None, now: float = 0.0) -> None:
        """The lasting signal below the passing ones; None: off. Given again, it goes on undisturbed."""
        signal = signal or Signal.OFF
        if signal is not self._base[0]:
            self._base = (signal, now)

    def at(self, now: float) -> bool:
        """Whether the light is on."""
        signal, start = self._current(now)
        return signal.pattern.at(now - start)

    def signal(self, now: float) -> Signal:
        """What is being played."""
        return self._current(now)[0]

    def deadline(self, now: float) -> float | None:
        """When the light changes next at the earliest; None: not before something else is shown."""
        signal, start = self._current(now)
        change = start + signal.pattern.next_change(now - start)
        return None if change == inf else change

    def _current(self, now: float) -> tuple[Signal, float]:
        self._settle(now)
        return self._shown or self._base

    def _settle(self, now: float) -> None:
        """Let a signal that is over go; the lasting one begins where it ended."""
        if self._shown is None:
            return
        signal, start = self._shown
        end = start + signal.pattern.length
        if now + _INSTANT_SECONDS >= end:
            self._shown = None
            self._base = (self._base[0], max(self._base[1], end))
