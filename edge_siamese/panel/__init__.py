"""Panels: the button and the LED, one module for each driver, press grammar, LED signals, and the supervisor."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from edge_siamese.errors import PanelError
from edge_siamese.panel.panel import Edge, NoPanel, Panel
from edge_siamese.registry import AUTO, PANELS
from edge_siamese.settings import PanelSettings

__all__ = ["Edge", "Panel", "open_panel"]


def open_panel(
    settings: PanelSettings,
    *,
    sysfs: Path = Path("/sys"),
    devices: Path = Path("/dev"),
    proc: Path = Path("/proc"),
) -> Panel:
    """Open the configured panel.

    `auto` takes the input device of that name if there is one, otherwise the GPIO header of a Raspberry Pi if gpiod is
    installed, otherwise no panel, whose description says why.

    Args:
        settings: the table `[panel]`.
        sysfs, devices, proc: mount points of sysfs, of the device files and of procfs.

    Raises:
        PanelError: it is missing, used by another program, or must not be used.
    """
    kind: str = settings.kind
    if kind == AUTO:
        detected = _detect(settings, sysfs, devices, proc)
        if isinstance(detected, NoPanel):
            return detected
        kind = detected
    return cast(Panel, PANELS[kind].load().open(settings, sysfs=sysfs, devices=devices))


def _detect(settings: PanelSettings, sysfs: Path, devices: Path, proc: Path) -> str | NoPanel:
    """Return the kind of the panel that is connected."""
    from edge_siamese.panel.gpio import GpioNotInstalled, find_chip
    from edge_siamese.panel.kernel_input import find_input

    if settings.input_device and find_input(settings.input_device, sysfs, devices):
        return "input"
    try:
        find_chip(settings.chip, devices)
    except GpioNotInstalled as error:
        return NoPanel(str(error))
    except PanelError as error:
        if _is_raspberry_pi(proc):  # it has a header, which should be usable
            raise
        return NoPanel(str(error))
    return "gpio"


def _is_raspberry_pi(proc: Path) -> bool:
    try:
        return (proc / "device-tree" / "model").read_bytes().startswith(b"Raspberry Pi")
    except OSError:
        return False
