"""All that can be asked of the daemon, from any thread: by its control socket, its page, MQTT and other devices."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from edge_siamese.daemon.current_view import CurrentView
from edge_siamese.daemon.event_bus import EventHub
from edge_siamese.daemon.recent_decisions import RecentDecisions
from edge_siamese.daemon.registration_progress import RegistrationProgress
from edge_siamese.daemon.registration_session import RegistrationRequest, RegistrationResult
from edge_siamese.daemon.status import line, report
from edge_siamese.daemon.telemetry import Telemetry
from edge_siamese.errors import ControlError, NotReady
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.decision import Recognition
from edge_siamese.settings import Settings
from edge_siamese.store import OnConflict, StoredObject
from edge_siamese.store.records import StoredView

if TYPE_CHECKING:
    from edge_siamese.daemon.engine import Engine
    from edge_siamese.daemon.service import Service

T = TypeVar("T")
Picture = npt.NDArray[np.uint8]

REGISTRATION_SECONDS = 90.0
"""Longer than any registration takes."""


class Actions:
    """What is asked is done between two frames, on the one thread that owns engine and store; who asks waits for it.

    Objects are named by their uid or their name. All raise `NotReady` where the daemon cannot recognize, does not
    come to it or is stopping, and what the store and the engine raise.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    # --- without waiting ---

    @property
    def settings(self) -> Settings:
        """What holds now."""
        return self._service.settings

    @property
    def config(self) -> str | Path | None:
        """Where the settings are read from; None for the usual places."""
        return self._service.config

    @property
    def hub(self) -> EventHub:
        """Where events can be followed."""
        return self._service.hub

    @property
    def telemetry(self) -> Telemetry:
        """What is counted."""
        return self._service.observed.telemetry

    @property
    def moments(self) -> RecentDecisions:
        """The latest decisions that events told of."""
        return self._service.observed.moments

    @property
    def bursts(self) -> RegistrationProgress:
        """The latest registration."""
        return self._service.observed.bursts

    @property
    def now(self) -> float:
        """The time, as frames have it, in seconds."""
        return self._service.now()

    @property
    def line(self) -> str:
        """How the daemon is, in one line."""
        return line(self._service)

    def shown(self) -> CurrentView | None:
        """What it sees now; None while there is no frame to speak of."""
        engine = self._service.engine
        return None if engine is None else engine.shown

    def reload(self) -> None:
        """Let it read its settings and its model again soon."""
        self._service.reload()

    # --- what is there ---

    def status(self, timeout: float = 30.0) -> dict[str, Any]:
        """How it is, as JSON values."""
        return self.call(lambda: report(self._service), timeout)

    def objects(self) -> list[StoredObject]:
        """All objects."""
        return self.with_engine(lambda engine: engine.store.objects())

    def object(self, name: str) -> StoredObject:
        """One of them."""
        return self.with_engine(lambda engine: engine.object(name))

    def views(self, name: str) -> list[StoredView]:
        """Views and negatives of an object."""
        return self.with_engine(lambda engine: engine.store.views(engine.object(name).uid))

    def picture(self, view: int, index: int = 0) -> bytes:
        """A picture that was kept of a view, PNG."""
        return self.with_engine(lambda engine: engine.store.crop_png(view, index))

    def recognize(self, pixels: Picture) -> Recognition:
        """What a picture shows, uint8 (h, w) or (h, w, 3)."""
        return self.with_engine(lambda engine: engine.recognize(pixels))

    def current(self) -> Recognition:
        """What the latest frame shows; raises `ControlError` if there is none."""

        def of_now(engine: Engine) -> Recognition:
            if engine.frame is None or engine.latest is None:
                raise NotReady(f"there is no frame to explain: {self.line}")
            return engine.latest

        return self.with_engine(of_now)

    # --- changes ---

    def register(
        self,
        wish: RegistrationRequest,
        pictures: Sequence[Picture] = (),
        progress: Callable[[dict[str, Any]], Any] = lambda _: None,
    ) -> RegistrationResult:
        """Learn from the frames that come, or from pictures; waits for its end, which may be a refusal.

        Args:
            wish: what; `target` may be the name of an object.
            pictures: to learn from instead of frames.
            progress: is told each frame's verdict meanwhile, on the caller's thread.
        """

        def found(engine: Engine) -> RegistrationRequest:
            if wish.target is None:
                return wish
            return RegistrationRequest(None, engine.object(wish.target).uid, wish.force, wish.source)

        if pictures:
            return self.with_engine(
                lambda engine: engine.learner.from_pictures(list(pictures), found(engine), self.now)
            )
        said: queue.SimpleQueue[dict[str, Any] | RegistrationResult] = queue.SimpleQueue()
        self.with_engine(lambda engine: engine.learner.begin(found(engine), self.now, said.put, said.put))
        while True:
            try:
                item = said.get(timeout=REGISTRATION_SECONDS)
            except queue.Empty:
                raise ControlError(
                    "the registration did not end; is the camera there? edge-siamese status"
                ) from None
            if isinstance(item, RegistrationResult):
                return item
            progress(item)

    def gesture(self, gesture: Gesture) -> None:
        """Do what the button does; how it went is told by the light and by events."""
        self.with_engine(lambda engine: engine.gesture(gesture, self.now))

    def rename(self, name: str, new: str) -> StoredObject:
        """Give an object another name."""
        return self.with_engine(lambda engine: engine.rename(name, new))

    def forget(self, name: str) -> StoredObject:
        """Unlearn an object; as it was."""
        return self.with_engine(lambda engine: engine.forget(name))

    def remove_view(self, name: str, view: int) -> StoredObject:
        """Take a view or a negative from an object."""
        return self.with_engine(lambda engine: engine.remove_view(name, view))

    def merge(self, name: str, into: str) -> StoredObject:
        """Make two objects one, which keeps the name of the second."""
        return self.with_engine(lambda engine: engine.merge(name, into))

    def undo(self, registrations_only: bool = False) -> str:
        """Take the last change back; the line that says which."""
        return self.with_engine(lambda engine: engine.undo(registrations_only))

    def wrong(self, name: str | None = None, moment: str | None = None) -> StoredObject:
        """What was recognized last, or at a moment that an event told of, was something else."""
        if moment is not None:
            return self.with_engine(lambda engine: engine.was_wrong(moment))
        return self.with_engine(lambda engine: engine.wrong(self.now, name))

    # --- collections ---

    def export(self, path: Path) -> int:
        """Write all objects into one file; how many."""
        return self.with_engine(lambda engine: engine.store.export_archive(path), patiently=True)

    def import_(self, path: Path, on_conflict: OnConflict) -> dict[str, Any]:
        """Add the objects of such a file; what came, as JSON values."""

        def bring_in(engine: Engine) -> dict[str, Any]:
            brought = engine.bring_in(path, on_conflict)
            if brought["unembedded"]:
                self._service.reembed()
            return brought

        return self.with_engine(bring_in, patiently=True)

    def reembed(self) -> None:
        """Embed what came without an embedding of this model."""
        self.call(self._service.reembed)

    # --- anything else ---

    def with_engine(self, function: Callable[[Engine], T], patiently: bool = False) -> T:
        """Call a function with the engine, on its thread.

        Args:
            function: takes little time; no frame is looked at meanwhile.
            patiently: it may take minutes, of which the watchdog is told.
        """

        def run() -> T:
            engine = self._service.engine
            if engine is None:
                raise NotReady(f"the daemon cannot recognize: {self._service.fault}")
            return function(engine)

        return self._service.call_patiently(run) if patiently else self._service.call(run)

    def call(self, function: Callable[[], T], timeout: float = 30.0) -> T:
        """Call a function on the thread that owns engine and store, whether there is an engine or not."""
        return self._service.call(function, timeout)
