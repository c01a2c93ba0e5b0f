"""What the metrics tell of the machine: read from a few small files, without running anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_siamese.system import board

CONDITIONS = board.Throttling(0b1111).now
"""Of which the firmware of a Raspberry Pi tells while it slows the board down."""
_GROUPS = Path("sys/fs/cgroup")


@dataclass(frozen=True)
class Machine:
    """How the machine is; None is what cannot be known here."""

    temperature_c: float | None = None
    throttling: board.Throttling | None = None
    memory_limit: int | None = None
    """Bytes that the daemon may take."""
    disk_free: int | None = None
    """Bytes that may still be written beside the objects."""


def read_machine(state: Path, root: Path = board.ROOT) -> Machine:
    """Look at this machine.

    Args:
        state: the directory of the objects.
        root: of the file system.
    """
    return Machine(
        temperature_c=board.temperature(root),
        throttling=board.throttling(root, run=lambda _: None),
        memory_limit=memory_limit(root),
        disk_free=board.disk_free(state),
    )


def memory_limit(root: Path = board.ROOT) -> int | None:
    """What this process may take, in bytes: what its control groups allow, or else all memory; None if unknown."""
    total = board.read_board(root).memory_mib * 1024**2
    limits = [total] if total else []
    # The one hierarchy of version 2 is the line "0::/system.slice/edge-siamese.service".
    own = next((line[3:] for line in _lines(root / "proc/self/cgroup") if line.startswith("0::/")), "/")
    group = root / _GROUPS / own.strip("/")
    while group != root / _GROUPS:
        limits += [int(line) for line in _lines(group / "memory.max") if line.isdecimal()]
        group = group.parent
    return min(limits, default=None)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
