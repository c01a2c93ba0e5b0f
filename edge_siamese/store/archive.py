"""The file in which objects travel from one store to another: a .zip of a manifest, embeddings and pictures.

    manifest.json     what there is, see `Collection`
    embeddings.f32    float32 little-endian, one row of `dimensions` numbers for each view that has one
    crops/7-0.png     the pictures

A file from elsewhere is not trusted: all sizes are bounded before anything is unpacked, each member is read once, and
no name in it is ever taken for a name of the file system.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np

from edge_siamese.errors import StoreError, SupportError
from edge_siamese.pictures import MAX_PNG_BYTES
from edge_siamese.recognition.imaging import Floats
from edge_siamese.store.database import Database
from edge_siamese.store.errors import store_error
from edge_siamese.store.names import checked_name
from edge_siamese.store.records import LIVE, ViewKind
from edge_siamese.store.tables import MAX_CROPS
from edge_siamese.system.files import write_atomically
from edge_siamese.validation import SchemaError, parse_json, read_object

OnConflict = Literal["rename", "skip", "merge"]
FORMAT: Literal["edge-siamese collection"] = "edge-siamese collection"
VERSION = 1

MANIFEST, EMBEDDINGS = "manifest.json", "embeddings.f32"
MAX_MEMBERS = 500_000
MAX_DIRECTORY_BYTES = 32 * 1024 * 1024
MAX_MANIFEST_BYTES = 32 * 1024 * 1024
MAX_EMBEDDING_BYTES = 512 * 1024 * 1024
MAX_TOTAL_BYTES = 8 * 1024**3

# A .zip has to say a time; the same objects give the same file.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class CollectedView:
    """One view in a collection."""

    uid: str
    """32 hexadecimal digits."""
    kind: ViewKind
    """A view, or a negative."""
    created: str
    """UTC, ISO 8601."""
    source: str
    """`camera` or `picture`."""
    embedding: int | None
    """The row of the embeddings; null without one of the collection's model."""
    crops: tuple[str, ...]
    """Members that are its pictures, in order."""


@dataclass(frozen=True)
class CollectedObject:
    """One object in a collection."""

    uid: str
    """32 hexadecimal digits."""
    name: str
    """What people call it."""
    created: str
    """UTC, ISO 8601."""
    views: tuple[CollectedView, ...]
    """Views and negatives."""


@dataclass(frozen=True)
class Collection:
    """The manifest."""

    format: Literal["edge-siamese collection"]
    """What this file is."""
    version: int
    """Of the format."""
    model_id: str
    """Whose embeddings these are."""
    dimensions: int
    """Numbers in each."""
    exported: str
    """UTC, ISO 8601."""
    objects: tuple[CollectedObject, ...]
    """In the order of their registration."""


def write_collection(path: Path, database: Database, model_id: str, dimensions: int, now: str) -> int:
    """Write all objects of a store to `path`, whole or not at all; how many objects.

    Raises:
        StoreError: the file cannot be written, or the store cannot be read.
    """
    objects: dict[int, tuple[str, str, str, list[CollectedView]]] = {}
    for number, uid, name, created in database.read(
        "SELECT id, uid, name, created FROM objects WHERE deleted IS NULL ORDER BY id"
    ):
        objects[number] = (uid, name, created, [])
    rows = database.read(
        "SELECT o.id, v.id, v.uid, v.kind, v.created, v.source, e.vector, "
        "(SELECT count(*) FROM crops c WHERE c.view_id = v.id) FROM objects o JOIN views v ON v.object_id = o.id "
        f"LEFT JOIN embeddings e ON e.view_id = v.id AND e.model_id = ? WHERE {LIVE} ORDER BY o.id, v.id",
        model_id,
    )
    vectors: list[bytes] = []
    for owner, view, uid, kind, created, source, vector, crops in rows:
        row = len(vectors) if vector is not None else None
        vectors += [vector] if vector is not None else []
        names = tuple(f"crops/{view}-{place}.png" for place in range(crops))
        objects[owner][3].append(CollectedView(uid, kind, created, source, row, names))
    collected = tuple(
        CollectedObject(uid, name, created, tuple(views)) for uid, name, created, views in objects.values()
    )
    manifest = Collection(FORMAT, VERSION, model_id, dimensions, now, collected)

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
            text = json.dumps(asdict(manifest), ensure_ascii=False, indent=1).encode("utf-8")
            archive.writestr(_member(MANIFEST), text, zipfile.ZIP_DEFLATED)
            archive.writestr(_member(EMBEDDINGS), b"".join(vectors))
            for _, view, *_ in rows:
                for place, (picture,) in enumerate(
                    database.read("SELECT picture FROM crops WHERE view_id = ? ORDER BY place", view)
                ):
                    archive.writestr(_member(f"crops/{view}-{place}.png"), picture)

    try:
        write_atomically(path, write)
    except StoreError:
        raise
    except OSError as error:
        raise store_error(error, path) from error
    return len(collected)


class CollectionFile:
    """A collection that is open for reading."""

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        """See `open_collection`."""
        self._path = path
        self._archive = archive
        self._members = self._checked_members()
        self.manifest = self._read_manifest()
        self.embeddings = self._read_embeddings()
        """float32 (rows, dimensions), all finite."""

    def crop(self, name: str) -> bytes:
        """One picture, as it is in the file."""
        return self._read(name, MAX_PNG_BYTES)

    def refused(self, problem: str) -> StoreError:
        """The error for something wrong in this file."""
        return StoreError(f"{self._path}: {problem}; nothing was imported")

    def _checked_members(self) -> dict[str, zipfile.ZipInfo]:
        infos = self._archive.infolist()
        members = {info.filename: info for info in infos}
        if len(infos) > MAX_MEMBERS or len(members) != len(infos):
            raise self.refused("it has members of one name, or too many of them")
        if sum(info.file_size for info in infos) > MAX_TOTAL_BYTES:
            raise self.refused(f"it unpacks to more than {MAX_TOTAL_BYTES >> 30} GiB")
        return members

    def _read(self, name: str, most: int) -> bytes:
        """A member; the declared size is checked first, and no more than that is unpacked."""
        info = self._members.get(name)
        if info is None:
            raise self.refused(f"the member {ascii(name)[:80]} is missing")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise self.refused(f"the member {ascii(name)[:80]} is packed in a way that is not read here")
        if info.file_size > most:
            raise self.refused(
                f"the member {ascii(name)[:80]} has {info.file_size} bytes; at most {most} are read"
            )
        with self._archive.open(info) as file:
            data = file.read(most + 1)
        if len(data) != info.file_size:
            raise self.refused(f"the member {ascii(name)[:80]} is shorter or longer than the file says")
        return data

    def _read_manifest(self) -> Collection:
        try:
            value = parse_json(self._read(MANIFEST, MAX_MANIFEST_BYTES).decode("utf-8"))
            version = value.get("version") if isinstance(value, dict) else None
            if isinstance(version, int) and version > VERSION:
                raise self.refused(
                    f"it is of version {version} of the format, and this release reads {VERSION}"
                )
            manifest = read_object(value, Collection)
            _require_sound(manifest)
        except UnicodeDecodeError as error:
            raise self.refused(f"{MANIFEST} is not UTF-8 text") from error
        except (SchemaError, SupportError) as error:
            raise self.refused(f"{MANIFEST}: {error}") from error
        return manifest

    def _read_embeddings(self) -> Floats:
        data, dimensions = self._read(EMBEDDINGS, MAX_EMBEDDING_BYTES), self.manifest.dimensions
        if len(data) % (4 * dimensions):
            raise self.refused(
                f"{EMBEDDINGS} has {len(data)} bytes, which are no rows of {dimensions} numbers"
            )
        rows = np.frombuffer(data, dtype="<f4").reshape(-1, dimensions).astype(np.float32)
        if not np.isfinite(rows).all():
            raise self.refused(f"{EMBEDDINGS} has numbers that are not finite")
        for item in self.manifest.objects:
            for view in item.views:
                if view.embedding is not None and not 0 <= view.embedding < len(rows):
                    raise self.refused(f'"{item.name}" has the embedding {view.embedding}, of {len(rows)}')
        return rows


class _Bounded(io.BufferedReader):
    """A file of which zipfile reads no list of members that would fill the memory, before they can be counted."""

    most: int | None = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if self.most is not None and size is not None and size > self.most:
            raise zipfile.BadZipFile(f"its list of members has {size} bytes")
        return super().read(size)


@contextmanager
def open_collection(path: Path) -> Iterator[CollectionFile]:
    """Open a collection and check all but its pictures.

    Raises:
        StoreError: the file cannot be read, is no collection, is damaged or of a newer version; also while the block
            reads a picture.
    """
    try:
        with _Bounded(io.FileIO(path)) as file, zipfile.ZipFile(file) as archive:
            file.most = None
            yield CollectionFile(path, archive)
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise StoreError(f"{path}: there is no such file") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror or error}; nothing was imported") from error
    # What zipfile raises for files that are not as they should be is not documented to be one class.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        raise StoreError(f"{path} is damaged, or no collection: {error}; nothing was imported") from error


def _require_sound(manifest: Collection) -> None:
    """What the types do not say; raises `SchemaError` or `SupportError`."""
    if manifest.version != VERSION:
        raise SchemaError("version", f"{VERSION} is needed, not {manifest.version}")
    if not 1 <= manifest.dimensions <= 65536:
        raise SchemaError("dimensions", f"a number from 1 to 65536 is needed, not {manifest.dimensions}")
    uids: set[str] = set()
    crops: set[str] = set()
    for place, item in enumerate(manifest.objects):
        key = f"objects[{place}]"
        _require_text(f"{key}.created", item.created)
        checked_name(item.name)
        _require_new(f"{key}.uid", item.uid, uids)
        for index, view in enumerate(item.views):
            _require_text(f"{key}.views[{index}].source", view.source)
            _require_text(f"{key}.views[{index}].created", view.created)
            _require_new(f"{key}.views[{index}].uid", view.uid, uids)
            if len(view.crops) > MAX_CROPS:
                raise SchemaError(
                    f"{key}.views[{index}].crops", f"at most {MAX_CROPS} pictures are kept of a view"
                )
            if len(set(view.crops)) < len(view.crops) or not crops.isdisjoint(view.crops):
                raise SchemaError(f"{key}.views[{index}].crops", "a picture belongs to one view, once")
            crops.update(view.crops)


def _require_text(key: str, text: str) -> None:
    if len(text) > 80 or not text.isprintable():
        raise SchemaError(key, "one line of at most 80 characters is needed")


def _require_new(key: str, uid: str, known: set[str]) -> None:
    if len(uid) != 32 or not set(uid) <= set("0123456789abcdef"):
        raise SchemaError(key, f"32 hexadecimal digits are needed, not {ascii(uid)[:40]}")
    if uid in known:
        raise SchemaError(key, f"{uid} stands twice in the file")
    known.add(uid)


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o644 << 16
    return info
