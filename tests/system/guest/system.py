"""Runs in the virtual machine: commands, files, kernel modules, and the state of the service."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

SERVICE = "edge-siamese.service"
SOCKET = "/run/edge-siamese/control.sock"
CONFIG = "/etc/edge-siamese/config.toml"


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


def ask(command: str, timeout: float = 60, **fields: Any) -> Any:
    """What the daemon answers at its control socket; its error as {"error": text}."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(SOCKET)
        with connection.makefile("rw", encoding="utf-8") as stream:
            stream.write(json.dumps({"command": command, **fields}) + "\n")
            stream.flush()
            while line := stream.readline():
                reply = json.loads(line)
                if "ok" in reply:
                    return reply["result"] if reply["ok"] else {"error": reply["error"]}
    raise EOFError("the daemon has closed the connection")


def start_with(config: str) -> None:
    """Restart the service with these settings."""
    write(CONFIG, config)
    ran = run(["systemctl", "restart", SERVICE], timeout=150)
    if ran["status"]:
        raise RuntimeError(ran["err"] + journal())


def journal(lines: int = 60) -> str:
    """The end of what the service said."""
    return str(
        run(
            ["journalctl", "--no-pager", "--unit", SERVICE, "--lines", str(lines), "--output=short-monotonic"]
        )["out"]
    )


def wait_for_status(wanted: dict[str, Any], seconds: float = 60) -> dict[str, Any]:
    """The daemon's status once it has values such as {"camera.status": "running", "frames": 3}; numbers: at least."""
    deadline = time.monotonic() + seconds
    status: dict[str, Any] = {}
    while time.monotonic() < deadline:
        try:
            status = ask("status")
        except (OSError, EOFError):
            time.sleep(0.2)
            continue
        if all(_holds(status, path, value) for path, value in wanted.items()):
            return status
        time.sleep(0.1)
    raise TimeoutError(f"not {wanted} within {seconds:g} s, but {json.dumps(status)}\n{journal()}")


def _holds(status: dict[str, Any], path: str, wanted: Any) -> bool:
    found: Any = status
    for key in path.split("."):
        found = None if found is None else found.get(key)
    if isinstance(wanted, bool) or not isinstance(wanted, (int, float)):
        return bool(found == wanted)
    return found is not None and found >= wanted


def wait_for_event(kind: str, after: int = 0, seconds: float = 30) -> dict[str, Any]:
    """The first event of a kind that the daemon wrote down after so many others."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for event in events()[after:]:
            if event["kind"] == kind:
                return event
        time.sleep(0.1)
    raise TimeoutError(f"no event {kind} within {seconds:g} s, but {events()[after:]}\n{journal()}")
