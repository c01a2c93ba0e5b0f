"""Reads the rows of a damaged database one by one, and keeps those that make whole objects."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import numpy as np

from edge_siamese.errors import SupportError
from edge_siamese.pictures import is_intact_png
from edge_siamese.store.errors import FAILURES
from edge_siamese.store.names import checked_name, free_name, name_key
from edge_siamese.store.tables import TABLES
from edge_siamese.store.undo_log import is_readable

Row = tuple[Any, ...]

# Rows that are looked for by their number between two damaged places, at most; and where the upper one is unknown.
_MAX_LOOKUPS, _LOOKUPS = 1_000_000, 10_000


class TableReader:
    """The rows of one table that can be read, each once."""

    def __init__(self, source: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> None:
        self._source = source
        self._table = table
        self._columns = columns
        self.complete = False
        """Whether the last iteration read all rows without meeting damage."""

    def __iter__(self) -> Iterator[Row]:
        """Upwards to the first damaged page, downwards to the last, and one by one in between."""
        self.complete = False
        try:
            known = {row[1] for row in self._source.execute(f"PRAGMA table_info({self._table})")}
        except FAILURES:
            return
        if not known:
            return
        columns = ", ".join(name if name in known else "NULL" for name in self._columns)
        select = f"SELECT rowid, {columns} FROM {self._table} NOT INDEXED"
        low = 0
        try:
            for number, *row in self._source.execute(f"{select} ORDER BY rowid"):
                if number <= low:
                    break  # pages in a circle
                low = number
                yield tuple(row)
            else:
                self.complete = True
                return
        except FAILURES:
            pass  # the rest is looked for below
        high = 0
        try:
            for number, *row in self._source.execute(f"{select} ORDER BY rowid DESC"):
                if number <= low or (high and number >= high):
                    break
                high = number
                yield tuple(row)
        except FAILURES:
            pass  # the other side of the same damage
        for number in range(low + 1, min(high or low + _LOOKUPS, low + _MAX_LOOKUPS)):
            try:
                found = self._source.execute(f"{select} WHERE rowid = ?", (number,)).fetchone()
            except FAILURES:
                continue
            if found:
                yield tuple(found[1:])


class Sifter:
    """Takes rows into a new database and makes it whole in the end."""

    def __init__(self, target: sqlite3.Connection) -> None:
        """Into `target`: empty, of the newest layout, within a transaction, without foreign keys."""
        self._target = target
        target.execute("DELETE FROM facts")  # those of the damaged store come instead
        self._insert = {
            table: f"INSERT OR IGNORE INTO {table} "
            f"({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
            for table, columns in TABLES.items()
        }

    def keep(self, table: str, row: Row) -> None:
        """Take a row, unless it is there already or is no such row."""
        if table == "objects":
            row = self._named(row)
        if _PLAUSIBLE[table](row):
            self._target.execute(self._insert[table], row)

    def finish(self, *, name_orphans: bool) -> tuple[int, int]:
        """Drop what belongs to nothing.

        Args:
            name_orphans: make objects for views whose object could not be read; else these were deleted long ago.

        Returns:
            How many objects that were not deleted were found, and how many have a view that can be recognized by.
        """
        run = self._target.execute
        run("INSERT OR IGNORE INTO facts VALUES ('revision', '0'), ('last number', '0')")
        self._merge_again()
        for table in ("embeddings", "crops"):
            run(f"DELETE FROM {table} WHERE view_id NOT IN (SELECT id FROM views)")
        run(
            "DELETE FROM views WHERE id NOT IN (SELECT view_id FROM embeddings) "
            "AND id NOT IN (SELECT view_id FROM crops)"
        )
        orphans = run(
            "SELECT object_id, min(created) FROM views WHERE object_id NOT IN (SELECT id FROM objects) "
            "AND kind = 'view' AND deleted IS NULL GROUP BY object_id"
        ).fetchall()
        for number, created in orphans if name_orphans else ():
            self.keep("objects", (number, uuid4().hex, f"recovered {number}", "", created, None))
        found = self._count()
        run(
            "DELETE FROM objects WHERE deleted IS NULL AND NOT EXISTS (SELECT 1 FROM views "
            "WHERE object_id = objects.id AND kind = 'view' AND views.deleted IS NULL)"
        )
        run("DELETE FROM views WHERE object_id NOT IN (SELECT id FROM objects)")
        for table in ("embeddings", "crops"):
            run(f"DELETE FROM {table} WHERE view_id NOT IN (SELECT id FROM views)")
        return found, self._count()

    def _merge_again(self) -> None:
        """Merge what was merged since, where rows of objects or views came from an older copy than the rest."""
        run = self._target.execute
        for number, owner, text in run(
            "SELECT id, object_id, data FROM changes WHERE kind = 'merged' AND NOT undone ORDER BY id"
        ).fetchall():
            data = json.loads(text)
            if not run("SELECT 1 FROM objects WHERE id = ?", (data["into"],)).fetchone():
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

    def _named(self, row: Row) -> Row:
        """An object whose name is one, and nobody else's."""
        number, uid, name, _, created, deleted = row
        if self._target.execute("SELECT 1 FROM objects WHERE id = ?", (number,)).fetchone():
            return row
        try:
            name = checked_name(str(name))
        except SupportError:
            name = f"recovered {number}"
        if deleted is None:
            name = free_name(name, self._is_taken)
        return number, uid, name, name_key(name), created, deleted

    def _is_taken(self, key: str) -> bool:
        query = "SELECT 1 FROM objects WHERE key = ? AND deleted IS NULL"
        return self._target.execute(query, (key,)).fetchone() is not None


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
    view, model, vector = row
    return (
        isinstance(view, int)
        and isinstance(model, str)
        and isinstance(vector, bytes)
        and len(vector) > 0
        and len(vector) % 4 == 0
        and bool(np.isfinite(np.frombuffer(vector, "<f4")).all())
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
    number, kind, owner, view, data, undone = row
    return (
        isinstance(number, int)
        and isinstance(kind, str)
        and isinstance(owner, int | None)
        and isinstance(view, int | None)
        and isinstance(data, str)
        and undone in (0, 1)
        and is_readable(kind, data)
    )


def _is_fact(row: Row) -> bool:
    name, value = row
    if name in ("revision", "last number"):
        return isinstance(value, str) and value.isascii() and value.isdigit()
    return isinstance(name, str) and isinstance(value, str)


_PLAUSIBLE = {
    "objects": _is_object,
    "views": _is_view,
    "embeddings": _is_embedding,
    "crops": _is_crop,
    "changes": _is_change,
    "facts": _is_fact,
}
