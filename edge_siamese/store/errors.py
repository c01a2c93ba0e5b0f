"""Maps failures of SQLite and of the file system to `StoreError`: what failed, where, and what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from edge_siamese.errors import StoreError
from edge_siamese.system.files import DISK_RESERVE_BYTES, is_nearly_full

_FULL = "the disk is full: {path} could not be written, nothing was changed; free some space and try again"
_READ_ONLY = (
    "{path} cannot be written, nothing was changed ({error}); "
    "give this user write access to it and its directory, or mount the file system writable"
)
_IO_ERROR = (
    "the disk reported an error at {path}, nothing was changed ({error}); the memory card may be failing"
)
_DAMAGED = "{path} is damaged ({error}); restart, and what can be read of it is recovered into a new store"
_BUSY = "{path} is in use by another program, nothing was changed ({error}); close it and try again"

_BY_SQLITE_CODE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _READ_ONLY,
    sqlite3.SQLITE_IOERR: _IO_ERROR,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_BUSY: _BUSY,
    sqlite3.SQLITE_LOCKED: _BUSY,
}
_BY_ERRNO = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _READ_ONLY,
    errno.EPERM: _READ_ONLY,
    errno.EIO: _IO_ERROR,
}
FAILURES = (sqlite3.Error, UnicodeDecodeError)
"""Exceptions of SQLite calls. Python cannot decode all text that SQLite reads from a damaged file."""

# With less free space, an I/O error of SQLite means a full disk: it extends the index of its log by 32 KiB at a time.
_MIN_FREE_BYTES = 64 * 1024


def is_damage(error: Exception) -> bool:
    """Whether the file itself is damaged; not the disk or the request."""
    return _sqlite_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def store_error(error: sqlite3.Error | UnicodeDecodeError | OSError, path: Path) -> StoreError:
    """The `StoreError` for a failure at the database `path`, or at another file."""
    if isinstance(error, OSError):
        template = _BY_ERRNO.get(error.errno or 0)
        reason = error.strerror or str(error)
    else:
        code = _sqlite_code(error)
        template = _BY_SQLITE_CODE.get(code)
        if code == sqlite3.SQLITE_IOERR and _free_bytes(path) < _MIN_FREE_BYTES:
            template = _FULL
        reason = str(error) if isinstance(error, sqlite3.Error) else "it has text that is not UTF-8"
    if template is None:
        return StoreError(f"{path} cannot be used, nothing was changed: {reason}")
    return StoreError(template.format(path=path, error=reason))


def require_free_space(directory: Path) -> None:
    """Raise `StoreError` if the disk of a directory is nearly full."""
    if is_nearly_full(directory):
        raise StoreError(
            f"the disk is nearly full: less than {DISK_RESERVE_BYTES >> 20} MiB are free in {directory}"
        )


def _sqlite_code(error: Exception) -> int:
    """The primary result code; 0 for errors that Python's module raises itself."""
    # Python's module gives undecodable text no code, but the class of an error in the request.
    if isinstance(error, UnicodeDecodeError) or str(error).startswith("Could not decode to UTF-8"):
        return sqlite3.SQLITE_CORRUPT
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _free_bytes(path: Path) -> int:
    """Free bytes of the file system for this user; enough if it does not say."""
    try:
        status = os.statvfs(path.parent)
    except OSError:
        return _MIN_FREE_BYTES
    return status.f_bavail * status.f_frsize
