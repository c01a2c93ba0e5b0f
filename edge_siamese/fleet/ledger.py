"""The fleet's file, `fleet.db`: this device's knowledge of its fleet, which survives restarts and power cuts.

The objects themselves are in the store. If the file is lost, the broker restores it, except for changes of this device
that were not published yet.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge_siamese.errors import StoreError
from edge_siamese.fleet.clock import require_stamp
from edge_siamese.fleet.reconciliation import FleetState, ObservedObject, ObservedView
from edge_siamese.fleet.state import ObjectState, Registers, Uid, ViewState
from edge_siamese.store.errors import FAILURES, is_damage, store_error
from edge_siamese.validation import quick_convert, require_time

LOG = logging.getLogger(__name__)

_State = TypeVar("_State", ObjectState, ViewState)

FILE_NAME = "fleet.db"
_APPLICATION_ID = 0x4553464C  # "ESFL"
_SCHEMA_VERSION = 2
_TABLES = (
    """CREATE TABLE objects (
        uid TEXT PRIMARY KEY,
        created TEXT NOT NULL,
        name TEXT NOT NULL,
        name_stamp TEXT NOT NULL,
        life TEXT NOT NULL,
        life_stamp TEXT NOT NULL,
        observed_exists INTEGER,
        observed_name TEXT) WITHOUT ROWID""",
    """CREATE TABLE views (
        uid TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        created TEXT NOT NULL,
        source TEXT NOT NULL,
        owner TEXT NOT NULL,
        alive INTEGER NOT NULL,
        place_stamp TEXT NOT NULL,
        observed_owner TEXT,
        observed_exists INTEGER,
        content_published INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID""",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)
_SAVE_OBJECT = (
    "INSERT INTO objects (uid, created, name, name_stamp, life, life_stamp) VALUES (?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (uid) DO UPDATE SET created = excluded.created, name = excluded.name, name_stamp = excluded.name_stamp, "
    "life = excluded.life, life_stamp = excluded.life_stamp"
)
_SAVE_VIEW = (
    "INSERT INTO views (uid, kind, created, source, owner, alive, place_stamp) VALUES (?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (uid) DO UPDATE SET kind = excluded.kind, created = excluded.created, source = excluded.source, "
    "owner = excluded.owner, alive = excluded.alive, place_stamp = excluded.place_stamp"
)


class _UnusableError(Exception):
    """The file is damaged, or belongs to another program or release."""


class Ledger:
    """SQLite file of registers and observations. Not thread-safe. A change is on disk when its method returns.

    It is written with `synchronous = FULL`: a change of another device that is in the store and not here would look like
    a local change, and be published as new.
    """

    def __init__(self, path: Path, collection: str) -> None:
        """Open the file; rename an unusable file, and clear the file of another collection.

        Raises:
            StoreError: it cannot be written.
        """
        self.path = path
        self.known = FleetState()
        """The contents, in memory."""
        self.published_content: set[str] = set()
        """Views whose content this device published and that may be at the broker."""
        self.revision = -1
        """Revision of the store at the last observation."""
        self._connection: sqlite3.Connection | None = None
        try:
            self._open(collection)
        except _UnusableError as problem:
            self._rename_unusable(str(problem))
            try:
                self._open(collection)
            except _UnusableError as error:
                raise StoreError(f"{path} cannot be used: {error}; remove it") from error

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def save(self, changes: Registers) -> None:
        """Save registers in one transaction; raises `StoreError`."""
        objects = [
            (uid, item.created, item.name.value, item.name.stamp, item.life.value, item.life.stamp)
            for uid, item in changes.objects.items()
        ]
        views = [
            (uid, item.kind, item.created, item.source, place.object, place.alive, place.stamp)
            for uid, item in changes.views.items()
            for place in (item.place,)
        ]
        self._write([(_SAVE_OBJECT, objects), (_SAVE_VIEW, views)])
        self.known.objects.update(changes.objects)
        self.known.views.update(changes.views)

    def save_observations(
        self, objects: Mapping[str, ObservedObject], views: Mapping[str, ObservedView], revision: int
    ) -> None:
        """Save the store's state of known objects and views; raises `StoreError`."""
        if not (objects or views) and revision == self.revision:
            return
        self._write(
            [
                (
                    "UPDATE objects SET observed_exists = ?, observed_name = ? WHERE uid = ?",
                    [(item.exists, item.name, uid) for uid, item in objects.items()],
                ),
                (
                    "UPDATE views SET observed_owner = ?, observed_exists = ? WHERE uid = ?",
                    [(item.owner, item.exists, uid) for uid, item in views.items()],
                ),
                ("INSERT OR REPLACE INTO facts VALUES ('revision', ?)", [(str(revision),)]),
            ]
        )
        self.known.observed_objects.update(objects)
        self.known.observed_views.update(views)
        self.revision = revision

    def note_content(self, views: Iterable[str], published: bool = True) -> None:
        """Note that this device published the content of views, or removed it; raises `StoreError`."""
        changed = [uid for uid in views if (uid in self.published_content) != published]
        if not changed:
            return
        statement = "UPDATE views SET content_published = ? WHERE uid = ?"
        self._write([(statement, [(published, uid) for uid in changed])])
        if published:
            self.published_content.update(changed)
        else:
            self.published_content.difference_update(changed)

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
        # Opened on the thread that starts the fleet, then used on the fleet's own.
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
        ((version,),) = connection.execute("PRAGMA user_version")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_schema")
        if not tables:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute("INSERT INTO facts VALUES ('collection', ?)", (collection,))
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            connection.execute("COMMIT")
            return
        if (application, version) != (_APPLICATION_ID, _SCHEMA_VERSION):
            raise _UnusableError("it belongs to another program or release")
        ((result,),) = connection.execute("PRAGMA quick_check").fetchall()[:1]
        if result != "ok":
            raise _UnusableError(" ".join(str(result).split())[:200])
        facts = dict(connection.execute("SELECT name, value FROM facts"))
        if facts.get("collection") != collection:
            connection.execute("BEGIN IMMEDIATE")
            for table in ("objects", "views", "facts"):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("INSERT INTO facts VALUES ('collection', ?)", (collection,))
            connection.execute("COMMIT")
            return
        try:
            self.known, self.published_content = _read(connection)
            self.revision = int(facts.get("revision", -1))
        except ValueError as error:
            raise _UnusableError(f"it cannot be read: {error}") from error

    def _rename_unusable(self, reason: str) -> None:
        """Rename an unusable file."""
        renamed = self.path.with_name(f"{self.path.stem}.damaged{self.path.suffix}")
        LOG.warning(
            "%s cannot be used (%s): renamed to %s, and created again", self.path, reason, renamed.name
        )
        try:
            for side in ("-wal", "-shm", ""):
                old = self.path.with_name(self.path.name + side)
                if old.exists():
                    os.replace(old, renamed.with_name(renamed.name + side))
        except OSError as error:
            raise store_error(error, self.path) from error
        self.known, self.published_content, self.revision = FleetState(), set(), -1


def _read(connection: sqlite3.Connection) -> tuple[FleetState, set[str]]:
    """Return the contents; an unusable row is skipped, as broker or store can restore it."""
    known, published_content, skipped = FleetState(), set[str](), 0
    columns = "uid, created, name, name_stamp, life, life_stamp, observed_exists, observed_name"
    for row in connection.execute(f"SELECT {columns} FROM objects"):
        uid, created, name, name_stamp, life, life_stamp, exists, observed_name = row
        registers = {
            "name": {"stamp": name_stamp, "value": name},
            "life": {"stamp": life_stamp, "value": life},
        }
        try:
            known.objects[uid] = _convert(uid, {"created": created, **registers}, ObjectState)
        except (ValueError, msgspec.ValidationError):
            skipped += 1
            continue
        if exists is not None:
            known.observed_objects[uid] = ObservedObject(bool(exists), observed_name)
    columns = "uid, kind, created, source, owner, alive, place_stamp, observed_owner, observed_exists, content_published"
    for row in connection.execute(f"SELECT {columns} FROM views"):
        uid, kind, created, source, owner, alive, stamp, observed_owner, exists, published = row
        place = {"stamp": stamp, "object": owner, "alive": bool(alive)}
        try:
            known.views[uid] = _convert(
                uid, {"kind": kind, "created": created, "source": source, "place": place}, ViewState
            )
        except (ValueError, msgspec.ValidationError):
            skipped += 1
            continue
        if observed_owner is not None:
            known.observed_views[uid] = ObservedView(observed_owner, bool(exists))
        if published:
            published_content.add(uid)
    if skipped:
        LOG.warning("%d unusable rows of %s are skipped", skipped, FILE_NAME)
    return known, published_content


def _convert(uid: str, row: dict[str, Any], kind: type[_State]) -> _State:
    """Convert a row; raises `ValueError` or `msgspec.ValidationError`."""
    quick_convert(uid, Uid)
    state = quick_convert(row, kind)
    require_time("created", state.created)
    stamps = (state.name.stamp, state.life.stamp) if isinstance(state, ObjectState) else (state.place.stamp,)
    for stamp in stamps:
        require_stamp(stamp)
    return state
