"""Checks of the machine: heat, power, memory, clock, and the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edge_siamese.doctor import Finding, machine
from edge_siamese.doctor.findings import Scene
from edge_siamese.system.board import Board
from tests.edge_siamese.doctor.machines import PI, SUPPLY, WORKSTATION, only, write


@pytest.mark.parametrize(
    ("board", "level", "end"),
    [
        (PI, "ok", "kernel 6.6.31"),
        (WORKSTATION, "ok", "kernel 6.12.1; not a Raspberry Pi"),
        (replace(PI, architecture="armv7l"), "error", "no inference runtime is published for armv7l"),
    ],
)
def test_board(scene: Scene, board: Board, level: str, end: str) -> None:
    found = only(machine.board(replace(scene, board=board)))
    assert (found.level, found.text.endswith(end)) == (level, True)


@pytest.mark.parametrize(("degrees", "level"), [(48_300, "ok"), (75_000, "warning")])
def test_temperature(scene: Scene, degrees: int, level: str) -> None:
    write(scene.root / "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(scene.root / "sys/class/thermal/thermal_zone0/temp", f"{degrees}\n")
    found = only(machine.heat(scene))
    assert found.level == level
    assert found.text.startswith(f"{degrees // 1000} °C")


@pytest.mark.parametrize(
    ("said", "finding"),
    [
        ("throttled=0x0", Finding("power", "ok", "not throttled since it was started")),
        ("throttled=0x50005", Finding("power", "error", "now: under-voltage, throttled", SUPPLY)),
        (
            "throttled=0x80008",
            Finding("power", "error", "now: soft temperature limit", "give it air or a heat sink"),
        ),
        ("throttled=0x10000", Finding("power", "warning", "since it was started: under-voltage", SUPPLY)),
        (
            None,
            Finding(
                "power",
                "unknown",
                "the firmware cannot be asked",
                "sudo apt install raspi-utils, and sudo edge-siamese doctor",
            ),
        ),
    ],
)
def test_power(scene: Scene, said: str | None, finding: Finding) -> None:
    assert only(machine.power(replace(scene, run=lambda _: said))) == finding


def test_a_workstation_has_no_firmware_to_ask(scene: Scene) -> None:
    found = only(machine.power(replace(scene, board=WORKSTATION)))
    assert found == Finding("power", "ok", "not a Raspberry Pi: no firmware to ask")


@pytest.mark.parametrize(
    ("available", "level", "text"),
    [
        (204_800, "ok", "200 MiB are available of 427"),
        (40_960, "warning", "40 MiB are available of 427"),
    ],
)
def test_memory(scene: Scene, available: int, level: str, text: str) -> None:
    write(scene.root / "proc/meminfo", f"MemAvailable: {available} kB\n")
    found = only(machine.free_memory(scene))
    assert (found.level, found.text) == (level, text)


def test_clock(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    for state, level in ((True, "ok"), (False, "warning"), (None, "unknown")):
        monkeypatch.setattr(machine, "clock_synchronized", lambda _, state=state: state)
        assert only(machine.clock(scene)).level == level


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (None, [("unknown", "systemd does not run here", "")]),
        ("LoadState=not-found\n", [("unknown", "edge-siamese.service is not installed", "")]),
        (
            "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nNRestarts=0\nMainPID=12\n",
            [("ok", "active: 50 MiB, 60 at most", "")],
        ),
        (
            "LoadState=loaded\nUnitFileState=disabled\nActiveState=active\nNRestarts=3\nResult=watchdog\n",
            [
                ("ok", "active", ""),
                (
                    "warning",
                    "systemd has restarted it 3 times after it stopped answering",
                    "see why: journalctl -u edge-siamese -e",
                ),
                (
                    "warning",
                    "it is not started with the machine",
                    "sudo systemctl enable edge-siamese",
                ),
            ],
        ),
        (
            "LoadState=loaded\nUnitFileState=enabled\nActiveState=failed\nResult=exit-code\nNRestarts=0\n",
            [
                (
                    "error",
                    "it has failed (exit-code)",
                    "see why: journalctl -u edge-siamese -e; then sudo systemctl restart edge-siamese",
                )
            ],
        ),
        (
            "LoadState=loaded\nUnitFileState=enabled\nActiveState=inactive\nNRestarts=0\n",
            [
                (
                    "warning",
                    "it is inactive",
                    "sudo systemctl start edge-siamese; see why: journalctl -u edge-siamese -e",
                )
            ],
        ),
    ],
)
def test_service(scene: Scene, said: str | None, found: list[tuple[str, str, str]]) -> None:
    write(scene.root / "proc/12/status", "VmHWM: 61440 kB\nVmRSS: 51200 kB\n")
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> str | None:
        asked.append(command)
        return said

    findings = list(machine.service(replace(scene, run=run)))
    assert [(one.level, one.text, one.remedy) for one in findings] == found
    assert asked[0][:3] == ("systemctl", "show", "edge-siamese")


@pytest.mark.parametrize(
    ("status", "level", "text"),
    [
        ({"line": "sees mug; 3 objects", "fault": "", "model": {}}, "ok", "sees mug; 3 objects"),
        (
            {"line": "no model is installed", "fault": "no model is installed", "model": None},
            "error",
            "it cannot recognize: no model is installed",
        ),
    ],
)
def test_daemon(scene: Scene, status: dict[str, Any], level: str, text: str) -> None:
    found = only(machine.daemon(replace(scene, daemon=status, silence="")))
    assert (found.level, found.text) == (level, text)


def test_a_daemon_that_does_not_run(scene: Scene) -> None:
    assert only(machine.daemon(scene)) == Finding(
        "daemon",
        "warning",
        "the daemon is not running (nothing listens at /x)",
        "sudo systemctl start edge-siamese",
    )
