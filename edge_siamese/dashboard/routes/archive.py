"""Handlers that export all objects to an archive, and import one."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from edge_siamese.daemon.archives import (
    INCOMING,
    MAX_UPLOAD_BYTES,
    MAX_UPLOADS,
    OUTGOING,
    archive_directory,
)
from edge_siamese.dashboard import limits
from edge_siamese.dashboard.endpoints import BoundedStreamingResponse, Endpoints
from edge_siamese.dashboard.schemas import ApiError, JsonObject
from edge_siamese.dashboard.state import AppState
from edge_siamese.errors import ControlError, StoreError
from edge_siamese.settings import Settings
from edge_siamese.system.files import DISK_RESERVE_BYTES

ENDPOINTS = Endpoints("collection")

ZIP = "application/zip"
ARCHIVE_TYPES = (ZIP, "application/octet-stream", "application/x-zip-compressed")
READ_BYTES, WRITE_BYTES = 256 * 1024, 1 << 20
"""Sizes of pieces in which archives are read and written."""
DISK_FULL = "the disk is nearly full: free some space first"


class IncomingArchive:
    """An uploaded archive: a file that is removed with the request."""

    def __init__(self, state_directory: Path) -> None:
        """Create an empty file.

        Raises:
            ApiError: 503 if the disk is nearly full or cannot be written, or too many archives arrive at a time.
        """
        try:
            folder = archive_directory(state_directory, INCOMING)
        except ControlError as error:
            raise ApiError(503, str(error)) from error
        if len(list(folder.iterdir())) >= MAX_UPLOADS:
            raise ApiError(503, f"{MAX_UPLOADS} archives are being imported already; try again later")
        handle, name = tempfile.mkstemp(".zip", "dashboard-", folder)
        self.path = Path(name)
        self.size = 0
        self._file = os.fdopen(handle, "wb")

    def write(self, data: bytes) -> None:
        """Append data; raises `ApiError` with 503 if the disk is nearly full."""
        try:
            if shutil.disk_usage(self.path.parent).free - len(data) < DISK_RESERVE_BYTES:
                raise ApiError(503, DISK_FULL)
            self._file.write(data)
        except OSError as error:
            raise ApiError(503, f"cannot write to the disk: {error.strerror}") from error
        self.size += len(data)

    def close(self) -> None:
        """Finish writing. May be called twice."""
        self._file.close()

    def remove(self) -> None:
        """Remove the file. May be called twice."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class OutgoingArchive:
    """An exported archive: a file that is removed once it is sent. One at a time, since each is a copy of the store."""

    def __init__(self, state: AppState) -> None:
        """Write all objects to a file.

        Raises:
            ApiError: 503 if another export is running, or the disk is nearly full or cannot be written.
        """
        if not state.exporting.acquire(blocking=False):
            message = "an export is running already; try again when it is finished"
            raise ApiError(503, message, headers={"Retry-After": "10"})
        self._release: Callable[[], None] | None = state.exporting.release
        self._pool = state.pool
        self._directory: Path | None = None
        try:
            self._directory = _outgoing_directory(state.api.settings)
            self.path = self._directory / "objects.zip"
            state.api.export_to(self.path)
            self.size = self.path.stat().st_size
        except BaseException:
            self.close()
            raise

    async def __aiter__(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        with self.path.open("rb") as file:
            while chunk := await loop.run_in_executor(self._pool, file.read, READ_BYTES):
                yield chunk
        self.close()  # before the client sees the end: it may export again immediately

    def close(self) -> None:
        """Remove the file, and allow the next export. May be called twice."""
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
        release, self._release = self._release, None
        if release is not None:
            release()


def _outgoing_directory(settings: Settings) -> Path:
    try:
        folder = archive_directory(settings.state_directory, OUTGOING)
        if shutil.disk_usage(folder).free - settings.store.stat().st_size < DISK_RESERVE_BYTES:
            raise ApiError(503, DISK_FULL)
        return Path(tempfile.mkdtemp(dir=folder))
    except ControlError as error:
        raise ApiError(503, str(error)) from error
    except OSError as error:
        raise ApiError(503, f"cannot write to the disk: {error.strerror}") from error


@ENDPOINTS.add("GET", "/collection", media_type=ZIP, headers={"Content-Disposition": "A name for the file."})
def export_collection(state: AppState) -> Response:
    """Export all objects to one file."""
    archive = OutgoingArchive(state)
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in state.device)[:40]
    return BoundedStreamingResponse(
        archive,
        media_type=ZIP,
        headers={
            "Content-Length": str(archive.size),
            "Content-Disposition": f'attachment; filename="edge-siamese-{name}.zip"',
        },
        on_end=archive.close,
        seconds=limits.DOWNLOAD_SECONDS + archive.size / limits.MIN_BYTES_PER_SECOND,
    )


@ENDPOINTS.add("POST", "/collection", accepts=ARCHIVE_TYPES)
async def import_collection(
    state: AppState,
    request: Request,
    on_conflict: Annotated[
        Literal["rename", "skip", "merge"], Meta(description="What to do when a name is taken.")
    ] = "rename",
) -> JsonObject:
    """Import the objects of an exported file."""
    loop = asyncio.get_running_loop()
    run = partial(loop.run_in_executor, state.pool)
    archive = await run(IncomingArchive, state.api.settings.state_directory)
    try:
        pending = bytearray()
        async for chunk in limits.body_chunks(request, MAX_UPLOAD_BYTES, limits.ARCHIVE_SECONDS):
            pending += chunk
            if len(pending) >= WRITE_BYTES:
                await run(archive.write, bytes(pending))
                pending.clear()
        await run(archive.write, bytes(pending))
        archive.close()
        if archive.size == 0:
            raise ApiError(422, "the file is empty", kind="StoreError")
        return await run(_import, state, archive.path, on_conflict)
    finally:
        archive.remove()


def _import(state: AppState, path: Path, on_conflict: Literal["rename", "skip", "merge"]) -> dict[str, Any]:
    try:
        return state.api.import_(path, on_conflict)
    except StoreError as error:
        if str(path) not in str(error):
            raise
        # The file is wrong, not the store.
        raise ApiError(422, str(error).replace(str(path), "the file"), kind="StoreError") from error
