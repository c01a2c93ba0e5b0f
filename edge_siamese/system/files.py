"""Writes files and directories so that a power cut leaves the old one or the new one, never a half."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

# renameat2 of Linux: of the working directory, and "exchange both names".
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_LOCK = "lock"


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
    without a whole directory at `place`. Elsewhere there is one between two renames: the former directory is then
    beside it, and `recover_directory` gives it back its name. Of a symbolic link, the target is replaced.
    """
    place = _target(place)
    former = _former(place)
    for parent, _, files in os.walk(new):
        for name in files:
            _sync(os.path.join(parent, name))
        _sync(parent)
    if not place.exists():
        new.rename(place)
    elif not _exchange(new, place):
        if former.exists():  # a process was killed before it could remove it
            shutil.rmtree(former)
        try:
            place.rename(former)
            new.rename(place)
        except BaseException:
            if not place.exists():
                former.rename(place)
            raise
    sync_directory(place.parent)
    for replaced in (new, former):
        if replaced.exists():
            shutil.rmtree(replaced)


def recover_directory(place: Path) -> None:
    """Give a directory its name back if `replace_directory` was killed between its two renames."""
    place = _target(place)
    former = _former(place)
    if former.exists() and not place.exists():
        former.rename(place)
        sync_directory(place.parent)


def _target(place: Path) -> Path:
    """Where a path leads in the end; renaming a symbolic link would leave its target where it is."""
    return Path(os.path.realpath(place))


def _former(place: Path) -> Path:
    """What the directory at `place` is called while another one takes its name."""
    return place.with_name(f".{place.name}.former")


@contextmanager
def workshop(place: Path) -> Iterator[Path]:
    """An empty directory for one process; what a killed one left there goes first, and all of it goes in the end.

    Raises:
        BlockingIOError: another process is at work there.
    """
    lock = _locked(place)
    try:
        _clear(place)
        yield place
    finally:
        _clear(place)
        (place / _LOCK).unlink(missing_ok=True)
        with suppress(OSError):  # the next process has already put its own lock there
            place.rmdir()
        os.close(lock)


def _locked(place: Path) -> int:
    """Make a directory and lock it until the returned descriptor is closed, or the process ends."""
    import fcntl  # not every system has it, and a device locks nothing

    path = place / _LOCK
    while True:
        place.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the process before has just removed the directory
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process before may have removed the file that was opened here.
            if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)


def _clear(place: Path) -> None:
    """Remove everything but the lock from a directory."""
    for item in place.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        elif item.name != _LOCK:
            item.unlink()


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
