"""Queries on the store: objects, views, pictures and counts, and the entries of a support set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edge_siamese.errors import NoSuchObject, PictureError, StoreError
from edge_siamese.pictures import decode_png
from edge_siamese.recognition.embedding import usable_embeddings
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.recognition.support import SupportEntry
from edge_siamese.store.database import Database
from edge_siamese.store.names import name_key
from edge_siamese.store.tables import LIVE, UNUSABLE, is_intact
from edge_siamese.validation import nearest

ViewKind = Literal["view", "negative"]


@dataclass(frozen=True)
class StoredObject:
    """An object in the store."""

    id: int
    """Its number in this store, in the order of registration."""
    uid: str
    """32 hexadecimal digits, the same in every store."""
    name: str
    created: str
    """When it was registered, UTC, ISO 8601; by the wall clock, which may jump."""
    views: int
    """Number of views."""
    negatives: int
    """Number of negatives."""
    embedded: int
    """Number of views with an embedding of the current model; with 0, the object cannot be recognized."""
    last_view: int | None
    """The id of its newest view; None without views."""


@dataclass(frozen=True)
class StoredView:
    """A view or negative of an object in the store."""

    id: int
    """Its number in this store; never reused."""
    uid: str
    """32 hexadecimal digits, the same in every store."""
    kind: ViewKind
    created: str
    """UTC, ISO 8601."""
    source: str
    """Its source, such as `camera` or `picture`."""
    crops: int
    """Number of stored pictures."""


@dataclass(frozen=True)
class Counts:
    """The size of a store, without what was forgotten."""

    objects: int
    """Registered objects."""
    views: int
    """Their views."""
    negatives: int
    """Their negatives."""
    unembedded: int
    """Views and negatives without an embedding of the current model, but with pictures to compute it from."""
    dormant: int
    """Views and negatives with neither: they are unused until their model is back."""


@dataclass(frozen=True)
class UnusableView:
    """A view or negative that is not recognized, because it has no embedding of the current model."""

    id: int
    """Its number in this store."""
    object_name: str
    crops: int
    """Number of stored pictures."""
    damaged: bool
    """Whether it had an embedding that was damaged and could not be restored."""


_NOT_EMBEDDED = (
    "NOT EXISTS (SELECT 1 FROM embeddings e WHERE e.view_id = v.id AND e.model_id = ? "
    f"AND e.checksum != {UNUSABLE})"
)
_HAS_CROPS = "EXISTS (SELECT 1 FROM crops c WHERE c.view_id = v.id)"


class StoreQueries:
    """The queries of a store for one model; embeddings of other models are ignored."""

    def __init__(self, database: Database, model_id: str, dimensions: int, unit_length: bool) -> None:
        self._database = database
        self.model_id = model_id
        """The model whose embeddings are read and written."""
        self.dimensions = dimensions
        """D, the length of its embeddings."""
        self.unit_length = unit_length
        """Whether its embeddings are unit vectors."""
        self.suspect = False
        """Whether a damaged embedding was read that no check has reported."""
        self._unrepaired: set[int] = set()
        """Views whose damage was reported and could not be repaired."""
        self._unusable: tuple[object, list[UnusableView]] = (None, [])
        """The last result of `unusable_views`, and what it depends on."""

    def objects(self) -> list[StoredObject]:
        """All objects, in the order of registration."""
        return self._select_objects("1")

    def object(self, uid_or_name: str) -> StoredObject:
        """One object; raises `NoSuchObject` if there is none with this uid or name."""
        uid_or_name = uid_or_name.encode("utf-8", "replace").decode("utf-8")  # no name has a lone surrogate
        matches = self._select_objects("o.uid = ?", uid_or_name) or self._select_objects(
            "o.key = ?", name_key(uid_or_name)
        )
        if matches:
            return matches[0]
        rows = self._database.read("SELECT name FROM objects WHERE deleted IS NULL LIMIT 1000")
        hint = nearest(uid_or_name, [name for (name,) in rows]) or ("" if rows else "; nothing is registered")
        raise NoSuchObject(f'there is no object "{uid_or_name}"{hint}')

    def views(self, uid_or_name: str) -> list[StoredView]:
        """Views and negatives of an object, in order; raises `NoSuchObject` if there is no such object."""
        rows = self._database.read(
            "SELECT v.id, v.uid, v.kind, v.created, v.source, "
            "(SELECT count(*) FROM crops c WHERE c.view_id = v.id) "
            "FROM views v WHERE v.object_id = ? AND v.deleted IS NULL ORDER BY v.id",
            self.object(uid_or_name).id,
        )
        return [StoredView(*row) for row in rows]

    def existing_views(self, uids: Sequence[str]) -> set[str]:
        """The uids, of at most 30,000, that are in the store as views or negatives, including deleted ones."""
        marks = ", ".join("?" * len(uids))
        return {uid for (uid,) in self._database.read(f"SELECT uid FROM views WHERE uid IN ({marks})", *uids)}

    def crop(self, view_id: int, index: int = 0) -> Bytes:
        """A stored picture of a view, uint8 (h, w) or (h, w, 3).

        Raises:
            NoSuchObject: there is no such picture.
            StoreError: it is damaged.
        """
        try:
            return decode_png(self.crop_png(view_id, index))
        except PictureError as error:
            where = f"{self._database.path}: picture {index} of view {view_id}"
            raise StoreError(f"{where} cannot be read: {error}") from error

    def crop_png(self, view_id: int, index: int = 0) -> bytes:
        """A stored picture of a view as a PNG file; raises `NoSuchObject` if there is none."""
        rows = self._database.read(
            "SELECT picture FROM crops WHERE view_id = ? ORDER BY place LIMIT 1 OFFSET ?", view_id, index
        )
        if index < 0 or not rows:
            raise NoSuchObject(f"there is no picture {index} of view {view_id}")
        return bytes(rows[0][0])

    def picture_count(self, view_id: int) -> int:
        """The number of stored pictures of a view. None is decoded: each may take 50 MB as pixels."""
        ((count,),) = self._database.read("SELECT count(*) FROM crops WHERE view_id = ?", view_id)
        return int(count)

    def entries(self) -> list[SupportEntry]:
        """The objects with an embedding of the current model, in order, for `SupportSet.build`."""
        rows = self._database.read(
            "SELECT o.id, o.uid, o.name, v.id, v.kind, e.vector, e.checksum FROM objects o "
            "JOIN views v ON v.object_id = o.id JOIN embeddings e ON e.view_id = v.id AND e.model_id = ? "
            f"WHERE {LIVE} AND e.checksum != {UNUSABLE} ORDER BY o.id, v.kind = 'negative', v.id",
            self.model_id,
        )
        # A corrupted embedding disables one view, not the recognition of all objects.
        usable = self.usable_rows([(row[3], row[5], row[6]) for row in rows])
        if not all(usable):
            damaged = {row[3] for row, good in zip(rows, usable, strict=True) if not good}
            self.suspect |= not damaged <= self._unrepaired
            rows = [row for row, good in zip(rows, usable, strict=True) if good]
        vectors = np.frombuffer(b"".join(row[5] for row in rows), dtype="<f4").astype(np.float32)
        vectors = vectors.reshape(len(rows), self.dimensions)
        vectors.setflags(write=False)
        entries: list[SupportEntry] = []
        start = 0
        while start < len(rows):
            object_id, uid, name = rows[start][:3]
            middle = end = start
            while end < len(rows) and rows[end][0] == object_id:
                middle += rows[end][4] == "view"
                end += 1
            if middle > start:
                view_ids = tuple(row[3] for row in rows[start:middle])
                entries.append(SupportEntry(uid, name, view_ids, vectors[start:middle], vectors[middle:end]))
            start = end
        return entries

    def usable_rows(self, rows: Sequence[tuple[int, Any, Any]]) -> list[bool]:
        """Whether each embedding of the current model can be used; a row is a view, a vector and its checksum."""
        usable = [
            is_intact(view, self.model_id, vector, checksum) and len(vector) == 4 * self.dimensions
            for view, vector, checksum in rows
        ]
        intact = [row[1] for row, good in zip(rows, usable, strict=True) if good]
        vectors = np.frombuffer(b"".join(intact), dtype="<f4").reshape(len(intact), self.dimensions)
        comparable = iter(usable_embeddings(vectors, self.unit_length).tolist())
        return [good and next(comparable) for good in usable]

    def unusable_views(self) -> list[UnusableView]:
        """Views and negatives without an embedding of the current model, without what was forgotten, in order."""
        state = self._database.read("SELECT value FROM facts WHERE name = 'revision'"), self.model_id
        if self._unusable[0] == state:
            return self._unusable[1]
        rows = self._database.read(
            "SELECT v.id, o.name, (SELECT count(*) FROM crops c WHERE c.view_id = v.id), "
            "EXISTS (SELECT 1 FROM embeddings e WHERE e.view_id = v.id AND e.model_id = ?) "
            f"FROM views v JOIN objects o ON o.id = v.object_id WHERE {LIVE} AND {_NOT_EMBEDDED} ORDER BY v.id",
            self.model_id,
            self.model_id,
        )
        found = [UnusableView(view, name, crops, bool(damaged)) for view, name, crops, damaged in rows]
        self._unusable = state, found
        return found

    def unembedded(self) -> list[int]:
        """The ids of views without an embedding of the current model that have pictures, in order.

        Deleted views that an undo may restore are included, so that they are recognized after a change of the model.
        """
        rows = self._database.read(
            f"SELECT v.id FROM views v WHERE {_NOT_EMBEDDED} AND {_HAS_CROPS} ORDER BY v.id", self.model_id
        )
        return [view_id for (view_id,) in rows]

    def counts(self) -> Counts:
        """The size of the store, without what was forgotten."""
        live = f"FROM views v JOIN objects o ON o.id = v.object_id WHERE {LIVE}"
        (row,) = self._database.read(
            "SELECT (SELECT count(*) FROM objects WHERE deleted IS NULL), "
            f"(SELECT count(*) {live} AND v.kind = 'view'), (SELECT count(*) {live} AND v.kind = 'negative'), "
            f"(SELECT count(*) {live} AND {_NOT_EMBEDDED} AND {_HAS_CROPS}), "
            f"(SELECT count(*) {live} AND {_NOT_EMBEDDED} AND NOT {_HAS_CROPS})",
            self.model_id,
            self.model_id,
        )
        return Counts(*row)

    def _select_objects(self, where: str, *values: str | int) -> list[StoredObject]:
        """Objects that are not deleted, in order."""
        rows = self._database.read(
            "SELECT o.id, o.uid, o.name, o.created, count(v.id), total(v.kind = 'view'), "
            "total(v.kind = 'view' AND e.view_id IS NOT NULL), max(iif(v.kind = 'view', v.id, NULL)) "
            "FROM objects o LEFT JOIN views v ON v.object_id = o.id AND v.deleted IS NULL "
            f"LEFT JOIN embeddings e ON e.view_id = v.id AND e.model_id = ? AND e.checksum != {UNUSABLE} "
            f"WHERE o.deleted IS NULL AND {where} GROUP BY o.id ORDER BY o.id",
            self.model_id,
            *values,
        )
        return [
            StoredObject(number, uid, name, created, int(views), int(total - views), int(embedded), last)
            for number, uid, name, created, total, views, embedded, last in rows
        ]
