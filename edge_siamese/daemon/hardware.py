"""The daemon's camera and panel: opened as configured, watched, and reported by events when their state changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from edge_siamese.cameras import open_camera
from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.supervisor import FrameSource, SourceState
from edge_siamese.events import Event, problem_event
from edge_siamese.panel import Panel, open_panel
from edge_siamese.panel.led_signals import Signal
from edge_siamese.panel.panel import SimulatedPanel
from edge_siamese.panel.press_grammar import Gesture, PressGrammar
from edge_siamese.panel.supervisor import PanelSupervisor
from edge_siamese.settings import Settings

MAX_STUCK_THREADS = 2
"""Number of threads stuck in the camera's driver after which only a new process can free the camera."""


class Hardware:
    """One camera and one panel; used from the service's thread."""

    def __init__(self, settings: Settings, publish: Callable[[Event], object]) -> None:
        """Start with camera and panel closed."""
        self.settings = settings
        self._publish = publish
        self.source: FrameSource | None = None
        """The camera; None until a model determines the colors."""
        self.console: PanelSupervisor | None = None
        """The panel."""
        self._color = ""
        self._simulated: SimulatedPanel | None = None
        self._after = 0
        self._reported_state = ""
        self._reported_problem: str | None = None
        self.background: Signal | None = None
        """The LED signal between temporary ones."""
        self.stuck = False
        """Whether the button is stuck."""

    @property
    def state(self) -> SourceState | None:
        """State of the camera; None before it was opened."""
        return self.source.state if self.source else None

    @property
    def camera_down(self) -> bool:
        """Whether the camera delivers no frames."""
        state = self.state
        return state is not None and state.status in ("stalled", "absent")

    @property
    def may_recover(self) -> bool:
        """Whether frames may still come."""
        state = self.state
        return state is not None and state.status != "ended"

    @property
    def needs_restart(self) -> bool:
        """Whether only a new process can free the camera: a stuck driver thread may block it for all others."""
        state = self.state
        if state is None or not state.stuck_threads:
            return False
        return state.stuck_threads >= MAX_STUCK_THREADS or state.status == "absent"

    def open_camera(self, color: Literal["gray", "rgb"]) -> None:
        """Start the camera, unless it is running with these colors."""
        if self.source is not None and self._color == color:
            return
        self.close_camera()
        camera = self.settings.camera
        self.source = FrameSource(
            lambda: open_camera(camera, color, self._press),
            timeout_s=camera.timeout_s + 1.0 / camera.frame_rate,  # some cameras capture on demand
            rate=camera.frame_rate,
        )
        self._color, self._after, self._reported_state = color, 0, ""
        self.source.start()

    def close_camera(self) -> None:
        """Close the camera."""
        if self.source is not None:
            self.source.close(0.3)
            self.source = None

    def next_frame(self, timeout: float) -> Frame | None:
        """Return the latest frame since the last call, or None; waits up to `timeout` seconds."""
        frame = self.source.next(self._after, timeout) if self.source else None
        if frame is not None:
            self._after = frame.number
        return frame

    def hold_exposure(self, held: bool) -> None:
        """Lock or release the camera's exposure from the next frame on."""
        if self.source is not None:
            self.source.hold_exposure(held, timeout=0.0)  # a stuck camera must not block the daemon

    def open_panel(self) -> None:
        """Start the panel; a simulated one for the synthetic scene, which presses its button."""
        if self.console is not None:
            self.console.close()
        panel, self._simulated = self.settings.panel, None
        scene = self.settings.camera.kind == "synthetic"
        opener: Callable[[], Panel] = lambda: open_panel(panel)  # noqa: E731
        if panel.kind == "simulated" or (panel.kind == "auto" and scene):
            self._simulated = SimulatedPanel()
            opener = self._simulated.reconnect
        grammar = PressGrammar(panel.debounce_s, panel.double_press_s, panel.hold_s, panel.stuck_s)
        self.console = PanelSupervisor(opener, grammar)
        self.background, self.stuck = None, False
        self.console.start()

    def _press(self, closed: bool) -> None:
        """Press or release the simulated button, for the synthetic scene."""
        if self._simulated is not None:
            self._simulated.press(closed)

    def gestures(self) -> list[Gesture]:
        """Return the gestures since the last call; a stuck button is reported by an event instead."""
        gestures: list[Gesture] = []
        for gesture, _ in self.console.gestures() if self.console else ():
            if gesture is Gesture.STUCK:
                self.stuck = True
                self._publish(
                    problem_event("panel", "the button is stuck: it is held, or its line is shorted")
                )
            elif gesture is Gesture.RELEASED:
                self.stuck = False
                self._publish(Event("panel", "the button works again"))
            else:
                gestures.append(gesture)
        return gestures

    def show(self, signal: Signal) -> None:
        """Show a temporary signal."""
        if self.console is not None:
            self.console.show(signal)

    def show_background(self, signal: Signal) -> None:
        """Set the LED signal to show between temporary ones."""
        if self.console is not None and signal is not self.background:
            self.background = signal
            self.console.set_background(signal)

    def watch(self) -> bool:
        """Publish changes of state; returns True if the camera has just been lost."""
        problem = self.console.problem if self.console else None
        if problem != self._reported_problem:
            self._reported_problem = problem
            self._publish(
                problem_event("panel", f"no button and no LED: {problem}")
                if problem
                else Event("panel", "the panel is working")
            )
        state = self.state
        if state is None:
            return False
        current = f"{state.status} {state.reason}"
        if current == self._reported_state:
            return False
        was_down = self._reported_state.startswith(("stalled", "absent"))
        self._reported_state = current
        if state.status == "running":
            self._publish(Event("camera", f"the camera is running: {state.description}"))
        elif self.camera_down:
            self._publish(problem_event("camera", f"no frames: {state.reason}", status=state.status))
        elif state.status == "ended":
            self._publish(Event("camera", f"the camera has ended: {state.reason}"))
        return self.camera_down and not was_down

    def camera_report(self) -> dict[str, Any] | None:
        """Describe the camera as JSON values; None before it was opened."""
        state = self.state
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

    def panel_report(self) -> dict[str, Any] | None:
        """Describe the panel as JSON values; None before it was opened."""
        if self.console is None:
            return None
        return {
            "description": self.console.description,
            "problem": self.console.problem,
            "stuck": self.stuck,
        }

    def close(self) -> None:
        """Close both within half a second."""
        self.close_camera()
        if self.console is not None:
            self.console.close(0.2)
