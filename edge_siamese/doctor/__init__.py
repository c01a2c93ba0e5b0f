"""The doctor: checks everything that recognition depends on, and names a remedy for each problem.

Each check runs on its own thread with a time limit, so that a check that hangs or fails does not affect the others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from edge_siamese.daemon.client import NOT_RUNNING, Installation, find_installation, request
from edge_siamese.doctor import devices, installation, integrations, machine
from edge_siamese.doctor.findings import Account, Context, Finding, Level, service_account
from edge_siamese.errors import EdgeSiameseError, SettingsError
from edge_siamese.settings import Settings
from edge_siamese.settings_file import default_config
from edge_siamese.system.board import ROOT, Run, read_board, run_command

__all__ = ["CHECKS", "Check", "Finding", "Level", "examine"]

CHECK_TIMEOUT_SECONDS = 30.0
"""Limit for one check: a self-test on a small board, or libcamera's first search for cameras, takes seconds."""
STATUS_TIMEOUT_SECONDS = 5.0

Check = Callable[[Context], Iterable[Finding]]
CHECKS: tuple[tuple[str, Check], ...] = (
    ("board", machine.check_board),
    ("temperature", machine.check_temperature),
    ("power", machine.check_power),
    ("memory", machine.check_memory),
    ("clock", machine.check_clock),
    ("state", installation.check_state),
    ("runtime", installation.check_runtime),
    ("model", installation.check_model),
    ("store", installation.check_store),
    ("permissions", devices.check_permissions),
    ("camera", devices.check_camera),
    ("panel", devices.check_panel),
    ("sound", devices.check_sound),
    ("service", machine.check_service),
    ("daemon", machine.check_daemon),
    ("quarantine", machine.check_quarantine),
    ("surroundings", machine.check_surroundings),
    ("integrations", integrations.check_integrations),
    ("secrets", integrations.check_secrets),
)
"""In the order of the report: dependencies come first."""


def examine(
    config: str | os.PathLike[str] | None = None,
    *,
    root: Path = ROOT,
    run: Run = run_command,
    account: Account | None = None,
    request_status: Callable[..., Any] = request,
    checks: Iterable[tuple[str, Check]] = CHECKS,
    timeout_s: float = CHECK_TIMEOUT_SECONDS,
) -> list[Finding]:
    """Run all checks. They change nothing, and do not touch the camera of a running daemon.

    Args:
        config: the settings file; None: the file that the daemon would read.
        root: root of the file system to examine.
        run: runs a command.
        account: the account that the daemon runs as; None: the service's account if there is one, or the caller's.
        request_status: sends a request to the daemon; see `daemon.client.request`.
        checks: names and functions of the checks.
        timeout_s: limit for each check, in seconds.

    Returns:
        At least one finding for each check, in their order.
    """
    installation, settings_finding = _check_settings(config, request_status)
    status, unreachable = _daemon_status(installation, request_status)
    context = Context(
        settings=installation.settings,
        board=read_board(root),
        account=account or service_account(),
        root=root,
        run=run,
        daemon=status,
        unreachable=unreachable,
        config=installation.file,
    )
    findings = [settings_finding]
    for name, check in checks:
        findings += _run_check(name, check, context, timeout_s)
    return findings


def _check_settings(
    config: str | os.PathLike[str] | None, request_status: Callable[..., Any]
) -> tuple[Installation, Finding]:
    """Return the settings that the daemon uses; if none is running, those in the file, or the defaults if it is invalid."""
    try:
        installation = find_installation(config, request_status)
    except SettingsError as error:
        remedy = "correct the file, then check it: edge-siamese config check; all other checks used the default settings"
        file = Path(config) if config else default_config()
        return Installation(Settings(), file), Finding("settings", "error", str(error), remedy)
    file = installation.file
    if installation.difference:
        remedy = "check the file: edge-siamese config check; then: sudo systemctl reload edge-siamese"
        return installation, Finding("settings", "warning", installation.difference, remedy)
    text = f"{file} is valid" if file else "no file; defaults are used"
    return installation, Finding("settings", "ok", text)


def _daemon_status(
    installation: Installation, request_status: Callable[..., Any]
) -> tuple[dict[str, Any] | None, str]:
    """Return the daemon's status, or None and why there is none."""
    if installation.unreachable.startswith(NOT_RUNNING):
        return None, installation.unreachable
    try:
        status = request_status(installation.settings.socket, "status", timeout=STATUS_TIMEOUT_SECONDS)
    except EdgeSiameseError as error:
        return None, str(error)
    return (status, "") if isinstance(status, dict) else (None, "the daemon's answer is not a status")


def _run_check(name: str, check: Check, context: Context, timeout_s: float) -> list[Finding]:
    """Return the findings of a check; a thread that takes too long ends with the process."""
    findings: list[Finding] = []

    def run() -> None:
        try:
            findings.extend(check(context))
        except Exception as error:
            text = " ".join(f"the check failed: {type(error).__name__}: {error}".split())
            findings.append(Finding(name, "unknown", text))

    thread = threading.Thread(target=run, name=f"doctor-{name}", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not thread.is_alive():
        return findings
    return [
        *findings,
        Finding(
            name,
            "warning",
            f"no answer within {timeout_s:g} s",
            "restart the machine, then run edge-siamese doctor again",
        ),
    ]
