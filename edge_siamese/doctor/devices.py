"""Checks of camera, button and LED, and of who may open their devices."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from edge_siamese.doctor.findings import SERVICE, SUDO, Account, Finding, Level, Scene, group_name
from edge_siamese.errors import PanelError

LIST_TIMEOUT_SECONDS = 25.0
HIDDEN = "a daemon that does not answer may be using it"
GROUPS = ("video", "render", "gpio", "input")
"""Groups that devices belong to; what belongs to another one needs a udev rule."""

# In a process of its own: libcamera prints, starts threads, and may hang.
_LIST = """
from edge_siamese.cameras.picamera2 import list_cameras
print("cameras:", "|".join(list_cameras()))
"""


def permissions(scene: Scene) -> Iterator[Finding]:
    """Which devices the daemon needs and may not open."""
    denied: dict[str, list[Path]] = {}
    allowed = 0
    for path in _devices(scene):
        with suppress(OSError):
            if scene.account.may(path):
                allowed += 1
            else:
                denied.setdefault(group_name(path.stat().st_gid), []).append(path)
    level: Level = "error" if scene.board.is_raspberry_pi else "warning"
    for group, paths in denied.items():
        names = ", ".join(map(str, paths[:4])) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
        yield Finding(
            "permissions",
            level,
            f"{scene.account.name} may not open {names} (group {group})",
            _permission(scene.account, group),
        )
    if not denied:
        text = (
            f"{scene.account.name} may open all {allowed} devices"
            if allowed
            else "there are no devices to open"
        )
        yield Finding("permissions", "ok", text)


def _permission(account: Account, group: str) -> str:
    if group not in GROUPS:
        return (
            "install systemd/99-edge-siamese.rules to /etc/udev/rules.d, then: "
            "sudo udevadm control --reload && sudo udevadm trigger"
        )
    after = f"sudo systemctl restart {SERVICE}" if account.is_service else "log in anew"
    return f"sudo usermod -aG {group} {account.name}, then {after}"


def _devices(scene: Scene) -> list[Path]:
    """What the daemon opens with these settings."""
    devices, settings = scene.root / "dev", scene.settings
    patterns: list[str] = []
    if settings.camera.kind in ("auto", "picamera2") and scene.board.is_raspberry_pi:
        patterns += ["video*", "media*", "dma_heap/*"]
    elif settings.camera.kind in ("auto", "usb"):
        patterns += ["video*"]
    if settings.panel.kind == "gpio" or (settings.panel.kind == "auto" and scene.board.is_raspberry_pi):
        patterns += ["gpiochip*"]
    found = [path for pattern in patterns for path in sorted(devices.glob(pattern))]
    if settings.panel.kind in ("auto", "input"):
        from edge_siamese.panel.kernel_input import find_input

        if button := find_input(settings.panel.input_device, scene.root / "sys", devices):
            found.append(Path(button))
    return found


def camera(scene: Scene) -> Iterator[Finding]:
    """The camera; of a running daemon it is only heard, for a camera has one user."""
    settings = scene.settings.camera
    if scene.daemon is not None:
        yield _camera_of(scene)
    elif settings.kind == "synthetic":
        yield Finding("camera", "ok", "a scene that is drawn")
    elif settings.kind == "files":
        there = Path(settings.path).exists()
        yield Finding(
            "camera",
            "ok" if there else "error",
            f"{settings.path}{'' if there else ' is not there'}",
            "" if there else "correct `path` in [camera]",
        )
    elif scene.daemon_may_run:
        yield Finding("camera", "unknown", HIDDEN, SUDO)
    elif settings.kind == "usb":
        yield _usb(scene)
    else:
        yield _pi_camera(scene)


def _camera_of(scene: Scene) -> Finding:
    found = (scene.daemon or {}).get("camera")
    if not found:
        return Finding("camera", "unknown", "the daemon has not opened it yet", "look again in a minute")
    status, reason = str(found.get("status")), str(found.get("reason") or "")
    description = str(found.get("description") or "the camera")
    if status == "running":
        return Finding("camera", "ok", f"{description}: {found.get('fps', 0):.1f} frames a second")
    if status == "starting":
        return Finding("camera", "unknown", f"{description} is just being opened", "look again in a minute")
    remedy = "check its cable, and what else uses it; the daemon opens it when it is there again"
    return Finding("camera", "error", f"{status}: {reason or description}", remedy)


def _pi_camera(scene: Scene) -> Finding:
    """A camera of libcamera; with the kind `auto`, else a V4L2 device."""
    alone = scene.settings.camera.kind == "picamera2"
    if find_spec("picamera2") is None:
        if not alone and (Path(scene.settings.camera.device).exists() or not scene.board.is_raspberry_pi):
            return _usb(scene)
        return Finding(
            "camera",
            "error",
            "picamera2 is not installed for this interpreter",
            "sudo apt install python3-picamera2, and make the environment with --system-site-packages",
        )
    cameras = _listed()
    if cameras:
        return Finding("camera", "ok", f"libcamera lists {', '.join(cameras)}")
    if not alone and Path(scene.settings.camera.device).exists():
        return _usb(scene)
    if cameras is None:
        return Finding(
            "camera",
            "error",
            "libcamera did not list its cameras",
            "see what it says: rpicam-hello --list-cameras",
        )
    return Finding(
        "camera",
        "error",
        "libcamera finds no camera",
        "check the cable's seat and side, and that config.txt names this camera (firmware_configs/install.sh); reboot, "
        "then: rpicam-hello --list-cameras",
    )


def _listed() -> list[str] | None:
    """Cameras that libcamera sees; None if it does not say."""
    try:
        done = subprocess.run(
            (sys.executable, "-c", _LIST),
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


def _usb(scene: Scene) -> Finding:
    device = Path(scene.settings.camera.device)
    if not device.exists():
        others = [f"{path} ({_name(scene, path)})" for path in sorted((scene.root / "dev").glob("video*"))]
        there = f"there is {', '.join(others)}" if others else "there is no V4L2 device at all"
        return Finding(
            "camera",
            "error",
            f"no camera: {device} is not there; {there}",
            'plug one in, or set `device` in [camera]; to try things out: kind = "synthetic"',
        )
    if holder := _holder(scene, device):
        return Finding(
            "camera", "error", f"{device} is used by {holder}", "stop that program; a camera has one user"
        )
    if not scene.account.may(device):
        return Finding(
            "camera",
            "error",
            f"{device} may not be opened by {scene.account.name}",
            _permission(scene.account, group_name(device.stat().st_gid)),
        )
    return Finding("camera", "ok", f"{device}: {_name(scene, device)}")


def _name(scene: Scene, device: Path) -> str:
    """What a V4L2 device calls itself."""
    name = Path(os.path.realpath(device)).name
    with suppress(OSError):
        return (
            (scene.root / "sys" / "class" / "video4linux" / name / "name")
            .read_text("utf-8", "replace")
            .strip()
        )
    return "of unknown kind"


def _holder(scene: Scene, device: Path) -> str:
    """The process that has a device open, as far as this user may see it; empty if none does."""
    real = os.path.realpath(device)
    for folder in sorted((scene.root / "proc").glob("[0-9]*")):
        with suppress(OSError):
            for descriptor in (folder / "fd").iterdir():
                if os.readlink(descriptor) == real:
                    name = (folder / "comm").read_text("utf-8", "replace").strip()
                    return f"process {folder.name} ({name})"
    return ""


def panel(scene: Scene) -> Iterator[Finding]:
    """Button and LED; of a running daemon they are only heard."""
    remedy = 'correct [panel] in the settings, or the overlays in config.txt; without a button: kind = "none"'
    if scene.daemon is not None:
        found = scene.daemon.get("panel") or {}
        if problem := found.get("problem"):
            yield Finding("panel", "error", str(problem), remedy)
        elif found.get("stuck"):
            yield Finding(
                "panel", "error", "the button is held down", "let it go, or look for a short circuit"
            )
        else:
            yield Finding("panel", "ok", str(found.get("description") or "none"))
        return
    if scene.daemon_may_run:
        yield Finding("panel", "unknown", HIDDEN, SUDO)
        return
    from edge_siamese.panel import open_panel

    root = scene.root
    try:
        opened = open_panel(
            scene.settings.panel, sysfs=root / "sys", devices=root / "dev", proc=root / "proc"
        )
    except PanelError as error:
        yield Finding("panel", "error", str(error), remedy)
        return
    description = opened.description
    opened.close()
    # With the kind `auto`, a board with a header and no library for it has no button: nobody has asked for that.
    missing = (
        scene.settings.panel.kind == "auto" and scene.board.is_raspberry_pi and "not installed" in description
    )
    yield Finding("panel", "warning" if missing else "ok", description, remedy if missing else "")
