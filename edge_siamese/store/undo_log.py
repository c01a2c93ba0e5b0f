"""The log of changes: what was done, how it is undone, and when what was deleted is gone for good.

Each change is a numbered row, written in the transaction of the change itself. An undo takes the last change that still
has something to undo, turns it back and marks it; so a second undo goes further back, and what was undone cannot be
undone again. A deleted object or view is only marked, and stays for the `KEPT` changes after; then a later change
removes it, `PURGED_AT_ONCE` views at most, so that no change takes long. What is done elsewhere only has a number.

An object has a view as long as it is there. One that an undo leaves without any goes with its last view.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from edge_siamese.store.names import free_name, name_key

ChangeKind = Literal[
    "registered",
    "view added",
    "negative added",
    "view removed",
    "renamed",
    "forgotten",
    "merged",
    "imported",
]
REGISTRATIONS = ("registered", "view added", "negative added")
"""What the button does, and takes back."""

ELSEWHERE = "elsewhere"
"""The kind of what only has a number: it was done on another device."""

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
    # Of what was done here so much can be undone, whatever comes from elsewhere meanwhile.
    too_old = "SELECT id FROM changes WHERE kind != ? ORDER BY id DESC LIMIT 1 OFFSET ?"
    (horizon,) = connection.execute(too_old, (ELSEWHERE, KEPT)).fetchone() or (0,)
    gone = _purge(connection, horizon)
    _purge_elsewhere(connection, number - KEPT, PURGED_AT_ONCE - gone)
    return number


def note_elsewhere(connection: sqlite3.Connection) -> int:
    """Number what was done elsewhere within its transaction, and purge what is too old; what it deletes has this number.

    It cannot be undone here, but time goes on: on a device where nobody ever does anything, what was forgotten elsewhere
    has to go as well.
    """
    cursor = connection.execute("INSERT INTO changes (kind, data) VALUES (?, '{}')", (ELSEWHERE,))
    number = int(cursor.lastrowid or 0)
    _purge_elsewhere(connection, number - KEPT, PURGED_AT_ONCE)
    return number


def last_change(connection: sqlite3.Connection) -> int:
    """The number of the newest change; 0 if there was none."""
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM changes").fetchone()[0])


def is_taken(connection: sqlite3.Connection, key: str) -> bool:
    """Whether an object that is not deleted has this name."""
    found = connection.execute("SELECT 1 FROM objects WHERE key = ? AND deleted IS NULL", (key,)).fetchone()
    return found is not None


def merged_into(connection: sqlite3.Connection, object_id: int) -> int | None:
    """The object that has the views of one that was merged, as long as that is remembered; None if there is none."""
    query = (
        "SELECT o.deleted, c.data FROM objects o LEFT JOIN changes c ON c.id = o.deleted AND c.kind = 'merged' "
        "AND c.object_id = o.id AND NOT c.undone WHERE o.id = ?"
    )
    last = 0
    while found := connection.execute(query, (object_id,)).fetchone():
        deleted, text = found
        if deleted is None:
            return object_id
        if text is None or deleted <= last:  # each was merged after what was merged into it
            return None
        object_id, last = json.loads(text)["into"], deleted
    return None


def is_readable(kind: str, text: str) -> bool:
    """Whether an undo can make something of what a change noted; of a damaged store it may be anything."""
    try:
        data = json.loads(text)
        if kind == ELSEWHERE:
            return True
        if kind not in get_args(ChangeKind) or not isinstance(data, dict):
            return False
        if kind == "view removed":
            return _are_numbers([data.get("gone", 0)])
        if kind == "renamed":
            return isinstance(data["former"], str)
        if kind == "merged":
            return _are_numbers([data["into"], *data["views"]])
        if kind == "imported":
            pairs = [*data["former objects"], *data["former views"]]
            return (
                _are_numbers(data["objects"])
                and _are_numbers(data["views"])
                and all(len(pair) == 2 and _are_numbers(pair) for pair in pairs)
                and all(
                    len(row) == 3 and _are_numbers(row[:2]) and (row[2] is None or _are_numbers(row[2:]))
                    for row in data.get("moved views", ())
                )
            )
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    return True


# The changes that have an effect, from the last to the first: a renaming of an object that was forgotten since has none.
_LAST = """
SELECT c.id, c.kind, c.object_id, c.view_id, c.data, o.uid, o.name, o.deleted FROM changes c
LEFT JOIN objects o ON o.id = c.object_id LEFT JOIN views v ON v.id = c.view_id
WHERE NOT c.undone AND (c.kind IN ('registered', 'view added', 'negative added') OR ?) AND CASE c.kind
    WHEN 'imported' THEN 1
    WHEN 'forgotten' THEN o.deleted = c.id
    WHEN 'merged' THEN o.deleted = c.id
    WHEN 'renamed' THEN o.id IS NOT NULL AND o.deleted IS NULL
    WHEN 'registered' THEN o.id IS NOT NULL AND o.deleted IS NULL
    WHEN 'view removed' THEN v.deleted = c.id AND v.object_id = o.id
    WHEN 'view added' THEN v.deleted IS NULL AND v.object_id = o.id AND o.deleted IS NULL
    WHEN 'negative added' THEN v.deleted IS NULL AND v.object_id = o.id AND o.deleted IS NULL
    END
ORDER BY c.id DESC"""


def undo_last(connection: sqlite3.Connection, registrations_only: bool) -> Undone | None:
    """Turn the last change back, within a transaction; None if there is none."""
    for found in connection.execute(_LAST, (not registrations_only,)):
        number, kind, object_id, view_id, text, uid, name, deleted = found
        data = json.loads(text)
        if kind == "merged":
            has_effect = _has_what_was_moved(connection, object_id, data)
        else:  # an object that went with its last view comes back with one
            has_effect = kind != "view removed" or deleted in (None, data.get("gone"))
        if has_effect:
            break
    else:
        return None
    stamp = last_change(connection)
    if kind == "registered":
        connection.execute("UPDATE objects SET deleted = ? WHERE id = ?", (stamp, object_id))
        told = f'undone: "{name}" is no longer registered'
    elif kind in ("view added", "negative added"):
        connection.execute("UPDATE views SET deleted = ? WHERE id = ?", (stamp, view_id))
        what = "view" if kind == "view added" else "negative"
        told = f'undone: the last {what} of "{name}" is gone'
        if _drop_if_empty(connection, object_id, stamp):
            told = f'undone: the only view of "{name}" is gone, and the object with it'
    elif kind == "view removed":
        connection.execute("UPDATE views SET deleted = NULL WHERE id = ?", (view_id,))
        name = _bring_back(connection, object_id, name)
        ((what,),) = connection.execute("SELECT kind FROM views WHERE id = ?", (view_id,))
        told = f'undone: the removed {what} of "{name}" is back'
    elif kind == "renamed":
        former, name = name, _give_name(connection, object_id, data["former"])
        told = f'undone: "{former}" is called "{name}" again'
    elif kind == "forgotten":
        name = _bring_back(connection, object_id, name)
        told = f'undone: "{name}" is registered again'
    elif kind == "merged":
        # In full, also where a view was removed meanwhile from an object that is not there any more.
        connection.executemany(
            "UPDATE views SET object_id = ?, deleted = NULL WHERE id = ? AND object_id IN (?, ?)",
            [(object_id, view, object_id, data["into"]) for view in data["views"]],
        )
        name = _bring_back(connection, object_id, name)
        _drop_if_empty(connection, data["into"], stamp)
        told = f'undone: "{name}" is an object of its own again'
    else:
        told = f"undone: the import of {_undo_import(connection, data, stamp)} is gone"
    connection.execute("UPDATE changes SET undone = 1 WHERE id = ?", (number,))
    if kind == "forgotten" and _drop_if_empty(connection, object_id, stamp):
        return undo_last(connection, registrations_only)  # its views were undone before, so nothing came back
    return Undone(told, cast(ChangeKind, kind), uid, name)


def _undo_import(connection: sqlite3.Connection, data: dict[str, Any], stamp: int) -> str:
    """Delete what came, and delete again what had been deleted before it came; what that was, for people."""
    moved = data.get("moved views", ())  # noted only since objects can be merged
    came = [*data["views"], *(number for number, *_ in data["former views"]), *(row[0] for row in moved)]
    owners = {
        owner
        for number in came
        for (owner,) in connection.execute("SELECT object_id FROM views WHERE id = ?", (number,))
    }
    for table in ("objects", "views"):
        connection.executemany(
            f"UPDATE {table} SET deleted = ? WHERE id = ? AND deleted IS NULL",
            [(stamp, number) for number in data[table]]
            + [(then, number) for number, then in data[f"former {table}"]],
        )
    for number, owner, then in moved:
        there = connection.execute("SELECT 1 FROM objects WHERE id = ?", (owner,)).fetchone()
        sets, values = ("object_id = ?, deleted = ?", (owner, then)) if there else ("deleted = ?", (stamp,))
        connection.execute(f"UPDATE views SET {sets} WHERE id = ?", (*values, number))
    for owner in owners:
        _drop_if_empty(connection, owner, stamp)
    counts = {
        "object": len(data["objects"]) + len(data["former objects"]),
        "view": len(came),
    }
    return " and ".join(f"{count} {word}{'' if count == 1 else 's'}" for word, count in counts.items())


def _has_what_was_moved(connection: sqlite3.Connection, object_id: int, data: dict[str, Any]) -> bool:
    """Whether a view of a merged object is still there for it."""
    query = "SELECT 1 FROM views WHERE id = ? AND kind = 'view' AND object_id IN (?, ?)"
    return any(
        connection.execute(query, (view, object_id, data["into"])).fetchone() for view in data["views"]
    )


def _drop_if_empty(connection: sqlite3.Connection, object_id: int, stamp: int) -> bool:
    """Delete an object that an undo left without a view; whether it was so.

    If a view of it was removed before, it goes as if with that one, and the undo of that removal brings both back.
    """
    empty = (
        "id = ? AND deleted IS NULL AND NOT EXISTS "
        "(SELECT 1 FROM views v WHERE v.object_id = objects.id AND v.kind = 'view' AND v.deleted IS NULL)"
    )
    if not connection.execute(f"UPDATE objects SET deleted = ? WHERE {empty}", (stamp, object_id)).rowcount:
        return False
    connection.execute(
        "UPDATE changes SET data = ? WHERE id = (SELECT max(c.id) FROM changes c JOIN views v ON v.id = c.view_id "
        "AND v.deleted = c.id AND v.kind = 'view' WHERE c.kind = 'view removed' AND NOT c.undone AND v.object_id = ?)",
        (json.dumps({"gone": stamp}), object_id),
    )
    return True


def _bring_back(connection: sqlite3.Connection, object_id: int, name: str) -> str:
    """Let an object be there again, or still; what it is called now."""
    name = _give_name(connection, object_id, name)
    connection.execute("UPDATE objects SET deleted = NULL WHERE id = ?", (object_id,))
    return name


def _give_name(connection: sqlite3.Connection, object_id: int, name: str) -> str:
    """Name an object so, or nearly so when another got that name meanwhile."""

    def taken(key: str) -> bool:
        query = "SELECT 1 FROM objects WHERE key = ? AND deleted IS NULL AND id != ?"
        return connection.execute(query, (key, object_id)).fetchone() is not None

    name = free_name(name, taken)
    connection.execute("UPDATE objects SET name = ?, key = ? WHERE id = ?", (name, name_key(name), object_id))
    return name


def _are_numbers(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int) and abs(value) < 2**63 for value in values)


def _purge(connection: sqlite3.Connection, horizon: int) -> int:
    """Remove what was deleted at the change `horizon` or before, and these changes; how many views went."""
    if horizon < 1:
        return 0
    connection.execute("DELETE FROM changes WHERE id <= ?", (horizon,))
    return _remove_deleted(connection, horizon, "1", PURGED_AT_ONCE)


def _purge_elsewhere(connection: sqlite3.Connection, horizon: int, most: int) -> None:
    """Remove what was deleted elsewhere, at the change `horizon` or before: no change that could be undone knows of it."""
    if horizon < 0:
        return
    _remove_deleted(
        connection,
        horizon,
        f"NOT EXISTS (SELECT 1 FROM changes c WHERE c.id = deleted AND c.kind != '{ELSEWHERE}')",
        most,
    )
    connection.execute("DELETE FROM changes WHERE kind = ? AND id <= ?", (ELSEWHERE, horizon))


def _remove_deleted(connection: sqlite3.Connection, horizon: int, condition: str, most: int) -> int:
    gone = f"SELECT id FROM objects WHERE deleted <= ? AND {condition}"
    views = connection.execute(
        f"DELETE FROM views WHERE id IN (SELECT id FROM views WHERE deleted <= ? AND {condition} UNION ALL "
        f"SELECT id FROM views WHERE object_id IN ({gone}) LIMIT ?)",
        (horizon, horizon, most),
    )
    connection.execute(
        f"DELETE FROM objects WHERE id IN ({gone} "
        "AND NOT EXISTS (SELECT 1 FROM views v WHERE v.object_id = objects.id) LIMIT ?)",
        (horizon, most),
    )
    return views.rowcount
