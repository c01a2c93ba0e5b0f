"""What the daemon notes of its work for those who watch: counters and times, the current view, recent decisions."""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.registration_session import RegistrationProgress
from edge_siamese.events import Event, utc_now
from edge_siamese.recognition.decision import Recognition
from edge_siamese.recognition.imaging import Bytes, Floats
from edge_siamese.recognition.tracking import Sighting

Stage = Literal["wait", "imaging", "encode", "decide", "frame"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""What a frame goes through: it waits for its turn, is made ready, embedded, and compared; `frame` is all but the wait."""
Outcome = Literal["recognized", "unknown", "nothing", "learning"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""What frames came to: a known object, none that is known, a picture without contrast, a step of a registration."""

BUCKETS_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
MAX_DECISIONS = 50
"""At most 5.5 MB with pictures of 192 x 192 in color."""
MAX_OBJECTS = 1000
"""Whose recognitions are counted; the one that was recognized longest ago makes room."""


class Histogram:
    """Times in buckets. One thread observes; what others read is at most one time behind itself."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_SECONDS) + 1)
        """How many times fell into each bucket: up to its bound in `BUCKETS_SECONDS`, and the last one beyond them all."""
        self.sum_s = 0.0
        """Of all times, in seconds."""

    @property
    def count(self) -> int:
        """How many times there were."""
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.sum_s += seconds

    def quantile(self, share: float) -> float | None:
        """The time that this share of all times stays below, in seconds, as well as the buckets tell; None without any.

        Within a bucket, times are taken to be spread evenly; of what lies beyond all bounds, only the last bound is known.
        """
        counts = list(self.counts)
        wanted, before = share * sum(counts), 0
        for place, count in enumerate(counts):
            if count and before + count >= wanted:
                if place == len(BUCKETS_SECONDS):
                    return BUCKETS_SECONDS[-1]
                low = BUCKETS_SECONDS[place - 1] if place else 0.0
                return low + (BUCKETS_SECONDS[place] - low) * max(0.0, wanted - before) / count
            before += count
        return None


@dataclass(frozen=True)
class Counts:
    """What was counted up to a moment."""

    frames: Mapping[str, int]
    """By their outcome."""
    events: Mapping[str, int]
    """By their kind."""
    recognitions: Mapping[str, tuple[str, int]]
    """By the object's uid: its name at last, and how often it appeared."""
    registrations: Mapping[str, int]
    """What was saved, by where the request came from: button, command, picture, page, mqtt."""
    refusals: Mapping[str, int]
    """Registrations that were refused, by their reason."""


class Telemetry:
    """The counters of one daemon. Its own thread counts frames, any thread events; any thread reads."""

    def __init__(self) -> None:
        self.stages: dict[Stage, Histogram] = {stage: Histogram() for stage in STAGES}
        """Times of each stage."""
        self._frames: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self._changing = threading.Lock()
        self._events: Counter[str] = Counter()
        self._recognitions: dict[str, tuple[str, int]] = {}
        self._registrations: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._seen: dict[str, str] = {}

    def frame(self, outcome: Outcome, times: Mapping[Stage, float]) -> None:
        """A frame is done.

        Args:
            outcome: what it came to.
            times: of the stages that it went through, in seconds.
        """
        self._frames[outcome] += 1
        for stage, seconds in times.items():
            self.stages[stage].observe(seconds)

    def event(self, event: Event) -> None:
        """An event was published."""
        data = event.data
        uid, name = data.get("uid"), str(data.get("name") or "")
        with self._changing:
            self._events[event.kind] += 1
            if event.kind in ("registered", "view added"):
                self._registrations[str(data.get("source", ""))] += 1
            elif event.kind == "refused":
                self._refusals[str(data.get("reason", ""))] += 1
            elif event.kind in ("appeared", "seen", "left") and isinstance(uid, str):
                _, count = self._recognitions.pop(uid, ("", 0))
                self._recognitions[uid] = (name, count + (event.kind == "appeared"))
                if event.kind != "left" or uid not in self._seen:
                    self._seen[uid] = event.time
                _bound(self._recognitions)
                _bound(self._seen)
            elif event.kind == "renamed" and uid in self._recognitions:
                self._recognitions[str(uid)] = (name, self._recognitions[str(uid)][1])
            elif event.kind in ("forgotten", "merged") and isinstance(uid, str):
                gone = str(data.get("from", uid))
                self._recognitions.pop(gone, None)

    def remember_seen(self, uid: str, when: str) -> None:
        """An object was seen before this daemon started, as an older record of events tells."""
        with self._changing:
            if uid not in self._seen:
                self._seen = {uid: when, **self._seen}

    def last_seen(self) -> dict[str, str]:
        """By the objects' uids: when each appeared or was still there last, UTC, ISO 8601."""
        with self._changing:
            return dict(self._seen)

    def counts(self) -> Counts:
        """What was counted up to now."""
        with self._changing:
            return Counts(
                frames={str(outcome): count for outcome, count in self._frames.items()},
                events=dict(self._events),
                recognitions=dict(self._recognitions),
                registrations=dict(self._registrations),
                refusals=dict(self._refusals),
            )


def _bound(counted: dict[str, Any]) -> None:
    if len(counted) > MAX_OBJECTS:
        counted.pop(next(iter(counted)))


@dataclass(frozen=True, eq=False)
class CurrentView:
    """The latest frame and what was made of it; made anew with each frame, so any thread may look at it."""

    frame: Frame
    """What the camera saw."""
    recognition: Recognition | None
    """What it shows; None while it is learned from."""
    present: tuple[Sighting, ...]
    """What is there now, the first to appear first."""


@dataclass(frozen=True, eq=False)
class RecentDecision:
    """A frame that made an object appear, or that showed it still there."""

    id: str
    """12 hexadecimal digits."""
    uid: str
    """Of the object."""
    name: str
    """What it was called then."""
    time: str
    """UTC, ISO 8601."""
    recognition: Recognition
    """How it was decided."""
    embedding: Floats
    """(D,), of the frame."""
    model_id: str
    """Whose embedding it is."""
    crop: Bytes
    """What the encoder saw, uint8 (h, w) or (h, w, 3)."""


class RecentDecisions:
    """The latest `MAX_DECISIONS` moments; the engine's thread adds, any thread reads."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether moments are kept: only where somebody can look at them."""
        self._kept: OrderedDict[str, RecentDecision] = OrderedDict()
        self._changing = threading.Lock()

    def add(
        self, recognition: Recognition, embedding: Floats, model_id: str, crop: Bytes, *, uid: str, name: str
    ) -> str:
        """Keep one more; its id."""
        moment = RecentDecision(
            secrets.token_hex(6), uid, name, utc_now(), recognition, embedding, model_id, crop
        )
        with self._changing:
            self._kept[moment.id] = moment
            if len(self._kept) > MAX_DECISIONS:
                self._kept.popitem(last=False)
        return moment.id

    def get(self, number: str) -> RecentDecision | None:
        """The moment of this id, if it is kept still."""
        with self._changing:
            return self._kept.get(number)

    def latest(self) -> RecentDecision | None:
        """The newest one."""
        with self._changing:
            return next(reversed(self._kept.values()), None)

    def clear(self) -> None:
        """Keep none of them any more."""
        with self._changing:
            self._kept.clear()


@dataclass(frozen=True, eq=False)
class Observations:
    """What is noted of the daemon's work for those who look; it outlives engines."""

    telemetry: Telemetry = field(default_factory=Telemetry)
    """Counts frames, times and events."""
    decisions: RecentDecisions = field(default_factory=RecentDecisions)
    """The latest decisions that events told of."""
    registrations: RegistrationProgress = field(default_factory=RegistrationProgress)
    """The latest registration."""


def outcome(found: Recognition) -> Outcome:
    """What a frame came to."""
    if found.rule == "nothing to see":
        return "nothing"
    return "unknown" if found.uid is None else "recognized"
