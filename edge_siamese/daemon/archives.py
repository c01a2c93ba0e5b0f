"""Temporary files of imported and exported archives, with limits on their number and size."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from pathlib import Path
from typing import Literal

from edge_siamese.errors import ControlError
from edge_siamese.system.files import DISK_RESERVE_BYTES

INCOMING: Literal["incoming"] = "incoming"
OUTGOING: Literal["outgoing"] = "outgoing"
"""Directories below the state directory."""
MAX_UPLOADS = 2
"""Archives that may be uploaded at the same time."""
MAX_UPLOAD_BYTES = 2 << 30
ABANDONED_SECONDS = 3600.0
"""An upload that has not grown for this long is deleted."""


def archive_directory(state: Path, name: Literal["incoming", "outgoing"]) -> Path:
    """Return a directory for archives, created for the service alone if needed; raises `ControlError`."""
    directory = state / name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        os.chmod(directory, 0o700)
    except OSError as error:
        raise ControlError(f"{directory} cannot be created: {error.strerror}") from error
    return directory


def remove_leftovers(state: Path) -> None:
    """Delete the archives that an interrupted daemon left behind."""
    for name in (INCOMING, OUTGOING):
        shutil.rmtree(state / name, ignore_errors=True)


class Uploads:
    """Archives uploaded in chunks over the control socket."""

    def __init__(self, state: Path) -> None:
        self._directory = archive_directory(state, INCOMING)

    def path(self, upload: str) -> Path:
        """Return the file of an upload; raises `ControlError` if there is none."""
        path = self._directory / f"{upload}.zip"
        if not re.fullmatch("[0-9a-f]{32}", upload) or not path.exists():
            raise ControlError("there is no such upload")
        return path

    def append(self, chunk: bytes, upload: str | None) -> str:
        """Append a chunk to an upload, or start a new one; returns its id.

        Raises:
            ControlError: there is no such upload, too many or too large ones, or no room on the disk. An upload
                that cannot be completed is deleted.
        """
        path = self._directory / f"{uuid.uuid4().hex}.zip" if upload is None else self.path(upload)
        if upload is None:
            _remove_older(self._directory, ABANDONED_SECONDS)
            if len(list(self._directory.iterdir())) >= MAX_UPLOADS:
                raise ControlError(f"{MAX_UPLOADS} archives are being uploaded already; try again later")
        if shutil.disk_usage(self._directory).free - len(chunk) < DISK_RESERVE_BYTES:
            path.unlink(missing_ok=True)
            raise ControlError("the disk is nearly full, so nothing was imported: free some space first")
        if (0 if upload is None else path.stat().st_size) + len(chunk) > MAX_UPLOAD_BYTES:
            path.unlink(missing_ok=True)
            raise ControlError(f"the upload is larger than {MAX_UPLOAD_BYTES:,} bytes")
        try:
            with path.open("ab") as file:
                file.write(chunk)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise ControlError(f"{path} cannot be written: {error.strerror}; nothing was imported") from error
        return path.stem


def _remove_older(directory: Path, seconds: float) -> None:
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()
