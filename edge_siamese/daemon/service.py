"""The daemon's life: starts the parts, hands frames, presses and requests to the engine, and keeps going when one fails."""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from edge_siamese import __version__
from edge_siamese.cameras import open_camera
from edge_siamese.cameras.source import FrameSource, SourceState
from edge_siamese.daemon.bringing import Recogniser, learn_anew, open_recogniser
from edge_siamese.daemon.control import ControlServer
from edge_siamese.daemon.engine import Engine
from edge_siamese.daemon.hub import EventHub
from edge_siamese.daemon.notify import Notifier
from edge_siamese.daemon.requests import Requests
from edge_siamese.daemon.settings import Settings, load_settings
from edge_siamese.daemon.sinks import open_sinks
from edge_siamese.errors import ControlError, EdgeSiameseError, SettingsError
from edge_siamese.events import Event
from edge_siamese.installed import InstalledModels
from edge_siamese.panel import Panel, open_panel
from edge_siamese.panel.console import Console
from edge_siamese.panel.grammar import Gesture, PressGrammar
from edge_siamese.panel.signals import Lamp, Signal
from edge_siamese.panel.simulated import SimulatedPanel
from edge_siamese.store import SupportStore

LOG = logging.getLogger(__name__)
T = TypeVar("T")

ENDED, RESTART = 0, 75
"""Exit statuses: all well; and "try again", for a camera that only a new process gets free."""
TURN_S = 0.05
"""The longest wait of one turn, and so the slowest answer to a press or a request."""
RETRY_S = 10.0
"""Between two attempts to bring the engine up."""
STATUS_S = 1.0
FRAMES_OF_A_TRIAL = 10
"""A new model is confirmed after so many frames."""
REPAIRED_S = 60.0
"""For so long the light tells that the store was repaired."""


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
        self.settings = settings
        self.hub = EventHub()
        self.engine: Engine | None = None
        self.source: FrameSource | None = None
        self.console: Console | None = None
        self.fault = "starting"
        """Why there is no engine; empty when there is one."""
        self._config = config
        self._notifier = notifier or Notifier()
        self._clock = clock
        self._started = clock()
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._reloading = threading.Event()
        self._store: SupportStore | None = None
        self._recogniser: Recogniser | None = None
        self._bringing: Iterator[str] | None = None
        self._retry_at = 0.0
        self._after = 0
        self._colour = ""
        self._ready = False
        self._camera_told = ""
        self._status_at = 0.0
        self._stuck = False
        self._lasting_shown: Signal | None = None
        self._repaired_at: float | None = None
        self._simulated: SimulatedPanel | None = None

    # --- from other threads and signal handlers ---

    def call(self, function: Callable[[], T], timeout: float = 30.0) -> T:
        """Run a function between two frames, on the thread that owns engine and store.

        Raises:
            ControlError: the daemon is stopping, or did not come to it in time.
            Whatever the function raises.
        """
        if self._stopping.is_set():
            raise ControlError("the daemon is stopping")
        future: Future[T] = Future()
        self._calls.put((function, future))
        try:
            return future.result(timeout)
        except TimeoutError as error:
            if future.done():
                raise
            raise ControlError(f"the daemon did not come to it in {timeout:g} s") from error

    @property
    def stopping(self) -> bool:
        """Whether the daemon is about to end."""
        return self._stopping.is_set()

    def now(self) -> float:
        """The time, as frames have it, in seconds."""
        return self._clock()

    def stop(self, *_: object) -> None:
        """End soon; also a signal handler."""
        self._stopping.set()

    def reload(self, *_: object) -> None:
        """Read settings and model again soon; also a signal handler."""
        self._reloading.set()

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
        control = ControlServer(self.settings.socket, Requests(self))
        control.start()
        try:
            self.hub.set_sinks(open_sinks(self.settings))
            self._open_panel()
            self._bringing = self._bring_up()
            status = ENDED
            while not self._stopping.is_set():
                ended = self._turn()
                if ended is not None:
                    status = ended
                    break
            return status
        finally:
            self._close(control)

    def _turn(self) -> int | None:
        """One turn of the loop: at most one frame; an exit status if the daemon has to end."""
        now = self._clock()
        if self._reloading.is_set():
            self._reloading.clear()
            self._reload()
        self._step(now)
        self._answer()
        self._feel()
        frame = self.source.next(self._after, TURN_S) if self.source else None
        if frame is not None:
            self._after = frame.number
            if self.engine:
                self.engine.see(frame)
                self._notifier.watchdog()
        elif self.source is None:
            self._stopping.wait(TURN_S)
        now = self._clock()
        if self.engine:
            self.engine.tick(now)
        return self._watch(now)

    def _answer(self) -> None:
        """Do what other threads asked for."""
        while True:
            try:
                function, future = self._calls.get_nowait()
            except queue.Empty:
                return
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

    def _feel(self) -> None:
        """Hand the button's gestures on."""
        if self.console is None:
            return
        for gesture, _ in self.console.gestures():
            if gesture is Gesture.STUCK:
                self._stuck = True
                self.hub.publish(Event("panel", "the button is stuck: it is held, or its line is shorted"))
            elif gesture is Gesture.RELEASED:
                self._stuck = False
            elif self.engine:
                self.engine.gesture(gesture, self._clock())
            else:
                self._show(Signal.FAILED)

    # --- engine ---

    def _step(self, now: float) -> None:
        """Take the bringing up of an engine one step further."""
        if self._bringing is None:
            if self.engine is None and now >= self._retry_at:
                self._bringing = self._bring_up()
            return
        try:
            line = next(self._bringing)
        except StopIteration:
            self._bringing = None
            self._say_ready()
        except EdgeSiameseError as error:
            self._bringing = None
            self._retry_at = now + RETRY_S
            text = str(error)
            if self.engine is not None:
                self.hub.publish(Event("model", f"the former model stays: {text}"))
            elif text != self.fault:
                self.fault = text
                kind = "store" if self._recogniser else "model"
                self.hub.publish(Event("store" if kind == "store" else "model", f"cannot recognise: {text}"))
            self._say_ready()
        else:
            if self.engine is None:
                self.fault = line
            self._notifier.extend_timeout(30)
            self._notifier.status(line)
            if self._clock() - self._started > 5.0:
                self._say_ready()

    def _bring_up(self) -> Iterator[str]:
        """Load model and store and make an engine, in steps; yields what it does."""
        models = InstalledModels(self.settings.models)
        yield "loading the model"
        recogniser = open_recogniser(
            self.settings, models, lambda line: self.hub.publish(Event("model", line))
        )
        encoder = recogniser.encoder
        self._recogniser = recogniser
        if self._store is None:
            yield "opening the store"
            keep = self.settings.registration.keep_crops
            self._store = SupportStore(
                self.settings.store, encoder.model_id, encoder.dimensions, keep_crops=keep
            )
            if self._store.repair:
                self._repaired_at = self._clock()
                self.hub.publish(Event("store", self._store.repair.text))
        yield from learn_anew(self._store, recogniser)
        self._store.use(encoder.model_id, encoder.dimensions)
        former = self.engine
        self.engine = Engine(
            self.settings,
            recogniser.bundle,
            encoder,
            self._store,
            publish=self.hub.publish,
            signal=self._show,
            hold_exposure=self._hold_exposure,
        )
        self.fault = ""
        if former is None or former.encoder.model_id != encoder.model_id:
            count = len(self.engine.support)
            text = f"recognising {count} object{'' if count == 1 else 's'} with {encoder.model_id}, {encoder.reason}"
            if dormant := self._store.dormant:
                text += f"; {dormant} views have no picture to be learned anew from"
            self.hub.publish(Event("started" if former is None else "model", text))
        self._open_camera()

    def _confirm(self) -> None:
        """A model that has worked for a while is no longer on trial."""
        if self.engine and self._recogniser and self._recogniser.installed:
            camera_works = self.engine.frames >= FRAMES_OF_A_TRIAL
            if camera_works or self._clock() - self._started > RETRY_S:
                try:
                    InstalledModels(self.settings.models).confirm()
                except EdgeSiameseError as error:
                    LOG.warning("%s", error)
                self._recogniser = Recogniser(self._recogniser.bundle, self._recogniser.encoder, False)

    def _reload(self) -> None:
        """Read the settings again; what they change is opened anew, and the model in any case."""
        try:
            settings = load_settings(self._config)
        except SettingsError as error:
            self.hub.publish(Event("settings", f"the former settings stay: {error}"))
            return
        before, self.settings = self.settings, settings
        if settings.paths != before.paths:
            self.hub.publish(Event("settings", "new paths are used after a restart"))
        if settings.events != before.events:
            self.hub.set_sinks(open_sinks(settings))
        if settings.panel != before.panel or settings.camera.kind != before.camera.kind:
            self._open_panel()
        if settings.camera != before.camera:
            self._close_camera()
        if self._store and settings.registration.keep_crops != before.registration.keep_crops:
            self._store.keep_crops = settings.registration.keep_crops
        self.hub.publish(Event("settings", "the settings were read again"))
        self._bringing = self._bring_up()

    # --- camera and panel ---

    def _open_camera(self) -> None:
        """Start the camera, unless it runs already and gives the model's colours."""
        assert self.engine is not None
        colour = self.engine.encoder.preprocessing.colour
        if self.source is not None:
            if self._colour == colour:
                return
            self._close_camera()
        camera = self.settings.camera
        press = self._simulated.press if self._simulated else None
        self._after = 0
        self.source = FrameSource(
            lambda: open_camera(camera, colour, press),
            timeout_s=camera.timeout_s,
            rate=camera.rate,
        )
        self._colour = colour
        self.source.start()

    def _close_camera(self) -> None:
        if self.source is not None:
            self.source.close(0.5)
            self.source = None
            if self.engine:
                self.engine.lost(self._clock())

    def _open_panel(self) -> None:
        if self.console is not None:
            self.console.close()
        panel = self.settings.panel
        self._simulated = None
        if panel.kind == "simulated" or (panel.kind == "auto" and self.settings.camera.kind == "synthetic"):
            simulated = self._simulated = SimulatedPanel()
            opener: Callable[[], Panel] = simulated.find
        else:
            opener = lambda: open_panel(panel)  # noqa: E731 - the other branch names one as well
        grammar = PressGrammar(panel.debounce_s, panel.double_s, panel.hold_s, panel.stuck_s)
        self.console = Console(opener, grammar, Lamp())
        self._lasting_shown = None
        self.console.start()

    def _show(self, what: Signal) -> None:
        if self.console is not None:
            self.console.show(what)

    def _hold_exposure(self, held: bool) -> None:
        if self.source is not None:
            self.source.hold_exposure(held)

    # --- watching ---

    def _watch(self, now: float) -> int | None:
        """Tell what changed in camera and panel; an exit status if only a new process helps."""
        state = self.source.state if self.source else None
        self._tell_camera(state, now)
        lasting = self._lasting(state, now)
        if self.console is not None and lasting is not self._lasting_shown:
            self._lasting_shown = lasting
            self.console.lasting(lasting)
        if state is None or state.status in ("absent", "ended"):
            # There is nothing that could be processed: what is supervised here is that it comes back.
            self._notifier.watchdog()
        if now >= self._status_at:
            self._status_at = now + STATUS_S
            self._notifier.status(self.line())
            self._confirm()
        if state and state.status == "ended" and not (self.engine and self.engine.learning):
            return ENDED
        if state and state.stuck_threads >= 2:
            LOG.error("the camera does not come back in this process; starting anew")
            return RESTART
        return None

    def _tell_camera(self, state: SourceState | None, now: float) -> None:
        told = "" if state is None else f"{state.status} {state.reason}".strip()
        if state is None or told == self._camera_told:
            return
        lost = state.status in ("stalled", "absent") and not self._camera_told.startswith(
            ("stalled", "absent")
        )
        self._camera_told = told
        if state.status == "running":
            self.hub.publish(Event("camera", f"the camera runs: {state.description}"))
        elif state.status in ("stalled", "absent"):
            self.hub.publish(Event("camera", f"no frames: {state.reason}", data={"status": state.status}))
            if lost and self.engine:
                self.engine.lost(now)

    def _lasting(self, state: SourceState | None, now: float) -> Signal:
        """What the light shows while nothing passing is shown."""
        if self.engine is None and self._bringing is not None:
            return Signal.STARTING
        if self.engine is None:
            return Signal.FAULT_MODEL if self._recogniser is None else Signal.FAULT_STORE
        if state is not None and state.status in ("stalled", "absent"):
            return Signal.FAULT_CAMERA
        if self._repaired_at is not None and now - self._repaired_at < REPAIRED_S:
            return Signal.FAULT_STORE
        if self._stuck:
            return Signal.STUCK
        return Signal.RECOGNISED if self.engine.present else Signal.READY

    def line(self) -> str:
        """The daemon's state in one line for people."""
        if self.engine is None:
            return self.fault
        state = self.source.state if self.source else None
        if state is None or state.status == "starting":
            return "waiting for the camera"
        if state.status in ("stalled", "absent"):
            return f"no frames: {state.reason}"
        seen = " and ".join(self.engine.present) or "nothing that it knows"
        count = len(self.engine.support)
        return f"sees {seen}; {count} object{'' if count == 1 else 's'}; {state.fps:.1f} frames/s"

    def status(self) -> dict[str, Any]:
        """For JSON: all of it."""
        state = self.source.state if self.source else None
        engine, console = self.engine, self.console
        return {
            "version": __version__,
            "line": self.line(),
            "uptime_s": round(self._clock() - self._started, 1),
            "fault": self.fault,
            "model": None
            if engine is None
            else {
                "model_id": engine.encoder.model_id,
                "runtime": engine.encoder.runtime,
                "precision": engine.encoder.precision,
                "threshold": engine.threshold,
                "threshold_source": engine.threshold_source,
            },
            "objects": 0 if engine is None else len(engine.support),
            "views": 0 if engine is None else len(engine.support.embeddings),
            "present": [] if engine is None else list(engine.present),
            "frames": 0 if engine is None else engine.frames,
            "learning": engine is not None and engine.learning,
            "camera": None
            if state is None
            else {
                "status": state.status,
                "reason": state.reason,
                "description": state.description,
                "captured": state.captured,
                "dropped": state.dropped,
                "restarts": state.restarts,
                "fps": round(state.fps, 2),
            },
            "panel": None
            if console is None
            else {"description": console.description, "problem": console.problem, "stuck": self._stuck},
            "store": None
            if self._store is None
            else {"repair": self._store.repair and self._store.repair.text},
            "paths": {
                "config": str(self._config or ""),
                "state": str(self.settings.state_directory),
                "socket": str(self.settings.socket),
            },
        }

    def _say_ready(self) -> None:
        if not self._ready:
            self._ready = True
            self._notifier.ready(self.line())

    def _close(self, control: ControlServer) -> None:
        """End within a second, whatever hangs."""
        self._stopping.set()
        self._notifier.stopping()
        self.hub.publish(Event("stopping", "the daemon stops"))
        while not self._calls.empty():
            _, future = self._calls.get_nowait()
            future.cancel()
        control.close()
        if self.source is not None:
            self.source.close(0.3)
        if self.console is not None:
            self.console.close()
        if self._store is not None:
            self._store.close()
        self.hub.close(0.3)
