"""Takes connections for the dashboard: so many at a time and so often, counted before anything is spent on them."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import weakref
from collections.abc import Callable
from typing import Any

from edge_siamese.dashboard.rate_limits import Rates
from edge_siamese.system.network import is_loopback

LOG = logging.getLogger(__name__)

MAX_CONNECTIONS, MAX_OF_ONE = 64, 32
"""Open at a time: together, and of one address that is not this machine's. One more is closed at once."""
PER_ADDRESS, TOGETHER = (10.0, 60.0), (30.0, 120.0)
"""New ones in a second, and how many more at first: browsers and programs keep theirs, and with TLS each one costs."""
HANDSHAKE_SECONDS = 5.0
"""For TLS to begin, and to end."""
AT_ONCE, PAUSE_SECONDS = 100, 0.1
"""After one was turned away, none is looked at for a while: to turn thousands away takes time that recognition needs."""
NO_MORE_SECONDS = 1.0
"""The same where the system has no room for one more."""


class ConnectionLimiter:
    """Takes what comes to a listening socket; all of it on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: Callable[[], asyncio.Protocol],
        listening: socket.socket,
        context: ssl.SSLContext | None = None,
        backlog: int = AT_ONCE,
    ) -> None:
        """Listen.

        Args:
            loop: of this thread.
            factory: makes what speaks with one connection.
            listening: a socket that has its address.
            context: of TLS.
            backlog: how many may wait.
        """
        self._loop, self._factory, self._listening = loop, factory, listening
        self._options: dict[str, Any] = {}
        if context is not None:
            times = {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": HANDSHAKE_SECONDS}
            self._options = {"ssl": context, **times}
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._beginning: set[asyncio.Task[None]] = set()
        self._rates = Rates(PER_ADDRESS, TOGETHER)
        self._pause: asyncio.TimerHandle | None = None
        listening.setblocking(False)
        listening.listen(backlog)
        loop.add_reader(listening, self._come)

    def close(self) -> None:
        """Take no more of them; may be called twice."""
        self._loop.remove_reader(self._listening)
        if self._pause is not None:
            self._pause.cancel()

    async def wait_closed(self) -> None:
        """As a server of asyncio has it."""

    def _come(self) -> None:
        refused = False
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break
            except OSError as error:
                LOG.warning("the dashboard takes no connection just now: %s", error.strerror)
                self._wait(NO_MORE_SECONDS)
                return
            if self._may(connection):
                connection.setblocking(False)
                self._open.add(connection)
                task = self._loop.create_task(self._begin(connection))
                self._beginning.add(task)
                task.add_done_callback(self._beginning.discard)
            else:
                connection.close()
                refused = True
        if refused:
            self._wait(PAUSE_SECONDS)

    def _wait(self, seconds: float) -> None:
        self._loop.remove_reader(self._listening)
        self._pause = self._loop.call_later(seconds, self._loop.add_reader, self._listening, self._come)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection, **self._options)
        except OSError as error:  # also what TLS says, and that it took too long
            LOG.debug("a connection did not begin: %s", error)
            connection.close()

    def _may(self, connection: socket.socket) -> bool:
        others = [other for other in self._open if other.fileno() >= 0]
        if len(others) >= MAX_CONNECTIONS:
            return False
        address = _peer(connection)
        if is_loopback(address):
            return True
        return [_peer(other) for other in others].count(address) < MAX_OF_ONE and not self._rates.wait(
            address
        )


class Loop(asyncio.SelectorEventLoop):
    """One in which the web server's connections come through the gate; it has no such bounds of its own."""

    async def create_server(self, protocol_factory: Any, *args: Any, **options: Any) -> Any:
        """A `Gate`, which ends as a server does."""
        return ConnectionLimiter(
            self, protocol_factory, options["sock"], options.get("ssl"), options.get("backlog", AT_ONCE)
        )


def _peer(connection: socket.socket) -> str:
    """Its address; empty if it has gone already."""
    try:
        return str(connection.getpeername()[0]).partition("%")[0]
    except OSError:
        return ""
