"""Carries out all checks, each bounded in time, so that one that hangs or breaks hides no other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edge_siamese.daemon.client import request
from edge_siamese.doctor import devices, installation, integrations, machine
from edge_siamese.doctor.findings import Account, Finding, Scene, service_account
from edge_siamese.errors import EdgeSiameseError, SettingsError
from edge_siamese.settings import Settings, default_config, load_settings
from edge_siamese.system.board import ROOT, Run, read_board, run_command

CHECK_TIMEOUT_SECONDS = 30.0
"""For one check: a self-test on a small board, or libcamera's first look for cameras, takes seconds."""
STATUS_TIMEOUT_SECONDS = 5.0

Check = Callable[[Scene], Iterable[Finding]]
CHECKS: tuple[tuple[str, Check], ...] = (
    ("board", machine.board),
    ("temperature", machine.heat),
    ("power", machine.power),
    ("memory", machine.free_memory),
    ("clock", machine.clock),
    ("state", installation.state),
    ("runtime", installation.runtime),
    ("model", installation.model),
    ("store", installation.store),
    ("permissions", devices.permissions),
    ("camera", devices.camera),
    ("panel", devices.panel),
    ("service", machine.service),
    ("daemon", machine.daemon),
    ("extras", integrations.extras),
)
"""In the order in which they are told: what others depend on comes first."""


def examine(
    config: str | os.PathLike[str] | None = None,
    *,
    root: Path = ROOT,
    run: Run = run_command,
    account: Account | None = None,
    ask: Callable[..., Any] = request,
    checks: Iterable[tuple[str, Check]] = CHECKS,
    timeout_s: float = CHECK_TIMEOUT_SECONDS,
) -> list[Finding]:
    """Look at everything that recognizing depends on; changes nothing, and leaves the camera to a daemon that has it.

    Args:
        config: the settings file; None: the one that the daemon would read.
        root: of the file system to look at.
        run: runs a command.
        account: whom the daemon runs as; None: the service's account, or this one.
        ask: asks the daemon; see `daemon.client.request`.
        checks: names and functions.
        timeout_s: for each of them.

    Returns:
        At least one finding for each check, in their order.
    """
    settings, found = _settings(config)
    status, silence = _status(settings, ask)
    scene = Scene(
        settings=settings,
        board=read_board(root),
        account=account or service_account(),
        root=root,
        run=run,
        daemon=status,
        silence=silence,
    )
    findings = [found]
    for name, check in checks:
        findings += _bounded(name, check, scene, timeout_s)
    return findings


def _settings(config: str | os.PathLike[str] | None) -> tuple[Settings, Finding]:
    """The settings, or the defaults if they are wrong."""
    try:
        path = Path(config) if config else default_config()
        settings = load_settings(path)
    except SettingsError as error:
        remedy = (
            "correct it, and try it with: edge-siamese run --check; the rest was looked at with the defaults"
        )
        return Settings(), Finding("settings", "error", str(error), remedy)
    return settings, Finding("settings", "ok", f"{path} is valid" if path else "no file: the defaults")


def _status(settings: Settings, ask: Callable[..., Any]) -> tuple[dict[str, Any] | None, str]:
    try:
        found = ask(settings.socket, "status", timeout=STATUS_TIMEOUT_SECONDS)
    except EdgeSiameseError as error:
        return None, str(error)
    return (
        (found, "") if isinstance(found, dict) else (None, "the daemon answers something else than a status")
    )


def _bounded(name: str, check: Check, scene: Scene, timeout_s: float) -> list[Finding]:
    """What a check finds; if it takes too long, its thread is left behind, and ends with the process."""
    found: list[Finding] = []

    def look() -> None:
        try:
            found.extend(check(scene))
        except Exception as error:
            text = " ".join(f"it could not be looked at: {type(error).__name__}: {error}".split())
            found.append(Finding(name, "unknown", text))

    thread = threading.Thread(target=look, name=f"doctor-{name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if thread.is_alive():
        return [
            *found,
            Finding(
                name,
                "warning",
                f"it did not answer within {timeout_s:g} s",
                "start the machine anew, and look again: edge-siamese doctor",
            ),
        ]
    return found
