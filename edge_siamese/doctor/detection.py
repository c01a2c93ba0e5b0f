"""The cameras and buttons that are connected to this machine. Nothing is opened that a running daemon uses."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edge_siamese.errors import PanelError
from edge_siamese.panel.gpio import GpioNotInstalled, find_chip
from edge_siamese.panel.kernel_input import find_input
from edge_siamese.registry import CAMERAS
from edge_siamese.settings import PanelSettings
from edge_siamese.system.board import Board

LIST_TIMEOUT_SECONDS = 25.0

# In another process: libcamera prints, starts threads, and may hang.
_LIST_CAMERAS = """
from edge_siamese.cameras.picamera2 import list_cameras
print("cameras:", "|".join(list_cameras()))
"""


@dataclass(frozen=True)
class FoundDevice:
    """A camera or a button."""

    kind: str
    """Value of `kind` in `[camera]` or `[panel]`."""
    description: str
    device: str = ""
    """Value of `device` in `[camera]`, for a V4L2 device."""
    problem: str = ""
    """Why it cannot be used yet, and what to do; empty if it can."""


def find_cameras(root: Path, board: Board) -> list[FoundDevice]:
    """Return the connected cameras: those of libcamera, then V4L2 devices.

    Args:
        root: root of the file system.
        board: this machine. The V4L2 devices of a Raspberry Pi's own image processor are not cameras.
    """
    found = []
    if find_spec("picamera2") is not None:
        found = [
            FoundDevice("picamera2", f"the Raspberry Pi camera {name}") for name in list_libcamera() or []
        ]
    library = CAMERAS["usb"]
    missing = "" if find_spec("av") is not None else f"PyAV is not installed: {library.install}"
    for path in sorted((root / "dev").glob("video*"), key=_number):
        if _is_capture_device(root, path, only_usb=board.is_raspberry_pi):
            name = _stable_name(root, path)
            found.append(FoundDevice("usb", f"{device_name(root, path)} at {name}", name, missing))
    return found


def find_buttons(root: Path, board: Board, settings: PanelSettings) -> list[FoundDevice]:
    """Return the connected buttons: an input device, then the GPIO header of a Raspberry Pi.

    Args:
        root: root of the file system.
        board: this machine.
        settings: names of the input device and lines.
    """
    found = []
    if path := find_input(settings.input_device, root / "sys", root / "dev"):
        found.append(FoundDevice("input", f'the input device "{settings.input_device}" ({path.name})'))
    try:
        _, label = find_chip(settings.chip, root / "dev")
    except (GpioNotInstalled, PanelError) as error:
        if board.is_raspberry_pi:
            found.append(FoundDevice("gpio", "the GPIO header", problem=str(error)))
    else:
        text = f"a button on GPIO {settings.button_line} and an LED on GPIO {settings.led_line} ({label})"
        found.append(FoundDevice("gpio", text))
    return found


def list_libcamera() -> list[str] | None:
    """Return the models of the cameras that libcamera finds; None if it does not answer."""
    try:
        done = subprocess.run(
            (sys.executable, "-c", _LIST_CAMERAS),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIST_TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    for line in done.stdout.splitlines():
        if line.startswith("cameras:"):
            return [name.strip() for name in line.removeprefix("cameras:").split("|") if name.strip()]
    return None


def device_name(root: Path, device: Path) -> str:
    """Return the name that a V4L2 device reports."""
    with suppress(OSError):
        return (_entry(root, device) / "name").read_text("utf-8", "replace").strip()
    return "unknown model"


def _entry(root: Path, device: Path) -> Path:
    return root / "sys" / "class" / "video4linux" / Path(os.path.realpath(device)).name


def _is_capture_device(root: Path, device: Path, only_usb: bool) -> bool:
    """Whether a V4L2 device delivers pictures; the later ones of a USB camera deliver metadata."""
    entry = _entry(root, device)
    with suppress(OSError):
        if (entry / "index").read_text("ascii", "replace").strip() != "0":
            return False
    return not only_usb or "/usb" in os.path.realpath(entry)


def _stable_name(root: Path, device: Path) -> str:
    """Return the name in /dev/v4l/by-id, which stays the same when cameras are unplugged; else that of the device."""
    target = os.path.realpath(device)
    for link in sorted((root / "dev/v4l/by-id").glob("*")):
        if os.path.realpath(link) == target:
            return f"/{link.relative_to(root)}"
    return f"/{device.relative_to(root)}"


def _number(path: Path) -> tuple[int, str]:
    digits = path.name.removeprefix("video")
    return (int(digits) if digits.isdecimal() else sys.maxsize, path.name)
