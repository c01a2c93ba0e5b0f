"""Takes connections for the dashboard: so many at a time and so often, counted before anything is spent on them."""

from __future__ import annotations

import asyncio
import socket
import weakref
from typing import Any

from edge_siamese.dashboard.rates import Rates
from edge_siamese.loopback import is_loopback

MOST_CONNECTIONS, MOST_OF_ONE = 64, 32
"""Open at a time: together, and of one address that is not this machine's. One more is closed at once."""
PER_ADDRESS, TOGETHER = (10.0, 60.0), (30.0, 120.0)
"""New ones in a second, and how many more at first: browsers and programs keep theirs, and with TLS each one costs."""
HANDSHAKE_S = 5.0
"""For TLS to begin, and to end."""
AT_ONCE = 100
"""Connections that are turned away before anything else has its turn."""


class Gate(socket.socket):
    """A listening socket. What waits at it is asked for by the loop alone."""

    __slots__ = ("_open", "_rates")

    def __init__(self, listening: socket.socket) -> None:
        """In the place of another one, which is nothing any more."""
        super().__init__(listening.family, listening.type, listening.proto, listening.detach())
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._rates = Rates(PER_ADDRESS, TOGETHER)

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that may be; raises `BlockingIOError` if there is none."""
        for _ in range(AT_ONCE):
            connection, peer = super().accept()
            if self._may(connection):
                self._open.add(connection)
                return connection, peer
            connection.close()
        raise BlockingIOError

    def _may(self, connection: socket.socket) -> bool:
        others = [other for other in self._open if other.fileno() >= 0]
        if len(others) >= MOST_CONNECTIONS:
            return False
        address = _peer(connection)
        if is_loopback(address):
            return True
        return [_peer(other) for other in others].count(address) < MOST_OF_ONE and not self._rates.wait(
            address
        )


class Loop(asyncio.SelectorEventLoop):
    """One in which nobody can draw a handshake out: the server that runs in it sets no time for them."""

    async def create_server(self, *args: Any, ssl: Any = None, **options: Any) -> asyncio.Server:
        """As ever."""
        if ssl is not None:
            options |= {"ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": HANDSHAKE_S}
        return await super().create_server(*args, ssl=ssl, **options)


def _peer(connection: socket.socket) -> str:
    """Its address; empty if it has gone already."""
    try:
        return str(connection.getpeername()[0]).partition("%")[0]
    except OSError:
        return ""
