"""Handlers that export all objects to an archive, and import one."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse

from edge_siamese.daemon.archive_files import INCOMING, MAX_UPLOADED, MAX_UPLOADS, OUTGOING, transit
from edge_siamese.dashboard import limits
from edge_siamese.dashboard.endpoints import Endpoints
from edge_siamese.dashboard.schemas import ApiError, JsonObject
from edge_siamese.dashboard.state import AppState
from edge_siamese.errors import ControlError, StoreError
from edge_siamese.system.disk import RESERVE

ENDPOINTS = Endpoints("collection")

ZIP = "application/zip"
ARCHIVE_TYPES = (ZIP, "application/octet-stream", "application/x-zip-compressed")
WRITE_BYTES = 1 << 20
"""An upload is written in pieces of at least this size."""
DISK_FULL = "the disk is nearly full: make room first"


class IncomingArchive:
    """An uploaded archive: a file that is removed with the request."""

    def __init__(self, state_directory: Path) -> None:
        """Create an empty file.

        Raises:
            ApiError: 503 if the disk is nearly full or cannot be written, or too many archives arrive at a time.
        """
        try:
            folder = transit(state_directory, INCOMING)
        except ControlError as error:
            raise ApiError(503, str(error)) from error
        if len(list(folder.iterdir())) >= MAX_UPLOADS:
            raise ApiError(503, f"{MAX_UPLOADS} archives are being imported already; try again later")
        handle, name = tempfile.mkstemp(".zip", "page-", folder)
        self.path = Path(name)
        self.size = 0
        self._file = os.fdopen(handle, "wb")

    def write(self, data: bytes) -> None:
        """Append data; raises `ApiError` with 503 if the disk is nearly full."""
        try:
            if shutil.disk_usage(self.path.parent).free - len(data) < RESERVE:
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


class ArchiveResponse(FileResponse):
    """Sends a file once, in bounded time, and removes it with its directory."""

    def __init__(self, path: Path, filename: str, on_sent: Callable[[], object]) -> None:
        """Prepare the response. `on_sent` is called when the file has been removed."""
        super().__init__(path, media_type=ZIP, filename=filename)
        self._directory, self._on_sent = path.parent, on_sent
        self._seconds = limits.DOWNLOAD_SECONDS + path.stat().st_size / limits.MIN_BYTES_PER_SECOND

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Send the file; raises `ClientDisconnect` if the client is too slow."""
        try:
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            raise ClientDisconnect from None
        finally:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._on_sent()


@ENDPOINTS.add("GET", "/collection", media_type=ZIP, headers={"Content-Disposition": "A name for the file."})
def export_collection(state: AppState) -> FileResponse:
    """Export all objects to one file."""
    # One at a time, since each is a copy of everything that is stored.
    if not state.exporting.acquire(blocking=False):
        message = "an export is running already; try again when it is finished"
        raise ApiError(503, message, headers={"Retry-After": "10"})
    try:
        name = "".join(c if c.isascii() and c.isalnum() else "-" for c in state.device)[:40]
        return ArchiveResponse(_export(state), f"edge-siamese-{name}.zip", state.exporting.release)
    except BaseException:
        state.exporting.release()
        raise


def _export(state: AppState) -> Path:
    """Write all objects to a file in a directory of its own."""
    settings = state.actions.settings
    try:
        folder = transit(settings.state_directory, OUTGOING)
        if shutil.disk_usage(folder).free - settings.store.stat().st_size < RESERVE:
            raise ApiError(503, DISK_FULL)
        directory = Path(tempfile.mkdtemp(dir=folder))
    except ControlError as error:
        raise ApiError(503, str(error)) from error
    except OSError as error:
        raise ApiError(503, f"cannot write to the disk: {error.strerror}") from error
    path = directory / "objects.zip"
    try:
        state.actions.export(path)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return path


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
    archive = await run(IncomingArchive, state.actions.settings.state_directory)
    try:
        pending = bytearray()
        async for chunk in limits.body_chunks(request, MAX_UPLOADED, limits.ARCHIVE_SECONDS):
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
        return state.actions.import_(path, on_conflict)
    except StoreError as error:
        if str(path) not in str(error):
            raise
        # The file is wrong, not the store.
        raise ApiError(422, str(error).replace(str(path), "the file"), kind="StoreError") from error
