"""What this machine is called: by people, and in its network."""

from __future__ import annotations

import socket


def device_name(given: str) -> str:
    """What people call it: the name in the settings, else its host name."""
    return given or host_name() or "edge-siamese"


def host_name() -> str:
    """What its network calls it; empty if it has no name."""
    return socket.gethostname()


def local_name(host: str) -> str:
    """What a host is called by mDNS, as `shelf.local`; empty if it has no name."""
    name = host.partition(".")[0]
    return f"{name}.local" if name else ""
