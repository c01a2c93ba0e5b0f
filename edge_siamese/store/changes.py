"""The log of changes: what was done, how it is undone, and when what was deleted is gone for good.

Each change is a numbered row, written in the transaction of the change itself. An undo takes the last change that still
has something to undo, turns it back and marks it; so a second undo goes further back, and what was undone cannot be
undone again. A deleted object or view is only marked, and stays for the `KEPT` changes after; then a later change
removes it, `PURGED_AT_ONCE` views at most, so that no change takes long.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

from edge_siamese.store.names import free_name, name_key

ChangeKind = Literal["registered", "view added", "negative added", "renamed", "forgotten", "imported"]
REGISTRATIONS = ("registered", "view added", "negative added")
"""What the button does, and takes back."""

NOTHING: Mapping[str, Any] = MappingProxyType({})

KEPT = 200
"""So many changes can be undone."""
PURGED_AT_ONCE = 20
"""Views, in one change."""


@dataclass(frozen=True)
class Undone:
    """What an undo took back."""

    text: str
    """One line for people."""
    kind: ChangeKind
    """The change that is undone."""
    uid: str | None
    """The object; None for an import, which may have brought several."""
    name: str | None
    """What it is called now, or was when it went; None for an import."""


def record(
    connection: sqlite3.Connection,
    kind: ChangeKind,
    object_id: int | None = None,
    view_id: int | None = None,
    data: Mapping[str, Any] = NOTHING,
) -> int:
    """Note a change within its transaction, and purge what is too old; the number of the change."""
    cursor = connection.execute(
        "INSERT INTO changes (kind, object_id, view_id, data) VALUES (?, ?, ?, ?)",
        (kind, object_id, view_id, json.dumps(dict(data))),
    )
    number = int(cursor.lastrowid or 0)
    _purge(connection, number - KEPT)
    return number


def last_change(connection: sqlite3.Connection) -> int:
    """The number of the newest change; 0 if there was none."""
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM changes").fetchone()[0])


def is_taken(connection: sqlite3.Connection, key: str) -> bool:
    """Whether an object that is not deleted has this name."""
    found = connection.execute("SELECT 1 FROM objects WHERE key = ? AND deleted IS NULL", (key,)).fetchone()
    return found is not None


# The last change that has an effect: a renaming of an object that was forgotten since has none.
_LAST = """
SELECT c.id, c.kind, c.object_id, c.view_id, c.data, o.uid, o.name FROM changes c
LEFT JOIN objects o ON o.id = c.object_id LEFT JOIN views v ON v.id = c.view_id
WHERE NOT c.undone AND (c.kind IN ('registered', 'view added', 'negative added') OR ?) AND CASE c.kind
    WHEN 'imported' THEN 1
    WHEN 'forgotten' THEN o.deleted = c.id
    WHEN 'renamed' THEN o.id IS NOT NULL AND o.deleted IS NULL
    WHEN 'registered' THEN o.id IS NOT NULL AND o.deleted IS NULL
    ELSE v.id IS NOT NULL AND v.deleted IS NULL AND o.deleted IS NULL END
ORDER BY c.id DESC LIMIT 1"""


def undo_last(connection: sqlite3.Connection, registrations_only: bool) -> Undone | None:
    """Turn the last change back, within a transaction; None if there is none."""
    found = connection.execute(_LAST, (not registrations_only,)).fetchone()
    if found is None:
        return None
    number, kind, object_id, view_id, text, uid, name = found
    data = json.loads(text)
    stamp = last_change(connection)
    if kind == "registered":
        connection.execute("UPDATE objects SET deleted = ? WHERE id = ?", (stamp, object_id))
        told = f'undone: "{name}" is no longer registered'
    elif kind in ("view added", "negative added"):
        connection.execute("UPDATE views SET deleted = ? WHERE id = ?", (stamp, view_id))
        what = "view" if kind == "view added" else "negative"
        told = f'undone: the last {what} of "{name}" is gone'
    elif kind == "renamed":
        former, name = name, _give_name(connection, object_id, data["former"])
        told = f'undone: "{former}" is called "{name}" again'
    elif kind == "forgotten":
        name = _give_name(connection, object_id, name)
        connection.execute("UPDATE objects SET deleted = NULL WHERE id = ?", (object_id,))
        told = f'undone: "{name}" is registered again'
    else:
        told = f"undone: the import of {_undo_import(connection, data, stamp)} is gone"
    connection.execute("UPDATE changes SET undone = 1 WHERE id = ?", (number,))
    return Undone(told, cast(ChangeKind, kind), uid, name)


def _undo_import(connection: sqlite3.Connection, data: dict[str, Any], stamp: int) -> str:
    """Delete what came, and delete again what had been deleted before it came; what that was, for people."""
    for table in ("objects", "views"):
        connection.executemany(
            f"UPDATE {table} SET deleted = ? WHERE id = ? AND deleted IS NULL",
            [(stamp, number) for number in data[table]]
            + [(then, number) for number, then in data[f"former {table}"]],
        )
    counts = [(len(data[table]) + len(data[f"former {table}"]), table[:-1]) for table in ("objects", "views")]
    return " and ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts)


def _give_name(connection: sqlite3.Connection, object_id: int, name: str) -> str:
    """Name an object so, or nearly so when another got that name meanwhile."""

    def taken(key: str) -> bool:
        query = "SELECT 1 FROM objects WHERE key = ? AND deleted IS NULL AND id != ?"
        return connection.execute(query, (key, object_id)).fetchone() is not None

    name = free_name(name, taken)
    connection.execute("UPDATE objects SET name = ?, key = ? WHERE id = ?", (name, name_key(name), object_id))
    return name


def _purge(connection: sqlite3.Connection, horizon: int) -> None:
    """Remove what was deleted at the change `horizon` or before, and these changes."""
    if horizon < 1:
        return
    connection.execute("DELETE FROM changes WHERE id <= ?", (horizon,))
    connection.execute(
        "DELETE FROM views WHERE id IN (SELECT id FROM views WHERE deleted <= ? UNION ALL SELECT v.id FROM objects o "
        "JOIN views v ON v.object_id = o.id WHERE o.deleted <= ? LIMIT ?)",
        (horizon, horizon, PURGED_AT_ONCE),
    )
    connection.execute(
        "DELETE FROM objects WHERE id IN (SELECT o.id FROM objects o WHERE o.deleted <= ? "
        "AND NOT EXISTS (SELECT 1 FROM views v WHERE v.object_id = o.id) LIMIT ?)",
        (horizon, PURGED_AT_ONCE),
    )
