"""Registration: turns a burst of frames into a view of an object.

Frames pass quality gates, must agree on one object, and give the support embedding and the pictures to store.
"""

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
    encode_in_batches,
    make_crop,
    mean_embedding,
    prepare_variations,
    variations_for,
)
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Bytes, Floats
from edge_siamese.recognition.quality import MIN_CONTRAST, Quality, make_grid, measure_quality
from edge_siamese.recognition.support import SupportSet
from edge_siamese.settings import RegistrationSettings

FAINT_CONTRAST = 30.0
"""Gray levels: a picture with less contrast has lost its detail if it is also very dark or very bright."""
MAX_CLIPPED_BRIGHT = 0.5
"""A picture without contrast is too bright with a larger fraction of white cells, whatever its mean."""
MIN_AGREEMENT = 0.75
"""The fraction of the good frames that must show one object; the others are not used."""
MAX_VERDICTS = 300
"""Number of latest verdicts that are kept."""


class Reason(Enum):
    """Reasons to refuse a frame or a registration, with problem and advice."""

    DARK = "too dark", "were too dark", "add light"
    BRIGHT = "too bright", "were too bright", "dim the light, or avoid the glare"
    NOTHING = "nothing to see", "showed nothing", "hold something in front of the camera"
    MOVING = "moving", "were moving", "hold it still"
    BLURRED = "blurred", "were blurred", "hold it still, and as far away as the camera needs to be sharp"
    UNSTEADY = "not one object", "showed other objects", "show one object only, and keep hands away"
    COLLISION = "already known", "looked like a known object", "add a view to that object, or forget it first"
    NO_FRAMES = "no frames", "did not arrive", "check the camera"

    def __init__(self, problem: str, plural_problem: str, advice: str) -> None:
        self.problem = problem
        """The problem."""
        self.plural_problem = plural_problem
        """The same, for several frames."""
        self.advice = advice
        """Advice to the user."""

    @property
    def sentence(self) -> str:
        """Problem and advice, such as `too dark: add light`."""
        return f"{self.problem}: {self.advice}"


@dataclass(frozen=True, eq=False)
class NewView:
    """A view that is not stored yet."""

    embedding: Floats
    """float32 (D,): the support embedding."""
    crops: tuple[Bytes, ...]
    """Pictures to store, sharpest first, uint8 (h, w) or (h, w, 3); may be empty."""
    source: str
    """Its source: `camera` or `picture`."""


@dataclass(frozen=True)
class FrameVerdict:
    """Whether a frame is good enough for a registration."""

    number: int
    """The camera's number of the frame; for a picture, its position from 1."""
    quality: Quality
    """The measured quality."""
    reason: Reason | None
    """Why it was refused; None if it is good."""

    @property
    def good(self) -> bool:
        """Whether it passed all gates."""
        return self.reason is None

    @property
    def text(self) -> str:
        """Human-readable line."""
        return "good" if self.reason is None else self.reason.sentence


@dataclass(frozen=True)
class Refusal:
    """Why nothing was registered."""

    reason: Reason
    """The most frequent reason."""
    text: str
    """Human-readable line: the problem, and what to do."""
    frames: int = 0
    """The number of frames that were judged."""
    good: int = 0
    """The number of good frames among them."""
    reasons: Mapping[Reason, int] = field(default_factory=dict)
    """The number of refused frames by reason."""


class Burst:
    """A burst of frames of one object: ends when enough frames are good, or when the time is over.

    Good frames are encoded as they arrive. The result is then available immediately, and no frame is kept.
    """

    def __init__(
        self,
        settings: RegistrationSettings,
        encoder: Encoder,
        head: SigmoidDistanceHead,
        threshold: float,
        started: float,
    ) -> None:
        """Start a burst.

        Args:
            settings: number of frames, time limit, gates.
            encoder: computes the embeddings.
            head, threshold: decide whether the frames show one object; the threshold is a probability.
            started: when it began, in seconds of the clock of the frames.
        """
        self.started = started
        self._settings = settings
        self._collector = _Collector(settings, encoder, head, threshold, variations_for(settings.frames))
        self._verdicts: deque[FrameVerdict] = deque(maxlen=MAX_VERDICTS)
        self._previous_grid: Floats | None = None
        self._is_over = False

    @property
    def done(self) -> bool:
        """Whether enough frames are good or the time is over; further frames change nothing."""
        return self._is_over or self.good >= self._settings.frames

    @property
    def good(self) -> int:
        """The number of good frames."""
        return len(self._collector.frames)

    @property
    def verdicts(self) -> tuple[FrameVerdict, ...]:
        """The verdicts on the latest frames, oldest first."""
        return tuple(self._verdicts)

    def tick(self, now: float) -> bool:
        """Update the time, because the camera may deliver no frames; returns `done`."""
        self._is_over = self._is_over or now - self.started >= self._settings.timeout_s
        return self.done

    def add(self, pixels: npt.NDArray[Any], time: float, number: int) -> FrameVerdict:
        """Judge a frame; the first one without its motion.

        Args:
            pixels: uint8 (h, w) or (h, w, 3).
            time: when it was captured, in seconds of the clock of `started`.
            number: the camera's number of the frame.

        Raises:
            ImageError: the array is not an image.
            EncoderError: the runtime failed.
        """
        grid = make_grid(pixels, self._collector.encoder.preprocessing)
        quality = measure_quality(grid, self._previous_grid)
        if self.tick(time):
            return FrameVerdict(number, quality, refusal_reason(quality, self._settings))
        self._previous_grid = grid
        verdict = self._collector.judge(number, pixels, quality)
        self._verdicts.append(verdict)
        return verdict

    def finish(self) -> NewView | Refusal:
        """The view, or why there is none. Half of `RegistrationSettings.frames` good frames are enough."""
        frames, seen = self._settings.frames, self._collector.seen
        if seen == 0 or (not self._collector.reasons and self.good < _half(frames)):
            count = "no frame" if seen == 0 else f"only {seen} frame{'s' if seen > 1 else ''}"
            text = f"{count} arrived within {self._settings.timeout_s:g} s: {Reason.NO_FRAMES.advice}"
            return Refusal(Reason.NO_FRAMES, text, seen, self.good)
        return self._collector.view(_half(frames), "frame", "camera", Reason.UNSTEADY.advice)


def view_from_pictures(
    pictures: Sequence[npt.NDArray[Any]],
    encoder: Encoder,
    settings: RegistrationSettings,
    head: SigmoidDistanceHead,
    threshold: float,
    on_refused: Callable[[FrameVerdict], None] | None = None,
) -> NewView | Refusal:
    """Make a view from pictures instead of frames: the same gates except motion, and one good picture is enough.

    Args:
        pictures: one or more of one object from one side, uint8 (h, w) or (h, w, 1, 3 or 4), of any sizes.
        encoder, settings, head, threshold: as for `Burst`.
        on_refused: called for each picture that is not good enough.

    Raises:
        ImageError: an array is not an image.
        EncoderError: the runtime failed.
        ValueError: there is no picture.
    """
    if not pictures:
        raise ValueError("a view needs at least one picture")
    collector = _Collector(settings, encoder, head, threshold, variations_for(len(pictures)))
    for number, picture in enumerate(pictures, 1):
        verdict = collector.judge(number, picture, measure_quality(make_grid(picture, encoder.preprocessing)))
        if not verdict.good and on_refused is not None:
            on_refused(verdict)
    return collector.view(1, "picture", "picture", "register pictures of different sides one by one")


def refusal_reason(quality: Quality, settings: RegistrationSettings) -> Reason | None:
    """The first gate that a frame fails, or None.

    Causes come first: a dark picture shows nothing, and a moving object is blurred.
    """
    if quality.contrast < FAINT_CONTRAST:
        if quality.brightness < settings.min_brightness:
            return Reason.DARK
        if quality.brightness > settings.max_brightness or quality.clipped_bright > MAX_CLIPPED_BRIGHT:
            return Reason.BRIGHT
    if quality.contrast < MIN_CONTRAST:
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
    """The name of the registered object as which a new view would be recognized, or None.

    Args:
        embedding: (D,), of the new view.
        support, head, threshold: as for `decide`.
        except_uid: an object to ignore, such as the one that gets the view.
    """
    if except_uid is not None and except_uid in support.uids:
        support = support.without(except_uid)
    return decide(support, head, embedding, threshold).name


def collision_refusal(name: str) -> Refusal:
    """The refusal of a view that looks like the object of this name."""
    return Refusal(
        Reason.COLLISION, f'it looks like "{name}", which is registered: {Reason.COLLISION.advice}'
    )


@dataclass(frozen=True, eq=False)
class _GoodFrame:
    """The embeddings and the sharpness of a good frame."""

    embeddings: Floats
    """float32 (1 + variations, D); the first is of the frame itself."""
    sharpness: float


@dataclass
class _Collector:
    """The good frames so far, and why the others were refused."""

    settings: RegistrationSettings
    encoder: Encoder
    head: SigmoidDistanceHead
    threshold: float
    variations: Sequence[Variation]
    frames: list[_GoodFrame] = field(default_factory=list)
    crops: dict[int, Bytes] = field(default_factory=dict)
    """The pictures of the sharpest frames, by position in `frames`."""
    reasons: Counter[Reason] = field(default_factory=Counter)

    @property
    def seen(self) -> int:
        return len(self.frames) + self.reasons.total()

    def judge(self, number: int, pixels: npt.NDArray[Any], quality: Quality) -> FrameVerdict:
        """Judge a frame, and encode it if it is good."""
        reason = refusal_reason(quality, self.settings)
        if reason is None:
            images = prepare_variations(pixels, self.encoder.preprocessing, self.variations)
            self.frames.append(_GoodFrame(encode_in_batches(images, self.encoder), quality.sharpness))
            self._store_crop(pixels)
        else:
            self.reasons[reason] += 1
        return FrameVerdict(number, quality, reason)

    def view(
        self, needed: int, noun: str, source: Literal["camera", "picture"], advice: str
    ) -> NewView | Refusal:
        """The view, if enough frames are good and they show one object."""
        good = len(self.frames)
        if good < needed:
            reason = max(Reason, key=lambda reason: self.reasons[reason])
            return Refusal(reason, self._complaint(reason, noun), self.seen, good, dict(self.reasons))
        kept = self._agreeing_frames()
        if len(kept) < math.ceil(MIN_AGREEMENT * good):
            text = f"the {good} good {noun}s do not show one object: {advice}"
            return Refusal(Reason.UNSTEADY, text, self.seen, good, dict(self.reasons))
        embedding = mean_embedding(np.concatenate([self.frames[position].embeddings for position in kept]))
        crops = [self.crops[position] for position in self._sharpest_first() if position in kept]
        return NewView(embedding, tuple(crops[: self.settings.crops_per_view]), source)

    def _complaint(self, reason: Reason, noun: str) -> str:
        if self.seen == 1:
            return f"the {noun} is not good enough: {reason.problem}; {reason.advice}"
        share = "most" if 2 * self.reasons[reason] > self.seen else "many"
        good = len(self.frames) or "none"
        return f"{good} of {self.seen} {noun}s were good enough; {share} {reason.plural_problem}: {reason.advice}"

    def _agreeing_frames(self) -> set[int]:
        """The positions of the good frames that match the most central one: the frame that most others match."""
        embeddings = np.stack([shot.embeddings[0] for shot in self.frames])
        distances = self.head.distances(embeddings, embeddings)
        matches = self.head.probability(distances) >= self.threshold
        np.fill_diagonal(matches, True)
        center = np.lexsort((distances.sum(axis=1), -matches.sum(axis=1)))[0]
        return set(np.flatnonzero(matches[center]).tolist())

    def _store_crop(self, pixels: npt.NDArray[Any]) -> None:
        """Keep the picture of the latest frame, unless enough frames are sharper."""
        if not self.settings.keep_crops:
            return
        self.crops[len(self.frames) - 1] = make_crop(
            pixels, self.encoder.preprocessing, self.settings.crop_side
        )
        # Spare pictures, because frames that show another object are not used.
        spare = math.floor((1 - MIN_AGREEMENT) * max(self.settings.frames, len(self.frames)))
        for position in self._sharpest_first()[self.settings.crops_per_view + spare :]:
            del self.crops[position]

    def _sharpest_first(self) -> list[int]:
        """The positions of `crops`, sharpest frame first."""
        return sorted(self.crops, key=lambda position: (-self.frames[position].sharpness, position))


def _half(frames: int) -> int:
    return math.ceil(frames / 2)
