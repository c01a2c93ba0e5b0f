"""Script of a synthetic scene: when objects come and go, the light changes, and the button is pressed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_siamese.errors import CameraError

PRESS_SECONDS, HOLD_SECONDS = 0.15, 1.6
"""Lengths of a short and of a long press."""


@dataclass(frozen=True)
class Show:
    """An object is in front of the camera."""

    name: str
    """Name of its sprite."""
    start: float
    """When it begins to arrive, in seconds of the scene."""
    end: float
    """When it has left."""
    text: str = ""
    """Human-readable description."""


@dataclass(frozen=True)
class Press:
    """The button is held down."""

    start: float
    """When the contact closes, in seconds of the scene."""
    duration: float = PRESS_SECONDS
    """How long it stays closed, in seconds."""
    text: str = ""
    """Human-readable description."""


@dataclass(frozen=True)
class Light:
    """The light changes to another level within a second."""

    start: float
    """In seconds of the scene."""
    level: float
    """1: normal brightness; 0: dark."""
    text: str = ""
    """Human-readable description."""


Step = Show | Press | Light


def press(at: float, text: str = "") -> tuple[Press, ...]:
    """A short press."""
    return (Press(at, PRESS_SECONDS, text),)


def hold(at: float, text: str = "") -> tuple[Press, ...]:
    """A long press."""
    return (Press(at, HOLD_SECONDS, text),)


@dataclass(frozen=True)
class Script:
    """Steps over time, the last part of which may be repeated.

    Raises:
        CameraError: a step ends before it starts, or the part to repeat is empty.
    """

    steps: tuple[Step, ...]
    repeat_from: float = math.inf
    """Steps that start at this time or later are repeated; infinite: none."""
    length: float = math.inf
    """When the repeated part ends and starts again, in seconds of the scene."""

    def __post_init__(self) -> None:
        for step in self.steps:
            if step.start < 0 or (isinstance(step, Show) and step.end <= step.start):
                raise CameraError(f"invalid step in a scene: {step} ends before it starts")
        if self.repeats and self.length <= self.repeat_from:
            raise CameraError(f"a scene cannot repeat from {self.repeat_from:g} s to {self.length:g} s")

    @property
    def repeats(self) -> bool:
        """Whether it never ends."""
        return math.isfinite(self.repeat_from)

    @property
    def period(self) -> float:
        """Length of the repeated part, in seconds."""
        return self.length - self.repeat_from if self.repeats else math.inf

    @property
    def end(self) -> float:
        """When everything that is not repeated is over, in seconds of the scene."""
        once = [step for step in self.steps if step.start < self.repeat_from]
        return max((_end(step) for step in once), default=0.0) + 1.0

    @property
    def captions(self) -> tuple[tuple[float, str], ...]:
        """(time, description) of each step when it first happens."""
        return tuple(sorted((step.start, step.text) for step in self.steps if step.text))

    def shows(self, time: float) -> Iterator[tuple[Show, float, int]]:
        """Yield the objects in view: the step, seconds since it started, and how often it was played before."""
        for step in self.steps:
            if isinstance(step, Show):
                latest = self._latest(step.start, time)
                if latest is not None and time < latest + step.end - step.start:
                    yield step, time - latest, round((latest - step.start) / self.period)

    def light(self, time: float) -> float:
        """Return the level of the light."""
        changes = []
        for step in self.steps:
            if isinstance(step, Light):
                latest = self._latest(step.start, time)
                if latest is not None:
                    changes.append((latest, step.level))
        changes.sort()
        before = changes[-2][1] if len(changes) > 1 else 1.0
        if not changes:
            return 1.0
        start, level = changes[-1]
        return before + (level - before) * min(1.0, time - start)

    def next_edge(self, after: float) -> tuple[float, bool] | None:
        """Return when the button's contact changes next after a time, and whether it closes."""
        edges = []
        for step in self.steps:
            if isinstance(step, Press):
                for start, closed in ((step.start, True), (step.start + step.duration, False)):
                    moment = self._next(start, after, step.start)
                    if moment is not None:
                        edges.append((moment, closed))
        return min(edges, default=None)

    def steps_between(self, after: float, until: float) -> list[tuple[float, Step]]:
        """Return (time, step) of the steps that start after `after` and not after `until`, in order."""
        steps: list[tuple[float, Step]] = []
        for step in self.steps:
            moment = self._next(step.start, after, step.start)
            while moment is not None and moment <= until:
                steps.append((moment, step))
                moment = self._next(step.start, moment, step.start)
        return sorted(steps, key=lambda item: item[0])

    def _next(self, moment: float, after: float, start: float) -> float | None:
        """Return the first repetition, after `after`, of a time within a step that starts at `start`."""
        if moment > after:
            return moment
        if start < self.repeat_from:
            return None
        rounds = math.floor((after - moment) / self.period) + 1
        later = moment + rounds * self.period
        # The division may round up to the repetition that starts exactly at `after`.
        return later if later > after else later + self.period

    def _latest(self, start: float, time: float) -> float | None:
        """Return when a step that starts at `start` last began; None if it has not begun."""
        if time < start:
            return None
        if start < self.repeat_from:
            return start
        return start + math.floor((time - start) / self.period) * self.period


def _end(step: Step) -> float:
    if isinstance(step, Show):
        return step.end
    return step.start + step.duration if isinstance(step, Press) else step.start


def demo_script(names: Sequence[str], pace: float = 1.0) -> Script:
    """Create the script that shows what a device does.

    Three objects are registered and recognized, and another one is rejected. A fourth is registered by mistake, which a
    long press undoes. Then the three and the unknown object appear in turn, forever.

    Args:
        names: five sprites: three to register, one that stays unknown, one registered by mistake.
        pace: factor for the length of everything but the presses. At 1 two presses are ten seconds apart, because a
            press soon after another one means "another view".

    Raises:
        CameraError: there are fewer than five names.
    """
    if len(names) < 5:
        raise CameraError(f"the scene needs five objects, and there are {len(names)}: {', '.join(names)}")
    first, second, third, unknown, mistake = names[:5]

    def show(name: str, start: float, end: float, text: str) -> Show:
        return Show(name, start * pace, end * pace, text)

    steps: list[Step] = []
    for number, name in enumerate((first, second, third)):
        start = 1.0 + 10.0 * number
        steps += [
            show(name, start, start + 3.2, f"a new object appears: the {name}"),
            *press((start + 1.1) * pace, f"the button is pressed: register the {name}"),
            show(name, start + 5.0, start + 8.0, f"an object appears again: the {name}"),
        ]
    steps += [
        show(unknown, 30.5, 33.5, f"an object that was never registered appears: the {unknown}"),
        show(mistake, 35.0, 41.2, f"a new object appears: the {mistake}"),
        *press(36.1 * pace, f"the button is pressed: register the {mistake}"),
        *hold(38.6 * pace, f"the button is held: undo, which forgets the {mistake}"),
        show(mistake, 42.7, 45.7, f"an object appears again, unknown now: the {mistake}"),
    ]
    begin = 46.5
    for number, name in enumerate((first, second, unknown, third)):
        start = begin + 0.5 + 4.5 * number
        text = f"the {name} appears" + (", still unknown" if name == unknown else "")
        steps.append(show(name, start, start + 3.0, text))
    return Script(tuple(steps), repeat_from=begin * pace, length=(begin + 18.0) * pace)
