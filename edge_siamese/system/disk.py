"""How much of the disk is left alone by what comes from elsewhere, so that the device itself can go on writing."""

from __future__ import annotations

import shutil
from pathlib import Path

RESERVE = 64 << 20
"""Bytes that collections and what a fleet brings have to leave free."""


def is_nearly_full(directory: Path) -> bool:
    """Whether there is no room for what comes from elsewhere; one that cannot be asked is not full."""
    try:
        return shutil.disk_usage(directory).free < RESERVE
    except OSError:
        return False
