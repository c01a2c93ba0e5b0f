"""Writes files and directories so that a power cut leaves the old one or the new one, never a half."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

# renameat2 of Linux: of the working directory, and "exchange both names".
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Let `write` fill a temporary file beside `path`, put it on the disk, then give it the name.

    The directory of `path` is made if there is none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_text_atomically(path: Path, text: str) -> None:
    """Write UTF-8 text."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def replace_directory(new: Path, place: Path) -> None:
    """Give the directory `new` the name `place`; what had the name before is removed.

    Where the system can exchange two names in one step (Linux on its usual file systems), there is no moment
    without a whole directory at `place`; elsewhere there is one between two renames.
    """
    for parent, _, files in os.walk(new):
        for name in files:
            _sync(os.path.join(parent, name))
        _sync(parent)
    if not place.exists():
        new.rename(place)
    elif not _exchange(new, place):
        former = new.with_name(f".{place.name}.former")
        place.rename(former)
        new.rename(place)
        new = former
    sync_directory(place.parent)
    if new.exists():
        shutil.rmtree(new)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names; False if the system or the file system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE))
    return bool(done == 0)


def sync_directory(directory: Path) -> None:
    """Put the names in a directory on the disk."""
    _sync(directory)


def _sync(path: Path | str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
