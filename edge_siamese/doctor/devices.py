"""Checks of camera, panel and the permissions of their devices."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from edge_siamese.doctor.detection import device_name, list_libcamera
from edge_siamese.doctor.findings import RUN_AS_ROOT, SERVICE, Account, Context, Finding, Level, group_name
from edge_siamese.errors import PanelError
from edge_siamese.registry import AUTO, CAMERAS
from edge_siamese.system.command import command_problem
from edge_siamese.system.processes import process_using

IN_USE = "a daemon that does not respond may be using it"
GROUPS = ("video", "render", "gpio", "input", "audio")
"""Groups that own devices; a device of another group needs a udev rule."""
SOUND_PACKAGES = {"aplay": "alsa-utils", "espeak-ng": "espeak-ng"}
"""Debian packages of the commands that the settings suggest."""


def check_permissions(context: Context) -> Iterator[Finding]:
    """Whether the daemon's account may open the devices that it needs."""
    denied: dict[str, list[Path]] = {}
    allowed = 0
    for path in _needed_devices(context):
        with suppress(OSError):
            if context.account.may(path):
                allowed += 1
            else:
                denied.setdefault(group_name(path.stat().st_gid), []).append(path)
    level: Level = "error" if context.board.is_raspberry_pi else "warning"
    for group, paths in denied.items():
        names = ", ".join(map(str, paths[:4])) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")
        text = f"{context.account.name} may not open {names} (group {group})"
        yield Finding("permissions", level, text, _grant(context.account, group))
    if not denied:
        text = (
            f"{context.account.name} may open all {allowed} devices"
            if allowed
            else "there are no devices to open"
        )
        yield Finding("permissions", "ok", text)


def _grant(account: Account, group: str) -> str:
    """Return the command that gives an account access to the devices of a group."""
    if group not in GROUPS:
        return (
            "install systemd/99-edge-siamese.rules to /etc/udev/rules.d, then: "
            "sudo udevadm control --reload && sudo udevadm trigger"
        )
    restart = f"sudo systemctl restart {SERVICE}" if account.is_service else "log out and in again"
    return f"sudo usermod -aG {group} {account.name}, then {restart}"


def _needed_devices(context: Context) -> list[Path]:
    """Return the devices that the daemon opens with these settings."""
    devices, settings = context.root / "dev", context.settings
    patterns: list[str] = []
    if settings.camera.kind in (AUTO, "picamera2") and context.board.is_raspberry_pi:
        patterns += ["video*", "media*", "dma_heap/*"]
    elif settings.camera.kind in (AUTO, "usb"):
        patterns += ["video*"]
    if settings.panel.kind == "gpio" or (settings.panel.kind == AUTO and context.board.is_raspberry_pi):
        patterns += ["gpiochip*"]
    paths = [path for pattern in patterns for path in sorted(devices.glob(pattern))]
    if settings.panel.kind in (AUTO, "input"):
        from edge_siamese.panel.kernel_input import find_input

        if button := find_input(settings.panel.input_device, context.root / "sys", devices):
            paths.append(Path(button))
    return paths


def check_camera(context: Context) -> Iterator[Finding]:
    """The camera; if a daemon is running and uses it, the daemon's status of the camera."""
    settings = context.settings.camera
    if context.daemon is not None:
        yield _camera_of_daemon(context)
    elif settings.kind == "files" and not Path(settings.path).exists():
        yield Finding("camera", "error", f"{settings.path} does not exist", "correct `path` in [camera]")
    elif settings.kind == "usb":
        yield _in_use() if context.daemon_may_run else _usb_camera(context)
    elif settings.kind in (AUTO, "picamera2"):
        yield _in_use() if context.daemon_may_run else _pi_camera(context)
    else:
        yield _other_camera(settings.kind)


def _in_use() -> Finding:
    return Finding("camera", "unknown", IN_USE, RUN_AS_ROOT)


def _camera_of_daemon(context: Context) -> Finding:
    state = (context.daemon or {}).get("camera")
    if not state:
        return Finding("camera", "unknown", "the daemon has not opened it yet", "run it again in a minute")
    status, reason = str(state.get("status")), str(state.get("reason") or "")
    description = str(state.get("description") or "the camera")
    if status == "running":
        return Finding("camera", "ok", f"{description}: {state.get('fps', 0):.1f} frames per second")
    if status == "starting":
        return Finding("camera", "unknown", f"{description} is being opened", "run it again in a minute")
    remedy = (
        "check the cable, and stop other programs that use the camera; the daemon reopens it automatically"
    )
    return Finding("camera", "error", f"{status}: {reason or description}", remedy)


def _other_camera(kind: str) -> Finding:
    """Whether the library of a camera without hardware of its own is installed."""
    driver = CAMERAS[kind]
    missing = [name for name in driver.libraries if find_spec(name) is None]
    if missing and kind != "files":  # PyAV is needed for videos only
        return Finding("camera", "error", f"{', '.join(missing)} is not installed", driver.install)
    return Finding("camera", "ok", driver.summary)


def _pi_camera(context: Context) -> Finding:
    """A camera of libcamera; with the kind `auto`, a V4L2 device if there is none."""
    settings = context.settings.camera
    may_be_usb = settings.kind == AUTO
    if find_spec("picamera2") is None:
        if may_be_usb and (Path(settings.device).exists() or not context.board.is_raspberry_pi):
            return _usb_camera(context)
        text = "picamera2 is not installed for this Python interpreter"
        return Finding("camera", "error", text, CAMERAS["picamera2"].install)
    cameras = list_libcamera()
    if cameras:
        return Finding("camera", "ok", f"libcamera lists {', '.join(cameras)}")
    if may_be_usb and Path(settings.device).exists():
        return _usb_camera(context)
    if cameras is None:
        remedy = "find out why: rpicam-hello --list-cameras"
        return Finding("camera", "error", "libcamera did not list its cameras", remedy)
    return Finding(
        "camera",
        "error",
        "libcamera finds no camera",
        "check the cable, and that config.txt names this camera (firmware_configs/install.sh); reboot, then: "
        "rpicam-hello --list-cameras",
    )


def _usb_camera(context: Context) -> Finding:
    device = Path(context.settings.camera.device)
    if not device.exists():
        devices = sorted((context.root / "dev").glob("video*"))
        others = ", ".join(f"{path} ({device_name(context.root, path)})" for path in devices)
        text = f"{device} does not exist; V4L2 devices here: {others or 'none'}"
        remedy = (
            'connect a camera, or correct `device` in [camera]; to try without a camera: kind = "synthetic"'
        )
        return Finding("camera", "error", text, remedy)
    if user := process_using([os.path.realpath(device)], context.root / "proc"):
        return Finding("camera", "error", f"{device} is used by {user}", "stop that program")
    if not context.account.may(device):
        text = f"{context.account.name} may not open {device}"
        return Finding("camera", "error", text, _grant(context.account, group_name(device.stat().st_gid)))
    return Finding("camera", "ok", f"{device}: {device_name(context.root, device)}")


def check_panel(context: Context) -> Iterator[Finding]:
    """Button and LED; if a daemon is running and uses them, the daemon's status of the panel."""
    if context.daemon is not None:
        yield _panel_of_daemon(context.daemon.get("panel") or {})
        return
    if context.daemon_may_run:
        yield Finding("panel", "unknown", IN_USE, RUN_AS_ROOT)
        return
    from edge_siamese.panel import open_panel

    root, settings = context.root, context.settings.panel
    try:
        panel = open_panel(settings, sysfs=root / "sys", devices=root / "dev", proc=root / "proc")
    except PanelError as error:
        yield Finding("panel", "error", str(error), _PANEL_REMEDY)
        return
    description = panel.description
    panel.close()
    # With the kind `auto`, a Raspberry Pi without gpiod silently has no button.
    missing = settings.kind == AUTO and context.board.is_raspberry_pi and "not installed" in description
    yield Finding("panel", "warning" if missing else "ok", description, _PANEL_REMEDY if missing else "")


_PANEL_REMEDY = (
    'correct [panel] in the settings, or the overlays in config.txt; without a button, set kind = "none"'
)


def _panel_of_daemon(state: dict[str, object]) -> Finding:
    if problem := state.get("problem"):
        return Finding("panel", "error", str(problem), _PANEL_REMEDY)
    if state.get("stuck"):
        remedy = "release the button, or look for a short circuit"
        return Finding("panel", "error", "the button is held down", remedy)
    return Finding("panel", "ok", str(state.get("description") or "none"))


def check_sound(context: Context) -> Iterator[Finding]:
    """Whether sounds can be played, if they are turned on."""
    settings = context.settings.sound
    if not settings.enabled:
        yield Finding("sound", "ok", "sounds are off")
        return
    problems = list(_sound_problems(context))
    yield from problems
    if not problems:
        yield Finding("sound", "ok", " and ".join(c[0] for c in (settings.player, settings.speech) if c))


def _sound_problems(context: Context) -> Iterator[Finding]:
    settings, account = context.settings.sound, context.account
    if not settings.player and not settings.speech:
        yield Finding(
            "sound", "warning", "neither `player` nor `speech` is set", "set one of them in [sound]"
        )
    for command in filter(None, (settings.player, settings.speech)):
        if problem := command_problem(command):
            package = SOUND_PACKAGES.get(command[0])
            remedy = f"sudo apt install {package}" if package else "correct the command in [sound]"
            yield Finding("sound", "warning", problem, remedy)
    devices = sorted((context.root / "dev/snd").glob("pcm*p"))
    if not devices:
        remedy = "connect a loudspeaker or a sound card, then: aplay -l"
        yield Finding("sound", "warning", "there is no sound card", remedy)
    for device in devices[:1]:
        if not account.may(device):
            group = group_name(device.stat().st_gid)
            text = f"{account.name} may not open {device} (group {group})"
            yield Finding("sound", "warning", text, _grant(account, group))
    if problem := str((context.daemon or {}).get("sound", {}).get("problem") or ""):
        yield Finding("sound", "warning", problem, "try it: speaker-test -t sine -l 1")
