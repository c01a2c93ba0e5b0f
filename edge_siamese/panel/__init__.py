"""Opens the panel that the settings ask for: GPIO lines, a kernel input device, a simulated one, or none."""

from __future__ import annotations

from pathlib import Path

from edge_siamese.errors import PanelError
from edge_siamese.panel.panel import Edge, Panel
from edge_siamese.settings import PanelSettings

__all__ = ["Edge", "Panel", "open_panel"]


def open_panel(
    settings: PanelSettings,
    *,
    sysfs: Path = Path("/sys"),
    devices: Path = Path("/dev"),
    proc: Path = Path("/proc"),
) -> Panel:
    """Open a panel.

    `auto` takes the input device of that name if there is one, else the GPIO header of a Raspberry Pi if gpiod is
    installed, else none, whose description says why.

    Args:
        settings: the table `[panel]`.
        sysfs, devices, proc: where the kernel's files are.

    Raises:
        PanelError: it is missing, used by another program, or must not be used.
    """
    # Each panel is imported when it is asked for: no device needs them all.
    if settings.kind == "none":
        from edge_siamese.panel.simulated import NoPanel

        return NoPanel()
    if settings.kind == "simulated":
        from edge_siamese.panel.simulated import SimulatedPanel

        return SimulatedPanel()
    if settings.kind == "gpio":
        return _gpio(settings, devices)
    if settings.kind == "input":
        return _input(settings, sysfs, devices)
    return _automatic(settings, sysfs, devices, proc)


def _automatic(settings: PanelSettings, sysfs: Path, devices: Path, proc: Path) -> Panel:
    from edge_siamese.panel.gpio import GpioNotInstalled, find_chip
    from edge_siamese.panel.kernel_input import find_input
    from edge_siamese.panel.simulated import NoPanel

    if settings.input_device and find_input(settings.input_device, sysfs, devices):
        return _input(settings, sysfs, devices)
    try:
        find_chip(settings.chip, devices)
    except GpioNotInstalled as error:
        return NoPanel(str(error))
    except PanelError as error:
        if _is_raspberry_pi(proc):  # it has a header: that it cannot be used is a fault, not a matter of fact
            raise
        return NoPanel(str(error))
    return _gpio(settings, devices)


def _gpio(settings: PanelSettings, devices: Path) -> Panel:
    from edge_siamese.panel.gpio import GpioPanel

    return GpioPanel(
        settings.button_line,
        settings.led_line,
        chip=settings.chip,
        active_low=settings.active_low,
        debounce=settings.debounce_s >= 0.01,  # the kernel's may take a tick of its timer or two
        devices=devices,
    )


def _input(settings: PanelSettings, sysfs: Path, devices: Path) -> Panel:
    from edge_siamese.panel.kernel_input import KernelPanel

    return KernelPanel(
        settings.input_device,
        settings.kernel_led,
        light_optional=settings.kind == "auto",
        sysfs=sysfs,
        devices=devices,
    )


def _is_raspberry_pi(proc: Path) -> bool:
    try:
        return (proc / "device-tree" / "model").read_bytes().startswith(b"Raspberry Pi")
    except OSError:
        return False
