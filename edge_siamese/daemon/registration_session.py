"""Registration from a burst of frames or from pictures: quality gates, collisions, the store, signals and events."""

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
"""LED signals of refusals; all others show `FAILED`."""


MAX_FRAMES = 60
"""Maximum number of recorded frames of a registration; older ones are dropped."""
PREVIEW_SIDE = 96
"""Longer side of the pictures of frames, in pixels."""


@dataclass(frozen=True)
class RegistrationRequest:
    """A request to register an object or a view."""

    name: str | None = None
    """Name of a new object; None for the next numbered name."""
    target: str | None = None
    """Uid of the object that gets a view; None for a new object."""
    force: bool = False
    """Register even if it looks like another object."""
    source: str = "command"
    """Source of the request: button, command, picture, dashboard or mqtt."""
    region: str | None = None
    """The region whose frames are used; None: the whole picture, or none for pictures."""

    @property
    def origin(self) -> dict[str, str]:
        """Source and region, for the data of an event."""
        return {"source": self.source, **({"region": self.region} if self.region else {})}


@dataclass(frozen=True)
class RegistrationResult:
    """The outcome of a registration."""

    saved: bool
    text: str
    """Human-readable line."""
    object: StoredObject | None = None
    """The object as it is now; None if nothing was saved."""
    reason: str = ""
    """Reason of a refusal: the `problem` of a `registration.Reason`, or "failed" or "ended"."""
    collides: str = ""
    """The registered object that it looks like."""


@dataclass(frozen=True)
class RegistrationSession:
    """A registration in progress."""

    request: RegistrationRequest
    burst: Burst
    done: Callable[[RegistrationResult], object]
    progress: Callable[[dict[str, Any]], object]


class RegistrationSessions:
    """Runs one registration at a time; used from the engine's thread."""

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
        """Start idle.

        Args:
            settings: the registration settings.
            encoder, head, threshold: those of the model.
            store: where objects and views are saved.
            support: returns the registered objects, to detect collisions.
            saved: called with a saved object and the time.
            publish: receives events.
            signal: shows a temporary signal.
            hold_exposure: locks or releases the camera's exposure.
            progress: records registrations for integrations.
        """
        self.settings = settings
        self._encoder, self._head, self._threshold, self._store = encoder, head, threshold, store
        self._support, self._saved = support, saved
        self._publish, self._signal, self._hold_exposure = publish, signal, hold_exposure
        self._progress = progress
        self._session: RegistrationSession | None = None

    @property
    def busy(self) -> bool:
        """Whether a registration is in progress."""
        return self._session is not None

    @property
    def adds_view(self) -> bool:
        """Whether the registration in progress adds a view to a registered object."""
        return self._session is not None and self._session.request.target is not None

    @property
    def region(self) -> str | None:
        """The region of the registration in progress; see `RegistrationRequest.region`."""
        return self._session.request.region if self._session else None

    def begin(
        self,
        request: RegistrationRequest,
        now: float,
        done: Callable[[RegistrationResult], object] = lambda _: None,
        progress: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> None:
        """Begin to register from the next frames.

        Args:
            request: what to register.
            now: the time in seconds, on the clock of `Frame.time`.
            done: called with the outcome.
            progress: called with the verdict on each frame, as JSON values.

        Raises:
            ControlError: another registration is in progress.
            SupportError: the name is invalid or taken.
        """
        if self._session:
            raise ControlError("another registration is in progress; try again in a moment")
        self._require_name(request)
        burst = Burst(self.settings, self._encoder, self._head, self._threshold, now)
        self._session = RegistrationSession(request, burst, done, progress)
        self._record_start(request, self.settings.frames)
        self._signal(Signal.REGISTERING)
        self._hold_exposure(True)

    def add(self, frame: Frame) -> None:
        """Add a frame; ends the registration if it was the last one needed."""
        session = self._session
        assert session is not None
        if frame.time < session.burst.started:
            return  # captured before the request
        verdict = session.burst.add(frame.pixels, frame.time, frame.number)
        session.progress({"frame": verdict.number, "good": verdict.good, "text": verdict.text})
        self._record_verdict(verdict.number, frame.pixels, verdict)
        if session.burst.done:
            self._finish(session, frame.time)

    def tick(self, now: float) -> None:
        """Advance the time without a frame."""
        session = self._session
        if session and session.burst.tick(now):
            self._finish(session, now)

    def cancel(self) -> None:
        """End the registration in progress without saving anything."""
        session, self._session = self._session, None
        if session:
            self._hold_exposure(False)
            result = RegistrationResult(False, "the registration was canceled", reason="ended")
            self._record_end(self._refuse(result, Signal.UNDONE, session.request))
            session.done(result)

    def from_pictures(
        self, pictures: list[npt.NDArray[Any]], request: RegistrationRequest, now: float
    ) -> RegistrationResult:
        """Register from pictures instead of frames, each uint8 (h, w) or (h, w, 3). Raises the errors of `begin`."""
        self._require_name(request)
        refused: dict[int, FrameVerdict] = {}
        outcome = view_from_pictures(
            pictures,
            self._encoder,
            self.settings,
            self._head,
            self._threshold,
            lambda verdict: refused.update({verdict.number: verdict}),
        )
        if self._session:  # its record must not be replaced
            return self._save(outcome, request, now)
        self._record_start(request, 1)
        for number, picture in enumerate(pictures, 1):
            self._record_verdict(number, picture, refused.get(number))
        try:
            result = self._save(outcome, request, now)
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
            result = self._save(session.burst.finish(), session.request, now)
        except Exception as error:
            # Any error must reach whoever pressed the button or sent the request.
            result = RegistrationResult(False, str(error), reason="failed")
            self._record_end(self._refuse(result, Signal.FAILED, session.request))
            session.done(result)
            if not isinstance(error, (StoreError, SupportError)):
                raise
        else:
            self._record_end(result)
            session.done(result)

    def _save(
        self, outcome: NewView | Refusal, request: RegistrationRequest, now: float
    ) -> RegistrationResult:
        if isinstance(outcome, Refusal):
            result = RegistrationResult(False, outcome.text, reason=outcome.reason.problem)
            return self._refuse(result, SIGNALS.get(outcome.reason, Signal.FAILED), request)
        if not request.force and self.settings.collisions == "refuse":
            other = collision(outcome.embedding, self._support(), self._head, self._threshold, request.target)
            if other is not None:
                text, reason = collision_refusal(other).text, Reason.COLLISION.problem
                return self._refuse(
                    RegistrationResult(False, text, reason=reason, collides=other), Signal.COLLISION, request
                )
        view = replace(outcome, source=request.source)
        kind: Kind
        if request.target is None:
            stored = self._store.register(request.name, view, self.settings.name_template)
            kind, text, led_signal = "registered", f'"{stored.name}" is registered', Signal.SAVED
        else:
            stored = self._store.add_view(request.target, view)
            kind, text, led_signal = (
                "view added",
                f'"{stored.name}" has {stored.views} views now',
                Signal.VIEW_SAVED,
            )
        # Only now: the change is on disk.
        self._signal(led_signal)
        self._publish(Event(kind, text, data=object_data(stored, **request.origin)))
        self._saved(stored, now)
        return RegistrationResult(True, text, stored)

    def _refuse(
        self, result: RegistrationResult, signal: Signal, request: RegistrationRequest
    ) -> RegistrationResult:
        self._signal(signal)
        data = {"reason": result.reason, **request.origin}
        if result.collides:
            data["name"] = result.collides
        self._publish(Event("refused", f"not registered: {result.text}", data=data))
        return result

    def _record_start(self, request: RegistrationRequest, needed: int) -> None:
        if self._progress.enabled:
            self._progress.begin(
                name=request.name, target=request.target, source=request.source, needed=needed
            )

    def _record_verdict(self, number: int, pixels: npt.NDArray[Any], verdict: FrameVerdict | None) -> None:
        """Record a frame; without a verdict it is a good one."""
        if self._progress.enabled:
            good, text = (True, "good") if verdict is None else (verdict.good, verdict.text)
            crop = make_crop(pixels, self._encoder.preprocessing, PREVIEW_SIDE)
            self._progress.add(RegistrationFrame(number, good, text, crop))

    def _record_end(self, result: RegistrationResult) -> None:
        uid = None if result.object is None else result.object.uid
        self._progress.end(saved=result.saved, text=result.text, uid=uid)


def object_data(stored: StoredObject, **more: Any) -> dict[str, Any]:
    """Return the data of an event about an object."""
    return {"uid": stored.uid, "name": stored.name, "views": stored.views, **more}


@dataclass(frozen=True, eq=False)
class RegistrationFrame:
    """A frame of a registration."""

    number: int
    """Number of the frame; of a picture its position, from 1."""
    good: bool
    """Whether it passed the quality gates."""
    text: str
    """The problem and what to do; or `good`."""
    crop: Bytes
    """A small picture of it, uint8 (h, w) or (h, w, 3)."""


@dataclass(frozen=True, eq=False)
class RegistrationRecord:
    """A registration in progress, or the latest one."""

    id: str
    """12 hexadecimal digits."""
    name: str | None
    """Name of a new object; None for the next numbered name."""
    target: str | None
    """The uid of the object that gets a view; None for a new object."""
    source: str
    """Source of the request: button, command, picture, dashboard or mqtt."""
    needed: int
    """Number of good frames that it needs."""
    frames: tuple[RegistrationFrame, ...] = ()
    """The latest frames, oldest first."""
    done: bool = False
    """Whether it has ended."""
    saved: bool = False
    """Whether something was saved."""
    text: str = ""
    """The outcome in one line."""
    uid: str | None = None
    """Uid of the saved object."""


class RegistrationProgress:
    """The latest registration. The engine's thread writes, any thread reads."""

    def __init__(self) -> None:
        self.enabled = False
        """Whether registrations are recorded: only if the dashboard shows them."""
        self.version = 0
        """Number of changes, so that readers detect one."""
        self._latest: RegistrationRecord | None = None
        self._changing = threading.Lock()

    def latest(self) -> RegistrationRecord | None:
        """Return the registration in progress or the latest one."""
        return self._latest

    def begin(self, *, name: str | None, target: str | None, source: str, needed: int) -> None:
        """Record the start of a registration."""
        self._put(RegistrationRecord(secrets.token_hex(6), name, target, source, needed))

    def add(self, frame: RegistrationFrame) -> None:
        """Record a frame."""
        if self._latest is not None and not self._latest.done:
            self._put(replace(self._latest, frames=(*self._latest.frames, frame)[-MAX_FRAMES:]))

    def end(self, *, saved: bool, text: str, uid: str | None) -> None:
        """Record the end."""
        if self._latest is not None and not self._latest.done:
            self._put(replace(self._latest, done=True, saved=saved, text=text, uid=uid))

    def clear(self) -> None:
        """Drop the record."""
        self._put(None)

    def _put(self, record: RegistrationRecord | None) -> None:
        with self._changing:
            self._latest = record
            self.version += 1
