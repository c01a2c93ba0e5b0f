"""The daemon's main loop: passes frames, presses and requests to the engine, and recovers from failures."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import replace
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
from edge_siamese.daemon.model_loader import LoadedModel, confirm_model, loading_current_model, reembed
from edge_siamese.daemon.sinks import open_sinks
from edge_siamese.daemon.systemd import Notifier
from edge_siamese.daemon.telemetry import Observations
from edge_siamese.errors import EdgeSiameseError, NotReady, SettingsError, StoreError, unforeseen
from edge_siamese.events import Event, Kind, trouble
from edge_siamese.models.installed import InstalledModels
from edge_siamese.panel.led_signals import Signal
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.settings import Settings, SettingsOrigin, default_config, load_settings
from edge_siamese.store import SupportStore
from edge_siamese.system.files import expand_path

LOG = logging.getLogger(__name__)
T = TypeVar("T")

EXIT_OK, EXIT_RESTART = 0, 75
"""Exit statuses: success, and "restart", for a camera that only a new process can free."""
LOOP_SECONDS = 0.05
"""Longest wait for a frame, and so the longest delay of a press or a request."""
RETRY_SECONDS, MAX_RETRY_SECONDS = 10.0, 300.0
"""Pause between two attempts to load an engine; doubled each time."""
READY_SECONDS = 5.0
"""A daemon that is still re-embedding objects reports that it is ready after this time, since it answers requests."""
STATUS_SECONDS = 1.0
TRIAL_FRAMES = 10
"""A new model is confirmed after this number of frames, or after `RETRY_SECONDS` without a camera."""
REPAIRED_SECONDS = 60.0
"""How long the LED shows that the store was repaired."""
SLOW_CALL_SECONDS = 900.0
"""Time limit of a repair, an import or an export, with thousands of objects on a slow card."""
BACKUP_SECONDS, LARGE_BACKUP_SECONDS = 60.0, 24 * 3600.0
"""Interval between backups of a changed store; a large store is copied rarely, as writes wear out the memory card."""
LARGE_STORE_BYTES = 64 * 2**20
BACKUP_LIMIT_SECONDS = 20.0
"""Time limit of a backup, during which no frame is processed."""


class Service:
    """The daemon. `run` serves until it is stopped."""

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
            settings: the initial settings.
            config: the file they are reloaded from; None for the default places.
            notifier: the connection to systemd.
            clock: the clock of frames and button edges, in seconds.
        """
        self.settings = settings
        self.config = expand_path(config).absolute() if config else None
        self.bus = EventBus()
        self.observations = Observations()
        self.bus.listen(self.observations.telemetry.event)
        self.api = DaemonApi(self)
        """The API for control socket, dashboard, MQTT and fleet."""
        self.integrations = Integrations(self.api, self.bus.publish)
        self.hardware = Hardware(settings, self.bus.publish)
        self.engine: Engine | None = None
        """None until model and store are loaded."""
        self.fault = "starting"
        """Why there is no engine; empty when there is one."""
        self.origin = SettingsOrigin(self.config or default_config(), settings.digest)
        self._load_problem = ""
        """Why the model was not loaded at the last attempt; empty if it was."""
        self.repair: str | None = None
        """What was repaired in the store."""
        self._notifier = notifier or Notifier()
        self._clock = clock
        self._started = clock()
        self._calls = CallQueue()
        # Not events of `threading`: a signal that arrives while the main thread holds an event's lock would deadlock.
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
            NotReady: the daemon is stopping or too busy.
            Any error of the function.
        """
        return self._calls.call(function, timeout)

    def call_slow(self, function: Callable[[], T]) -> T:
        """Run a function that may take minutes; the watchdog waits for it. Otherwise as `call`."""

        def run() -> T:
            self._notifier.watchdog_within(SLOW_CALL_SECONDS)
            try:
                return function()
            finally:
                self._notifier.watchdog_within(self._notifier.watchdog_s)

        return self._calls.call(run, SLOW_CALL_SECONDS)

    @property
    def stopping(self) -> bool:
        """Whether the daemon is stopping."""
        return self._stopping

    @property
    def uptime(self) -> float:
        """Seconds since it was created."""
        return self._clock() - self._started

    def now(self) -> float:
        """Return the time in seconds, on the clock of frames."""
        return self._clock()

    def stop(self, *_: object) -> None:
        """Stop soon. Also a signal handler."""
        self._stopping = True

    def reload(self, *_: object) -> None:
        """Reload settings and model soon. Also a signal handler."""
        self._reloading = True

    def reembed(self) -> None:
        """Embed the views that lack an embedding of this model; on the thread that owns engine and store."""
        if self._loading is None:
            self._loading = self._load_engine(self._loaded_model)

    # --- main loop ---

    def run(self) -> int:
        """Serve until stopped; returns the exit status.

        Raises:
            ControlError: another daemon listens on the socket.
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
            LOG.exception("the daemon stops after an unexpected error")
            raise
        finally:
            self._close(control)

    def _run_once(self) -> int | None:
        """Run one iteration of the loop, with at most one frame; returns an exit status if the daemon has to stop."""
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
                LOG.warning("button %s: %s", gesture.value, self.status_line())
        frame = self.hardware.next_frame(LOOP_SECONDS if self._loading is None else 0.0)
        if frame is not None and self.engine:
            self._process_frame(self.engine, frame)
        elif self._loading is None and not self.hardware.may_recover:
            time.sleep(LOOP_SECONDS)
        return self._supervise(self._clock())

    def _process_frame(self, engine: Engine, frame: Frame) -> None:
        """Pass a frame to the engine. If every frame fails, the watchdog restarts the daemon."""
        try:
            engine.process_frame(frame, max(0.0, self._clock() - frame.time))
        except EdgeSiameseError as error:
            if str(error) != self._bad_frames:
                self._bad_frames = str(error)
                self.bus.publish(trouble("model", f"a frame could not be processed: {error}"))
        else:
            self._bad_frames = ""
            self._notifier.watchdog()

    def _supervise(self, now: float) -> int | None:
        """Check camera, timeouts, store and status; returns an exit status if the daemon has to stop."""
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
            # There are no frames to process; the camera supervisor and the retries take care of the rest.
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
            LOG.error("the camera does not recover in this process; restarting")
            return EXIT_RESTART
        return None

    def _background_signal(self, now: float) -> Signal:
        """Return the LED signal to show between temporary ones."""
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
        """Close a damaged store; opening it again repairs it."""
        assert self._store is not None
        self.bus.publish(trouble("store", "the store is damaged and is being repaired", "error"))
        if self.engine:
            self.engine.registrations.cancel()
            self.engine.camera_lost(self._clock())
        self.engine, self.fault = None, "the store is being repaired"
        self._fault_signal = Signal.FAULT_STORE
        self._store.close()
        self._store, self._loading = None, self._load_engine()

    def _continue_loading(self, now: float) -> None:
        """Take the next step of loading an engine."""
        if self._loading is None:
            if self.engine is not None or now < self._retry_at:
                return
            self._loading = self._load_engine()
        try:
            step = next(self._loading)
        except StopIteration:
            self._loading, self._retry_s, self._load_problem = None, RETRY_SECONDS, ""
            self._notify_ready()
        except (EdgeSiameseError, OSError) as error:
            self._loading = None
            # A failing attempt may be expensive, such as a repair on a full disk.
            self._retry_at = now + self._retry_s
            self._retry_s = min(2 * self._retry_s, MAX_RETRY_SECONDS)
            self._report_failure(error)
            self._notify_ready()
        else:
            if self.engine is None and not self._reported_fault:
                self.fault = step
            self._notifier.status(step)
            self._notifier.watchdog()
            if self._ready or self.uptime < READY_SECONDS:
                return
            self._notify_ready()

    def _report_failure(self, error: Exception) -> None:
        """Report why no engine was loaded, once for each reason."""
        text = self._load_problem = str(error)
        kind: Kind = "store" if isinstance(error, StoreError) else "model"
        if self.engine is not None:
            self.bus.publish(trouble("model", f"the previous model stays in use: {text}", "error"))
            return
        if text != self._reported_fault:
            self.bus.publish(trouble(kind, f"cannot recognize: {text}", "error"))
        self.fault = self._reported_fault = text
        self._fault_signal = Signal.FAULT_STORE if kind == "store" else Signal.FAULT_MODEL

    def _load_engine(self, model: LoadedModel | None = None) -> Iterator[str]:
        """Load the current model, unless one is given, open the store, and build the engine; yields before each step."""
        yield "loading the model"
        if model is None:
            models = InstalledModels(self.settings.models)
            model = yield from loading_current_model(
                self.settings, models, lambda text: self.bus.publish(trouble("model", text))
            )
        encoder = model.encoder
        if self._store is None:
            yield "opening the store"
            self._store = open_store(self.settings, encoder, self._notifier)
            if self._store.repair:
                self.repair, self._repaired_at = self._store.repair.text, self._clock()
                self.bus.publish(trouble("store", self._store.repair.text, "error"))
        self._store.keep_crops = self.settings.registration.keep_crops
        yield from reembed(self._store, model)
        previous, self.fault, self._reported_fault = self.engine, "", ""
        if previous is not None and model is self._loaded_model:
            return previous.follow()  # the same model has more embeddings now; sightings continue
        self.engine = self._new_engine(model, self._store)
        self._loaded_model, self._engine_at = model, self._clock()
        if previous is None or previous.encoder.model_id != encoder.model_id:
            text = f"recognizing {counted(len(self.engine.support), 'object')} with {encoder.model_id}, {encoder.reason}"
            if dormant := self._store.counts().dormant:
                text += f"; {counted(dormant, 'view')} cannot be re-embedded: their pictures are not stored"
            self.bus.publish(Event("started" if previous is None else "model", text))
        self.hardware.open_camera(encoder.preprocessing.color)

    def _new_engine(self, model: LoadedModel, store: SupportStore) -> Engine:
        """Build the engine of another model and switch the store to it; after an error the store stays as it was."""
        encoder, before = model.encoder, (store.model_id, store.dimensions)
        try:
            if before != (encoder.model_id, encoder.dimensions):
                store.use_model(encoder.model_id, encoder.dimensions)
            engine = Engine(
                self.settings,
                model.bundle,
                encoder,
                store,
                publish=self.bus.publish,
                signal=self.hardware.show,
                hold_exposure=self.hardware.hold_exposure,
                observations=self.observations,
            )
        except EdgeSiameseError:
            # The previous engine must not score or write its embeddings as those of this model.
            store.use_model(*before)
            raise
        if self.engine:
            self.engine.registrations.cancel()
            self.engine.camera_lost(self._clock())
        return engine

    def _confirm(self) -> None:
        """End the trial of a model that has worked for a while."""
        if self.engine is None or self._loaded_model is None or not self._loaded_model.installed:
            return
        idle = self.engine.frames == 0 and self.hardware.state is not None
        if self.engine.frames >= TRIAL_FRAMES or (idle and self._clock() - self._engine_at > RETRY_SECONDS):
            self._loaded_model = confirm_model(self._loaded_model, InstalledModels(self.settings.models))

    def _reload(self) -> None:
        """Read the settings again, reopen what they change, and load the model again.

        Whatever fails, the previous settings stay in use.
        """
        before = self.settings
        try:
            file = self.config or default_config()
            settings = load_settings(file)
            # Store and socket stay at their paths until a restart.
            self._apply(structs.replace(settings, paths=before.paths))
            self.origin = SettingsOrigin(file, settings.digest)
            if settings.paths != before.paths:
                self.bus.publish(Event("settings", "new paths take effect after a restart"))
            self.bus.publish(Event("settings", "the settings were read again"))
        except Exception as error:
            if not isinstance(error, SettingsError):
                LOG.exception("the settings cannot be used")
            problem = unforeseen(error)
            self.settings = self.hardware.settings = before
            self.origin = replace(self.origin, problem=problem)
            self.bus.publish(trouble("settings", f"the previous settings stay in use: {problem}", "error"))
        self._loading = self._load_engine()

    def _apply(self, settings: Settings) -> None:
        """Reopen what differs in new settings."""
        before = self.settings
        sinks = open_sinks(settings) if settings.events != before.events else None
        self.settings = self.hardware.settings = settings
        if settings.panel != before.panel or settings.camera.kind != before.camera.kind:
            self.hardware.open_panel()
        if settings.camera != before.camera:
            self.hardware.close_camera()
            if self.engine:
                self.engine.camera_lost(self._clock())
                self.hardware.open_camera(self.engine.encoder.preprocessing.color)
        self.integrations.apply(settings)
        if sinks is not None:
            self.bus.set_sinks(sinks)

    def _notify_ready(self) -> None:
        if not self._ready:
            self._ready = True
            self._notifier.ready(self.status_line())

    def _close(self, control: ControlServer) -> None:
        """Stop within a second, even if a part hangs."""
        self._stopping, self._loading = True, None  # closes `reembed`, which would count an attempt otherwise
        self._notifier.stopping()
        if self.engine:
            self.engine.registrations.cancel()  # its client gets an answer
        self.bus.publish(Event("stopping", "the daemon stops"))
        self._calls.close()
        # Before the bus, so that they can publish their last events.
        self.integrations.close(0.4)
        # Before the socket, so that followers see the end of the events and not a broken connection.
        self.bus.close(0.3)
        control.close()
        self.hardware.close()
        if self._store is not None:
            self._store.close()

    # --- status ---

    def status_line(self) -> str:
        """Describe the daemon's state in one line, such as `sees mug; 12 objects; 9.8 frames/s`."""
        engine, state = self.engine, self.hardware.state
        if engine is None:
            return self.fault
        if state is None or state.status == "starting":
            return "waiting for the camera"
        if state.status in ("stalled", "absent"):
            return f"no frames: {state.reason}"
        if engine.registrations.busy:
            return "registering an object"
        names = " and ".join(engine.present) or "no known object"
        return f"sees {names}; {counted(len(engine.support), 'object')}; {state.fps:.1f} frames/s"

    def report(self) -> dict[str, Any]:
        """Describe the daemon's state as JSON values."""
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
            "registering": engine is not None and engine.registrations.busy,
            "camera": self._camera_report(),
            "panel": self._panel_report(),
            "store": {"repair": self.repair},
            "integrations": self.integrations.report(),
            "paths": {
                "config": str(self.origin.file or ""),
                "state": str(settings.state_directory),
                "socket": str(settings.socket),
            },
            "loading": {
                "busy": self._reloading or self._loading is not None,
                "problem": self._load_problem,
                "settings_problem": self.origin.problem,
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
            "input": structs.asdict(engine.encoder.preprocessing),
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
    """Functions that other threads have called on the thread that owns engine and store."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._closed = False

    def call(self, function: Callable[[], T], timeout: float) -> T:
        """Call a function on the owner's thread and return its result; from any other thread.

        Raises:
            NotReady: the daemon is stopping or too busy.
            Any error of the function.
        """
        future: Future[T] = Future()
        self._waiting.put((function, future))
        if self._closed:  # closed meanwhile: it would never run
            future.cancel()
        try:
            return future.result(timeout)
        except CancelledError:
            raise NotReady("the daemon is stopping") from None
        except TimeoutError as error:
            if future.done():  # the function's own TimeoutError, such as that of a camera
                return future.result()
            # A call that has timed out must not run later.
            if not future.cancel():
                raise NotReady("the daemon is still working on it; check the result later") from error
            raise NotReady(f"the daemon was too busy for {timeout:g} s") from error

    def run_pending(self) -> None:
        """Run the calls that are waiting now; later ones wait for the next iteration."""
        for _ in range(self._waiting.qsize()):
            function, future = self._waiting.get_nowait()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

    def close(self) -> None:
        """Run no further call; waiting callers get `NotReady`."""
        self._closed = True
        while not self._waiting.empty():
            self._waiting.get_nowait()[1].cancel()


def open_store(settings: Settings, encoder: Encoder, notifier: Notifier) -> SupportStore:
    """Open the store for an encoder's model; systemd waits for the repair of a damaged one.

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
    """Regular backups of the store, in its directory."""

    def __init__(self, now: float) -> None:
        """Start the interval at `now`, in seconds."""
        self._due = now + BACKUP_SECONDS

    def run_if_due(self, store: SupportStore, now: float) -> None:
        """Back the store up if it is time; errors are logged."""
        if now < self._due:
            return
        self._due = now + BACKUP_SECONDS
        try:
            if store.path.stat().st_size > LARGE_STORE_BYTES:
                self._due = now + LARGE_BACKUP_SECONDS
            if not store.backup(BACKUP_LIMIT_SECONDS):
                LOG.warning("no backup: copying the store took too long; use edge-siamese objects export")
        except (EdgeSiameseError, OSError) as error:
            LOG.warning("no backup: %s", error)


def counted(number: int, noun: str) -> str:
    """Format a count, such as `1 object` or `2 objects`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
