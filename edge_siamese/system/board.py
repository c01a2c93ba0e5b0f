"""The board and its state: model, memory, temperature, throttling, disk space, clock."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
COMMAND_TIMEOUT_SECONDS = 3.0

Run = Callable[[Sequence[str]], str | None]
"""Runs a command; returns its output, or None if it is missing, failed or timed out."""

# Sensors of the processor, the most specific first.
_ZONES = ("cpu-thermal", "cpu_thermal", "soc-thermal", "x86_pkg_temp")
_CHIPS = ("cpu_thermal", "coretemp", "k10temp", "zenpower")
# Bits of get_throttled; those for "since boot" are 16 bits higher.
_THROTTLING = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
_SINCE_BOOT = 16
_STA_UNSYNC = 0x40
# Flags of x86 and of Arm in /proc/cpuinfo. A processor with AMX or AVX-VNNI-INT8 has one of the first two as well.
_INT8_DOT_PRODUCTS = frozenset({"avx512_vnni", "avx_vnni", "asimddp", "i8mm"})


@dataclass(frozen=True)
class Board:
    """Properties of a machine that do not change while it runs."""

    model: str
    """Model of the board or computer, such as `Raspberry Pi Zero 2 W Rev 1.0`; else the processor's name."""
    memory_mib: int
    """Total memory in MiB."""
    processors: int
    """Number of logical processors."""
    architecture: str
    """Architecture of the kernel, such as `aarch64`."""
    system: str
    """Operating system, such as `Debian GNU/Linux 12 (bookworm)`."""
    kernel: str
    """Release of the kernel."""

    @property
    def is_raspberry_pi(self) -> bool:
        """Whether this is a Raspberry Pi."""
        return self.model.startswith("Raspberry Pi")

    def __str__(self) -> str:
        return (
            f"{self.model}, {self.processors} x {self.architecture}, {self.memory_mib} MiB, "
            f"{self.system}, kernel {self.kernel}"
        )


@dataclass(frozen=True)
class Throttling:
    """Throttling of the board by its firmware."""

    bits: int
    """The bits that `vcgencmd get_throttled` reports."""

    @property
    def now(self) -> tuple[str, ...]:
        """Current conditions, such as `under-voltage`."""
        return tuple(text for bit, text in enumerate(_THROTTLING) if self.bits >> bit & 1)

    @property
    def since_boot(self) -> tuple[str, ...]:
        """Conditions that have occurred since boot."""
        return tuple(text for bit, text in enumerate(_THROTTLING, _SINCE_BOOT) if self.bits >> bit & 1)


@dataclass(frozen=True)
class Memory:
    """Memory of a process."""

    resident_mib: float
    """Current resident memory."""
    peak_mib: float
    """Peak resident memory."""

    @property
    def resident_mb(self) -> float:
        """Current resident memory in MB (10**6 bytes)."""
        return self.resident_mib * 2**20 / 10**6


def run_command(command: Sequence[str]) -> str | None:
    """Run a command as `Run` describes."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT_SECONDS,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def read_board(root: Path = ROOT) -> Board:
    """Properties of this machine; `unknown` or 0 for what cannot be determined."""
    memory = _field(root / "proc" / "meminfo", "MemTotal")
    return Board(
        model=_model(root),
        memory_mib=int(memory.split()[0]) // 1024 if memory else 0,
        processors=os.cpu_count() or 1,
        architecture=platform.machine(),
        system=_system(root),
        kernel=platform.release(),
    )


def temperature(root: Path = ROOT) -> float | None:
    """Temperature of the processor in degrees Celsius; None without a sensor."""
    zones = _named(root / "sys" / "class" / "thermal", "thermal_zone*", "type", "temp")
    chips = _named(root / "sys" / "class" / "hwmon", "hwmon*", "name", "temp1_input")
    for names, sensors in ((_ZONES, zones), (_CHIPS, chips)):
        for name in names:
            if name in sensors:
                return sensors[name]
    return next(iter(zones.values()), None)


def throttling(root: Path = ROOT, run: Run = run_command) -> Throttling | None:
    """Throttling as the firmware of a Raspberry Pi reports it; None on other machines."""
    output = run(("vcgencmd", "get_throttled"))
    if output is None:
        output = _text(root / "sys" / "devices" / "platform" / "soc" / "soc:firmware" / "get_throttled")
    try:
        return Throttling(int(output.rpartition("=")[2], 16))
    except ValueError:
        pass
    # The kernel's own driver only reports under-voltage.
    for name in _glob(root / "sys" / "class" / "hwmon", "hwmon*/name"):
        if _text(name) == "rpi_volt" and (alarm := _text(name.with_name("in0_lcrit_alarm"))):
            return Throttling(1 if alarm == "1" else 0)
    return None


def disk_free(path: Path) -> int | None:
    """Free bytes for ordinary users at a path, which need not exist yet; None if unknown."""
    for place in (path, *path.absolute().parents):
        try:
            stats = os.statvfs(place)
        except OSError:
            continue
        return stats.f_bavail * stats.f_frsize
    return None


def memory(pid: int | None = None, root: Path = ROOT) -> Memory | None:
    """Memory of a process, by default of this one; None if it has ended."""
    status = root / "proc" / str(pid or "self") / "status"
    resident, peak = _field(status, "VmRSS"), _field(status, "VmHWM")
    if not resident or not peak:
        return None
    return Memory(int(resident.split()[0]) / 1024, int(peak.split()[0]) / 1024)


def memory_available(root: Path = ROOT) -> int | None:
    """MiB available without swapping; None if unknown."""
    available = _field(root / "proc" / "meminfo", "MemAvailable")
    return int(available.split()[0]) // 1024 if available else None


def has_int8_dot_products(root: Path = ROOT) -> bool:
    """Whether the processor multiplies and adds 8-bit integers without overflow in one instruction; False if unknown."""
    cpuinfo = root / "proc" / "cpuinfo"
    flags = _field(cpuinfo, "flags") or _field(cpuinfo, "Features")
    return not _INT8_DOT_PRODUCTS.isdisjoint(flags.split())


def clock_synchronized(root: Path = ROOT, status: Callable[[], int | None] | None = None) -> bool | None:
    """Whether the clock is synchronized; None if unknown.

    Args:
        root: root of the file system.
        status: replaces the kernel's status bits of adjtimex(2).
    """
    if (root / "run" / "systemd" / "timesync" / "synchronized").exists():
        return True
    bits = (status or _adjtimex)()
    return None if bits is None else not bits & _STA_UNSYNC


class _Timex(ctypes.Structure):
    """The first fields of the kernel's `struct timex`, with space for the others."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("frequency", ctypes.c_long),
        ("maximum_error", ctypes.c_long),
        ("estimated_error", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


def _adjtimex() -> int | None:
    """Read the status bits of the kernel's clock."""
    try:
        adjtimex = ctypes.CDLL(None, use_errno=True).adjtimex
    except (OSError, AttributeError):
        return None
    timex = _Timex()
    return None if adjtimex(ctypes.byref(timex)) < 0 else int(timex.status)


def _model(root: Path) -> str:
    if model := _text(root / "proc" / "device-tree" / "model").rstrip("\0"):
        return model
    dmi = root / "sys" / "class" / "dmi" / "id"
    names = [_text(dmi / "sys_vendor"), _text(dmi / "product_name")]
    if names[1]:
        return " ".join(name for name in names if name)
    for key in ("Model", "model name", "Hardware"):
        if model := _field(root / "proc" / "cpuinfo", key):
            return model
    return "unknown"


def _system(root: Path) -> str:
    name = _field(root / "etc" / "os-release", "PRETTY_NAME", "=")
    return name.strip("\"'") or platform.system()


def _named(place: Path, pattern: str, name: str, value: str) -> dict[str, float]:
    """Degrees Celsius by sensor name."""
    temperatures: dict[str, float] = {}
    for folder in _glob(place, pattern):
        text = _text(folder / value)
        if text.lstrip("-").isdecimal():
            temperatures.setdefault(_text(folder / name), int(text) / 1000)
    return temperatures


def _glob(place: Path, pattern: str) -> list[Path]:
    try:
        return sorted(place.glob(pattern))
    except OSError:
        return []


def _field(path: Path, key: str, separator: str = ":") -> str:
    """The value of a key in a file with one `key: value` per line; empty if it is missing."""
    for line in _text(path).splitlines():
        name, separated, value = line.partition(separator)
        if separated and name.strip() == key:
            return value.strip()
    return ""


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace").strip()
    except OSError:
        return ""
