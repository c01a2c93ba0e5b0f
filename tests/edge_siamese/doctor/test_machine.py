"""Checks of the machine: heat, power, memory, clock, and the service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edge_siamese.doctor import Finding, machine
from edge_siamese.doctor.findings import Context
from edge_siamese.system.board import Board
from tests.edge_siamese.doctor.machines import PI, SUPPLY, WORKSTATION, levels, only, write


@pytest.mark.parametrize(
    ("board", "level", "end"),
    [
        (PI, "ok", "kernel 6.6.31"),
        (WORKSTATION, "ok", "kernel 6.12.1; not a Raspberry Pi"),
        (replace(PI, architecture="armv7l"), "error", "no inference runtime is published for armv7l"),
    ],
)
def test_board(context: Context, board: Board, level: str, end: str) -> None:
    found = only(machine.check_board(replace(context, board=board)))
    assert (found.level, found.text.endswith(end)) == (level, True)


@pytest.mark.parametrize(("degrees", "level"), [(48_300, "ok"), (75_000, "warning")])
def test_temperature(context: Context, degrees: int, level: str) -> None:
    write(context.root / "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    write(context.root / "sys/class/thermal/thermal_zone0/temp", f"{degrees}\n")
    found = only(machine.check_temperature(context))
    assert found.level == level
    assert found.text.startswith(f"{degrees // 1000} °C")


@pytest.mark.parametrize(
    ("said", "finding"),
    [
        ("throttled=0x0", Finding("power", "ok", "not throttled since the last boot")),
        ("throttled=0x50005", Finding("power", "error", "now: under-voltage, throttled", SUPPLY)),
        (
            "throttled=0x80008",
            Finding(
                "power",
                "error",
                "now: soft temperature limit",
                "improve the cooling: more air, or a heat sink",
            ),
        ),
        ("throttled=0x10000", Finding("power", "warning", "since the last boot: under-voltage", SUPPLY)),
        (
            None,
            Finding(
                "power",
                "unknown",
                "the firmware does not report throttling",
                "sudo apt install raspi-utils, then: sudo edge-siamese doctor",
            ),
        ),
    ],
)
def test_power(context: Context, said: str | None, finding: Finding) -> None:
    assert only(machine.check_power(replace(context, run=lambda _: said))) == finding


def test_a_workstation_has_no_firmware(context: Context) -> None:
    found = only(machine.check_power(replace(context, board=WORKSTATION)))
    assert found == Finding("power", "ok", "only the firmware of a Raspberry Pi reports throttling")


@pytest.mark.parametrize(
    ("available", "level", "text"),
    [
        (204_800, "ok", "200 of 427 MiB are available"),
        (40_960, "warning", "40 of 427 MiB are available"),
    ],
)
def test_memory(context: Context, available: int, level: str, text: str) -> None:
    write(context.root / "proc/meminfo", f"MemAvailable: {available} kB\n")
    found = only(machine.check_memory(context))
    assert (found.level, found.text) == (level, text)


def test_clock(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    for state, level in ((True, "ok"), (False, "warning"), (None, "unknown")):
        monkeypatch.setattr(machine, "clock_synchronized", lambda _, state=state: state)
        assert only(machine.check_clock(context)).level == level


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (None, [("unknown", "systemd is not running on this machine", "")]),
        ("LoadState=not-found\n", [("unknown", "edge-siamese.service is not installed", "")]),
        (
            "LoadState=loaded\nUnitFileState=enabled\nActiveState=active\nNRestarts=0\nMainPID=12\n",
            [("ok", "active: 50 MiB, peak 60 MiB", "")],
        ),
        (
            "LoadState=loaded\nUnitFileState=disabled\nActiveState=active\nNRestarts=3\nResult=watchdog\n",
            [
                ("ok", "active", ""),
                (
                    "warning",
                    "systemd restarted it 3 times because it stopped responding",
                    "find out why: journalctl -u edge-siamese -e",
                ),
                (
                    "warning",
                    "it does not start at boot",
                    "sudo systemctl enable edge-siamese",
                ),
            ],
        ),
        (
            "LoadState=loaded\nUnitFileState=enabled\nActiveState=failed\nResult=exit-code\nNRestarts=0\n",
            [
                (
                    "error",
                    "it failed (exit-code)",
                    "find out why: journalctl -u edge-siamese -e; then: sudo systemctl restart edge-siamese",
                )
            ],
        ),
        (
            "LoadState=loaded\nUnitFileState=enabled\nActiveState=inactive\nNRestarts=0\n",
            [
                (
                    "warning",
                    "it is inactive",
                    "sudo systemctl start edge-siamese; find out why: journalctl -u edge-siamese -e",
                )
            ],
        ),
    ],
)
def test_service(context: Context, said: str | None, found: list[tuple[str, str, str]]) -> None:
    write(context.root / "proc/12/status", "VmHWM: 61440 kB\nVmRSS: 51200 kB\n")
    asked: list[Sequence[str]] = []

    def run(command: Sequence[str]) -> str | None:
        asked.append(command)
        return said

    findings = list(machine.check_service(replace(context, run=run)))
    assert [(one.level, one.text, one.remedy) for one in findings] == found
    assert asked[0][:3] == ("systemctl", "show", "edge-siamese")


@pytest.mark.parametrize(
    ("status", "level", "text"),
    [
        ({"line": "sees mug; 3 objects", "fault": "", "model": {}}, "ok", "sees mug; 3 objects"),
        (
            {"line": "no model is installed", "fault": "no model is installed", "model": None},
            "error",
            "it cannot recognize objects: no model is installed",
        ),
    ],
)
def test_daemon(context: Context, status: dict[str, Any], level: str, text: str) -> None:
    found = only(machine.check_daemon(replace(context, daemon=status, unreachable="")))
    assert (found.level, found.text) == (level, text)


def test_a_stopped_daemon(context: Context) -> None:
    assert only(machine.check_daemon(context)) == Finding(
        "daemon",
        "warning",
        "the daemon is not running (nothing listens at /x)",
        "sudo systemctl start edge-siamese",
    )


def test_parts_in_quarantine_and_damaged_views_have_different_remedies(context: Context) -> None:
    assert levels(machine.check_quarantine(context)) == [("quarantine", "ok")]
    parts = [
        {"id": "view-3", "text": 'view 3 of "mug" is not used: it failed'},
        {"id": "damaged-view-2", "text": 'view 2 of "pen" is not used: its embedding is damaged'},
    ]
    found = list(machine.check_quarantine(replace(context, daemon={"quarantine": parts})))
    assert [(one.level, one.text) for one in found] == [("warning", part["text"]) for part in parts]
    assert [one.remedy for one in found] == [
        "repair the cause, then: edge-siamese quarantine restore view-3",
        "register the view again, then remove this one: edge-siamese objects remove-view",
    ]


def test_objects_that_look_like_the_surroundings_need_another_view(context: Context) -> None:
    def found(daemon: dict[str, object] | None) -> list[Finding]:
        return list(machine.check_surroundings(replace(context, daemon=daemon)))

    assert [one.level for one in found(None)] == ["unknown"]
    assert [one.level for one in found({"surroundings": None})] == ["unknown"]
    off = {"enabled": False, "scenes": 0, "near": []}
    assert found({"surroundings": off}) == [Finding("surroundings", "ok", "learning is off")]
    clear = {"enabled": True, "scenes": 1, "near": []}
    assert found({"surroundings": clear}) == [
        Finding("surroundings", "ok", "no object looks like anything else that this camera sees (1 scene)")
    ]
    near = [{"name": "red mug", "text": "98.1 % of what this camera sees is further away"}]
    assert found({"surroundings": {"enabled": True, "scenes": 50, "near": near}}) == [
        Finding(
            "surroundings",
            "warning",
            "red mug: only 98.1 % of what this camera sees is further away",
            "register another view: edge-siamese register 'red mug' --view",
        )
    ]
