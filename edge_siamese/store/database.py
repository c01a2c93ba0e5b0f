"""The store's SQLite file: durable transactions, one process at a time, repair of damage, backups."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from edge_siamese.errors import StoreBusy, StoreError
from edge_siamese.store.change_count import count_changes, read_count, write_count
from edge_siamese.store.errors import FAILURES, is_damage, store_error
from edge_siamese.store.recovery import (
    Repair,
    StoreFiles,
    backup_count,
    has_valid_types,
    is_interrupted,
    open_read_only,
    repair,
)
from edge_siamese.store.tables import (
    APPLICATION_ID,
    MIGRATIONS,
    SMALL_TABLES,
    TABLES,
    add_functions,
    is_schema_intact,
    migrate,
)
from edge_siamese.system.files import sync_directory, sync_file, write_text_atomically
from edge_siamese.system.wall_clock import utc_now

Row = tuple[Any, ...]

_BUSY_TIMEOUT_MS = 5000
# The write-ahead log is truncated to this size after a large change, such as an import.
_MAX_LOG_BYTES = 4 * 1024 * 1024
_BACKUP_PAGES_AT_ONCE = 256
# How long a change waits for a long change to end; meanwhile no frame is processed.
_LOCK_SECONDS = 0.25


class _DamagedError(Exception):
    """The file is not an intact database; the message is SQLite's."""


class Database:
    """An open store; used from one thread, except for `long_read` and `long_change`.

    Every failure of SQLite becomes a `StoreError`, and a failed change has changed nothing.
    """

    def __init__(self, path: Path, now: Callable[[], str] = utc_now) -> None:
        """Open the store; create it if it does not exist, repair it if it is damaged.

        Args:
            path: the database file; its directory is created.
            now: the current time, UTC, ISO 8601, for the name of a damaged file that is kept.

        Raises:
            StoreError: the store is in use, was written by a newer release or another program, or cannot be read or
                written.
        """
        self.path = path
        self.files = StoreFiles(path)
        self.repair: Repair | None = None
        """The repair on opening; None if none was needed."""
        self.lost_changes = 0
        """Number of changes that are missing, although they were on disk before."""
        self._connection: sqlite3.Connection | None = None
        self._lock: StoreLock | None = None
        self._writing = threading.Lock()
        """Held by each change, so that none waits for a long one within SQLite."""
        self._sessions: set[sqlite3.Connection] = set()
        """Connections of long operations."""
        self._sessions_lock = threading.Lock()
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

    @property
    def damaged(self) -> bool:
        """Whether damage was found since the store was opened; opening it again repairs it."""
        return self.files.damage_marker.exists()

    def read(self, sql: str, *values: Any) -> list[Row]:
        """All rows of a query."""
        try:
            return self.connection.execute(sql, values).fetchall()
        except FAILURES as error:
            raise self.map_error(error) from error

    @contextmanager
    def change(self, counted: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction: on disk when the block has ended, rolled back if it raises.

        Args:
            counted: whether it counts as a change; embeddings do not, because they can be computed again.

        Raises:
            StoreBusy: another thread is making a long change.
        """
        with self._only_writer():
            yield from self._transaction(self.connection, counted)

    @property
    def busy(self) -> bool:
        """Whether a change is in progress."""
        return self._writing.locked()

    @contextmanager
    def long_read(self) -> Iterator[sqlite3.Connection]:
        """A connection that sees the store as it is now, for any thread; other threads read and change meanwhile."""
        with self._session() as connection:
            connection.execute("BEGIN")
            yield connection

    @contextmanager
    def long_change(self) -> Iterator[sqlite3.Connection]:
        """A transaction like `change`, for any thread. Other threads can read meanwhile; their changes raise `StoreBusy`.

        When the store is closed, it is rolled back with a `StoreError`.
        """
        with self._only_writer(), self._session() as connection:
            yield from self._transaction(connection)

    @contextmanager
    def _only_writer(self) -> Iterator[None]:
        if not self._writing.acquire(timeout=_LOCK_SECONDS):
            raise StoreBusy(
                "an archive is being imported, nothing was changed; try again when it is finished"
            )
        try:
            yield
        finally:
            self._writing.release()

    def _transaction(
        self, connection: sqlite3.Connection, counted: bool = True
    ) -> Iterator[sqlite3.Connection]:
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            names = "'revision', 'changes'" if counted else "'revision'"
            connection.execute(f"UPDATE facts SET value = value + 1 WHERE name IN ({names})")
            _ = self.connection  # raises an error if the store was closed meanwhile
            connection.execute("COMMIT")
            if counted:
                self._write_count(connection)
        except FAILURES as error:
            raise self.map_error(error) from error
        finally:
            # After a full disk, SQLite has already rolled back.
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    @contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        """Another connection to the file. Closing the store interrupts what it does."""
        try:
            # `close` interrupts it from another thread.
            connection = sqlite3.connect(
                self.path, isolation_level=None, timeout=_BUSY_TIMEOUT_MS / 1000, check_same_thread=False
            )
        except FAILURES as error:
            raise self.map_error(error) from error
        with closing(connection):
            with self._sessions_lock:
                _ = self.connection  # raises an error if the store is closed
                self._sessions.add(connection)
            try:
                _set_pragmas(connection)
                add_functions(connection)
                yield connection
            except FAILURES as error:
                _ = self.connection  # explains an interruption
                raise self.map_error(error) from error
            finally:
                with self._sessions_lock:
                    self._sessions.discard(connection)

    def read_backup(self, sql: str, *values: Any) -> list[Row]:
        """All rows of a query on the backup; none if there is no backup that can be read."""
        if not self.files.backup.exists():
            return []
        try:
            with closing(open_read_only(self.files.backup)) as copy:
                return copy.execute(sql, values).fetchall()
        except FAILURES:
            return []

    def backup(self, limit_s: float | None = None) -> bool:
        """Copy the store to `objects.backup.db`, completely or not at all.

        Args:
            limit_s: give up after this many seconds, and keep the previous backup.

        Returns:
            Whether the backup is up to date.

        Raises:
            StoreError: the backup cannot be written, or the store is damaged. The previous backup is kept.
        """
        deadline = None if limit_s is None else time.monotonic() + limit_s
        version = "SELECT name, value FROM facts WHERE name IN ('store', 'revision') ORDER BY name"
        if self.read(version) == self.read_backup(version):
            return True
        new = self.files.new_backup

        def watch(status: int, remaining: int, total: int) -> None:
            if deadline is not None and remaining and time.monotonic() > deadline:
                raise TimeoutError

        try:
            new.unlink(missing_ok=True)
            os.close(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
            with closing(sqlite3.connect(new, isolation_level=None)) as copy:
                self.connection.backup(copy, pages=_BACKUP_PAGES_AT_ONCE, progress=watch, sleep=0)
                # A single file, without a log next to it.
                copy.execute("PRAGMA journal_mode = DELETE")
                _check_integrity(copy)
            sync_file(new)
            os.replace(new, self.files.backup)
            sync_directory(self.path.parent)
        except TimeoutError:
            return False
        except _DamagedError as error:
            raise StoreError(f"{self.path} is damaged ({error}); the previous backup was kept") from error
        except FAILURES as error:
            raise (self.map_error(error) if is_damage(error) else store_error(error, new)) from error
        except OSError as error:
            raise store_error(error, new) from error
        finally:
            with suppress(OSError):
                new.unlink(missing_ok=True)
        return True

    def close(self) -> None:
        """Close the file and release the lock; may be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            if self.lost_changes:  # not written before, as the power may fail before they are reported
                self._write_count(connection)
            with suppress(sqlite3.Error):
                connection.close()
        with self._sessions_lock:
            for session in self._sessions:
                session.interrupt()
        if self._lock is not None:
            self._lock.release()

    def _open(self, day: str) -> None:
        recorded = read_count(self.files.change_count)
        if is_interrupted(self.files):
            self.repair = repair(self.files, "its repair was interrupted", day)
        try:
            self._connection = self._connect(require_latest=self.repair is None)
        except _DamagedError as damage:
            self.repair = repair(self.files, str(damage), day)
            try:
                self._connection = self._connect(require_latest=False)
            except _DamagedError as error:
                raise StoreError(
                    f"{self.path} cannot be repaired: {error}; restore it from a backup"
                ) from error
        with suppress(OSError):
            self.files.damage_marker.unlink(missing_ok=True)
        count = count_changes(self._connection)
        self.lost_changes = count.missing(recorded) if count else 0
        if count != recorded and not self.lost_changes and (recorded or (count and count.changes)):
            self._write_count(self._connection)

    def _connect(self, require_latest: bool) -> sqlite3.Connection:
        """Open the file and check that it is an intact store of this release, and not older than its backup."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            if self.files.existed_before():
                raise _DamagedError("it is missing or empty")
            self._create_file()
        self.files.hold_log()
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=_BUSY_TIMEOUT_MS / 1000)
        except sqlite3.Error as error:
            raise store_error(error, self.path) from error
        try:
            self._refuse_foreign_file(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            _set_pragmas(connection)
            migrate(connection)
            if not is_schema_intact(connection):
                raise _DamagedError("the definitions of its tables are damaged")
            _check_integrity(connection, everything=self.files.damage_marker.exists())
            _check_rows(connection)
            if require_latest and (missing := self._missing_from_backup(connection)):
                raise _DamagedError(f"it is older than its backup by {missing} changes")
        except _DamagedError:
            connection.close()
            raise
        except FAILURES as error:
            connection.close()
            if is_damage(error):
                raise _DamagedError(ascii(str(error))[1:-1][:200]) from error
            self.files.release_log()
            raise store_error(error, self.path) from error
        except BaseException:
            connection.close()
            self.files.release_log()
            raise
        self.files.release_log()
        return connection

    def _refuse_foreign_file(self, connection: sqlite3.Connection) -> None:
        """Refuse a file of another program or a newer release, before anything is written."""
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
                f"{self.path} was written by a newer release (schema version {version}; this release reads up to "
                f"{len(MIGRATIONS)}); install that release again, or restore a backup made before it"
            )

    def _create_file(self) -> None:
        try:
            # The pictures are private; SQLite gives its log the same mode.
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
            sync_directory(self.path.parent)
        except OSError as error:
            raise store_error(error, self.path) from error

    def map_error(self, error: sqlite3.Error | UnicodeDecodeError) -> StoreError:
        """The `StoreError` for a failure. A marker file records damage, so that the next opening checks everything."""
        if is_damage(error):
            with suppress(OSError):
                write_text_atomically(self.files.damage_marker, f"{error}\n", 0o600)
        return store_error(error, self.path)

    def _write_count(self, connection: sqlite3.Connection) -> None:
        """Write the number of changes to its file; on a full disk the old number remains, and no loss is reported."""
        with suppress(*FAILURES, OSError):
            if count := count_changes(connection):
                write_count(self.files.change_count, count)

    def _missing_from_backup(self, connection: sqlite3.Connection) -> int:
        """Number of changes in the backup that the store lacks."""
        count, backup = count_changes(connection), backup_count(self.files)
        return count.missing(backup) if count else 0


class MemoryDatabase(Database):
    """A store in memory, discarded when it is closed. Several threads may use it, one at a time."""

    def __init__(self) -> None:
        self.path = Path(":memory:")
        self.repair = None
        self.lost_changes = 0
        self._lock = None
        self._writing = threading.Lock()
        self._sessions, self._sessions_lock = set(), threading.Lock()
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA foreign_keys = ON")
        migrate(self._connection)

    @property
    def damaged(self) -> bool:
        return False

    def read_backup(self, sql: str, *values: Any) -> list[Row]:
        return []

    def _write_count(self, connection: sqlite3.Connection) -> None:
        pass

    @contextmanager
    def _session(self) -> Iterator[sqlite3.Connection]:
        """The only connection: there is no file that another one could open."""
        connection = self.connection
        try:
            yield connection
        except FAILURES as error:
            raise self.map_error(error) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def backup(self, limit_s: float | None = None) -> bool:
        """Raise `StoreError`: there is no file to copy."""
        raise StoreError("a store in memory has no backup; export it instead")

    def map_error(self, error: sqlite3.Error | UnicodeDecodeError) -> StoreError:
        return store_error(error, self.path)


class StoreLock:
    """An exclusive lock on a file next to the store; the system releases it when the process ends.

    The file stays when the lock is released: removing it would let two processes lock two files with the same name.
    """

    def __init__(self, store: Path) -> None:
        """Lock the store.

        Raises:
            StoreError: another process has it, or the file cannot be written.
        """
        import fcntl  # not available on every system

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
                "use that process, or stop it (systemctl stop edge-siamese)"
            ) from None
        except OSError as error:
            self.release()
            raise store_error(error, path) from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            pass  # the process id is only informational; a full disk must not prevent opening the store

    def release(self) -> None:
        """Release the lock; may be called twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _check_integrity(connection: sqlite3.Connection, everything: bool = False) -> None:
    """Check the small tables and their indexes, or everything; raises `_DamagedError`."""
    for table in ("",) if everything else SMALL_TABLES:
        rows = connection.execute(f"PRAGMA integrity_check({table})" if table else "PRAGMA integrity_check")
        ((first,), *_) = rows.fetchall()
        if first != "ok":
            raise _DamagedError(" ".join(str(first).split()))


def _check_rows(connection: sqlite3.Connection) -> None:
    """Check text and types in the small tables, which SQLite does not; raises `_DamagedError` or an error of SQLite."""
    for table in SMALL_TABLES:
        for row in connection.execute(f"SELECT {', '.join(TABLES[table])} FROM {table}"):
            if not has_valid_types(table, row):
                raise _DamagedError(f"a row of the table {table} has values of the wrong type")


def _set_pragmas(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    connection.execute(f"PRAGMA journal_size_limit = {_MAX_LOG_BYTES}")
