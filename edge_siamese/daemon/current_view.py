"""What the daemon sees now, as others look at it."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.recent_decisions import RecentDecisions
from edge_siamese.daemon.registration_progress import RegistrationProgress
from edge_siamese.daemon.telemetry import Outcome, Telemetry
from edge_siamese.recognition.decision import Recognition
from edge_siamese.recognition.tracking import Sighting


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
class Observed:
    """What is noted of the daemon's work for those who look; it outlives engines."""

    telemetry: Telemetry = field(default_factory=Telemetry)
    """Counts frames, times and events."""
    moments: RecentDecisions = field(default_factory=RecentDecisions)
    """The latest decisions that events told of."""
    bursts: RegistrationProgress = field(default_factory=RegistrationProgress)
    """The latest registration."""


def outcome(found: Recognition) -> Outcome:
    """What a frame came to."""
    if found.rule == "nothing to see":
        return "nothing"
    return "unknown" if found.uid is None else "recognized"
