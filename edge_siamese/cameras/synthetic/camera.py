"""Synthetic camera: plays a scene in real time and presses the simulated button."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Literal

from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.synthetic.scene import Scene, demo_scene
from edge_siamese.errors import CameraEnded
from edge_siamese.settings import CameraSettings

MAX_DELAY_SECONDS = 0.02
"""If a press is later than this, the scene is delayed as well, so that the press keeps its length and its object."""


class SyntheticCamera:
    """A camera that plays a scene in real time.

    Args:
        settings: size, rate, and the folder with pictures of objects.
        color: color of the frames.
        press: called with True and False when the button's contact closes and opens, on the capture thread.
        scene: the scene to play; None: the demo scene.
        on_step: called with a line for each step of the scene, on the capture thread.
        clock: returns seconds, like `time.monotonic`.
        sleep: waits for a number of seconds.

    Raises:
        CameraError: the folder has too few pictures, or one cannot be read.
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
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.scene = demo_scene(settings, color) if scene is None else scene
        objects = "drawn symbols" if not settings.path else f"pictures of {settings.path}"
        self.description = f"a synthetic scene of {objects}, {settings.width} x {settings.height}"
        self._press = press or (lambda closed: None)
        self._on_step = on_step or (lambda text: None)
        self._clock, self._sleep = clock, sleep
        self._interval = 1.0 / settings.frame_rate
        self._number = 0
        self._start: float | None = None
        self._announced = -1.0
        self._pressed = -1.0
        self._closed = False
        self._end = math.inf if settings.loop else self.scene.script.end

    def capture(self) -> Frame:
        """See `Camera.capture`; presses that are due before the frame are made at their times.

        Raises:
            CameraEnded: the scene is not repeated, and has ended.
        """
        if self._start is None:
            self._start = self._due = self._clock()
        self._due = max(self._due + self._interval, self._clock())
        while True:
            edge = self.scene.script.next_edge(self._pressed)
            if edge is None or self._start + edge[0] > self._due:
                break
            self._wait_until(self._start + edge[0])
            delay = self._clock() - (self._start + edge[0])
            if delay > MAX_DELAY_SECONDS:
                self._start += delay
            self._announce(edge[0])
            self._pressed, self._closed = edge
            self._press(self._closed)
        if self._due - self._start >= self._end:
            raise CameraEnded("the scene has ended")
        self._wait_until(self._due)
        self._due = max(self._due, self._clock() - self._interval)
        now = self._due - self._start
        self._announce(now)
        self._number += 1
        return Frame(self.scene.frame(now), self._clock(), self._number)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`; does nothing."""

    def close(self) -> None:
        """See `Camera.close`; releases the button."""
        if self._closed:
            self._closed = False
            self._press(False)

    def _wait_until(self, moment: float) -> None:
        now = self._clock()
        if moment > now:
            self._sleep(moment - now)

    def _announce(self, until: float) -> None:
        """Report the steps that have begun since the last call."""
        for _, step in self.scene.script.steps_between(self._announced, until):
            if step.text:
                self._on_step(step.text)
        self._announced = max(self._announced, until)
