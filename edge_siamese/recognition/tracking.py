"""Tracking: turns the recognitions of single frames into sightings of objects that appear, stay and leave."""

from __future__ import annotations

import math
import secrets
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from edge_siamese.recognition.decision import Recognition

GAP_SECONDS = 5.0
"""After this time without a frame, all objects are considered to have left."""


@dataclass(frozen=True)
class Sighting:
    """A change in the sighting of an object."""

    kind: Literal["appeared", "seen", "left", "undecided"]
    """`undecided`: one of two objects that look alike is there."""
    uid: str
    name: str
    """The current name of the object."""
    sighting: str
    """The id of the sighting, the same from `appeared` to `left`."""
    probability: float
    """The mean probability of the frames of this sighting."""
    threshold: float
    """The threshold that the latest of them reached."""
    frames: int
    """The number of frames that showed the object in this sighting."""
    since: float
    """The time of the first of them, in seconds of the frames' clock."""
    duration_s: float
    """From the first frame that showed it to the latest."""
    region: str = ""
    """The region that shows it; empty: the whole picture."""
    other_uid: str = ""
    other_name: str = ""
    """The object that it may be instead, if it is undecided."""

    @property
    def text(self) -> str:
        """Human-readable line."""
        place = f'"{self.region}"' if self.region else ""
        if self.kind == "undecided":
            where = f" in {place}" if place else ""
            return f"{self.name} or {self.other_name}{where}: both are about equally close (p = {self.probability:.2f})"
        if self.kind == "appeared":
            return f"{self.name} appeared{place and ' in '}{place} (p = {self.probability:.2f})"
        if self.kind == "seen":
            where = f"in {place}" if place else "there"
            return f"{self.name} is still {where}, for {_duration(self.duration_s)} now"
        return f"{self.name} left{place and ' '}{place} after {_duration(self.duration_s)}"

    def data(self) -> dict[str, Any]:
        """The fields for JSON, without `since`, which only the frames' clock can interpret."""
        which: dict[str, Any] = {"uid": self.uid, "name": self.name}
        if self.kind == "undecided":
            which = {
                "name": f"{self.name} or {self.other_name}",
                "uids": [self.uid, self.other_uid],
                "names": [self.name, self.other_name],
            }
        return {
            **which,
            **({"region": self.region} if self.region else {}),
            "sighting": self.sighting,
            "probability": round(self.probability, 4),
            "threshold": round(self.threshold, 4),
            "frames": self.frames,
            "duration_s": round(self.duration_s, 3),
        }


@dataclass
class _Shown:
    """A frame in the window that shows an object."""

    uid: str
    name: str
    probability: float
    threshold: float
    time: float
    other_uid: str = ""
    other_name: str = ""
    """The object that it may show instead; empty if it is decided."""

    def may_be(self, uid: str) -> bool:
        return uid in (self.uid, self.other_uid)

    @property
    def pair(self) -> frozenset[str]:
        """The uids of the two objects between which it is undecided; empty if it is decided."""
        return frozenset((self.uid, self.other_uid)) if self.other_uid else frozenset()


@dataclass
class _Present:
    """An object that is present, and its frames so far."""

    uid: str
    name: str
    sighting: str
    since: float
    frames: int = 0
    total_probability: float = 0.0
    threshold: float = 0.0
    last: float = 0.0
    reported: float = 0.0

    def count(self, shown: _Shown) -> None:
        self.frames += 1
        self.total_probability += shown.probability
        self.name, self.threshold, self.last = shown.name, shown.threshold, shown.time

    def report(self, kind: Literal["appeared", "seen", "left"], region: str) -> Sighting:
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
            region=region,
        )


class Tracker:
    """Consensus over time: an object appears when k of the latest n frames show it, and leaves when few do.

    A present object stays until at most `leave` frames of the window show it, so single frames that miss it change nothing.
    Several objects can be present at once, as long as each is in enough frames. Undecided frames keep both objects present,
    and let neither appear; if k of the latest n frames are undecided between the same two, and neither is present, that is
    reported once.
    """

    def __init__(
        self,
        window: int,
        appear: int,
        leave: int,
        seen_every_s: float,
        *,
        gap_s: float = GAP_SECONDS,
        region: str = "",
        new_id: Callable[[], str] = lambda: secrets.token_hex(6),
    ) -> None:
        """Start without objects.

        Args:
            window: n, the number of latest frames that decide.
            appear: k, the number of them that must show an object for it to appear; 1 to n.
            leave: the number of them with which it leaves; below `appear`.
            seen_every_s: the interval of `seen` reports while it stays, in seconds; 0 for none.
            gap_s: after this many seconds without a frame, everything is taken to have left when the frames stopped.
                Must be longer than the time from one frame to the next.
            region: where the objects are, for the sightings.
            new_id: creates the id of a sighting.

        Raises:
            ValueError: the numbers contradict each other.
        """
        if not 0 <= leave < appear <= window:
            raise ValueError(
                f"0 <= leave < appear <= window is needed, not leave {leave}, appear {appear}, window {window}"
            )
        self._appear, self._leave, self._seen_every_s, self._gap_s = appear, leave, seen_every_s, gap_s
        self._region, self._new_id = region, new_id
        self._window: deque[_Shown | None] = deque(maxlen=window)
        self._present: dict[str, _Present] = {}
        self._undecided: frozenset[str] = frozenset()
        self._now = -math.inf
        self._latest_frame: float | None = None
        self._behind = 0.0

    @property
    def present(self) -> tuple[Sighting, ...]:
        """The present objects, in the order of appearance, each as a `seen` report."""
        return tuple(there.report("seen", self._region) for there in self._present.values())

    def update(self, recognition: Recognition, time: float) -> list[Sighting]:
        """The changes that a frame causes: first objects that left, then those that appeared, then those still seen.

        Args:
            recognition: recognition of the frame; without a `uid`, the frame shows no known object.
            time: time of the frame, in seconds of a monotonic clock. An earlier time than before is ignored.
        """
        left = self.tick(time)
        now = self._latest_frame = self._now
        shown = None
        if recognition.uid is not None and recognition.name is not None:
            shown = _Shown(
                recognition.uid, recognition.name, recognition.probability, recognition.threshold, now
            )
        elif recognition.is_undecided:
            shown = _Shown(
                recognition.nearest_uid or "",
                recognition.nearest or "",
                recognition.probability,
                recognition.threshold,
                now,
                recognition.runner_up_uid or "",
                recognition.runner_up or "",
            )
        self._window.append(shown)
        if shown and not shown.pair and shown.uid in self._present:
            self._present[shown.uid].count(shown)
        for there in self._present.values():
            if shown and shown.may_be(there.uid):
                there.last = now
        left += [self._leave_now(uid) for uid in list(self._present) if self._possible(uid) <= self._leave]
        appeared = []
        is_new = shown is not None and not shown.pair and shown.uid not in self._present
        if shown and is_new and len(self._frames(shown.uid)) >= self._appear:
            appeared.append(self._appear_now(shown.uid, now))
        return left + appeared + self._undecided_reports(shown) + self._due_reports(now)

    def tick(self, time: float) -> list[Sighting]:
        """Update the time without a frame; after a gap, everything is taken to have left when the frames stopped."""
        now = time + self._behind
        if now < self._now:
            self._behind += self._now - now
            now = self._now
        self._now = now
        if self._latest_frame is None or now - self._latest_frame <= self._gap_s:
            return []
        return self._clear()

    def reset(self, time: float) -> list[Sighting]:
        """End all sightings with the latest frame, because the camera was lost or moved."""
        return self.tick(time) + self._clear()

    def forget(self, uid: str) -> list[Sighting]:
        """Remove an object that is no longer registered: its sighting ends, and its frames count as unknown."""
        self._window = deque(
            (shown if shown and not shown.may_be(uid) else None for shown in self._window),
            self._window.maxlen,
        )
        return [self._leave_now(uid)] if uid in self._present else []

    def rename(self, uid: str, name: str) -> None:
        """Rename an object; its sighting continues under the new name."""
        if uid in self._present:
            self._present[uid].name = name

    def _clear(self) -> list[Sighting]:
        self._window.clear()
        self._latest_frame, self._undecided = None, frozenset()
        return [self._leave_now(uid) for uid in list(self._present)]

    def _frames(self, uid: str) -> list[_Shown]:
        return [shown for shown in self._window if shown and not shown.pair and shown.uid == uid]

    def _possible(self, uid: str) -> int:
        """The number of frames that show an object or may show it."""
        return sum(shown is not None and shown.may_be(uid) for shown in self._window)

    def _undecided_reports(self, latest: _Shown | None) -> list[Sighting]:
        """A report if the window has become undecided between two objects."""

        def frames(pair: frozenset[str]) -> list[_Shown]:
            return [shown for shown in self._window if shown and pair and shown.pair == pair]

        if len(frames(self._undecided)) <= self._leave:
            self._undecided = frozenset()
        pair = latest.pair if latest else frozenset[str]()
        if latest is None or not pair or pair == self._undecided or pair & self._present.keys():
            return []
        found = frames(pair)
        if len(found) < self._appear:
            return []
        self._undecided = pair
        return [
            Sighting(
                kind="undecided",
                uid=latest.uid,
                name=latest.name,
                sighting=self._new_id(),
                probability=sum(shown.probability for shown in found) / len(found),
                threshold=latest.threshold,
                frames=len(found),
                since=found[0].time,
                duration_s=found[-1].time - found[0].time,
                region=self._region,
                other_uid=latest.other_uid,
                other_name=latest.other_name,
            )
        ]

    def _appear_now(self, uid: str, now: float) -> Sighting:
        frames = self._frames(uid)
        there = self._present[uid] = _Present(
            uid, frames[-1].name, self._new_id(), frames[0].time, reported=now
        )
        for shown in frames:
            there.count(shown)
        return there.report("appeared", self._region)

    def _leave_now(self, uid: str) -> Sighting:
        return self._present.pop(uid).report("left", self._region)

    def _due_reports(self, now: float) -> list[Sighting]:
        if not self._seen_every_s:
            return []
        due = [there for there in self._present.values() if now - there.reported >= self._seen_every_s]
        for there in due:
            there.reported = now
        return [there.report("seen", self._region) for there in due]


def _duration(seconds: float) -> str:
    """Format a duration: 12 s, 3 min, 2.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
