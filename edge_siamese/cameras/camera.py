"""What every camera offers: frames, bounded in time, and an exposure that can be held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture of a camera."""

    pixels: npt.NDArray[Any]
    """uint8 (h, w) gray or (h, w, 3) RGB; nobody writes into it."""
    time: float
    """`time.monotonic()` when it was captured, in seconds."""
    number: int
    """Counts the frames that the camera captured, from 1; a gap means frames that were dropped."""


class Camera(Protocol):
    """A source of frames; used from one thread."""

    @property
    def description(self) -> str:
        """One line for people: which camera, which size."""

    def capture(self) -> Frame:
        """Wait for the next frame; what came while nobody waited is dropped, never queued.

        Raises:
            CameraEnded: a recording has come to its end.
            CameraError: there is no frame within the camera's time, or the camera is gone.
        """

    def hold_exposure(self, held: bool) -> None:
        """Keep exposure and white balance as they are, or let them adapt again; nothing where the camera cannot."""

    def close(self) -> None:
        """Let the camera go; may be called twice."""
