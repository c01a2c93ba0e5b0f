"""Regions: the places in the picture that are watched, each with its own focus, limits, tracker and latest recognition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from edge_siamese.cameras.camera import Frame
from edge_siamese.recognition.decision import Acceptance, Recognition
from edge_siamese.recognition.focus import Focus, choose_focus
from edge_siamese.recognition.imaging import Box, Floats, Preprocessing
from edge_siamese.recognition.support import SupportSet
from edge_siamese.recognition.surroundings import SceneSampler
from edge_siamese.recognition.tracking import GAP_SECONDS, Tracker
from edge_siamese.settings import RecognitionSettings, RegionBox, RegionSettings, Settings

WHOLE: RegionBox = (0.0, 0.0, 1.0, 1.0)


@dataclass(eq=False)
class Rule:
    """When an object is recognized. Regions with the same limits share one."""

    acceptance: Acceptance
    support: SupportSet
    """The registered objects, with their limits under this rule."""
    threshold: float
    """The general threshold, a probability; it follows from the registered objects."""
    base_support: SupportSet
    """The registered objects, without the limits that follow from the surroundings."""


@dataclass(frozen=True)
class LastRecognized:
    """The latest recognition of an object in a region."""

    uid: str
    frame: Frame
    """Its pixels are only the part that was read."""
    embedding: Floats


@dataclass(frozen=True, eq=False)
class Region:
    """A watched region."""

    settings: RegionSettings | None
    """None: the whole picture."""
    gap_s: float
    """After this many seconds without a frame, all objects have left."""
    rule: Rule
    focus: Focus
    tracker: Tracker
    state: RegionState = field(default_factory=lambda: RegionState())

    @property
    def name(self) -> str:
        """Its name; empty for the whole picture."""
        return self.settings.name if self.settings else ""

    @property
    def box(self) -> RegionBox:
        """Left, top, width and height, as fractions of the picture."""
        return self.settings.box if self.settings else WHOLE

    def area(self, frame: npt.NDArray[Any]) -> Box:
        """The region in a frame, in pixels; at least one."""
        rows, columns = frame.shape[:2]
        left, top, width, height = self.box
        first_row, first_column = min(round(top * rows), rows - 1), min(round(left * columns), columns - 1)
        return Box(
            first_row,
            first_column,
            max(1, min(round(height * rows), rows - first_row)),
            max(1, min(round(width * columns), columns - first_column)),
        )

    def find_part(self, frame: Frame, area: Box, keep: bool) -> Box | None:
        """The part of a frame that the encoder reads, in pixels of the frame; None if the region shows nothing new.

        Args:
            frame: the latest one.
            area: the region in it.
            keep: what was new before must not become background.
        """
        part = self.focus.find(area.of(frame.pixels), frame.time, keep)
        return part and Box(area.top + part.top, area.left + part.left, part.height, part.width)


@dataclass(eq=False)
class RegionState:
    """The latest result of a region."""

    recognition: Recognition | None = None
    """None before the first frame."""
    part: Box | None = None
    """The part that the encoder read, in pixels of the frame; None: there was nothing new."""
    last: LastRecognized | None = None
    sampler: SceneSampler | None = None
    """Watches for scenes in which nothing registered is seen; None before the first frame."""

    @property
    def is_recognized(self) -> bool:
        """Whether an object was recognized, even if it is undecided which one."""
        return self.recognition is not None and self.recognition.shows_something_known


class Regions:
    """The watched regions and whose turn it is.

    Args:
        settings: settings of the daemon.
        to: the encoder's input.
        rule_for: returns the rule for settings of recognition.
        former: regions to take over, with their state, if nothing about them changes.
    """

    def __init__(
        self,
        settings: Settings,
        to: Preprocessing,
        rule_for: Callable[[RecognitionSettings], Rule],
        former: Regions | None = None,
    ) -> None:
        self.per_frame = settings.recognition.regions_per_frame
        turns = -(-len(settings.regions) // self.per_frame)
        # The frames of a slow camera are further apart.
        gap_s = max(GAP_SECONDS, 3.0 * max(1, turns) / settings.camera.frame_rate)
        kept = {(region.settings, region.gap_s): region for region in former or ()}
        self._regions = tuple(
            kept.get((chosen, gap_s)) or _region(chosen, gap_s, settings, to, rule_for)
            for chosen in settings.regions or (None,)
        )
        self._turn = 0

    def __iter__(self) -> Iterator[Region]:
        return iter(self._regions)

    def __len__(self) -> int:
        return len(self._regions)

    @property
    def first(self) -> Region:
        """The region in which the button registers."""
        return self._regions[0]

    def in_turn(self) -> Iterator[Region]:
        """All regions, beginning after the one that was returned last in the previous round."""
        for place in [(self._turn + offset) % len(self) for offset in range(len(self))]:
            self._turn = (place + 1) % len(self)
            yield self._regions[place]


def _region(
    chosen: RegionSettings | None,
    gap_s: float,
    settings: Settings,
    to: Preprocessing,
    rule_for: Callable[[RecognitionSettings], Rule],
) -> Region:
    recognition = settings.recognition if chosen is None else chosen.recognition(settings.recognition)
    tracker = Tracker(
        recognition.window_frames,
        recognition.appear_frames,
        recognition.leave_frames,
        recognition.seen_interval_s,
        gap_s=gap_s,
        region=chosen.name if chosen else "",
    )
    focus = choose_focus((chosen and chosen.focus) or settings.camera.focus, to)
    return Region(chosen, gap_s, rule_for(recognition), focus, tracker)
