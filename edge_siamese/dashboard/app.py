"""Puts the table of operations behind a web framework: routes, bounded bodies, headers, streams, and the page's files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import shutil
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs

from edge_siamese.dashboard.auth import SECURITY_HEADERS, Entry
from edge_siamese.dashboard.bodies import Bodies, Tap
from edge_siamese.dashboard.exchange import Call, Head, Problem, Reply
from edge_siamese.dashboard.operations import Operation, table
from edge_siamese.dashboard.rate_limits import Rates
from edge_siamese.dashboard.schemas import read_parameters
from edge_siamese.dashboard.state import STATIC, AppState, problem
from edge_siamese.dashboard.static_files import page_files
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.system.network import is_loopback
from edge_siamese.validation import SchemaError

LOG = logging.getLogger(__name__)
T = TypeVar("T")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PIECE = 256 * 1024
"""Bytes of a file that are sent at a time."""
SEND_SECONDS = 20.0
"""A client that takes nothing for so long has gone."""
FILE_SECONDS, SLOWEST = 60.0, 100_000
"""For a file, all in all: so long, and a second for so many bytes; others wait for it."""
PER_ADDRESS, TOGETHER = (20.0, 100.0), (60.0, 200.0)
"""Requests in a second of who is not logged in, and how many more at first: the page has some thirty files."""


class ClientSlow(Exception):
    """A client does not take what it asked for; its connection ends."""


def make_app(site: AppState) -> App:
    """The dashboard as an ASGI application."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    bodies = Bodies(site)
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in table():
        by_path.setdefault(operation.full_path, {})[operation.method] = operation
    files = page_files(STATIC)

    async def page(request: Request) -> Response:
        found = files.get(request.path_params.get("name", "index.html"))
        if found is None:
            raise HTTPException(404)
        headers = {"ETag": found.tag}
        if found.is_known(request.headers.get("if-none-match", "")):
            return Response(status_code=304, headers=headers)
        return Response(found.data, headers=headers, media_type=found.type)

    async def missing(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        text = {404: "there is nothing at this address", 405: "that cannot be done here"}.get(status, "no")
        reply = Problem(status, text).reply()
        headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
        return Response(reply.body(), status, {"Cache-Control": "no-store", **headers}, reply.type)

    async def failed(request: Request, error: Exception) -> Response:
        reply = Problem(500, "the dashboard failed; the journal says why").reply()
        return Response(reply.body(), reply.status, {"Cache-Control": "no-store"}, reply.type)

    routes = [Route(path, _Endpoint(site, bodies, operations)) for path, operations in by_path.items()]
    app = Starlette(
        routes=[*routes, *(Route(path, page, methods=["GET"]) for path in ("/", "/static/{name}"))],
        exception_handlers={HTTPException: missing, Exception: failed},
    )
    app.router.redirect_slashes = False
    return _Shell(site, app)


class _Shell:
    """Around all: how often strangers may ask, the host, the headers of every answer, and errors nobody foresaw."""

    def __init__(self, site: AppState, inner: App) -> None:
        self._site, self._inner = site, inner
        self._failed = ""
        self._rates = Rates(PER_ADDRESS, TOGETHER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        started = False

        async def guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": _with_security(message.get("headers", ()))}
            try:
                # Not wait_for, which before Python 3.12 now and then loses that a task is cancelled.
                async with asyncio.timeout(SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                raise ClientSlow from None

        try:
            head = head_of(scope)
            self._see_how_often(head)
            self._site.guard.check_host(head)
            if self._site.pulse.closed:
                raise Problem(503, "the daemon is stopping", headers={"Connection": "close"})
            await self._inner(scope, receive, guarded)
        except Problem as found:
            await send_reply(found.reply(), guarded)
        except (ClientSlow, ConnectionError):
            return  # what has begun is not complete, so the server ends the connection
        except Exception as error:
            text = f"the dashboard failed: {type(error).__name__}: {error}"
            if text != self._failed and not self._site.pulse.closed:  # once, however often it is asked for
                LOG.exception("%s", text)
            self._failed = text
            if not started:
                await send_reply(Problem(500, "the dashboard failed; the journal says why").reply(), guarded)

    def _see_how_often(self, head: Head) -> None:
        """Of those who are not logged in: their requests take time of the interpreter, which recognition needs."""
        guard, address = self._site.guard, head.address
        if is_loopback(address):
            if not self._site.settings.allowed_hosts:
                return
            address = ""  # of a proxy: whoever is behind it
        with contextlib.suppress(Problem):
            if guard.entry(head).inside:
                return
        if wait := self._rates.wait(address):
            seconds = max(1, math.ceil(wait))
            headers = {"Retry-After": str(seconds), "Connection": "close"}
            raise Problem(429, "too many requests; log in, or ask less often", headers=headers)


class _Endpoint:
    """One path, with an operation for each method."""

    def __init__(self, site: AppState, bodies: Bodies, operations: dict[str, Operation]) -> None:
        self._site, self._bodies, self._operations = site, bodies, operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head, tap = head_of(scope), Tap(receive)
        try:
            await self._answer(head, scope, tap, send)
        except Problem as found:
            reply = found.reply()
            if found.status == 408 or not await self._bodies.drained(head, tap):
                reply.headers["Connection"] = "close"
            await send_reply(reply, send)

    async def _answer(self, head: Head, scope: Scope, receive: Receive, send: Send) -> None:
        operation = self._operations.get("GET" if head.method == "HEAD" else head.method)
        if operation is None or (head.method == "HEAD" and operation.waiter):
            allowed = ", ".join(sorted(self._operations))
            raise Problem(405, f"here one can {allowed}", headers={"Allow": allowed})
        guard = self._site.guard
        guard.check_place(head)
        entry = Entry("nobody") if operation.public else guard.check(head)
        path, query = _parameters(operation, scope)
        async with self._bodies.read(operation, head, receive) as body:
            call = Call(head, path, query, body, entry)
            await self._carry_out(operation, call, receive, send)

    async def _carry_out(self, operation: Operation, call: Call, receive: Receive, send: Send) -> None:
        site = self._site
        try:
            if operation.waiter is not None:
                found = await unless_gone(operation.waiter(site, call), receive)
                if found is None:
                    return
            else:
                assert operation.handler is not None
                loop = asyncio.get_running_loop()
                pool = site.porter if operation.public else site.pool
                found = await loop.run_in_executor(pool, operation.handler, site, call)
        except EdgeSiameseError as error:
            raise (error if isinstance(error, Problem) else problem(error)) from error
        if found.stream is None:
            await send_reply(found, send)
        else:
            await _send_stream(found, receive, send)


async def unless_gone(work: Awaitable[T], receive: Receive) -> T | None:
    """What is awaited; None, and it is cancelled, if the client goes meanwhile."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        for task in (working, gone):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_reply(reply: Reply, send: Send) -> None:
    """Send an answer that is there."""
    headers = {"Cache-Control": "no-store", **reply.headers}
    if reply.file is not None:
        await _send_file(reply, reply.file, headers, send)
        return
    body = reply.body()
    if body:
        headers["Content-Type"] = reply.type
    if reply.status != 204:
        headers["Content-Length"] = str(len(body))
    await send({"type": "http.response.start", "status": reply.status, "headers": _raw(headers)})
    await send({"type": "http.response.body", "body": body})


async def _send_file(reply: Reply, path: Path, headers: dict[str, str], send: Send) -> None:
    """Send a file, and remove it with its folder."""
    loop = asyncio.get_running_loop()
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            headers |= {"Content-Type": reply.type, "Content-Length": str(size)}
            async with asyncio.timeout(FILE_SECONDS + size / SLOWEST):
                await send({"type": "http.response.start", "status": reply.status, "headers": _raw(headers)})
                while piece := await loop.run_in_executor(None, file.read, PIECE):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
    except TimeoutError:
        raise ClientSlow from None
    finally:
        shutil.rmtree(path.parent, ignore_errors=True)
        reply.ended()


async def _send_stream(reply: Reply, receive: Receive, send: Send) -> None:
    """Send what comes, until it ends or the client goes."""
    stream = reply.stream
    assert stream is not None
    headers = {
        "Content-Type": reply.type,
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",
        **reply.headers,
    }

    async def pass_on() -> bool:
        await send({"type": "http.response.start", "status": reply.status, "headers": _raw(headers)})
        async for piece in stream:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return True

    try:
        await unless_gone(pass_on(), receive)
    finally:
        await stream.aclose()


def head_of(scope: Scope) -> Head:
    """The head of a request."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = (
            f"{headers[name]}{'; ' if name == 'cookie' else ', '}{value}" if name in headers else value
        )
    client, server = scope.get("client"), scope.get("server")
    return Head(
        scope["method"],
        scope["path"],
        headers,
        client[0] if client else "",
        scope.get("scheme") == "https",
        server[0] if server else "",
    )


def _parameters(operation: Operation, scope: Scope) -> tuple[Any, Any]:
    """Those in the path, and those behind the question mark."""
    path: Any = None
    query: Any = None
    if operation.parameters is not None:
        try:
            path = read_parameters({k: [v] for k, v in scope["path_params"].items()}, operation.parameters)
        except SchemaError as error:
            raise Problem(404, f"there is nothing at this address: {error}") from error
    if operation.query is not None:
        try:
            text = scope["query_string"].decode("ascii")
            given = parse_qs(text, keep_blank_values=True, max_num_fields=20, errors="strict")
            query = read_parameters(given, operation.query)
        except ValueError as error:  # also what is no UTF-8, and a `SchemaError`
            raise Problem(422, f"the parameters cannot be read: {error}") from error
    return path, query


def _with_security(headers: Any) -> list[tuple[bytes, bytes]]:
    """An answer's headers, with those of every answer; files are asked for again, and then mostly have not changed."""
    found = list(headers)
    if not any(name.lower() == b"cache-control" for name, _ in found):
        found.append((b"cache-control", b"no-cache"))
    return found + _raw(SECURITY_HEADERS)


def _raw(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
