"""The engine: turns frames, button presses and requests into recognitions, registrations, changes and events.

It has no thread and no clock. The service calls it from one thread and passes the time, and so do the tests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.quarantine import Quarantine
from edge_siamese.daemon.regions import LastRecognized, Region, Regions, Rule
from edge_siamese.daemon.registration_session import RegistrationRequest, RegistrationSessions, object_data
from edge_siamese.daemon.surroundings import SurroundingsReport, learner_for
from edge_siamese.daemon.telemetry import CurrentView, Observations, Outcome, RegionView, Stage, outcome
from edge_siamese.errors import (
    ControlError,
    EdgeSiameseError,
    StoreError,
    SupportError,
    describe_error,
    printable,
)
from edge_siamese.events import Event, problem_event
from edge_siamese.models.bundle import Bundle, choose_acceptance
from edge_siamese.panel.led_signals import Signal
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.decision import Recognition, blank_recognition, decide
from edge_siamese.recognition.embedding import Encoder, make_crop
from edge_siamese.recognition.imaging import Bytes, Floats, prepare
from edge_siamese.recognition.quality import is_blank
from edge_siamese.recognition.registration import NewView
from edge_siamese.recognition.support import SupportEntry, SupportSet
from edge_siamese.recognition.tracking import Sighting
from edge_siamese.settings import RecognitionSettings, RegionSettings, Settings
from edge_siamese.store import ImportResult, StoredObject, SupportStore
from edge_siamese.store.mistakes import PICTURE_SIDE, Actual, KeptMistakes
from edge_siamese.store.surroundings import SurroundingsFile

LOG = logging.getLogger(__name__)

REJECT_WITHIN_SECONDS = 30.0
"""Time within which the last recognition can be rejected."""


class Engine:
    """Recognizes, registers and forgets objects; used from one thread."""

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
        observations: Observations | None = None,
        quarantine: Quarantine | None = None,
        mistakes: KeptMistakes | None = None,
        surroundings: SurroundingsFile | None = None,
    ) -> None:
        """Load the support set from the store.

        Args:
            settings: the daemon's settings.
            bundle: source of head, thresholds and impostors.
            encoder: the bundle's encoder.
            store: opened for the encoder's model.
            publish: receives events.
            signal: shows a temporary signal on the panel.
            hold_exposure: locks or releases the camera's exposure.
            observations: records counters, decisions and registrations.
            quarantine: the objects and views that are not recognized.
            mistakes: keeps rejected pictures for training, if it is enabled.
            surroundings: keeps what is learned about the camera's surroundings; None: only in memory.

        Raises:
            SettingsError: the bundle has neither a threshold nor enough impostors for the false-accept rate.
            StoreError: the store cannot be read.
        """
        self.settings, self.bundle, self.encoder, self.store = settings, bundle, encoder, store
        self.head = bundle.head
        self._rules: dict[tuple[float | None, float], Rule] = {}
        self._rule = self._rule_for(settings.recognition)
        self.surroundings = learner_for(
            settings.surroundings,
            surroundings or SurroundingsFile(None),
            encoder,
            self.head,
            self._rule.acceptance,
        )
        """What this camera sees besides the registered objects; None if it is not learned."""
        self._publish, self._signal = publish, signal
        self.quarantine = quarantine or Quarantine(None)
        self.mistakes = mistakes or KeptMistakes(None)
        """The rejected pictures that are kept for training."""
        observations = observations or Observations()
        self._telemetry, self._decisions = observations.telemetry, observations.decisions
        self.regions = Regions(settings, encoder.preprocessing, self._rule_for)
        self._telemetry.set_regions([region.name for region in self.regions])
        self._registered: tuple[str, float] | None = None
        self._stale = False
        self.frames = 0
        """Number of frames processed."""
        self.frame: Frame | None = None
        """The latest frame."""
        self.current_view: CurrentView | None = None
        """The latest frame with its recognitions; None while there is none."""
        registration = settings.registration
        # A slow camera needs more time for the same number of frames.
        timeout_s = max(registration.timeout_s, 1.5 * registration.frames / settings.camera.frame_rate)
        self.registrations = RegistrationSessions(
            structs.replace(registration, timeout_s=timeout_s),
            encoder,
            self.head,
            self._rule.acceptance.threshold,
            store,
            support=lambda: self.support,
            saved=self._saved,
            publish=publish,
            signal=signal,
            hold_exposure=hold_exposure,
            progress=observations.registrations,
        )
        self.refresh()

    @property
    def support(self) -> SupportSet:
        """The registered objects, with the limits of `[recognition]`."""
        return self._rule.support

    @property
    def threshold(self) -> float:
        """The general threshold of `[recognition]`, a probability; it follows from the registered objects."""
        return self._rule.threshold

    @property
    def threshold_source(self) -> str:
        """Human-readable source of the general threshold."""
        return self._rule.acceptance.description

    @property
    def latest(self) -> Recognition | None:
        """The latest recognition in the first region; None while there is none."""
        return self.regions.first.state.recognition

    @property
    def sightings(self) -> tuple[Sighting, ...]:
        """The objects in view, by region and order of appearance."""
        return tuple(sighting for region in self.regions for sighting in region.tracker.present)

    @property
    def presence(self) -> dict[str, list[str]]:
        """The names of the objects in view by region, in the order of the settings, including empty regions."""
        return {
            region.name: [sighting.name for sighting in region.tracker.present] for region in self.regions
        }

    @property
    def present(self) -> tuple[str, ...]:
        """The names of the objects in view, each once."""
        return tuple(dict.fromkeys(sighting.name for sighting in self.sightings))

    def region(self, name: str | None) -> Region:
        """Return a region by its name, in upper or lower case; None: the first one.

        Raises:
            ControlError: there is no such region.
        """
        if name is None:
            return self.regions.first
        for region in self.regions:
            if region.name and region.name.casefold() == name.casefold():
                return region
        names = ", ".join(region.name for region in self.regions if region.name) or "none"
        raise ControlError(f'there is no region "{printable(name)}"; regions: {names}')

    def use_regions(self, regions: tuple[RegionSettings, ...], now: float) -> None:
        """Replace the watched regions. Unchanged regions keep their sightings; the sightings of all others end.

        Args:
            regions: valid together.
            now: the time in seconds, on the clock of `Frame.time`.

        Raises:
            SettingsError: the bundle has neither a threshold nor enough impostors for the false-accept rate of one.
        """
        settings, before = structs.replace(self.settings, regions=regions), self.regions
        after = Regions(settings, self.encoder.preprocessing, self._rule_for, before)
        if self.registrations.busy:
            self.registrations.cancel()
        self.settings, self.regions, self.current_view = settings, after, None
        used = {id(self._rule), *(id(region.rule) for region in after)}
        self._rules = {key: rule for key, rule in self._rules.items() if id(rule) in used}
        self._telemetry.set_regions([region.name for region in after])
        for region in before:
            if region not in tuple(after):
                self._publish_sightings(region, region.tracker.reset(now))
        self._store_changed()  # new rules have no objects yet

    def _rule_for(self, recognition: RecognitionSettings) -> Rule:
        key = recognition.threshold, recognition.false_accept_rate
        if key not in self._rules:
            acceptance = choose_acceptance(self.bundle, *key)
            nothing = SupportSet.empty(self.encoder.dimensions)
            self._rules[key] = Rule(acceptance, nothing, acceptance.threshold, nothing)
        return self._rules[key]

    def model_report(self) -> dict[str, Any]:
        """Describe model, runtime and threshold as JSON values."""
        encoder = self.encoder
        return {
            "model_id": encoder.model_id,
            "bundle": str(self.bundle.path),
            "runtime": encoder.runtime,
            "precision": encoder.precision,
            "reason": encoder.reason,
            "threshold": self.threshold,
            "threshold_source": self.threshold_source,
            "input": structs.asdict(encoder.preprocessing),
        }

    def refresh(self) -> None:
        """Read the support set from the store again, without objects and views that cannot be used."""
        entries = self.quarantine.usable(self.store.entries())
        try:
            self.use_objects(entries)
        except Exception as error:
            if not entries:
                raise
            LOG.exception("the support set cannot be built; looking for the objects that prevent it")
            self.quarantine.add_failing(entries, self._can_build, describe_error(error))
            self.use_objects(self.quarantine.usable(entries))

    def use_objects(self, entries: Sequence[SupportEntry]) -> None:
        """Recognize these objects and views from now on."""
        for rule in self._rules.values():
            rule.base_support, rule.threshold = rule.acceptance.build_support(
                entries, self.encoder.dimensions, self.head
            )
        self._apply_surroundings()

    def _apply_surroundings(self) -> None:
        for rule in self._rules.values():
            if self.surroundings is None:
                rule.support = rule.base_support
            else:
                self.surroundings.apply_to(rule)

    def _can_build(self, entries: Sequence[SupportEntry]) -> bool:
        try:
            for rule in self._rules.values():
                rule.acceptance.build_support(entries, self.encoder.dimensions, self.head)
        except Exception:
            return False
        return True

    def _store_changed(self) -> None:
        """Reload the support set after a change. The change is on disk, so a failed read is only logged and retried."""
        try:
            self.refresh()
            self._stale = False
        except Exception as error:
            if not self._stale:
                LOG.error(
                    "the objects cannot be read; recognizing the previous ones: %s",
                    describe_error(error),
                    exc_info=None if isinstance(error, StoreError) else error,
                )
            self._stale = True
        if not self._stale:
            self.mistakes.prune(self.store)
        # For example, objects of an import that was undone.
        for uid in dict.fromkeys(sighting.uid for sighting in self.sightings):
            if uid not in self.support.uids:
                self._object_removed(uid)

    # --- surroundings ---

    def surroundings_report(self) -> SurroundingsReport:
        """Describe how close the camera's surroundings come to each object, by the rule of `[recognition]`."""
        learner = self.surroundings
        return SurroundingsReport(False, 0, ()) if learner is None else learner.report(self._rule)

    def clear_surroundings(self) -> int:
        """Forget what was learned about the surroundings; returns the number of scenes.

        Raises:
            StoreError: the file cannot be deleted.
        """
        if self.surroundings is None:
            return 0
        count = self.surroundings.clear()
        self._forget_scene()
        self._apply_surroundings()
        return count

    def close(self) -> None:
        """Save what was learned about the surroundings."""
        if self.surroundings is not None:
            self.surroundings.save()

    # --- frames ---

    def process_frame(self, frame: Frame, waited: float = 0.0) -> None:
        """Add a frame to the registration in progress, or recognize what it shows.

        Args:
            frame: the latest frame.
            waited: seconds since its capture.
        """
        start = perf_counter()
        self.frames += 1
        self.frame = frame
        if self.registrations.busy:
            self._register_from(frame, waited, start)
            return
        times: dict[Stage, float] = {"wait": waited, "imaging": 0.0}
        changes, outcomes, runs = list[tuple[Region, list[Sighting]]](), list[tuple[str, Outcome]](), 0
        for region in self.regions.in_turn():
            runs += self._recognize_region(region, frame, times)
            assert region.state.recognition is not None
            changes.append((region, region.tracker.update(region.state.recognition, frame.time)))
            outcomes.append((region.name, outcome(region.state.recognition)))
            if runs >= self.regions.per_frame:
                break
        # Set before publishing, so that subscribers find the frame of the event.
        self.current_view = self._view(frame)
        for region, sightings in changes:
            self._publish_sightings(region, sightings)
        times["frame"] = perf_counter() - start
        self._telemetry.frame(outcomes, times)

    def _register_from(self, frame: Frame, waited: float, start: float) -> None:
        """Add a frame to the registration in progress; no region is recognized meanwhile."""
        region = self.region(self.registrations.region)
        self._learn_place(region)
        self._forget_scene()
        area = region.area(frame.pixels)
        region.state.part = part = region.find_part(frame, area, keep=True)
        self.registrations.add(replace(frame, pixels=(part or area).of(frame.pixels)))
        self.current_view = self._view(frame, registering=True)
        times: dict[Stage, float] = {"wait": waited, "frame": perf_counter() - start}
        self._telemetry.frame([(region.name, "registering")], times)

    def _recognize_region(self, region: Region, frame: Frame, times: dict[Stage, float]) -> bool:
        """Recognize what a region shows; returns whether the encoder ran. Adds the seconds of each stage to `times`."""
        start = perf_counter()
        state = region.state
        part = region.find_part(frame, region.area(frame.pixels), keep=state.is_recognized)
        times["imaging"] += perf_counter() - start
        state.part = part
        if part is None:
            state.recognition = blank_recognition(region.rule.threshold)
            if self.surroundings is not None:
                self.surroundings.watch(region, None, frame.time)
            return False
        read = part.of(frame.pixels)
        state.recognition, embedding = self._recognize(read, region.rule, times)
        if self.surroundings is not None:
            self.surroundings.watch(region, embedding, frame.time)
        if state.recognition.uid is not None and embedding is not None:
            state.last = LastRecognized(state.recognition.uid, replace(frame, pixels=read), embedding)
        return embedding is not None

    def _learn_place(self, region: Region) -> None:
        """Keep the empty place, if a new object came to it shortly before the registration that is in progress."""
        sampler = region.state.sampler
        if self.surroundings is None or sampler is None or self.registrations.adds_view:
            return
        if self.surroundings.add_place(sampler.place):
            self._apply_surroundings()

    def _forget_scene(self) -> None:
        """Forget what the camera saw in the last minute: it may be the object that is being registered."""
        for region in self.regions:
            region.state.sampler = None
        if self.surroundings is not None:
            self.surroundings.discard_recent()

    def _view(self, frame: Frame, registering: bool = False) -> CurrentView:
        return CurrentView(
            frame,
            tuple(
                RegionView(
                    region.name,
                    region.area(frame.pixels),
                    None if registering else region.state.recognition,
                    region.state.part,
                    region.tracker.present,
                )
                for region in self.regions
            ),
            registering,
        )

    def tick(self, now: float) -> None:
        """Advance the time without a frame: registrations time out, and objects leave."""
        self.registrations.tick(now)
        for region in self.regions:
            self._publish_sightings(region, region.tracker.tick(now))
        if self.surroundings is not None and self.surroundings.tick(now):
            self._apply_surroundings()
        if self._stale:
            self._store_changed()

    def camera_lost(self, now: float) -> None:
        """End all sightings: the camera is lost."""
        self.current_view = None
        for region in self.regions:
            region.state.recognition = region.state.sampler = None
        for region in self.regions:
            self._publish_sightings(region, region.tracker.reset(now))

    def recognize(self, pixels: npt.NDArray[Any]) -> Recognition:
        """Recognize a picture, uint8 (h, w) or (h, w, 3). Changes no state."""
        return self._recognize(pixels, self._rule, {})[0]

    def _recognize(
        self, pixels: npt.NDArray[Any], rule: Rule, times: dict[Stage, float]
    ) -> tuple[Recognition, Floats | None]:
        """Return the recognition and the embedding of a picture; no embedding if it has no contrast."""
        start = perf_counter()
        image = prepare(pixels, self.encoder.preprocessing)
        blank = is_blank(image)
        prepared = perf_counter()
        times["imaging"] = times.get("imaging", 0.0) + prepared - start
        if blank:
            return blank_recognition(rule.threshold), None
        embedding = self.encoder.embed_prepared(image[np.newaxis])[0]
        embedded = perf_counter()
        preference = self.settings.recognition.min_preference
        recognition = decide(rule.support, self.head, embedding, rule.threshold, preference)
        times["encode"] = times.get("encode", 0.0) + embedded - prepared
        times["decide"] = times.get("decide", 0.0) + perf_counter() - embedded
        return recognition, embedding

    def _publish_sightings(self, region: Region, sightings: list[Sighting]) -> None:
        for sighting in sightings:
            data = sighting.data()
            if self._decisions.enabled and sighting.kind != "left":
                data |= self._keep_decision(region, sighting)
            self._publish(Event(sighting.kind, sighting.text, data=data))

    def _keep_decision(self, region: Region, sighting: Sighting) -> dict[str, str]:
        """Keep the decision behind a sighting, so that it can be explained and rejected; returns its id for the event."""
        last, latest = region.state.last, region.state.recognition
        if last is None or latest is None or not (last.uid == latest.uid == sighting.uid):
            return {}
        crop = make_crop(last.frame.pixels, self.encoder.preprocessing, self.settings.registration.crop_side)
        model_id = self.encoder.model_id
        decision_id = self._decisions.add(
            latest, last.embedding, model_id, crop, uid=sighting.uid, name=sighting.name
        )
        return {"decision": decision_id}

    # --- the button ---

    def gesture(self, gesture: Gesture, now: float) -> None:
        """Handle a gesture on the button; errors go to the LED and the log."""
        try:
            if gesture is Gesture.PRESS:
                self._press(now)
            elif gesture is Gesture.DOUBLE_PRESS and not self.registrations.busy:
                self.reject_last(now)
            elif gesture is Gesture.HOLD and self.registrations.busy:
                self.registrations.cancel()
            elif gesture is Gesture.HOLD:
                self.undo(registrations_only=True)
        except EdgeSiameseError as error:
            LOG.warning("button %s: %s", gesture.value, error)
            if not isinstance(error, ControlError):  # the LED has shown that already
                self._signal(Signal.FAILED)

    def _press(self, now: float) -> None:
        if self.registrations.busy:
            return
        target = None
        if self._registered and now - self._registered[1] <= self.settings.registration.add_view_within_s:
            target = self._find(self._registered[0])
        self.registrations.begin(
            RegistrationRequest(
                target=target.uid if target else None,
                source="button",
                region=self.regions.first.name or None,
            ),
            now,
        )

    def _find(self, uid: str) -> StoredObject | None:
        try:
            return self.store.object(uid)
        except SupportError:
            return None

    def _saved(self, stored: StoredObject, now: float) -> None:
        self._registered = stored.uid, now
        self._store_changed()

    # --- changes ---

    def object(self, name: str) -> StoredObject:
        """Return a registered object by its name or uid; raises `SupportError` if there is none."""
        return self.store.object(name)

    def rename(self, name: str, new: str) -> StoredObject:
        """Rename an object; raises `SupportError` if there is none or the name is invalid or taken."""
        before = self.object(name)
        after = self.store.rename(before.uid, new)
        if after == before:
            return after
        self._store_changed()
        self._renamed(before.uid, after.name)
        text = f'"{before.name}" is now called "{after.name}"'
        self._publish(Event("renamed", text, data=object_data(after, before=before.name)))
        return after

    def forget(self, name: str) -> StoredObject:
        """Forget an object; `undo` restores it. Raises `SupportError` if there is none."""
        forgotten = self.store.forget(self.object(name).uid)
        self._store_changed()
        self._object_removed(forgotten.uid)
        self._publish(Event("forgotten", f'"{forgotten.name}" is forgotten', data=object_data(forgotten)))
        return forgotten

    def remove_view(self, name: str, view: int) -> StoredObject:
        """Remove a view or negative; raises `SupportError` if the object does not have it, or it is the last view."""
        after = self.store.remove_view(self.object(name).uid, view)
        self._store_changed()
        text = f'view {view} of "{after.name}" is removed'
        self._publish(Event("view removed", text, data=object_data(after, view=view)))
        return after

    def merge(self, name: str, into: str) -> StoredObject:
        """Move the views and negatives of an object to another one, and forget it; raises `SupportError`."""
        source = self.object(name)
        after = self.store.merge(source.uid, self.object(into).uid)
        self._store_changed()
        self._object_removed(source.uid)
        text = f'"{source.name}" is now part of "{after.name}", which has {after.views} views'
        data = object_data(after, **{"from": source.uid, "from_name": source.name})
        self._publish(Event("merged", text, data=data))
        return after

    def undo(self, registrations_only: bool = False) -> str:
        """Undo the last change; returns a line that describes it.

        Raises:
            ControlError: there is nothing to undo.
        """
        undone = self.store.undo(registrations_only)
        if undone is None:
            self._signal(Signal.NOTHING_TO_UNDO)
            raise ControlError("there is nothing to undo")
        self._signal(Signal.UNDONE)
        self._registered = None
        self._store_changed()
        stored = self._find(undone.uid) if undone.uid else None
        if stored is None and undone.uid:
            self._object_removed(undone.uid)
        elif stored is not None:
            self._renamed(stored.uid, stored.name)
        self._publish(Event("undone", undone.text, data={"uid": undone.uid, "name": undone.name}))
        return undone.text

    def reject_last(self, now: float, name: str | None = None, actual: str | None = None) -> StoredObject:
        """Reject the last recognition: its view is kept as a negative of the object.

        Args:
            now: the time in seconds, on the clock of `Frame.time`.
            name: reject it only if it was this object.
            actual: name of what it really was, for training.

        Raises:
            ControlError: nothing, or another object, was recognized within the last half minute.
            SupportError: `actual` is not a valid name, or that of the object.
        """
        recognized = [region.state.last for region in self.regions if region.state.last]
        last = max(recognized, key=lambda one: one.frame.time, default=None)
        stored = self._find(last.uid) if last and now - last.frame.time <= REJECT_WITHIN_SECONDS else None
        if last is None or stored is None:
            self._signal(Signal.NOTHING_TO_UNDO)
            raise ControlError("nothing was recognized recently that could be wrong")
        if name is not None and self.object(name).uid != last.uid:
            raise ControlError(f'"{stored.name}" was recognized last, not "{name}"')
        pixels, to = last.frame.pixels, self.encoder.preprocessing
        crop = make_crop(pixels, to, self.settings.registration.crop_side)
        return self._keep_negative(
            last.uid, last.embedding, crop, make_crop(pixels, to, PICTURE_SIDE), actual
        )

    def reject_decision(self, decision: str, actual: str | None = None) -> StoredObject:
        """Reject an earlier decision: its view is kept as a negative of the object.

        Args:
            decision: id of the decision, from its event.
            actual: name of what it really was, for training.

        Raises:
            ControlError: the decision is no longer kept, or its object is no longer registered.
            SupportError: `actual` is not a valid name, or that of the object.
        """
        kept = self._decisions.get(decision)
        if kept is None or kept.model_id != self.encoder.model_id:
            raise ControlError("that decision is no longer kept; reject a later one")
        if self._find(kept.uid) is None:
            raise ControlError(f'"{kept.name}" is no longer registered')
        return self._keep_negative(kept.uid, kept.embedding, kept.crop, kept.crop, actual)

    def _keep_negative(
        self, uid: str, embedding: Floats, crop: Bytes, picture: Bytes, actual: str | None
    ) -> StoredObject:
        """Keep a rejected view: `crop` in the store, and `picture`, which may be larger, for training."""
        label = Actual.of(self.store, uid, actual)
        crops = (crop,) if self.settings.registration.keep_crops else ()
        saved = self.store.add_negative(uid, NewView(embedding, crops, "wrong"))
        if problem := self.mistakes.keep(self.store, saved.uid, picture, label):
            self._publish(problem_event("store", problem))
        self._signal(Signal.NEGATIVE_SAVED)
        self._store_changed()
        self._object_removed(uid)
        text = f'that was not "{saved.name}": the view is kept as a negative'
        self._publish(Event("negative added", text, data=object_data(saved)))
        return saved

    def finish_import(self, imported: ImportResult) -> dict[str, Any]:
        """Use the objects that were imported into the store; returns what was imported, as JSON values."""
        self._store_changed()
        self._publish(Event("imported", imported.text, data=asdict(imported)))
        return {"text": imported.text, **asdict(imported)}

    def reload_objects(self, renamed: Iterable[str] = ()) -> None:
        """Reload the support set after others changed the store, such as another device of the fleet.

        Args:
            renamed: uids of objects that may have another name now.
        """
        self._store_changed()
        for uid in renamed:
            if uid in self.support.uids:
                self._renamed(uid, self.support.names[self.support.uids.index(uid)])

    def _renamed(self, uid: str, name: str) -> None:
        for region in self.regions:
            region.tracker.rename(uid, name)

    def _object_removed(self, uid: str) -> None:
        """End the sightings of an object that is no longer registered or was rejected."""
        for region in self.regions:
            if region.state.last and region.state.last.uid == uid:
                region.state.last = None
            self._publish_sightings(region, region.tracker.forget(uid))
