"""Runs in the virtual machine: a button and an LED on a simulated GPIO chip, and simulated cameras that come and go."""

from __future__ import annotations

import glob
import os
import subprocess
import threading
import time
from pathlib import Path

CONFIG = Path("/sys/kernel/config/gpio-sim/board")
CHIPS = "/sys/devices/platform/gpio-sim.*/gpiochip*"
VIVID = Path("/sys/bus/platform/drivers/vivid")
# What a finger does to a contact, in seconds: the contact bounces when it closes and when it opens.
BOUNCE = 0.002


def add_gpio_chip(label: str, button: int, led: int) -> str:
    """A chip of 28 lines, as a Raspberry Pi's header has them; the button's line is pulled up. Its device."""
    subprocess.run(["modprobe", "gpio-sim"], check=True)
    if not Path("/sys/kernel/config/gpio-sim").is_dir():
        subprocess.run(["mount", "-t", "configfs", "configfs", "/sys/kernel/config"], check=True)
    for line in (button, led):
        (CONFIG / "bank0" / f"line{line}").mkdir(parents=True)
        (CONFIG / "bank0" / f"line{line}" / "name").write_text(f"GPIO{line}")
    (CONFIG / "bank0" / "num_lines").write_text("28")
    (CONFIG / "bank0" / "label").write_text(label)
    (CONFIG / "live").write_text("1")
    _close_contact(button, False)
    return "/dev/" + (CONFIG / "bank0" / "chip_name").read_text().strip()


def _line(number: int) -> Path:
    (chip,) = glob.glob(CHIPS)
    return Path(chip, f"sim_gpio{number}")


def _close_contact(button: int, closed: bool) -> None:
    (_line(button) / "pull").write_text("pull-down" if closed else "pull-up")


def play(button: int, steps: list[tuple[bool, float]]) -> list[float]:
    """Close (True) and open the button's contact, each for some seconds; how long each really lasted.

    It runs before all other programs, because a few milliseconds are meant to be a few milliseconds.
    """
    path = str(_line(button) / "pull")
    file = os.open(path, os.O_WRONLY)
    thread = threading.get_native_id()
    os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(50))
    lasted = []
    try:
        start = time.monotonic()
        for closed, seconds in steps:
            os.pwrite(file, b"pull-down" if closed else b"pull-up", 0)
            if seconds > 0.05:
                time.sleep(seconds - 0.02)
            while time.monotonic() - start < seconds:
                pass
            now = time.monotonic()
            lasted.append(now - start)
            start = now
    finally:
        os.pwrite(file, b"pull-up", 0)
        os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
        os.close(file)
    return lasted


def press(button: int, seconds: float) -> list[float]:
    """A real press: bounces, rests, and bounces again when it is let go."""
    bounces = [(True, BOUNCE), (False, BOUNCE), (True, BOUNCE), (False, BOUNCE)]
    return play(
        button,
        [*bounces, (True, seconds), *[(not closed, length) for closed, length in bounces], (False, 0.0)],
    )


class _Watch:
    """Notes when the LED changes, from a thread."""

    def __init__(self, led: int) -> None:
        self._value = _line(led) / "value"
        self.changes: list[tuple[float, bool]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        last = None
        while not self._stop.wait(0.01):
            on = self._value.read_text().strip() == "1"
            if on != last:
                self.changes.append((time.monotonic(), on))
                last = on

    def end(self) -> list[tuple[float, bool]]:
        self._stop.set()
        self._thread.join()
        return self.changes


_watches: dict[int, _Watch] = {}


def watch_led(led: int) -> None:
    """Start to note when the LED changes; the first entry is what it is now."""
    _watches[led] = _Watch(led)


def led_changes(led: int) -> list[tuple[float, bool]]:
    """Stop, and give what was noted: (monotonic seconds, on)."""
    return _watches.pop(led).end()


def led_is_on(led: int) -> bool:
    """What the line of the LED is."""
    return (_line(led) / "value").read_text().strip() == "1"


def add_usb_camera() -> list[str]:
    """A V4L2 webcam, which shows a test pattern; its devices."""
    subprocess.run(
        ["modprobe", "vivid", "n_devs=1", "node_types=0x1", "num_inputs=1", "input_types=0x0"], check=True
    )
    return devices("video")


def plug(connected: bool) -> list[str]:
    """Take the webcam away from its driver, or give it back."""
    (VIVID / ("bind" if connected else "unbind")).write_text("vivid.0")
    return devices("video")


def add_csi_camera() -> list[str]:
    """A camera that libcamera knows, and the heap for its pictures; its devices."""
    subprocess.run(["modprobe", "-a", "dma-heaps", "vimc"], check=True)
    return devices("media")


def devices(kind: str) -> list[str]:
    """The devices of a kind, such as video."""
    subprocess.run(["udevadm", "settle", "--timeout=20"], check=False)
    return sorted(glob.glob(f"/dev/{kind}[0-9]*"))
