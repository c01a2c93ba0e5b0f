"""Client of the control socket: sends a request to the daemon, and yields progress, events and the result."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from edge_siamese import errors
from edge_siamese.daemon.control_socket import MAX_REQUEST, encode_line
from edge_siamese.errors import ControlError, DaemonNotRunning, EdgeSiameseError
from edge_siamese.validation import SchemaError, parse_json

TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 3.0
NOT_RUNNING = "the daemon is not running"
"""Start of the message when there is certainly no daemon at the socket."""
MAX_REPLY = 32 * 1024 * 1024


def request(path: Path, command: str, *, timeout: float | None = TIMEOUT_SECONDS, **arguments: Any) -> Any:
    """Send a request and return its result; other lines are skipped.

    Args:
        path: the control socket.
        command: name of the command.
        timeout: seconds to wait for each line; None: no limit.
        arguments: of the command, JSON values or records.

    Returns:
        The result, JSON values.

    Raises:
        DaemonNotRunning: the daemon does not answer.
        EdgeSiameseError: the daemon's error, of the same class as there.
    """
    for line in stream(path, command, timeout=timeout, **arguments):
        if "result" in line:
            return line["result"]
    return None


def stream(
    path: Path, command: str, *, timeout: float | None = TIMEOUT_SECONDS, **arguments: Any
) -> Iterator[dict[str, Any]]:
    """Send a request and yield its lines: objects with the key `progress`, `event` or `chunk`, then `{"result": ...}`.

    Closing the iterator closes the connection, which ends streams of events. Arguments and errors are those of `request`.
    """
    message = encode_line({"command": command, **msgspec.to_builtins(arguments)})
    if len(message) > MAX_REQUEST:
        raise ControlError(f"the request has {len(message)} bytes; the limit is {MAX_REQUEST}")
    with _connect(path) as connection:
        connection.settimeout(timeout)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # the reply may give the reason
                connection.sendall(message)
            for line in _lines(connection):
                value = _reply(line)
                if "ok" not in value:
                    yield value
                elif value["ok"] is True:
                    yield {"result": value.get("result")}
                    return
                else:
                    raise _error(value)
        except TimeoutError:
            raise DaemonNotRunning(
                f"the daemon does not answer at {path} (waited {timeout:g} s); "
                "check it: systemctl status edge-siamese"
            ) from None
        except OSError as error:
            if isinstance(error, EdgeSiameseError):
                raise
            raise DaemonNotRunning(
                f"the connection to the daemon broke: {error.strerror or error}"
            ) from error
    raise DaemonNotRunning(
        "the daemon stopped before it answered; see the log: journalctl -u edge-siamese -e"
    )


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_SECONDS)
    try:
        connection.connect(os.fspath(path))
        return connection
    except PermissionError:
        text = (
            f"permission denied at {path}: add yourself to the group, "
            "sudo usermod -aG edge-siamese $USER, and log in again"
        )
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        text = (
            f"{NOT_RUNNING} (nothing listens at {path}): "
            "sudo systemctl start edge-siamese, or edge-siamese run"
        )
    except (TimeoutError, BlockingIOError):
        text = f"the daemon does not answer at {path}; check it: systemctl status edge-siamese"
    except OSError as error:  # a path that is too long
        text = f"{path} cannot be reached: {error.strerror or error}"
    connection.close()
    raise DaemonNotRunning(text)


def _lines(connection: socket.socket) -> Iterator[bytes]:
    received = bytearray()
    searched = 0
    while True:
        while (end := received.find(b"\n", searched)) >= 0:
            yield bytes(received[:end])
            del received[: end + 1]
            searched = 0
        searched = len(received)
        if searched > MAX_REPLY:
            raise ControlError(f"the daemon's reply is longer than {MAX_REPLY} bytes")
        try:
            part = connection.recv(64 * 1024)
        except ConnectionResetError:
            return
        if not part:
            return
        received += part


def _reply(line: bytes) -> dict[str, Any]:
    try:
        value = parse_json(line)
    except SchemaError as error:
        raise ControlError(f"the reply is not from a daemon of this release: {error}") from None
    if not isinstance(value, dict):
        raise ControlError("the reply is not from a daemon of this release: it is not an object")
    return value


def _error(value: dict[str, Any]) -> EdgeSiameseError:
    """Return the daemon's error, of its class if this release knows it."""
    kind = getattr(errors, str(value.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, EdgeSiameseError)):
        kind = ControlError
    return kind(str(value.get("error")))
