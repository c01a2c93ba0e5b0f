"""The daemon's main loop: passes frames, presses and requests to the engine."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
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
from edge_siamese.daemon.engine_loader import EngineLoader
from edge_siamese.daemon.event_bus import EventBus
from edge_siamese.daemon.faults import FaultHandler
from edge_siamese.daemon.hardware import Hardware
from edge_siamese.daemon.integrations import Integrations
from edge_siamese.daemon.saved_regions import SavedRegions
from edge_siamese.daemon.sinks import open_sinks
from edge_siamese.daemon.sounds import SoundPlayer
from edge_siamese.daemon.store_lifecycle import StoreLifecycle
from edge_siamese.daemon.systemd import Notifier
from edge_siamese.daemon.telemetry import Observations
from edge_siamese.errors import ControlError, SettingsError, StoreError, describe_error
from edge_siamese.events import Event, counted, problem_event
from edge_siamese.models.installed import InstalledModels
from edge_siamese.panel.led_signals import Signal
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.settings import RegionSettings, Settings, require_regions
from edge_siamese.settings_file import SettingsOrigin, default_config, load_settings
from edge_siamese.store.mistakes import KeptMistakes
from edge_siamese.store.surroundings import SurroundingsFile
from edge_siamese.system.files import expand_path
from edge_siamese.validation import SchemaError

LOG = logging.getLogger(__name__)
T = TypeVar("T")

EXIT_OK, EXIT_RESTART = 0, 75
"""Exit statuses: success, and "restart", for a camera that only a new process can free."""
LOOP_SECONDS = 0.05
"""Longest wait for a frame, and so the longest delay of a press or a request."""
READY_SECONDS = 5.0
"""A daemon that is still re-embedding objects reports that it is ready after this time, since it answers requests."""
STATUS_SECONDS = 1.0
MAX_CLOSE_OBJECTS = 5
"""Objects in the status that the surroundings come too close to."""


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
        """Create the daemon; `run` opens socket, store and hardware.

        Args:
            settings: the initial settings.
            config: the file they are reloaded from; None for the default locations.
            notifier: the connection to systemd.
            clock: returns seconds, on the clock of `Frame.time` and of button edges.
        """
        self.settings = settings
        self.config = expand_path(config).absolute() if config else None
        self.origin = SettingsOrigin(self.config or default_config(), settings.digest)
        self.regions_are_settings = bool(settings.regions)
        """Whether the regions are those of the settings. Otherwise they were drawn in the dashboard, or there are none."""
        self._clock, self._started = clock, clock()
        self._notifier = notifier or Notifier()
        self._calls = CallQueue()
        # Not events of `threading`: a signal that arrives while the main thread holds an event's lock would deadlock.
        self._stopping = self._reloading = self._ready = False
        self._status_at = 0.0
        self.bus = EventBus()
        self.observations = Observations()
        self.bus.listen(self.observations.telemetry.event)
        publish = self.bus.publish
        self.sounds = SoundPlayer(structs.replace(settings.sound, enabled=False))  # until `run`
        self.bus.listen(self._play)
        self.faults = FaultHandler(settings.state_directory, publish, clock)
        self.hardware = Hardware(settings, publish)
        self.store = StoreLifecycle(self._notifier, publish, clock)
        self.mistakes = KeptMistakes(settings.state_directory)
        self.loader = EngineLoader(
            settings,
            self.hardware,
            self.store,
            self.faults,
            self.observations,
            self.mistakes,
            SurroundingsFile(settings.state_directory),
            publish,
            clock,
        )
        self.api = DaemonApi(self)
        """The API for control socket, dashboard, MQTT and fleet."""
        self.integrations = Integrations(self.api, publish)

    # --- from other threads and signal handlers ---

    def call(self, function: Callable[[], T], timeout: float = 30.0) -> T:
        """Run a function between two frames, on the thread that owns engine and store.

        Raises:
            NotReady: the daemon is stopping or too busy.
            Any error of the function.
        """
        return self._calls.call(function, timeout)

    @property
    def stopping(self) -> bool:
        """Whether the daemon is stopping."""
        return self._stopping

    @property
    def uptime(self) -> float:
        """Seconds since it was created."""
        return self._clock() - self._started

    @property
    def engine(self) -> Engine | None:
        """None until model and store are loaded."""
        return self.loader.engine

    @property
    def fault(self) -> str:
        """Why there is no engine; empty when there is one."""
        return self.loader.fault

    def now(self) -> float:
        """Return the time in seconds, on the clock of `Frame.time`."""
        return self._clock()

    def stop(self, *_: object) -> None:
        """Stop soon. Also a signal handler."""
        self._stopping = True

    def reload(self, *_: object) -> None:
        """Reload settings and model soon. Also a signal handler."""
        self._reloading = True

    # --- on the thread that owns engine and store ---

    def reembed(self) -> None:
        """Embed the views that lack an embedding of this model."""
        self.loader.reembed()

    def restore(self, part_id: str) -> str:
        """Use a part in quarantine again; returns a human-readable line.

        Raises:
            ControlError: there is no such part in quarantine.
        """
        part = self.faults.restore(part_id)
        if part.kind in ("object", "view") and self.engine is not None:
            self.engine.reload_objects()
        else:
            self.loader.drop("the engine is being built again")
            self.loader.load()
        return f"{part.name} is used again"

    def unused_parts(self) -> list[dict[str, Any]]:
        """Describe the parts that are not used, as JSON values."""
        return [*self.faults.report(), *(part.report() for part in self.store.damaged_parts())]

    @property
    def regions_file(self) -> Path:
        """The file with the regions that were drawn in the dashboard."""
        return SavedRegions(self.settings.state_directory).path

    def set_regions(self, regions: tuple[RegionSettings, ...]) -> None:
        """Replace the watched regions, and save them for the next start.

        Raises:
            ControlError: the settings have regions, or these ones contradict the settings.
            SettingsError: the model cannot do what they ask for.
            StoreError: they cannot be saved, and the former ones stay in use.
        """
        if self.regions_are_settings:
            raise ControlError(f"the regions are set in {self.origin.file}; change them there, and reload")
        try:
            require_regions(regions, self.settings.recognition)
        except SchemaError as error:
            raise ControlError(str(error)) from error
        before, now = self.settings.regions, self._clock()
        if self.engine:
            self.engine.use_regions(regions, now)
        try:
            SavedRegions(self.settings.state_directory).save(regions)
        except StoreError:
            if self.engine:
                self.engine.use_regions(before, now)
            raise
        self._use(structs.replace(self.settings, regions=regions))
        self.faults.use_settings(self.settings.digest)
        names = ", ".join(region.name for region in regions)
        text = f"the regions are now: {names}" if names else "the whole picture is watched"
        self.bus.publish(Event("settings", text))

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
            self.sounds = SoundPlayer(self.settings.sound)
            self._use(self._with_saved_regions(self.settings))
            self.faults.use_settings(self.settings.digest)
            self._apply_consent(self.settings)
            self.faults.begin(InstalledModels(self.settings.models))
            self.faults.guard("panel", "panel", self.hardware.open_panel)
            self.faults.guard("settings", "integrations", lambda: self.integrations.apply(self.settings))
            self.loader.load()
            status = None
            while status is None and not self._stopping:
                status = self._run_once()
            self.faults.end()
            return status or EXIT_OK
        except Exception:
            LOG.exception("the daemon is stopping after an unexpected error")
            raise
        finally:
            self._close(control)

    def _run_once(self) -> int | None:
        """Run one iteration of the loop, with at most one frame; returns an exit status if the daemon has to stop."""
        if self._reloading:
            self._reloading = False
            self.faults.guard("settings", "reload", self._reload)
        self._continue_loading()
        self._calls.run_pending()
        self.faults.guard("panel", "button", self._take_gestures)
        wait_s = 0.0 if self.loader.busy else LOOP_SECONDS
        frame = self.faults.guard("camera", "frames", lambda: self.hardware.next_frame(wait_s))
        if frame is not None and self.engine:
            self._process_frame(self.engine, frame)
        elif not self.loader.busy and (
            not self.hardware.may_recover or "frames" in self.faults.failures.current
        ):
            time.sleep(LOOP_SECONDS)
        return self.faults.guard("camera", "camera", lambda: self._supervise(self._clock()))

    def _continue_loading(self) -> None:
        if not self.loader.due:
            return
        line = self.loader.step()
        if line:
            self._notifier.status(line)
            self._notifier.watchdog()
        if not self._ready and (not line or self.uptime >= READY_SECONDS):
            self._ready = True
            self._notifier.ready(self.status_line())

    def _take_gestures(self) -> None:
        for gesture in self.hardware.gestures():
            ready = self.engine is not None and not self.faults.fallback.store
            if self.engine and ready and not (gesture is Gesture.PRESS and self.hardware.camera_down):
                self.engine.gesture(gesture, self._clock())
            else:
                self.hardware.show(Signal.FAILED)
                LOG.warning("button %s: %s", gesture.value, self.status_line())

    def _process_frame(self, engine: Engine, frame: Frame) -> None:
        """Pass a frame to the engine. A frame that fails is skipped; if frames keep failing, the cause is replaced."""
        try:
            engine.process_frame(frame, max(0.0, self._clock() - frame.time))
        except Exception as error:
            if self.faults.frame_failed(error):
                with self._notifier.slow():
                    self._apply_remedy(engine, frame, error)
        else:
            self.faults.frame_processed()
            self._notifier.watchdog()

    def _apply_remedy(self, engine: Engine, frame: Frame, error: Exception) -> None:
        """Continue without the part that fails on a frame."""
        assert self.loader.model is not None
        remedy = self.faults.remedy(engine, frame, error, self.loader.model, self.settings)
        if remedy == "reload":
            engine.reload_objects()
        elif remedy == "pause":
            self.loader.drop(f"frames cannot be processed: {describe_error(error)}", Signal.FAULT_MODEL)
            self.loader.pause()
        else:
            self.loader.drop("the engine is being built again")
            if remedy == "load":
                self.loader.load()
            else:
                self.loader.rebuild()

    def _supervise(self, now: float) -> int | None:
        """Check camera, timeouts, store and status; returns an exit status if the daemon has to stop."""
        guard = self.faults.guard
        lost = self.hardware.watch()
        if engine := self.engine:
            if lost:
                guard("model", "sightings", lambda: engine.camera_lost(now))
            guard("store", "engine", lambda: engine.tick(now))
        state = self.hardware.state
        if self.engine is None or state is None or state.status in ("starting", "absent"):
            # There are no frames to process; the camera supervisor and the retries take care of the rest.
            self._notifier.watchdog()
        guard("panel", "LED", lambda: self.hardware.show_background(self._background_signal()))
        if now >= self._status_at:
            self._status_at = now + STATUS_SECONDS
            self._notifier.status(self.status_line())
            guard("model", "model on trial", self.loader.confirm)
            guard("store", "backup", self._maintain_store)
            self.faults.tick()
        if state and state.status == "ended" and not (self.engine and self.engine.registrations.busy):
            return EXIT_OK
        if self.hardware.needs_restart:
            LOG.error("the camera does not recover in this process; restarting")
            return EXIT_RESTART
        return None

    def _maintain_store(self) -> None:
        self.store.back_up_if_due()
        if self.loader.busy:
            return
        if self.store.damaged:
            self.loader.reopen_store()
        elif self.store.check_if_suspect():
            self.loader.reembed()

    def _background_signal(self) -> Signal:
        """Return the LED signal to show between temporary ones."""
        if self.engine is None:
            return self.loader.fault_signal
        if self.faults.fallback.store:
            return Signal.FAULT_STORE
        if self.hardware.camera_down:
            return Signal.FAULT_CAMERA
        if self.store.recently_repaired:
            return Signal.FAULT_STORE
        if self.hardware.stuck:
            return Signal.STUCK
        if self.engine.present:
            return Signal.RECOGNIZED
        return Signal.FAULT_MODEL if self.faults.fallback.model else Signal.READY

    def _close(self, control: ControlServer) -> None:
        """Stop within a second, even if a part hangs."""
        self._stopping = True
        self.loader.cancel()
        self._notifier.stopping()
        if engine := self.engine:
            self.faults.guard("model", "registration", engine.registrations.cancel)  # its client gets a reply
            self.faults.guard("store", "surroundings", engine.close)
        self.bus.publish(Event("stopping", "the daemon is stopping"))
        self._calls.close()
        self.sounds.close()
        # Before the bus, so that they can publish their last events.
        self.integrations.close(0.4)
        # Before the socket, so that followers see the end of the events and not a broken connection.
        self.bus.close(0.3)
        control.close()
        self.hardware.close()
        self.store.close()

    # --- settings ---

    def _reload(self) -> None:
        """Read the settings again, reopen what they change, and load the model again.

        Whatever fails, the previous settings stay in use.
        """
        before = self.settings
        try:
            file = self.config or default_config()
            settings = load_settings(file)
            # Store and socket stay at their paths until a restart.
            self._apply(self._with_saved_regions(structs.replace(settings, paths=before.paths)))
            self.origin = SettingsOrigin(file, settings.digest)
            self.faults.use_settings(self.settings.digest)
            self._apply_consent(self.settings)
            if settings.paths != before.paths:
                self.bus.publish(Event("settings", "new paths take effect after a restart"))
            self.bus.publish(Event("settings", "the settings were read again"))
        except Exception as error:
            if not isinstance(error, SettingsError):
                LOG.exception("the settings cannot be used")
            problem = describe_error(error)
            # This also reverts what the new settings changed before the error.
            self.faults.guard("settings", "previous settings", lambda: self._apply(before))
            self._use(before)
            self.origin = replace(self.origin, problem=problem)
            self.bus.publish(
                problem_event("settings", f"the previous settings stay in use: {problem}", "error")
            )
        self.loader.load()

    def _apply(self, settings: Settings) -> None:
        """Reopen what differs in new settings."""
        before = self.settings
        sinks = open_sinks(settings) if settings.events != before.events else None
        self._use(settings)
        if settings.panel != before.panel or settings.camera.kind != before.camera.kind:
            self.hardware.open_panel()
        if settings.camera != before.camera:
            self.hardware.close_camera()
            if self.engine:
                self.engine.camera_lost(self._clock())
                self.hardware.open_camera(self.engine.encoder.preprocessing.color)
        self.integrations.apply(settings)
        if settings.sound != before.sound:
            self.sounds.close()
            self.sounds = SoundPlayer(settings.sound)
        if sinks is not None:
            self.bus.set_sinks(sinks)

    def _apply_consent(self, settings: Settings) -> None:
        """Keep wrong recognitions for training, or delete those that were kept."""
        allowed = settings.training.collect_pictures
        self.faults.guard("settings", "pictures for training", lambda: self.mistakes.allow(allowed))

    def _play(self, event: Event) -> None:
        self.sounds.event(event)

    def _with_saved_regions(self, settings: Settings) -> Settings:
        """Return settings as read, with the regions drawn in the dashboard if they have none."""
        has_regions, file = bool(settings.regions), SavedRegions(settings.state_directory)
        try:
            saved = file.load(settings.recognition)
        except SettingsError as error:
            self.bus.publish(
                problem_event("settings", f"the regions drawn in the dashboard are not used: {error}")
            )
            saved = ()
        if saved and has_regions:
            text = f"the regions of the settings are used, not those drawn in the dashboard ({file.path})"
            self.bus.publish(problem_event("settings", text))
        self.regions_are_settings = has_regions
        return settings if has_regions else structs.replace(settings, regions=saved)

    def _use(self, settings: Settings) -> None:
        self.settings = self.hardware.settings = self.loader.settings = settings

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
        if self.faults.fallback.store:
            return f"recognizes nothing: {self.faults.fallback.parts()[0].text}; {state.fps:.1f} frames/s"
        if engine.registrations.busy:
            return "registering an object"
        seen = [
            " and ".join(names) + (place and f" in {place}")
            for place, names in engine.presence.items()
            if names
        ]
        names = ", ".join(seen) or "no known object"
        return f"sees {names}; {counted(len(engine.support), 'object')}; {state.fps:.1f} frames/s"

    def report(self) -> dict[str, Any]:
        """Describe the daemon's state as JSON values."""
        engine, settings = self.engine, self.settings
        return {
            "version": __version__,
            "line": self.status_line(),
            "uptime_s": round(self.uptime, 1),
            "fault": self.fault,
            "model": None if engine is None else engine.model_report(),
            "objects": 0 if engine is None else len(engine.support),
            "views": 0 if engine is None else len(engine.support.embeddings),
            "present": [] if engine is None else list(engine.present),
            "regions": {
                place: names for place, names in (engine.presence if engine else {}).items() if place
            },
            "frames": 0 if engine is None else engine.frames,
            "registering": engine is not None and engine.registrations.busy,
            "camera": self.hardware.camera_report(),
            "panel": self.hardware.panel_report(),
            "store": {"repair": self.store.repair},
            "surroundings": None if engine is None else _describe_surroundings(engine),
            "quarantine": self.unused_parts(),
            "failures": self.faults.failures.report(),
            "integrations": self.integrations.report(),
            "sound": self.sounds.report(),
            "training": {"collect_pictures": settings.training.collect_pictures},
            "paths": {
                "config": str(self.origin.file or ""),
                "state": str(settings.state_directory),
                "socket": str(settings.socket),
            },
            "loading": {
                "busy": self._reloading or self.loader.busy,
                "problem": self.loader.problem,
                "settings_problem": self.origin.problem,
                "model_problem": self.loader.model.problem if self.loader.model else "",
            },
        }


def _describe_surroundings(engine: Engine) -> dict[str, Any]:
    """The state of the surroundings as JSON values, with the objects that they come too close to."""
    report = engine.surroundings_report()
    near = [{"name": item.name, "text": item.text} for item in report.objects if item.near]
    return {"enabled": report.enabled, "scenes": report.scenes, "near": near[:MAX_CLOSE_OBJECTS]}
