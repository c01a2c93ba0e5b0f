"""Damage in single rows, which SQLite does not notice: found by checksums and cross-checks, and repaired in place.

SQLite checks the structure of its file, and its indexes. A changed bit within an embedding, a name or a time leaves both
intact. Pictures have checksums of their own, as PNG files; they are verified when they are decoded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_siamese.events import counted
from edge_siamese.store.names import name_key
from edge_siamese.store.tables import UNUSABLE, is_intact, row_checksum
from edge_siamese.validation import is_time

UNKNOWN_TIME = "1970-01-01T00:00:00.000+00:00"
"""Replaces times that are damaged, or that a device without a valid clock would store."""
MAX_SHOWN = 5
"""Views and names in a line of text."""

ReadBackup = Callable[..., Sequence[tuple[Any, ...]]]


@dataclass
class RowDamage:
    """Rows that are damaged, and the outcome of their repair."""

    embeddings: list[tuple[int, str]] = field(default_factory=list)
    """View and model of each damaged embedding."""
    names: list[tuple[int, str, str]] = field(default_factory=list)
    """Id, name and key of objects whose name does not match its key, which an index protects."""
    times: list[tuple[str, int]] = field(default_factory=list)
    """Table and id of rows with an invalid time."""
    changes: list[int] = field(default_factory=list)
    """Numbers of changes that cannot be undone."""
    restored: int = 0
    """Embeddings that were read from the backup."""
    dropped: int = 0
    """Embeddings that are computed again from pictures."""
    unusable: list[int] = field(default_factory=list)
    """Views without pictures whose embedding could not be restored."""

    def __bool__(self) -> bool:
        return bool(self.embeddings or self.names or self.times or self.changes)

    @property
    def rows(self) -> str:
        """Human-readable description of the damage."""
        parts = []
        if count := len(self.embeddings):
            parts.append(f"{counted(count, 'embedding')} of registered views")
        if self.names:
            parts.append(counted(len(self.names), "name"))
        if self.times:
            parts.append(counted(len(self.times), "registration time"))
        if self.changes:
            parts.append(counted(len(self.changes), "entry", "entries") + " of the undo log")
        return ", ".join(parts)

    @property
    def text(self) -> str:
        """Human-readable line: the damage, and the outcome of its repair."""
        text = f"the store had damaged data: {self.rows}"
        if self.restored:
            text += f"; {counted(self.restored, 'embedding')} restored from the backup"
        if self.dropped:
            text += f"; {counted(self.dropped, 'embedding')} to be computed again from stored pictures"
        if self.unusable:
            shown = ", ".join(map(str, self.unusable[:MAX_SHOWN]))
            shown += ", …" if len(self.unusable) > MAX_SHOWN else ""
            text += f"; not used, for lack of pictures: {counted(len(self.unusable), 'view')} ({shown})"
        return text


def find_damage(
    connection: sqlite3.Connection, model_id: str = "", usable: Callable[..., list[bool]] | None = None
) -> RowDamage:
    """Look for damaged rows in the small tables; changes nothing.

    Args:
        connection: a store of the newest schema.
        model_id: the current model.
        usable: returns which of its embeddings, as (view, vector, checksum), can be used; None: those whose checksum is
            correct.

    Raises:
        sqlite3.Error, UnicodeDecodeError: the file is damaged.
    """
    damage = RowDamage(embeddings=_damaged_embeddings(connection, model_id, usable))
    for number, name, key, created in connection.execute("SELECT id, name, key, created FROM objects"):
        if name_key(name) != key:
            damage.names.append((number, name, key))
        if not is_time(created):
            damage.times.append(("objects", number))
    for number, created in connection.execute("SELECT id, created FROM views"):
        if not is_time(created):
            damage.times.append(("views", number))
    for number, checksum, *change in connection.execute(
        "SELECT id, checksum, kind, object_id, view_id, data FROM changes"
    ):
        if row_checksum(*change) != checksum:
            damage.changes.append(number)
    return damage


def _damaged_embeddings(
    connection: sqlite3.Connection, model_id: str, usable: Callable[..., list[bool]] | None
) -> list[tuple[int, str]]:
    """View and model of each damaged embedding that is not marked as unusable."""
    damaged, current = [], []
    query = f"SELECT view_id, model_id, vector, checksum FROM embeddings WHERE checksum != {UNUSABLE}"
    for view, model, vector, checksum in connection.execute(query):
        if usable is not None and model == model_id:
            current.append((view, vector, checksum))
        elif not is_intact(view, model, vector, checksum):
            damaged.append((view, model))
    if usable is not None:
        verdicts = zip(current, usable(current), strict=True)
        damaged += [(view, model_id) for (view, *_), good in verdicts if not good]
    return damaged


def repair_damage(
    connection: sqlite3.Connection, damage: RowDamage, model_id: str, read_backup: ReadBackup
) -> None:
    """Repair damaged rows, within a transaction; records the outcome for the embeddings in `damage`.

    An embedding comes from the backup, or else is deleted if its view has pictures from which it can be computed. Without
    pictures it is kept and marked, so that the view is listed until somebody removes it.

    Args:
        connection: in a transaction.
        damage: the damage from `find_damage`.
        model_id: the current model; views without an embedding of another one are used.
        read_backup: reads rows of the backup.
    """
    run = connection.execute
    for view, model in damage.embeddings:
        where = "WHERE view_id = ? AND model_id = ?"
        copies = read_backup(f"SELECT vector, checksum FROM embeddings {where}", view, model)
        current = run(f"SELECT vector FROM embeddings {where}", (view, model)).fetchone()
        copy = next((row for row in copies if is_intact(view, model, *row)), None)
        if copy is not None and current is not None and copy[0] != current[0]:
            run(f"UPDATE embeddings SET vector = ?, checksum = ? {where}", (*copy, view, model))
            damage.restored += 1
        elif run("SELECT 1 FROM crops WHERE view_id = ? LIMIT 1", (view,)).fetchone():
            run(f"DELETE FROM embeddings {where}", (view, model))
            damage.dropped += 1
        else:
            run(f"UPDATE embeddings SET checksum = {UNUSABLE} {where}", (view, model))
            damage.unusable += [view] if model == model_id else []
    for number, _, key in damage.names:
        copies = read_backup("SELECT name FROM objects WHERE id = ?", number)
        name = next((name for (name,) in copies if name_key(str(name)) == key), key)
        run("UPDATE objects SET name = ? WHERE id = ?", (name, number))
    for table, number in damage.times:
        copies = read_backup(f"SELECT created FROM {table} WHERE id = ?", number)
        created = next((time for (time,) in copies if is_time(str(time))), UNKNOWN_TIME)
        run(f"UPDATE {table} SET created = ? WHERE id = ?", (created, number))
    connection.executemany("DELETE FROM changes WHERE id = ?", [(number,) for number in damage.changes])
