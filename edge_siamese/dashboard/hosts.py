"""Under which names the dashboard answers: a page of another name, that leads here by its DNS, gets nothing."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterable

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
REFRESH_S = 60.0
"""Addresses of a machine change."""


def is_loopback(listen: str) -> bool:
    """Whether what is served at this address can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(listen).is_loopback
    except ValueError:
        return listen.rstrip(".").lower() == "localhost"


def host_of(netloc: str) -> str:
    """The name in `name:port`, in lower case, without brackets and the last dot; empty if it is none."""
    text = netloc.strip().lower()
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        return name if bracket and (not port or (port[0] == ":" and port[1:].isdecimal())) else ""
    name, colon, port = text.partition(":")
    return name.rstrip(".") if not colon or port.isdecimal() else ""


def own_addresses() -> set[str]:
    """The addresses of this machine, as far as they can be learned without asking anybody."""
    found: set[str] = set()
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))  # sends nothing: it only asks the kernel which way it would go
                found.add(str(probe.getsockname()[0]))
        except OSError:
            pass
    return found


class Hosts:
    """The names that are allowed in the header Host."""

    def __init__(
        self,
        listen: str,
        extra: Iterable[str] = (),
        *,
        addresses: Callable[[], set[str]] = own_addresses,
        hostname: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look at this machine.

        Args:
            listen: the address that is listened at.
            extra: more names, with or without a port.
            addresses: finds this machine's.
            hostname: this machine's.
            clock: says when to look for addresses again.
        """
        self._names = {host_of(name) for name in extra} - {""}
        self._local = is_loopback(listen)
        self._addresses, self._clock, self._looked = addresses, clock, -REFRESH_S
        self._found: set[str] = set()
        if self._local:
            self._names |= {*LOOPBACK_NAMES, host_of(listen)}
            return
        name = (socket.gethostname() if hostname is None else hostname).lower()
        self._names |= {*LOOPBACK_NAMES, name, f"{name.partition('.')[0]}.local"} - {"", ".local"}
        if listen not in ("0.0.0.0", "::"):
            self._names.add(listen.lower())

    def allow(self, netloc: str) -> bool:
        """Whether a request that names this host is meant for this page."""
        name = host_of(netloc)
        if not name:
            return False
        if name in self._names:
            return True
        if self._local:
            return False
        if self._clock() - self._looked >= REFRESH_S:
            self._found, self._looked = self._addresses(), self._clock()
        return name in self._found
