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
    """Where the request came from: button, command, picture, page or mqtt."""


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

    request: RegistrationRequest
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
        progress: RegistrationProgress,
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
            progress: shows each registration to those who watch.
        """
        self.settings = settings
        self._encoder, self._head, self._threshold, self._store = encoder, head, threshold, store
        self._support, self._saved = support, saved
        self._publish, self._signal, self._hold_exposure = publish, signal, hold_exposure
        self._progress = progress
        self._session: RegistrationSession | None = None

    @property
    def busy(self) -> bool:
        """Whether a registration is under way."""
        return self._session is not None

    def begin(
        self,
        request: RegistrationRequest,
        now: float,
        done: Callable[[RegistrationResult], object] = lambda _: None,
        progress: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> None:
        """Begin to learn from the frames that come.

        Args:
            request: what.
            now: the time, as frames have it.
            done: is told how it ended.
            progress: is given each frame's verdict, as JSON values.

        Raises:
            ControlError: another registration is under way.
            SupportError: the name cannot be one, or is taken.
        """
        if self._session:
            raise ControlError("another registration is under way; try again in a moment")
        self._require_name(request)
        burst = Burst(self.settings, self._encoder, self._head, self._threshold, now)
        self._session = RegistrationSession(request, burst, done, progress)
        self._record_start(request, self.settings.frames)
        self._signal(Signal.LOOKING)
        self._hold_exposure(True)

    def add(self, frame: Frame) -> None:
        """Look at a frame; ends the registration if that was the last one it needed."""
        session = self._session
        assert session is not None
        if frame.time < session.burst.started:
            return  # what was there before anybody asked
        verdict = session.burst.add(frame.pixels, frame.time, frame.number)
        session.progress({"frame": verdict.number, "good": verdict.good, "text": verdict.text})
        self._record_verdict(verdict.number, frame.pixels, verdict)
        if session.burst.done:
            self._finish(session, frame.time)

    def tick(self, now: float) -> None:
        """Let time pass where frames may not come."""
        session = self._session
        if session and session.burst.tick(now):
            self._finish(session, now)

    def cancel(self) -> None:
        """End the registration under way without saving anything."""
        session, self._session = self._session, None
        if session:
            self._hold_exposure(False)
            result = RegistrationResult(
                False, "the registration was ended before it was done", reason="ended"
            )
            self._record_end(self._refuse(result, Signal.UNDONE, session.request))
            session.done(result)

    def from_pictures(
        self, pictures: list[npt.NDArray[Any]], request: RegistrationRequest, now: float
    ) -> RegistrationResult:
        """Learn from pictures instead: uint8 (h, w) or (h, w, 3) each. Errors are those of `begin`."""
        self._require_name(request)
        refused: dict[int, FrameVerdict] = {}
        found = view_from_pictures(
            pictures,
            self._encoder,
            self.settings,
            self._head,
            self._threshold,
            lambda verdict: refused.update({verdict.number: verdict}),
        )
        if self._session:  # whose frames are being shown
            return self._keep(found, request, now)
        self._record_start(request, 1)
        for number, picture in enumerate(pictures, 1):
            self._record_verdict(number, picture, refused.get(number))
        try:
            result = self._keep(found, request, now)
        except EdgeSiameseError as error:
            self._progress.end(saved=False, text=str(error), uid=None)
            raise
        self._record_end(result)
        return result

    def _require_name(self, request: RegistrationRequest) -> None:
        if request.target is None and request.name is not None:
            self._store.require_free_name(request.name)

    def _finish(self, session: RegistrationSession, now: float) -> None:
        self._session = None
        self._hold_exposure(False)
        try:
            result = self._keep(session.burst.finish(), session.request, now)
        except Exception as error:
            # Whoever pressed or asked has to be told, whatever it was.
            result = RegistrationResult(False, str(error), reason="failed")
            self._record_end(self._refuse(result, Signal.FAILED, session.request))
            session.done(result)
            if not isinstance(error, (StoreError, SupportError)):
                raise
        else:
            self._record_end(result)
            session.done(result)

    def _keep(self, found: NewView | Refusal, request: RegistrationRequest, now: float) -> RegistrationResult:
        if isinstance(found, Refusal):
            result = RegistrationResult(False, found.text, reason=found.reason.problem)
            return self._refuse(result, SIGNALS.get(found.reason, Signal.FAILED), request)
        if not request.force and self.settings.collisions == "refuse":
            other = collision(found.embedding, self._support(), self._head, self._threshold, request.target)
            if other is not None:
                text, reason = collision_refusal(other).text, Reason.COLLISION.problem
                return self._refuse(
                    RegistrationResult(False, text, reason=reason, collides=other), Signal.COLLISION, request
                )
        view = replace(found, source=request.source)
        kind: Kind
        if request.target is None:
            known = self._store.register(request.name, view, self.settings.name_template)
            kind, text, shown = "registered", f'"{known.name}" is registered', Signal.SAVED
        else:
            known = self._store.add_view(request.target, view)
            kind, text, shown = "view added", f'"{known.name}" has {known.views} views now', Signal.VIEW_SAVED
        # Only now is it on the disk, so only now is it shown.
        self._signal(shown)
        self._publish(Event(kind, text, data=about(known, source=request.source)))
        self._saved(known, now)
        return RegistrationResult(True, text, known)

    def _refuse(
        self, result: RegistrationResult, signal: Signal, request: RegistrationRequest
    ) -> RegistrationResult:
        self._signal(signal)
        data = {"reason": result.reason, "source": request.source}
        if result.collides:
            data["name"] = result.collides
        self._publish(Event("refused", f"not registered: {result.text}", data=data))
        return result

    def _record_start(self, request: RegistrationRequest, wanted: int) -> None:
        if self._progress.wanted:
            self._progress.begin(
                name=request.name, target=request.target, source=request.source, wanted=wanted
            )

    def _record_verdict(self, number: int, pixels: npt.NDArray[Any], verdict: FrameVerdict | None) -> None:
        """Show a frame to those who watch; no verdict is a good one."""
        if self._progress.wanted:
            good, text = (True, "good") if verdict is None else (verdict.good, verdict.text)
            crop = make_crop(pixels, self._encoder.preprocessing, SIDE)
            self._progress.add(RegistrationFrame(number, good, text, crop))

    def _record_end(self, result: RegistrationResult) -> None:
        uid = None if result.object is None else result.object.uid
        self._progress.end(saved=result.saved, text=result.text, uid=uid)


def about(known: StoredObject, **more: Any) -> dict[str, Any]:
    """An object in an event's data."""
    return {"uid": known.uid, "name": known.name, "views": known.views, **more}


@dataclass(frozen=True, eq=False)
class RegistrationFrame:
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
class RegistrationRecord:
    """One registration, up to now or to its end."""

    id: str
    """12 hexadecimal digits."""
    name: str | None
    """What the object is to be called; None for a name that counts up."""
    target: str | None
    """The uid of the object that gets a view; None for a new object."""
    source: str
    """Where the request came from: button, command, picture, page, mqtt."""
    wanted: int
    """Good frames that it needs."""
    frames: tuple[RegistrationFrame, ...] = ()
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
        self._latest: RegistrationRecord | None = None
        self._changing = threading.Lock()

    def latest(self) -> RegistrationRecord | None:
        """The one that is under way, or was last."""
        return self._latest

    def begin(self, *, name: str | None, target: str | None, source: str, wanted: int) -> None:
        """A registration begins."""
        self._put(RegistrationRecord(secrets.token_hex(6), name, target, source, wanted))

    def add(self, frame: RegistrationFrame) -> None:
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

    def _put(self, record: RegistrationRecord | None) -> None:
        with self._changing:
            self._latest = record
            self.version += 1
