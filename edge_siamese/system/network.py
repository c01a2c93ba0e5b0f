"""Host names and addresses: those of this machine, of a broker, and in a Host header."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from edge_siamese.system.processes import process_using

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_loopback(host: str) -> bool:
    """Whether a host name or address is only reachable from this machine."""
    name = host.strip().lower().removesuffix(".")
    address = parse_address(name)
    return name == "localhost" if address is None else address.is_loopback


def parse_address(text: str) -> Address | None:
    """Parse an IP address, without its zone; an IPv4-mapped IPv6 address becomes IPv4. None if it is not an address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def parse_host(netloc: str) -> str:
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


BROKER_SCHEMES = {"mqtt": False, "tcp": False, "mqtts": True, "ssl": True}
"""Schemes of a broker's URL, and whether they mean TLS."""
PATH_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/-._~")
"""Allowed in the path of a public URL: no encoding is needed, and a cookie's attribute can contain them."""


@dataclass(frozen=True)
class BrokerAddress:
    """Address of an MQTT broker, and the credentials."""

    host: str
    port: int = 0
    """0: the default port."""
    tls: bool | None = None
    """None: not stated."""
    username: str = ""
    password: str = ""

    @property
    def netloc(self) -> str:
        """Host and port, without user name and password."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_broker(text: str) -> BrokerAddress:
    """Parse a broker: a host, `host:port`, or a URL such as `mqtts://user:password@host:port`.

    Raises:
        ValueError: with a message that contains no password.
    """
    scheme, rest = _split_scheme(text.strip())
    if not scheme and parse_address(rest) is not None:
        return BrokerAddress(rest)
    if not rest.isprintable() or set(rest) & set(' \\"<>^`{|}'):
        raise ValueError("contains a character that a URL cannot have; write it as %XX")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        port, host, parts = 0, "", urlsplit("")
    if port == 0:
        raise ValueError("the port must be a number from 1 to 65535, as in mqtt://broker.local:1883")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("nothing may follow the port, as in mqtt://broker.local:1883")
    if not host:
        raise ValueError("the host name is missing, as in mqtt://broker.local:1883")
    if parts.password and not parts.username:
        raise ValueError("a password needs a user name: mqtt://USER:PASSWORD@HOST")
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    return BrokerAddress(host, port or 0, BROKER_SCHEMES.get(scheme), username, password)


def without_password(broker: str) -> str:
    """The broker of the settings without the password that its URL may contain."""
    account, at, host = broker.rpartition("@")
    scheme, separator, user = account.rpartition("://")
    return f"{scheme}{separator}{user.partition(':')[0]}{at}{host}"


def _split_scheme(text: str) -> tuple[str, str]:
    """Return the scheme of a broker's URL, empty if there is none, and the rest."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        return "", text
    scheme = scheme.lower()
    if scheme in ("ws", "wss"):
        raise ValueError("MQTT over WebSockets is not supported; use the broker's TCP port: mqtt://HOST:1883")
    if scheme not in BROKER_SCHEMES:
        raise ValueError("must be a host name, an address, or a URL that begins with mqtt:// or mqtts://")
    return scheme, rest


@dataclass(frozen=True)
class PublicUrl:
    """The URL under which a reverse proxy serves a page."""

    scheme: str
    """`http` or `https`."""
    host: str
    """Host without brackets and port."""
    netloc: str
    """Host and port, as a browser sends them: without the scheme's default port."""
    path: str
    """Path without a slash at its end; empty at the root."""

    @property
    def origin(self) -> str:
        """The value of the header Origin."""
        return f"{self.scheme}://{self.netloc}"


def parse_public_url(text: str) -> PublicUrl | None:
    """Parse a URL such as `https://home.example:8443/shelf`; None if it is empty. Raises `ValueError`."""
    example = "such as https://home.example/shelf"
    if not text:
        return None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ValueError(f"must be a URL with a valid port, {example}") from None
    host = parts.hostname or ""
    if parts.scheme not in ("http", "https") or not host or not text.isascii() or not text.isprintable():
        raise ValueError(f"must be a URL that begins with http:// or https://, {example}")
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ValueError(f"must have only scheme, host, port and path, {example}")
    path = parts.path.rstrip("/")
    if set(path) - PATH_CHARACTERS or "//" in path or {".", ".."} & set(path.split("/")):
        raise ValueError("the path may contain letters, digits, and / - . _ ~ only")
    bracketed = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "https" else 80
    netloc = bracketed if port in (None, default) else f"{bracketed}:{port}"
    return PublicUrl(parts.scheme, host, netloc, path)


def port_user(error: OSError, port: int, proc: Path = Path("/proc")) -> str:
    """Describe the program that uses a TCP port, after listening there failed.

    Returns:
        Its process id and name, as in `process 417 (nginx)`; `another program` if it belongs to another user; empty for
        other errors.
    """
    if error.errno != errno.EADDRINUSE:
        return ""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port, proc)}
    return process_using(sockets, proc) or "another program"


def _listening_inodes(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in (proc / "net" / table).read_text("ascii", "replace").splitlines()[1:]:
                fields = line.split()
                if len(fields) > 9 and fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
