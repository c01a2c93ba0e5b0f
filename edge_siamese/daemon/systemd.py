"""Notifications to systemd (sd_notify): ready, watchdog, status, stopping. Without systemd they do nothing."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from edge_siamese.errors import printable

SEND_TIMEOUT_SECONDS = 1.0
MAX_STATUS = 300
"""Characters of a status line."""
SLOW_SECONDS = 900.0
"""Time limit of a repair, an import or an export, with thousands of objects on a slow card."""

LOG = logging.getLogger(__name__)


class Notifier:
    """Sends datagrams to the socket in `NOTIFY_SOCKET`. No method raises or blocks for long."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Read the address from the environment, by default that of the process; nothing is sent yet."""
        environment = os.environ if environment is None else environment
        self._address = _address(environment.get("NOTIFY_SOCKET", ""))
        self.watchdog_s = _watchdog_s(environment)
        """Seconds within which systemd expects the next `watchdog()`; None if it expects none."""
        self._socket: socket.socket | None = None
        self._lost = False

    def ready(self, status: str = "") -> None:
        """Report that startup is finished."""
        self._send("READY=1", *_status(status))

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(*_status(text))

    def watchdog(self) -> None:
        """Report that the daemon is working."""
        self._send("WATCHDOG=1")

    def watchdog_within(self, seconds: float | None) -> None:
        """Set the watchdog's interval, and reset it. None changes nothing."""
        if self.watchdog_s is not None and seconds is not None:
            self._send("WATCHDOG=1", f"WATCHDOG_USEC={round(seconds * 1e6)}")

    @contextmanager
    def slow(self) -> Iterator[None]:
        """Let the watchdog wait for the body of the `with` statement, which may take minutes."""
        self.watchdog_within(SLOW_SECONDS)
        try:
            yield
        finally:
            self.watchdog_within(self.watchdog_s)

    def stopping(self, status: str = "") -> None:
        """Report that the daemon is stopping."""
        self._send("STOPPING=1", *_status(status))

    def extend_timeout(self, seconds: float) -> None:
        """Request more time to start or stop, in seconds from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}")

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.settimeout(SEND_TIMEOUT_SECONDS)
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError as error:
            self.close()
            if not self._lost:
                LOG.warning("systemd cannot be notified: %s", error.strerror or error)
            self._lost = True
        else:
            self._lost = False


def _address(name: str) -> bytes | None:
    """Parse `NOTIFY_SOCKET`: a path, or an abstract name after an @."""
    if name.startswith("/"):
        return os.fsencode(name)
    if name.startswith("@"):
        return b"\0" + os.fsencode(name[1:])
    if name:
        LOG.warning("NOTIFY_SOCKET=%s is neither a path nor an abstract name; systemd is not notified", name)
    return None


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    # The variables may belong to another process, such as the parent.
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    text = environment.get("WATCHDOG_USEC", "")
    return int(text) / 1e6 if text.isdecimal() and int(text) else None


def _status(text: str) -> tuple[str, ...]:
    line = printable(" ".join(text.split()))
    return (f"STATUS={line[:MAX_STATUS]}",) if line else ()
