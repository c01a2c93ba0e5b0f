"""A camera of arrays, for tests and for trying things out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from edge_siamese.cameras.camera import Frame
from edge_siamese.errors import CameraEnded
from edge_siamese.recognition.imaging import Bytes

Shot = Bytes | Exception


class FakeCamera:
    """Shows given pictures one after the other; an exception among them is raised in its place.

    Args:
        frames: uint8 pictures of any sizes, or a function from a frame's number (from 1) to a picture.
        interval: seconds between two frames; 0: as fast as they are asked for.
        clock: `time.monotonic`, or a test's own.
        pause: waits that many seconds.
    """

    def __init__(
        self,
        frames: Iterable[Shot] | Callable[[int], Shot],
        *,
        interval: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
        description: str = "a fake camera",
    ) -> None:
        self.description = description
        self.closed = False
        self.holds: list[bool] = []
        """What `hold_exposure` was called with."""
        self._shots: Iterator[Shot] = _numbered(frames) if callable(frames) else iter(frames)
        self._interval, self._clock, self._pause = interval, clock, pause
        self._number = 0

    def capture(self) -> Frame:
        """See `Camera.capture`; `CameraEnded` after the last picture."""
        if self._interval and self._number:
            self._pause(self._interval)
        shot = next(self._shots, None)
        if shot is None:
            raise CameraEnded(f"{self.description} has shown all of its {self._number} frames")
        if isinstance(shot, Exception):
            raise shot
        self._number += 1
        return Frame(shot, self._clock(), self._number)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`; remembered only."""
        self.holds.append(held)

    def close(self) -> None:
        """See `Camera.close`."""
        self.closed = True


def _numbered(frames: Callable[[int], Shot]) -> Iterator[Shot]:
    number = 0
    while True:
        number += 1
        yield frames(number)
