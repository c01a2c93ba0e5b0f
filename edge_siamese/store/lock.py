"""Keeps two processes from opening one store."""

from __future__ import annotations

import os
from pathlib import Path

from edge_siamese.errors import StoreError
from edge_siamese.store.errors import store_error


class StoreLock:
    """A lock on a file beside the store; the system lets it go when the process ends, however it ends.

    The file stays when the lock is released: removing it would let two processes lock two files of one name.
    """

    def __init__(self, store: Path) -> None:
        """Lock the store.

        Raises:
            StoreError: another process has it, or the file cannot be written.
        """
        import fcntl  # not every system has it

        path = store.with_name(store.name + ".lock")
        try:
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise store_error(error, path) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            self.release()
            raise StoreError(
                f"{store} is in use by process {owner or '(unknown)'}; "
                "ask that process, or stop it (systemctl stop edge-siamese)"
            ) from None
        except OSError as error:
            self.release()
            raise store_error(error, path) from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # the number is for people; a full disk must not keep the store closed

    def release(self) -> None:
        """Let others have it; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
