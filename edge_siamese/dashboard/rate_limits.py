"""How often something may be done: of one address, and of all together."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from edge_siamese.dashboard.login_attempts import network_of

MAX_ADDRESSES = 1000

Rate = tuple[float, float]
"""Times in a second, and how many of them at once after a rest."""


class Rates:
    """Counts; for one thread."""

    def __init__(self, each: Rate, together: Rate, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody has done anything; `clock` counts seconds."""
        self._each, self._together, self._clock = each, together, clock
        self._known: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """How much is left of each, and since when; the latest last."""
        self._all = together[1], clock()

    def wait(self, address: str) -> float:
        """Seconds to wait if it may not be done now; else 0, and it counts. An empty address counts for all alone."""
        now = self._clock()
        whole = _left(self._together, self._all, now)
        key = network_of(address) if address else ""
        mine = _left(self._each, self._known.get(key, (self._each[1], now)), now) if key else self._each[1]
        if whole < 1 or mine < 1:
            return max((1 - whole) / self._together[0], (1 - mine) / self._each[0])
        self._all = whole - 1, now
        if key:
            self._known[key] = mine - 1, now
            self._known.move_to_end(key)
            while len(self._known) > MAX_ADDRESSES:
                self._known.popitem(last=False)
        return 0.0


def _left(rate: Rate, last: tuple[float, float], now: float) -> float:
    left, since = last
    return min(rate[1], left + (now - since) * rate[0])
