"""Lets what keeps several stores alike read one as a whole, deleted rows among it, and change it past the log of changes.

What is applied here was done elsewhere: an undo at this device must not take it back, so in the log it only counts. What
it deletes is marked like any deletion, and goes after as many changes, here or elsewhere, as one that was made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import NamedTuple

from edge_siamese.store.names import name_key
from edge_siamese.store.records import ViewKind
from edge_siamese.store.store import SupportStore
from edge_siamese.store.undo_log import note_elsewhere
from edge_siamese.store.writes import insert_crops, insert_embedding, insert_object, insert_view


class ObjectRow(NamedTuple):
    """An object, which may be deleted."""

    uid: str
    name: str
    created: str
    deleted: bool


class ViewRow(NamedTuple):
    """A view or negative, which may be deleted, or whose object may be."""

    uid: str
    owner: str
    kind: ViewKind
    created: str
    source: str
    deleted: bool


@dataclass(frozen=True)
class Snapshot:
    """A store at one moment."""

    revision: int
    """Counts its changes; a store that was restored from a copy may have a smaller one than before."""
    objects: dict[str, ObjectRow]
    views: dict[str, ViewRow]


@dataclass(frozen=True, slots=True)
class ViewContent:
    """What a view is recognized by."""

    model_id: str
    """The model that the embedding is of."""
    vector: bytes | None
    """The embedding: float32, little-endian; None if no model has embedded it yet."""
    crops: tuple[bytes, ...]
    """Its pictures, PNG that `decode_png` reads."""


@dataclass(frozen=True, slots=True)
class NewRow:
    """A view that comes with its content."""

    row: ViewRow
    content: ViewContent


@dataclass(frozen=True)
class Batch:
    """What is to be applied."""

    objects: list[ObjectRow] = field(default_factory=list)
    """As they are to be: new ones, and those that change."""
    views: list[ViewRow] = field(default_factory=list)
    """As they are to be, of those that are there; their objects are there, or among `objects`."""
    arrivals: list[NewRow] = field(default_factory=list)
    """Views that are new here."""

    def __len__(self) -> int:
        return len(self.objects) + len(self.views) + len(self.arrivals)


class MovedOnError(Exception):
    """The store has changed since the snapshot."""


def revision(store: SupportStore) -> int:
    """Counts all changes that were ever made to a store."""
    return int(store._database.read("SELECT value FROM facts WHERE name = 'revision'")[0][0])


def read_snapshot(store: SupportStore) -> Snapshot:
    """All objects and views with what is marked as deleted; raises `StoreError`."""
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
    """Embedding and pictures of a view; None if it has neither, or is not there. Raises `StoreError`.

    The embedding is of the store's model; of another one where that has none.
    """
    read = store._database.read
    found = read("SELECT id FROM views WHERE uid = ?", uid)
    if not found:
        return None
    ((number,),) = found
    vectors = read(
        "SELECT model_id, vector FROM embeddings WHERE view_id = ? ORDER BY model_id != ?, model_id LIMIT 1",
        number,
        store.model_id,
    )
    crops = read("SELECT picture FROM crops WHERE view_id = ? ORDER BY place", number)
    model_id, vector = vectors[0] if vectors else (store.model_id, None)
    if vector is None and not crops:
        return None
    return ViewContent(model_id, vector, tuple(bytes(picture) for (picture,) in crops))


def apply(store: SupportStore, batch: Batch, expected: int) -> int:
    """Make the changes of a batch, all or none, without anything in the log of changes that could be undone.

    Args:
        store: whose `keep_crops` is heeded: pictures come all the same where they are all that a view can be
            embedded from.
        batch: what to do.
        expected: the revision of the snapshot that the batch was made for.

    Returns:
        How many views its model has to embed from their pictures now; 0 if none came.

    Raises:
        MovedOnError: the store has another revision; nothing is changed.
        StoreError: it cannot be written; nothing is changed.
    """
    with store._database.change() as connection:
        (now,) = connection.execute("SELECT value FROM facts WHERE name = 'revision'").fetchone()
        if int(now) != expected:
            raise MovedOnError
        stamp = note_elsewhere(connection)
        _apply_objects(connection, batch.objects, stamp)
        for view in batch.views:
            connection.execute(
                "UPDATE views SET object_id = (SELECT id FROM objects WHERE uid = ?), "
                "deleted = CASE WHEN ? THEN coalesce(deleted, ?) END WHERE uid = ?",
                (view.owner, view.deleted, stamp, view.uid),
            )
        for arrival in batch.arrivals:
            _insert(connection, store, arrival)
    return store.counts().unembedded if batch.arrivals or batch.views or batch.objects else 0


def _apply_objects(connection: Connection, objects: Sequence[ObjectRow], stamp: int) -> None:
    # All names are let go first: two objects may swap theirs.
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


def _insert(connection: Connection, store: SupportStore, arrival: NewRow) -> None:
    row, content = arrival.row, arrival.content
    found = connection.execute("SELECT id FROM objects WHERE uid = ?", (row.owner,)).fetchone()
    number = insert_view(connection, found[0], row.uid, row.kind, row.created, row.source)
    vector, known = content.vector, content.model_id == store.model_id
    if known and vector is not None and len(vector) != 4 * store.dimensions:
        vector = None  # not of this model, whatever it says
    # Without pictures another model's embedding is all there is of it: the view sleeps until that model is back.
    if vector is not None and (known or not content.crops):
        insert_embedding(connection, number, content.model_id, vector)
    if store.keep_crops or not known or vector is None:
        insert_crops(connection, number, content.crops)
