"""The log of changes: what was done, how it is undone, and when deleted rows are purged.

Each change is a numbered row, written in the transaction of the change itself. An undo takes the last change that still
has an effect, reverts it and marks it as undone. A second undo therefore goes further back, and there is no redo. A
deleted object or view is only marked. It is kept for `MAX_UNDOS` further changes; then later changes purge it, at most
`MAX_PURGED_VIEWS` views each, so that no change takes a long time. Changes replicated from other devices are only numbered.

Every object has at least one view. An object that an undo leaves without a view is deleted with its last view.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from edge_siamese.events import counted
from edge_siamese.store.names import free_name, name_key
from edge_siamese.store.tables import row_checksum
from edge_siamese.validation import parse_json

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
REPLICATED = "replicated"
"""The kind of a change that was made on another device. It cannot be undone here."""

MAX_UNDOS = 200
"""Changes that can be undone."""
MAX_PURGED_VIEWS = 20
"""Views purged by one change."""

_NO_DATA: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Undone:
    """The change that an undo reverted."""

    text: str
    """Human-readable line."""
    kind: ChangeKind
    """The kind of the change."""
    uid: str | None
    """The object; None for an import, which may have added several."""
    name: str | None
    """The object's name now, or when it was deleted; None for an import."""


def log_change(
    connection: sqlite3.Connection,
    kind: ChangeKind,
    object_id: int | None = None,
    view_id: int | None = None,
    data: Mapping[str, Any] = _NO_DATA,
) -> int:
    """Log a change within its transaction and purge what is too old; returns the number of the change."""
    cursor = connection.execute(
        "INSERT INTO changes (kind, object_id, view_id, data, checksum) "
        "VALUES (?1, ?2, ?3, ?4, row_checksum(?1, ?2, ?3, ?4))",
        (kind, object_id, view_id, json.dumps(dict(data))),
    )
    number = int(cursor.lastrowid or 0)
    # Replicated changes do not shorten the list of changes that can be undone.
    too_old = "SELECT id FROM changes WHERE kind != ? ORDER BY id DESC LIMIT 1 OFFSET ?"
    (horizon,) = connection.execute(too_old, (REPLICATED, MAX_UNDOS)).fetchone() or (0,)
    purged = _purge(connection, horizon)
    _purge_replicated(connection, number - MAX_UNDOS, MAX_PURGED_VIEWS - purged)
    return number


def log_replicated_change(connection: sqlite3.Connection) -> int:
    """Log a change that was made on another device; returns its number, with which deleted rows are marked."""
    cursor = connection.execute(
        "INSERT INTO changes (kind, data, checksum) VALUES (?1, '{}', row_checksum(?1, NULL, NULL, '{}'))",
        (REPLICATED,),
    )
    number = int(cursor.lastrowid or 0)
    _purge_replicated(connection, number - MAX_UNDOS, MAX_PURGED_VIEWS)
    return number


def last_change_number(connection: sqlite3.Connection) -> int:
    """The number of the newest change; 0 if there is none."""
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM changes").fetchone()[0])


def merge_target(connection: sqlite3.Connection, object_id: int) -> int | None:
    """The object that has the views of a merged one, as long as the log knows; None if there is none."""
    query = (
        "SELECT o.deleted, c.kind, c.object_id, c.view_id, c.data, c.checksum FROM objects o "
        "LEFT JOIN changes c ON c.id = o.deleted AND c.kind = 'merged' AND c.object_id = o.id AND NOT c.undone "
        "WHERE o.id = ?"
    )
    last = 0
    while row := connection.execute(query, (object_id,)).fetchone():
        deleted, *change = row
        if deleted is None:
            return object_id
        data = read_change(*change)
        if data is None or deleted <= last:  # in a chain of merges, each is later than the one before
            return None
        object_id, last = data["into"], deleted
    return None


def read_change(
    kind: str, object_id: int | None, view_id: int | None, text: str, checksum: int
) -> dict[str, Any] | None:
    """The data of a change; None if its checksum is wrong, or an undo cannot use it."""
    if row_checksum(kind, object_id, view_id, text) != checksum:
        return None
    return change_data(kind, text)


def change_data(kind: str, text: str) -> dict[str, Any] | None:
    """Parse the data of a change; None if an undo cannot use them. In a damaged store they may be anything."""
    try:
        data = parse_json(text)
        if not isinstance(data, dict) or kind not in (REPLICATED, *get_args(ChangeKind)):
            return None
        check = _DATA_CHECKS.get(cast(ChangeKind, kind))
        return data if check is None or check(data) else None
    except (ValueError, KeyError, TypeError):
        return None


def _is_import_data(data: dict[str, Any]) -> bool:
    pairs = [*data["former objects"], *data["former views"]]
    return (
        _are_ids([*data["objects"], *data["views"]])
        and all(len(pair) == 2 and _are_ids(pair) for pair in pairs)
        and all(
            len(row) == 3 and _are_ids(row[:2]) and (row[2] is None or _are_ids(row[2:]))
            for row in data.get("moved views", ())
        )
    )


def _are_ids(values: Iterable[Any]) -> bool:
    return all(isinstance(value, int) and abs(value) < 2**63 for value in values)


_DATA_CHECKS: dict[ChangeKind, Callable[[dict[str, Any]], bool]] = {
    "view removed": lambda data: _are_ids([data.get("gone", 0)]),
    "renamed": lambda data: isinstance(data["former"], str),
    "merged": lambda data: _are_ids([data["into"], *data["views"]]),
    "imported": _is_import_data,
}


# The changes that have an effect, from the last to the first. Renaming an object that was forgotten since has none.
_UNDOABLE = """
SELECT c.id, c.kind, c.object_id, c.view_id, c.data, c.checksum, o.uid, o.name, o.deleted FROM changes c
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


@dataclass(frozen=True)
class _Change:
    """A change that is being undone."""

    number: int
    kind: ChangeKind
    object_id: int
    view_id: int
    data: dict[str, Any]
    uid: str | None
    name: str
    deleted: int | None
    """The change that deleted the object; None if it is not deleted."""


def undo_last(connection: sqlite3.Connection, registrations_only: bool) -> Undone | None:
    """Revert the last change, within a transaction; None if there is none.

    Args:
        connection: in a transaction.
        registrations_only: consider only registrations, added views and added negatives.
    """
    change = _last_change(connection, registrations_only)
    if change is None:
        return None
    stamp = last_change_number(connection)
    name, text = _REVERTS[change.kind](connection, change, stamp)
    connection.execute("UPDATE changes SET undone = 1 WHERE id = ?", (change.number,))
    if change.kind == "forgotten" and _delete_if_empty(connection, change.object_id, stamp):
        return undo_last(connection, registrations_only)  # its views were undone before: nothing was restored
    return Undone(f"undone: {text}", change.kind, change.uid, name)


def _last_change(connection: sqlite3.Connection, registrations_only: bool) -> _Change | None:
    for number, kind, object_id, view_id, text, checksum, uid, name, deleted in connection.execute(
        _UNDOABLE, (not registrations_only,)
    ):
        data = read_change(kind, object_id, view_id, text, checksum)
        if data is None:
            continue  # damaged since the store was opened
        change = _Change(number, kind, object_id, view_id, data, uid, name, deleted)
        if kind == "merged":
            has_effect = _has_merged_view(connection, change)
        else:  # an object that was deleted with its last view is restored with a view
            has_effect = kind != "view removed" or deleted in (None, change.data.get("gone"))
        if has_effect:
            return change
    return None


def _revert_registration(connection: sqlite3.Connection, change: _Change, stamp: int) -> tuple[str, str]:
    connection.execute("UPDATE objects SET deleted = ? WHERE id = ?", (stamp, change.object_id))
    return change.name, f'"{change.name}" is no longer registered'


def _revert_added_view(connection: sqlite3.Connection, change: _Change, stamp: int) -> tuple[str, str]:
    connection.execute("UPDATE views SET deleted = ? WHERE id = ?", (stamp, change.view_id))
    if _delete_if_empty(connection, change.object_id, stamp):
        return change.name, f'removed the only view of "{change.name}", and the object with it'
    noun = "view" if change.kind == "view added" else "negative"
    return change.name, f'removed the last {noun} of "{change.name}"'


def _revert_removed_view(connection: sqlite3.Connection, change: _Change, _: int) -> tuple[str, str]:
    connection.execute("UPDATE views SET deleted = NULL WHERE id = ?", (change.view_id,))
    name = _restore_object(connection, change.object_id, change.name)
    ((noun,),) = connection.execute("SELECT kind FROM views WHERE id = ?", (change.view_id,))
    return name, f'restored the removed {noun} of "{name}"'


def _revert_renaming(connection: sqlite3.Connection, change: _Change, _: int) -> tuple[str, str]:
    name = _set_free_name(connection, change.object_id, change.data["former"])
    return name, f'"{change.name}" is named "{name}" again'


def _revert_forgetting(connection: sqlite3.Connection, change: _Change, _: int) -> tuple[str, str]:
    name = _restore_object(connection, change.object_id, change.name)
    return name, f'"{name}" is registered again'


def _revert_merge(connection: sqlite3.Connection, change: _Change, stamp: int) -> tuple[str, str]:
    # All of its views, including one that was removed since from an object that no longer exists.
    own, into = change.object_id, change.data["into"]
    connection.executemany(
        "UPDATE views SET object_id = ?, deleted = NULL WHERE id = ? AND object_id IN (?, ?)",
        [(own, view, own, into) for view in change.data["views"]],
    )
    name = _restore_object(connection, own, change.name)
    _delete_if_empty(connection, into, stamp)
    return name, f'"{name}" is a separate object again'


def _revert_import(connection: sqlite3.Connection, change: _Change, stamp: int) -> tuple[None, str]:
    """Delete what was imported, and delete again what had been deleted before the import restored it."""
    data = change.data
    moved = data.get("moved views", ())  # logged only since objects can be merged
    views = [*data["views"], *(view for view, *_ in data["former views"]), *(row[0] for row in moved)]
    owners = {
        owner
        for view in views
        for (owner,) in connection.execute("SELECT object_id FROM views WHERE id = ?", (view,))
    }
    for table in ("objects", "views"):
        connection.executemany(
            f"UPDATE {table} SET deleted = ? WHERE id = ? AND deleted IS NULL",
            [(stamp, row) for row in data[table]] + [(then, row) for row, then in data[f"former {table}"]],
        )
    for view, owner, then in moved:
        exists = connection.execute("SELECT 1 FROM objects WHERE id = ?", (owner,)).fetchone()
        if exists:
            connection.execute(
                "UPDATE views SET object_id = ?, deleted = ? WHERE id = ?", (owner, then, view)
            )
        else:
            connection.execute("UPDATE views SET deleted = ? WHERE id = ?", (stamp, view))
    for owner in owners:
        _delete_if_empty(connection, owner, stamp)
    objects = len(data["objects"]) + len(data["former objects"])
    counts = [counted(objects, "object"), counted(len(views), "view")]
    return None, f"removed the imported {' and '.join(counts)}"


_REVERTS: dict[ChangeKind, Callable[[sqlite3.Connection, _Change, int], tuple[str | None, str]]] = {
    "registered": _revert_registration,
    "view added": _revert_added_view,
    "negative added": _revert_added_view,
    "view removed": _revert_removed_view,
    "renamed": _revert_renaming,
    "forgotten": _revert_forgetting,
    "merged": _revert_merge,
    "imported": _revert_import,
}


def _has_merged_view(connection: sqlite3.Connection, change: _Change) -> bool:
    """Whether a merged object can be restored: one of its views still exists."""
    query = "SELECT 1 FROM views WHERE id = ? AND kind = 'view' AND object_id IN (?, ?)"
    return any(
        connection.execute(query, (view, change.object_id, change.data["into"])).fetchone()
        for view in change.data["views"]
    )


def _delete_if_empty(connection: sqlite3.Connection, object_id: int, stamp: int) -> bool:
    """Delete an object that an undo left without a view; returns whether it did.

    If a view was removed from it before, the object is deleted as if with that view: undoing the removal restores both.
    """
    empty = (
        "id = ? AND deleted IS NULL AND NOT EXISTS "
        "(SELECT 1 FROM views v WHERE v.object_id = objects.id AND v.kind = 'view' AND v.deleted IS NULL)"
    )
    if not connection.execute(f"UPDATE objects SET deleted = ? WHERE {empty}", (stamp, object_id)).rowcount:
        return False
    connection.execute(
        "UPDATE changes SET data = ?1, checksum = row_checksum(kind, object_id, view_id, ?1) WHERE id = "
        "(SELECT max(c.id) FROM changes c JOIN views v ON v.id = c.view_id "
        "AND v.deleted = c.id AND v.kind = 'view' WHERE c.kind = 'view removed' AND NOT c.undone AND v.object_id = ?2)",
        (json.dumps({"gone": stamp}), object_id),
    )
    return True


def _restore_object(connection: sqlite3.Connection, object_id: int, name: str) -> str:
    """Restore an object, or keep one that is not deleted; returns its name now."""
    name = _set_free_name(connection, object_id, name)
    connection.execute("UPDATE objects SET deleted = NULL WHERE id = ?", (object_id,))
    return name


def _set_free_name(connection: sqlite3.Connection, object_id: int, name: str) -> str:
    """Rename an object, with a number appended if another object has the name now."""

    def is_taken(key: str) -> bool:
        query = "SELECT 1 FROM objects WHERE key = ? AND deleted IS NULL AND id != ?"
        return connection.execute(query, (key, object_id)).fetchone() is not None

    name = free_name(name, is_taken)
    connection.execute("UPDATE objects SET name = ?, key = ? WHERE id = ?", (name, name_key(name), object_id))
    return name


def _purge(connection: sqlite3.Connection, horizon: int) -> int:
    """Remove rows deleted by the change `horizon` or before, and these changes; returns the number of views."""
    if horizon < 1:
        return 0
    connection.execute("DELETE FROM changes WHERE id <= ?", (horizon,))
    return _remove_deleted(connection, horizon, "1", MAX_PURGED_VIEWS)


def _purge_replicated(connection: sqlite3.Connection, horizon: int, limit: int) -> None:
    """Remove rows deleted by replicated changes up to `horizon`: no change that can be undone refers to them."""
    if horizon < 0:
        return
    not_undoable = f"NOT EXISTS (SELECT 1 FROM changes c WHERE c.id = deleted AND c.kind != '{REPLICATED}')"
    _remove_deleted(connection, horizon, not_undoable, limit)
    connection.execute("DELETE FROM changes WHERE kind = ? AND id <= ?", (REPLICATED, horizon))


def _remove_deleted(connection: sqlite3.Connection, horizon: int, condition: str, limit: int) -> int:
    objects = f"SELECT id FROM objects WHERE deleted <= ? AND {condition}"
    views = connection.execute(
        f"DELETE FROM views WHERE id IN (SELECT id FROM views WHERE deleted <= ? AND {condition} UNION ALL "
        f"SELECT id FROM views WHERE object_id IN ({objects}) LIMIT ?)",
        (horizon, horizon, limit),
    )
    connection.execute(
        f"DELETE FROM objects WHERE id IN ({objects} "
        "AND NOT EXISTS (SELECT 1 FROM views v WHERE v.object_id = objects.id) LIMIT ?)",
        (horizon, limit),
    )
    return views.rowcount
