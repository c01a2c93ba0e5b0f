"""Registers what is before the camera, or in pictures: a burst of frames, the gates, the store, and what is told of it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from edge_siamese.cameras.camera import Frame
from edge_siamese.errors import ControlError, EdgeSiameseError, StoreError, SupportError
from edge_siamese.events import Event, Kind
from edge_siamese.panel.led_signals import Signal
from edge_siamese.recognition.embedding import Encoder, make_crop
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.recognition.registration import (
    Burst,
    FrameVerdict,
    NewView,
    Reason,
    Refusal,
    collision,
    collision_refusal,
    view_from_pictures,
)
from edge_siamese.recognition.support import SupportSet
from edge_siamese.settings import RegistrationSettings
from edge_siamese.store import StoredObject, SupportStore

SIGNALS = {
    Reason.BLURRED: Signal.BLURRED,
    Reason.DARK: Signal.DARK,
    Reason.BRIGHT: Signal.BRIGHT,
    Reason.MOVING: Signal.MOVING,
    Reason.COLLISION: Signal.COLLISION,
}
"""What the light says of a refusal; of all others that it failed."""


MAX_FRAMES = 60
"""A registration that looks longer shows its latest frames."""
SIDE = 96
"""The longer side of a frame's picture, in pixels."""


@dataclass(frozen=True)
class RegistrationRequest:
    """What is to be learned."""

    name: str | None = None
    """Of a new object; None for a name that counts up."""
    target: str | None = None
    """The uid of the object that gets a view; None for a new object."""
    force: bool = False
    """Also if it looks like another object."""
    source: str = "command"
    """Where the wish came from: button, command, picture, page or mqtt."""


@dataclass(frozen=True)
class RegistrationResult:
    """How a registration ended."""

    saved: bool
    text: str
    """One line for people."""
    object: StoredObject | None = None
    """As it is now; None if nothing was saved."""
    reason: str = ""
    """Of a refusal: what `registration.Reason` calls it, or "failed" or "ended"."""
    collides: str = ""
    """The object that it looks like."""


@dataclass(frozen=True)
class RegistrationSession:
    """A registration that is under way."""

    wish: RegistrationRequest
    burst: Burst
    done: Callable[[RegistrationResult], object]
    progress: Callable[[dict[str, Any]], object]


class RegistrationSessions:
    """Learns one thing at a time; used from the engine's thread."""

    def __init__(
        self,
        settings: RegistrationSettings,
        encoder: Encoder,
        head: SigmoidDistanceHead,
        threshold: float,
        store: SupportStore,
        *,
        support: Callable[[], SupportSet],
        saved: Callable[[StoredObject, float], object],
        publish: Callable[[Event], object],
        signal: Callable[[Signal], object],
        hold_exposure: Callable[[bool], object],
        bursts: RegistrationProgress,
    ) -> None:
        """Learn nothing yet.

        Args:
            settings: of registrations.
            encoder, head, threshold: of the model.
            store: keeps what was learned.
            support: what is registered now, to see collisions.
            saved: is told of an object that was saved, and when.
            publish: is given what happens.
            signal: shows a passing signal.
            hold_exposure: keeps the camera's exposure, or lets it go.
            bursts: shows each registration to those who watch.
        """
        self.settings = settings
        self._encoder, self._head, self._threshold, self._store = encoder, head, threshold, store
        self._support, self._saved = support, saved
        self._publish, self._signal, self._hold_exposure = publish, signal, hold_exposure
        self._bursts = bursts
        self._lesson: RegistrationSession | None = None

    @property
    def busy(self) -> bool:
        """Whether a registration is under way."""
        return self._lesson is not None

    def begin(
        self,
        wish: RegistrationRequest,
        now: float,
        done: Callable[[RegistrationResult], object] = lambda _: None,
        progress: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> None:
        """Begin to learn from the frames that come.

        Args:
            wish: what.
            now: the time, as frames have it.
            done: is told how it ended.
            progress: is given each frame's verdict, as JSON values.

        Raises:
            ControlError: another registration is under way.
            SupportError: the name cannot be one, or is taken.
        """
        if self._lesson:
            raise ControlError("another registration is under way; try again in a moment")
        self._require_name(wish)
        burst = Burst(self.settings, self._encoder, self._head, self._threshold, now)
        self._lesson = RegistrationSession(wish, burst, done, progress)
        self._show_beginning(wish, self.settings.frames)
        self._signal(Signal.LOOKING)
        self._hold_exposure(True)

    def add(self, frame: Frame) -> None:
        """Look at a frame; ends the registration if that was the last one it needed."""
        lesson = self._lesson
        assert lesson is not None
        if frame.time < lesson.burst.started:
            return  # what was there before anybody asked
        verdict = lesson.burst.add(frame.pixels, frame.time, frame.number)
        lesson.progress({"frame": verdict.number, "good": verdict.good, "text": verdict.text})
        self._show_verdict(verdict.number, frame.pixels, verdict)
        if lesson.burst.done:
            self._finish(lesson, frame.time)

    def tick(self, now: float) -> None:
        """Let time pass where frames may not come."""
        lesson = self._lesson
        if lesson and lesson.burst.tick(now):
            self._finish(lesson, now)

    def cancel(self) -> None:
        """End the registration under way without saving anything."""
        lesson, self._lesson = self._lesson, None
        if lesson:
            self._hold_exposure(False)
            learned = RegistrationResult(
                False, "the registration was ended before it was done", reason="ended"
            )
            self._show_end(self._refuse(learned, Signal.UNDONE, lesson.wish))
            lesson.done(learned)

    def from_pictures(
        self, pictures: list[npt.NDArray[Any]], wish: RegistrationRequest, now: float
    ) -> RegistrationResult:
        """Learn from pictures instead: uint8 (h, w) or (h, w, 3) each. Errors are those of `begin`."""
        self._require_name(wish)
        refused: dict[int, FrameVerdict] = {}
        found = view_from_pictures(
            pictures,
            self._encoder,
            self.settings,
            self._head,
            self._threshold,
            lambda verdict: refused.update({verdict.number: verdict}),
        )
        if self._lesson:  # whose frames are being shown
            return self._keep(found, wish, now)
        self._show_beginning(wish, 1)
        for number, picture in enumerate(pictures, 1):
            self._show_verdict(number, picture, refused.get(number))
        try:
            learned = self._keep(found, wish, now)
        except EdgeSiameseError as error:
            self._bursts.end(saved=False, text=str(error), uid=None)
            raise
        self._show_end(learned)
        return learned

    def _require_name(self, wish: RegistrationRequest) -> None:
        if wish.target is None and wish.name is not None:
            self._store.require_free_name(wish.name)

    def _finish(self, lesson: RegistrationSession, now: float) -> None:
        self._lesson = None
        self._hold_exposure(False)
        try:
            learned = self._keep(lesson.burst.finish(), lesson.wish, now)
        except Exception as error:
            # Whoever pressed or asked has to be told, whatever it was.
            learned = RegistrationResult(False, str(error), reason="failed")
            self._show_end(self._refuse(learned, Signal.FAILED, lesson.wish))
            lesson.done(learned)
            if not isinstance(error, (StoreError, SupportError)):
                raise
        else:
            self._show_end(learned)
            lesson.done(learned)

    def _keep(self, found: NewView | Refusal, wish: RegistrationRequest, now: float) -> RegistrationResult:
        if isinstance(found, Refusal):
            learned = RegistrationResult(False, found.text, reason=found.reason.problem)
            return self._refuse(learned, SIGNALS.get(found.reason, Signal.FAILED), wish)
        if not wish.force and self.settings.collisions == "refuse":
            other = collision(found.embedding, self._support(), self._head, self._threshold, wish.target)
            if other is not None:
                text, reason = collision_refusal(other).text, Reason.COLLISION.problem
                return self._refuse(
                    RegistrationResult(False, text, reason=reason, collides=other), Signal.COLLISION, wish
                )
        view = replace(found, source=wish.source)
        kind: Kind
        if wish.target is None:
            known = self._store.register(wish.name, view, self.settings.name_template)
            kind, text, shown = "registered", f'"{known.name}" is registered', Signal.SAVED
        else:
            known = self._store.add_view(wish.target, view)
            kind, text, shown = "view added", f'"{known.name}" has {known.views} views now', Signal.VIEW_SAVED
        # Only now is it on the disk, so only now is it shown.
        self._signal(shown)
        self._publish(Event(kind, text, data=about(known, source=wish.source)))
        self._saved(known, now)
        return RegistrationResult(True, text, known)

    def _refuse(
        self, learned: RegistrationResult, signal: Signal, wish: RegistrationRequest
    ) -> RegistrationResult:
        self._signal(signal)
        data = {"reason": learned.reason, "source": wish.source}
        if learned.collides:
            data["name"] = learned.collides
        self._publish(Event("refused", f"not registered: {learned.text}", data=data))
        return learned

    def _show_beginning(self, wish: RegistrationRequest, wanted: int) -> None:
        if self._bursts.wanted:
            self._bursts.begin(name=wish.name, target=wish.target, source=wish.source, wanted=wanted)

    def _show_verdict(self, number: int, pixels: npt.NDArray[Any], verdict: FrameVerdict | None) -> None:
        """Show a frame to those who watch; no verdict is a good one."""
        if self._bursts.wanted:
            good, text = (True, "good") if verdict is None else (verdict.good, verdict.text)
            crop = make_crop(pixels, self._encoder.preprocessing, SIDE)
            self._bursts.add(BurstFrame(number, good, text, crop))

    def _show_end(self, learned: RegistrationResult) -> None:
        uid = None if learned.object is None else learned.object.uid
        self._bursts.end(saved=learned.saved, text=learned.text, uid=uid)


def about(known: StoredObject, **more: Any) -> dict[str, Any]:
    """An object in an event's data."""
    return {"uid": known.uid, "name": known.name, "views": known.views, **more}


@dataclass(frozen=True, eq=False)
class BurstFrame:
    """One frame that was looked at."""

    number: int
    """The frame's; of a picture: its place, from 1."""
    good: bool
    """Whether it was good enough to learn from."""
    text: str
    """Why not, and what to do; or `good`."""
    crop: Bytes
    """A small picture of it, uint8 (h, w) or (h, w, 3)."""


@dataclass(frozen=True, eq=False)
class BurstRecord:
    """One registration, up to now or to its end."""

    id: str
    """12 hexadecimal digits."""
    name: str | None
    """What the object is to be called; None for a name that counts up."""
    target: str | None
    """The uid of the object that gets a view; None for a new object."""
    source: str
    """Where the wish came from: button, command, picture, page, mqtt."""
    wanted: int
    """Good frames that it needs."""
    frames: tuple[BurstFrame, ...] = ()
    """In their order."""
    done: bool = False
    """Whether it has ended."""
    saved: bool = False
    """Whether something was learned."""
    text: str = ""
    """How it ended, in one line."""
    uid: str | None = None
    """Of the object that was saved."""


class RegistrationProgress:
    """Holds the latest registration; the engine's thread writes, any thread reads."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether frames are kept: only where somebody can look at them."""
        self.version = 0
        """Counts the changes, so that who watches sees that there was one."""
        self._latest: BurstRecord | None = None
        self._changing = threading.Lock()

    def latest(self) -> BurstRecord | None:
        """The one that is under way, or was last."""
        return self._latest

    def begin(self, *, name: str | None, target: str | None, source: str, wanted: int) -> None:
        """A registration begins."""
        self._put(BurstRecord(secrets.token_hex(6), name, target, source, wanted))

    def add(self, frame: BurstFrame) -> None:
        """It has looked at a frame."""
        if self._latest is not None and not self._latest.done:
            self._put(replace(self._latest, frames=(*self._latest.frames, frame)[-MAX_FRAMES:]))

    def end(self, *, saved: bool, text: str, uid: str | None) -> None:
        """It has ended."""
        if self._latest is not None and not self._latest.done:
            self._put(replace(self._latest, done=True, saved=saved, text=text, uid=uid))

    def clear(self) -> None:
        """Nobody watches any more."""
        self._put(None)

    def _put(self, record: BurstRecord | None) -> None:
        with self._changing:
            self._latest = record
            self.version += 1
