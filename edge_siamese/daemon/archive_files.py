"""Where collections lie while they come and go, and how many and how large they may be."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from edge_siamese.errors import ControlError

INCOMING: Literal["incoming"] = "incoming"
OUTGOING: Literal["outgoing"] = "outgoing"
"""Folders of the state directory."""
MAX_UPLOADS = 2
"""Collections that may come at a time."""
MAX_UPLOADED = 2 << 30
"""Bytes of a collection that can be brought in."""


def transit(state: Path, name: Literal["incoming", "outgoing"]) -> Path:
    """The folder of this name, which is made if there is none, for the service alone; raises `ControlError`."""
    place = state / name
    try:
        place.mkdir(parents=True, exist_ok=True)
        os.chmod(place, 0o700)
    except OSError as error:
        raise ControlError(f"{place} cannot be made: {error.strerror}") from error
    return place


def clear_away(state: Path) -> None:
    """Remove the collections that a daemon before left half way."""
    for name in (INCOMING, OUTGOING):
        shutil.rmtree(state / name, ignore_errors=True)
