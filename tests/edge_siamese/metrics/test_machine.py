"""What is read of the machine, from trees of files that look like it."""

from __future__ import annotations

from pathlib import Path

from edge_siamese.metrics.machine import CONDITIONS, Machine, memory_limit, read_machine
from edge_siamese.system.board import Throttling

GIB = 1024**3


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_conditions_are_all_four_that_the_firmware_has() -> None:
    assert CONDITIONS == ("under-voltage", "frequency capped", "throttled", "soft temperature limit")


def test_a_board_is_read_from_files(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal:        4000000 kB\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "61500\n",
            "sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n",
        },
    )
    found = read_machine(tmp_path, tmp_path)
    assert found.temperature_c == 61.5
    assert found.throttling == Throttling(0x50005)
    assert found.memory_limit == 3906 * 1024**2
    assert found.disk_free is not None and found.disk_free > 0


def test_nothing_is_known_of_an_empty_machine(tmp_path: Path) -> None:
    found = read_machine(tmp_path, tmp_path)
    assert (found.temperature_c, found.throttling, found.memory_limit) == (None, None, None)
    assert Machine() == Machine(None, None, None, None)


def test_the_limit_is_the_least_of_the_control_groups_and_all_memory(tmp_path: Path) -> None:
    service = "sys/fs/cgroup/system.slice/edge-siamese.service"
    write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal:        1048576 kB\n",
            "proc/self/cgroup": "0::/system.slice/edge-siamese.service\n",
            f"{service}/memory.max": "max\n",
        },
    )
    assert memory_limit(tmp_path) == GIB
    write(tmp_path, {"sys/fs/cgroup/system.slice/memory.max": f"{GIB // 2}\n"})
    assert memory_limit(tmp_path) == GIB // 2
    write(tmp_path, {f"{service}/memory.max": f"{GIB // 4}\n"})
    assert memory_limit(tmp_path) == GIB // 4
    # A limit beyond what there is limits nothing.
    write(
        tmp_path, {f"{service}/memory.max": f"{GIB * 4}\n", "sys/fs/cgroup/system.slice/memory.max": "max\n"}
    )
    assert memory_limit(tmp_path) == GIB


def test_other_hierarchies_and_missing_files_are_no_limit(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/meminfo": "MemTotal:        1048576 kB\n",
            "proc/self/cgroup": "4:memory:/elsewhere\n1:name=systemd:/x\n",
        },
    )
    assert memory_limit(tmp_path) == GIB
