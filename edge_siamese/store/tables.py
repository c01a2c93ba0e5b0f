"""The tables of the store: their schema, its migrations, and the statements that fill them."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from contextlib import closing

import numpy as np

from edge_siamese.errors import SupportError
from edge_siamese.pictures import encode_png
from edge_siamese.recognition.embedding import usable_embeddings
from edge_siamese.recognition.imaging import Bytes, Floats
from edge_siamese.store.names import name_key

APPLICATION_ID = 0x45534F42
"""Marks a file as a store of edge-siamese ("ESOB"), in the header of the database."""

MAX_CROPS = 100
"""Pictures of one view."""
MAX_CROP_SIDE = 2048
"""Pixels of a side of a picture from an archive or another device."""

UNUSABLE = -1
"""The checksum of an embedding that is damaged and cannot be restored: no row has it. The view is kept and not used."""

# A deletion only sets `deleted`, to the number of the change that deleted the row. An undo can restore the row until it
# is purged. AUTOINCREMENT, because a view's id is held outside of the store (while the view is embedded again) and must
# never refer to another view. Ids, not times, give the order: a device's clock jumps.
_VERSION_1 = (
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

_CHECKSUM_OF_EMBEDDING = "row_checksum(view_id, CAST(model_id AS BLOB), vector)"
_CHECKSUM_OF_CHANGE = "row_checksum(CAST(kind AS BLOB), object_id, view_id, CAST(data AS BLOB))"
_VERSION_2 = (
    f"ALTER TABLE embeddings ADD COLUMN checksum INTEGER NOT NULL DEFAULT {UNUSABLE}",
    f"UPDATE embeddings SET checksum = {_CHECKSUM_OF_EMBEDDING}",
    f"ALTER TABLE changes ADD COLUMN checksum INTEGER NOT NULL DEFAULT {UNUSABLE}",
    f"UPDATE changes SET checksum = {_CHECKSUM_OF_CHANGE}",
    "INSERT OR IGNORE INTO facts VALUES ('store', lower(hex(randomblob(16)))), ('changes', '0')",
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (_VERSION_1, _VERSION_2)
"""Step n migrates from schema version n (`PRAGMA user_version`) to n + 1. Steps are added, never changed."""

TABLES: dict[str, tuple[str, ...]] = {
    "objects": ("id", "uid", "name", "key", "created", "deleted"),
    "views": ("id", "uid", "object_id", "kind", "created", "source", "deleted"),
    "embeddings": ("view_id", "model_id", "vector", "checksum"),
    "crops": ("view_id", "place", "picture"),
    "changes": ("id", "kind", "object_id", "view_id", "data", "undone", "checksum"),
    "facts": ("name", "value"),
}
"""All tables and their columns, in an order in which they can be filled."""

SMALL_TABLES = tuple(table for table in TABLES if table != "crops")
"""The tables checked at every start. The pictures may be gigabytes, and recognition does not need them."""

LIVE = "v.deleted IS NULL AND o.deleted IS NULL"
"""The condition for views `v` of objects `o` that are not deleted."""


def row_checksum(*values: bytes | str | int | None) -> int:
    """The checksum of a row's values, at least 0.

    CRC-32 detects all changes within 32 consecutive bits, and misses one in four billion others. It takes a microsecond and
    needs no library. It does not protect against attackers, who can write the checksum as well.
    """
    checksum = 0
    for value in values:
        data = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
        checksum = zlib.crc32(data, zlib.crc32(b"%d:" % len(data), checksum))
    return checksum


def is_intact(view_id: int, model_id: str, vector: object, checksum: object) -> bool:
    """Whether the checksum of an embedding is right: it belongs to this view and model, and no bit has changed."""
    return isinstance(vector, bytes) and row_checksum(view_id, model_id, vector) == checksum


def add_functions(connection: sqlite3.Connection) -> None:
    """Add the SQL functions of the statements that write embeddings and changes."""
    connection.create_function("row_checksum", -1, row_checksum, deterministic=True)


def migrate(connection: sqlite3.Connection) -> None:
    """Migrate a database to the newest schema, each step in its own transaction; raises `sqlite3.Error`."""
    add_functions(connection)
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


def is_schema_intact(connection: sqlite3.Connection) -> bool:
    """Whether tables and indexes are defined as `migrate` defines them; raises `sqlite3.Error`."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as model:
        migrate(model)
        return _definitions(connection) == _definitions(model)


def _definitions(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%'")
    return {(kind, name, "".join(str(sql).split())) for kind, name, sql in rows}


def is_name_taken(connection: sqlite3.Connection, key: str) -> bool:
    """Whether an object that is not deleted has a name with this `name_key`."""
    query = "SELECT 1 FROM objects WHERE key = ? AND deleted IS NULL"
    return connection.execute(query, (key,)).fetchone() is not None


def insert_object(connection: sqlite3.Connection, uid: str, name: str, created: str) -> int:
    """Insert an object whose name is checked and free; returns its id."""
    cursor = connection.execute(
        "INSERT INTO objects (uid, name, key, created) VALUES (?, ?, ?, ?)",
        (uid, name, name_key(name), created),
    )
    return int(cursor.lastrowid or 0)


def insert_view(
    connection: sqlite3.Connection, object_id: int, uid: str, kind: str, created: str, source: str
) -> int:
    """Insert a view or negative of an object; returns its id."""
    cursor = connection.execute(
        "INSERT INTO views (uid, object_id, kind, created, source) VALUES (?, ?, ?, ?, ?)",
        (uid, object_id, kind, created, source),
    )
    return int(cursor.lastrowid or 0)


def insert_embedding(connection: sqlite3.Connection, view_id: int, model_id: str, vector: bytes) -> None:
    """Insert a model's embedding of a view: float32, little-endian."""
    connection.execute(
        "INSERT INTO embeddings VALUES (?1, ?2, ?3, row_checksum(?1, ?2, ?3))", (view_id, model_id, vector)
    )


def insert_crops(connection: sqlite3.Connection, view_id: int, crops: Iterable[bytes]) -> None:
    """Insert the pictures of a view, PNG, in order; one at a time is in memory."""
    for place, picture in enumerate(crops):
        connection.execute("INSERT INTO crops VALUES (?, ?, ?)", (view_id, place, picture))


def encode_embedding(embedding: Floats, dimensions: int, unit_length: bool = False) -> bytes:
    """Encode an embedding (D,) as float32, little-endian; raises `SupportError` if it is not D usable numbers."""
    row = np.asarray(embedding, dtype="<f4")
    if row.shape != (dimensions,):
        raise SupportError(f"an embedding must have shape ({dimensions},), not {row.shape}")
    if not usable_embeddings(row[np.newaxis]).all():
        raise SupportError("an embedding has numbers that are not finite, too large, or all zero")
    if not usable_embeddings(row[np.newaxis], unit_length).all():
        raise SupportError("an embedding of this model must be of unit length")
    return row.tobytes()


def encode_crops(crops: Sequence[Bytes]) -> list[bytes]:
    """Encode pictures as PNG; raises `SupportError` if there are too many, `PictureError` if one is not a picture."""
    if len(crops) > MAX_CROPS:
        raise SupportError(f"a view has at most {MAX_CROPS} pictures, not {len(crops)}")
    return [encode_png(crop) for crop in crops]
