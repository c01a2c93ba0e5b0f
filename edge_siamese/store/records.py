"""What a store holds, as it is read: objects, views and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edge_siamese.errors import NoSuchObject, PictureError, StoreError
from edge_siamese.pictures import decode_png
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.recognition.support import SupportEntry
from edge_siamese.store.database import Database
from edge_siamese.store.names import name_key
from edge_siamese.validation import nearest

ViewKind = Literal["view", "negative"]


@dataclass(frozen=True)
class StoredObject:
    """One object."""

    id: int
    """Its number; objects are in the order of these."""
    uid: str
    """32 hexadecimal digits, the same in every store that it is brought to."""
    name: str
    """What people call it."""
    created: str
    """When it was registered: UTC, ISO 8601; of the wall clock, which may jump."""
    views: int
    """How many views it has."""
    negatives: int
    """How many examples of what it is not."""
    embedded: int
    """How many of its views the current model knows; 0: it cannot be recognized."""
    last_view: int | None
    """The number of its newest view; None for an object without one."""


@dataclass(frozen=True)
class StoredView:
    """One view or negative of an object."""

    id: int
    """Its number; never another view's, also after it is gone."""
    uid: str
    """32 hexadecimal digits, the same in every store."""
    kind: ViewKind
    """What the object looks like, or what it is not."""
    created: str
    """UTC, ISO 8601."""
    source: str
    """Where it came from: `camera` or `picture`."""
    crops: int
    """How many pictures are kept of it."""


@dataclass(frozen=True)
class Counts:
    """How much a store holds, without what was forgotten."""

    objects: int
    """Registered objects."""
    views: int
    """Views of them."""
    negatives: int
    """Examples of what they are not."""
    unembedded: int
    """Views and negatives that the current model does not know, and that have pictures to learn them from."""
    dormant: int
    """Views and negatives that the current model does not know, and without pictures: they sleep until their model
    is back."""


LIVE = "v.deleted IS NULL AND o.deleted IS NULL"
_NOT_EMBEDDED = "NOT EXISTS (SELECT 1 FROM embeddings e WHERE e.view_id = v.id AND e.model_id = ?)"
_HAS_CROPS = "EXISTS (SELECT 1 FROM crops c WHERE c.view_id = v.id)"


class Records:
    """What can be asked of a store, seen with one model."""

    def __init__(self, database: Database, model_id: str, dimensions: int) -> None:
        """Embeddings of other models than `model_id` are not seen."""
        self._database = database
        self.model_id = model_id
        """Whose embeddings are seen and written."""
        self.dimensions = dimensions
        """Numbers in each of them."""

    def objects(self) -> list[StoredObject]:
        """All objects, in the order of their registration."""
        return self._objects("1")

    def object(self, uid_or_name: str) -> StoredObject:
        """One object; raises `NoSuchObject` if there is none of this uid or name."""
        uid_or_name = uid_or_name.encode("utf-8", "replace").decode("utf-8")  # half a character names nothing
        found = self._objects("o.uid = ?", uid_or_name) or self._objects("o.key = ?", name_key(uid_or_name))
        if found:
            return found[0]
        rows = self._database.read("SELECT name FROM objects WHERE deleted IS NULL LIMIT 1000")
        hint = nearest(uid_or_name, [name for (name,) in rows]) or ("" if rows else "; nothing is registered")
        raise NoSuchObject(f'there is no object "{uid_or_name}"{hint}')

    def views(self, uid_or_name: str) -> list[StoredView]:
        """Views and negatives of one object, in order; raises `NoSuchObject` if there is no such object."""
        rows = self._database.read(
            "SELECT v.id, v.uid, v.kind, v.created, v.source, "
            "(SELECT count(*) FROM crops c WHERE c.view_id = v.id) "
            "FROM views v WHERE v.object_id = ? AND v.deleted IS NULL ORDER BY v.id",
            self.object(uid_or_name).id,
        )
        return [StoredView(*row) for row in rows]

    def crop(self, view_id: int, index: int = 0) -> Bytes:
        """A kept picture of a view, uint8 (h, w) or (h, w, 3).

        Raises:
            NoSuchObject: there is no such picture.
            StoreError: it is damaged.
        """
        try:
            return decode_png(self.crop_png(view_id, index))
        except PictureError as error:
            where = f"{self._database.path}: picture {index} of view {view_id}"
            raise StoreError(f"{where} cannot be read: {error}") from error

    def picture_count(self, view_id: int) -> int:
        """How many pictures are kept of a view; each may take 50 MB as pixels, so none is read here."""
        ((count,),) = self._database.read("SELECT count(*) FROM crops WHERE view_id = ?", view_id)
        return int(count)

    def crop_png(self, view_id: int, index: int = 0) -> bytes:
        """A kept picture of a view as a PNG file; raises `NoSuchObject` if there is none."""
        found = self._database.read(
            "SELECT picture FROM crops WHERE view_id = ? ORDER BY place LIMIT 1 OFFSET ?", view_id, index
        )
        if index < 0 or not found:
            raise NoSuchObject(f"there is no picture {index} of view {view_id}")
        return bytes(found[0][0])

    def entries(self) -> list[SupportEntry]:
        """The objects that the current model can recognize, in order, for `SupportSet.build`."""
        rows = self._database.read(
            "SELECT o.id, o.uid, o.name, v.id, v.kind, e.vector FROM objects o "
            "JOIN views v ON v.object_id = o.id JOIN embeddings e ON e.view_id = v.id AND e.model_id = ? "
            f"WHERE {LIVE} AND length(e.vector) = ? ORDER BY o.id, v.kind = 'negative', v.id",
            self.model_id,
            4 * self.dimensions,
        )
        vectors = np.frombuffer(b"".join(row[5] for row in rows), dtype="<f4").astype(np.float32)
        vectors = vectors.reshape(len(rows), self.dimensions)
        # A disk that changed bytes unnoticed must not keep all other objects from being recognized.
        if not np.isfinite(vectors).all():
            sound = [place for place, row in enumerate(vectors) if np.isfinite(row).all()]
            rows, vectors = [rows[place] for place in sound], vectors[sound]
        vectors.setflags(write=False)
        entries: list[SupportEntry] = []
        start = 0
        while start < len(rows):
            number, uid, name = rows[start][:3]
            middle = end = start
            while end < len(rows) and rows[end][0] == number:
                middle += rows[end][4] == "view"
                end += 1
            if middle > start:
                view_ids = tuple(row[3] for row in rows[start:middle])
                entries.append(SupportEntry(uid, name, view_ids, vectors[start:middle], vectors[middle:end]))
            start = end
        return entries

    def unembedded(self) -> list[int]:
        """The numbers of views that the current model does not know and that have pictures, in order.

        Views that an undo may bring back are among them, so that what is undone after a change of the model is
        recognized as well.
        """
        rows = self._database.read(
            f"SELECT v.id FROM views v WHERE {_NOT_EMBEDDED} AND {_HAS_CROPS} ORDER BY v.id", self.model_id
        )
        return [number for (number,) in rows]

    def counts(self) -> Counts:
        """How much there is, without what was forgotten."""
        live = f"FROM views v JOIN objects o ON o.id = v.object_id WHERE {LIVE}"
        ((objects, views, negatives, unembedded, dormant),) = self._database.read(
            "SELECT (SELECT count(*) FROM objects WHERE deleted IS NULL), "
            f"(SELECT count(*) {live} AND v.kind = 'view'), (SELECT count(*) {live} AND v.kind = 'negative'), "
            f"(SELECT count(*) {live} AND {_NOT_EMBEDDED} AND {_HAS_CROPS}), "
            f"(SELECT count(*) {live} AND {_NOT_EMBEDDED} AND NOT {_HAS_CROPS})",
            self.model_id,
            self.model_id,
        )
        return Counts(objects, views, negatives, unembedded, dormant)

    @property
    def dormant(self) -> int:
        """How many views the current model does not know, and that have no pictures to learn them from."""
        return self.counts().dormant

    def _objects(self, where: str, *values: str | int) -> list[StoredObject]:
        """Those that are not deleted, in order."""
        rows = self._database.read(
            "SELECT o.id, o.uid, o.name, o.created, count(v.id), total(v.kind = 'view'), "
            "total(v.kind = 'view' AND e.view_id IS NOT NULL), max(iif(v.kind = 'view', v.id, NULL)) "
            "FROM objects o LEFT JOIN views v ON v.object_id = o.id AND v.deleted IS NULL "
            "LEFT JOIN embeddings e ON e.view_id = v.id AND e.model_id = ? "
            f"WHERE o.deleted IS NULL AND {where} GROUP BY o.id ORDER BY o.id",
            self.model_id,
            *values,
        )
        return [
            StoredObject(number, uid, name, created, int(views), int(every - views), int(embedded), last)
            for number, uid, name, created, every, views, embedded, last in rows
        ]
