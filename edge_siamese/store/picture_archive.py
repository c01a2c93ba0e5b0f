"""Archives of pictures for training: those of registered views, and of recognitions that were marked as wrong.

    manifest.json       what each picture shows, see `PictureManifest`
    0f3c…-0.png         a picture: the uid of its view or negative, and its number there

A device writes them and a workstation reads them, which trusts them as little as `BoundedZip` does.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from edge_siamese.errors import StoreError, SupportError, is_printable
from edge_siamese.pictures import is_intact_png
from edge_siamese.store.bounded_zip import BoundedZip, new_member, open_zip
from edge_siamese.store.database import Database, Row
from edge_siamese.store.errors import store_error
from edge_siamese.store.mistakes import Mistake
from edge_siamese.store.names import checked_name
from edge_siamese.store.tables import LIVE
from edge_siamese.system.files import write_atomically
from edge_siamese.validation import Record, SchemaError, convert, require_time

FORMAT: Literal["edge-siamese pictures"] = "edge-siamese pictures"
VERSION = 1
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 32 * 1024 * 1024
MAX_MODEL_ID = 256
_MEMBER = re.compile(r"[0-9a-f]{32}-[0-9]{1,3}\.png")

PictureKind = Literal["view", "wrong"]


class ArchivedPicture(Record, frozen=True):
    """A picture in an archive."""

    member: str
    """Its member. It names the picture in every archive, including those of other devices of a fleet."""
    kind: PictureKind
    """`view`: of a registered object; `wrong`: of something else that was recognized as it."""
    name: str | None
    """Name of what it shows; None for a wrong recognition without a label."""
    recognized: str | None
    """The object as which it was recognized wrongly; None for a view."""
    created: str
    """UTC, ISO 8601."""
    model_id: str
    """Of a view, the model in use; of a wrong recognition, the model that was wrong, or empty if that is not known."""


class PictureManifest(Record, frozen=True):
    """The manifest of an archive."""

    format: Literal["edge-siamese pictures"]
    version: int
    """Version of the format."""
    exported: str
    """UTC, ISO 8601."""
    pictures: tuple[ArchivedPicture, ...]
    without_pictures: int
    """Number of views and negatives of which the device has no undamaged picture."""


# --- writing ---


def write_pictures(
    path: Path, database: Database, mistakes: Iterable[Mistake], model_id: str, now: str
) -> PictureManifest:
    """Write an archive of a store's pictures, completely or not at all; returns its manifest.

    From any thread; the store can be used meanwhile.

    Args:
        path: the archive.
        database: database of the store.
        mistakes: those of its negatives replace their pictures; others are left out.
        model_id: the model in use.
        now: the current time, UTC, ISO 8601.

    Raises:
        StoreError: the file cannot be written, or the store cannot be read, or was closed.
    """
    with database.long_read() as connection:

        def read(sql: str, *values: Any) -> list[Row]:
            _ = database.connection  # raises an error if the store was closed meanwhile
            return connection.execute(sql, values).fetchall()

        manifest, sources = _manifest(read, {mistake.uid: mistake for mistake in mistakes}, model_id, now)

        def write(file: IO[bytes]) -> None:
            with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
                archive.writestr(new_member(MANIFEST), msgspec.json.encode(manifest), zipfile.ZIP_DEFLATED)
                for picture, source in zip(manifest.pictures, sources, strict=True):
                    archive.writestr(new_member(picture.member), source())

        try:
            write_atomically(path, write, mode=0o600)
        except StoreError:
            raise
        except OSError as error:
            raise store_error(error, path) from error
    return manifest


Source = Callable[[], bytes]
"""Returns a picture as PNG."""


def _manifest(
    read: Callable[..., list[Row]], mistakes: dict[str, Mistake], model_id: str, now: str
) -> tuple[PictureManifest, list[Source]]:
    """The manifest, and the sources of its pictures."""
    names: dict[str | None, str] = dict(read("SELECT uid, name FROM objects WHERE deleted IS NULL"))
    pictures: list[ArchivedPicture] = []
    sources: list[Source] = []
    without = 0
    for view_id, uid, kind, name, created, count in read(
        "SELECT v.id, v.uid, v.kind, o.name, v.created, (SELECT count(*) FROM crops c WHERE c.view_id = v.id) "
        f"FROM views v JOIN objects o ON o.id = v.object_id WHERE {LIVE} ORDER BY v.id"
    ):
        mistake = mistakes.get(uid) if kind == "negative" else None
        if mistake is not None:
            actual = names.get(mistake.actual_uid) or mistake.actual
            pictures.append(
                ArchivedPicture(f"{uid}-0.png", "wrong", actual, name, mistake.created, mistake.model_id)
            )
            sources.append(partial(bytes, mistake.picture))
            continue
        intact = [place for place in range(count) if is_intact_png(_crop(read, view_id, place)())]
        without += not intact
        for place in intact:
            pictures.append(
                ArchivedPicture(f"{uid}-{place}.png", "view", name, None, created, model_id)
                if kind == "view"
                else ArchivedPicture(f"{uid}-{place}.png", "wrong", None, name, created, "")
            )
            sources.append(_crop(read, view_id, place))
    return PictureManifest(FORMAT, VERSION, now, tuple(pictures), without), sources


def _crop(read: Callable[..., list[Row]], view_id: int, place: int) -> Source:
    query = "SELECT picture FROM crops WHERE view_id = ? ORDER BY place LIMIT 1 OFFSET ?"
    return lambda: bytes(read(query, view_id, place)[0][0])


# --- reading ---


class PictureArchive:
    """An archive that is open for reading."""

    def __init__(self, file: BoundedZip) -> None:
        """Read and check the manifest; see `open_pictures`."""
        self._file = file
        try:
            self.manifest = convert(
                file.read_manifest(MANIFEST, MAX_MANIFEST_BYTES, VERSION), PictureManifest
            )
            _require_consistent(self.manifest)
        except (SchemaError, SupportError) as error:
            raise file.refusal(f"{MANIFEST}: {error}") from error

    def check_pictures(self) -> None:
        """Decode all pictures; raises `StoreError` as `BoundedZip.check_pictures` does."""
        self._file.check_pictures(picture.member for picture in self.manifest.pictures)

    def read(self, picture: ArchivedPicture) -> bytes:
        """A picture as PNG."""
        return self._file.read_picture(picture.member)


@contextmanager
def open_pictures(path: Path, consequence: str) -> Iterator[PictureArchive]:
    """Open an archive and check everything except its pictures; see `open_zip`."""
    with open_zip(path, consequence) as file:
        yield PictureArchive(file)


def _require_consistent(manifest: PictureManifest) -> None:
    """Check what the types do not express; raises `SchemaError` or `SupportError`."""
    if manifest.version != VERSION:
        raise SchemaError("version", f"must be {VERSION}, not {manifest.version}")
    require_time("exported", manifest.exported)
    members: set[str] = set()
    for place, picture in enumerate(manifest.pictures):
        key = f"pictures[{place}]"
        if not _MEMBER.fullmatch(picture.member) or picture.member in members:
            raise SchemaError(f"{key}.member", "must be a uid and a number, and used once")
        members.add(picture.member)
        if (picture.kind == "view") != (picture.recognized is None):
            raise SchemaError(f"{key}.recognized", "is needed for a wrong recognition, and for nothing else")
        if picture.name is None and picture.kind == "view":
            raise SchemaError(f"{key}.name", "is needed for a view")
        for name in (picture.name, picture.recognized):
            if name is not None:
                checked_name(name)
        require_time(f"{key}.created", picture.created)
        if len(picture.model_id) > MAX_MODEL_ID or not all(map(is_printable, picture.model_id)):
            raise SchemaError(f"{key}.model_id", f"must be one line of at most {MAX_MODEL_ID} characters")
