"""Takes a collection into a store, within one transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from edge_siamese.errors import PictureError, SupportError
from edge_siamese.pictures import decode_png, png_size
from edge_siamese.store.archive import (
    CollectedObject,
    CollectedView,
    CollectionFile,
    OnConflict,
    open_collection,
)
from edge_siamese.store.names import checked_name, free_name, name_key
from edge_siamese.store.records import LIVE
from edge_siamese.store.tables import MAX_CROP_SIDE
from edge_siamese.store.undo_log import is_taken, merged_into
from edge_siamese.store.writes import (
    embedding_bytes,
    insert_crops,
    insert_embedding,
    insert_object,
    insert_view,
)

Log = dict[str, list[Any]]


@dataclass(frozen=True)
class Imported:
    """What an import brought."""

    objects: int
    """Objects that are new here, or came back."""
    views: int
    """Views that are new here, or came back."""
    negatives: int
    """Negatives, likewise."""
    known: int
    """Views and negatives that were here already."""
    skipped: int
    """Objects that stayed out: their name was taken, or nothing of them can be used."""
    unusable: int
    """Views and negatives that stayed out: the model does not know them, and they have no pictures."""
    unembedded: int
    """Of what came, views and negatives that the model has to learn from their pictures."""
    renamed: tuple[tuple[str, str], ...]
    """Objects whose name was taken: the name in the file, and the one here."""

    @property
    def text(self) -> str:
        """One line for people."""
        parts = [f"imported: objects {self.objects}, views {self.views}, negatives {self.negatives}"]
        parts += [f"already here {self.known}"] if self.known else []
        parts += [f"objects skipped {self.skipped}"] if self.skipped else []
        parts += [f"views without a use {self.unusable}"] if self.unusable else []
        parts += [f"to be learned from pictures {self.unembedded}"] if self.unembedded else []
        parts += [f'"{old}" is called "{new}"' for old, new in self.renamed[:5]]
        return "; ".join(parts)


def read_into(
    connection: sqlite3.Connection,
    path: Path,
    *,
    model_id: str,
    dimensions: int,
    keep_crops: bool,
    on_conflict: OnConflict,
) -> tuple[Imported, Log]:
    """Read a collection into a store.

    Args:
        connection: in a transaction, which has to be rolled back if this raises.
        path: of the collection.
        model_id, dimensions: of the current model; embeddings of another one are not taken.
        keep_crops: whether pictures are kept of views whose embedding came along.
        on_conflict: what to do with a new object whose name is taken.

    Returns:
        What came, and what an undo needs to know.

    Raises:
        StoreError: the file cannot be read, or is damaged.
        SupportError: there is no such policy.
    """
    if on_conflict not in get_args(OnConflict):
        raise SupportError(
            f'on a conflict, one of {", ".join(get_args(OnConflict))} is done, not "{on_conflict}"'
        )
    with open_collection(path) as file:
        manifest = file.manifest
        model = model_id if (manifest.model_id, manifest.dimensions) == (model_id, dimensions) else None
        taking = _Import(connection, file, model, keep_crops, on_conflict)
        for item in manifest.objects:
            taking.take(item)
        return taking.result(), taking.log


class _Import:
    """One import on its way."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        file: CollectionFile,
        model: str | None,
        keep_crops: bool,
        on_conflict: OnConflict,
    ) -> None:
        """`model`: whose embeddings the file has, if it is the store's own."""
        self._run = connection.execute
        self._connection = connection
        self._file = file
        self._model = model
        self._keep_crops = keep_crops
        self._on_conflict = on_conflict
        self._counts = dict.fromkeys(("view", "negative", "known", "skipped", "unusable", "unembedded"), 0)
        self._renamed: list[tuple[str, str]] = []
        kinds = ("objects", "views", "former objects", "former views", "moved views")
        self.log: Log = {kind: [] for kind in kinds}

    def result(self) -> Imported:
        counts = self._counts
        return Imported(
            objects=len(self.log["objects"]) + len(self.log["former objects"]),
            views=counts["view"],
            negatives=counts["negative"],
            known=counts["known"],
            skipped=counts["skipped"],
            unusable=counts["unusable"],
            unembedded=counts["unembedded"],
            renamed=tuple(self._renamed),
        )

    def take(self, item: CollectedObject) -> None:
        """One object, with all of it that can be used."""
        owner = self._owner(item)
        if owner is None:
            self._counts["skipped"] += 1
            return
        for view in item.views:
            self._take_view(owner, view)

    def _owner(self, item: CollectedObject) -> int | None:
        """The number of the object here; None if it stays out."""
        known = self._run("SELECT id, name, deleted FROM objects WHERE uid = ?", (item.uid,)).fetchone()
        if known and known[2] is None:
            return int(known[0])
        # One that was merged into another here would come back without its views: the other has them now.
        merged = merged_into(self._connection, known[0]) if known else None
        holder = merged or self._holder(item)
        if holder is not None:
            return holder
        if not any(map(self._can_come, item.views)) and not (known and self._has_views(known[0])):
            return None
        if known:
            # It was forgotten here, and comes back with what is still kept of it.
            number, name, deleted = known
            name = self._free(name)
            self._run(
                "UPDATE objects SET name = ?, key = ?, deleted = NULL WHERE id = ?",
                (name, name_key(name), number),
            )
            self.log["former objects"].append((number, deleted))
            return int(number)
        name = checked_name(item.name)
        if is_taken(self._connection, name_key(name)):
            if self._on_conflict == "skip":
                return None
            if self._on_conflict == "merge":
                query = "SELECT id FROM objects WHERE key = ? AND deleted IS NULL"
                return int(self._run(query, (name_key(name),)).fetchone()[0])
            name = self._free(name)
            self._renamed.append((item.name, name))
        number = insert_object(self._connection, item.uid, name, item.created)
        self.log["objects"].append(number)
        return number

    def _take_view(self, owner: int, view: CollectedView) -> None:
        known = self._run(
            "SELECT v.id, v.object_id, v.deleted, o.deleted FROM views v JOIN objects o ON o.id = v.object_id "
            "WHERE v.uid = ?",
            (view.uid,),
        ).fetchone()
        if known:
            number, there, deleted, owner_deleted = known
            if deleted is None and (there == owner or owner_deleted is None):
                self._counts["known"] += 1
                return
            self._run("UPDATE views SET object_id = ?, deleted = NULL WHERE id = ?", (owner, number))
            if there == owner:
                self.log["former views"].append((number, deleted))
            else:
                self.log["moved views"].append((number, there, deleted))
            self._counts[view.kind] += 1
            return
        if not self._is_usable(view):
            self._counts["unusable"] += 1
            return
        number = insert_view(self._connection, owner, view.uid, view.kind, view.created, view.source)
        self.log["views"].append(number)
        self._counts[view.kind] += 1
        embedded = self._model is not None and view.embedding is not None
        if self._model is not None and view.embedding is not None:
            vector = embedding_bytes(self._file.embeddings[view.embedding], self._file.manifest.dimensions)
            insert_embedding(self._connection, number, self._model, vector)
        else:
            self._counts["unembedded"] += 1
        if self._keep_crops or not embedded:
            insert_crops(self._connection, number, map(self._picture, view.crops))

    def _holder(self, item: CollectedObject) -> int | None:
        """The number of the object that has a view of this one: they were merged, here or by an import."""
        query = (
            "SELECT o.id FROM views v JOIN objects o ON o.id = v.object_id "
            f"WHERE v.uid = ? AND v.kind = 'view' AND {LIVE}"
        )
        for view in item.views:
            if found := self._run(query, (view.uid,)).fetchone():
                return int(found[0])
        return None

    def _has_views(self, number: int) -> bool:
        query = "SELECT 1 FROM views WHERE object_id = ? AND kind = 'view' AND deleted IS NULL"
        return self._run(query, (number,)).fetchone() is not None

    def _can_come(self, view: CollectedView) -> bool:
        """Whether it is a view that the object would have then."""
        known = self._run("SELECT kind FROM views WHERE uid = ?", (view.uid,)).fetchone()
        return view.kind == "view" and (known == ("view",) if known else self._is_usable(view))

    def _is_usable(self, view: CollectedView) -> bool:
        return bool(view.crops) or (self._model is not None and view.embedding is not None)

    def _picture(self, name: str) -> bytes:
        """A picture that can be read again later."""
        data = self._file.crop(name)
        try:
            # One at a time is in memory, and none of more than 13 MB.
            width, height = png_size(data)
            if max(width, height) > MAX_CROP_SIDE:
                raise PictureError(f"sides of {MAX_CROP_SIDE} pixels at most, not {width} x {height}")
            decode_png(data)
        except PictureError as error:
            raise self._file.refused(f"the picture {ascii(name)[:80]}: {error}") from error
        return data

    def _free(self, name: str) -> str:
        return free_name(name, lambda key: is_taken(self._connection, key))
