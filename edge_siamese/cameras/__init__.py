"""Cameras: where frames come from."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Literal

from edge_siamese.cameras.camera import Camera, Frame
from edge_siamese.errors import CameraError
from edge_siamese.settings import CameraSettings

LOG = logging.getLogger(__name__)

__all__ = ["Camera", "Frame", "open_camera"]


def open_camera(
    settings: CameraSettings,
    color: Literal["gray", "rgb"],
    press: Callable[[bool], None] | None = None,
) -> Camera:
    """Open the camera that the settings name.

    Args:
        settings: which one, how large, how fast, how it is turned.
        color: what the encoder reads; a camera may give more than that, never less.
        press: the simulated button that the synthetic scene presses.

    Raises:
        CameraError: it cannot be opened, or its library is not installed.
    """
    camera = _open(settings, color, press)
    if not settings.rotation:
        return camera
    from edge_siamese.cameras.orientation import TurnedCamera

    return TurnedCamera(camera, settings.rotation)


def _open(
    settings: CameraSettings, color: Literal["gray", "rgb"], press: Callable[[bool], None] | None
) -> Camera:
    kind = _found(settings) if settings.kind == "auto" else settings.kind
    if kind == "picamera2":
        from edge_siamese.cameras.picamera2 import Picamera2Camera

        return Picamera2Camera(settings, color)
    if kind == "usb":
        from edge_siamese.cameras.usb import UsbCamera

        return UsbCamera(settings, color)
    if kind == "files":
        from edge_siamese.cameras.files import FilesCamera

        return FilesCamera(settings, color)
    from edge_siamese.cameras.synthetic.camera import SyntheticCamera

    return SyntheticCamera(settings, color, press, on_step=LOG.info)


def _found(settings: CameraSettings) -> str:
    """Which kind of camera is here."""
    from edge_siamese.cameras.picamera2 import list_cameras

    if list_cameras():
        return "picamera2"
    if os.path.exists(settings.device):
        return "usb"
    raise CameraError(
        f"no camera: picamera2 finds none, and there is no {settings.device}; plug a USB camera in, connect the Pi's "
        'with the power off, or set camera.kind to "synthetic" to try things out'
    )
