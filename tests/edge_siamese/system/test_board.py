"""Facts about a machine, read from simulated ones and from this one."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from edge_siamese.system import board as module
from edge_siamese.system.board import (
    Board,
    Memory,
    Throttling,
    clock_synchronized,
    disk_free,
    has_int8_dot_products,
    memory,
    memory_available,
    read_board,
    run_command,
    temperature,
    throttling,
)

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def to(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    return to


def nothing(_: Sequence[str]) -> None:
    return None


class TestBoard:
    def test_a_raspberry_pi_has_its_name_in_the_device_tree(self, tmp_path: Path, write: Write) -> None:
        write("proc/device-tree/model", "Raspberry Pi Zero 2 W Rev 1.0\0")
        write("proc/meminfo", "MemTotal:         437500 kB\nMemFree:           90000 kB\n")
        write(
            "etc/os-release", 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\n'
        )
        found = read_board(tmp_path)
        assert found == Board(
            model="Raspberry Pi Zero 2 W Rev 1.0",
            memory_mib=427,
            processors=os.cpu_count() or 1,
            architecture=platform.machine(),
            system="Debian GNU/Linux 12 (bookworm)",
            kernel=platform.release(),
        )
        assert found.is_raspberry_pi

    def test_a_computer_has_its_name_in_dmi(self, tmp_path: Path, write: Write) -> None:
        write("sys/class/dmi/id/sys_vendor", "LENOVO\n")
        write("sys/class/dmi/id/product_name", "20XW\n")
        write("proc/cpuinfo", "model name\t: Some CPU\n")
        found = read_board(tmp_path)
        assert (found.model, found.is_raspberry_pi) == ("LENOVO 20XW", False)

    @pytest.mark.parametrize(
        ("cpuinfo", "model"),
        [
            ("processor\t: 0\nmodel name\t: Some CPU @ 2.3 GHz\n\nprocessor\t: 1\n", "Some CPU @ 2.3 GHz"),
            (
                "model name\t: ARMv7\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 3 Model B\n",
                "Raspberry Pi 3 Model B",
            ),
            ("", "unknown"),
        ],
    )
    def test_else_the_processor_names_it(
        self, tmp_path: Path, write: Write, cpuinfo: str, model: str
    ) -> None:
        write("proc/cpuinfo", cpuinfo)
        found = read_board(tmp_path)
        assert (found.model, found.memory_mib, found.system) == (model, 0, platform.system())

    def test_it_reads_as_one_line(self) -> None:
        assert str(Board("Raspberry Pi 5", 8063, 4, "aarch64", "Debian 13", "6.12.1")) == (
            "Raspberry Pi 5, 4 x aarch64, 8063 MiB, Debian 13, kernel 6.12.1"
        )


class TestTemperature:
    def test_the_zone_of_the_processor_is_taken(self, tmp_path: Path, write: Write) -> None:
        write("sys/class/thermal/thermal_zone0/type", "acpitz\n")
        write("sys/class/thermal/thermal_zone0/temp", "20000\n")
        write("sys/class/thermal/thermal_zone1/type", "cpu-thermal\n")
        write("sys/class/thermal/thermal_zone1/temp", "48312\n")
        assert temperature(tmp_path) == 48.312

    def test_else_the_chip_of_the_processor_else_any_zone(self, tmp_path: Path, write: Write) -> None:
        assert temperature(tmp_path) is None
        write("sys/class/thermal/thermal_zone0/type", "acpitz\n")
        write("sys/class/thermal/thermal_zone0/temp", "-2500\n")
        assert temperature(tmp_path) == -2.5
        write("sys/class/hwmon/hwmon3/name", "k10temp\n")
        write("sys/class/hwmon/hwmon3/temp1_input", "61000\n")
        assert temperature(tmp_path) == 61.0

    def test_a_zone_that_cannot_be_read_is_passed_over(self, tmp_path: Path, write: Write) -> None:
        write("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
        write("sys/class/thermal/thermal_zone0/temp", "")
        assert temperature(tmp_path) is None


class TestThrottling:
    def test_the_bits_are_told_in_words(self) -> None:
        found = Throttling(0x50005)
        assert found.now == ("under-voltage", "throttled")
        assert found.since_boot == ("under-voltage", "throttled")
        assert Throttling(0xA0000).since_boot == ("frequency capped", "soft temperature limit")
        assert (Throttling(0).now, Throttling(0).since_boot) == ((), ())
        assert Throttling(0xF).now == (
            "under-voltage",
            "frequency capped",
            "throttled",
            "soft temperature limit",
        )

    def test_the_firmware_is_asked_first(self, tmp_path: Path, write: Write) -> None:
        write("sys/devices/platform/soc/soc:firmware/get_throttled", "0\n")
        asked = []

        def run(command: Sequence[str]) -> str:
            asked.append(command)
            return "throttled=0x50000\n"

        assert throttling(tmp_path, run) == Throttling(0x50000)
        assert asked == [("vcgencmd", "get_throttled")]

    def test_else_the_kernel(self, tmp_path: Path, write: Write) -> None:
        assert throttling(tmp_path, nothing) is None
        write("sys/class/hwmon/hwmon1/name", "rpi_volt\n")
        write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n")
        assert throttling(tmp_path, nothing) == Throttling(1)
        write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "0\n")
        assert throttling(tmp_path, nothing) == Throttling(0)
        write("sys/devices/platform/soc/soc:firmware/get_throttled", "80008\n")
        assert throttling(tmp_path, nothing) == Throttling(0x80008)
        assert throttling(tmp_path, lambda _: "VCHI initialization failed\n") == Throttling(0)


class TestSpace:
    def test_free_disk_space_is_that_of_the_nearest_directory(self, tmp_path: Path) -> None:
        free = disk_free(tmp_path)
        stat = os.statvfs(tmp_path)
        assert free is not None
        assert abs(free - stat.f_bavail * stat.f_frsize) < 1 << 30
        assert disk_free(tmp_path / "not" / "yet") is not None

    def test_memory_of_a_process(self, tmp_path: Path, write: Write) -> None:
        write("proc/12/status", "Name:\tpython\nVmHWM:\t   61440 kB\nVmRSS:\t   51200 kB\n")
        assert memory(12, tmp_path) == Memory(resident_mib=50.0, peak_mib=60.0)
        assert Memory(resident_mib=50.0, peak_mib=60.0).resident_mb == 52.4288
        assert memory(13, tmp_path) is None
        own = memory()
        assert own is not None
        assert 5 < own.resident_mib <= own.peak_mib

    def test_memory_that_can_be_had(self, tmp_path: Path, write: Write) -> None:
        assert memory_available(tmp_path) is None
        write("proc/meminfo", "MemTotal: 437500 kB\nMemAvailable: 204800 kB\n")
        assert memory_available(tmp_path) == 200


class TestProcessor:
    @pytest.mark.parametrize(
        ("line", "found"),
        [
            ("flags\t\t: fpu sse4_2 avx avx2 fma", False),
            ("flags\t\t: avx2 avx512f avx512bw avx512vl avx512_bitalg", False),
            ("flags\t\t: avx2 avx512f avx512_vnni", True),
            ("flags\t\t: avx2 avx_vnni", True),
            ("flags\t\t: avx2 avx512_vnni amx_bf16 amx_tile amx_int8", True),
            ("Features\t: fp asimd evtstrm aes crc32 cpuid", False),  # Cortex-A53
            ("Features\t: fp asimd atomics asimdhp asimdrdm lrcpc dcpop asimddp", True),  # Cortex-A76
        ],
    )
    def test_int8_dot_products(self, tmp_path: Path, write: Write, line: str, found: bool) -> None:
        assert not has_int8_dot_products(tmp_path)
        write("proc/cpuinfo", f"processor\t: 0\nmodel name\t: a chip\n{line}\nbugs\t\t: avx_vnni\n\n")
        assert has_int8_dot_products(tmp_path) is found


class TestClock:
    @pytest.mark.parametrize(("bits", "synchronized"), [(0x2001, True), (0x40, False), (None, None)])
    def test_the_kernel_knows(self, tmp_path: Path, bits: int | None, synchronized: bool | None) -> None:
        assert clock_synchronized(tmp_path, lambda: bits) is synchronized

    def test_so_does_timesyncd(self, tmp_path: Path, write: Write) -> None:
        write("run/systemd/timesync/synchronized", "")
        assert clock_synchronized(tmp_path, lambda: 0x40) is True

    def test_this_kernel_answers(self, tmp_path: Path) -> None:
        assert clock_synchronized(tmp_path) in (True, False, None)

    def test_the_status_stands_where_the_kernel_puts_it(self) -> None:
        # After `modes`, padded to a long, and four longs.
        size = ctypes.sizeof(ctypes.c_long)
        assert module._Timex.status.offset == 5 * size


class TestCommands:
    def test_a_command_says_something_or_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert run_command(("printf", "yes\\377")) == "yes�"
        assert run_command(("false",)) is None
        assert run_command(("no-such-command",)) is None
        monkeypatch.setattr(module, "COMMAND_TIMEOUT_SECONDS", 0.02)
        assert run_command(("sleep", "5")) is None
