"""Archives: objects exported from one store and imported into another, in one .zip file.

    manifest.json     the objects and their views, see `ArchiveManifest`
    embeddings.f32    float32, little-endian, one row of `dimensions` numbers for each view that has an embedding
    crops/7-0.png     the pictures

An archive is not trusted: `BoundedZip` reads it, and all pictures are decoded before anything is imported.
"""

from __future__ import annotations

import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import msgspec
import numpy as np

from edge_siamese.errors import StoreError, SupportError
from edge_siamese.recognition.embedding import usable_embeddings
from edge_siamese.recognition.imaging import Floats
from edge_siamese.store.bounded_zip import BoundedZip, new_member, open_zip
from edge_siamese.store.database import Database, Row
from edge_siamese.store.errors import store_error
from edge_siamese.store.names import checked_name, free_name, name_key
from edge_siamese.store.records import ViewKind
from edge_siamese.store.tables import (
    LIVE,
    MAX_CROPS,
    encode_embedding,
    insert_crops,
    insert_embedding,
    insert_object,
    insert_view,
    is_intact,
    is_name_taken,
)
from edge_siamese.store.undo_log import merge_target
from edge_siamese.system.files import write_atomically
from edge_siamese.validation import Record, SchemaError, convert, require_time

OnConflict = Literal["rename", "skip", "merge"]
"""Import policy for a new object whose name is taken."""
FORMAT: Literal["edge-siamese archive"] = "edge-siamese archive"
VERSION = 1

MANIFEST, EMBEDDINGS = "manifest.json", "embeddings.f32"
MAX_MANIFEST_BYTES = 32 * 1024 * 1024
MAX_EMBEDDING_BYTES = 512 * 1024 * 1024


class ArchivedView(Record):
    """A view or negative in an archive."""

    uid: str
    """32 hexadecimal digits."""
    kind: ViewKind
    created: str
    """UTC, ISO 8601."""
    source: str
    """Its source, such as `camera` or `picture`."""
    embedding: int | None
    """The row of the embeddings; null without an embedding of the archive's model."""
    crops: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_CROPS)]
    """The members that are its pictures, in order."""


class ArchivedObject(Record):
    """An object in an archive."""

    uid: str
    """32 hexadecimal digits."""
    name: str
    created: str
    """UTC, ISO 8601."""
    views: tuple[ArchivedView, ...]
    """Views and negatives."""


class ArchiveManifest(Record):
    """The manifest of an archive."""

    format: Literal["edge-siamese archive"]
    version: int
    """Version of the format."""
    model_id: str
    """The model of the embeddings."""
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=65536)]
    """D, the length of an embedding."""
    exported: str
    """UTC, ISO 8601."""
    objects: tuple[ArchivedObject, ...]
    """In the order of registration."""


# --- writing ---


def write_archive(path: Path, database: Database, model_id: str, dimensions: int, now: str) -> int:
    """Write all objects of a store to an archive, completely or not at all; returns the number of objects.

    From any thread; the store can be used meanwhile.

    Raises:
        StoreError: the file cannot be written, or the store cannot be read, or was closed.
    """
    with database.long_read() as connection:

        def read(sql: str, *values: Any) -> list[Row]:
            _ = database.connection  # raises an error if the store was closed meanwhile
            return connection.execute(sql, values).fetchall()

        return _write_archive(path, read, model_id, dimensions, now)


def _write_archive(
    path: Path, read: Callable[..., list[Row]], model_id: str, dimensions: int, now: str
) -> int:
    views: dict[int, list[ArchivedView]] = {}
    vectors: list[bytes] = []
    rows = read(
        "SELECT o.id, v.id, v.uid, v.kind, v.created, v.source, e.vector, e.checksum, "
        "(SELECT count(*) FROM crops c WHERE c.view_id = v.id) FROM objects o JOIN views v ON v.object_id = o.id "
        f"LEFT JOIN embeddings e ON e.view_id = v.id AND e.model_id = ? WHERE {LIVE} ORDER BY o.id, v.id",
        model_id,
    )
    for object_id, view_id, uid, kind, created, source, vector, checksum, crops in rows:
        usable = is_intact(view_id, model_id, vector, checksum) and len(vector) == 4 * dimensions
        row = len(vectors) if usable else None
        vectors += [vector] if usable else []
        members = tuple(f"crops/{view_id}-{place}.png" for place in range(crops))
        views.setdefault(object_id, []).append(ArchivedView(uid, kind, created, source, row, members))
    objects = tuple(
        ArchivedObject(uid, name, created, tuple(views.get(object_id, ())))
        for object_id, uid, name, created in read(
            "SELECT id, uid, name, created FROM objects WHERE deleted IS NULL ORDER BY id"
        )
    )
    manifest = ArchiveManifest(FORMAT, VERSION, model_id, dimensions, now, objects)

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
            text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
            archive.writestr(new_member(MANIFEST), text, zipfile.ZIP_DEFLATED)
            archive.writestr(new_member(EMBEDDINGS), b"".join(vectors))
            for _, view_id, *_ in rows:
                for place, (picture,) in enumerate(
                    read("SELECT picture FROM crops WHERE view_id = ? ORDER BY place", view_id)
                ):
                    archive.writestr(new_member(f"crops/{view_id}-{place}.png"), picture)

    try:
        write_atomically(path, write)
    except StoreError:
        raise
    except OSError as error:
        raise store_error(error, path) from error
    return len(objects)


# --- reading ---


class ArchiveReader:
    """An archive that is open for reading."""

    def __init__(self, file: BoundedZip) -> None:
        """Read and check everything except the pictures; see `open_archive`."""
        self._file = file
        self.manifest = self._read_manifest()
        self.embeddings = self._read_embeddings()
        """float32 (rows, dimensions), all finite."""

    def check_pictures(self) -> None:
        """Decode all pictures; raises `StoreError` as `BoundedZip.check_pictures` does."""
        self._file.check_pictures(
            name for item in self.manifest.objects for view in item.views for name in view.crops
        )

    def read_crop(self, member: str) -> bytes:
        """A picture as PNG."""
        return self._file.read_picture(member)

    def _read_manifest(self) -> ArchiveManifest:
        try:
            manifest = convert(
                self._file.read_manifest(MANIFEST, MAX_MANIFEST_BYTES, VERSION), ArchiveManifest
            )
            _require_consistent(manifest)
        except (SchemaError, SupportError) as error:
            raise self._file.refusal(f"{MANIFEST}: {error}") from error
        return manifest

    def _read_embeddings(self) -> Floats:
        data, dimensions = self._file.read(EMBEDDINGS, MAX_EMBEDDING_BYTES), self.manifest.dimensions
        if len(data) % (4 * dimensions):
            raise self._file.refusal(f"{EMBEDDINGS} has {len(data)} bytes, not rows of {dimensions} numbers")
        rows = np.frombuffer(data, dtype="<f4").reshape(-1, dimensions).astype(np.float32)
        if not usable_embeddings(rows).all():
            raise self._file.refusal(f"{EMBEDDINGS} has numbers that are not finite, too large, or all zero")
        self._require_rows(rows)
        return rows

    def require_usable(self, unit_length: bool) -> None:
        """Raise `StoreError` unless the embeddings are unit vectors, if those of their model are."""
        if not usable_embeddings(self.embeddings, unit_length).all():
            raise self._file.refusal(f"{EMBEDDINGS} has embeddings that are not of unit length")

    def _require_rows(self, rows: Floats) -> None:
        for item in self.manifest.objects:
            for view in item.views:
                if view.embedding is not None and not 0 <= view.embedding < len(rows):
                    raise self._file.refusal(
                        f'"{item.name}" refers to the embedding {view.embedding}, of {len(rows)}'
                    )


@contextmanager
def open_archive(path: Path, keep_reading: Callable[[], object] = lambda: None) -> Iterator[ArchiveReader]:
    """Open an archive and check everything except its pictures; see `open_zip`."""
    with open_zip(path, "nothing was imported", keep_reading) as file:
        yield ArchiveReader(file)


def _require_consistent(manifest: ArchiveManifest) -> None:
    """Check what the types do not express; raises `SchemaError` or `SupportError`."""
    if manifest.version != VERSION:
        raise SchemaError("version", f"must be {VERSION}, not {manifest.version}")
    require_time("exported", manifest.exported)
    uids: set[str] = set()
    crops: set[str] = set()
    for place, item in enumerate(manifest.objects):
        key = f"objects[{place}]"
        require_time(f"{key}.created", item.created)
        checked_name(item.name)
        _require_new_uid(f"{key}.uid", item.uid, uids)
        for index, view in enumerate(item.views):
            view_key = f"{key}.views[{index}]"
            _require_line(f"{view_key}.source", view.source)
            require_time(f"{view_key}.created", view.created)
            _require_new_uid(f"{view_key}.uid", view.uid, uids)
            if len(set(view.crops)) < len(view.crops) or not crops.isdisjoint(view.crops):
                raise SchemaError(f"{view_key}.crops", "a picture is used twice")
            crops.update(view.crops)


def _require_line(key: str, text: str) -> None:
    if len(text) > 80 or not text.isprintable():
        raise SchemaError(key, "must be one line of at most 80 characters")


def _require_new_uid(key: str, uid: str, known: set[str]) -> None:
    if len(uid) != 32 or not set(uid) <= set("0123456789abcdef"):
        raise SchemaError(key, f"must be 32 hexadecimal digits, not {ascii(uid)[:40]}")
    if uid in known:
        raise SchemaError(key, f"{uid} is used twice")
    known.add(uid)


# --- importing ---


@dataclass(frozen=True)
class ImportResult:
    """The result of an import."""

    objects: int
    """Objects that are new here, or restored."""
    views: int
    """Views that are new here, or restored."""
    negatives: int
    """Negatives that are new here, or restored."""
    known: int
    """Views and negatives that were already here."""
    skipped: int
    """Objects that were not imported: their name was taken, or none of their views can be used."""
    unusable: int
    """Views and negatives that were not imported: no embedding of the current model, and no pictures."""
    unembedded: int
    """Imported views and negatives that still have to be embedded from their pictures."""
    renamed: tuple[tuple[str, str], ...]
    """Objects whose name was taken: the name in the archive, and the one here."""

    @property
    def text(self) -> str:
        """Human-readable line."""
        parts = [f"imported: objects {self.objects}, views {self.views}, negatives {self.negatives}"]
        parts += [f"already here {self.known}"] if self.known else []
        parts += [f"objects skipped {self.skipped}"] if self.skipped else []
        parts += [f"unusable views {self.unusable}"] if self.unusable else []
        parts += [f"to be embedded from pictures {self.unembedded}"] if self.unembedded else []
        parts += [f'"{old}" is named "{new}"' for old, new in self.renamed[:5]]
        return "; ".join(parts)


ImportLog = dict[str, list[Any]]
"""Data to undo an import: the rows that were added, restored and moved."""


def import_archive(
    connection: sqlite3.Connection,
    archive: ArchiveReader,
    *,
    model_id: str,
    dimensions: int,
    unit_length: bool,
    keep_crops: bool,
    on_conflict: OnConflict,
) -> tuple[ImportResult, ImportLog]:
    """Import an archive into a store.

    Args:
        connection: in a transaction, which must be rolled back if this raises.
        archive: its pictures are checked.
        model_id, dimensions: the current model; embeddings of another one are not imported.
        unit_length: whether its embeddings are unit vectors.
        keep_crops: whether to store the pictures of views that have an embedding.
        on_conflict: what to do with a new object whose name is taken.

    Raises:
        StoreError: the file cannot be read, or is damaged.
    """
    manifest = archive.manifest
    model = model_id if (manifest.model_id, manifest.dimensions) == (model_id, dimensions) else None
    if model is not None:
        archive.require_usable(unit_length)
    importer = _Importer(connection, archive, model, keep_crops, on_conflict)
    for item in manifest.objects:
        importer.add(item)
    return importer.result(), importer.log


class _Importer:
    """Adds the objects of one archive to a store."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        archive: ArchiveReader,
        model_id: str | None,
        keep_crops: bool,
        on_conflict: OnConflict,
    ) -> None:
        """Prepare the import; see `import_archive`. `model_id` is None if the embeddings belong to another model."""
        self._run = connection.execute
        self._connection = connection
        self._archive = archive
        self._model_id = model_id
        self._keep_crops = keep_crops
        self._on_conflict = on_conflict
        self._counts = dict.fromkeys(("view", "negative", "known", "skipped", "unusable", "unembedded"), 0)
        self._renamed: list[tuple[str, str]] = []
        kinds = ("objects", "views", "former objects", "former views", "moved views")
        self.log: ImportLog = {kind: [] for kind in kinds}

    def result(self) -> ImportResult:
        counts = self._counts
        return ImportResult(
            objects=len(self.log["objects"]) + len(self.log["former objects"]),
            views=counts["view"],
            negatives=counts["negative"],
            known=counts["known"],
            skipped=counts["skipped"],
            unusable=counts["unusable"],
            unembedded=counts["unembedded"],
            renamed=tuple(self._renamed),
        )

    def add(self, item: ArchivedObject) -> None:
        """Add an object, with all of its views that can be used."""
        object_id = self._find_or_create(item)
        if object_id is None:
            self._counts["skipped"] += 1
            return
        for view in item.views:
            if not self._restore_view(object_id, view):
                self._add_view(object_id, view)

    def _find_or_create(self, item: ArchivedObject) -> int | None:
        """The id of the object here; None if it is skipped."""
        known = self._run("SELECT id, name, deleted FROM objects WHERE uid = ?", (item.uid,)).fetchone()
        if known and known[2] is None:
            return int(known[0])
        # An object that was merged into another one here would be restored without views: the other one has them.
        merged = merge_target(self._connection, known[0]) if known else None
        holder = merged or self._find_object_with_views(item)
        if holder is not None:
            return holder
        if not any(map(self._would_be_view, item.views)) and not (known and self._has_views(known[0])):
            return None
        return self._restore_object(*known) if known else self._create(item)

    def _restore_object(self, object_id: int, name: str, deleted: int) -> int:
        """Restore an object that was forgotten here, with its views that are still stored."""
        name = self._free_name(name)
        self._run(
            "UPDATE objects SET name = ?, key = ?, deleted = NULL WHERE id = ?",
            (name, name_key(name), object_id),
        )
        self.log["former objects"].append((object_id, deleted))
        return object_id

    def _create(self, item: ArchivedObject) -> int | None:
        name = checked_name(item.name)
        if is_name_taken(self._connection, name_key(name)):
            if self._on_conflict == "skip":
                return None
            if self._on_conflict == "merge":
                query = "SELECT id FROM objects WHERE key = ? AND deleted IS NULL"
                return int(self._run(query, (name_key(name),)).fetchone()[0])
            name = self._free_name(name)
            self._renamed.append((item.name, name))
        object_id = insert_object(self._connection, item.uid, name, item.created)
        self.log["objects"].append(object_id)
        return object_id

    def _restore_view(self, object_id: int, view: ArchivedView) -> bool:
        """Keep or restore a view that is already here; False if it is not."""
        known = self._run(
            "SELECT v.id, v.object_id, v.deleted, o.deleted FROM views v JOIN objects o ON o.id = v.object_id "
            "WHERE v.uid = ?",
            (view.uid,),
        ).fetchone()
        if not known:
            return False
        view_id, owner, deleted, owner_deleted = known
        if deleted is None and (owner == object_id or owner_deleted is None):
            self._counts["known"] += 1
            return True
        self._run("UPDATE views SET object_id = ?, deleted = NULL WHERE id = ?", (object_id, view_id))
        if owner == object_id:
            self.log["former views"].append((view_id, deleted))
        else:
            self.log["moved views"].append((view_id, owner, deleted))
        self._counts[view.kind] += 1
        return True

    def _add_view(self, object_id: int, view: ArchivedView) -> None:
        if not self._is_usable(view):
            self._counts["unusable"] += 1
            return
        view_id = insert_view(self._connection, object_id, view.uid, view.kind, view.created, view.source)
        self.log["views"].append(view_id)
        self._counts[view.kind] += 1
        embedded = self._model_id is not None and view.embedding is not None
        if self._model_id is not None and view.embedding is not None:
            row = self._archive.embeddings[view.embedding]
            insert_embedding(self._connection, view_id, self._model_id, encode_embedding(row, len(row)))
        else:
            self._counts["unembedded"] += 1
        if self._keep_crops or not embedded:
            insert_crops(self._connection, view_id, map(self._archive.read_crop, view.crops))

    def _find_object_with_views(self, item: ArchivedObject) -> int | None:
        """The id of the object that has a view of this one, because they were merged here or by an import."""
        query = (
            "SELECT o.id FROM views v JOIN objects o ON o.id = v.object_id "
            f"WHERE v.uid = ? AND v.kind = 'view' AND {LIVE}"
        )
        for view in item.views:
            if row := self._run(query, (view.uid,)).fetchone():
                return int(row[0])
        return None

    def _has_views(self, object_id: int) -> bool:
        query = "SELECT 1 FROM views WHERE object_id = ? AND kind = 'view' AND deleted IS NULL"
        return self._run(query, (object_id,)).fetchone() is not None

    def _would_be_view(self, view: ArchivedView) -> bool:
        """Whether the object would have this view after the import."""
        known = self._run("SELECT kind FROM views WHERE uid = ?", (view.uid,)).fetchone()
        return view.kind == "view" and (known == ("view",) if known else self._is_usable(view))

    def _is_usable(self, view: ArchivedView) -> bool:
        return bool(view.crops) or (self._model_id is not None and view.embedding is not None)

    def _free_name(self, name: str) -> str:
        return free_name(name, lambda key: is_name_taken(self._connection, key))
