"""Temporary files of imported and exported archives, with limits on their number and size."""

from __future__ import annotations

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
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
    """Return a directory for archives, created with mode 0700 if needed; raises `ControlError`."""
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
    """Archives uploaded in chunks over the control socket. Thread-safe."""

    def __init__(self, state: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without uploads.

        Args:
            state: the state directory, in which `remove_leftovers` deleted those of earlier daemons.
            clock: returns seconds.
        """
        self._state, self._clock = state, clock
        self._grown: dict[str, float] = {}
        """Time of the last chunk, in seconds, by upload."""
        self._lock = threading.Lock()

    def path(self, upload: str) -> Path:
        """Return the file of an upload; raises `ControlError` if there is none."""
        path = self._state / INCOMING / f"{upload}.zip"
        if upload not in self._grown or not path.exists():
            raise ControlError("there is no such upload")
        return path

    def remove(self, upload: str) -> None:
        """Delete an upload, if there is one of this id."""
        if self._grown.pop(upload, None) is not None:
            (self._state / INCOMING / f"{upload}.zip").unlink(missing_ok=True)

    def append(self, chunk: bytes, upload: str | None) -> str:
        """Append a chunk to an upload, or start a new one; returns its id.

        Raises:
            ControlError: there is no such upload, too many or too large ones, or not enough disk space. An upload
                that cannot be completed is deleted.
        """
        if upload is None:
            upload = self._begin()
        path = self.path(upload)
        try:
            if shutil.disk_usage(path.parent).free - len(chunk) < DISK_RESERVE_BYTES:
                raise ControlError("the disk is nearly full, so nothing was imported: free some space first")
            if path.stat().st_size + len(chunk) > MAX_UPLOAD_BYTES:
                raise ControlError(f"the upload is larger than {MAX_UPLOAD_BYTES:,} bytes")
            with path.open("ab") as file:
                file.write(chunk)
        except OSError as error:
            self.remove(upload)
            raise ControlError(f"{path} cannot be written: {error.strerror}; nothing was imported") from error
        except ControlError:
            self.remove(upload)
            raise
        self._grown[upload] = self._clock()
        return upload

    def _begin(self) -> str:
        """Create an empty upload, and return its id."""
        directory = archive_directory(self._state, INCOMING)
        with self._lock:
            now = self._clock()
            for abandoned in [
                upload for upload, grown in self._grown.items() if now - grown > ABANDONED_SECONDS
            ]:
                self.remove(abandoned)
            if len(list(directory.iterdir())) >= MAX_UPLOADS:
                raise ControlError(f"{MAX_UPLOADS} archives are being uploaded already; try again later")
            upload = uuid.uuid4().hex
            path = directory / f"{upload}.zip"
            try:
                path.touch()
            except OSError as error:
                raise ControlError(f"{path} cannot be written: {error.strerror}") from error
            self._grown[upload] = now
        return upload
