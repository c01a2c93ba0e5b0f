"""The daemon's main loop: passes frames, presses and requests to the engine, and recovers from failures."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
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
from edge_siamese.daemon.engine_calls import CallQueue
from edge_siamese.daemon.event_bus import EventBus
from edge_siamese.daemon.hardware import Hardware
from edge_siamese.daemon.integrations import Integrations
from edge_siamese.daemon.model_loader import (
    LoadedModel,
    confirm_model,
    loading_current_model,
    loading_shipped_model,
    reembed,
)
from edge_siamese.daemon.quarantine import (
    HEALTHY_FRAMES,
    HEALTHY_SECONDS,
    FailureLog,
    Fallback,
    Part,
    Quarantine,
    StartCounter,
    model_part,
    settings_part,
)
from edge_siamese.daemon.sinks import open_sinks
from edge_siamese.daemon.systemd import Notifier
from edge_siamese.daemon.telemetry import Observations
from edge_siamese.errors import EdgeSiameseError, SettingsError, StoreError, unforeseen
from edge_siamese.events import Event, Kind, trouble
from edge_siamese.models import default
from edge_siamese.models.installed import InstalledModels
from edge_siamese.panel.led_signals import Signal
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.settings import (
    RecognitionSettings,
    RegistrationSettings,
    Settings,
    SettingsOrigin,
    default_config,
    load_settings,
)
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
FAILED_FRAMES, FAILED_SECONDS = 5, 2.0
"""After this number of failed frames in a row, over at least this time, the daemon looks for the part that fails."""
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
        self._reported_fault = ""
        self.quarantine = Quarantine(settings.state_directory, self._report_part)
        """The parts that failed and are not used."""
        self.fallback = Fallback()
        """What this start does without, because earlier ones ended early."""
        self.failures = FailureLog(clock)
        self._starts = StartCounter(settings.state_directory)
        self._failing: tuple[int, float] | None = None
        """Number and start of the frames that failed since one was processed."""
        self._processed = 0
        self._rebuilt = False
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
            self._begin()
            self._guard("panel", "panel", self.hardware.open_panel)
            self._guard("settings", "integrations", lambda: self.integrations.apply(self.settings))
            self._loading = self._load_engine()
            status = None
            while status is None and not self._stopping:
                status = self._run_once()
            self._starts.ended()
            return status or EXIT_OK
        except Exception:
            LOG.exception("the daemon stops after an unexpected error")
            raise
        finally:
            self._close(control)

    def _begin(self) -> None:
        """Count this start, and decide what it does without."""
        models = InstalledModels(self.settings.models)
        if self._guard("model", "model on trial", models.rejects_trial):
            self._starts.clear()  # the model on trial ended those starts, and is replaced now
        self.fallback = self._starts.begin()
        self.quarantine.drop("settings", keep=self.origin.digest)
        for part in (*self.fallback.parts(), *self.quarantine.parts):
            self._report_part(part)

    def _guard(self, kind: Kind, part: str, function: Callable[[], T]) -> T | None:
        """Call a function of a part of the daemon; an error is reported once by an event, and None is returned."""
        try:
            result = function()
        except Exception as error:
            if self.failures.failed(part, error):
                self.bus.publish(trouble(kind, f"{part}: {unforeseen(error)}", "error"))
            return None
        self.failures.worked(part)
        return result

    def _run_once(self) -> int | None:
        """Run one iteration of the loop, with at most one frame; returns an exit status if the daemon has to stop."""
        if self._reloading:
            self._reloading = False
            self._guard("settings", "reload", self._reload)
        self._continue_loading(self._clock())
        self._calls.run_pending()
        self._guard("panel", "button", self._take_gestures)
        wait_s = LOOP_SECONDS if self._loading is None else 0.0
        frame = self._guard("camera", "frames", lambda: self.hardware.next_frame(wait_s))
        if frame is not None and self.engine:
            self._process_frame(self.engine, frame)
        elif self._loading is None and (not self.hardware.may_recover or "frames" in self.failures.current):
            time.sleep(LOOP_SECONDS)
        return self._guard("camera", "camera", lambda: self._supervise(self._clock()))

    def _take_gestures(self) -> None:
        for gesture in self.hardware.gestures():
            ready = self.engine is not None and not self.fallback.store
            if self.engine and ready and not (gesture is Gesture.PRESS and self.hardware.camera_down):
                self.engine.gesture(gesture, self._clock())
            else:
                self.hardware.show(Signal.FAILED)
                LOG.warning("button %s: %s", gesture.value, self.status_line())

    def _process_frame(self, engine: Engine, frame: Frame) -> None:
        """Pass a frame to the engine. A frame that fails is skipped; after several, the part that fails is replaced."""
        try:
            engine.process_frame(frame, max(0.0, self._clock() - frame.time))
        except Exception as error:
            self._frame_failed(engine, frame, error)
        else:
            self._failing, self._rebuilt = None, False
            self.failures.worked("recognition")
            self._processed += 1
            if self._processed == HEALTHY_FRAMES:
                self._starts.healthy()
            self._notifier.watchdog()

    def _frame_failed(self, engine: Engine, frame: Frame, error: Exception) -> None:
        reason, now = unforeseen(error), self._clock()
        if self.failures.failed("recognition", error):
            self.bus.publish(trouble("model", f"a frame could not be processed: {reason}"))
        count, since = self._failing or (0, now)
        self._failing = count + 1, since
        if count + 1 < FAILED_FRAMES or now - since < FAILED_SECONDS:
            return
        self._failing = None
        self._notifier.watchdog_within(SLOW_CALL_SECONDS)
        try:
            self._replace_failing_part(engine, frame, reason)
        finally:
            self._notifier.watchdog_within(self._notifier.watchdog_s)

    def _replace_failing_part(self, engine: Engine, frame: Frame, reason: str) -> None:
        """Put the part that fails into quarantine, and go on without it."""
        cause = self._guard("store", "search for the cause", lambda: engine.find_cause(frame)) or ""
        if cause == "model" and not self._replace_model(reason):
            cause, self._rebuilt = "", True
        if cause == "settings":
            self.quarantine.add(settings_part(self.origin.digest, reason))
        if cause == "objects":
            engine.follow()
        elif cause or not self._rebuilt:
            # Without a cause, it may be the engine's state, which a new engine does not have.
            self._rebuilt = not cause
            self._drop_engine("the engine is being built again")
            self._loading = self._load_engine(None if cause == "model" else self._loaded_model)
        else:
            self._drop_engine(f"frames cannot be processed: {reason}")
            self._fault_signal = Signal.FAULT_MODEL
            self._retry_later(self._clock())

    def _replace_model(self, reason: str) -> bool:
        """Reject the model, or put it into quarantine in favor of the shipped one; False if there is no other."""
        assert self._loaded_model is not None
        path, shipped = self._loaded_model.bundle.path, default()
        if path == shipped:
            return False
        if not self.settings.model.bundle:
            with suppress(EdgeSiameseError):  # there is no previous model
                line = InstalledModels(self.settings.models).reject(reason, path)
                self.bus.publish(trouble("model", line, "error"))
                return True
        if shipped is None:
            return False
        self.quarantine.add(model_part(path.name, reason))
        return True

    def _report_part(self, part: Part) -> None:
        kind: Kind = part.kind if part.kind in ("model", "settings") else "store"
        self.bus.publish(trouble(kind, part.text, "error", part=part.id))

    def restore(self, part_id: str) -> str:
        """Use a part again; returns a line for people. On the thread that owns engine and store.

        Raises:
            ControlError: there is no such part in quarantine.
        """
        for part in self.fallback.parts():
            if part.id == part_id:
                self.fallback = replace(self.fallback, **{part.kind: False})
                self._starts.clear()
                break
        else:
            part = self.quarantine.restore(part_id)
        if part.kind in ("object", "view") and self.engine is not None:
            self.engine.follow()
        else:
            self._drop_engine("the engine is being built again")
            self._loading = self._load_engine()
        return f"{part.name} is used again"

    def _drop_engine(self, fault: str) -> None:
        if self.engine:
            engine = self.engine
            self._guard("model", "registration", engine.registrations.cancel)
            self._guard("model", "sightings", lambda: engine.camera_lost(self._clock()))
        self.engine, self.fault = None, fault

    def _supervise(self, now: float) -> int | None:
        """Check camera, timeouts, store and status; returns an exit status if the daemon has to stop."""
        lost = self.hardware.watch()
        if engine := self.engine:
            if lost:
                self._guard("model", "sightings", lambda: engine.camera_lost(now))
            self._guard("store", "engine", lambda: engine.tick(now))
        state = self.hardware.state
        if self.engine is None or state is None or state.status in ("starting", "absent"):
            # There are no frames to process; the camera supervisor and the retries take care of the rest.
            self._notifier.watchdog()
        self._guard("panel", "LED", lambda: self.hardware.show_background(self._background_signal(now)))
        if now >= self._status_at:
            self._status_at = now + STATUS_SECONDS
            self._notifier.status(self.status_line())
            self._guard("model", "model on trial", self._confirm)
            self._guard("store", "backup", lambda: self._maintain_store(now))
            if self.uptime > HEALTHY_SECONDS and self._failing is None:
                self._starts.healthy()
        if state and state.status == "ended" and not (self.engine and self.engine.registrations.busy):
            return EXIT_OK
        if self.hardware.needs_restart:
            LOG.error("the camera does not recover in this process; restarting")
            return EXIT_RESTART
        return None

    def _maintain_store(self, now: float) -> None:
        if self._store is not None:
            self._backups.run_if_due(self._store, now)
        if self._store is not None and self._loading is None and self._store.damaged:
            self._reopen_store()

    def _background_signal(self, now: float) -> Signal:
        """Return the LED signal to show between temporary ones."""
        if self.engine is None:
            return self._fault_signal
        if self.fallback.store:
            return Signal.FAULT_STORE
        if self.hardware.camera_down:
            return Signal.FAULT_CAMERA
        if self._repaired_at is not None and now - self._repaired_at < REPAIRED_SECONDS:
            return Signal.FAULT_STORE
        if self.hardware.stuck:
            return Signal.STUCK
        if self.engine.present:
            return Signal.RECOGNIZED
        return Signal.FAULT_MODEL if self.fallback.model else Signal.READY

    # --- the engine ---

    def _reopen_store(self) -> None:
        """Close a damaged store; opening it again repairs it."""
        assert self._store is not None
        self.bus.publish(trouble("store", "the store is damaged and is being repaired", "error"))
        self._drop_engine("the store is being repaired")
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
            self._loading, self._load_problem = None, ""
            if not self._rebuilt:  # otherwise its frames may fail again
                self._retry_s = RETRY_SECONDS
            self.failures.worked("loading")
            self._notify_ready()
        except Exception as error:
            self._retry_later(now)
            if not isinstance(error, (EdgeSiameseError, OSError)):
                self.failures.failed("loading", error)
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

    def _retry_later(self, now: float) -> None:
        """Load an engine again after a pause: a failing attempt may be expensive, such as a repair on a full disk."""
        self._loading = None
        self._retry_at = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, MAX_RETRY_SECONDS)

    def _report_failure(self, error: Exception) -> None:
        """Report why no engine was loaded, once for each reason."""
        text = self._load_problem = unforeseen(error)
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
            model = yield from self._loading_model()
        encoder = model.encoder
        if self.fallback.store:
            if self._store is not None:
                self._store.close()
                self._store = None
        elif self._store is None:
            yield "opening the store"
            self._store = open_store(self.settings, encoder, self._notifier)
            if self._store.repair:
                self.repair, self._repaired_at = self._store.repair.text, self._clock()
                self.bus.publish(trouble("store", self._store.repair.text, "error"))
        if self._store is not None:
            self._store.keep_crops = self.settings.registration.keep_crops
            yield from reembed(self._store, model)
        previous, self.fault, self._reported_fault = self.engine, "", ""
        if previous is not None and model is self._loaded_model:
            return previous.follow()  # the same model has more embeddings now; sightings continue
        store = self._store or SupportStore(None, encoder.model_id, encoder.dimensions)
        self.engine = self._new_engine(model, store)
        self._loaded_model, self._engine_at = model, self._clock()
        if previous is None or previous.encoder.model_id != encoder.model_id:
            text = f"recognizing {counted(len(self.engine.support), 'object')} with {encoder.model_id}, {encoder.reason}"
            if dormant := store.counts().dormant:
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
                self._engine_settings(),
                model.bundle,
                encoder,
                store,
                publish=self.bus.publish,
                signal=self.hardware.show,
                hold_exposure=self.hardware.hold_exposure,
                observations=self.observations,
                quarantine=self.quarantine,
            )
        except Exception:
            # The previous engine must not score or write its embeddings as those of this model.
            store.use_model(*before)
            raise
        if self.engine:
            self.engine.registrations.cancel()
            self.engine.camera_lost(self._clock())
        return engine

    def _loading_model(self) -> Generator[str, None, LoadedModel]:
        models = InstalledModels(self.settings.models)
        if self.fallback.model and default() is not None:
            return (yield from loading_shipped_model(self.settings, models))
        return (
            yield from loading_current_model(
                self.settings,
                models,
                lambda text: self.bus.publish(trouble("model", text)),
                lambda path: self.quarantine.has("model", path.name),
            )
        )

    def _engine_settings(self) -> Settings:
        """Return the settings, with the default values of the tables that are in quarantine."""
        if not self.quarantine.has("settings", self.origin.digest):
            return self.settings
        return structs.replace(
            self.settings, recognition=RecognitionSettings(), registration=RegistrationSettings()
        )

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
            self.quarantine.drop("settings", keep=settings.digest)
            if settings.paths != before.paths:
                self.bus.publish(Event("settings", "new paths take effect after a restart"))
            self.bus.publish(Event("settings", "the settings were read again"))
        except Exception as error:
            if not isinstance(error, SettingsError):
                LOG.exception("the settings cannot be used")
            problem = unforeseen(error)
            # Also what the new settings changed before the error.
            self._guard("settings", "previous settings", lambda: self._apply(before))
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
        if self.fallback.store:
            return f"recognizes nothing: {self.fallback.parts()[0].text}; {state.fps:.1f} frames/s"
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
            "quarantine": self.set_aside(),
            "failures": self.failures.report(),
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

    def set_aside(self) -> list[dict[str, Any]]:
        """Describe the parts that the daemon does without, as JSON values."""
        return [part.report() for part in (*self.fallback.parts(), *self.quarantine.parts)]

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
