"""The camera protocol, its frames, a fake camera, and a rotation for any camera."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import CameraEnded
from edge_siamese.recognition.imaging import Bytes


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a camera."""

    pixels: npt.NDArray[Any]
    """uint8 (h, w) gray or (h, w, 3) RGB, not to be written to."""
    time: float
    """`time.monotonic()` of the capture, in seconds."""
    number: int
    """Position among the frames that the camera captured, from 1; a gap means that frames were dropped."""


class Camera(Protocol):
    """A source of frames, used from one thread."""

    @property
    def description(self) -> str:
        """The camera and the size of its frames, in one line."""

    def capture(self) -> Frame:
        """Wait for the next frame. Frames that came between two calls are dropped, not queued.

        Raises:
            CameraEnded: a recording has ended.
            CameraError: there was no frame in time, or the camera is gone.
        """

    def hold_exposure(self, held: bool) -> None:
        """Lock exposure and white balance, or unlock them; does nothing if the camera has no such controls."""

    def close(self) -> None:
        """Release the camera; may be called twice."""


class RotatedCamera:
    """A camera whose frames are rotated clockwise by 90, 180 or 270 degrees."""

    def __init__(self, camera: Camera, degrees: int) -> None:
        self.camera = camera
        self._degrees = degrees

    @property
    def description(self) -> str:
        """See `Camera.description`."""
        return f"{self.camera.description}, rotated by {self._degrees}°"

    def capture(self) -> Frame:
        """See `Camera.capture`."""
        frame = self.camera.capture()
        pixels = np.ascontiguousarray(np.rot90(frame.pixels, -self._degrees // 90))
        return Frame(pixels, frame.time, frame.number)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`."""
        self.camera.hold_exposure(held)

    def close(self) -> None:
        """See `Camera.close`."""
        self.camera.close()


class FakeCamera:
    """A camera that returns given pictures, for demos and tests; an exception among them is raised.

    Args:
        frames: uint8 pictures of any sizes, or a function that returns the picture for a frame's number, from 1.
        interval: seconds between two frames; 0: no waiting.
        clock: returns seconds, like `time.monotonic`.
        sleep: waits for a number of seconds.
        description: see `Camera.description`.
    """

    def __init__(
        self,
        frames: Iterable[Bytes | Exception] | Callable[[int], Bytes | Exception],
        *,
        interval: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        description: str = "a fake camera",
    ) -> None:
        self.description = description
        self.closed = False
        self.holds: list[bool] = []
        """Arguments of the calls to `hold_exposure`."""
        self._frames = _numbered(frames) if callable(frames) else iter(frames)
        self._interval, self._clock, self._sleep = interval, clock, sleep
        self._number = 0

    def capture(self) -> Frame:
        """See `Camera.capture`; raises `CameraEnded` after the last picture."""
        if self._interval and self._number:
            self._sleep(self._interval)
        pixels = next(self._frames, None)
        if pixels is None:
            raise CameraEnded(f"{self.description} has shown all of its {self._number} frames")
        if isinstance(pixels, Exception):
            raise pixels
        self._number += 1
        return Frame(pixels, self._clock(), self._number)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`; only recorded."""
        self.holds.append(held)

    def close(self) -> None:
        """See `Camera.close`."""
        self.closed = True


def _numbered(frames: Callable[[int], Bytes | Exception]) -> Iterator[Bytes | Exception]:
    number = 0
    while True:
        number += 1
        yield frames(number)
