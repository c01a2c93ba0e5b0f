"""The daemon's life: starts the parts, hands frames, presses and requests to the engine, and keeps going when one fails."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, TypeVar

from msgspec import structs

from edge_siamese import __version__
from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.api import DaemonApi
from edge_siamese.daemon.archives import remove_leftovers
from edge_siamese.daemon.control_socket import ControlServer
from edge_siamese.daemon.engine import Engine
from edge_siamese.daemon.event_bus import EventBus
from edge_siamese.daemon.hardware import Hardware
from edge_siamese.daemon.integrations import Integrations
from edge_siamese.daemon.model_loader import LoadedModel, confirmed, load_current_model, reembed
from edge_siamese.daemon.sinks import open_sinks
from edge_siamese.daemon.systemd import Notifier
from edge_siamese.daemon.telemetry import Observations
from edge_siamese.errors import EdgeSiameseError, NotReady, SettingsError, StoreError
from edge_siamese.events import Event, trouble
from edge_siamese.models.installed import InstalledModels
from edge_siamese.panel.led_signals import Signal
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.settings import Settings, load_settings
from edge_siamese.store import SupportStore

LOG = logging.getLogger(__name__)
T = TypeVar("T")

EXIT_OK, EXIT_RESTART = 0, 75
"""Exit statuses: all well; and "try again", for a camera that only a new process gets free."""
LOOP_SECONDS = 0.05
"""The longest wait of one turn, and so the slowest answer to a press or a request."""
RETRY_SECONDS, MAX_RETRY_SECONDS = 10.0, 300.0
"""Between two attempts to bring the engine up; doubled each time."""
READY_SECONDS = 5.0
"""A daemon that is still learning objects anew says that it is ready after so long: it answers."""
STATUS_SECONDS = 1.0
TRIAL_FRAMES = 10
"""A new model is confirmed after so many frames, or after `RETRY_SECONDS` where no frames come."""
REPAIRED_SECONDS = 60.0
"""For so long the light tells that the store was repaired."""

SLOW_CALL_SECONDS = 900.0
"""What thousands of objects may take on a slow card: a repair, a collection that comes or goes."""
BACKUP_SECONDS, LARGE_BACKUP_SECONDS = 60.0, 24 * 3600.0
"""So often the store is copied, if it has changed; a large one, whose copy wears the card, seldom."""
LARGE_STORE = 64 * 2**20
"""Bytes."""
BACKUP_LIMIT_SECONDS = 20.0
"""Nothing is recognized while it is copied."""


class Service:
    """One daemon in this process; `run` returns when it ends."""

    def __init__(
        self,
        settings: Settings,
        config: str | Path | None = None,
        *,
        notifier: Notifier | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is opened before `run`.

        Args:
            settings: what it starts with.
            config: where they are read from again; None for the usual places.
            notifier: of systemd.
            clock: the one of frames and edges, in seconds.
        """
        self.settings, self.config = settings, config
        self.bus = EventBus()
        self.observations = Observations()
        self.bus.listen(self.observations.telemetry.event)
        self.api = DaemonApi(self)
        """What others may ask of it."""
        self.integrations = Integrations(self.api, self.bus.publish)
        self.hardware = Hardware(settings, self.bus.publish)
        self.engine: Engine | None = None
        """None until a model and the store are there."""
        self.fault = "starting"
        """Why there is no engine; empty when there is one."""
        self.repair: str | None = None
        """What had to be repaired in the store."""
        self._notifier = notifier or Notifier()
        self._clock = clock
        self._started = clock()
        self._calls = CallQueue()
        # Not events of `threading`: a signal that comes while the main thread holds an event's lock would wait for ever.
        self._stopping = self._reloading = False
        self._store: SupportStore | None = None
        self._loaded_model: LoadedModel | None = None
        self._loading: Iterator[str] | None = None
        self._retry_at, self._status_at, self._retry_s = 0.0, 0.0, RETRY_SECONDS
        self._backups = Backups(self._started)
        self._repaired_at: float | None = None
        self._ready = False
        self._reported_fault = self._bad_frames = ""
        self._fault_signal = Signal.STARTING
        self._engine_at = self._started

    # --- from other threads and signal handlers ---

    def call(self, function: Callable[[], T], timeout: float = 30.0) -> T:
        """Run a function between two frames, on the thread that owns engine and store.

        Raises:
            ControlError: the daemon is stopping, or did not come to it in time.
            Whatever the function raises.
        """
        return self._calls.call(function, timeout)

    def call_slow(self, function: Callable[[], T]) -> T:
        """The same for what may take minutes, of which the watchdog is told."""

        def patiently() -> T:
            self._notifier.watchdog_within(SLOW_CALL_SECONDS)
            try:
                return function()
            finally:
                self._notifier.watchdog_within(self._notifier.watchdog_s)

        return self._calls.call(patiently, SLOW_CALL_SECONDS)

    @property
    def stopping(self) -> bool:
        """Whether the daemon is about to end."""
        return self._stopping

    @property
    def uptime(self) -> float:
        """Seconds since it was made."""
        return self._clock() - self._started

    def now(self) -> float:
        """The time, as frames have it, in seconds."""
        return self._clock()

    def stop(self, *_: object) -> None:
        """End soon; also a signal handler."""
        self._stopping = True

    def reload(self, *_: object) -> None:
        """Read settings and model again soon; also a signal handler."""
        self._reloading = True

    def reembed(self) -> None:
        """Embed what came without an embedding of this model; for the thread that owns engine and store."""
        if self._loading is None:
            self._loading = self._load_engine(self._loaded_model)

    # --- life ---

    def run(self) -> int:
        """Serve until stopped; the exit status.

        Raises:
            ControlError: another daemon answers at the socket.
        """
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.stop)
            signal.signal(signal.SIGINT, self.stop)
            signal.signal(signal.SIGHUP, self.reload)
        control = ControlServer(self.settings.socket, self.api.handle)
        control.start()
        try:
            remove_leftovers(self.settings.state_directory)
            self.bus.set_sinks(open_sinks(self.settings))
            self.hardware.open_panel()
            self.integrations.apply(self.settings)
            self._loading = self._load_engine()
            status = None
            while status is None and not self._stopping:
                status = self._run_once()
            return status or EXIT_OK
        except Exception:
            LOG.exception("the daemon ends by an error that it did not foresee")
            raise
        finally:
            self._close(control)

    def _run_once(self) -> int | None:
        """One turn of the loop, with at most one frame; an exit status if the daemon has to end."""
        if self._reloading:
            self._reloading = False
            self._reload()
        self._continue_loading(self._clock())
        self._calls.run_pending()
        for gesture in self.hardware.gestures():
            if self.engine and not (gesture is Gesture.PRESS and self.hardware.camera_down):
                self.engine.gesture(gesture, self._clock())
            else:
                self.hardware.show(Signal.FAILED)
                LOG.warning("the button's %s: %s", gesture.value, self.status_line())
        frame = self.hardware.next_frame(LOOP_SECONDS if self._loading is None else 0.0)
        if frame is not None and self.engine:
            self._process_frame(self.engine, frame)
        elif self._loading is None and not self.hardware.may_recover:
            time.sleep(LOOP_SECONDS)
        return self._watch(self._clock())

    def _process_frame(self, engine: Engine, frame: Frame) -> None:
        """Give a frame to the engine; one that fails is told, and if all do, the watchdog ends the daemon."""
        try:
            engine.process_frame(frame, max(0.0, self._clock() - frame.time))
        except EdgeSiameseError as error:
            if str(error) != self._bad_frames:
                self._bad_frames = str(error)
                self.bus.publish(trouble("model", f"a frame could not be used: {error}"))
        else:
            self._bad_frames = ""
            self._notifier.watchdog()

    def _watch(self, now: float) -> int | None:
        """Let time pass, tell what has changed; an exit status if the daemon has to end."""
        lost = self.hardware.watch()
        if self.engine:
            if lost:
                self.engine.camera_lost(now)
            try:
                self.engine.tick(now)
            except EdgeSiameseError as error:
                LOG.error("a registration failed: %s", error)
        state = self.hardware.state
        if self.engine is None or state is None or state.status in ("starting", "absent"):
            # There is nothing that could be processed; that it comes back is what is supervised then.
            self._notifier.watchdog()
        self.hardware.show_background(self._background_signal(now))
        if now >= self._status_at:
            self._status_at = now + STATUS_SECONDS
            self._notifier.status(self.status_line())
            self._confirm()
            if self._store is not None:
                self._backups.run_if_due(self._store, now)
            if self._store is not None and self._loading is None and self._store.damaged:
                self._reopen_store()
        if state and state.status == "ended" and not (self.engine and self.engine.registrations.busy):
            return EXIT_OK
        if self.hardware.needs_restart:
            LOG.error("the camera does not come back in this process; starting anew")
            return EXIT_RESTART
        return None

    def _background_signal(self, now: float) -> Signal:
        """What the light shows while nothing passing is shown."""
        if self.engine is None:
            return self._fault_signal
        if self.hardware.camera_down:
            return Signal.FAULT_CAMERA
        if self._repaired_at is not None and now - self._repaired_at < REPAIRED_SECONDS:
            return Signal.FAULT_STORE
        if self.hardware.stuck:
            return Signal.STUCK
        return Signal.RECOGNIZED if self.engine.present else Signal.READY

    # --- the engine ---

    def _reopen_store(self) -> None:
        """Open a store anew that was found damaged, which repairs it."""
        assert self._store is not None
        self.bus.publish(trouble("store", "the file of objects is damaged; it is being repaired", "error"))
        if self.engine:
            self.engine.registrations.cancel()
            self.engine.camera_lost(self._clock())
        self.engine, self.fault = None, "the file of objects is being repaired"
        self._fault_signal = Signal.FAULT_STORE
        self._store.close()
        self._store, self._loading = None, self._load_engine()

    def _continue_loading(self, now: float) -> None:
        """Take the bringing up of an engine one step further."""
        if self._loading is None:
            if self.engine is not None or now < self._retry_at:
                return
            self._loading = self._load_engine()
        try:
            doing = next(self._loading)
        except StopIteration:
            self._loading, self._retry_s = None, RETRY_SECONDS
            self._notify_ready()
        except (EdgeSiameseError, OSError) as error:
            self._loading = None
            # What fails again and again may cost much each time, such as the repair of a file on a full disk.
            self._retry_at = now + self._retry_s
            self._retry_s = min(2 * self._retry_s, MAX_RETRY_SECONDS)
            self._failed(error)
            self._notify_ready()
        else:
            if self.engine is None and not self._reported_fault:
                self.fault = doing
            self._notifier.status(doing)
            self._notifier.watchdog()
            if self._ready or self.uptime < READY_SECONDS:
                return
            self._notify_ready()

    def _failed(self, error: Exception) -> None:
        """No engine came up; told once, until it is another reason."""
        text, of_store = str(error), isinstance(error, StoreError)
        if self.engine is not None:
            self.bus.publish(trouble("model", f"the former model stays: {text}", "error"))
            return
        if text != self._reported_fault:
            self.bus.publish(trouble("store" if of_store else "model", f"cannot recognize: {text}", "error"))
        self.fault = self._reported_fault = text
        self._fault_signal = Signal.FAULT_STORE if of_store else Signal.FAULT_MODEL

    def _load_engine(self, recognizer: LoadedModel | None = None) -> Iterator[str]:
        """Load the model, unless one is given, and the store, and make an engine, in steps; yields what it does."""
        yield "loading the model"
        if recognizer is None:
            models = InstalledModels(self.settings.models)
            recognizer = load_current_model(
                self.settings, models, lambda told: self.bus.publish(trouble("model", told))
            )
        encoder = recognizer.encoder
        if self._store is None:
            yield "opening the store"
            self._store = open_store(self.settings, encoder, self._notifier)
            if self._store.repair:
                self.repair, self._repaired_at = self._store.repair.text, self._clock()
                self.bus.publish(trouble("store", self._store.repair.text, "error"))
        self._store.keep_crops = self.settings.registration.keep_crops
        yield from reembed(self._store, recognizer)
        former, self.fault, self._reported_fault = self.engine, "", ""
        if former is not None and recognizer is self._loaded_model:
            return former.follow()  # the same model knows more views now; what is there stays there
        self.engine = self._changed_engine(recognizer, self._store)
        self._loaded_model, self._engine_at = recognizer, self._clock()
        if former is None or former.encoder.model_id != encoder.model_id:
            text = f"recognizing {counted(len(self.engine.support), 'object')} with {encoder.model_id}, {encoder.reason}"
            if dormant := self._store.counts().dormant:
                text += f"; {counted(dormant, 'view')} cannot be learned anew, without a picture"
            self.bus.publish(Event("started" if former is None else "model", text))
        self.hardware.open_camera(encoder.preprocessing.color)

    def _changed_engine(self, recognizer: LoadedModel, store: SupportStore) -> Engine:
        """An engine of another model; the store is seen with that one from now on, or with the former as before."""
        encoder, before = recognizer.encoder, (store.model_id, store.dimensions)
        try:
            if before != (encoder.model_id, encoder.dimensions):
                store.use_model(encoder.model_id, encoder.dimensions)
            made = Engine(
                self.settings,
                recognizer.bundle,
                encoder,
                store,
                publish=self.bus.publish,
                signal=self.hardware.show,
                hold_exposure=self.hardware.hold_exposure,
                observations=self.observations,
            )
        except EdgeSiameseError:
            # The former engine must not write its embeddings, or score, as if they were of this model.
            store.use_model(*before)
            raise
        if self.engine:
            self.engine.registrations.cancel()
            self.engine.camera_lost(self._clock())
        return made

    def _confirm(self) -> None:
        """A model that has worked for a while is no longer on trial."""
        if self.engine is None or self._loaded_model is None or not self._loaded_model.installed:
            return
        idle = self.engine.frames == 0 and self.hardware.state is not None
        if self.engine.frames >= TRIAL_FRAMES or (idle and self._clock() - self._engine_at > RETRY_SECONDS):
            self._loaded_model = confirmed(self._loaded_model, InstalledModels(self.settings.models))

    def _reload(self) -> None:
        """Read the settings again; what they change is opened anew, and the model in any case."""
        try:
            settings = load_settings(self.config)
        except SettingsError as error:
            self.bus.publish(trouble("settings", f"the former settings stay: {error}", "error"))
            self._loading = self._load_engine()
            return
        before = self.settings
        # The store and the socket are open where they are.
        self.settings = self.hardware.settings = structs.replace(settings, paths=before.paths)
        if settings.paths != before.paths:
            self.bus.publish(Event("settings", "new paths are used after a restart"))
        if settings.events != before.events:
            self.bus.set_sinks(open_sinks(self.settings))
        if settings.panel != before.panel or settings.camera.kind != before.camera.kind:
            self.hardware.open_panel()
        if settings.camera != before.camera:
            self.hardware.close_camera()
            if self.engine:
                self.engine.camera_lost(self._clock())
                self.hardware.open_camera(self.engine.encoder.preprocessing.color)
        self.integrations.apply(self.settings)
        self.bus.publish(Event("settings", "the settings were read again"))
        self._loading = self._load_engine()

    def _notify_ready(self) -> None:
        if not self._ready:
            self._ready = True
            self._notifier.ready(self.status_line())

    def _close(self, control: ControlServer) -> None:
        """End within a second, whatever hangs."""
        self._stopping, self._loading = True, None  # so that a view is not thought to have ended the process
        self._notifier.stopping()
        if self.engine:
            self.engine.registrations.cancel()  # who waits for it is told
        self.bus.publish(Event("stopping", "the daemon stops"))
        self._calls.close()
        # They tell of the end to those who watch.
        self.integrations.close(0.4)
        # First, so that who follows events sees their end, and not a connection that breaks.
        self.bus.close(0.3)
        control.close()
        self.hardware.close()
        if self._store is not None:
            self._store.close()

    # --- how it is ---

    def status_line(self) -> str:
        """One line, such as `sees mug; 12 objects; 9.8 frames/s`."""
        engine, state = self.engine, self.hardware.state
        if engine is None:
            return self.fault
        if state is None or state.status == "starting":
            return "waiting for the camera"
        if state.status in ("stalled", "absent"):
            return f"no frames: {state.reason}"
        if engine.registrations.busy:
            return "looks at something that it shall learn"
        seen = " and ".join(engine.present) or "nothing that it knows"
        return f"sees {seen}; {counted(len(engine.support), 'object')}; {state.fps:.1f} frames/s"

    def report(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        engine, settings = self.engine, self.settings
        return {
            "version": __version__,
            "line": self.status_line(),
            "uptime_s": round(self.uptime, 1),
            "fault": self.fault,
            "model": self._model_report(),
            "objects": 0 if engine is None else len(engine.support),
            "views": 0 if engine is None else len(engine.support.embeddings),
            "present": [] if engine is None else list(engine.present),
            "frames": 0 if engine is None else engine.frames,
            "learning": engine is not None and engine.registrations.busy,
            "camera": self._camera_report(),
            "panel": self._panel_report(),
            "store": {"repair": self.repair},
            "extras": self.integrations.report(),
            "paths": {
                "config": str(self.config or ""),
                "state": str(settings.state_directory),
                "socket": str(settings.socket),
            },
        }

    def _model_report(self) -> dict[str, Any] | None:
        engine = self.engine
        if engine is None:
            return None
        return {
            "model_id": engine.encoder.model_id,
            "bundle": str(engine.bundle.path),
            "runtime": engine.encoder.runtime,
            "precision": engine.encoder.precision,
            "reason": engine.encoder.reason,
            "threshold": engine.threshold,
            "threshold_source": engine.threshold_source,
        }

    def _camera_report(self) -> dict[str, Any] | None:
        state = self.hardware.state
        if state is None:
            return None
        return {
            "status": state.status,
            "reason": state.reason,
            "description": state.description,
            "captured": state.captured,
            "dropped": state.dropped,
            "restarts": state.restarts,
            "fps": round(state.fps, 2),
        }

    def _panel_report(self) -> dict[str, Any] | None:
        console = self.hardware.console
        if console is None:
            return None
        return {
            "description": console.description,
            "problem": console.problem,
            "stuck": self.hardware.stuck,
        }


class CallQueue:
    """Functions that wait for the owner's next turn; `ask` from any other thread."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._over = False

    def call(self, function: Callable[[], T], timeout: float) -> T:
        """Let the owner call a function, and wait for what it returns.

        Raises:
            NotReady: the daemon is stopping, or did not come to it in time.
            Whatever the function raises.
        """
        future: Future[T] = Future()
        self._waiting.put((function, future))
        if self._over:  # asked after it was put there: nobody may come to it any more
            future.cancel()
        try:
            return future.result(timeout)
        except CancelledError:
            raise NotReady("the daemon is stopping") from None
        except TimeoutError as error:
            if future.done():  # the function's own error, such as that of a camera
                return future.result()
            # What nobody waits for any more must not be done later, behind the asker's back.
            if not future.cancel():
                raise NotReady("the daemon is still at it; see later what came of it") from error
            raise NotReady(f"the daemon did not come to it in {timeout:g} s") from error

    def run_pending(self) -> None:
        """Call what waits now; what is asked meanwhile waits for the next turn."""
        for _ in range(self._waiting.qsize()):
            function, future = self._waiting.get_nowait()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

    def close(self) -> None:
        """Nothing is called any more; who waits is told."""
        self._over = True
        while not self._waiting.empty():
            self._waiting.get_nowait()[1].cancel()


def open_store(settings: Settings, encoder: Encoder, notifier: Notifier) -> SupportStore:
    """Open the store for an encoder's model; a damaged file is repaired, and systemd waits for it.

    Raises:
        StoreError: it cannot be opened.
    """
    notifier.extend_timeout(SLOW_CALL_SECONDS)
    notifier.watchdog_within(SLOW_CALL_SECONDS)
    try:
        keep = settings.registration.keep_crops
        return SupportStore(settings.store, encoder.model_id, encoder.dimensions, keep_crops=keep)
    finally:
        notifier.watchdog_within(notifier.watchdog_s)


class Backups:
    """Copies the store beside it; never at the end of the daemon, which has to be quick."""

    def __init__(self, now: float) -> None:
        """`now`: the time, in seconds, from which on it is counted."""
        self._due = now + BACKUP_SECONDS

    def run_if_due(self, store: SupportStore, now: float) -> None:
        """Copy the store if it is time; what cannot be copied is logged."""
        if now < self._due:
            return
        self._due = now + BACKUP_SECONDS
        try:
            if store.path.stat().st_size > LARGE_STORE:
                self._due = now + LARGE_BACKUP_SECONDS
            if not store.backup(BACKUP_LIMIT_SECONDS):
                LOG.warning("no backup: the copy of the objects took too long; edge-siamese objects export")
        except (EdgeSiameseError, OSError) as error:
            LOG.warning("no backup: %s", error)


def counted(number: int, noun: str) -> str:
    """`1 object`, `2 objects`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
