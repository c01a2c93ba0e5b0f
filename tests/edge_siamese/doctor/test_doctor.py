"""The doctor: all checks in order, and none that blocks the others."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge_siamese.doctor import Finding, examine
from edge_siamese.doctor.findings import Context, service_account
from edge_siamese.errors import DaemonNotRunning
from edge_siamese.settings import Settings
from tests.edge_siamese.doctor.machines import NOT_RUNNING


def test_every_check_finds_something_on_this_machine(root: Path) -> None:
    config = root / "config.toml"
    config.write_text(
        f'[paths]\nstate = "{root}/state"\nruntime = "{root}/run"\n[camera]\nkind = "synthetic"\n'
        '[panel]\nkind = "none"\n'
    )
    found = examine(config, root=root, run=lambda _: None)
    assert [one.check for one in found] == [
        "settings",
        "board",
        "temperature",
        "power",
        "memory",
        "clock",
        "state",
        "disk",
        "runtime",
        "model",
        "store",
        "permissions",
        "camera",
        "panel",
        "sound",
        "service",
        "daemon",
        "quarantine",
        "surroundings",
        "integrations",
        "secrets",
    ]
    assert found[0] == Finding("settings", "ok", f"{config} is valid")
    assert all(one.text and (one.remedy or one.level in ("ok", "unknown")) for one in found)
    assert list((root / "state").iterdir()) == []


def test_invalid_settings_are_reported_and_other_checks_run(root: Path) -> None:
    config = root / "config.toml"
    config.write_text("[camera]\nframe_rate = 0\n")
    seen: list[Settings] = []

    def check(context: Context) -> list[Finding]:
        seen.append(context.settings)
        return [Finding("x", "ok", "fine")]

    found = examine(config, root=root, request_status=lambda *_, **__: {}, checks=[("x", check)])
    assert found == [
        Finding(
            "settings",
            "error",
            f"{config}: camera.frame_rate: must be a number from 0.1 to 240, not 0 (at line 2)",
            "correct the file, then check it: edge-siamese config check; all other checks used the default settings",
        ),
        Finding("x", "ok", "fine"),
    ]
    assert seen == [Settings()]


def test_a_check_that_hangs_or_fails_does_not_affect_others(root: Path) -> None:
    released = threading.Event()

    def hang(_: Context) -> Iterable[Finding]:
        yield Finding("hang", "ok", "so far")
        released.wait(60)

    def fail(_: Context) -> Iterable[Finding]:
        raise KeyError("no\nsuch")

    def works(_: Context) -> Iterable[Finding]:
        yield Finding("works", "ok", "yes")

    checks = [("hang", hang), ("fail", fail), ("works", works)]
    found = examine(root=root, request_status=lambda *_, **__: {}, checks=checks, timeout_s=1)[1:]
    released.set()
    assert found == [
        Finding("hang", "ok", "so far"),
        Finding(
            "hang",
            "warning",
            "no answer within 1 s",
            "restart the machine, then run edge-siamese doctor again",
        ),
        Finding("fail", "unknown", "the check failed: KeyError: 'no\\nsuch'"),
        Finding("works", "ok", "yes"),
    ]


def test_the_daemon_status_is_requested_once(root: Path) -> None:
    asked = []

    def ask(path: Path, command: str, *, timeout: float) -> Any:
        asked.append((path, command, timeout))
        raise DaemonNotRunning(NOT_RUNNING)

    def check(context: Context) -> list[Finding]:
        return [Finding("x", "ok", context.unreachable)]

    assert examine(root=root, request_status=ask, checks=[("x", check), ("y", check)])[1].text == NOT_RUNNING
    assert asked == [(Settings().socket, "settings", 5.0)]


def test_the_service_account_is_detected() -> None:
    found = service_account()
    assert found.name in ("edge-siamese", "root") or found.uid == os.geteuid()
