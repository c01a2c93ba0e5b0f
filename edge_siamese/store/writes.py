"""Puts objects, views, embeddings and pictures into the tables, checked."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import numpy as np

from edge_siamese.errors import SupportError
from edge_siamese.pictures import encode_png
from edge_siamese.recognition.imaging import Bytes, Floats
from edge_siamese.store.names import checked_name, name_key
from edge_siamese.store.tables import MAX_CROPS
from edge_siamese.store.undo_log import is_taken


def embedding_bytes(embedding: Floats, dimensions: int) -> bytes:
    """An embedding (D,) as float32, little-endian; raises `SupportError` if it is none of D finite numbers."""
    row = np.asarray(embedding, dtype="<f4")
    if row.shape != (dimensions,):
        raise SupportError(f"an embedding must have shape ({dimensions},), not {row.shape}")
    if not np.isfinite(row).all():
        raise SupportError("an embedding has numbers that are not finite")
    return row.tobytes()


def picture_files(crops: Sequence[Bytes]) -> list[bytes]:
    """Pictures as PNG; raises `SupportError` if there are too many, `PictureError` if one is none."""
    if len(crops) > MAX_CROPS:
        raise SupportError(f"a view keeps at most {MAX_CROPS} pictures, not {len(crops)}")
    return [encode_png(crop) for crop in crops]


def insert_object(connection: sqlite3.Connection, uid: str, name: str, created: str) -> int:
    """A new object, whose name is checked and free; its number."""
    cursor = connection.execute(
        "INSERT INTO objects (uid, name, key, created) VALUES (?, ?, ?, ?)",
        (uid, name, name_key(name), created),
    )
    return int(cursor.lastrowid or 0)


def insert_view(
    connection: sqlite3.Connection, owner: int, uid: str, kind: str, created: str, source: str
) -> int:
    """A new view or negative of an object; its number."""
    cursor = connection.execute(
        "INSERT INTO views (uid, object_id, kind, created, source) VALUES (?, ?, ?, ?, ?)",
        (uid, owner, kind, created, source),
    )
    return int(cursor.lastrowid or 0)


def insert_embedding(connection: sqlite3.Connection, view_id: int, model_id: str, vector: bytes) -> None:
    """What a model makes of a view."""
    connection.execute("INSERT INTO embeddings VALUES (?, ?, ?)", (view_id, model_id, vector))


def insert_crops(connection: sqlite3.Connection, view_id: int, crops: Iterable[bytes]) -> None:
    """The pictures of a view, PNG, in order; one at a time is in memory."""
    for place, picture in enumerate(crops):
        connection.execute("INSERT INTO crops VALUES (?, ?, ?)", (view_id, place, picture))


def numbered_name(connection: sqlite3.Connection, template: str) -> str:
    """The template with the next number that gives a free name; raises `SupportError` if that is no name."""
    (last,) = connection.execute("SELECT value FROM facts WHERE name = 'last number'").fetchone()
    number = int(last) + 1
    while is_taken(connection, name_key(name := checked_name(template.replace("{number}", str(number))))):
        number += 1
    connection.execute("UPDATE facts SET value = ? WHERE name = 'last number'", (str(number),))
    return name


def refuse_taken(connection: sqlite3.Connection, name: str) -> None:
    """Raise `SupportError` if there is an object of this name."""
    if is_taken(connection, name_key(name)):
        raise SupportError(f'there is an object "{name}" already; choose another name, or add a view to it')
