"""How often a password may be tried: each failure makes the next try of that address wait longer, and in the end all."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

FREE = 3
"""Failures of an address that cost nothing: people mistype."""
MAX_SECONDS = 300.0
"""The longest wait of an address; doubled from one second on."""
FORGOTTEN_SECONDS = 3600.0
"""A failure counts for so long."""
MAX_ADDRESSES = 1000
TOGETHER, WINDOW_SECONDS, TOGETHER_SECONDS = 30, 60.0, 2.0
"""With so many failures of all addresses within so many seconds, one try every so many seconds is taken."""


class Attempts:
    """Counts failures; any thread may ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody has failed; `clock` counts seconds."""
        self._clock = clock
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._recent: deque[tuple[str, float]] = deque(maxlen=TOGETHER)
        self._changing = threading.Lock()

    def begin(self, address: str) -> float:
        """A try begins, and counts as a failure until `succeeded`: seconds to wait if it may not, else 0."""
        key, now = network_of(address), self._clock()
        with self._changing:
            failures, last = self._failed.get(key, (0, now))
            if now - last > FORGOTTEN_SECONDS:
                failures = 0
            if failures >= FREE:
                wait = last + min(2.0 ** min(failures - FREE, 60), MAX_SECONDS) - now  # 2.0**1024 is an error
                if wait > 0:
                    return wait
            busy = len(self._recent) == TOGETHER and now - self._recent[0][1] < WINDOW_SECONDS
            if busy and (wait := self._recent[-1][1] + TOGETHER_SECONDS - now) > 0:
                return wait
            self._failed[key] = failures + 1, now
            self._failed.move_to_end(key)
            while len(self._failed) > MAX_ADDRESSES:
                self._failed.popitem(last=False)
            self._recent.append((key, now))
            return 0.0

    def succeeded(self, address: str) -> None:
        """The password was right."""
        key = network_of(address)
        with self._changing:
            self._failed.pop(key, None)
            # Others may have failed since this try began.
            for place in reversed(range(len(self._recent))):
                if self._recent[place][0] == key:
                    del self._recent[place]
                    break


def network_of(address: str) -> str:
    """What one attacker has: an IPv4 address, or the 64 bits that an IPv6 host chooses its addresses in."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return str(found.ipv4_mapped)
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)
