"""Cameras: the protocol, one module for each driver, and the supervisor that keeps a camera running."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Literal

from edge_siamese.cameras.camera import Camera, Frame, RotatedCamera
from edge_siamese.errors import CameraError
from edge_siamese.registry import AUTO, CAMERAS
from edge_siamese.settings import CameraSettings

LOG = logging.getLogger(__name__)

__all__ = ["Camera", "Frame", "open_camera"]


def open_camera(
    settings: CameraSettings,
    color: Literal["gray", "rgb"],
    press: Callable[[bool], None] | None = None,
) -> Camera:
    """Open the configured camera.

    Args:
        settings: kind, size, rate and rotation.
        color: what the encoder reads. A camera may return RGB frames for gray, never the reverse.
        press: called with True and False when the synthetic scene presses and releases the button.

    Raises:
        CameraError: the camera cannot be opened, or its library is not installed.
    """
    kind = _detect(settings) if settings.kind == AUTO else settings.kind
    options = {"press": press, "on_step": LOG.info} if kind == "synthetic" else {}
    camera: Camera = CAMERAS[kind].load()(settings, color, **options)
    return RotatedCamera(camera, settings.rotation) if settings.rotation else camera


def _detect(settings: CameraSettings) -> str:
    """Return the kind of the camera that is connected."""
    from edge_siamese.cameras.picamera2 import list_cameras

    if list_cameras():
        return "picamera2"
    if os.path.exists(settings.device):
        return "usb"
    raise CameraError(
        f"no camera: picamera2 finds none, and there is no {settings.device}; connect a USB camera, or connect the Pi "
        'camera with the power off, or set camera.kind to "synthetic" to try things out'
    )
