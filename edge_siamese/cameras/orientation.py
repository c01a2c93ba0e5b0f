"""Turns the pictures of a camera that is mounted otherwise: the one place where they are turned."""

from __future__ import annotations

import numpy as np

from edge_siamese.cameras.camera import Camera, Frame


class TurnedCamera:
    """A camera whose pictures are turned clockwise by 90, 180 or 270 degrees."""

    def __init__(self, camera: Camera, turn: int) -> None:
        self.camera = camera
        self._quarters = turn // 90
        self._turn = turn

    @property
    def description(self) -> str:
        """See `Camera.description`."""
        return f"{self.camera.description}, turned by {self._turn}°"

    def capture(self) -> Frame:
        """See `Camera.capture`."""
        frame = self.camera.capture()
        pixels = np.ascontiguousarray(np.rot90(frame.pixels, -self._quarters))
        return Frame(pixels, frame.time, frame.number)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`."""
        self.camera.hold_exposure(held)

    def close(self) -> None:
        """See `Camera.close`."""
        self.camera.close()
