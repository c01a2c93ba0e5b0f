"""Resource limits for clients: connections, requests, login attempts, bodies and time.

This module has all limits in `docs/security.md` except uvicorn's own, which `server` sets: the size of a
request's head, the keep-alive time, the backlog and the number of concurrent requests.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from starlette.requests import ClientDisconnect, Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_siamese.dashboard.schemas import ApiError
from edge_siamese.system.network import is_loopback, parse_address

LOG = logging.getLogger(__name__)
T = TypeVar("T")


class Rate(NamedTuple):
    """A token bucket: tokens per second, and its capacity."""

    per_second: float
    burst: float


MAX_CONNECTIONS = 64
"""Open connections. One more is closed immediately."""
MAX_CONNECTIONS_PER_ADDRESS = 32
"""Open connections of one address, loopback excepted."""
CONNECTION_RATE, TOTAL_CONNECTION_RATE = Rate(10.0, 60.0), Rate(30.0, 120.0)
"""New connections of one address, and of all. Each costs a handshake with TLS."""
TLS_SECONDS = 5.0
"""Time limit of a TLS handshake, and of a TLS shutdown."""
ACCEPT_BATCH = 100
"""Connections that are accepted in one turn of the event loop."""
REFUSAL_PAUSE_SECONDS = 0.1
"""Pause of the accept loop after a refused connection, so that a flood leaves the processor to recognition."""
NO_RESOURCES_PAUSE_SECONDS = 1.0
"""Pause of the accept loop when the system is out of file descriptors or memory."""

HEAD_SECONDS = 15.0
"""Time limit of a request's head, counted from the connection or the previous response."""
STUCK_SECONDS = 20.0
"""A connection whose client reads nothing for this long is aborted."""
WATCH_SECONDS = 2.0
"""Interval at which connections are checked for the two limits above."""
SEND_SECONDS = 20.0
"""Time limit of sending one piece of a response."""

REQUEST_RATE, TOTAL_REQUEST_RATE = Rate(20.0, 100.0), Rate(60.0, 200.0)
"""Requests without a login of one address, and of all. The page has about thirty files."""

MAX_JSON_BYTES = 64 * 1024
CHUNK_SECONDS = 15.0
"""The longest pause within a request body."""
JSON_SECONDS, PICTURE_SECONDS, ARCHIVE_SECONDS = 15.0, 120.0, 3600.0
"""Time limits of a whole request body."""
DOWNLOAD_SECONDS, MIN_BYTES_PER_SECOND = 60.0, 100_000
"""Time limit of downloading an archive: this long, plus its size at this speed. Others wait for it."""

FREE_ATTEMPTS = 3
"""Wrong passwords of one address without a delay."""
MAX_DELAY_SECONDS = 300.0
"""The longest delay of one address; delays double from one second."""
ATTEMPT_SECONDS = 3600.0
"""A wrong password counts for this long."""
TOTAL_ATTEMPTS, TOTAL_ATTEMPTS_SECONDS, SLOW_ATTEMPT_SECONDS = 30, 60.0, 2.0
"""After this many wrong passwords of all addresses in this time, one attempt is allowed per interval."""
MAX_ADDRESSES = 1000
"""Number of addresses that are tracked; the least recently used one is dropped."""


def network_of(address: str) -> str:
    """Return the network that one client controls: an IPv4 address, or the /64 of an IPv6 address."""
    parsed = parse_address(address)
    if parsed is None:
        return address
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)


class RateLimiter:
    """Token buckets for each address and for all together. For one thread."""

    def __init__(self, each: Rate, total: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with full buckets.

        Args:
            each: rate of one address.
            total: rate of all addresses together.
            clock: returns seconds.
        """
        self._each, self._total_rate, self._clock = each, total, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Tokens and the time they were counted, by network, least recently used first."""
        self._total = total.burst, clock()

    def wait(self, address: str) -> float:
        """Take a token and return 0, or return the seconds until there is one.

        An empty address counts toward the total only.
        """
        now = self._clock()
        total = _refill(self._total_rate, self._total, now)
        key = network_of(address) if address else ""
        own = self._each.burst
        if key:
            own = _refill(self._each, self._buckets.get(key, (own, now)), now)
        if total < 1 or own < 1:
            return max((1 - total) / self._total_rate.per_second, (1 - own) / self._each.per_second)
        self._total = total - 1, now
        if key:
            self._buckets[key] = own - 1, now
            self._buckets.move_to_end(key)
            while len(self._buckets) > MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        return 0.0


def _refill(rate: Rate, bucket: tuple[float, float], now: float) -> float:
    tokens, counted_at = bucket
    return min(rate.burst, tokens + (now - counted_at) * rate.per_second)


class LoginAttempts:
    """Delays password guessing, for each address and for all together. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without failures. `clock` returns seconds."""
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._recent: deque[tuple[str, float]] = deque(maxlen=TOTAL_ATTEMPTS)
        self._lock = threading.Lock()

    def begin(self, address: str) -> float:
        """Begin an attempt and return 0, or return the seconds to wait.

        An attempt counts as a failure until `succeeded` is called.
        """
        key, now = network_of(address), self._clock()
        with self._lock:
            failures, last = self._failures.get(key, (0, now))
            if now - last > ATTEMPT_SECONDS:
                failures = 0
            if failures >= FREE_ATTEMPTS:
                # The exponent is bounded, since 2.0**1024 raises OverflowError.
                delay = min(2.0 ** min(failures - FREE_ATTEMPTS, 60), MAX_DELAY_SECONDS)
                if (wait := last + delay - now) > 0:
                    return wait
            flooded = (
                len(self._recent) == TOTAL_ATTEMPTS and now - self._recent[0][1] < TOTAL_ATTEMPTS_SECONDS
            )
            if flooded and (wait := self._recent[-1][1] + SLOW_ATTEMPT_SECONDS - now) > 0:
                return wait
            self._failures[key] = failures + 1, now
            self._failures.move_to_end(key)
            while len(self._failures) > MAX_ADDRESSES:
                self._failures.popitem(last=False)
            self._recent.append((key, now))
            return 0.0

    def succeeded(self, address: str) -> None:
        """Take back the attempt of this address: the password was right."""
        key = network_of(address)
        with self._lock:
            self._failures.pop(key, None)
            # Other addresses may have failed since this attempt began.
            for index in reversed(range(len(self._recent))):
                if self._recent[index][0] == key:
                    del self._recent[index]
                    break


class ConnectionLimiter:
    """Accepts connections of a listening socket within limits of number and rate.

    It replaces `asyncio.Server` and counts a connection before TLS or a protocol object costs anything. Belongs to
    the event loop's thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: Callable[[], asyncio.Protocol],
        listener: socket.socket,
        context: ssl.SSLContext | None = None,
        backlog: int = ACCEPT_BATCH,
    ) -> None:
        """Start to listen.

        Args:
            loop: the event loop of this thread.
            factory: makes the protocol of a connection.
            listener: a bound socket.
            context: TLS; None for plain TCP.
            backlog: connections that the kernel queues.
        """
        self._loop, self._factory, self._listener = loop, factory, listener
        self._tls: dict[str, Any] = {}
        if context is not None:
            self._tls = {
                "ssl": context,
                "ssl_handshake_timeout": TLS_SECONDS,
                "ssl_shutdown_timeout": TLS_SECONDS,
            }
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._starting: set[asyncio.Task[None]] = set()
        self._rates = RateLimiter(CONNECTION_RATE, TOTAL_CONNECTION_RATE)
        self._pause: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        listener.listen(backlog)
        loop.add_reader(listener, self._accept_batch)

    def close(self) -> None:
        """Accept no more connections. May be called twice."""
        self._loop.remove_reader(self._listener)
        if self._pause is not None:
            self._pause.cancel()

    async def wait_closed(self) -> None:
        """Return immediately; `asyncio.Server` has this method."""

    def _accept_batch(self) -> None:
        refused = False
        for _ in range(ACCEPT_BATCH):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:
                LOG.warning("cannot accept connections to the dashboard: %s", error.strerror)
                self._pause_for(NO_RESOURCES_PAUSE_SECONDS)
                return
            if self._is_allowed(connection):
                connection.setblocking(False)
                self._open.add(connection)
                task = self._loop.create_task(self._start(connection))
                self._starting.add(task)
                task.add_done_callback(self._starting.discard)
            else:
                connection.close()
                refused = True
        if refused:
            self._pause_for(REFUSAL_PAUSE_SECONDS)

    def _pause_for(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._pause = self._loop.call_later(
            seconds, self._loop.add_reader, self._listener, self._accept_batch
        )

    async def _start(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection, **self._tls)
        except OSError as error:  # includes TLS errors and timeouts
            LOG.debug("a connection to the dashboard failed to start: %s", error)
            connection.close()

    def _is_allowed(self, connection: socket.socket) -> bool:
        others = [other for other in self._open if other.fileno() >= 0]
        if len(others) >= MAX_CONNECTIONS:
            return False
        address = _peer(connection)
        if is_loopback(address):
            return True
        own = [_peer(other) for other in others].count(address)
        return own < MAX_CONNECTIONS_PER_ADDRESS and not self._rates.wait(address)


def _peer(connection: socket.socket) -> str:
    """Return the client's address; empty if it has disconnected."""
    try:
        return str(connection.getpeername()[0]).partition("%")[0]
    except OSError:
        return ""


class LimitedEventLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers accept connections through a `ConnectionLimiter`."""

    async def create_server(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        """Return a `ConnectionLimiter` on the socket `sock`."""
        return ConnectionLimiter(
            self, protocol_factory, options["sock"], options.get("ssl"), options.get("backlog", ACCEPT_BATCH)
        )


class LimitedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with time limits for slow and silent clients."""

    _idle_since = 0.0
    _stuck_since: float | None = None
    _unsent_bytes = 0
    _watch_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._watch_timer = self.loop.call_later(WATCH_SECONDS, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch_timer is not None:
            self._watch_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)

    def on_response_complete(self) -> None:
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def _watch(self) -> None:
        now, unsent = self.loop.time(), self.transport.get_write_buffer_size()
        if unsent == 0 or unsent < self._unsent_bytes:
            self._stuck_since = None
        if unsent and self._stuck_since is None:
            self._stuck_since = now
        self._unsent_bytes = unsent
        idle = self.cycle is None or self.cycle.response_complete
        stuck = self._stuck_since is not None and now - self._stuck_since > STUCK_SECONDS
        if stuck or (idle and now - self._idle_since > HEAD_SECONDS):
            self.transport.abort()
        else:
            self._watch_timer = self.loop.call_later(WATCH_SECONDS, self._watch)


async def body_chunks(request: Request, max_bytes: int, seconds: float) -> AsyncIterator[bytes]:
    """Iterate over a request body within limits of size and time.

    Raises:
        ApiError: 408 if it takes longer than `seconds` or pauses too long, 413 if it is larger than `max_bytes`.
        ClientDisconnect: the client has disconnected.
    """
    length = request.headers.get("content-length", "")
    if length.isascii() and length.isdecimal():
        _check_size(int(length[:18]), max_bytes)
    loop = asyncio.get_running_loop()
    end, size = loop.time() + seconds, 0
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(max(0.0, min(CHUNK_SECONDS, end - loop.time()))):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise ApiError(408, "the request body took too long", headers={"Connection": "close"}) from None
        if chunk is None:
            return
        size += len(chunk)
        _check_size(size, max_bytes)
        yield chunk


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """Read a request body within limits; raises the errors of `body_chunks`."""
    data = bytearray()
    async for chunk in body_chunks(request, max_bytes, seconds):
        data += chunk
    return bytes(data)


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ApiError(413, f"the request body is larger than {max_bytes:,} bytes")


async def unless_disconnected(work: Awaitable[T], receive: Callable[[], Awaitable[Any]]) -> T:
    """Await something, and cancel it when the client disconnects.

    Raises:
        ClientDisconnect: the client has disconnected.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnected(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
