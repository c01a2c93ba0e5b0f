"""Shared parts of the doctor's tests: boards, accounts, and access to one finding."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edge_siamese.doctor import Finding
from edge_siamese.doctor.findings import Account
from edge_siamese.system.board import Board

PI = Board("Raspberry Pi Zero 2 W Rev 1.0", 427, 4, "aarch64", "Debian GNU/Linux 12", "6.6.31")
WORKSTATION = Board("LENOVO 20XW", 16000, 8, "x86_64", "Debian GNU/Linux 13", "6.12.1")
SERVICE = Account("edge-siamese", 4242, frozenset({4242, 44}))
NOT_RUNNING = "the daemon is not running (nothing listens at /x): sudo systemctl start edge-siamese"
SUPPLY = "use the official power supply, a short cable, and no bus-powered devices"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def only(found: Iterable[Finding]) -> Finding:
    (one,) = found
    return one


def levels(found: Iterable[Finding]) -> list[tuple[str, str]]:
    return [(one.check, one.level) for one in found]
