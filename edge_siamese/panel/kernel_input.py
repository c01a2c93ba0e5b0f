"""Kernel panel: a button that is an input device (overlay `gpio-key`) and an LED of the kernel (overlay `gpio-led`).

It needs no library: events of an input device are read from its file, and an LED is a few files in /sys/class/leds.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from edge_siamese.errors import PanelError
from edge_siamese.panel.panel import Edge
from edge_siamese.registry import AUTO
from edge_siamese.settings import PanelSettings

# linux/input.h: struct input_event is two longs of time, type, code, value.
EVENT = struct.Struct("@llHHi")
_EV_SYN, _EV_KEY, _SYN_DROPPED = 0, 1, 3
_KEY_BYTES = 0x300 // 8
_EVIOCSCLOCKID = 0x400445A0
_EVIOCGRAB = 0x40044590
_EVIOCGKEY = 0x80004518 | _KEY_BYTES << 16
_CLOCK_MONOTONIC = 1
_READ_EVENTS = 64
_MAX_READS = 16


def find_input(name: str, sysfs: Path = Path("/sys"), devices: Path = Path("/dev")) -> Path | None:
    """Return the file of an input device; None if there is none.

    Args:
        name: a path; or the name of the device; or the `label` of its key in the device tree. The overlay `gpio-key` sets
            the label, and the device is then named after its node, such as `button@11`.
        sysfs, devices: mount points of sysfs and of the device files.
    """
    if name.startswith("/"):
        return Path(name) if Path(name).exists() else None
    for entry in _inputs(sysfs):
        if name in _names(entry):
            return devices / "input" / entry.name
    return None


def _inputs(sysfs: Path) -> list[Path]:
    entries = (sysfs / "class" / "input").glob("event*")
    return sorted(entries, key=lambda entry: (len(entry.name), entry.name))


def _names(entry: Path) -> Iterator[str]:
    """Yield the names of an input device, its own name first."""
    for file in (entry / "device" / "name", *sorted((entry / "device/device/of_node").glob("*/label"))):
        try:
            yield file.read_text(encoding="utf-8", errors="replace").rstrip("\0\n")
        except OSError:  # it was just unplugged
            continue


class KernelPanel:
    """A button in /dev/input and an LED in /sys/class/leds."""

    def __init__(
        self,
        name: str,
        light: str = "",
        *,
        light_optional: bool = False,
        sysfs: Path = Path("/sys"),
        devices: Path = Path("/dev"),
    ) -> None:
        """Open the button, and the LED if there is one.

        Args:
            name: the input device; see `find_input`.
            light: the name of the LED; empty: none.
            light_optional: ignore a missing LED.
            sysfs, devices: mount points of sysfs and of the device files.

        Raises:
            PanelError: one of them is missing, or this user has no access to it.
        """
        path = find_input(name, sysfs, devices)
        if path is None:
            names = ", ".join(f'"{next(_names(entry), "")}"' for entry in _inputs(sysfs))
            raise PanelError(
                f'there is no input device "{name}" (there is {names or "none"}): '
                "set `input_device` in [panel], or add dtoverlay=gpio-key to config.txt"
            )
        self._path = path
        self._file = -1
        self._keys: set[int] = set()
        self._first: list[Edge] = []
        self._led = _KernelLed(light, sysfs, light_optional) if light else None
        if self._led is not None and not self._led.exists:
            self._led = None
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._kernel_times = _set_clock(self._file)
            _grab(self._file)
            self._keys = _keys_down(self._file)
            if self._keys:
                self._first = [Edge(time.monotonic(), True)]
            if self._led is not None:
                self._led.take()
        except PanelError:
            self.close()
            raise
        except OSError as error:
            self.close()
            if isinstance(error, PermissionError):
                raise PanelError(f"this user may not open {path}; add the user to the group input") from error
            if error.errno == errno.EBUSY:
                raise PanelError(f"{path} is used by another program; stop that program") from error
            raise PanelError(f"{path} cannot be used: {error.strerror}") from error

    @classmethod
    def open(cls, settings: PanelSettings, *, sysfs: Path, devices: Path) -> Self:
        """See `Panel.open`; with the kind `auto`, the LED may be missing."""
        return cls(
            settings.input_device,
            settings.kernel_led,
            light_optional=settings.kind == AUTO,
            sysfs=sysfs,
            devices=devices,
        )

    @property
    def description(self) -> str:
        """See `Panel.description`."""
        return f"button {self._path} and {self._led.description if self._led else 'no LED'}"

    def wait(self, timeout: float) -> list[Edge]:
        """See `Panel.wait`; all keys of the device count as one button."""
        edges, self._first = self._first, []
        if self._file < 0:
            raise PanelError(f"{self._path} is closed")
        try:
            remaining = 0.0 if edges else max(0.0, timeout)
            poll = select.poll()
            poll.register(self._file, select.POLLIN)
            for _ in range(_MAX_READS):
                if not poll.poll(remaining * 1000):
                    break
                edges += self._read()
                remaining = 0.0
        except OSError as error:
            if isinstance(error, PanelError):
                raise
            gone = error.errno == errno.ENODEV
            reason = "it was removed" if gone else error.strerror
            raise PanelError(f"the button {self._path} is gone: {reason}") from error
        return edges

    def light(self, on: bool) -> None:
        """See `Panel.light`."""
        if self._led is not None:
            self._led.switch(on)

    def close(self) -> None:
        """See `Panel.close`."""
        led, self._led = self._led, None
        if led is not None:
            led.release()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read(self) -> list[Edge]:
        try:
            data = os.read(self._file, EVENT.size * _READ_EVENTS)
        except BlockingIOError:
            return []
        if not data:
            raise PanelError(f"the button {self._path} is gone: its file has ended")
        edges: list[Edge] = []
        whole = len(data) - len(data) % EVENT.size
        for seconds, microseconds, kind, code, value in EVENT.iter_unpack(data[:whole]):
            before = bool(self._keys)
            if kind == _EV_KEY and value == 1:
                self._keys.add(code)
            elif kind == _EV_KEY and value == 0:
                self._keys.discard(code)
            elif (
                kind == _EV_SYN and code == _SYN_DROPPED
            ):  # the kernel's buffer overflowed: read the current state
                self._keys = _keys_down(self._file)
            if bool(self._keys) != before:
                at = seconds + microseconds / 1e6 if self._kernel_times else time.monotonic()
                edges.append(Edge(at, bool(self._keys)))
        return edges


class _KernelLed:
    """An LED in /sys/class/leds."""

    def __init__(self, name: str, sysfs: Path, optional: bool) -> None:
        self._directory = sysfs / "class" / "leds" / name
        self.exists = (self._directory / "brightness").exists()
        if not self.exists and not optional:
            raise PanelError(
                f"there is no LED {self._directory}: set `kernel_led` in [panel] (empty: none), "
                "or add dtoverlay=gpio-led to config.txt"
            )
        self._max_brightness = "1"

    @property
    def description(self) -> str:
        return f"LED {self._directory}"

    def take(self) -> None:
        """Remove the trigger and switch the LED off."""
        try:
            trigger = (self._directory / "trigger").read_text(encoding="utf-8")
            if "[none]" not in trigger:
                self._write("trigger", "none")
            self._max_brightness = (self._directory / "max_brightness").read_text(
                encoding="utf-8"
            ).strip() or "1"
        except OSError as error:
            if isinstance(error, PanelError):
                raise
            raise PanelError(f"the LED {self._directory} cannot be used: {error.strerror}") from error
        self.switch(False)

    def switch(self, on: bool) -> None:
        self._write("brightness", self._max_brightness if on else "0")

    def release(self) -> None:
        with suppress(PanelError):  # it is gone already
            self.switch(False)

    def _write(self, name: str, text: str) -> None:
        try:
            # Unbuffered and without O_CREAT: a file in sysfs takes one write, and a missing one must not be created.
            file = os.open(self._directory / name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(file, text.encode("ascii"))
            finally:
                os.close(file)
        except PermissionError as error:
            raise PanelError(
                f"this user may not write {self._directory / name}; a udev rule must give the group gpio access"
            ) from error
        except OSError as error:
            raise PanelError(f"the LED {self._directory} is gone: {error.strerror}") from error


def _set_clock(file: int) -> bool:
    """Request event times of CLOCK_MONOTONIC; False: not supported, and events are timed when they are read."""
    try:
        fcntl.ioctl(file, _EVIOCSCLOCKID, struct.pack("i", _CLOCK_MONOTONIC))
    except OSError:
        return False
    return True


def _grab(file: int) -> None:
    """Grab the device exclusively: the overlay's default key, KEY_POWER, would shut the system down.

    Raises:
        OSError: (EBUSY) another program has grabbed it.
    """
    try:
        fcntl.ioctl(file, _EVIOCGRAB, 1)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise


def _keys_down(file: int) -> set[int]:
    """Return the codes of the keys that are down now."""
    bits = bytearray(_KEY_BYTES)
    try:
        fcntl.ioctl(file, _EVIOCGKEY, bits)
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise
        return set()
    return {8 * index + bit for index, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1}
