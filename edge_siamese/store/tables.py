"""The tables of the store, and the steps from an older layout to this one."""

from __future__ import annotations

import sqlite3

MAX_CROPS = 100
"""Pictures of one view."""
MAX_CROP_SIDE = 2048
"""Pixels of a side of a picture from an archive or another device."""

APPLICATION_ID = 0x45534F42
"""Marks a file as a store of edge-siamese ("ESOB"), in the header of the database."""

# Deletion only fills in `deleted`: with the change after which the row was no longer wanted. Until the purge, an undo
# brings everything back. AUTOINCREMENT, because a view's number is known outside (in memory, while it is embedded
# anew) and must never come to mean another view. Numbers, not times, give the order: a device's clock jumps.
_FIRST = (
    """CREATE TABLE objects (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        uid TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        key TEXT NOT NULL,
        created TEXT NOT NULL,
        deleted INTEGER)""",
    "CREATE UNIQUE INDEX objects_by_key ON objects (key) WHERE deleted IS NULL",
    "CREATE INDEX objects_deleted ON objects (deleted) WHERE deleted IS NOT NULL",
    """CREATE TABLE views (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        uid TEXT NOT NULL UNIQUE,
        object_id INTEGER NOT NULL REFERENCES objects (id),
        kind TEXT NOT NULL CHECK (kind IN ('view', 'negative')),
        created TEXT NOT NULL,
        source TEXT NOT NULL,
        deleted INTEGER)""",
    "CREATE INDEX views_by_object ON views (object_id)",
    "CREATE INDEX views_deleted ON views (deleted) WHERE deleted IS NOT NULL",
    """CREATE TABLE embeddings (
        view_id INTEGER NOT NULL REFERENCES views (id) ON DELETE CASCADE,
        model_id TEXT NOT NULL,
        vector BLOB NOT NULL,
        UNIQUE (view_id, model_id))""",
    """CREATE TABLE crops (
        view_id INTEGER NOT NULL REFERENCES views (id) ON DELETE CASCADE,
        place INTEGER NOT NULL,
        picture BLOB NOT NULL,
        UNIQUE (view_id, place))""",
    """CREATE TABLE changes (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        object_id INTEGER,
        view_id INTEGER,
        data TEXT NOT NULL,
        undone INTEGER NOT NULL DEFAULT 0)""",
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "INSERT INTO facts VALUES ('revision', '0'), ('last number', '0')",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST,)
"""Step n leads from layout n (`PRAGMA user_version`) to n + 1. Steps are added, never changed."""

TABLES: dict[str, tuple[str, ...]] = {
    "objects": ("id", "uid", "name", "key", "created", "deleted"),
    "views": ("id", "uid", "object_id", "kind", "created", "source", "deleted"),
    "embeddings": ("view_id", "model_id", "vector"),
    "crops": ("view_id", "place", "picture"),
    "changes": ("id", "kind", "object_id", "view_id", "data", "undone"),
    "facts": ("name", "value"),
}
"""All tables and their columns, in an order in which they can be filled."""

SMALL_TABLES = tuple(table for table in TABLES if table != "crops")
"""What is checked at every start; the pictures are gigabytes, and nothing that is recognized depends on them."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a database to the newest layout, each step in a transaction of its own; raises `sqlite3.Error`."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in step:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
