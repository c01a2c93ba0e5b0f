"""USB cameras and other V4L2 devices."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.supervisor import RateLimit
from edge_siamese.cameras.video import Video, open_device
from edge_siamese.errors import CameraStalled
from edge_siamese.settings import CameraSettings

POLL_SECONDS = 0.01
"""How often to look for a frame: between two of a camera's 30 a second, six times."""
# Each of their packets is a whole picture, so that one can be left out without decoding it.
INTRA_ONLY = ("rawvideo", "mjpeg")


class UsbCamera:
    """A V4L2 device.

    Its exposure is not held: a USB camera that is told to stop adapting goes to a value of its own, not to the one
    that it had adapted to.

    Args:
        settings: device, size, rate and time.
        color: what frames are.
        open: opens the device; see `open_device`.
        clock: `time.monotonic`, or a test's own.
        pause: waits that many seconds.

    Raises:
        CameraError: the device cannot be opened.
    """

    def __init__(
        self,
        settings: CameraSettings,
        color: Literal["gray", "rgb"],
        open: Callable[..., Video] = open_device,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._timeout_s = settings.timeout_s
        self._clock, self._pause = clock, pause
        size = (settings.width, settings.height)
        self._video = open(settings.device, size, settings.frame_rate, settings.timeout_s, color)
        self._number = 0
        # Many cameras know 30 frames a second alone, and decoding what nobody looks at costs a core. Where all have to
        # be decoded, the frame source leaves out what is beyond the rate.
        self._rate = settings.frame_rate if self._video.codec in INTRA_ONLY else None
        self._begin_limit()

    def _begin_limit(self) -> None:
        self._limit = None if self._rate is None else RateLimit(self._rate)

    @property
    def description(self) -> str:
        """See `Camera.description`."""
        width, height = self._video.size
        return f"the camera {self._video.name}, {width} x {height} {self._video.codec}"

    def capture(self) -> Frame:
        """See `Camera.capture`."""
        until = self._clock() + self._timeout_s
        while True:
            packet = self._video.packet()
            now = self._clock()
            if packet is not None:
                self._number += 1
                if self._limit is not None and not self._limit.admits(now):
                    until = now + self._timeout_s  # it gives frames, of which few are wanted
                else:
                    picture = self._video.decode(packet)
                    if picture is not None:
                        return Frame(picture.pixels, now, self._number)
                    self._begin_limit()  # so that the next one stands in for a damaged one
            if now >= until:
                raise CameraStalled(
                    f"{self._video.name} gave no frame within {self._timeout_s:g} s; plug it in anew"
                )
            if packet is None:
                self._pause(POLL_SECONDS)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`; nothing, see above."""

    def close(self) -> None:
        """See `Camera.close`."""
        self._video.close()
