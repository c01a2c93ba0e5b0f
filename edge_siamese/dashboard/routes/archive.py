"""Operations that bring all objects to another device, or from one: a file out, a file in."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from edge_siamese.daemon.archive_files import INCOMING, MAX_UPLOADED, MAX_UPLOADS, OUTGOING, transit
from edge_siamese.dashboard.api_types import Failure, Values
from edge_siamese.dashboard.exchange import Call, Problem, Reply
from edge_siamese.dashboard.operations import Answer, Operation
from edge_siamese.dashboard.schemas import About
from edge_siamese.dashboard.state import AppState, asked
from edge_siamese.errors import ControlError, StoreError
from edge_siamese.system.disk import RESERVE

TYPE = "application/zip"


@dataclass(frozen=True)
class Policy:
    """What to do with another object of the same name."""

    on_conflict: Annotated[
        Literal["rename", "skip", "merge"], About("For another object of the same name.")
    ] = "rename"


class Incoming:
    """A collection that comes in, piece by piece, into a file that does not outlive its request."""

    def __init__(self, state: Path) -> None:
        """Make room for it.

        Raises:
            Problem: 503 if the disk is nearly full, cannot be written, or too many come at a time.
        """
        try:
            folder = transit(state, INCOMING)
        except ControlError as error:
            raise Problem(503, str(error)) from error
        if len(list(folder.iterdir())) >= MAX_UPLOADS:
            raise Problem(503, f"{MAX_UPLOADS} collections are being brought in already; try again later")
        handle, name = tempfile.mkstemp(".zip", "page-", folder)
        self.path = Path(name)
        self._file = os.fdopen(handle, "wb")
        self._size = 0

    def write(self, piece: bytes) -> None:
        """One more piece.

        Raises:
            Problem: 413 if it is too much, 503 if the disk is nearly full.
        """
        self._size += len(piece)
        if self._size > MAX_UPLOADED:
            raise Problem(413, f"a collection has at most {MAX_UPLOADED:,} bytes")
        try:
            if shutil.disk_usage(self.path.parent).free - len(piece) < RESERVE:
                raise Problem(503, "the disk is nearly full, so nothing was imported: make room first")
            self._file.write(piece)
        except OSError as error:
            raise Problem(
                503, f"the disk cannot be written: {error.strerror}; nothing was imported"
            ) from error

    def end(self) -> Path:
        """All of it is there."""
        self._file.close()
        return self.path

    def remove(self) -> None:
        """It is not needed any more; may be called twice."""
        self._file.close()
        self.path.unlink(missing_ok=True)


def export(site: AppState, call: Call) -> Reply:
    """All objects in one file; one at a time, for each is a copy of all that is kept."""
    if not site.exporting.acquire(blocking=False):
        text = "a collection is being sent already; try again when it is there"
        raise Problem(503, text, headers={"Retry-After": "10"})
    try:
        path = _written(site)
    except BaseException:
        site.exporting.release()
        raise
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in site.device)[:40]
    headers = {"Content-Disposition": f'attachment; filename="edge-siamese-{name}.zip"'}
    return Reply(file=path, type=TYPE, headers=headers, ended=site.exporting.release)


def _written(site: AppState) -> Path:
    """A file with all objects, in a folder of its own."""
    settings = site.actions.settings
    try:
        place = transit(settings.state_directory, OUTGOING)
        if shutil.disk_usage(place).free - settings.store.stat().st_size < RESERVE:
            raise Problem(503, "the disk is nearly full, so nothing was written: make room first")
        folder = Path(tempfile.mkdtemp(dir=place))
    except ControlError as error:
        raise Problem(503, str(error)) from error
    except OSError as error:
        raise Problem(503, f"the disk cannot be written: {error.strerror}") from error
    path = folder / "objects.zip"
    try:
        asked(lambda: site.actions.export(path))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return path


def import_(site: AppState, call: Call) -> Reply:
    """Add the objects of a file."""
    path: Path = call.body
    if path.stat().st_size == 0:
        raise Problem(422, "the file is empty", kind="StoreError")

    def bring() -> dict[str, Any]:
        try:
            return site.actions.import_(path, call.query.on_conflict)
        except StoreError as error:
            if str(path) in str(error):  # it is the file, not the store
                text = str(error).replace(str(path), "the file")
                raise Problem(422, text, kind="StoreError") from error
            raise

    return Reply(value=asked(bring))


OPERATIONS = (
    Operation(
        "GET",
        "/collection",
        "exportCollection",
        "collection",
        "All objects in one file.",
        Answer(200, "The file.", type=TYPE, headers={"Content-Disposition": "A name for the file."}),
        export,
    ),
    Operation(
        "POST",
        "/collection",
        "importCollection",
        "collection",
        "Add the objects of such a file.",
        Answer(200, "What came.", Values),
        import_,
        query=Policy,
        body="collection",
        others=(Answer(409, "It cannot be now.", Failure),),
    ),
)
