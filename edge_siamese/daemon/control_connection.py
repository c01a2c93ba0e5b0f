"""One client's side of the control socket, as a handler sees it: lines that never make it wait."""

from __future__ import annotations

import json
import logging
import select
import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from edge_siamese.errors import ControlError

MAX_LINES = 256
HANGUP_CHECK_SECONDS = 1.0

LOG = logging.getLogger(__name__)


class ClientGone(ControlError):
    """The client has closed the connection, or takes nothing, or the daemon ends."""


class ControlConnection:
    """Called with a line, it sends it: `tell({"progress": "3 of 5"})`.

    A thread of its own writes, so that a slow reader delays nobody; a reader that lets 256 lines wait is left.
    """

    def __init__(self, connection: socket.socket, send_timeout_s: float) -> None:
        self._connection = connection
        seconds, rest = divmod(send_timeout_s, 1)
        timeout = struct.pack("ll", int(seconds), int(rest * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._sending = False
        self._gone = False
        self._ending = False
        self._writer = threading.Thread(target=self._write, name="control-writer", daemon=True)
        self._writer.start()

    @property
    def open(self) -> bool:
        """Whether the client is there still; a handler that goes on for long looks now and then."""
        return not self._gone and not self._ending

    def __call__(self, line: dict[str, Any]) -> None:
        """Send a line before the reply; from any thread, without waiting.

        Raises:
            ClientGone: nobody listens any more.
        """
        encoded = line_of(line)
        if not self.open:
            raise ClientGone("the client has gone")
        self._put(encoded, MAX_LINES)

    def reply(self, line: bytes) -> None:
        """Send the last line of a request, and wait until it is sent.

        Raises:
            ClientGone: nobody listens any more.
        """
        self._put(line, MAX_LINES + 1)
        while not self.delivered(1.0):
            pass
        if self._gone:
            raise ClientGone("the client has gone")

    def delivered(self, timeout: float) -> bool:
        """Wait until all lines are sent, or cannot be; False if they are not in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._gone or (not self._lines and not self._sending), timeout
            )

    def stop_reading(self) -> None:
        """The daemon ends: what is ready is sent, and handlers see that the conversation is over."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RD)

    def leave(self) -> None:
        """End it at once; may be called twice, from any thread."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Leave, and give the socket back; only for the thread that reads from it."""
        self.leave()
        self._writer.join()  # a send fails at once after the shutdown
        self._connection.close()

    def _put(self, line: bytes, most: int) -> None:
        with self._changed:
            if len(self._lines) >= most and not self._gone:
                LOG.warning("a client of the control socket is too slow, and is left")
                self._gone = True
            if self._gone:
                raise ClientGone("the client has gone")
            self._lines.append(line)
            self._changed.notify_all()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._sending = False
                self._changed.notify_all()
                while not self._lines and not self._gone:
                    if not self._changed.wait(HANGUP_CHECK_SECONDS) and _hung_up(self._connection):
                        self._gone = True
                        self._changed.notify_all()
                if self._gone:
                    return
                line = self._lines.popleft()
                self._sending = True
            try:
                self._connection.sendall(line)
            except OSError as error:
                LOG.debug("a client takes nothing: %s", error)
                with self._changed:
                    self._gone = True
                    self._changed.notify_all()
                return


def line_of(value: dict[str, Any]) -> bytes:
    """A line of JSON; half characters, which file names may hold, become question marks.

    Raises:
        TypeError, ValueError: the value is not of JSON.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def _hung_up(connection: socket.socket) -> bool:
    """Whether the other end is closed, and not just done with its requests."""
    poll = select.poll()
    try:
        poll.register(connection, 0)
        return any(state & (select.POLLHUP | select.POLLERR) for _, state in poll.poll(0))
    except (OSError, ValueError):  # closed here
        return True
