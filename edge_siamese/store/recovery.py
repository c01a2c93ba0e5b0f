"""Recovery of a damaged store: a new store is built from what can be read of the file and its last backup.

The damaged file and its log are kept under a dated name. The new store is built under a temporary name and replaces the
old one when it is complete and on disk. A note next to the store records the progress, so a power cut at any moment
leaves either a repair that the next opening continues, or a finished one.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from edge_siamese.errors import StoreError, SupportError
from edge_siamese.pictures import is_intact_png
from edge_siamese.recognition.embedding import usable_embeddings
from edge_siamese.store.change_count import ChangeCount, count_changes, read_count
from edge_siamese.store.errors import FAILURES, store_error
from edge_siamese.store.names import checked_name, free_name, name_key
from edge_siamese.store.tables import TABLES, is_intact, is_name_taken, migrate, row_checksum
from edge_siamese.store.undo_log import change_data, read_change
from edge_siamese.system.files import sync_directory, write_text_atomically

Row = tuple[Any, ...]

# Suffixes of a database's files: SQLite's own, and the database itself.
_SUFFIXES = ("-wal", "-shm", "-journal", "")
# States in the repair note, before the name of the damaged file.
_MOVING, _BUILDING = "moving", "building"
# Rows looked up one by one between two damaged pages; and after the last readable row, where the end is unknown.
_MAX_LOOKUPS, _MAX_LOOKUPS_AT_END = 1_000_000, 10_000


@dataclass(frozen=True)
class Repair:
    """The result of a repair."""

    text: str
    """Human-readable line."""
    found: int
    """Number of objects listed in the damaged store and its backup."""
    recovered: int
    """Number of these objects that can be recognized again."""
    damaged: Path | None
    """Path of the damaged file now; None if it no longer existed."""


@dataclass(frozen=True)
class StoreFiles:
    """Paths of a store and the files next to it."""

    store: Path
    """The database."""

    def _sibling(self, suffix: str) -> Path:
        return self.store.with_name(self.store.name + suffix)

    @property
    def backup(self) -> Path:
        """`objects.backup.db` for `objects.db`."""
        return self.store.with_name(f"{self.store.stem}.backup{self.store.suffix}")

    @property
    def new_backup(self) -> Path:
        """The backup that is being written."""
        return self._sibling(".backing-up")

    @property
    def rebuilt(self) -> Path:
        """The store that a repair builds."""
        return self._sibling(".rebuilding")

    @property
    def repair_note(self) -> Path:
        """The progress of a repair."""
        return self._sibling(".repair")

    @property
    def damage_marker(self) -> Path:
        """Exists if damage was found while the store was in use."""
        return self._sibling(".suspect")

    @property
    def change_count(self) -> Path:
        """The number of changes."""
        return self._sibling(".changes")

    @property
    def log(self) -> Path:
        """SQLite's write-ahead log: changes that are not in the database file yet."""
        return self._sibling("-wal")

    @property
    def held_log(self) -> Path:
        """A hard link to the log, because SQLite removes the log of a damaged database when it closes it."""
        return self._sibling(".log")

    def hold_log(self) -> None:
        """Create the hard link if the file system supports it; without a log, an existing link stays."""
        if self.log.exists():
            self.release_log()
            with suppress(OSError):
                os.link(self.log, self.held_log)

    def release_log(self) -> None:
        """Remove the hard link: the database is not damaged."""
        with suppress(OSError):
            self.held_log.unlink(missing_ok=True)

    def existed_before(self) -> bool:
        """Whether a missing store existed before: there is a backup, a number of changes, or a log that is not empty."""
        has_log = self.log.exists() and self.log.stat().st_size > 0
        return has_log or self.backup.exists() or read_count(self.change_count) is not None

    def unused_damaged_name(self, day: str) -> Path:
        """A name for the damaged file that no file has, such as `objects.damaged-2026-11-24.db`."""
        number = 1
        while True:
            suffix = f"-{number}" if number > 1 else ""
            path = self.store.with_name(f"{self.store.stem}.damaged-{day}{suffix}{self.store.suffix}")
            if not any(path.with_name(path.name + side).exists() for side in _SUFFIXES):
                return path
            number += 1


def is_interrupted(files: StoreFiles) -> bool:
    """Whether a repair was started and not finished."""
    return files.repair_note.exists()


def repair(files: StoreFiles, reason: str, day: str) -> Repair:
    """Replace a damaged store by a new one, or continue an interrupted repair.

    Args:
        files: the files of the store, which nobody has open.
        reason: human-readable description of the damage.
        day: for the name of the damaged file, such as `2026-11-24`.

    Raises:
        StoreError: the disk is full or failing. The damaged file is kept, and the next opening tries again.
    """
    try:
        state, _, name = _read_note(files).partition(" ")
        damaged = files.store.with_name(name) if name else files.unused_damaged_name(day)
        if state != _BUILDING:
            write_text_atomically(files.repair_note, f"{_MOVING} {damaged.name}", 0o600)
            for suffix in _SUFFIXES:
                old = files.store.with_name(files.store.name + suffix)
                if old.exists():
                    os.rename(old, damaged.with_name(damaged.name + suffix))
            if files.held_log.exists():  # the same file, unless SQLite has removed the other name
                os.rename(files.held_log, damaged.with_name(damaged.name + "-wal"))
            sync_directory(files.store.parent)
            write_text_atomically(files.repair_note, f"{_BUILDING} {damaged.name}", 0o600)
        if not files.store.exists():
            found, recovered = _rebuild(files, damaged)
            with suppress(OSError):  # the report is not essential
                write_text_atomically(
                    damaged.with_name(damaged.name + ".txt"),
                    f"{reason}: {recovered} of {found} objects were recovered\n",
                    0o600,
                )
            os.replace(files.rebuilt, files.store)
            sync_directory(files.store.parent)
        else:
            found = recovered = _count_objects(files.store)
        files.repair_note.unlink(missing_ok=True)
        sync_directory(files.store.parent)
    except FAILURES as error:
        raise store_error(error, files.rebuilt) from error
    except OSError as error:
        raise error if isinstance(error, StoreError) else store_error(error, files.rebuilt) from error
    kept = damaged if damaged.exists() else None
    text = f"{files.store} was damaged ({reason}): {recovered} of {found} objects were recovered" + (
        f"; the damaged file is kept as {damaged.name}" if kept else ""
    )
    return Repair(text, found, recovered, kept)


def _read_note(files: StoreFiles) -> str:
    """The repair note: `moving NAME`, `building NAME` or nothing."""
    try:
        text = files.repair_note.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    name = text.partition(" ")[2]
    # A damaged disk may hold anything: only a name of the expected form is used.
    return text if name.startswith(f"{files.store.stem}.damaged-") and "/" not in name else ""


def _rebuild(files: StoreFiles, damaged: Path) -> tuple[int, int]:
    """Fill the new store and sync it; returns how many objects were found and recovered."""
    new = files.rebuilt
    for suffix in _SUFFIXES:
        new.with_name(new.name + suffix).unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    with ExitStack() as stack:
        # After a power cut it is built again, so only the finished file has to be on disk.
        target = stack.enter_context(closing(sqlite3.connect(new, isolation_level=None)))
        target.execute("PRAGMA synchronous = OFF")
        migrate(target)
        backup = _open_source(stack, files.backup, "mode=ro")
        sources = [
            # With its log; without it, because the log may be what is damaged; and the backup.
            *_open_source(stack, damaged, "mode=ro"),
            *_open_source(stack, damaged, "mode=ro&immutable=1"),
            *backup,
        ]
        if sources and backup and _is_older(sources[0], backup[0]):
            sources = [*backup, *sources[:-1]]
        target.execute("BEGIN")
        rows = RowRecovery(target)
        complete = set()
        for table, columns in TABLES.items():
            for source in sources:
                reader = TableReader(source, table, columns)
                for row in reader:
                    rows.add(table, row)
                if reader.complete:
                    complete.add(table)
                    if table != "embeddings":  # which belong to their views; checksums say which are right
                        break  # further rows of an older copy were deleted since
        found, recovered = rows.finish(name_orphans="objects" not in complete)
        target.execute("COMMIT")
    descriptor = os.open(new, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return found, recovered


def _open_source(stack: ExitStack, path: Path, options: str) -> list[sqlite3.Connection]:
    """The file as a source of rows, if it exists."""
    if not path.exists():
        return []
    connection = stack.enter_context(
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, isolation_level=None))
    )
    with suppress(*FAILURES):
        # Nothing is written: it lets SQLite read a truncated file, or one with a wrong list of tables.
        connection.execute("PRAGMA writable_schema = ON")
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return [connection]


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a database that is not changed; raises `sqlite3.Error`."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)


def backup_count(files: StoreFiles) -> ChangeCount | None:
    """The number of changes of the backup; None if there is none that can be read."""
    if not files.backup.exists():
        return None
    try:
        with closing(open_read_only(files.backup)) as copy:
            return count_changes(copy)
    except FAILURES:
        return None


def _is_older(source: sqlite3.Connection, backup: sqlite3.Connection) -> bool:
    """Whether a source lacks changes that the backup has."""
    with suppress(*FAILURES):
        count = count_changes(source)
        return count is not None and count.missing(count_changes(backup)) > 0
    return False


def _count_objects(store: Path) -> int:
    with closing(open_read_only(store)) as connection:
        return int(connection.execute("SELECT count(*) FROM objects WHERE deleted IS NULL").fetchone()[0])


class TableReader:
    """The readable rows of one table of a damaged database, each once."""

    def __init__(self, source: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> None:
        self._source = source
        self._table = table
        self._columns = columns
        self.complete = False
        """Whether the last iteration read all rows without an error."""

    def __iter__(self) -> Iterator[Row]:
        """Read upward to the first damaged page, downward to the last one, and single rows in between."""
        self.complete = False
        select = self._select()
        if select is None:
            return
        low = 0
        try:
            for number, *row in self._source.execute(f"{select} ORDER BY rowid"):
                if number <= low:
                    break  # the pages form a loop
                low = number
                yield tuple(row)
            else:
                self.complete = True
                return
        except FAILURES:
            pass  # the other rows are read below
        high = 0
        try:
            for number, *row in self._source.execute(f"{select} ORDER BY rowid DESC"):
                if number <= low or (high and number >= high):
                    break
                high = number
                yield tuple(row)
        except FAILURES:
            pass  # the other side of the same damage
        end = min(high, low + _MAX_LOOKUPS) if high else low + _MAX_LOOKUPS_AT_END
        yield from self._lookup(select, range(low + 1, end))

    def _select(self) -> str | None:
        """The query for all columns; None if there is no such table. Columns that it lacks are NULL."""
        try:
            table = self._find_table()
            known = [row[1] for row in self._source.execute(f"PRAGMA table_info({_quoted(table)})")]
        except FAILURES:
            return None
        if not known:
            return None
        columns = [name if name in known else "NULL" for name in self._columns]
        if len(known) == len(self._columns):  # a name may be damaged
            columns = [_quoted(name) for name in known]
        return f"SELECT rowid, {', '.join(columns)} FROM {_quoted(table)} NOT INDEXED"

    def _find_table(self) -> str:
        """The name of the table; if a single table has an unknown name, it is damaged."""
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        names = [name for (name,) in self._source.execute(query)]
        unknown = [name for name in names if isinstance(name, str) and name not in TABLES]
        return unknown[0] if self._table not in names and len(unknown) == 1 else self._table

    def _lookup(self, select: str, numbers: range) -> Iterator[Row]:
        for number in numbers:
            try:
                row = self._source.execute(f"{select} WHERE rowid = ?", (number,)).fetchone()
            except FAILURES:
                continue
            if row:
                yield tuple(row[1:])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class RowRecovery:
    """Collects valid rows in a new database and makes it consistent at the end."""

    def __init__(self, target: sqlite3.Connection) -> None:
        """Start without rows.

        Args:
            target: an empty database with the newest schema, in a transaction, without foreign keys.
        """
        self._target = target
        self._damaged_embeddings: list[Row] = []
        target.execute("DELETE FROM facts")  # those of the damaged store are used
        self._insert = {
            table: f"INSERT OR IGNORE INTO {table} "
            f"({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
            for table, columns in TABLES.items()
        }

    def add(self, table: str, row: Row) -> None:
        """Add a row, unless it exists or is not valid."""
        if table == "objects":
            row = self._with_free_name(row)
        if not has_valid_types(table, row):
            return
        if table == "embeddings":
            view, model, vector, checksum = row
            if checksum is None:  # of an older release
                checksum = row_checksum(view, model, vector)
            row = view, model, vector, checksum
            if not (is_intact(*row) and _is_usable(vector)):
                self._damaged_embeddings.append(row)
                return
        elif table == "changes":
            number, kind, owner, view, text, undone, checksum = row
            if checksum is None:
                checksum = row_checksum(kind, owner, view, text)
            if read_change(kind, owner, view, text, checksum) is None:
                return
            row = number, kind, owner, view, text, undone, checksum
        self._target.execute(self._insert[table], row)

    def finish(self, *, name_orphans: bool) -> tuple[int, int]:
        """Delete orphaned rows.

        Args:
            name_orphans: create objects for views whose object could not be read. Otherwise it was deleted long ago.

        Returns:
            How many objects that are not deleted were found, and how many of them have a usable view.
        """
        run = self._target.execute
        run(
            "INSERT OR IGNORE INTO facts VALUES ('revision', '0'), ('last number', '0'), "
            "('changes', '0'), ('store', lower(hex(randomblob(16))))"
        )
        # Unless a source had them undamaged. The check of the new store repairs them, or marks them as unusable.
        self._target.executemany(self._insert["embeddings"], self._damaged_embeddings)
        self._repeat_merges()
        self._delete_content_without_view()
        run(
            "DELETE FROM views WHERE id NOT IN (SELECT view_id FROM embeddings) "
            "AND id NOT IN (SELECT view_id FROM crops)"
        )
        orphans = run(
            "SELECT object_id, min(created) FROM views WHERE object_id NOT IN (SELECT id FROM objects) "
            "AND kind = 'view' AND deleted IS NULL GROUP BY object_id"
        ).fetchall()
        for number, created in orphans if name_orphans else ():
            self.add("objects", (number, uuid4().hex, f"recovered {number}", "", created, None))
        found = self._count()
        run(
            "DELETE FROM objects WHERE deleted IS NULL AND NOT EXISTS (SELECT 1 FROM views "
            "WHERE object_id = objects.id AND kind = 'view' AND views.deleted IS NULL)"
        )
        run("DELETE FROM views WHERE object_id NOT IN (SELECT id FROM objects)")
        self._delete_content_without_view()
        return found, self._count()

    def _delete_content_without_view(self) -> None:
        for table in ("embeddings", "crops"):
            self._target.execute(f"DELETE FROM {table} WHERE view_id NOT IN (SELECT id FROM views)")

    def _repeat_merges(self) -> None:
        """Merge again where rows of objects or views came from a copy older than the merge."""
        run = self._target.execute
        for number, owner, text in run(
            "SELECT id, object_id, data FROM changes WHERE kind = 'merged' AND NOT undone ORDER BY id"
        ).fetchall():
            data = change_data("merged", text)
            if data is None or not run("SELECT 1 FROM objects WHERE id = ?", (data["into"],)).fetchone():
                continue
            run(
                "UPDATE objects SET deleted = ? WHERE id = ? AND deleted IS NULL AND NOT EXISTS "
                "(SELECT 1 FROM views v WHERE v.object_id = objects.id AND v.kind = 'view' AND v.deleted IS NULL)",
                (number, owner),
            )
            if run("SELECT 1 FROM objects WHERE id = ? AND deleted = ?", (owner, number)).fetchone():
                self._target.executemany(
                    "UPDATE views SET object_id = ? WHERE id = ? AND object_id = ?",
                    [(data["into"], view, owner) for view in data["views"]],
                )

    def _count(self) -> int:
        query = "SELECT count(*) FROM objects WHERE deleted IS NULL"
        return int(self._target.execute(query).fetchone()[0])

    def _with_free_name(self, row: Row) -> Row:
        """The row of an object with a valid name that no other object has."""
        number, uid, name, _, created, deleted = row
        if self._target.execute("SELECT 1 FROM objects WHERE id = ?", (number,)).fetchone():
            return row
        try:
            name = checked_name(str(name))
        except SupportError:
            name = f"recovered {number}"
        if deleted is None:
            name = free_name(name, lambda key: is_name_taken(self._target, key))
        return number, uid, name, name_key(name), created, deleted


def _is_usable(vector: bytes) -> bool:
    """Whether the bytes are numbers that can be compared."""
    return len(vector) % 4 == 0 and bool(usable_embeddings(np.frombuffer(vector, "<f4")[np.newaxis]).all())


def has_valid_types(table: str, row: Row) -> bool:
    """Whether the values of a row have the types that its table stores."""
    return _VALIDATORS[table](row)


def _is_object(row: Row) -> bool:
    number, uid, _, _, created, deleted = row
    return (
        isinstance(number, int)
        and isinstance(uid, str)
        and isinstance(created, str)
        and isinstance(deleted, int | None)
    )


def _is_view(row: Row) -> bool:
    number, uid, owner, kind, created, source, deleted = row
    return (
        isinstance(number, int)
        and isinstance(owner, int)
        and kind in ("view", "negative")
        and all(isinstance(text, str) for text in (uid, created, source))
        and isinstance(deleted, int | None)
    )


def _is_embedding(row: Row) -> bool:
    view, model, vector, checksum = row
    return (
        isinstance(view, int)
        and isinstance(model, str)
        and isinstance(vector, bytes)
        and isinstance(checksum, int | None)
    )


def _is_crop(row: Row) -> bool:
    view, place, picture = row
    return (
        isinstance(view, int)
        and isinstance(place, int)
        and isinstance(picture, bytes)
        and is_intact_png(picture)
    )


def _is_change(row: Row) -> bool:
    number, kind, owner, view, data, undone, checksum = row
    return (
        isinstance(number, int)
        and isinstance(kind, str)
        and isinstance(owner, int | None)
        and isinstance(view, int | None)
        and isinstance(data, str)
        and undone in (0, 1)
        and isinstance(checksum, int | None)
    )


def _is_fact(row: Row) -> bool:
    name, value = row
    if name in ("revision", "last number", "changes"):
        return isinstance(value, str) and value.isascii() and value.isdigit()
    return isinstance(name, str) and isinstance(value, str)


_VALIDATORS = {
    "objects": _is_object,
    "views": _is_view,
    "embeddings": _is_embedding,
    "crops": _is_crop,
    "changes": _is_change,
    "facts": _is_fact,
}
