"""The daemon's API: one method for each command, and state for dashboard, MQTT, metrics and fleet.

Commands run between two frames, on the one thread that owns engine and store; the caller's thread waits for the result.
"""

from __future__ import annotations

import base64
import contextlib
import queue
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import structs

from edge_siamese.daemon.archives import OUTGOING, Uploads, archive_directory
from edge_siamese.daemon.commands import Command, EncodedPicture, find_command
from edge_siamese.daemon.engine import Engine
from edge_siamese.daemon.event_bus import EventBus
from edge_siamese.daemon.faults import FaultHandler
from edge_siamese.daemon.registration_session import (
    RegistrationProgress,
    RegistrationRequest,
    RegistrationResult,
)
from edge_siamese.daemon.surroundings import SurroundingsReport
from edge_siamese.daemon.telemetry import CurrentView, Observations, RecentDecisions, Telemetry
from edge_siamese.errors import ClientGone, ControlError, NotReady, Refused
from edge_siamese.events import Event, counted
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.decision import Recognition
from edge_siamese.settings import PathSettings, RegionSettings, Settings
from edge_siamese.settings_file import SettingsOrigin
from edge_siamese.store import OnConflict, StoredObject
from edge_siamese.store.picture_archive import PictureManifest
from edge_siamese.store.records import StoredView
from edge_siamese.system.network import without_password
from edge_siamese.validation import Record, SchemaError

T = TypeVar("T")
Picture = npt.NDArray[np.uint8]

REGISTRATION_SECONDS = 90.0
"""Longer than the longest registration."""
CHUNK_BYTES = 1 << 20
"""Bytes of an archive in one line."""
MAX_FOLLOWERS = 5
"""Clients that follow events; the other connections stay free for requests."""


class Daemon(Protocol):
    """The part of the service that the API uses."""

    settings: Settings
    config: Path | None
    origin: SettingsOrigin
    regions_are_settings: bool
    bus: EventBus
    observations: Observations
    faults: FaultHandler

    @property
    def engine(self) -> Engine | None:
        """None until model and store are loaded."""

    @property
    def fault(self) -> str:
        """Why there is no engine; empty when there is one."""

    def now(self) -> float:
        """Return the time in seconds, on the clock of `Frame.time`."""

    def call(self, function: Callable[[], T], timeout: float = 30.0) -> T:
        """Run a function on the thread that owns engine and store."""

    def reload(self) -> None:
        """Read settings and model again soon."""

    def reembed(self) -> None:
        """Embed the views that lack an embedding of this model; on the thread that owns engine and store."""

    @property
    def regions_file(self) -> Path:
        """The file with the regions that were drawn in the dashboard."""

    def set_regions(self, regions: tuple[RegionSettings, ...]) -> None:
        """Replace and save the watched regions; on the thread that owns engine and store."""

    def unused_parts(self) -> list[dict[str, Any]]:
        """Describe the parts that are not used, as JSON values; on the thread that owns engine and store."""

    def restore(self, part_id: str) -> str:
        """Use a part in quarantine again; on the thread that owns engine and store."""

    def status_line(self) -> str:
        """Describe the daemon's state in one line."""

    def report(self) -> dict[str, Any]:
        """Describe the daemon's state as JSON values."""


class Client(Protocol):
    """The caller of a command, which may receive lines before the result."""

    source: str
    """Source of a registration, as events and the store name it: command, dashboard or mqtt."""

    @property
    def open(self) -> bool:
        """Whether the client is still connected."""

    def send(self, line: dict[str, Any]) -> None:
        """Send a line without waiting; raises `ClientGone`."""

    def delivered(self, timeout: float) -> bool:
        """Wait until all lines are sent or the client has disconnected; False if that takes longer."""


class SilentClient:
    """A client that ignores lines before the result."""

    open = True

    def __init__(self, source: str) -> None:
        self.source = source

    def send(self, line: dict[str, Any]) -> None:
        """Drop the line."""

    def delivered(self, timeout: float) -> bool:
        """Return True: there is no queue."""
        return True


class Change(Record, frozen=True):
    """The result of a command that changed an object."""

    text: str
    """Human-readable line."""
    object: StoredObject
    """The object as it is now; a forgotten one as it was."""


class Line(Record, frozen=True):
    """The result of a command that has only a line to report."""

    text: str


class ObjectList(Record, frozen=True):
    """All objects, in the order of their registration."""

    model_id: str
    objects: list[StoredObject]


class DaemonApi:
    """The daemon's commands and state, for any thread.

    Objects are named by their uid or their name. All methods raise `NotReady` if the daemon cannot recognize, takes
    too long or is stopping, as well as the errors of store and engine.
    """

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._followers = threading.BoundedSemaphore(MAX_FOLLOWERS)
        self._uploads = Uploads(daemon.settings.state_directory)

    def handle(self, request: dict[str, Any], client: Client) -> Any:
        """Carry out a request of the control socket, `{"command": "...", ...}`; returns JSON values.

        Raises:
            ControlError: there is no such command, or its arguments are invalid.
        """
        values = dict(request)
        command = find_command(str(values.pop("command", "")), "socket")
        try:
            arguments = command.parse(values)
        except SchemaError as error:
            raise ControlError(f"{command.name}: {error}") from error
        return self.run(command, arguments, client)

    def run(self, command: Command, arguments: Record, client: Client) -> Any:
        """Carry a command out.

        Args:
            command: an entry of the table of commands.
            arguments: its validated arguments.
            client: who called it.

        Returns:
            JSON values.
        """
        keywords = {name: getattr(arguments, name) for name in arguments.__struct_fields__}
        if command.needs_client:
            keywords["client"] = client
        return msgspec.to_builtins(getattr(self, command.method)(**keywords))

    # --- state that can be read without waiting ---

    @property
    def settings(self) -> Settings:
        """The current settings."""
        return self._daemon.settings

    @property
    def region_names(self) -> tuple[str, ...]:
        """The names of the watched regions; none for the whole picture."""
        return tuple(region.name for region in self.settings.regions)

    @property
    def config(self) -> Path | None:
        """The file of the settings; None for the default locations."""
        return self._daemon.config

    @property
    def bus(self) -> EventBus:
        """The bus of events."""
        return self._daemon.bus

    @property
    def telemetry(self) -> Telemetry:
        """Counts and times."""
        return self._daemon.observations.telemetry

    @property
    def decisions(self) -> RecentDecisions:
        """The latest decisions that events were published for."""
        return self._daemon.observations.decisions

    @property
    def registrations(self) -> RegistrationProgress:
        """The latest registration."""
        return self._daemon.observations.registrations

    @property
    def now(self) -> float:
        """The time in seconds, on the clock of `Frame.time`."""
        return self._daemon.now()

    @property
    def line(self) -> str:
        """The daemon's state in one line."""
        return self._daemon.status_line()

    def current_view(self) -> CurrentView | None:
        """Return the latest frame and its recognition; None while there is none."""
        engine = self._daemon.engine
        return None if engine is None else engine.current_view

    # --- commands: state ---

    def status(self, timeout: float = 30.0) -> dict[str, Any]:
        """Describe the daemon's state as JSON values."""
        return self.call(self._daemon.report, timeout)

    def events(self, count: int, follow: bool, client: Client) -> list[dict[str, Any]] | None:
        """Return the latest events; with `follow`, send them and new ones until the client disconnects."""
        if not follow:
            return [event.to_dict() for event in self.bus.latest(count)]
        if not self._followers.acquire(blocking=False):
            raise ControlError(f"{MAX_FOLLOWERS} clients follow the events already")
        try:
            follow_events(self.bus, client, count)
        finally:
            self._followers.release()
        return None

    def effective_settings(self) -> dict[str, Any]:
        """Return the settings in use and the file that they come from, without passwords and drawn regions."""
        settings, origin = self.settings, self._daemon.origin
        regions = settings.regions if self._daemon.regions_are_settings else ()
        mqtt = structs.replace(settings.mqtt, broker=without_password(settings.mqtt.broker))
        paths = PathSettings(str(settings.state_directory), str(settings.runtime_directory))
        return {
            "file": str(origin.file or ""),
            "digest": origin.digest,
            "problem": origin.problem,
            "values": structs.replace(settings, mqtt=mqtt, paths=paths, regions=regions),
        }

    def request_reload(self) -> Line:
        """Make the daemon read settings and model again soon."""
        self._daemon.reload()
        return Line("reloading the settings and the model")

    def list_quarantine(self) -> dict[str, Any]:
        """Return the parts that failed and are not used."""
        return {"parts": self.call(self._daemon.unused_parts)}

    def restore(self, id: str) -> Line:
        """Use a part in quarantine again."""
        return Line(self.call(lambda: self._daemon.restore(id)))

    # --- commands: regions ---

    def list_regions(self) -> dict[str, Any]:
        """Return the watched regions and where they come from, as JSON values."""
        regions, origin = self.settings.regions, self._daemon.origin
        in_settings = bool(regions) and self._daemon.regions_are_settings
        return {
            "regions": regions,
            "registers": regions[0].name if regions else "",
            "editable": not self._daemon.regions_are_settings,
            "file": str(origin.file if in_settings else self._daemon.regions_file) if regions else "",
        }

    def set_regions(self, regions: tuple[RegionSettings, ...]) -> dict[str, Any]:
        """Replace and save the watched regions; returns them as `list_regions` does."""
        self.call(lambda: self._daemon.set_regions(regions))
        return self.list_regions()

    # --- commands: objects ---

    def list_objects(self) -> ObjectList:
        """Return all objects, and the model that recognizes them."""
        return self.with_engine(lambda engine: ObjectList(engine.encoder.model_id, engine.store.objects()))

    def views(self, name: str) -> list[StoredView]:
        """Return the views and negatives of an object."""
        return self.with_engine(lambda engine: engine.store.views(engine.object(name).uid))

    def remove_view(self, name: str, view: int) -> Change:
        """Remove a view or negative from an object."""
        after = self.with_engine(lambda engine: engine.remove_view(name, view))
        return Change(f'view {view} of "{after.name}" is removed', after)

    def rename(self, name: str, new: str) -> Change:
        """Rename an object."""
        before, after = self.with_engine(lambda engine: (engine.object(name), engine.rename(name, new)))
        return Change(f'"{before.name}" is now called "{after.name}"', after)

    def forget(self, name: str) -> Change:
        """Forget an object."""
        before = self.with_engine(lambda engine: engine.forget(name))
        return Change(f'"{before.name}" is forgotten', before)

    def merge(self, name: str, into: str) -> Change:
        """Move the views of one object to another, which keeps its name, and forget the first."""
        before, after = self.with_engine(lambda engine: (engine.object(name), engine.merge(name, into)))
        return Change(f'"{before.name}" is now part of "{after.name}", which has {after.views} views', after)

    def undo(self, registrations: bool = False) -> Line:
        """Undo the last change, or the last registration."""
        return Line(self.with_engine(lambda engine: engine.undo(registrations)))

    def wrong(
        self, name: str | None = None, decision: str | None = None, actual: str | None = None
    ) -> Change:
        """Reject the last recognition, or an earlier decision by its id; its view is kept as a negative.

        Args:
            name: reject the last recognition only if it was this object.
            decision: id of the decision.
            actual: name of what it really was, kept with its picture for training.
        """
        if actual is not None:
            self._require_consent("keeps no names for training")

        def reject(engine: Engine) -> StoredObject:
            if decision is None:
                return engine.reject_last(self.now, name, actual)
            return engine.reject_decision(decision, actual)

        after = self.with_engine(reject)
        return Change(
            f'that was not "{after.name}": the view is kept as its negative number {after.negatives}', after
        )

    # --- commands: registration ---

    def register(
        self,
        name: str | None,
        view: bool = False,
        force: bool = False,
        pictures: Sequence[EncodedPicture | Picture] = (),
        region: str | None = None,
        *,
        client: Client = SilentClient("command"),  # noqa: B008
    ) -> Change:
        """Register from the next frames, or from pictures; waits for the end.

        Args:
            name: name of the new object, None for a default name; with `view` the object that receives a view.
            view: add a view to a registered object.
            force: register even if it looks like another object.
            pictures: to register from instead of frames, uint8 (h, w) or (h, w, 3).
            region: region to take frames from; None for the first one.
            client: receives `{"progress": ...}` for each frame; a registration continues when it disconnects.

        Raises:
            Refused: nothing was saved; the message says why.
        """
        source = "picture" if pictures and client.source == "command" else client.source

        def request(engine: Engine) -> RegistrationRequest:
            target = engine.object(name).uid if view and name is not None else None
            place = None if pictures else engine.region(region).name or None
            return RegistrationRequest(None if view else name, target, force, source, place)

        def send(progress: dict[str, Any]) -> None:
            with contextlib.suppress(ClientGone):
                client.send({"progress": progress})

        if pictures:
            pixels = [_pixels(picture) for picture in pictures]
            result = self.with_engine(
                lambda engine: engine.registrations.from_pictures(pixels, request(engine), self.now)
            )
        else:
            result = self._register_from_camera(request, send)
        if not result.saved or result.object is None:
            raise Refused(result.text, reason=result.reason, collides=result.collides)
        return Change(result.text, result.object)

    def _register_from_camera(
        self, request: Callable[[Engine], RegistrationRequest], send: Callable[[dict[str, Any]], None]
    ) -> RegistrationResult:
        received: queue.SimpleQueue[dict[str, Any] | RegistrationResult] = queue.SimpleQueue()
        self.with_engine(
            lambda engine: engine.registrations.begin(request(engine), self.now, received.put, received.put)
        )
        while True:
            try:
                item = received.get(timeout=REGISTRATION_SECONDS)
            except queue.Empty:
                raise ControlError(
                    "the registration did not end; check the camera: edge-siamese status"
                ) from None
            if isinstance(item, RegistrationResult):
                return item
            send(item)

    def gesture(self, gesture: str) -> Line:
        """Simulate a gesture on the button; the LED and events report the result."""
        self.with_engine(lambda engine: engine.gesture(Gesture(gesture), self.now))
        return Line(f"{gesture}: done; the result is reported by events")

    # --- commands: recognition ---

    def score(self, pictures: Sequence[EncodedPicture | Picture]) -> list[dict[str, Any]]:
        """Recognize pictures."""
        return [self.recognize(_pixels(picture)).describe() for picture in pictures]

    def explain(self, picture: EncodedPicture | None = None, region: str | None = None) -> dict[str, Any]:
        """Explain the decision on a picture, or on a region of the current frame; None for the first one."""
        found = self.current(region) if picture is None else self.recognize(picture.decode())
        return found.describe()

    # --- commands: surroundings ---

    def surroundings(self) -> SurroundingsReport:
        """Describe how close the camera's surroundings come to each object."""
        return self.with_engine(lambda engine: engine.surroundings_report())

    def clear_surroundings(self) -> Line:
        """Forget what was learned about the surroundings."""
        count = self.with_engine(lambda engine: engine.clear_surroundings())
        return Line(f"{counted(count, 'scene')} of the surroundings forgotten")

    # --- commands: archives ---

    def export(self, client: Client) -> dict[str, Any]:
        """Send an archive of all objects, in lines of `{"chunk": base64}`."""
        return {"objects": self._send_archive(client, self.export_to)}

    def collect(self, client: Client) -> dict[str, Any]:
        """Send an archive of the pictures for training, in lines of `{"chunk": base64}`; only with the owner's consent."""
        self._require_consent("does not give its pictures for training")

        def write(path: Path) -> PictureManifest:
            store, mistakes = self.with_engine(lambda engine: (engine.store, engine.mistakes))
            return store.export_pictures(path, mistakes.all())

        manifest = self._send_archive(client, write)
        return {"pictures": len(manifest.pictures), "without_pictures": manifest.without_pictures}

    def _require_consent(self, consequence: str) -> None:
        """Raise `ControlError` unless the owner allows to collect pictures."""
        if not self.settings.training.collect_pictures:
            file = self._daemon.origin.file or "the settings file"
            raise ControlError(
                f"this device {consequence}; its owner can allow it: set collect_pictures = true in [training] of {file}, "
                "then run edge-siamese reload"
            )

    def _send_archive(self, client: Client, write: Callable[[Path], T]) -> T:
        """Send an archive that a function writes, in lines of `{"chunk": base64}`; returns what the function returns."""
        directory = archive_directory(self.settings.state_directory, OUTGOING)
        with tempfile.TemporaryDirectory(dir=directory) as folder:
            path = Path(folder) / "archive.zip"
            result = write(path)
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    client.send({"chunk": base64.b64encode(chunk).decode("ascii")})
                    while not client.delivered(1.0):  # one chunk at a time, or memory would hold them all
                        if not client.open:
                            raise ClientGone("the client has disconnected")
        return result

    def upload(self, chunk: bytes, upload: str | None = None) -> dict[str, str]:
        """Append a chunk to an upload, or start a new one; returns its id."""
        return {"upload": self._uploads.append(chunk, upload)}

    def import_upload(self, upload: str, on_conflict: OnConflict = "rename") -> dict[str, Any]:
        """Add the objects of an uploaded archive, and delete the upload."""
        try:
            return self.import_(self._uploads.path(upload), on_conflict)
        finally:
            self._uploads.remove(upload)

    # --- for dashboard, MQTT and fleet ---

    def objects(self) -> list[StoredObject]:
        """Return all objects."""
        return self.with_engine(lambda engine: engine.store.objects())

    def object(self, name: str) -> StoredObject:
        """Return one object."""
        return self.with_engine(lambda engine: engine.object(name))

    def picture(self, view: int, index: int = 0) -> bytes:
        """Return a stored picture of a view, as PNG."""
        return self.with_engine(lambda engine: engine.store.crop_png(view, index))

    def recognize(self, pixels: Picture) -> Recognition:
        """Recognize a picture, uint8 (h, w) or (h, w, 3)."""
        return self.with_engine(lambda engine: engine.recognize(pixels))

    def current(self, region: str | None = None) -> Recognition:
        """Return the latest recognition in a region, None for the first one; raises `NotReady` if there is none."""

        def latest(engine: Engine) -> Recognition:
            found = engine.region(region).state.recognition
            if found is None:
                raise NotReady(f"there is no frame to explain: {self.line}")
            return found

        return self.with_engine(latest)

    def export_to(self, path: Path) -> int:
        """Write all objects to an archive, while the engine keeps running; returns their number."""
        return self.with_engine(lambda engine: engine.store).export_archive(path)

    def import_(self, path: Path, on_conflict: OnConflict) -> dict[str, Any]:
        """Add the objects of an archive, while the engine keeps running; returns what was imported, as JSON values."""
        store = self.with_engine(lambda engine: engine.store)
        imported = store.import_archive(path, on_conflict)

        def follow(engine: Engine) -> dict[str, Any]:
            if engine.store.counts().unembedded:
                self._daemon.reembed()
            return engine.finish_import(imported)

        return self.with_engine(follow)

    def reembed(self) -> None:
        """Embed the views that lack an embedding of this model."""
        self.call(self._daemon.reembed)

    def with_engine(self, function: Callable[[Engine], T]) -> T:
        """Call a function with the engine, on the thread that owns it; no frame is processed meanwhile."""

        def run() -> T:
            engine = self._daemon.engine
            if engine is None:
                raise NotReady(f"the daemon cannot recognize: {self._daemon.fault}")
            if self._daemon.faults.fallback.store:
                raise NotReady(
                    "the object store is not used, since the daemon ended early several times: see status"
                )
            return function(engine)

        return self._daemon.call(run)

    def call(self, function: Callable[[], T], timeout: float = 30.0) -> T:
        """Call a function on the thread that owns engine and store, whether there is an engine or not."""
        return self._daemon.call(function, timeout)


def _pixels(picture: EncodedPicture | Picture) -> Picture:
    return picture.decode() if isinstance(picture, EncodedPicture) else picture


def follow_events(bus: EventBus, client: Client, replay: int) -> None:
    """Send every event to a client until it disconnects or the daemon stops.

    A slow client gets `{"event": {"kind": "lost", "count": 3, ...}}` in place of the events that it has missed.
    """
    subscription = bus.subscribe(replay)
    try:
        while client.open and not subscription.closed:
            _send_events(client, *subscription.get(0.5))
        if client.open:
            _send_events(client, *subscription.get(0))
    finally:
        bus.unsubscribe(subscription)


def _send_events(client: Client, events: list[Event], lost: int) -> None:
    if lost:
        text = f"{lost} events were lost: this client is slow"
        client.send({"event": {"kind": "lost", "text": text, "count": lost}})
    for event in events:
        client.send({"event": event.to_dict()})
    # Unsent events stay in the subscription, which counts those that it drops.
    while client.open and not client.delivered(0.5):
        pass
