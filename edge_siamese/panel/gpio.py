"""GPIO panel: a button and an LED on lines of the GPIO header, through gpiod."""

from __future__ import annotations

import errno
import re
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from edge_siamese.errors import PanelError
from edge_siamese.panel.panel import Edge
from edge_siamese.registry import PANELS
from edge_siamese.settings import PanelSettings

HEADER_CHIPS = ("pinctrl-rp1", "pinctrl-bcm2711", "pinctrl-bcm2835")
"""Labels of the header's chip on Raspberry Pi 5, on 4, and on Zero 2 W and 3. Unlike numbers, labels are the same on all
kernels."""
CONSUMER = "edge-siamese"
INSTALL = PANELS["gpio"].install

_KERNEL_DEBOUNCE = timedelta(milliseconds=1)
"""The kernel reports a change after the line has rested for this long, which limits bursts of edges. The press grammar
debounces."""
_MIN_KERNEL_DEBOUNCE_SECONDS = 0.01
"""Below this `debounce_s` the kernel does not debounce, because its timer may take a tick or two."""
_BUFFER_SIZE = 256
_MAX_READS = 16
"""Limits the time that `wait` takes on a noisy line."""


class GpioNotInstalled(PanelError):
    """The package gpiod is missing, or is version 1."""


def load_gpiod() -> Any:
    """Import gpiod, version 2.

    Raises:
        GpioNotInstalled: it is missing, too old, or does not load.
    """
    try:
        import gpiod
        import gpiod.line  # version 1 has no such module
    except ImportError as error:
        name = getattr(error, "name", None)
        if name == "gpiod":
            raise GpioNotInstalled(f"the package gpiod is not installed: {INSTALL}") from error
        if name == "gpiod.line":
            raise GpioNotInstalled(
                f"the package gpiod is version 1, as in Debian 12's python3-libgpiod; version 2 is needed: {INSTALL}"
            ) from error
        raise GpioNotInstalled(f"the package gpiod does not load: {error}") from error
    if not hasattr(gpiod, "LineSettings"):
        raise GpioNotInstalled(f"the package gpiod is version 1; version 2 is needed: {INSTALL}")
    return gpiod


def find_chip(label: str = "", devices: Path = Path("/dev")) -> tuple[str, str]:
    """Return the path and the label of a GPIO chip.

    Args:
        label: the chip's label; empty: the header's chip of a Raspberry Pi.
        devices: directory of the device files.

    Raises:
        GpioNotInstalled: gpiod is not installed.
        PanelError: there is no such chip, or this user must not open it.
    """
    gpiod = load_gpiod()
    labels = (label,) if label else HEADER_CHIPS
    paths: dict[str, str] = {}
    denied: list[str] = []
    for path in sorted(devices.glob("gpiochip*"), key=_number):
        try:
            if not gpiod.is_gpiochip_device(str(path)):
                continue
            with gpiod.Chip(str(path)) as chip:
                paths.setdefault(chip.get_info().label, str(path))
        except PermissionError:
            denied.append(str(path))
        except Exception as error:  # a chip that is just being removed must not hide the others
            denied.append(f"{path} ({_reason(error)})")
    for name in labels:
        if name in paths:
            return paths[name], name
    what = f'no GPIO chip "{label}"' if label else "no GPIO header of a Raspberry Pi"
    if denied:
        raise PanelError(
            f"{what} that this user may open: {', '.join(denied)}; add the user to the group gpio"
        )
    others = f"; chips here: {', '.join(paths)}" if paths else "; there is no GPIO chip"
    raise PanelError(f"{what}{others}")


class GpioPanel:
    """A button and an LED on lines of a GPIO chip."""

    def __init__(
        self,
        button: int,
        led: int,
        *,
        chip: str = "",
        active_low: bool = True,
        debounce: bool = True,
        devices: Path = Path("/dev"),
    ) -> None:
        """Request the lines.

        Args:
            button, led: offsets in the chip, which are BCM numbers on a Raspberry Pi; led -1: no LED.
            chip: label of the chip; empty: the header's.
            active_low: the button connects to ground and the line is pulled up; otherwise to 3.3 V, pulled down.
            debounce: let the kernel drop changes shorter than a millisecond.
            devices: directory of the device files.

        Raises:
            GpioNotInstalled: gpiod is not installed.
            PanelError: a line cannot be used; the message names line, chip, current user and remedy.
        """
        self._gpiod = load_gpiod()
        self._path, self._label = find_chip(chip, devices)
        self._button, self._led = button, led
        self._button_request: Any = None
        self._led_request: Any = None
        self._sequence = 0
        self._first: list[Edge] = []
        line = self._gpiod.line
        inputs: dict[str, Any] = {
            "direction": line.Direction.INPUT,
            "edge_detection": line.Edge.BOTH,
            "bias": line.Bias.PULL_UP if active_low else line.Bias.PULL_DOWN,
            "active_low": active_low,
            "event_clock": line.Clock.MONOTONIC,
        }
        try:
            self._button_request = self._request_button(inputs, debounce)
            if led >= 0:
                self._led_request = self._request(
                    led,
                    "LED",
                    {"direction": line.Direction.OUTPUT, "output_value": line.Value.INACTIVE},
                )
            if self._down():
                self._first = [Edge(time.monotonic(), True)]
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, settings: PanelSettings, *, sysfs: Path, devices: Path) -> Self:
        """See `Panel.open`."""
        return cls(
            settings.button_line,
            settings.led_line,
            chip=settings.chip,
            active_low=settings.active_low,
            debounce=settings.debounce_s >= _MIN_KERNEL_DEBOUNCE_SECONDS,
            devices=devices,
        )

    @property
    def description(self) -> str:
        """See `Panel.description`."""
        light = f"LED on line {self._led}" if self._led >= 0 else "no LED"
        return f"button on line {self._button} and {light} of {self._label}"

    def wait(self, timeout: float) -> list[Edge]:
        """See `Panel.wait`; times are the kernel's, of CLOCK_MONOTONIC."""
        edges, self._first = self._first, []
        if self._button_request is None:
            raise PanelError(f"{self._where('button', self._button)} is closed")
        try:
            remaining = 0.0 if edges else max(0.0, timeout)
            for _ in range(_MAX_READS):
                if not self._button_request.wait_edge_events(remaining):
                    break
                edges += self._edges_of(self._button_request.read_edge_events(_BUFFER_SIZE))
                remaining = 0.0
        except PanelError:
            raise
        except Exception as error:  # the bindings have their own exceptions besides OSError and ValueError
            raise PanelError(
                f"{self._where('button', self._button)} cannot be read: {_reason(error)}"
            ) from error
        return edges

    def light(self, on: bool) -> None:
        """See `Panel.light`."""
        if self._led_request is None:
            return
        value = self._gpiod.line.Value.ACTIVE if on else self._gpiod.line.Value.INACTIVE
        try:
            self._led_request.set_value(self._led, value)
        except Exception as error:
            raise PanelError(
                f"{self._where('LED', self._led)} cannot be switched: {_reason(error)}"
            ) from error

    def close(self) -> None:
        """See `Panel.close`."""
        button, led = self._button_request, self._led_request
        with suppress(PanelError):  # the chip is gone, and the LED with it
            self.light(False)
        self._button_request = self._led_request = None
        for request in (led, button):
            if request is not None:
                request.release()

    def _edges_of(self, events: list[Any]) -> list[Edge]:
        """Convert events to edges; if the kernel dropped some, the current level comes last."""
        # The logical level: the kernel has applied `active_low`.
        rising = self._gpiod.EdgeEvent.Type.RISING_EDGE
        edges: list[Edge] = []
        lost = False
        for event in events:
            lost |= event.line_seqno != self._sequence + 1
            self._sequence = event.line_seqno
            edges.append(Edge(event.timestamp_ns / 1e9, event.event_type is rising))
        if lost and edges:
            down = self._down()
            if down != edges[-1].pressed:
                edges.append(Edge(max(time.monotonic(), edges[-1].time), down))
        return edges

    def _down(self) -> bool:
        try:
            return bool(self._button_request.get_value(self._button) is self._gpiod.line.Value.ACTIVE)
        except Exception as error:
            raise PanelError(
                f"{self._where('button', self._button)} cannot be read: {_reason(error)}"
            ) from error

    def _request_button(self, settings: dict[str, Any], debounce: bool) -> Any:
        if debounce:
            try:
                return self._request(
                    self._button, "button", {**settings, "debounce_period": _KERNEL_DEBOUNCE}
                )
            except _NotSupported:
                pass  # the kernel or the chip's driver cannot debounce; the grammar does
        return self._request(self._button, "button", settings)

    def _request(self, offset: int, what: str, settings: dict[str, Any]) -> Any:
        gpiod = self._gpiod
        where = self._where(what, offset)
        try:
            with gpiod.Chip(self._path) as chip:
                info = chip.get_info()
                if offset >= info.num_lines:
                    raise PanelError(f"{where} does not exist: the chip has lines 0 to {info.num_lines - 1}")
                try:
                    return chip.request_lines(
                        {offset: gpiod.LineSettings(**settings)},
                        consumer=CONSUMER,
                        event_buffer_size=_BUFFER_SIZE,
                    )
                except OSError as error:
                    if error.errno == errno.EBUSY:
                        user = chip.get_line_info(offset).consumer
                        raise PanelError(f"{where} is busy: {_busy(user)}") from error
                    raise
        except PanelError:
            raise
        except PermissionError as error:
            raise PanelError(
                f"{where}: this user may not open {self._path}; add the user to the group gpio"
            ) from error
        except Exception as error:
            if "debounce_period" in settings and getattr(error, "errno", None) in _UNSUPPORTED:
                raise _NotSupported(str(error)) from error
            raise PanelError(f"{where} cannot be used: {_reason(error)}") from error

    def _where(self, what: str, offset: int) -> str:
        return f"GPIO line {offset} of {self._label} ({what})"


class _NotSupported(PanelError):
    """The kernel rejected settings that it may not support."""


_UNSUPPORTED = {
    errno.EINVAL,
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.ENOTTY,
    524,
}  # 524: the kernel's own ENOTSUPP


def _busy(user: str) -> str:
    """Describe the program or driver that uses a line, with a remedy."""
    if user == CONSUMER:
        return "another edge-siamese uses it; stop it (`systemctl stop edge-siamese`)"
    remedy = "choose another line, or stop that program"
    if user.lower().startswith(("gpio-key", "key_", "button")) or "key" in user.lower():
        remedy = 'set kind = "input" in [panel], or remove the overlay gpio-key from config.txt'
    elif "led" in user.lower():
        remedy = 'set kind = "input" in [panel], or remove the overlay gpio-led from config.txt'
    return f'used by "{user or "the kernel"}"; {remedy}'


def _number(path: Path) -> tuple[int, str]:
    digits = re.search(r"\d+$", path.name)
    return (int(digits[0]) if digits else 0), path.name


def _reason(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0]
