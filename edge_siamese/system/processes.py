"""Finds the process that has a file, device or socket open."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from edge_siamese.errors import printable


def process_using(targets: Collection[str], proc: Path = Path("/proc")) -> str:
    """Find a process that has one of these files open.

    Args:
        targets: targets of the links in /proc/PID/fd, such as `/dev/video0` or `socket:[4711]`.
        proc: the mounted proc file system.

    Returns:
        Its id and name, as in `process 417 (nginx)`; empty if there is none that this user may examine.
    """
    for folder in sorted(proc.glob("[0-9]*")):
        with suppress(OSError):
            if any(_link(descriptor) in targets for descriptor in (folder / "fd").iterdir()):
                name = (folder / "comm").read_text("utf-8", "replace").strip()
                return printable(f"process {folder.name} ({name})")
    return ""


def _link(descriptor: Path) -> str:
    """Target of a descriptor; empty if it has been closed since the folder was listed."""
    with suppress(OSError):
        return os.readlink(descriptor)
    return ""
