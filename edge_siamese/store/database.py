"""Opens the store's SQLite file so that a change that returned is on the disk, and a damaged file is repaired."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from edge_siamese.errors import StoreError
from edge_siamese.events import utc_now
from edge_siamese.store.errors import FAILURES, is_damage, store_error
from edge_siamese.store.lock import StoreLock
from edge_siamese.store.recovery import Places, Repair, is_interrupted, repair
from edge_siamese.store.tables import APPLICATION_ID, MIGRATIONS, SMALL_TABLES, migrate
from edge_siamese.system.files import sync_directory, write_text_atomically

Row = tuple[Any, ...]

_BUSY_MS = 5000
# The log is cut back to this after a large change, such as an import.
_LOG_BYTES = 4 * 1024 * 1024
_BACKUP_PAGES = 256


class _DamagedError(Exception):
    """The file is no database, or not a whole one; the message says what SQLite found."""


class Database:
    """One open store; used from one thread.

    Every failure of SQLite becomes a `StoreError`, and a change that failed has changed nothing.
    """

    def __init__(self, path: Path, now: Callable[[], str] = utc_now) -> None:
        """Open the store, make it if there is none, repair it if it is damaged.

        Args:
            path: of the database; its directory is made if need be.
            now: the time of day, for the name of a damaged file that is set aside.

        Raises:
            StoreError: the store is in use, of a newer release, of another program, or cannot be read or written.
        """
        self.path = path
        self.places = Places(path)
        self.repair: Repair | None = None
        """What was repaired at the opening; None if nothing had to be."""
        self._connection: sqlite3.Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise store_error(error, path) from error
        self._lock = StoreLock(path)
        try:
            self._open(now()[:10])
        except BaseException:
            self.close()
            raise

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection; raises `StoreError` when it is closed."""
        if self._connection is None:
            raise StoreError(f"{self.path} is closed")
        return self._connection

    def read(self, sql: str, *values: Any) -> list[Row]:
        """All rows of a query."""
        try:
            return self.connection.execute(sql, values).fetchall()
        except FAILURES as error:
            raise self._told(error) from error

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: when the block has ended, it is on the disk; when it raised, nothing was changed."""
        connection = self.connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("UPDATE facts SET value = value + 1 WHERE name = 'revision'")
            connection.execute("COMMIT")
        except FAILURES as error:
            raise self._told(error) from error
        finally:
            # After a full disk SQLite has rolled back by itself.
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    def backup(self, limit_s: float | None = None) -> bool:
        """Copy the store to `objects.backup.db`, whole or not at all.

        Args:
            limit_s: give up after so many seconds, and keep the backup before.

        Returns:
            Whether the backup is as new as the store.

        Raises:
            StoreError: it cannot be written, or the store turned out to be damaged; the backup before is kept.
        """
        deadline = None if limit_s is None else time.monotonic() + limit_s
        if self._revision(self.connection) == self._backed_up():
            return True
        new = self.places.new_backup

        def watch(status: int, remaining: int, total: int) -> None:
            if deadline is not None and remaining and time.monotonic() > deadline:
                raise TimeoutError

        try:
            new.unlink(missing_ok=True)
            os.close(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
            with closing(sqlite3.connect(new, isolation_level=None)) as copy:
                self.connection.backup(copy, pages=_BACKUP_PAGES, progress=watch, sleep=0)
                # One file that nothing else belongs to.
                copy.execute("PRAGMA journal_mode = DELETE")
                _check(copy)
            _sync_file(new)
            os.replace(new, self.places.backup)
            sync_directory(self.path.parent)
        except TimeoutError:
            return False
        except _DamagedError as error:
            raise StoreError(f"{self.path} is damaged ({error}), so the backup before was kept") from error
        except FAILURES as error:
            raise (self._told(error) if is_damage(error) else store_error(error, new)) from error
        except OSError as error:
            raise store_error(error, new) from error
        finally:
            with suppress(OSError):
                new.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Close the file and let others open it; may be called twice."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        self._lock.release()

    def _open(self, day: str) -> None:
        if is_interrupted(self.places):
            self.repair = repair(self.places, "its repair was interrupted", day)
        try:
            self._connection = self._connected()
        except _DamagedError as damage:
            self.repair = repair(self.places, str(damage), day)
            try:
                self._connection = self._connected()
            except _DamagedError as again:
                raise StoreError(
                    f"{self.path} cannot be repaired: {again}; restore it from a backup"
                ) from again
        with suppress(OSError):
            self.places.suspicion.unlink(missing_ok=True)

    def _connected(self) -> sqlite3.Connection:
        """Open the file and look whether it is a whole store of this release."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            if self.places.has_remains():
                raise _DamagedError("it is missing or empty")
            self._make_file()
        self.places.hold_log()
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=_BUSY_MS / 1000)
        try:
            self._refuse_others(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
            migrate(connection)
            _check(connection, whole=self.places.suspicion.exists())
        except _DamagedError:
            connection.close()
            raise
        except FAILURES as error:
            connection.close()
            if is_damage(error):
                raise _DamagedError(ascii(str(error))[1:-1][:200]) from error
            self.places.let_log_go()
            raise store_error(error, self.path) from error
        except BaseException:
            connection.close()
            self.places.let_log_go()
            raise
        self.places.let_log_go()
        return connection

    def _refuse_others(self, connection: sqlite3.Connection) -> None:
        """Before anything is written: a file of another program, or of a newer release, is left as it is."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application != APPLICATION_ID and tables:
            raise StoreError(
                f"{self.path} is a database of another program; "
                "move it away, or choose another state directory in config.toml ([paths] state)"
            )
        if version > len(MIGRATIONS):
            raise StoreError(
                f"{self.path} was written by a newer release (layout {version}; this one knows "
                f"{len(MIGRATIONS)}); install that release again, or restore a backup made before it"
            )

    def _make_file(self) -> None:
        try:
            # Pictures of a home are nobody else's; SQLite gives its log the same mode.
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
            sync_directory(self.path.parent)
        except OSError as error:
            raise store_error(error, self.path) from error

    def _told(self, error: sqlite3.Error | UnicodeDecodeError) -> StoreError:
        """The error for people; damage is noted beside the store, so that the next opening looks at all of it."""
        if is_damage(error):
            with suppress(OSError):
                write_text_atomically(self.places.suspicion, f"{error}\n")
        return store_error(error, self.path)

    def _backed_up(self) -> int | None:
        """The revision in the backup; None if there is none that can be read."""
        if not self.places.backup.exists():
            return None
        try:
            with closing(
                sqlite3.connect(f"{self.places.backup.absolute().as_uri()}?mode=ro", uri=True)
            ) as copy:
                return self._revision(copy)
        except (*FAILURES, StoreError):
            return None

    def _revision(self, connection: sqlite3.Connection) -> int:
        """Counts all changes that were ever made to the store."""
        try:
            found = connection.execute("SELECT value FROM facts WHERE name = 'revision'").fetchone()
        except FAILURES as error:
            raise store_error(error, self.path) from error
        return int(found[0]) if found else 0


def _check(connection: sqlite3.Connection, whole: bool = False) -> None:
    """Look through the small tables and their indexes, or through everything; raises `_DamagedError`."""
    for table in ("",) if whole else SMALL_TABLES:
        found = connection.execute(f"PRAGMA integrity_check({table})" if table else "PRAGMA integrity_check")
        ((first,), *_) = found.fetchall()
        if first != "ok":
            raise _DamagedError(" ".join(str(first).split()))
    for table in SMALL_TABLES if whole else ():
        for _ in connection.execute(f"SELECT * FROM {table}"):
            pass  # SQLite does not look whether a text is one; Python does


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
