"""Camera and panel as the daemon has them: opened as the settings say, watched, and told of when they change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from edge_siamese.cameras import open_camera
from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.supervisor import FrameSource, SourceState
from edge_siamese.events import Event, trouble
from edge_siamese.panel import Panel, open_panel
from edge_siamese.panel.led_signals import Signal
from edge_siamese.panel.panel import SimulatedPanel
from edge_siamese.panel.press_grammar import Gesture, PressGrammar
from edge_siamese.panel.supervisor import PanelSupervisor
from edge_siamese.settings import Settings

MAX_STUCK_THREADS = 2
"""When so many threads hang in the camera's driver, only a new process gets it free."""


class Hardware:
    """One camera and one panel; used from the service's thread."""

    def __init__(self, settings: Settings, publish: Callable[[Event], object]) -> None:
        """Nothing is opened before it is asked for."""
        self.settings = settings
        self._publish = publish
        self.source: FrameSource | None = None
        """The camera; None before there is a model that says which colors it reads."""
        self.console: PanelSupervisor | None = None
        """The panel."""
        self._color = ""
        self._simulated: SimulatedPanel | None = None
        self._after = 0
        self._reported_state = ""
        self._reported_problem: str | None = None
        self.background: Signal | None = None
        """What the light says while nothing passing is shown."""
        self.stuck = False
        """Whether the button is."""

    @property
    def state(self) -> SourceState | None:
        """How the camera is; None before it was opened."""
        return self.source.state if self.source else None

    @property
    def camera_down(self) -> bool:
        """Whether no frames can be expected now."""
        state = self.state
        return state is not None and state.status in ("stalled", "absent")

    @property
    def may_recover(self) -> bool:
        """Whether waiting for a frame makes sense."""
        state = self.state
        return state is not None and state.status != "ended"

    @property
    def needs_restart(self) -> bool:
        """Whether only a new process gets the camera free: a thread that hangs may keep it from all later ones, too."""
        state = self.state
        if state is None or not state.stuck_threads:
            return False
        return state.stuck_threads >= MAX_STUCK_THREADS or state.status == "absent"

    def open_camera(self, color: Literal["gray", "rgb"]) -> None:
        """Start the camera, unless it runs already in these colors."""
        if self.source is not None and self._color == color:
            return
        self.close_camera()
        camera = self.settings.camera
        self.source = FrameSource(
            lambda: open_camera(camera, color, self._press),
            timeout_s=camera.timeout_s + 1.0 / camera.frame_rate,  # some wait until another one is wanted
            rate=camera.frame_rate,
        )
        self._color, self._after, self._reported_state = color, 0, ""
        self.source.start()

    def close_camera(self) -> None:
        """Let the camera go."""
        if self.source is not None:
            self.source.close(0.3)
            self.source = None

    def next_frame(self, timeout: float) -> Frame | None:
        """The newest frame that was not given yet, waiting for it at most so many seconds."""
        frame = self.source.next(self._after, timeout) if self.source else None
        if frame is not None:
            self._after = frame.number
        return frame

    def hold_exposure(self, held: bool) -> None:
        """Keep the camera's exposure, or let it go, from its next frame on."""
        if self.source is not None:
            self.source.hold_exposure(held, timeout=0.0)  # a camera that hangs must not make the daemon wait

    def open_panel(self) -> None:
        """Start the panel; a simulated one for the synthetic scene, whose button the scene presses."""
        if self.console is not None:
            self.console.close()
        panel, self._simulated = self.settings.panel, None
        scene = self.settings.camera.kind == "synthetic"
        opener: Callable[[], Panel] = lambda: open_panel(panel)  # noqa: E731 - or the other one below
        if panel.kind == "simulated" or (panel.kind == "auto" and scene):
            self._simulated = SimulatedPanel()
            opener = self._simulated.reconnect
        grammar = PressGrammar(panel.debounce_s, panel.double_press_s, panel.hold_s, panel.stuck_s)
        self.console = PanelSupervisor(opener, grammar)
        self.background, self.stuck = None, False
        self.console.start()

    def _press(self, closed: bool) -> None:
        """The synthetic scene presses the simulated button that there is now."""
        if self._simulated is not None:
            self._simulated.press(closed)

    def gestures(self) -> list[Gesture]:
        """What was done with the button, but for a stuck one, which is told of here."""
        made: list[Gesture] = []
        for gesture, _ in self.console.gestures() if self.console else ():
            if gesture is Gesture.STUCK:
                self.stuck = True
                self._publish(trouble("panel", "the button is stuck: it is held, or its line is shorted"))
            elif gesture is Gesture.RELEASED:
                self.stuck = False
                self._publish(Event("panel", "the button works again"))
            else:
                made.append(gesture)
        return made

    def show(self, signal: Signal) -> None:
        """Show a passing signal."""
        if self.console is not None:
            self.console.show(signal)

    def show_background(self, signal: Signal) -> None:
        """What the light says while nothing passing is shown."""
        if self.console is not None and signal is not self.background:
            self.background = signal
            self.console.set_background(signal)

    def watch(self) -> bool:
        """Tell what has changed; True if the camera has just been lost."""
        problem = self.console.problem if self.console else None
        if problem != self._reported_problem:
            self._reported_problem = problem
            self._publish(
                trouble("panel", f"no button and no LED: {problem}")
                if problem
                else Event("panel", "the panel works")
            )
        state = self.state
        now = "" if state is None else f"{state.status} {state.reason}"
        if state is None or now == self._reported_state:
            return False
        was_down = self._reported_state.startswith(("stalled", "absent"))
        self._reported_state = now
        if state.status == "running":
            self._publish(Event("camera", f"the camera runs: {state.description}"))
        elif self.camera_down:
            self._publish(trouble("camera", f"no frames: {state.reason}", status=state.status))
        elif state.status == "ended":
            self._publish(Event("camera", f"the camera has ended: {state.reason}"))
        return self.camera_down and not was_down

    def close(self) -> None:
        """Let both go; takes no longer than half a second."""
        self.close_camera()
        if self.console is not None:
            self.console.close(0.2)
