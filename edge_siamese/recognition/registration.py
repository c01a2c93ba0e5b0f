"""Turns a burst of frames into a view of an object: quality gates, agreement, embedding, pictures to keep."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.recognition.decision import decide
from edge_siamese.recognition.embedding import (
    Encoder,
    Variation,
    crop_of,
    encode,
    images_of,
    mean_embedding,
    variations_for,
)
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Bytes, Floats
from edge_siamese.recognition.quality import Quality, grid_of, measure
from edge_siamese.recognition.support import SupportSet
from edge_siamese.settings import RegistrationSettings

NOTHING_CONTRAST = 14.0
"""Gray levels: a picture with less contrast shows nothing but noise."""
FAINT_CONTRAST = 30.0
"""Gray levels: a picture with less contrast has lost its detail if it is very dark or very bright as well."""
CLIPPED = 0.5
"""The share of white cells from which on a picture without contrast is too bright, whatever its mean."""
AGREEING = 0.75
"""The share of the good frames that have to show one thing; the others are left out."""
REMEMBERED_VERDICTS = 300


class Reason(Enum):
    """Why a frame is not good enough, or why nothing was registered: what is wrong, and what to do."""

    DARK = "too dark", "were too dark", "bring it into the light"
    BRIGHT = "too bright", "were too bright", "take it out of the glare, or dim the light"
    NOTHING = "nothing to see", "showed nothing", "hold something in front of the camera"
    MOVING = "moving", "were moving", "hold it still"
    BLURRED = "blurred", "were blurred", "hold it still, and as far away as the camera needs to be sharp"
    UNSTEADY = "not one thing", "showed other things", "show one thing only, and keep hands away"
    COLLISION = "known already", "looked like a known object", "add a view to that object, or forget it first"
    NO_FRAMES = "no frames", "did not come", "see whether the camera works"

    def __init__(self, what: str, of_many: str, advice: str) -> None:
        self.what = what
        """What is wrong, for people."""
        self.of_many = of_many
        """The same, said of several frames."""
        self.advice = advice
        """What to do, for people."""

    @property
    def sentence(self) -> str:
        """Such as `too dark: bring it into the light`."""
        return f"{self.what}: {self.advice}"


@dataclass(frozen=True, eq=False)
class NewView:
    """What a registration learned, before it is stored."""

    embedding: Floats
    """float32 (D,): the support embedding."""
    crops: tuple[Bytes, ...]
    """Pictures to keep, sharpest first, uint8 (h, w) or (h, w, 3); empty if none are to be kept."""
    source: str
    """Where it came from: `camera` or `picture`."""


@dataclass(frozen=True)
class FrameVerdict:
    """Whether a frame is good enough to learn from."""

    number: int
    """The frame's; of a picture: its place, from 1."""
    quality: Quality
    """What was measured."""
    reason: Reason | None
    """Why it is not good enough; None if it is."""

    @property
    def good(self) -> bool:
        """Whether it is good enough."""
        return self.reason is None

    @property
    def text(self) -> str:
        """One line for people."""
        return "good" if self.reason is None else self.reason.sentence


@dataclass(frozen=True)
class Refusal:
    """Why nothing was registered."""

    reason: Reason
    """The most frequent one."""
    text: str
    """One line for people: what was wrong, and what to do."""
    frames: int = 0
    """How many frames were looked at."""
    good: int = 0
    """How many of them were good enough."""
    reasons: Mapping[Reason, int] = field(default_factory=dict)
    """How many frames were refused for each reason."""


class Burst:
    """Frames of one object, until there are enough good ones or the time is over.

    Good frames are encoded as they come, so that the result is there at once and no frame is held.
    """

    def __init__(
        self,
        settings: RegistrationSettings,
        encoder: Encoder,
        head: SigmoidDistanceHead,
        threshold: float,
        started: float,
    ) -> None:
        """Begin.

        Args:
            settings: how many frames, for how long, which gates.
            encoder: of the embeddings.
            head, threshold: decide whether the frames show one thing; the threshold is a probability.
            started: when it began, in seconds of the clock of the frames.
        """
        self.started = started
        self._settings = settings
        self._gathered = _Gathered(settings, encoder, head, threshold, variations_for(settings.frames))
        self._verdicts: deque[FrameVerdict] = deque(maxlen=REMEMBERED_VERDICTS)
        self._before: Floats | None = None
        self._is_over = False

    @property
    def done(self) -> bool:
        """Whether there are enough good frames or the time is over; further frames change nothing then."""
        return self._is_over or self.good >= self._settings.frames

    @property
    def good(self) -> int:
        """How many good frames there are."""
        return len(self._gathered.shots)

    @property
    def verdicts(self) -> tuple[FrameVerdict, ...]:
        """On the latest frames, oldest first."""
        return tuple(self._verdicts)

    def tick(self, now: float) -> bool:
        """Tell the time, since a camera may give no frames; returns `done`."""
        self._is_over = self._is_over or now - self.started >= self._settings.timeout_s
        return self.done

    def add(self, pixels: npt.NDArray[Any], time: float, number: int) -> FrameVerdict:
        """Judge a frame; the first one without its motion.

        Args:
            pixels: uint8 (h, w) or (h, w, 3).
            time: when it was captured, in seconds of the clock of `started`.
            number: the camera's number of the frame.

        Raises:
            ImageError: it is no image.
            EncoderError: the runtime failed.
        """
        grid = grid_of(pixels, self._gathered.encoder.preprocessing)
        quality = measure(grid, self._before)
        if self.tick(time):
            return FrameVerdict(number, quality, reason_against(quality, self._settings))
        self._before = grid
        verdict = self._gathered.judge(number, pixels, quality)
        self._verdicts.append(verdict)
        return verdict

    def finish(self) -> NewView | Refusal:
        """The view, or why there is none; at least half as many good frames as wanted make one, too."""
        wanted = self._settings
        seen = self._gathered.seen
        if seen == 0 or (not self._gathered.reasons and self.good < _half(wanted.frames)):
            came = "no frame" if seen == 0 else f"only {seen} frame{'s' if seen > 1 else ''}"
            text = f"{came} came within {wanted.timeout_s:g} s: {Reason.NO_FRAMES.advice}"
            return Refusal(Reason.NO_FRAMES, text, seen, self.good)
        return self._gathered.view(_half(wanted.frames), "frame", "camera", Reason.UNSTEADY.advice)


def view_of_pictures(
    pictures: Sequence[npt.NDArray[Any]],
    encoder: Encoder,
    settings: RegistrationSettings,
    head: SigmoidDistanceHead,
    threshold: float,
    on_refused: Callable[[FrameVerdict], None] | None = None,
) -> NewView | Refusal:
    """A view of picture files instead of frames: the same gates but for motion, and one good picture is enough.

    Args:
        pictures: one or more of one thing from one side, uint8 (h, w) or (h, w, 1, 3 or 4), of any sizes.
        encoder, settings, head, threshold: as for `Burst`.
        on_refused: is told of each picture that is not good enough.

    Raises:
        ImageError: something is not an image.
        EncoderError: the runtime failed.
        ValueError: there is no picture.
    """
    if not pictures:
        raise ValueError("a view needs at least one picture")
    gathered = _Gathered(settings, encoder, head, threshold, variations_for(len(pictures)))
    for number, picture in enumerate(pictures, 1):
        verdict = gathered.judge(number, picture, measure(grid_of(picture, encoder.preprocessing)))
        if not verdict.good and on_refused is not None:
            on_refused(verdict)
    return gathered.view(1, "picture", "picture", "register pictures of different sides one by one")


def reason_against(quality: Quality, settings: RegistrationSettings) -> Reason | None:
    """The first gate that a frame fails, or None.

    The order is that of causes: in the dark there is nothing to see, and what moves is blurred.
    """
    if quality.contrast < FAINT_CONTRAST:
        if quality.brightness < settings.min_brightness:
            return Reason.DARK
        if quality.brightness > settings.max_brightness or quality.clipped_bright > CLIPPED:
            return Reason.BRIGHT
    if quality.contrast < NOTHING_CONTRAST:
        return Reason.NOTHING
    if quality.motion is not None and quality.motion > settings.max_motion:
        return Reason.MOVING
    return Reason.BLURRED if quality.sharpness < settings.min_sharpness else None


def collision(
    embedding: Floats,
    support: SupportSet,
    head: SigmoidDistanceHead,
    threshold: float,
    except_uid: str | None = None,
) -> str | None:
    """The name of the object as which a new view would be recognized, or None.

    Args:
        embedding: (D,), of the new view.
        support, head, threshold: as for `decide`.
        except_uid: an object to leave out, such as the one that gets the view.
    """
    if except_uid is not None and except_uid in support.uids:
        support = support.without(except_uid)
    return decide(support, head, embedding, threshold).name


def collision_refusal(name: str) -> Refusal:
    """Nothing is registered, since it looks like the object of this name."""
    return Refusal(Reason.COLLISION, f'it looks like "{name}", which is known: {Reason.COLLISION.advice}')


@dataclass(frozen=True, eq=False)
class _Shot:
    """What is kept of a good frame."""

    embeddings: Floats
    """(1 + variations, D); the first is of the frame itself."""
    sharpness: float


@dataclass
class _Gathered:
    """The good frames up to now, and what was wrong with the others."""

    settings: RegistrationSettings
    encoder: Encoder
    head: SigmoidDistanceHead
    threshold: float
    variations: Sequence[Variation]
    shots: list[_Shot] = field(default_factory=list)
    crops: dict[int, Bytes] = field(default_factory=dict)
    """Of the sharpest frames, by their places in `shots`."""
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def seen(self) -> int:
        return len(self.shots) + self.reasons.total()

    def judge(self, number: int, pixels: npt.NDArray[Any], quality: Quality) -> FrameVerdict:
        """Through the gates, and what passes into `shots`."""
        reason = reason_against(quality, self.settings)
        if reason is None:
            images = images_of(pixels, self.encoder.preprocessing, self.variations)
            self.shots.append(_Shot(encode(images, self.encoder), quality.sharpness))
            self._keep_crop(pixels)
        else:
            self.reasons[reason] += 1
        return FrameVerdict(number, quality, reason)

    def view(
        self, needed: int, noun: str, source: Literal["camera", "picture"], advice: str
    ) -> NewView | Refusal:
        """The view, if there are enough good frames and they show one thing."""
        good = len(self.shots)
        if good < needed:
            reason = max(Reason, key=lambda reason: self.reasons[reason])
            return Refusal(reason, self._complaint(reason, noun), self.seen, good, dict(self.reasons))
        kept = self._agreeing()
        if len(kept) < math.ceil(AGREEING * good):
            text = f"the {good} good {noun}s do not show one thing: {advice}"
            return Refusal(Reason.UNSTEADY, text, self.seen, good, dict(self.reasons))
        embedding = mean_embedding(np.concatenate([self.shots[place].embeddings for place in kept]))
        crops = [self.crops[place] for place in self._sharpest_first() if place in kept]
        return NewView(embedding, tuple(crops[: self.settings.crops_per_view]), source)

    def _complaint(self, reason: Reason, noun: str) -> str:
        if self.seen == 1:
            return f"the {noun} is not good enough: {reason.what}; {reason.advice}"
        share = "most" if 2 * self.reasons[reason] > self.seen else "many"
        good = len(self.shots) or "none"
        return f"{good} of {self.seen} {noun}s were good enough; {share} {reason.of_many}: {reason.advice}"

    def _agreeing(self) -> set[int]:
        """The places of the good frames that look like the one which most others look like."""
        alone = np.stack([shot.embeddings[0] for shot in self.shots])
        distances = self.head.distances(alone, alone)
        alike = self.head.probability(distances) >= self.threshold
        np.fill_diagonal(alike, True)
        middle = np.lexsort((distances.sum(axis=1), -alike.sum(axis=1)))[0]
        return set(np.flatnonzero(alike[middle]).tolist())

    def _keep_crop(self, pixels: npt.NDArray[Any]) -> None:
        """The latest frame's, unless enough frames are sharper."""
        if not self.settings.keep_crops:
            return
        self.crops[len(self.shots) - 1] = crop_of(pixels, self.encoder.preprocessing, self.settings.crop_side)
        # Spare ones for the frames that may be left out, since they show another thing.
        spare = math.floor((1 - AGREEING) * max(self.settings.frames, len(self.shots)))
        for place in self._sharpest_first()[self.settings.crops_per_view + spare :]:
            del self.crops[place]

    def _sharpest_first(self) -> list[int]:
        """The places of `crops`."""
        return sorted(self.crops, key=lambda place: (-self.shots[place].sharpness, place))


def _half(frames: int) -> int:
    return math.ceil(frames / 2)
