"""The dashboard's Starlette application: routes, middleware, exception handlers, and the page's files."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping
from functools import cache
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.endpoints import HTTPEndpoint
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from edge_siamese.dashboard import limits
from edge_siamese.dashboard.auth import client_address
from edge_siamese.dashboard.endpoints import JSON, Endpoint, Endpoints, describe, error_response
from edge_siamese.dashboard.routes import (
    archive,
    auth,
    commands,
    events,
    health,
    objects,
    recognition,
    registration,
)
from edge_siamese.dashboard.schemas import ApiError, JsonObject, api_error, to_json
from edge_siamese.dashboard.state import AppState
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.system.network import is_loopback

LOG = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every response. Strict-Transport-Security is not among them: it would apply to all ports of this host for a
year, including other services, such as a Home Assistant without TLS."""

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

META = Endpoints("session")


@META.add("GET", "/openapi.json", public=True, returns=JsonObject)
def openapi(state: AppState) -> Response:
    """The OpenAPI description of this API."""
    server = state.settings.url if state.settings.public else ""
    return Response(openapi_json(state.device, state.authenticator.cookie_name, server), media_type=JSON)


@cache
def openapi_json(device: str, cookie: str, server: str = "") -> bytes:
    """Return the OpenAPI document, cached: it takes a while to build, and unauthenticated clients may request it."""
    return to_json(describe(ENDPOINTS, device, cookie, server))


ENDPOINTS: tuple[Endpoint, ...] = (
    *auth.ENDPOINTS,
    *META,
    *commands.ENDPOINTS,
    *recognition.ENDPOINTS,
    *events.ENDPOINTS,
    *objects.ENDPOINTS,
    *registration.ENDPOINTS,
    *archive.ENDPOINTS,
    *health.ENDPOINTS,
)


def make_app(state: AppState) -> Starlette:
    """Return the dashboard as an ASGI application."""
    by_path: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        by_path.setdefault(endpoint.full_path, {})[endpoint.method.lower()] = endpoint.handle
    app = Starlette(
        routes=[
            *(
                Route(path, type("PathEndpoint", (HTTPEndpoint,), methods))
                for path, methods in by_path.items()
            ),
            *(Route(path, serve_file, methods=["GET"]) for path in ("/", "/static/{name}")),
        ],
        middleware=[Middleware(ProtectionMiddleware, state=state)],
        exception_handlers={
            EdgeSiameseError: handle_error,
            HTTPException: handle_http_exception,
            Exception: handle_unexpected,
        },
    )
    app.router.redirect_slashes = False
    app.state.dashboard = state
    app.state.last_failure = ""
    return app


@cache
def page_files() -> dict[str, tuple[Response, Response]]:
    """Return the page's files by name: each as a response with its contents, and as 304.

    They are kept in memory, because unauthenticated clients may request them: Starlette's `StaticFiles` would open the file
    in a worker thread for every request.
    """
    files = {}
    for path in sorted(STATIC.iterdir()):
        if path.suffix in MEDIA_TYPES and path.is_file():
            content = path.read_bytes()
            headers = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
                "Cache-Control": "no-cache",
            }
            response = Response(content, media_type=MEDIA_TYPES[path.suffix], headers=headers)
            files[path.name] = response, Response(status_code=304, headers=headers)
    return files


async def serve_file(request: Request) -> Response:
    """Serve a file of the page."""
    try:
        response, not_modified = page_files()[request.path_params.get("name", "index.html")]
    except KeyError:
        raise HTTPException(404) from None
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    return not_modified if response.headers["etag"] in known else response


class ProtectionMiddleware:
    """Limits requests without a login, checks the Host header, and adds the security headers."""

    def __init__(self, app: Any, state: AppState) -> None:
        """Wrap an ASGI application."""
        self._app, self._state = app, state
        self._prefix = state.settings.public.path if state.settings.public else ""
        self._rates = limits.RateLimiter(limits.REQUEST_RATE, limits.TOTAL_REQUEST_RATE)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve a request. A client that disconnects, or takes too long to read, ends it."""
        if scope["type"] != "http":
            return

        async def bounded_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                protect_headers(MutableHeaders(scope=message))
            try:
                # Not wait_for, which can lose a cancellation before Python 3.12.
                async with asyncio.timeout(limits.SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        scope = self._without_prefix(scope)
        try:
            try:
                self._check(Request(scope, receive))
            except ApiError as error:
                await error_response(error)(scope, receive, bounded_send)
            else:
                if self._prefix and scope["path"] == self._prefix:  # relative URLs need the slash
                    redirect = Response(status_code=308, headers={"Location": f"{self._prefix}/"})
                    await redirect(scope, receive, bounded_send)
                else:
                    await self._app(scope, receive, bounded_send)
        except (ClientDisconnect, ConnectionError):
            return  # the response is incomplete, so uvicorn closes the connection

    def _without_prefix(self, scope: Message) -> Message:
        """Return the scope without the path of the public URL, which some proxies remove and others do not."""
        path = scope["path"]
        if not self._prefix or not path.startswith(f"{self._prefix}/"):
            return scope
        return {**scope, "path": path.removeprefix(self._prefix), "root_path": ""}

    def _check(self, request: Request) -> None:
        if "content-length" in request.headers and "transfer-encoding" in request.headers:
            # A proxy and this server might disagree about where the request ends.
            raise ApiError(
                400,
                "a request must not have both Content-Length and Transfer-Encoding",
                headers={"Connection": "close"},
            )
        self._limit_rate(request)
        self._state.authenticator.check_host(request)
        if self._state.notifier.closed:
            raise ApiError(503, "the daemon is stopping", headers={"Connection": "close"})

    def _limit_rate(self, request: Request) -> None:
        """Limit requests without a login: they take interpreter time that recognition needs."""
        address = client_address(request)
        if is_loopback(address):
            if not self._state.settings.is_behind_proxy:
                return
            address = ""  # a proxy, whoever is behind it
        try:
            if self._state.authenticator.identify(request).authenticated:
                return
        except ApiError:
            pass
        if wait := self._rates.wait(address):
            headers = {"Retry-After": str(max(1, math.ceil(wait))), "Connection": "close"}
            raise ApiError(429, "too many requests; log in, or send fewer", headers=headers)


def protect_headers(headers: MutableHeaders) -> None:
    """Add the common headers to a response; unless it has its own Cache-Control, it is not cached."""
    headers.setdefault("Cache-Control", "no-store")
    headers.update(SECURITY_HEADERS)


async def handle_error(request: Request, error: Exception) -> Response:
    """Respond to an error that the daemon or a handler raised on purpose."""
    assert isinstance(error, EdgeSiameseError)
    return error_response(api_error(error))


async def handle_http_exception(request: Request, error: Exception) -> Response:
    """Respond to an error of the router."""
    assert isinstance(error, HTTPException)
    messages = {404: "there is nothing at this URL", 405: "this method is not available here"}
    message = messages.get(error.status_code, "the request failed")
    return error_response(ApiError(error.status_code, message, headers=error.headers))


async def handle_unexpected(request: Request, error: Exception) -> Response:
    """Respond to a bug. It is logged once, however often it is triggered; the client gets no details."""
    text = f"the dashboard failed: {type(error).__name__}: {error}"
    state = request.app.state
    if text != state.last_failure and not state.dashboard.notifier.closed:
        LOG.error("%s", text, exc_info=error)
    state.last_failure = text
    response = error_response(ApiError(500, "the dashboard failed; see the journal"))
    protect_headers(response.headers)  # this response does not pass the middleware
    return response
