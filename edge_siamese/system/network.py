"""Host names and addresses: those of this machine, and those in a Host header."""

from __future__ import annotations

import ipaddress
import socket

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_loopback(host: str) -> bool:
    """Whether a host name or address is only reachable from this machine."""
    name = host.strip().lower().removesuffix(".")
    address = address_of(name)
    return name == "localhost" if address is None else address.is_loopback


def address_of(text: str) -> Address | None:
    """Parse an IP address, without its zone; an IPv4-mapped IPv6 address becomes IPv4. None if it is not an address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def host_of(netloc: str) -> str:
    """The host of `host:port` in lower case, without brackets and trailing dot; empty if it is malformed."""
    text = netloc.strip().lower()
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        return name if bracket and (not port or (port[0] == ":" and port[1:].isdecimal())) else ""
    name, colon, port = text.partition(":")
    return name.removesuffix(".") if not colon or port.isdecimal() else ""


def device_name(configured: str) -> str:
    """The device's display name: the configured one, else the host name."""
    return configured or host_name() or "edge-siamese"


def host_name() -> str:
    """This machine's host name; empty if it has none."""
    return socket.gethostname()


def local_name(host: str) -> str:
    """The mDNS name of a host, such as `shelf.local`; empty if it has no name."""
    name = host.partition(".")[0]
    return f"{name}.local" if name else ""
