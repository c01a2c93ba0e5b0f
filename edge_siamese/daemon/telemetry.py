"""Observations of the running daemon: counters and times, the current view, recent decisions."""

from __future__ import annotations

import secrets
import threading
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.registration_session import RegistrationProgress
from edge_siamese.events import Event
from edge_siamese.recognition.decision import Recognition
from edge_siamese.recognition.imaging import Box, Bytes, Floats
from edge_siamese.recognition.tracking import Sighting
from edge_siamese.system.wall_clock import utc_now

Stage = Literal["wait", "imaging", "encode", "decide", "frame"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""Stages of a frame: waiting, preprocessing, embedding, comparing; `frame` is all but the wait."""
Outcome = Literal["recognized", "undecided", "unknown", "blank", "registering"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""Outcomes of frames: a known object, one of two that look alike, an unknown one, a picture without contrast, or a frame of
a registration."""

BUCKETS_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
MAX_DECISIONS = 50
"""At most 5.5 MB with pictures of 192 x 192 in color."""
MAX_OBJECTS = 1000
"""Objects whose recognitions are counted; the one recognized longest ago is dropped first."""


class Histogram:
    """A histogram of times. One thread observes; readers may miss the latest observation."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_SECONDS) + 1)
        """Observations in each bucket, bounded by `BUCKETS_SECONDS`; the last bucket has no bound."""
        self.sum_s = 0.0
        """Sum of all observations, in seconds."""

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)

    def observe(self, seconds: float) -> None:
        """Add an observation."""
        self.counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.sum_s += seconds

    def quantile(self, share: float) -> float | None:
        """Estimate a quantile in seconds, for a share from 0 to 1; None without observations.

        Assumes that observations are spread evenly within a bucket; returns the last bound for the unbounded bucket.
        """
        counts = list(self.counts)
        rank, before = share * sum(counts), 0
        for index, count in enumerate(counts):
            if count and before + count >= rank:
                if index == len(BUCKETS_SECONDS):
                    return BUCKETS_SECONDS[-1]
                low = BUCKETS_SECONDS[index - 1] if index else 0.0
                return low + (BUCKETS_SECONDS[index] - low) * max(0.0, rank - before) / count
            before += count
        return None


@dataclass(frozen=True)
class Counts:
    """A snapshot of the counters."""

    frames: Mapping[tuple[str, str], int]
    """Frames by outcome and region. A frame counts once for each region that it was searched in."""
    events: Mapping[str, int]
    """Events by kind."""
    recognitions: Mapping[tuple[str, str], tuple[str, int]]
    """Latest name and number of appearances by the object's uid and region."""
    registrations: Mapping[str, int]
    """Saved registrations by source: button, command, picture, dashboard, mqtt."""
    refusals: Mapping[str, int]
    """Refused registrations by reason."""


class Telemetry:
    """The counters of a daemon. The engine's thread counts frames, any thread counts events and reads."""

    def __init__(self) -> None:
        self.stages: dict[Stage, Histogram] = {stage: Histogram() for stage in STAGES}
        """Times by stage."""
        self._frames: dict[tuple[Outcome, str], int] = dict.fromkeys(
            [(outcome, "") for outcome in OUTCOMES], 0
        )
        self._changing = threading.Lock()
        self._events: Counter[str] = Counter()
        self._recognitions: dict[tuple[str, str], tuple[str, int]] = {}
        self._registrations: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._seen: dict[str, str] = {}

    def set_regions(self, names: Sequence[str]) -> None:
        """Count frames of these regions, and of no others; an empty name is the whole picture."""
        with self._changing:
            kept = self._frames
            self._frames = {
                (outcome, name): kept.get((outcome, name), 0) for name in names for outcome in OUTCOMES
            }
            self._recognitions = {key: value for key, value in self._recognitions.items() if key[1] in names}

    def frame(self, outcomes: Iterable[tuple[str, Outcome]], times: Mapping[Stage, float]) -> None:
        """Count a frame.

        Args:
            outcomes: the region and the outcome of each search in it.
            times: seconds of each stage that it went through.
        """
        for region, outcome in outcomes:
            self._frames[outcome, region] += 1
        for stage, seconds in times.items():
            self.stages[stage].observe(seconds)

    def event(self, event: Event) -> None:
        """Count an event."""
        data = event.data
        uid, name = data.get("uid"), str(data.get("name") or "")
        with self._changing:
            self._events[event.kind] += 1
            if event.kind in ("registered", "view added"):
                self._registrations[str(data.get("source", ""))] += 1
            elif event.kind == "refused":
                self._refusals[str(data.get("reason", ""))] += 1
            elif event.kind in ("appeared", "seen", "left") and isinstance(uid, str):
                key = uid, str(data.get("region", ""))
                _, count = self._recognitions.pop(key, ("", 0))
                self._recognitions[key] = (name, count + (event.kind == "appeared"))
                if event.kind != "left" or uid not in self._seen:
                    self._seen[uid] = event.time
                _limit(self._recognitions)
                _limit(self._seen)
            elif event.kind == "renamed":
                for key in self._keys_of(uid):
                    self._recognitions[key] = (name, self._recognitions[key][1])
            elif event.kind in ("forgotten", "merged"):
                for key in self._keys_of(data.get("from", uid)):
                    del self._recognitions[key]

    def _keys_of(self, uid: object) -> list[tuple[str, str]]:
        return [key for key in self._recognitions if key[0] == uid]

    def remember_seen(self, uid: str, when: str) -> None:
        """Restore when an object was seen last, from the events of earlier daemons."""
        with self._changing:
            if uid not in self._seen:
                self._seen = {uid: when, **self._seen}

    def last_seen(self) -> dict[str, str]:
        """Return when each object was seen last, by uid: UTC, ISO 8601."""
        with self._changing:
            return dict(self._seen)

    def counts(self) -> Counts:
        """Return a snapshot of the counters."""
        with self._changing:
            return Counts(
                frames={(str(outcome), region): count for (outcome, region), count in self._frames.items()},
                events=dict(self._events),
                recognitions=dict(self._recognitions),
                registrations=dict(self._registrations),
                refusals=dict(self._refusals),
            )


def _limit(entries: dict[Any, Any]) -> None:
    """Drop the oldest entry beyond `MAX_OBJECTS`."""
    if len(entries) > MAX_OBJECTS:
        entries.pop(next(iter(entries)))


@dataclass(frozen=True, eq=False)
class RegionView:
    """The latest result of a region."""

    name: str
    """Empty: the whole picture."""
    area: Box
    """The region, in pixels of the frame."""
    recognition: Recognition | None
    """None during a registration, and before the region was processed."""
    part: Box | None
    """The part of the frame that the encoder reads; None if the region shows nothing new."""
    present: tuple[Sighting, ...]
    """The objects in view, in order of appearance."""


@dataclass(frozen=True, eq=False)
class CurrentView:
    """The latest frame and its recognitions. Immutable, so any thread may read it."""

    frame: Frame
    regions: tuple[RegionView, ...]
    """All regions, in the order of the settings; at least one."""
    registering: bool = False

    @property
    def present(self) -> tuple[Sighting, ...]:
        """The objects in view, by region."""
        return tuple(sighting for region in self.regions for sighting in region.present)


@dataclass(frozen=True, eq=False)
class RecentDecision:
    """The decision behind an event `appeared` or `seen`, with what the encoder saw."""

    id: str
    """12 hexadecimal digits."""
    uid: str
    """Uid of the object."""
    name: str
    """Its name at that time."""
    time: str
    """UTC, ISO 8601."""
    recognition: Recognition
    embedding: Floats
    """(D,), embedding of the frame."""
    model_id: str
    """The model that computed it."""
    crop: Bytes
    """The input of the encoder, uint8 (h, w) or (h, w, 3)."""


class RecentDecisions:
    """The latest `MAX_DECISIONS` decisions. The engine's thread adds, any thread reads."""

    def __init__(self) -> None:
        self.enabled = False
        """Whether decisions are kept: only if an integration shows them."""
        self._kept: OrderedDict[str, RecentDecision] = OrderedDict()
        self._changing = threading.Lock()

    def add(
        self, recognition: Recognition, embedding: Floats, model_id: str, crop: Bytes, *, uid: str, name: str
    ) -> str:
        """Keep a decision; returns its id."""
        decision = RecentDecision(
            secrets.token_hex(6), uid, name, utc_now(), recognition, embedding, model_id, crop
        )
        with self._changing:
            self._kept[decision.id] = decision
            if len(self._kept) > MAX_DECISIONS:
                self._kept.popitem(last=False)
        return decision.id

    def get(self, decision_id: str) -> RecentDecision | None:
        """Return the decision with this id, or None if it is no longer kept."""
        with self._changing:
            return self._kept.get(decision_id)

    def latest(self) -> RecentDecision | None:
        """Return the newest decision, or None."""
        with self._changing:
            return next(reversed(self._kept.values()), None)

    def clear(self) -> None:
        """Drop all decisions."""
        with self._changing:
            self._kept.clear()


@dataclass(frozen=True, eq=False)
class Observations:
    """Observations of the daemon for its integrations; they outlive the engine."""

    telemetry: Telemetry = field(default_factory=Telemetry)
    """Counters and times."""
    decisions: RecentDecisions = field(default_factory=RecentDecisions)
    """The decisions behind recent events."""
    registrations: RegistrationProgress = field(default_factory=RegistrationProgress)
    """The latest registration."""


def outcome(recognition: Recognition) -> Outcome:
    """Return the outcome of a frame for the counters."""
    if recognition.rule == "nothing to see":
        return "blank"
    if recognition.is_undecided:
        return "undecided"
    return "unknown" if recognition.uid is None else "recognized"
