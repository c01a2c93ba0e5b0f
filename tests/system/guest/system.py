"""Runs in the virtual machine: commands, files, kernel modules, and the state of the service."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

SERVICE = "edge-siamese.service"


def run(command: list[str], timeout: float = 60, input: str = "") -> dict[str, Any]:
    """Run a command to its end."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=timeout, input=input)
    return {"status": ran.returncode, "out": ran.stdout, "err": ran.stderr}


def write(path: str, text: str) -> None:
    """Write a file whole, or a switch of the kernel."""
    Path(path).write_text(text)


def read(path: str) -> str:
    """Read a file; empty if there is none."""
    found = Path(path)
    return found.read_text() if found.exists() else ""


def uptime() -> float:
    """Seconds since the kernel started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def service(*properties: str) -> dict[str, str]:
    """What systemd says of the service."""
    names = properties or ("ActiveState", "SubState", "MainPID", "NRestarts", "StatusText", "Result")
    shown = run(["systemctl", "show", SERVICE, *(f"--property={name}" for name in names)])
    return dict(line.split("=", 1) for line in shown["out"].splitlines() if "=" in line)


def events(path: str = "/var/lib/edge-siamese/events.jsonl") -> list[dict[str, Any]]:
    """What the daemon has written down."""
    return [json.loads(line) for line in read(path).splitlines()]
