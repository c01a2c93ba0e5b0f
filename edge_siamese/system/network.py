"""Which names and addresses are this machine alone, and what the header Host names."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a name or address."""
    name = host.strip().lower().removesuffix(".")
    found = address_of(name)
    return name == "localhost" if found is None else found.is_loopback


def address_of(text: str) -> Address | None:
    """An address without its zone, and of version 4 also where it is written as one of version 6; None if it is none."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return mapped or found


def host_of(netloc: str) -> str:
    """The name in `name:port`, in lower case, without brackets and the last dot; empty if it is none."""
    text = netloc.strip().lower()
    if text.startswith("["):
        name, bracket, port = text[1:].partition("]")
        return name if bracket and (not port or (port[0] == ":" and port[1:].isdecimal())) else ""
    name, colon, port = text.partition(":")
    return name.removesuffix(".") if not colon or port.isdecimal() else ""
