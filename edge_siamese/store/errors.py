"""Tells failures of SQLite and of the file system as errors for people: what, where, what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from edge_siamese.errors import StoreError

_FULL = "the disk is full: {path} could not be written, nothing was changed; make room and try again"
_READ_ONLY = (
    "{path} cannot be written, nothing was changed ({error}); "
    "give this user the right to write it and its directory, or mount the file system writable"
)
_BROKEN = (
    "the disk reported an error at {path}, nothing was changed ({error}); the memory card may be failing"
)
_DAMAGED = "{path} is damaged ({error}); start again, and what can be read out of it is put into a new store"
_BUSY = "{path} is in use by another program, nothing was changed ({error}); close it and try again"

_BY_CODE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_PERM: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _READ_ONLY,
    sqlite3.SQLITE_IOERR: _BROKEN,
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
    errno.EIO: _BROKEN,
}
FAILURES = (sqlite3.Error, UnicodeDecodeError)
"""What calls of SQLite raise: Python cannot decode all that a damaged file makes SQLite say."""

# Below this, an I/O error of SQLite is a full disk: it extends its index of the log by 32 KiB at a time.
_LITTLE_ROOM = 64 * 1024


def is_damage(error: Exception) -> bool:
    """Whether the file itself is wrong, rather than the disk or the request."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def store_error(error: sqlite3.Error | UnicodeDecodeError | OSError, path: Path) -> StoreError:
    """The `StoreError` that tells a failure at the database `path`, or at another file."""
    if not isinstance(error, OSError):
        code = _code(error)
        template = _BY_CODE.get(code)
        if code == sqlite3.SQLITE_IOERR and _room(path) < _LITTLE_ROOM:
            template = _FULL
        reason = str(error) if isinstance(error, sqlite3.Error) else "it has text that is none"
    else:
        template = _BY_ERRNO.get(error.errno or 0)
        reason = error.strerror or str(error)
    if template is None:
        return StoreError(f"{path} cannot be used, nothing was changed: {reason}")
    return StoreError(template.format(path=path, error=reason))


def _code(error: Exception) -> int:
    """The primary result code; 0 for errors that Python's module raises by itself."""
    # Python's module gives what it cannot decode no code, and the class of what is wrong with a request.
    if isinstance(error, UnicodeDecodeError) or str(error).startswith("Could not decode to UTF-8"):
        return sqlite3.SQLITE_CORRUPT
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _room(path: Path) -> int:
    """Free bytes of the file system, for this user; plenty if it does not say."""
    try:
        found = os.statvfs(path.parent)
    except OSError:
        return _LITTLE_ROOM
    return found.f_bavail * found.f_frsize
