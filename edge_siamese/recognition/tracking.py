"""Turns what single frames show into what people want to know: an object appeared, is still there, left."""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from edge_siamese.recognition.decision import Recognition

GAP_SECONDS = 5.0
"""Of which nobody saw anything: then what was there is taken to have left."""


@dataclass(frozen=True)
class Sighting:
    """News of an object that is or was there."""

    kind: Literal["appeared", "seen", "left"]
    uid: str
    name: str
    """What the object is called now."""
    sighting: str
    """The same from `appeared` to `left`, and of no other sighting."""
    probability: float
    """The mean of the frames that showed it in this sighting."""
    threshold: float
    """Which the latest of them reached."""
    frames: int
    """How many frames showed it in this sighting."""
    since: float
    """When the first of them was: seconds of the frames' clock."""
    duration_s: float
    """From the first frame that showed it to the latest."""

    @property
    def text(self) -> str:
        """One line for people."""
        if self.kind == "appeared":
            return f"{self.name} appeared (p = {self.probability:.2f})"
        if self.kind == "seen":
            return f"{self.name} is still there, for {_duration(self.duration_s)} now"
        return f"{self.name} left after {_duration(self.duration_s)}"

    def data(self) -> dict[str, Any]:
        """What programs need, for JSON; not `since`, which only the frames' clock can tell."""
        return {
            "uid": self.uid,
            "name": self.name,
            "sighting": self.sighting,
            "probability": round(self.probability, 4),
            "threshold": round(self.threshold, 4),
            "frames": self.frames,
            "duration_s": round(self.duration_s, 3),
        }


@dataclass
class _Shown:
    """A frame of the window that shows an object."""

    uid: str
    name: str
    probability: float
    threshold: float
    time: float


@dataclass
class _Present:
    """An object that is there, and its frames so far."""

    uid: str
    name: str
    sighting: str
    since: float
    frames: int = 0
    total_probability: float = 0.0
    threshold: float = 0.0
    last: float = 0.0
    told: float = 0.0

    def count(self, shown: _Shown) -> None:
        self.frames += 1
        self.total_probability += shown.probability
        self.name, self.threshold, self.last = shown.name, shown.threshold, shown.time

    def news(self, kind: Literal["appeared", "seen", "left"]) -> Sighting:
        return Sighting(
            kind=kind,
            uid=self.uid,
            name=self.name,
            sighting=self.sighting,
            probability=self.total_probability / self.frames,
            threshold=self.threshold,
            frames=self.frames,
            since=self.since,
            duration_s=self.last - self.since,
        )


class Tracker:
    """Agrees over time: k of the latest n frames make an object appear, and fewer let it leave.

    An object that is there is there until at most `leave` frames of the window show it; in between, where single
    frames miss it, nothing changes. Several objects may be there at once, as long as each is in enough frames.
    """

    def __init__(
        self,
        window: int,
        appear: int,
        leave: int,
        seen_every_s: float,
        *,
        gap_s: float = GAP_SECONDS,
        new_id: Callable[[], str] = lambda: secrets.token_hex(6),
    ) -> None:
        """Start with nothing there.

        Args:
            window: n, how many of the latest frames decide.
            appear: k, how many of them have to show an object for it to appear; 1 to n.
            leave: at how many of them it leaves; below `appear`.
            seen_every_s: while it stays, `seen` follows so often; 0: never.
            gap_s: without a frame for so long, everything left when the frames stopped. Longer than the time from one
                frame to the next.
            new_id: gives the id of a sighting.

        Raises:
            ValueError: the numbers contradict each other.
        """
        if not 0 <= leave < appear <= window:
            raise ValueError(
                f"0 <= leave < appear <= window is needed, not leave {leave}, appear {appear}, window {window}"
            )
        self._appear, self._leave, self._seen_every_s, self._gap_s = appear, leave, seen_every_s, gap_s
        self._new_id = new_id
        self._window: deque[_Shown | None] = deque(maxlen=window)
        self._present: dict[str, _Present] = {}
        self._now = -math.inf
        self._latest_frame: float | None = None
        self._behind = 0.0

    @property
    def present(self) -> tuple[Sighting, ...]:
        """What is there now, the first to appear first; each as a `seen`."""
        return tuple(there.news("seen") for there in self._present.values())

    def update(self, recognition: Recognition, time: float) -> list[Sighting]:
        """What a frame changes: first who left, then who appeared, then who is still there.

        Args:
            recognition: what the frame shows; whatever has no `uid` is unknown.
            time: of the frame, in seconds of a clock that does not go back. If it does, time stands still instead.
        """
        left = self.tick(time)
        now = self._latest_frame = self._now
        shown = None
        if recognition.uid is not None and recognition.name is not None:
            shown = _Shown(
                recognition.uid, recognition.name, recognition.probability, recognition.threshold, now
            )
        self._window.append(shown)
        if shown and shown.uid in self._present:
            self._present[shown.uid].count(shown)
        left += [self._depart(uid) for uid in list(self._present) if len(self._frames(uid)) <= self._leave]
        appeared = []
        if shown and shown.uid not in self._present and len(self._frames(shown.uid)) >= self._appear:
            appeared.append(self._arrive(shown.uid, now))
        return left + appeared + self._still_there(now)

    def tick(self, time: float) -> list[Sighting]:
        """Let time pass without a frame; after a gap, everything left when the frames stopped."""
        now = time + self._behind
        if now < self._now:
            self._behind += self._now - now
            now = self._now
        self._now = now
        if self._latest_frame is None or now - self._latest_frame <= self._gap_s:
            return []
        return self._clear()

    def reset(self, time: float) -> list[Sighting]:
        """The camera is gone, or looks at another place: everything left with the latest frame."""
        return self.tick(time) + self._clear()

    def forget(self, uid: str) -> list[Sighting]:
        """The object is no longer registered: it left, if it was there, and its frames show nothing known."""
        self._window = deque(
            (shown if shown and shown.uid != uid else None for shown in self._window), self._window.maxlen
        )
        return [self._depart(uid)] if uid in self._present else []

    def rename(self, uid: str, name: str) -> None:
        """The object has another name; its sighting goes on under it."""
        if uid in self._present:
            self._present[uid].name = name

    def _clear(self) -> list[Sighting]:
        self._window.clear()
        self._latest_frame = None
        return [self._depart(uid) for uid in list(self._present)]

    def _frames(self, uid: str) -> list[_Shown]:
        return [shown for shown in self._window if shown and shown.uid == uid]

    def _arrive(self, uid: str, now: float) -> Sighting:
        frames = self._frames(uid)
        there = self._present[uid] = _Present(uid, frames[-1].name, self._new_id(), frames[0].time, told=now)
        for shown in frames:
            there.count(shown)
        return there.news("appeared")

    def _depart(self, uid: str) -> Sighting:
        return self._present.pop(uid).news("left")

    def _still_there(self, now: float) -> list[Sighting]:
        if not self._seen_every_s:
            return []
        due = [there for there in self._present.values() if now - there.told >= self._seen_every_s]
        for there in due:
            there.told = now
        return [there.news("seen") for there in due]


def _duration(seconds: float) -> str:
    """For people: 12 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
