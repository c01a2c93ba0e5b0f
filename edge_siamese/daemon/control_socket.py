"""The daemon's control socket: requests and replies as lines of JSON on a Unix stream socket.

A request is `{"command": "…", …}`. Its reply is `{"ok": true, "result": …}` or `{"ok": false, "error": "…", "kind":
"StoreError"}`; lines such as `{"progress": ...}` or `{"event": ...}` may precede it. Access is
controlled by the mode and the group of the socket.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge_siamese.errors import ClientGone, ControlError, EdgeSiameseError, describe_error
from edge_siamese.system.files import require_writable
from edge_siamese.validation import MAX_MESSAGE_VALUES, SchemaError, parse_json

WORKERS = 8
SMALL_REQUEST = 64 * 1024
MAX_REQUEST = 8 * 1024 * 1024
IDLE_SECONDS = 10.0
SEND_TIMEOUT_SECONDS = 5.0
CLOSE_SECONDS = 0.5
SOCKET_MODE = 0o660
MAX_PATH = 107
"""Maximum length of a socket path in bytes: `sun_path` without the terminating zero."""

MAX_LINES = 256
"""Lines that may wait for a slow client."""
HANGUP_CHECK_SECONDS = 1.0

LOG = logging.getLogger(__name__)


class ControlConnection:
    """A connection to a client, as handlers use it: `client.send({"progress": "3 of 5"})`.

    A separate thread writes, so a slow client blocks no other. A client with 256 unread lines is disconnected.
    """

    source = "command"

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
        """Whether the client is still connected; long-running handlers check this."""
        return not self._gone and not self._ending

    def send(self, line: dict[str, Any]) -> None:
        """Send a line before the reply; from any thread, without blocking.

        Raises:
            ClientGone: the client has disconnected.
        """
        encoded = encode_line(line)
        if not self.open:
            raise ClientGone("the client has disconnected")
        self._put(encoded, MAX_LINES)

    def reply(self, line: bytes) -> None:
        """Send the reply, and wait until it is sent.

        Raises:
            ClientGone: the client has disconnected.
        """
        self._put(line, MAX_LINES + 1)
        while not self.delivered(1.0):
            pass
        if self._gone:
            raise ClientGone("the client has disconnected")

    def delivered(self, timeout: float) -> bool:
        """Wait until all lines are sent or the client has disconnected; returns False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._gone or (not self._lines and not self._sending), timeout
            )

    def stop_reading(self) -> None:
        """Read no further request; handlers see that the connection is closing, and replies are still sent."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RD)

    def disconnect(self) -> None:
        """Disconnect immediately; may be called twice, from any thread."""
        self._set_gone()
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Disconnect and close the socket; only for the thread that reads from it."""
        self.disconnect()
        self._writer.join()  # a send fails immediately after the shutdown
        self._connection.close()

    def _put(self, line: bytes, limit: int) -> None:
        with self._changed:
            if len(self._lines) >= limit and not self._gone:
                LOG.warning("a client of the control socket is too slow; disconnecting it")
                self._gone = True
            if self._gone:
                raise ClientGone("the client has disconnected")
            self._lines.append(line)
            self._changed.notify_all()

    def _set_gone(self) -> None:
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _write(self) -> None:
        while True:
            with self._changed:
                self._sending = False
                self._changed.notify_all()
                while not self._lines and not self._gone:
                    if not self._changed.wait(HANGUP_CHECK_SECONDS) and _hung_up(self._connection):
                        self._set_gone()
                if self._gone:
                    return
                line = self._lines.popleft()
                self._sending = True
            try:
                self._connection.sendall(line)
            except OSError as error:
                LOG.debug("a client accepts no data: %s", error)
                self._set_gone()
                return


Handler = Callable[[dict[str, Any], ControlConnection], Any]
"""Handles a request of a client; returns the result as JSON values."""


class ControlServer:
    """Serves the control socket; each connection has its own thread.

    with ControlServer(settings.socket, handler):
        ...
    """

    def __init__(
        self,
        path: Path,
        handler: Handler,
        *,
        workers: int = WORKERS,
        max_request: int = MAX_REQUEST,
        idle_s: float = IDLE_SECONDS,
        send_timeout_s: float = SEND_TIMEOUT_SECONDS,
    ) -> None:
        """Configure the server; `start` opens the socket.

        Args:
            path: the socket; its directory is created if needed.
            handler: called on the connections' threads, several at a time.
            workers: maximum number of connections; further ones are refused with a message.
            max_request: maximum bytes of a request. Requests above 64 KiB, which contain pictures, are read one at a time.
            idle_s: a connection without a complete request for this time is closed.
            send_timeout_s: a client that accepts no data for this time is disconnected.
        """
        self.path = path
        self._handler = handler
        self._workers = workers
        self._max_request = max_request
        self._idle_s = idle_s
        self._send_timeout_s = send_timeout_s
        self._listener: socket.socket | None = None
        self._lock = -1
        self._closing = threading.Event()
        self._changing = threading.Lock()
        self._clients: dict[ControlConnection, threading.Thread] = {}
        self._large = threading.Lock()

    def __enter__(self) -> ControlServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start to listen.

        Raises:
            ControlError: another daemon is running, or the socket cannot be created.
        """
        _check_path(self.path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._take_lock()
            self._listener = self._listen()
        except OSError as error:
            self._release()
            raise _not_created(self.path, error) from error
        except ControlError:
            self._release()
            raise
        threading.Thread(target=self._accept, args=(self._listener,), name="control", daemon=True).start()

    def close(self) -> None:
        """Stop listening, send replies that are ready, and close all connections, within half a second."""
        deadline = time.monotonic() + CLOSE_SECONDS
        self._closing.set()
        if self._listener is not None:
            with suppress(FileNotFoundError):
                self.path.unlink()
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            self._listener.close()
            self._listener = None
        with self._changing:
            clients = dict(self._clients)
        for client in clients:
            client.stop_reading()
        for thread in clients.values():  # handlers that notice in time still reply
            thread.join(max(0.0, deadline - CLOSE_SECONDS / 2 - time.monotonic()))
        for client in clients:
            client.disconnect()
        for thread in clients.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        self._release()

    @property
    def _new_path(self) -> Path:
        return _temporary(self.path)

    def _take_lock(self) -> None:
        """Lock the path for this daemon; the kernel releases the lock when the process ends."""
        self._lock = os.open(self.path.with_name(f"{self.path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(self._lock, 20, 0).decode("ascii", "replace").strip()
            raise ControlError(f"another daemon is running: pid {pid or 'unknown'} at {self.path}") from None
        _check_free(self.path)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)

    def _listen(self) -> socket.socket:
        """Create the listening socket. Once it has its mode, it is renamed into place, which replaces a stale socket."""
        self._new_path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(str(self._new_path))
            os.chmod(self._new_path, SOCKET_MODE)
            listener.listen(16)
            os.rename(self._new_path, self.path)
        except BaseException:
            listener.close()
            self._new_path.unlink(missing_ok=True)
            raise
        return listener

    def _release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if not self._closing.is_set():
                    LOG.error("cannot accept a connection: %s", error.strerror or error)
                    self._closing.wait(0.2)  # for example, out of file descriptors
                continue
            self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        pid, uid, _ = _credentials(connection)
        with self._changing:
            if self._closing.is_set():
                connection.close()
                return
            if len(self._clients) >= self._workers:
                LOG.debug("refused pid %d of uid %d: %d connections are open", pid, uid, self._workers)
                _refuse(connection, f"the daemon serves {self._workers} connections already: try again")
                return
            LOG.debug("connection of pid %d, uid %d", pid, uid)
            client = ControlConnection(connection, self._send_timeout_s)
            thread = threading.Thread(
                target=self._serve, args=(connection, client), name=f"control-{pid}", daemon=True
            )
            self._clients[client] = thread
            thread.start()

    def _serve(self, connection: socket.socket, client: ControlConnection) -> None:
        received = bytearray()
        try:
            while client.open:
                line, large = self._receive(connection, received)
                if line is None:
                    break
                try:
                    self._answer(line, client)
                finally:
                    if large:
                        self._large.release()
        except ControlError as error:
            if not isinstance(error, ClientGone):
                with suppress(ClientGone):
                    client.reply(_failure(error))
        except OSError as error:
            LOG.debug("a connection broke: %s", error)
        finally:
            client.close()
            with self._changing:
                del self._clients[client]

    def _receive(self, connection: socket.socket, received: bytearray) -> tuple[bytes | None, bool]:
        """Return the next line, None at the end, and whether the lock of large requests is held.

        Raises:
            ControlError: the line is too long or took too long.
        """
        deadline = time.monotonic() + self._idle_s
        large, searched = False, 0
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        try:
            while (end := received.find(b"\n", searched)) < 0:
                searched = len(received)
                if searched > self._max_request:
                    raise ControlError(f"the request is longer than {self._max_request} bytes")
                if searched > SMALL_REQUEST and not large:
                    large = self._large.acquire(timeout=max(0.0, deadline - time.monotonic()))
                    if not large:
                        raise ControlError("the daemon is busy with another picture: try again")
                    deadline = time.monotonic() + self._idle_s
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    if received:
                        raise ControlError(f"no complete request arrived within {self._idle_s:g} s")
                    return None, False
                part = connection.recv(256 * 1024 if large else SMALL_REQUEST + 1 - searched)
                if not part:
                    if received:
                        raise ControlError("the request has no end of line")
                    return None, False
                received += part
            if end > self._max_request:
                raise ControlError(f"the request is longer than {self._max_request} bytes")
            line, result_large = bytes(received[:end]), large
            del received[: end + 1]
            large = False  # the caller releases the lock
            return line, result_large
        finally:
            if large:
                self._large.release()

    def _answer(self, line: bytes, client: ControlConnection) -> None:
        """Reply to a request.

        Raises:
            ClientGone: the client has disconnected.
            ControlError: the line is not a request.
        """
        request = _request(line)
        command = request["command"]
        try:
            reply = encode_line({"ok": True, "result": self._handler(request, client)})
        except ClientGone:
            raise
        except EdgeSiameseError as error:
            LOG.info("%s: %s", command, error)
            reply = _failure(error)
        except Exception as error:
            LOG.exception("%s failed", command)
            reply = _failure(error)
        client.reply(reply)


def check_socket(path: Path) -> None:
    """Raise the `ControlError` with which `ControlServer.start` would fail; changes nothing."""
    _check_path(path)
    try:
        require_writable(path.parent)
    except OSError as error:
        raise _not_created(path, error) from error
    _check_free(path)


def _check_path(path: Path) -> None:
    if len(os.fsencode(_temporary(path))) > MAX_PATH:
        raise ControlError(
            f"{path}: the path of a socket may have {MAX_PATH - len('.new')} bytes at most: set [paths] runtime"
        )


def _check_free(path: Path) -> None:
    if path.exists() and not path.is_socket():
        raise ControlError(f"{path} exists and is not a socket")
    if listening := _listening(path):
        raise ControlError(f"another daemon is running: {listening} at {path}")


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def _not_created(path: Path, error: OSError) -> ControlError:
    return ControlError(f"{path}: the socket cannot be created: {error.strerror or error}")


def _request(line: bytes) -> dict[str, Any]:
    try:
        value = parse_json(line, max_values=MAX_MESSAGE_VALUES)
    except SchemaError as error:
        raise ControlError(f"invalid request: {error}") from None
    if not isinstance(value, dict) or not isinstance(value.get("command"), str):
        raise ControlError('a request must be an object with a "command"')
    return value


def _failure(error: Exception) -> bytes:
    name = type(error).__name__
    return encode_line({"ok": False, "error": describe_error(error), "kind": name})


def _refuse(connection: socket.socket, text: str) -> None:
    with connection, suppress(OSError):
        connection.setblocking(False)
        connection.send(_failure(ControlError(text)))


def _credentials(connection: socket.socket) -> tuple[int, int, int]:
    """Return process, user and group of the client."""
    size = struct.calcsize("3i")
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid, gid


def _listening(path: Path) -> str | None:
    """Return which process listens on a socket, such as `pid 123`; None for a missing or stale socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except (TimeoutError, BlockingIOError):  # it listens but is busy
            return "pid unknown"
        return f"pid {_credentials(probe)[0]}"


def encode_line(value: dict[str, Any], errors: str = "replace") -> bytes:
    """Encode a line of JSON; lone surrogates, which file names may contain, become question marks by default.

    Raises:
        TypeError, ValueError: the value is not JSON.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", errors) + b"\n"


def _hung_up(connection: socket.socket) -> bool:
    """Return whether the client has closed its socket, rather than only its sending side."""
    poll = select.poll()
    try:
        poll.register(connection, 0)
        return any(state & (select.POLLHUP | select.POLLERR) for _, state in poll.poll(0))
    except (OSError, ValueError):  # closed here
        return True
