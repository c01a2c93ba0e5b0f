"""A small HTTP server with few threads and a time limit for each request, so that slow clients do not block it."""

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
from edge_siamese.system.network import is_loopback, parse_host, port_user

LOG = logging.getLogger(__name__)

MAX_REQUESTS = 4
"""Concurrent requests; others are closed."""
REQUEST_SECONDS = 10.0
"""Limit for a request and its response together."""
CACHE_SECONDS = 1.0
"""Time for which a response is reused; Prometheus scrapes less often."""
MAX_CACHED = 8
"""Different responses within that time: a query may select metrics by name."""
OPEN_METRICS = "application/openmetrics-text"
POLL_SECONDS = 0.25
"""Interval at which requests that exceed their limit are closed."""

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
"""A WSGI application."""


class Server:
    """Serves an application in its own thread, until it is closed."""

    def __init__(
        self,
        app: App,
        listen: str,
        port: int,
        *,
        requests: int = MAX_REQUESTS,
        request_s: float = REQUEST_SECONDS,
    ) -> None:
        """Start listening.

        Args:
            app: called from several threads.
            listen: an address of this machine.
            port: 0 for any free port.
            requests: number of concurrent requests.
            request_s: limit for each request, in seconds.

        Raises:
            ControlError: the address does not belong to this machine, or the port is in use.
        """
        try:
            family, *_, address = socket.getaddrinfo(listen, port, type=socket.SOCK_STREAM)[0]
            server = _Server6 if family == socket.AF_INET6 else _Server
            self._server = server((str(address[0]), port), requests, request_s)
        except OSError as error:
            reason = error.strerror or str(error)
            user = port_user(error, port)
            hint = f"; {user} uses it: set another port in [metrics]" if user else ""
            raise ControlError(f"cannot listen at {listen}, port {port}: {reason}{hint}") from error
        self._server.set_app(app)
        self.port: int = self._server.server_address[1]
        """The port that it listens on."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_SECONDS,), name="metrics", daemon=True
        )
        self._thread.start()

    def close(self, timeout: float) -> None:
        """Stop listening, within about `timeout` seconds."""
        threading.Thread(target=self._server.shutdown, daemon=True).start()
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
        # The parent class looks up the host name in DNS, which may take a long time and is not needed.
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
        # A limit for each read and write alone would let a client continue forever, byte by byte.
        now = time.monotonic()
        for request, deadline in list(self._open.items()):
            if now > deadline:
                with contextlib.suppress(OSError):  # it has just finished
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        LOG.debug("a request was aborted", exc_info=True)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a request every few seconds is normal."""


def restrict(app: App, path: str, listen: str) -> App:
    """Restrict an application to one path and, on a loopback address, to the host names of loopback.

    A foreign page in a browser on this machine may resolve its own name to this address (DNS rebinding). Its requests
    have that name in the Host header.
    """
    loopback = is_loopback(listen)

    def checked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if loopback and not is_loopback(parse_host(environ.get("HTTP_HOST", ""))):
            return error_response(start_response, "403 Forbidden", "use the host name 127.0.0.1 or localhost")
        if environ.get("PATH_INFO") != path:
            return error_response(start_response, "404 Not Found", f"the only path is {path}")
        return app(environ, start_response)

    return checked


class ResponseCache:
    """Caches an application's response briefly; one thread at a time computes it.

    A response costs interpreter and engine time, and anyone on the network may request it.
    """

    def __init__(
        self, app: App, seconds: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Wrap an application; `clock` returns seconds."""
        self._app, self._clock = app, clock
        self._seconds = CACHE_SECONDS if seconds is None else seconds
        self._lock = threading.Lock()
        self._cache: dict[tuple[bool, bool, str], _Response] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """See PEP 3333."""
        if environ.get("REQUEST_METHOD", "GET") != "GET":
            return error_response(start_response, "405 Method Not Allowed", "only GET is allowed")
        key = (
            OPEN_METRICS in environ.get("HTTP_ACCEPT", ""),
            "gzip" in environ.get("HTTP_ACCEPT_ENCODING", ""),
            environ.get("QUERY_STRING", ""),
        )
        with self._lock:
            oldest = self._clock() - self._seconds
            self._cache = {key: response for key, response in self._cache.items() if response.time > oldest}
            if key not in self._cache:
                if len(self._cache) >= MAX_CACHED:
                    return error_response(
                        start_response, "503 Service Unavailable", "too many different queries"
                    )
                self._cache[key] = self._compute(environ, *key)
            response = self._cache[key]
        start_response(response.status, list(response.headers))
        return [response.body]

    def _compute(self, environ: dict[str, Any], open_metrics: bool, gzip: bool, query: str) -> _Response:
        started: list[tuple[str, list[tuple[str, str]]]] = []
        environ = {
            **environ,
            "HTTP_ACCEPT": f"{OPEN_METRICS}; version=1.0.0" if open_metrics else "text/plain",
            "HTTP_ACCEPT_ENCODING": "gzip" if gzip else "identity",
        }
        body = b"".join(self._app(environ, lambda status, headers, *_: started.append((status, headers))))
        return _Response(self._clock(), *started[-1], body)


@dataclass(frozen=True)
class _Response:
    time: float
    status: str
    headers: list[tuple[str, str]]
    body: bytes


def error_response(start_response: Callable[..., Any], status: str, text: str) -> list[bytes]:
    """Respond with a line of plain text."""
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]
