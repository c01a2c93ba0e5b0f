"""Under which names the dashboard answers: a page of another name, that leads here by its DNS, gets nothing."""

from __future__ import annotations

from collections.abc import Iterable

from edge_siamese.system.hostname import host_name, local_name
from edge_siamese.system.network import address_of, host_of, is_loopback


class Hosts:
    """The names that are allowed in the header Host."""

    def __init__(self, listen: str, extra: Iterable[str] = (), *, hostname: str | None = None) -> None:
        """Look at what this machine is called.

        Args:
            listen: the address that is listened at.
            extra: more names, with or without a port.
            hostname: this machine's.
        """
        self._local = is_loopback(listen)
        self._names = {host_of(name) for name in extra}
        if not self._local:
            name = (host_name() if hostname is None else hostname).lower()
            self._names |= {name, local_name(name)}
        self._names.discard("")

    def allow(self, netloc: str, arrived: str = "") -> bool:
        """Whether a request that names this host is meant for this page.

        Args:
            netloc: what it names.
            arrived: the address of this machine at which it came; whoever names just that needs no DNS, so none leads
                here from another page.
        """
        name = host_of(netloc)
        if not name:
            return False
        if is_loopback(name) or name in self._names:
            return True
        address = address_of(name)
        return not self._local and address is not None and address == address_of(arrived)
