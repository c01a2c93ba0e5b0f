"""Path expansion, atomic writes, exclusive staging directories, and free disk space."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from edge_siamese.errors import SettingsError

LOG = logging.getLogger(__name__)

DISK_RESERVE_BYTES = 64 << 20
"""Free disk space that imported collections and objects of a fleet must leave for the device's own writes."""

MAX_PATH_BYTES, MAX_NAME_BYTES = 4095, 255
"""Limits of Linux for a path, and for a name within it."""

_TEMPORARY = ".tmp"

# Arguments of renameat2(2).
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def expand_path(path: str | os.PathLike[str], base: str | os.PathLike[str] | None = None) -> Path:
    """Expand a path from settings, options or environment variables.

    `~` and `~user` at the start are replaced by the home directory.

    Args:
        path: it may exist or not.
        base: the directory at which a relative path starts; None: the current directory of the process.

    Raises:
        SettingsError: no file can have this path.
    """
    text = os.fspath(path)
    if "\0" in text:
        raise SettingsError("a path must not contain a NUL character")
    if text.startswith("~"):
        user, expanded = text.partition("/")[0], os.path.expanduser(text)
        if expanded.startswith("~"):
            problem = "has no home directory" if user == "~" else "is not a user of this machine"
            whose = f"user {os.geteuid()}" if user == "~" else f'"{user[1:]}"'
            raise SettingsError(f'"{text}": {whose} {problem}: write the path without ~')
        text = expanded
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError:
        raise SettingsError(
            f"{text!a}: the locale's encoding has no such file name: set LANG=C.UTF-8"
        ) from None
    if len(encoded) > MAX_PATH_BYTES or max(map(len, encoded.split(b"/"))) > MAX_NAME_BYTES:
        raise SettingsError(
            f"a path may have {MAX_PATH_BYTES} bytes, and each name in it {MAX_NAME_BYTES}; this one is longer"
        )
    return Path(text) if base is None else Path(base, text)


def require_writable(directory: Path) -> None:
    """Raise the OSError with which creating a directory, or a file in it, would fail; changes nothing."""
    existing = directory
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    if not stat.S_ISDIR(existing.stat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(existing))
    if not os.access(existing, os.W_OK | os.X_OK):
        read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
        code = errno.EROFS if read_only else errno.EACCES
        raise OSError(code, os.strerror(code), str(existing))


def home_directory() -> Path | None:
    """The home directory of this user; None if there is none, as for a user without an account."""
    home = os.path.expanduser("~")
    return Path(home) if os.path.isabs(home) else None


def write_atomically(
    path: Path, write: Callable[[IO[bytes]], Any], mode: int = 0o644, like: os.stat_result | None = None
) -> None:
    """Write a file so that a power cut leaves either the old one or the new one.

    `write` fills a temporary file in the directory of `path`, which is created if needed; the file is synced and renamed.
    Temporary files of processes that were killed are removed by the next write of the same file.
    `mode`: the file's permissions. `like`: the status of a file whose permissions, owner and group it gets instead.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    handle, temporary = _locked_temporary_file(path)
    try:
        with os.fdopen(handle, "wb") as file:  # the lock ends with it
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if like is not None:
                _copy_owner(file.fileno(), like)
            os.chmod(temporary, mode if like is None else stat.S_IMODE(like.st_mode))
            os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            _complete(error, path)
        raise
    sync_directory(path.parent)


def _copy_owner(handle: int, like: os.stat_result) -> None:
    """Give a file the owner and group of another one, as far as this user may."""
    status = os.fstat(handle)
    if (status.st_uid, status.st_gid) != (like.st_uid, like.st_gid):
        with suppress(PermissionError):
            os.fchown(handle, like.st_uid, like.st_gid)


def _locked_temporary_file(path: Path) -> tuple[int, str]:
    """Create a temporary file next to `path`; its lock shows that a process writes it."""
    for _ in range(10):
        handle, temporary = tempfile.mkstemp(_TEMPORARY, f".{path.name}.", path.parent)
        if _lock(handle) and os.path.exists(temporary):
            return handle, temporary
        os.close(handle)  # another process removed it as abandoned before it was locked
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(path))


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` that no process is writing."""
    pattern = re.compile(re.escape(f".{path.name}.") + "[a-z0-9_]{8}" + re.escape(_TEMPORARY))
    with suppress(OSError):
        for name in filter(pattern.fullmatch, os.listdir(path.parent)):
            temporary = path.with_name(name)
            handle = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if _lock(handle):
                    temporary.unlink(missing_ok=True)
            finally:
                os.close(handle)


def _lock(handle: int) -> bool:
    """Lock a file for this process; False if another one has it. File systems without locks count as locked."""
    import fcntl  # not on every system

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        LOG.debug("no lock: %s", error)
    return True


def _complete(error: OSError, path: Path) -> None:
    """Complete the error of a write: add the file name, and the errno that numpy leaves out for an incomplete write."""
    if error.errno is None and "requested and" in str(error):
        error.errno, error.strerror = errno.ENOSPC, os.strerror(errno.ENOSPC)
    if error.errno is not None and error.filename is None:
        error.filename = os.fspath(path)


def write_text_atomically(
    path: Path, text: str, mode: int = 0o644, like: os.stat_result | None = None
) -> None:
    """Write UTF-8 text as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(text.encode("utf-8")), mode, like)


def replace_directory(new: Path, place: Path) -> None:
    """Rename the directory `new` to `place` and remove the former directory of that name.

    Linux exchanges two names in one step on its usual file systems, so that there is always a complete directory at `place`.
    Elsewhere two renames are needed; if the process is killed between them, `recover_directory` restores the former
    directory. If `place` is a symbolic link, its target is replaced.
    """
    place = _target(place)
    former = _former(place)
    for parent, _, files in os.walk(new):
        for name in files:
            sync_file(os.path.join(parent, name))
        sync_file(parent)
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
    """Restore the former directory if `replace_directory` was killed between its two renames."""
    place = _target(place)
    former = _former(place)
    if former.exists() and not place.exists():
        former.rename(place)
        sync_directory(place.parent)


def _target(place: Path) -> Path:
    """The path without symbolic links: renaming a link would leave its target in place."""
    return Path(os.path.realpath(place))


def _former(place: Path) -> Path:
    """Temporary name of the directory that is being replaced."""
    return place.with_name(f".{place.name}.former")


@contextmanager
def staging_directory(path: Path) -> Iterator[Path]:
    """An empty directory for one process at a time, removed at the end.

    The lock is a file next to it, `NAME.lock`, which is never removed: otherwise two processes could lock two files of that
    name. What a killed process left in the directory is removed first.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    import fcntl  # not on every system, and a device needs it only for changes of models

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(path)
        path.mkdir()
        try:
            yield path
        finally:
            _remove(path)
    finally:
        os.close(lock)


def is_nearly_full(directory: Path) -> bool:
    """Whether less than `DISK_RESERVE_BYTES` are free; False if that cannot be determined."""
    try:
        return shutil.disk_usage(directory).free < DISK_RESERVE_BYTES
    except OSError:
        return False


def _remove(path: Path) -> None:
    """Remove a directory, a file or a link, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names; False if the system or the file system does not support it."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done = renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), ctypes.c_uint(_RENAME_EXCHANGE))
    return bool(done == 0)


def sync_directory(directory: Path) -> None:
    """Sync a directory, so that renames in it survive a power cut."""
    sync_file(directory)


def sync_file(path: Path | str) -> None:
    """Sync the contents of a file, or the entries of a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
