"""A small web server for what answers at once: few threads, and no client that is slow holds one for long."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from edge_siamese.errors import ControlError
from edge_siamese.system.network import host_of, is_loopback

LOG = logging.getLogger(__name__)

MAX_REQUESTS = 4
"""At a time; others are turned away."""
REQUEST_SECONDS = 10.0
"""For a request and its answer, all in all."""
KEPT_SECONDS = 1.0
"""An answer is one of now for so long; Prometheus asks less often."""
MAX_KEPT = 8
"""Different answers within that time; of which metrics one wants to know is part of what is asked."""
OPEN_METRICS = "application/openmetrics-text"
POLL_SECONDS = 0.25
"""How often it is looked whether a request takes too long."""

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application."""


class Server:
    """Serves an application on an address of its own thread, until it is closed."""

    def __init__(
        self,
        app: App,
        listen: str,
        port: int,
        *,
        requests: int = MAX_REQUESTS,
        request_s: float = REQUEST_SECONDS,
    ) -> None:
        """Listen.

        Args:
            app: answers; called from several threads.
            listen: an address of this machine.
            port: 0 for any that is free.
            requests: how many are answered at a time.
            request_s: seconds for each.

        Raises:
            ControlError: the address is none of this machine, or the port is taken.
        """
        try:
            family, *_, address = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM)[0]
            self._server = _server_of(family)((str(address[0]), port), requests, request_s)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ControlError(f"cannot listen at {listen}, port {port}: {reason}") from error
        self._server.set_app(app)
        self.port: int = self._server.server_address[1]
        """Where it listens."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Stop listening; at most about so many seconds."""
        ending = threading.Thread(target=self._server.shutdown, daemon=True)
        ending.start()
        self._thread.join(timeout)
        self._server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 8

    def __init__(self, address: tuple[str, int], requests: int, request_s: float) -> None:
        self._free = threading.BoundedSemaphore(requests)
        self._request_s = request_s
        self._open: dict[socket.socket, float] = {}
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # The parent asks a name server what this machine is called, which may take long and is of no use here.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._open[request] = time.monotonic() + self._request_s
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.pop(request, None)
            self._free.release()

    def service_actions(self) -> None:
        # A time for each reading and writing alone would let a client go on for ever, byte by byte.
        now = time.monotonic()
        for request, until in list(self._open.items()):
            if now > until:
                with contextlib.suppress(OSError):  # it has just ended
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOG.debug("a request broke off", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


def _server_of(family: int) -> type[_Server]:
    return _Server6 if family == socket.AF_INET6 else _Server


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        """A request each few seconds is no news."""


def only(app: App, path: str, listen: str) -> App:
    """An application that is asked for this path alone; of a loopback address also under its own names alone.

    A page from elsewhere that a browser on this machine shows may have its name point here (DNS rebinding): it comes
    with that name as its host.
    """
    loopback = is_loopback(listen)

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if loopback and not is_loopback(host_of(environ.get("HTTP_HOST", ""))):
            return _refused(start_response, "403 Forbidden", "ask for it as 127.0.0.1 or localhost")
        if environ.get("PATH_INFO") != path:
            return _refused(start_response, "404 Not Found", f"there is only {path}")
        return app(environ, start_response)

    return checked


class Remembered:
    """An application whose answer is kept for a moment, and made by one thread at a time.

    To make one takes time of the interpreter and of the engine, and on a network anybody may ask for it.
    """

    def __init__(
        self, app: App, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Nothing is kept yet; `clock` counts seconds."""
        self._app, self._clock = app, clock
        self._seconds = KEPT_SECONDS if seconds is None else seconds
        self._making = threading.Lock()
        self._kept: dict[tuple[bool, bool, str], _Kept] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """As WSGI has it."""
        if environ.get("REQUEST_METHOD", "GET") != "GET":
            return _refused(start_response, "405 Method Not Allowed", "this can only be read: GET")
        kind = (
            OPEN_METRICS in environ.get("HTTP_ACCEPT", ""),
            "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""),
            environ.get("QUERY_STRING", ""),
        )
        with self._making:
            oldest = self._clock() - self._seconds
            self._kept = {of: kept for of, kept in self._kept.items() if kept.made > oldest}
            if kind not in self._kept:
                if len(self._kept) >= MAX_KEPT:
                    return _refused(start_response, "503 Service Unavailable", "ask less often")
                self._kept[kind] = self._make(environ, *kind)
            kept = self._kept[kind]
        start_response(kept.status, list(kept.headers))
        return [kept.body]

    def _make(self, environ: dict[str, Any], open_metrics: bool, packed: bool, query: str) -> _Kept:
        told: list[tuple[str, list[tuple[str, str]]]] = []
        asked = {
            **environ,
            "HTTP_ACCEPT": f"{OPEN_METRICS}; version=1.0.0" if open_metrics else "text/plain",
            "HTTP_ACCEPT_ENCODING": "gzip" if packed else "identity",
        }
        body = b"".join(self._app(asked, lambda status, headers, *_: told.append((status, headers))))
        return _Kept(self._clock(), *told[-1], body)


@dataclass(frozen=True)
class _Kept:
    made: float
    status: str
    headers: list[tuple[str, str]]
    body: bytes


def _refused(start_response: Callable[..., Any], status: str, text: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]
