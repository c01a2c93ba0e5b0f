"""Keeps what this device knows of its fleet over restarts and power cuts, in a file of its own: `fleet.db`.

Only what the broker cannot give back is lost with it: which changes here were not told yet. The objects are in the
store, and nothing of them is.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

from edge_siamese.errors import StoreError
from edge_siamese.fleet.clock import require_stamp
from edge_siamese.fleet.reconciliation import Known, ShownObject, ShownView
from edge_siamese.fleet.state import Life, LifeValue, Name, ObjectState, Place, ViewKind, ViewState
from edge_siamese.store.errors import FAILURES, is_damage, store_error
from edge_siamese.validation import SchemaError

LOG = logging.getLogger(__name__)

FILE = "fleet.db"
_APPLICATION_ID = 0x4553464C  # "ESFL"
_LAYOUT = 1
_TABLES = (
    """CREATE TABLE objects (
        uid TEXT PRIMARY KEY,
        created TEXT NOT NULL,
        name TEXT NOT NULL,
        named TEXT NOT NULL,
        life TEXT NOT NULL,
        lived TEXT NOT NULL,
        shown_there INTEGER,
        shown_name TEXT) WITHOUT ROWID""",
    """CREATE TABLE views (
        uid TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        created TEXT NOT NULL,
        source TEXT NOT NULL,
        owner TEXT NOT NULL,
        alive INTEGER NOT NULL,
        placed TEXT NOT NULL,
        shown_owner TEXT,
        shown_alive INTEGER,
        offered INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID""",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)
_KEEP_OBJECT = (
    "INSERT INTO objects (uid, created, name, named, life, lived) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (uid) DO UPDATE "
    "SET created = excluded.created, name = excluded.name, named = excluded.named, life = excluded.life, "
    "lived = excluded.lived"
)
_KEEP_VIEW = (
    "INSERT INTO views (uid, kind, created, source, owner, alive, placed) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (uid) DO UPDATE SET kind = excluded.kind, created = excluded.created, source = excluded.source, "
    "owner = excluded.owner, alive = excluded.alive, placed = excluded.placed"
)


class _UnusableError(Exception):
    """The file is damaged, of another program, or of another release."""


class Ledger:
    """The file; used from one thread. Every change that returned is on the disk.

    It is written with `synchronous = FULL`: a change of others that is in the store, but not here, would look like one
    that was made on this device, and be told to the others as news.
    """

    def __init__(self, path: Path, collection: str) -> None:
        """Open it; one that is damaged is set aside, and one of another collection is emptied.

        Raises:
            StoreError: it cannot be written.
        """
        self.path = path
        self.known = Known()
        """What it holds, in memory too."""
        self.offered: set[str] = set()
        """Views whose content this device gave to the broker."""
        self.revision = -1
        """Of the store, when it was last looked at."""
        self._connection: sqlite3.Connection | None = None
        try:
            self._open(collection)
        except _UnusableError as error:
            self._set_aside(str(error))
            try:
                self._open(collection)
            except _UnusableError as again:
                raise StoreError(f"{path} cannot be used: {again}; remove it") from again

    def close(self) -> None:
        """May be called twice."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def save(
        self,
        objects: Mapping[str, ObjectState] = {},
        views: Mapping[str, ViewState] = {},
    ) -> None:
        """Keep registers, whole or not at all; raises `StoreError`."""
        self._write(
            [
                (
                    _KEEP_OBJECT,
                    [
                        (
                            uid,
                            item.created,
                            item.name.value,
                            item.name.stamp,
                            item.life.value,
                            item.life.stamp,
                        )
                        for uid, item in objects.items()
                    ],
                ),
                (
                    _KEEP_VIEW,
                    [
                        (uid, item.kind, item.created, item.source, place.object, place.alive, place.stamp)
                        for uid, item in views.items()
                        for place in (item.place,)
                    ],
                ),
            ]
        )
        self.known.objects.update(objects)
        self.known.views.update(views)

    def show(self, objects: Mapping[str, ShownObject], views: Mapping[str, ShownView], revision: int) -> None:
        """Keep what the store shows of known objects and views; raises `StoreError`."""
        if not (objects or views) and revision == self.revision:
            return
        self._write(
            [
                (
                    "UPDATE objects SET shown_there = ?, shown_name = ? WHERE uid = ?",
                    [(item.there, item.name, uid) for uid, item in objects.items()],
                ),
                (
                    "UPDATE views SET shown_owner = ?, shown_alive = ? WHERE uid = ?",
                    [(item.owner, item.alive, uid) for uid, item in views.items()],
                ),
                ("INSERT OR REPLACE INTO facts VALUES ('revision', ?)", [(str(revision),)]),
            ]
        )
        self.known.shown_objects.update(objects)
        self.known.shown_views.update(views)
        self.revision = revision

    def offer(self, uids: Iterable[str], offered: bool = True) -> None:
        """Note that this device gave the content of views to the broker, or took it away; raises `StoreError`."""
        new = [uid for uid in uids if (uid in self.offered) != offered]
        if not new:
            return
        self._write([("UPDATE views SET offered = ? WHERE uid = ?", [(offered, uid) for uid in new])])
        if offered:
            self.offered.update(new)
        else:
            self.offered.difference_update(new)

    def _write(self, statements: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
        connection = self._connection
        if connection is None:
            raise StoreError(f"{self.path} is closed")
        try:
            connection.execute("BEGIN IMMEDIATE")
            for sql, rows in statements:
                connection.executemany(sql, rows)
            connection.execute("COMMIT")
        except FAILURES as error:
            raise store_error(error, self.path) from error
        finally:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    def _open(self, collection: str) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as error:
            raise store_error(error, self.path) from error
        # The fleet opens it where the daemon starts it, and uses it from its own thread.
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=5.0, check_same_thread=False)
        try:
            self._load(connection, collection)
        except FAILURES as error:
            connection.close()
            if is_damage(error):
                raise _UnusableError(ascii(str(error))[1:-1][:200]) from error
            raise store_error(error, self.path) from error
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _load(self, connection: sqlite3.Connection, collection: str) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        ((application,),) = connection.execute("PRAGMA application_id")
        ((layout,),) = connection.execute("PRAGMA user_version")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
        if not tables:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute("INSERT INTO facts VALUES ('collection', ?)", (collection,))
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_LAYOUT}")
            connection.execute("COMMIT")
            return
        if (application, layout) != (_APPLICATION_ID, _LAYOUT):
            raise _UnusableError("it is of another program, or of another release")
        ((found,),) = connection.execute("PRAGMA quick_check").fetchall()[:1]
        if found != "ok":
            raise _UnusableError(" ".join(str(found).split())[:200])
        facts = dict(connection.execute("SELECT name, value FROM facts"))
        if facts.get("collection") != collection:
            connection.execute("BEGIN IMMEDIATE")
            for table in ("objects", "views", "facts"):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("INSERT INTO facts VALUES ('collection', ?)", (collection,))
            connection.execute("COMMIT")
            return
        try:
            self.known, self.offered = _read(connection)
            self.revision = int(facts.get("revision", -1))
        except ValueError as error:
            raise _UnusableError(f"a line of it cannot be read: {error}") from error

    def _set_aside(self, reason: str) -> None:
        """Give a file that cannot be used another name."""
        aside = self.path.with_name(f"{self.path.stem}.damaged{self.path.suffix}")
        LOG.warning("%s cannot be used (%s): kept as %s, and made anew", self.path, reason, aside.name)
        try:
            for side in ("-wal", "-shm", ""):
                old = self.path.with_name(self.path.name + side)
                if old.exists():
                    os.replace(old, aside.with_name(aside.name + side))
        except OSError as error:
            raise store_error(error, self.path) from error
        self.known, self.offered, self.revision = Known(), set(), -1


def _read(connection: sqlite3.Connection) -> tuple[Known, set[str]]:
    """What the tables hold. A row that is none is as if it had never come: the broker has it, or the store."""
    known, bad = Known(), 0
    for row in connection.execute(
        "SELECT uid, created, named, name, lived, life, shown_there, shown_name FROM objects"
    ):
        uid, created, named, name, lived, life, shown_there, shown_name = row
        if not (_are_texts(uid, created, name) and _are_stamps(named, lived) and life in get_args(LifeValue)):
            bad += 1
            continue
        known.objects[uid] = ObjectState(created, Name(named, name), Life(lived, life))
        if shown_there is not None:
            known.shown_objects[uid] = ShownObject(bool(shown_there), shown_name)
    offered = set()
    for row in connection.execute(
        "SELECT uid, kind, created, source, placed, owner, alive, shown_owner, shown_alive, offered FROM views"
    ):
        uid, kind, created, source, placed, owner, alive, shown_owner, shown_alive, given = row
        if not (
            _are_texts(uid, created, source, owner) and _are_stamps(placed) and kind in get_args(ViewKind)
        ):
            bad += 1
            continue
        known.views[uid] = ViewState(kind, created, source, Place(placed, owner, bool(alive)))
        if shown_owner is not None:
            known.shown_views[uid] = ShownView(shown_owner, bool(shown_alive))
        if given:
            offered.add(uid)
    if bad:
        LOG.warning("%d rows of %s cannot be read and are passed over", bad, FILE)
    return known, offered


def _are_texts(*values: Any) -> bool:
    return all(isinstance(value, str) for value in values)


def _are_stamps(*values: Any) -> bool:
    try:
        for value in values:
            require_stamp(value)
    except (SchemaError, TypeError):
        return False
    return True
