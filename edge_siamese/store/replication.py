"""Replication between stores: reads a store completely, including deleted rows, and applies changes of other devices.

An undo on this device must not revert what another device did, so a replicated batch is only numbered in the log of
changes. Its deletions are marked like all others, and purged after the same number of changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import NamedTuple

import numpy as np

from edge_siamese.recognition.embedding import usable_embeddings
from edge_siamese.store.names import name_key
from edge_siamese.store.records import ViewKind
from edge_siamese.store.store import SupportStore
from edge_siamese.store.tables import insert_crops, insert_embedding, insert_object, insert_view, is_intact
from edge_siamese.store.undo_log import log_replicated_change


class ObjectRow(NamedTuple):
    """An object, possibly deleted."""

    uid: str
    name: str
    created: str
    deleted: bool


class ViewRow(NamedTuple):
    """A view or negative; it or its object may be deleted."""

    uid: str
    owner: str
    """The uid of its object."""
    kind: ViewKind
    created: str
    source: str
    deleted: bool


@dataclass(frozen=True)
class Snapshot:
    """The state of a store at one moment."""

    revision: int
    """The number of changes so far; smaller than before if the store was restored from a backup."""
    objects: dict[str, ObjectRow]
    """By uid."""
    views: dict[str, ViewRow]
    """By uid."""


@dataclass(frozen=True, slots=True)
class ViewContent:
    """The embedding and the pictures of a view."""

    model_id: str
    """The model of the embedding."""
    vector: bytes | None
    """The embedding: float32, little-endian; None if there is none yet."""
    crops: tuple[bytes, ...]
    """Its pictures, PNG that `pictures.decode_png` reads."""


@dataclass(frozen=True, slots=True)
class ViewWithContent:
    """A view that is new in this store, with its content."""

    row: ViewRow
    content: ViewContent


@dataclass(frozen=True)
class Batch:
    """Changes to apply together."""

    objects: list[ObjectRow] = field(default_factory=list)
    """New and changed objects, in their new state."""
    views: list[ViewRow] = field(default_factory=list)
    """Changed views, in their new state; their objects exist, or are among `objects`."""
    new_views: list[ViewWithContent] = field(default_factory=list)
    """Views that are new in this store."""

    def __len__(self) -> int:
        return len(self.objects) + len(self.views) + len(self.new_views)


class StoreChangedError(Exception):
    """The store has changed since the snapshot."""


def revision(store: SupportStore) -> int:
    """The number of changes made to a store so far."""
    return int(store._database.read("SELECT value FROM facts WHERE name = 'revision'")[0][0])


def read_snapshot(store: SupportStore) -> Snapshot:
    """All objects and views, deleted ones included; raises `StoreError`."""
    read = store._database.read
    objects = read("SELECT uid, name, created, deleted IS NOT NULL FROM objects")
    views = read(
        "SELECT v.uid, o.uid, v.kind, v.created, v.source, v.deleted IS NOT NULL "
        "FROM views v JOIN objects o ON o.id = v.object_id"
    )
    return Snapshot(
        revision(store),
        {row[0]: ObjectRow._make(row) for row in objects},
        {row[0]: ViewRow._make(row) for row in views},
    )


def read_content(store: SupportStore, uid: str) -> ViewContent | None:
    """Embedding and pictures of a view; None if it has neither, or does not exist. Raises `StoreError`.

    The embedding is of the store's model, or else of another one.
    """
    read = store._database.read
    rows = read("SELECT id FROM views WHERE uid = ?", uid)
    if not rows:
        return None
    ((view_id,),) = rows
    vectors = read(
        "SELECT model_id, vector, checksum FROM embeddings WHERE view_id = ? ORDER BY model_id != ?, model_id",
        view_id,
        store.model_id,
    )
    vectors = [row[:2] for row in vectors if is_intact(view_id, *row)]
    crops = read("SELECT picture FROM crops WHERE view_id = ? ORDER BY place", view_id)
    model_id, vector = vectors[0] if vectors else (store.model_id, None)
    if vector is None and not crops:
        return None
    return ViewContent(model_id, vector, tuple(bytes(picture) for (picture,) in crops))


def apply_batch(store: SupportStore, batch: Batch, expected_revision: int) -> int:
    """Apply a batch, all or none, as one change that cannot be undone.

    Args:
        store: without `keep_crops`, only pictures of views that have to be embedded from them are stored.
        batch: the changes.
        expected_revision: the revision of the snapshot that the batch was made for.

    Returns:
        How many views have to be embedded from their pictures now; 0 for an empty batch.

    Raises:
        StoreChangedError: the store has another revision; nothing is changed.
        StoreError: it cannot be written; nothing is changed.
    """
    with store._database.change() as connection:
        (now,) = connection.execute("SELECT value FROM facts WHERE name = 'revision'").fetchone()
        if int(now) != expected_revision:
            raise StoreChangedError
        stamp = log_replicated_change(connection)
        _apply_objects(connection, batch.objects, stamp)
        for view in batch.views:
            connection.execute(
                "UPDATE views SET object_id = (SELECT id FROM objects WHERE uid = ?), "
                "deleted = CASE WHEN ? THEN coalesce(deleted, ?) END WHERE uid = ?",
                (view.owner, view.deleted, stamp, view.uid),
            )
        for new_view in batch.new_views:
            _insert(connection, store, new_view)
    return store.counts().unembedded if len(batch) else 0


def _fits(vector: bytes, store: SupportStore) -> bool:
    """Whether a received embedding can be one of the store's model."""
    if len(vector) != 4 * store.dimensions:
        return False
    return bool(usable_embeddings(np.frombuffer(vector, "<f4")[np.newaxis], store.unit_length).all())


def _apply_objects(connection: Connection, objects: Sequence[ObjectRow], stamp: int) -> None:
    # All names are freed first: two objects may swap theirs.
    connection.executemany(
        "UPDATE objects SET deleted = coalesce(deleted, ?) WHERE uid = ?",
        [(stamp, item.uid) for item in objects],
    )
    for item in objects:
        if item.deleted:
            continue
        known = connection.execute(
            "UPDATE objects SET name = ?, key = ?, deleted = NULL WHERE uid = ?",
            (item.name, name_key(item.name), item.uid),
        )
        if not known.rowcount:
            insert_object(connection, item.uid, item.name, item.created)


def _insert(connection: Connection, store: SupportStore, view: ViewWithContent) -> None:
    row, content = view.row, view.content
    (object_id,) = connection.execute("SELECT id FROM objects WHERE uid = ?", (row.owner,)).fetchone()
    view_id = insert_view(connection, object_id, row.uid, row.kind, row.created, row.source)
    vector, known = content.vector, content.model_id == store.model_id
    if known and vector is not None and not _fits(vector, store):
        vector = None  # not of this model, despite its label
    # Without pictures, an embedding of another model is kept: the view is dormant until that model is back.
    if vector is not None and (known or not content.crops):
        insert_embedding(connection, view_id, content.model_id, vector)
    if store.keep_crops or not known or vector is None:
        insert_crops(connection, view_id, content.crops)
