"""The examination: all checks in order, and none that holds the others up."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge_siamese.doctor import Finding, examine
from edge_siamese.doctor.findings import Scene, service_account
from edge_siamese.errors import DaemonNotRunning
from edge_siamese.settings import (
    Settings,
)
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
        "service",
        "daemon",
        "extras",
    ]
    assert found[0] == Finding("settings", "ok", f"{config} is valid")
    assert all(one.text and (one.remedy or one.level in ("ok", "unknown")) for one in found)
    assert list((root / "state").iterdir()) == []


def test_wrong_settings_are_told_and_the_rest_is_looked_at(root: Path) -> None:
    config = root / "config.toml"
    config.write_text("[camera]\nframe_rate = 0\n")
    seen: list[Settings] = []

    def check(scene: Scene) -> list[Finding]:
        seen.append(scene.settings)
        return [Finding("x", "ok", "fine")]

    found = examine(config, root=root, ask=lambda *_, **__: {}, checks=[("x", check)])
    assert found == [
        Finding(
            "settings",
            "error",
            f"{config}: camera.frame_rate: must be a number from 0.1 to 240, not 0",
            "correct it, and try it with: edge-siamese run --check; the rest was looked at with the defaults",
        ),
        Finding("x", "ok", "fine"),
    ]
    assert seen == [Settings()]


def test_a_check_that_hangs_or_breaks_hides_no_other(root: Path) -> None:
    def hang(_: Scene) -> Iterable[Finding]:
        yield Finding("hang", "ok", "so far")
        time.sleep(2)

    def fail(_: Scene) -> Iterable[Finding]:
        raise KeyError("no\nsuch")

    def works(_: Scene) -> Iterable[Finding]:
        yield Finding("works", "ok", "yes")

    checks = [("hang", hang), ("fail", fail), ("works", works)]
    begun = time.monotonic()
    found = examine(root=root, ask=lambda *_, **__: {}, checks=checks, timeout_s=0.05)[1:]
    assert time.monotonic() - begun < 1
    assert found == [
        Finding("hang", "ok", "so far"),
        Finding(
            "hang",
            "warning",
            "it did not answer within 0.05 s",
            "start the machine anew, and look again: edge-siamese doctor",
        ),
        Finding("fail", "unknown", "it could not be looked at: KeyError: 'no\\nsuch'"),
        Finding("works", "ok", "yes"),
    ]


def test_the_daemon_is_asked_once(root: Path) -> None:
    asked = []

    def ask(path: Path, command: str, *, timeout: float) -> Any:
        asked.append((path, command, timeout))
        raise DaemonNotRunning(NOT_RUNNING)

    def check(scene: Scene) -> list[Finding]:
        return [Finding("x", "ok", scene.silence)]

    assert examine(root=root, ask=ask, checks=[("x", check), ("y", check)])[1].text == NOT_RUNNING
    assert asked == [(Settings().socket, "status", 5.0)]


def test_whom_the_daemon_runs_as_is_found() -> None:
    found = service_account()
    assert found.name in ("edge-siamese", "root") or found.uid == os.geteuid()
