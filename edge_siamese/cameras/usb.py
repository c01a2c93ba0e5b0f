"""USB camera: a V4L2 device."""

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
"""Time between two reads while there is no frame."""
INTRA_ONLY_CODECS = ("rawvideo", "mjpeg")
"""Codecs whose packets are whole pictures, so that one can be dropped without decoding it."""


class UsbCamera:
    """A V4L2 device.

    The exposure cannot be held: a USB camera whose automatic exposure is switched off jumps to another value, instead of
    keeping the current one.

    Args:
        settings: device, size, rate and timeout.
        color: color of the frames.
        open: opens the device; see `open_device`.
        clock: returns seconds, like `time.monotonic`.
        sleep: waits for a number of seconds.

    Raises:
        CameraError: the device cannot be opened.
    """

    def __init__(
        self,
        settings: CameraSettings,
        color: Literal["gray", "rgb"],
        open: Callable[..., Video] = open_device,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._timeout_s = settings.timeout_s
        self._clock, self._sleep = clock, sleep
        size = (settings.width, settings.height)
        self._video = open(settings.device, size, settings.frame_rate, settings.timeout_s, color)
        self._number = 0
        # Many cameras support only 30 frames per second, and decoding unused frames would occupy a core. With other codecs
        # every frame has to be decoded, and the supervisor drops those beyond the rate.
        self._rate = settings.frame_rate if self._video.codec in INTRA_ONLY_CODECS else None
        self._reset_limit()

    def _reset_limit(self) -> None:
        self._limit = None if self._rate is None else RateLimit(self._rate)

    @property
    def description(self) -> str:
        """See `Camera.description`."""
        width, height = self._video.size
        return f"the camera {self._video.name}, {width} x {height} {self._video.codec}"

    def capture(self) -> Frame:
        """See `Camera.capture`."""
        deadline = self._clock() + self._timeout_s
        while True:
            packet = self._video.packet()
            now = self._clock()
            if packet is not None:
                self._number += 1
                if self._limit is not None and not self._limit.admits(now):
                    deadline = now + self._timeout_s  # it delivers frames, most of which are not needed
                else:
                    picture = self._video.decode(packet)
                    if picture is not None:
                        return Frame(picture.pixels, now, self._number)
                    self._reset_limit()  # the next frame replaces a damaged one
            if now >= deadline:
                raise CameraStalled(
                    f"{self._video.name} delivered no frame within {self._timeout_s:g} s; reconnect it"
                )
            if packet is None:
                self._sleep(POLL_SECONDS)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`; does nothing."""

    def close(self) -> None:
        """See `Camera.close`."""
        self._video.close()
