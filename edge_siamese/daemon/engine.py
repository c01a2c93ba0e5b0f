"""What the daemon does with a frame, a press and a request: recognise, learn, forget, tell.

No thread and no clock of its own: the service calls it from one thread and says what time it is, and so do the tests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_siamese.bundle import Bundle
from edge_siamese.cameras.base import Frame
from edge_siamese.daemon.settings import Settings
from edge_siamese.decision import Recognition, decide, object_limits
from edge_siamese.errors import ControlError, StoreError, SupportError
from edge_siamese.events import Event, Kind
from edge_siamese.panel.grammar import Gesture
from edge_siamese.panel.signals import Signal
from edge_siamese.recognizer import chosen_threshold
from edge_siamese.registration import (
    Burst,
    NewView,
    Reason,
    Refusal,
    collision,
    collision_refusal,
    view_of_pictures,
)
from edge_siamese.runtimes.base import Encoder, Floats
from edge_siamese.store import OnConflict, StoredObject, SupportStore
from edge_siamese.support import SupportSet
from edge_siamese.tracking import Sighting, Tracker
from edge_siamese.views import crop_of

LOG = logging.getLogger(__name__)

WRONG_WITHIN_S = 30.0
"""A recognition can be said to be wrong for so long."""


@dataclass(frozen=True)
class Learned:
    """How a registration ended."""

    saved: bool
    text: str
    """One line for people."""
    object: StoredObject | None = None
    reason: str = ""
    """Of a refusal: one of `registration.Reason`, or "failed"."""
    collides: str = ""
    """The object that it looks like."""


@dataclass
class _Learning:
    """A registration that is under way."""

    burst: Burst
    name: str | None
    target: str | None
    """The uid of the object that gets a view; None for a new object."""
    force: bool
    source: str
    done: Callable[[Learned], object]
    progress: Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class _Recognised:
    """The latest recognition, for whoever says that it was wrong."""

    uid: str
    name: str
    frame: Frame
    embedding: Floats


class Engine:
    """Recognises, learns and forgets; used from one thread."""

    def __init__(
        self,
        settings: Settings,
        bundle: Bundle,
        encoder: Encoder,
        store: SupportStore,
        *,
        publish: Callable[[Event], object],
        signal: Callable[[Signal], object] = lambda _: None,
        hold_exposure: Callable[[bool], object] = lambda _: None,
    ) -> None:
        """Load what the store holds.

        Args:
            settings: of the daemon.
            bundle: gives head, thresholds and impostors.
            encoder: the bundle's.
            store: opened for the encoder's model.
            publish: is given what happens.
            signal: shows a passing signal on the panel.
            hold_exposure: keeps the camera's exposure, or lets it go.

        Raises:
            SettingsError: the bundle states no threshold for the false-accept rate.
            StoreError: the store cannot be read.
        """
        self.settings, self.bundle, self.encoder, self.store = settings, bundle, encoder, store
        self.head = bundle.head
        self.threshold, self.threshold_source = chosen_threshold(
            bundle.manifest, settings.recognition.threshold, settings.recognition.false_accept_rate
        )
        self._publish, self._signal, self._hold_exposure = publish, signal, hold_exposure
        recognition = settings.recognition
        self._tracker = Tracker(
            recognition.window, recognition.appear, recognition.leave, recognition.seen_every_s
        )
        self._learning: _Learning | None = None
        self._recognised: _Recognised | None = None
        self._registered: tuple[str, float] | None = None
        self.frames = 0
        """Frames that were recognised in or learned from."""
        self.latest: Recognition | None = None
        """What the latest frame showed."""
        self.frame: Frame | None = None
        """The latest frame."""
        self.support = SupportSet.empty(encoder.dimensions)
        self.refresh()

    @property
    def present(self) -> tuple[str, ...]:
        """The names of the objects that are there now."""
        return tuple(sighting.name for sighting in self._tracker.present)

    @property
    def learning(self) -> bool:
        """Whether a registration is under way."""
        return self._learning is not None

    def refresh(self) -> None:
        """Read the support set from the store anew."""
        entries = self.store.entries()
        support = SupportSet.build(entries, self.encoder.dimensions)
        rate = None if self.settings.recognition.threshold else self.settings.recognition.false_accept_rate
        self.support = support.with_limits(
            object_limits(support, self.head, self.threshold, rate, self.bundle.impostors)
        )

    # --- frames ---

    def see(self, frame: Frame) -> None:
        """Learn from a frame while a registration is under way; else recognise what it shows."""
        self.frames += 1
        self.frame = frame
        if self._learning:
            self._learn_from(self._learning, frame)
            return
        embedding = self.encoder.embed([frame.pixels])[0]
        found = decide(self.support, self.head, embedding, self.threshold)
        self.latest = found
        if found.name is not None and found.uid is not None:
            self._recognised = _Recognised(found.uid, found.name, frame, embedding)
        self._tell(self._tracker.update(found, frame.time))

    def tick(self, now: float) -> None:
        """Let time pass where frames may not come: a registration ends in time all the same."""
        learning = self._learning
        if learning and learning.burst.tick(now):
            self._finish(learning, now)
        self._tell(self._tracker.tick(now))

    def lost(self, now: float) -> None:
        """The camera is gone: nothing is seen any more."""
        self.latest = None
        self._tell(self._tracker.reset(now))

    def _tell(self, sightings: list[Sighting]) -> None:
        for sighting in sightings:
            self._publish(Event(sighting.kind, sighting.text, data=sighting.data()))

    # --- the button ---

    def gesture(self, gesture: Gesture, now: float) -> None:
        """What the button asks for."""
        try:
            if gesture is Gesture.PRESS:
                self._press(now)
            elif gesture is Gesture.HOLD:
                if self._learning:
                    self._cancel(self._learning)
                else:
                    self.undo(registrations_only=True)
            elif gesture is Gesture.DOUBLE_PRESS:
                self.wrong(now)
        except (StoreError, SupportError, ControlError) as error:
            LOG.warning("the button's %s: %s", gesture.name.lower().replace("_", " "), error)
            if isinstance(error, StoreError):
                self._signal(Signal.FAILED)

    def _press(self, now: float) -> None:
        if self._learning:
            return
        within = self.settings.registration.add_view_within_s
        target = None
        if self._registered and now - self._registered[1] <= within:
            target = self._known(self._registered[0])
        self.learn(now, target=target.uid if target else None, source="button")

    def _known(self, uid: str) -> StoredObject | None:
        return next((known for known in self.store.objects() if known.uid == uid), None)

    # --- learning ---

    def learn(
        self,
        now: float,
        name: str | None = None,
        *,
        target: str | None = None,
        force: bool = False,
        source: str = "command",
        done: Callable[[Learned], object] = lambda _: None,
        progress: Callable[[dict[str, Any]], object] = lambda _: None,
    ) -> None:
        """Begin to learn what is before the camera; `done` is told how it ended.

        Args:
            now: the time, as frames have it.
            name: of a new object; None for one that counts up.
            target: the uid of the object that gets a view instead.
            force: also if it looks like another object.
            source: button, command or page.
            progress: is given each frame's verdict.

        Raises:
            ControlError: another registration is under way.
            SupportError: the name cannot be one, or is taken.
        """
        if self._learning:
            raise ControlError("another registration is under way; try again in a moment")
        if target is None and name is not None:
            self.store.require_free(name)
        settings = self.settings.registration
        self._learning = _Learning(
            Burst(settings, self.encoder, self.head, self.threshold, now),
            name,
            target,
            force or settings.collisions == "allow",
            source,
            done,
            progress,
        )
        self._signal(Signal.LOOKING)
        self._hold_exposure(True)

    def learn_pictures(
        self,
        pictures: list[Any],
        name: str | None,
        *,
        target: str | None = None,
        force: bool = False,
        now: float,
    ) -> Learned:
        """Learn an object, or a view of one, from pictures: uint8 (h, w) or (h, w, 3) each."""
        if target is None and name is not None:
            self.store.require_free(name)
        found = view_of_pictures(
            pictures, self.encoder, self.settings.registration, self.head, self.threshold
        )
        allowed = force or self.settings.registration.collisions == "allow"
        return self._keep(found, name, target, allowed, "picture", now)

    def _learn_from(self, learning: _Learning, frame: Frame) -> None:
        verdict = learning.burst.add(frame)
        learning.progress({"good": verdict.good, "text": verdict.text, "frame": verdict.number})
        if learning.burst.done:
            self._finish(learning, frame.time)

    def _finish(self, learning: _Learning, now: float) -> None:
        self._learning = None
        self._hold_exposure(False)
        try:
            found = learning.burst.finish()
            learned = self._keep(found, learning.name, learning.target, learning.force, learning.source, now)
        except Exception as error:
            # Whoever pressed or asked has to be told, whatever it was.
            self._refuse(Learned(False, f"failed: {error}", reason="failed"), Signal.FAILED, learning.source)
            learning.done(Learned(False, str(error), reason="failed"))
            if not isinstance(error, (StoreError, SupportError)):
                raise
            return
        learning.done(learned)

    def _cancel(self, learning: _Learning) -> None:
        self._learning = None
        self._hold_exposure(False)
        learned = Learned(False, "the registration was ended by holding the button", reason="cancelled")
        self._refuse(learned, Signal.UNDONE, learning.source)
        learning.done(learned)

    def _keep(
        self,
        found: NewView | Refusal,
        name: str | None,
        target: str | None,
        force: bool,
        source: str,
        now: float,
    ) -> Learned:
        if isinstance(found, Refusal):
            learned = Learned(False, found.text, reason=found.reason.what)
            return self._refuse(learned, signal_of(found.reason), source)
        if not force:
            other = collision(found.embedding, self.support, self.head, self.threshold, except_uid=target)
            if other is not None:
                learned = Learned(
                    False, collision_refusal(other).text, reason=Reason.COLLISION.what, collides=other
                )
                return self._refuse(learned, Signal.COLLISION, source)
        view = replace(found, source=source)
        if target is None:
            saved = self.store.register(name, view, self.settings.registration.name)
            kind: Kind = "registered"
            text = f'"{saved.name}" is registered'
        else:
            saved = self.store.add_view(target, view)
            kind, text = "view added", f'"{saved.name}" has {saved.views} views now'
        # Only now is it on the disk, so only now is it shown.
        self._signal(Signal.SAVED if target is None else Signal.VIEW_SAVED)
        self._registered = (saved.uid, now)
        self.refresh()
        self._publish(Event(kind, text, data=_about(saved, source=source)))
        return Learned(True, text, saved)

    def _refuse(self, learned: Learned, signal: Signal, source: str) -> Learned:
        self._signal(signal)
        data = {"reason": learned.reason, "source": source}
        if learned.collides:
            data["name"] = learned.collides
        self._publish(Event("refused", f"not registered: {learned.text}", data=data))
        return learned

    # --- changes ---

    def object(self, name: str) -> StoredObject:
        """A registered object by its name or uid; raises `SupportError` if there is none."""
        return self.store.object(name)

    def rename(self, name: str, new: str) -> StoredObject:
        """Give an object another name."""
        before = self.object(name)
        after = self.store.rename(before.uid, new)
        self.refresh()
        self._tracker.rename(before.uid, after.name)
        self._publish(
            Event(
                "renamed",
                f'"{before.name}" is called "{after.name}" now',
                data=_about(after, before=before.name),
            )
        )
        return after

    def forget(self, name: str) -> StoredObject:
        """Unlearn an object; `undo` brings it back."""
        gone = self.object(name)
        self.store.forget(gone.uid)
        self.refresh()
        self._forgotten(gone.uid)
        self._publish(Event("forgotten", f'"{gone.name}" is forgotten', data=_about(gone)))
        return gone

    def undo(self, registrations_only: bool = False) -> str:
        """Take the last change back; the line that says which.

        Raises:
            ControlError: there is nothing to take back.
        """
        undone = self.store.undo(registrations_only)
        if undone is None:
            self._signal(Signal.NOTHING_TO_UNDO)
            raise ControlError("there is nothing to undo")
        self._signal(Signal.UNDONE)
        self._registered = None
        self.refresh()
        if undone.uid and self._known(undone.uid) is None:
            self._forgotten(undone.uid)
        self._publish(Event("undone", undone.text, data={"uid": undone.uid, "name": undone.name}))
        return undone.text

    def wrong(self, now: float, name: str | None = None) -> StoredObject:
        """What was recognised last was something else: that view is kept as a negative of the object.

        Args:
            now: the time, as frames have it.
            name: only if it was this object.

        Raises:
            ControlError: nothing, or another object, was recognised within the last half minute.
        """
        last = self._recognised
        if last is None or now - last.frame.time > WRONG_WITHIN_S or self._known(last.uid) is None:
            self._signal(Signal.NOTHING_TO_UNDO)
            raise ControlError("nothing was recognised lately that could be wrong")
        if name is not None and self.object(name).uid != last.uid:
            raise ControlError(f'"{last.name}" was recognised last, not "{name}"')
        kept = self.settings.registration
        crops = (
            (crop_of(last.frame.pixels, self.encoder.preprocessing, kept.crop_side),)
            if kept.keep_crops
            else ()
        )
        saved = self.store.add_negative(last.uid, NewView(last.embedding, crops, "wrong"))
        self._signal(Signal.NEGATIVE_SAVED)
        self._recognised = None
        self.refresh()
        self._tell(self._tracker.forget(last.uid))
        self._publish(
            Event(
                "negative added",
                f'that was not "{saved.name}": the view is kept as a negative',
                data=_about(saved),
            )
        )
        return saved

    def _forgotten(self, uid: str) -> None:
        """Nothing of an object is left but in the store's memory of changes."""
        if self._recognised and self._recognised.uid == uid:
            self._recognised = None
        self._tell(self._tracker.forget(uid))

    def bring_in(self, path: Path, on_conflict: OnConflict) -> dict[str, Any]:
        """Add the objects of a collection's file; what the store says of it, for JSON."""
        brought = self.store.import_(path, on_conflict)
        self.refresh()
        self._publish(Event("imported", brought.text, data=asdict(brought)))
        return {"text": brought.text, **asdict(brought)}

    # --- questions ---

    def recognise(self, pixels: np.ndarray[Any, Any]) -> Recognition:
        """What a picture shows: uint8 (h, w) or (h, w, 3); changes nothing."""
        return decide(self.support, self.head, self.encoder.embed([pixels])[0], self.threshold)


def signal_of(reason: Reason) -> Signal:
    """What the light says of a refusal."""
    return {
        Reason.BLURRED: Signal.BLURRED,
        Reason.DARK: Signal.DARK,
        Reason.BRIGHT: Signal.BRIGHT,
        Reason.MOVING: Signal.MOVING,
        Reason.COLLISION: Signal.COLLISION,
    }.get(reason, Signal.FAILED)


def _about(known: StoredObject, **more: Any) -> dict[str, Any]:
    return {"uid": known.uid, "name": known.name, "views": known.views, **more}
