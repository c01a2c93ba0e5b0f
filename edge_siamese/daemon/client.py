"""Client of the control socket: requests to the daemon, and the installation that a command acts on."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edge_siamese import errors
from edge_siamese.daemon.control_socket import MAX_REQUEST, encode_line
from edge_siamese.errors import ControlError, DaemonNotRunning, EdgeSiameseError, SettingsError
from edge_siamese.settings import Settings
from edge_siamese.settings_file import default_config, load_settings
from edge_siamese.validation import SchemaError, convert, parse_json

TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 3.0
NOT_RUNNING = "the daemon is not running"
"""Start of the message when there is certainly no daemon at the socket."""
SETTINGS_TIMEOUT_SECONDS = 5.0
"""Time limit for asking the daemon which settings it uses."""
LOAD_SECONDS, POLL_SECONDS = 60.0, 0.1
"""How long to wait for the daemon to load a model, and the pause between two status requests."""
MAX_REPLY = 32 * 1024 * 1024


def request(path: Path, command: str, *, timeout: float | None = TIMEOUT_SECONDS, **arguments: Any) -> Any:
    """Send a request and return its result; other lines are skipped.

    Args:
        path: the control socket.
        command: name of the command.
        timeout: seconds to wait for each line; None: no limit.
        arguments: arguments of the command, JSON values or records.

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
    try:
        message = encode_line({"command": command, **msgspec.to_builtins(arguments)}, "strict")
    except UnicodeEncodeError as error:
        word = error.object[error.start : error.end]
        raise ControlError(
            f"an argument contains {word!a}, which is not text in the locale's encoding"
        ) from None
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


@dataclass(frozen=True)
class Installation:
    """The files that a command acts on: those of the running daemon, or of the settings file if none is running."""

    settings: Settings
    file: Path | None
    """The settings file; None for the defaults."""
    unreachable: str = ""
    """Why the daemon does not answer; empty if it does."""
    difference: str = ""
    """Difference between the file and the settings that the daemon uses; empty if there is none."""

    @property
    def running(self) -> bool:
        """Whether the daemon answers."""
        return not self.unreachable


def find_installation(
    config: str | os.PathLike[str] | None = None, ask: Callable[..., Any] | None = None
) -> Installation:
    """Ask the daemon for its settings; without a daemon, read them from the file.

    Args:
        config: the settings file of the command line; None: the one in `EDGE_SIAMESE_CONFIG`, else the daemon's own.
        ask: replaces `request`, which sends a request to the daemon.

    Raises:
        SettingsError: the settings cannot be read, or the daemon at the socket of a file that was given uses other
            directories.
    """
    given = bool(config or os.environ.get("EDGE_SIAMESE_CONFIG"))
    file = Path(config) if config else default_config()
    read, unreadable = _read(file)
    socket = (read or Settings()).socket
    try:
        answer = (ask or request)(socket, "settings", timeout=SETTINGS_TIMEOUT_SECONDS)
        used = convert(answer["values"], Settings)
        origin, digest, problem = Path(answer["file"]), str(answer["digest"]), str(answer["problem"])
    except (EdgeSiameseError, SchemaError, LookupError, TypeError) as error:
        if read is None:
            raise unreadable from None
        expected = isinstance(error, EdgeSiameseError)
        return Installation(read, file, str(error) if expected else "the daemon runs another release")
    same_file = file is not None and file.absolute() == origin
    if read is None:
        if given and not same_file:
            raise unreadable
        return Installation(
            used, origin, difference=f"the daemon still uses its previous settings: {unreadable}"
        )
    if given and used.state_directory != read.state_directory:
        raise SettingsError(
            f"the daemon at {socket} uses {used.state_directory}, and {file} names {read.state_directory}: "
            f"pass its settings (--config {origin}), or restart it"
        )
    difference = ""
    if (given or same_file) and digest != read.digest:
        difference = problem or f"{file} has changed since the daemon read it: edge-siamese reload"
        if used.state_directory != read.state_directory:
            difference = f"{file} names other directories than the daemon uses: restart it"
    return Installation(used, origin if str(origin) != "." else None, difference=difference)


def find_socket(config: str | os.PathLike[str] | None = None) -> Path:
    """The control socket in the settings, even if they are invalid and the daemon uses earlier ones."""
    settings, _ = _read(Path(config) if config else default_config())
    return (settings or find_installation(config).settings).socket


def reload(socket: Path, timeout: float = LOAD_SECONDS) -> dict[str, Any]:
    """Make the daemon read settings and model again, and return its status once it has, or when the time is over.

    Raises:
        ControlError: the daemon does not answer.
    """
    request(socket, "reload")
    deadline = time.monotonic() + timeout
    while True:
        status: dict[str, Any] = request(socket, "status")
        if not status["loading"]["busy"] or time.monotonic() > deadline:
            return status
        time.sleep(POLL_SECONDS)


def _read(file: Path | None) -> tuple[Settings | None, SettingsError]:
    try:
        return load_settings(file), SettingsError()
    except SettingsError as error:
        return None, error


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
    """Return the daemon's error, of the same class if this release has it."""
    kind = getattr(errors, str(value.get("kind")), None)
    if not (isinstance(kind, type) and issubclass(kind, EdgeSiameseError)):
        kind = ControlError
    return kind(str(value.get("error")))
