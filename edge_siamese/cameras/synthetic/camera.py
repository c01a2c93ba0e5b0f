"""Plays a synthetic scene in the place of a camera, and presses the simulated button while it does."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal

from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.synthetic.scene import Scene, demo_scene
from edge_siamese.errors import CameraEnded
from edge_siamese.settings import CameraSettings

LATE_SECONDS = 0.02
"""A press that comes later than so makes the scene wait: its length, and what lies before the camera, stay true."""


class SyntheticCamera:
    """A scene, by the clock.

    Args:
        settings: size, rate, and the folder of the objects' pictures.
        color: what frames are.
        press: told when the button's contact closes (True) and opens (False), from the thread that captures.
        scene: another scene than that of the demo.
        on_step: told in one line what happens, when it happens; from the thread that captures.
        clock: `time.monotonic`, or a test's own.
        pause: waits that many seconds.

    Raises:
        CameraError: the folder has too few pictures, or one that cannot be read.
    """

    def __init__(
        self,
        settings: CameraSettings,
        color: Literal["gray", "rgb"],
        press: Callable[[bool], None] | None = None,
        *,
        scene: Scene | None = None,
        on_step: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self.scene = demo_scene(settings, color) if scene is None else scene
        objects = "drawn symbols" if not settings.path else f"pictures of {settings.path}"
        self.description = f"a synthetic scene of {objects}, {settings.width} x {settings.height}"
        self._press = press or (lambda closed: None)
        self._tell = on_step or (lambda text: None)
        self._clock, self._pause = clock, pause
        self._interval = 1.0 / settings.frame_rate
        self._number = 0
        self._start: float | None = None
        self._told = -1.0
        self._pressed = -1.0
        self._closed = False
        self._ends = math.inf if settings.loop else self.scene.script.end

    def capture(self) -> Frame:
        """See `Camera.capture`; presses that are due meanwhile are made at their times.

        Raises:
            CameraEnded: the settings let the scene be played once, and that is done.
        """
        if self._start is None:
            self._start = self._due = self._clock()
        self._due = max(self._due + self._interval, self._clock())
        while True:
            edge = self.scene.script.next_edge(self._pressed)
            if edge is None or self._start + edge[0] > self._due:
                break
            self._wait_until(self._start + edge[0])
            late = self._clock() - (self._start + edge[0])
            if late > LATE_SECONDS:
                self._start += late
            self._happen(edge[0])
            self._pressed, self._closed = edge
            self._press(self._closed)
        if self._due - self._start >= self._ends:
            raise CameraEnded("the scene has come to its end")
        self._wait_until(self._due)
        self._due = max(self._due, self._clock() - self._interval)
        now = self._due - self._start
        self._happen(now)
        self._number += 1
        return Frame(self.scene.frame(now), self._clock(), self._number)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`; nothing here."""

    def close(self) -> None:
        """See `Camera.close`; the button is let go."""
        if self._closed:
            self._closed = False
            self._press(False)

    def _wait_until(self, moment: float) -> None:
        now = self._clock()
        if moment > now:
            self._pause(moment - now)

    def _happen(self, until: float) -> None:
        """Tell what has begun since it was told last."""
        for _, step in self.scene.script.happenings(self._told, until):
            if step.text:
                self._tell(step.text)
        self._told = max(self._told, until)
