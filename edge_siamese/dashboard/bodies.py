"""Reads what a request brings, never more than it may bring, and not for longer than that takes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

from edge_siamese.daemon.archive_files import MAX_UPLOADED
from edge_siamese.dashboard.exchange import JSON, Head, Problem
from edge_siamese.dashboard.operations import PICTURE_TYPES, SMALL_BODY, Body, Operation
from edge_siamese.dashboard.routes.archive import Incoming
from edge_siamese.dashboard.schemas import read_body
from edge_siamese.dashboard.state import AppState
from edge_siamese.validation import SchemaError, parse_json

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

TIMES_SECONDS: dict[Body, float] = {"none": 0.0, "json": 15.0, "picture": 120.0, "collection": 3600.0}
"""How long a body may take."""
PIECE_SECONDS = 15.0
"""How long it may pause."""
AT_A_TIME = 2
"""Pictures that are read at a time; others wait."""
BATCH = 1 << 20
DRAINED, DRAINING_SECONDS = 32 << 20, 3.0
"""What is read and thrown away, so that a client that is still sending hears why it was for nothing."""
TYPES: dict[Body, tuple[str, ...]] = {
    "json": (JSON,),
    "picture": PICTURE_TYPES,
    "collection": ("application/zip", "application/octet-stream", "application/x-zip-compressed"),
}


class Tap:
    """Where a request's body comes from; remembers whether it has come to its end."""

    def __init__(self, receive: Receive) -> None:
        """Nothing has come yet."""
        self._receive = receive
        self.dry = False

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self.dry = self.dry or not message.get("more_body")
        return message


class Bodies:
    """For one event loop."""

    def __init__(self, site: AppState) -> None:
        """Nothing is read yet."""
        self._site = site
        self._pictures = asyncio.Semaphore(AT_A_TIME)

    @asynccontextmanager
    async def read(self, operation: Operation, head: Head, receive: Receive) -> AsyncIterator[Any]:
        """The body of a request, as its operation wants it; a collection's file is there as long as this lasts.

        Raises:
            Problem: 400, 408, 413, 415 or 422.
        """
        kind = operation.body
        if kind == "none":
            yield None
            return
        self._check_head(kind, head)
        if kind == "json":
            yield _parsed(await self._whole(kind, SMALL_BODY, receive), operation)
        elif kind == "picture":
            async with self._pictures:
                data = await self._whole(kind, self._site.settings.max_upload_bytes, receive)
                if not data:
                    raise Problem(422, "there is no picture")
                yield data
        else:
            loop, state = asyncio.get_running_loop(), self._site.actions.settings.state_directory
            incoming = await loop.run_in_executor(self._site.pool, Incoming, state)
            try:
                waiting = bytearray()
                async for piece in _pieces(TIMES_SECONDS[kind], receive):
                    waiting += piece
                    if len(waiting) >= BATCH:
                        await loop.run_in_executor(self._site.pool, incoming.write, bytes(waiting))
                        waiting.clear()
                await loop.run_in_executor(self._site.pool, incoming.write, bytes(waiting))
                yield incoming.end()
            finally:
                incoming.remove()

    async def drained(self, head: Head, tap: Tap) -> bool:
        """Read away the rest of a body; False if there may be more of it."""
        length = head.header("content-length")
        if tap.dry or (not head.header("transfer-encoding") and length in ("", "0")):
            return True
        if head.header("expect") or (length.isdecimal() and int(length[:12]) > DRAINED):
            return False
        size = 0
        try:
            async with asyncio.timeout(DRAINING_SECONDS):
                while size < DRAINED and not tap.dry:
                    size += len((await tap()).get("body", b""))
        except TimeoutError:
            pass
        return tap.dry

    def _check_head(self, kind: Body, head: Head) -> None:
        given = head.header("content-type").partition(";")[0].strip().lower()
        if given not in TYPES[kind]:
            raise Problem(415, f"the body has to be {' or '.join(TYPES[kind])}, not {given or 'of no type'}")
        length = head.header("content-length")
        if length.isascii() and length.isdecimal():
            _check_size(int(length[:18]), self._most(kind))

    def _most(self, kind: Body) -> int:
        if kind == "collection":
            return MAX_UPLOADED
        return SMALL_BODY if kind == "json" else self._site.settings.max_upload_bytes

    async def _whole(self, kind: Body, most: int, receive: Receive) -> bytes:
        data = bytearray()
        async for piece in _pieces(TIMES_SECONDS[kind], receive):
            _check_size(len(data) + len(piece), most)
            data += piece
        return bytes(data)


async def _pieces(seconds: float, receive: Receive) -> AsyncIterator[bytes]:
    """A body as it comes; raises `Problem` with 408 if it takes too long."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while True:
        try:
            async with asyncio.timeout(max(0.0, min(PIECE_SECONDS, end - loop.time()))):
                message = await receive()
        except TimeoutError:
            raise Problem(408, "the body took too long", headers={"Connection": "close"}) from None
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError("the client has gone")
        yield message.get("body", b"")
        if not message.get("more_body"):
            return


def _parsed(data: bytes, operation: Operation) -> Any:
    try:
        value = parse_json(data.decode("utf-8"))
    except (SchemaError, UnicodeDecodeError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from error
    if operation.shape is None:
        return value
    try:
        return read_body(value, operation.shape)
    except SchemaError as error:
        raise Problem(422, str(error)) from error


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise Problem(413, f"the body has more than {most:,} bytes")
