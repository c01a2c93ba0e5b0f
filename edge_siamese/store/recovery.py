"""Makes a new store of what can be read out of a damaged one and of its last backup; nothing is thrown away.

The damaged file and its log get a dated name. The new store is built under a name of its own and takes the place when
it is whole and on the disk. A note beside the store says how far the repair has come, so that a power cut at any
moment leaves either a repair that the next opening goes on with, or a finished one.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from edge_siamese.errors import StoreError
from edge_siamese.store.errors import FAILURES, store_error
from edge_siamese.store.row_recovery import Sifter, TableReader
from edge_siamese.store.tables import TABLES, migrate
from edge_siamese.system.files import sync_directory, write_text_atomically

_SIDES = ("-wal", "-shm", "-journal", "")
# What the note says, before the name of the damaged file.
_MOVING, _BUILDING = "moving", "building"


@dataclass(frozen=True)
class Repair:
    """What became of a damaged store."""

    text: str
    """One line for people."""
    found: int
    """How many objects the damaged store and its backup knew of."""
    recovered: int
    """How many of them can be recognized again."""
    damaged: Path | None
    """Where the damaged file is now; None if there was none left."""


@dataclass(frozen=True)
class Places:
    """The files of a store."""

    store: Path
    """The database."""

    def _beside(self, ending: str) -> Path:
        return self.store.with_name(self.store.name + ending)

    @property
    def backup(self) -> Path:
        """`objects.backup.db` of `objects.db`."""
        return self.store.with_name(f"{self.store.stem}.backup{self.store.suffix}")

    @property
    def new_backup(self) -> Path:
        return self._beside(".backing-up")

    @property
    def new_store(self) -> Path:
        """What a repair builds."""
        return self._beside(".rebuilding")

    @property
    def note(self) -> Path:
        """How far a repair has come."""
        return self._beside(".repair")

    @property
    def suspicion(self) -> Path:
        """There if damage was met while the store was in use."""
        return self._beside(".suspect")

    def damaged(self, day: str) -> Path:
        """A name that no file has, for one that is set aside."""
        number = 1
        while True:
            ending = f"-{number}" if number > 1 else ""
            found = self.store.with_name(f"{self.store.stem}.damaged-{day}{ending}{self.store.suffix}")
            if not any(found.with_name(found.name + side).exists() for side in _SIDES):
                return found
            number += 1

    @property
    def log(self) -> Path:
        """What SQLite has not yet brought into the database."""
        return self._beside("-wal")

    @property
    def held_log(self) -> Path:
        """A second name of the log, for SQLite removes the log of a damaged database when it closes it."""
        return self._beside(".log")

    def hold_log(self) -> None:
        """Give the log its second name, where the file system can; without a log, one that is held stays."""
        if self.log.exists():
            self.let_log_go()
            with suppress(OSError):
                os.link(self.log, self.held_log)

    def let_log_go(self) -> None:
        """Take the second name away: the database is not damaged."""
        with suppress(OSError):
            self.held_log.unlink(missing_ok=True)

    def has_remains(self) -> bool:
        """Whether a store that is missing was there: its log has something in it, or there is a backup."""
        return self.backup.exists() or (self.log.exists() and self.log.stat().st_size > 0)


def is_interrupted(places: Places) -> bool:
    """Whether a repair was begun and not finished."""
    return places.note.exists()


def repair(places: Places, reason: str, day: str) -> Repair:
    """Put a new store in the place of a damaged one, or go on with a repair that was interrupted.

    Args:
        places: of the store, which nobody has open.
        reason: what was found, for people.
        day: for the name of the damaged file, such as `2026-11-24`.

    Raises:
        StoreError: the disk is full or failing; the damaged file is kept, and the next opening tries again.
    """
    try:
        state, _, name = _noted(places).partition(" ")
        damaged = places.store.with_name(name) if name else places.damaged(day)
        if state != _BUILDING:
            write_text_atomically(places.note, f"{_MOVING} {damaged.name}")
            for side in _SIDES:
                old = places.store.with_name(places.store.name + side)
                if old.exists():
                    os.rename(old, damaged.with_name(damaged.name + side))
            if places.held_log.exists():  # the same file, unless SQLite has removed the other name
                os.rename(places.held_log, damaged.with_name(damaged.name + "-wal"))
            sync_directory(places.store.parent)
            write_text_atomically(places.note, f"{_BUILDING} {damaged.name}")
        if not places.store.exists():
            found, recovered = _build(places, damaged)
            _report(damaged, f"{reason}: {recovered} of {found} objects were recovered\n")
            os.replace(places.new_store, places.store)
            sync_directory(places.store.parent)
        else:
            found = recovered = _objects(places.store)
        places.note.unlink(missing_ok=True)
        sync_directory(places.store.parent)
    except FAILURES as error:
        raise store_error(error, places.new_store) from error
    except OSError as error:
        raise error if isinstance(error, StoreError) else store_error(error, places.new_store) from error
    kept = damaged if damaged.exists() else None
    text = f"{places.store} was damaged ({reason}): {recovered} of {found} objects were recovered" + (
        f"; the damaged file is kept as {damaged.name}" if kept else ""
    )
    return Repair(text, found, recovered, kept)


def _noted(places: Places) -> str:
    """What the note says: `moving NAME`, `building NAME` or nothing."""
    try:
        text = places.note.read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    name = text.partition(" ")[2]
    # A damaged disk may hold anything: only a name that belongs here is taken.
    return text if name.startswith(f"{places.store.stem}.damaged-") and "/" not in name else ""


def _report(damaged: Path, text: str) -> None:
    """Say beside the damaged file what became of it; not worth failing for."""
    with suppress(OSError):
        write_text_atomically(damaged.with_name(damaged.name + ".txt"), text)


def _build(places: Places, damaged: Path) -> tuple[int, int]:
    """Fill the new store and put it on the disk; how many objects there were, and are."""
    new = places.new_store
    for side in _SIDES:
        new.with_name(new.name + side).unlink(missing_ok=True)
    os.close(os.open(new, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600))
    with ExitStack() as stack:
        # A power cut makes it anew, so nothing but the end has to be on the disk.
        target = stack.enter_context(closing(sqlite3.connect(new, isolation_level=None)))
        target.execute("PRAGMA synchronous = OFF")
        migrate(target)
        sources = [
            # With its log; without it, for the log may be what is damaged; and the backup.
            *_readable(stack, damaged, "mode=ro"),
            *_readable(stack, damaged, "mode=ro&immutable=1"),
            *_readable(stack, places.backup, "mode=ro"),
        ]
        target.execute("BEGIN")
        sifter = Sifter(target)
        complete = set()
        for table, columns in TABLES.items():
            for source in sources:
                reader = TableReader(source, table, columns)
                for row in reader:
                    sifter.keep(table, row)
                if reader.complete:
                    complete.add(table)
                    break  # what an older copy has beyond this was deleted since
        found, recovered = sifter.finish(name_orphans="objects" not in complete)
        target.execute("COMMIT")
    descriptor = os.open(new, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return found, recovered


def _readable(stack: ExitStack, path: Path, how: str) -> list[sqlite3.Connection]:
    """The file as a source, if it is one at all."""
    if not path.exists():
        return []
    connection = stack.enter_context(
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True, isolation_level=None))
    )
    with suppress(*FAILURES):
        # Nothing is written: it lets SQLite read a file that was cut off, or whose list of tables is not right.
        connection.execute("PRAGMA writable_schema = ON")
    connection.text_factory = lambda data: data.decode("utf-8", "replace")
    return [connection]


def _objects(store: Path) -> int:
    with closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT count(*) FROM objects WHERE deleted IS NULL").fetchone()[0])
