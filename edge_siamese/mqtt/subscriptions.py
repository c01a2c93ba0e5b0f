"""Who is given what comes from a broker: patterns of topics with their handlers, asked for with each connection."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Incoming:
    """A message from the broker."""

    topic: str
    payload: bytes
    retain: bool
    """Whether the broker had kept it: it may be of any age."""


Handler = Callable[[Incoming], object]


@dataclass(frozen=True)
class Subscription:
    """What a pattern is for."""

    handler: Handler
    lasting: bool
    """Whether it is renewed with each connection."""
    subscribed: Callable[[], object] = lambda: None
    """Called when the broker has acknowledged it."""


class Subscriptions:
    """Patterns, each with one subscription, and what the broker has to be asked for; used from any thread."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._kept: dict[str, Subscription] = {}
        self._asked: list[tuple[str, bool]] = []
        self._connected = False

    def add(self, pattern: str, subscription: Subscription) -> bool:
        """One more, or another for a pattern; False, and nothing, for one that cannot wait for a connection."""
        with self._changing:
            if not (subscription.lasting or self._connected):
                return False
            self._kept[pattern] = subscription
            if self._connected:
                self._asked.append((pattern, True))
            return True

    def remove(self, pattern: str) -> None:
        """No more of these."""
        with self._changing:
            if self._kept.pop(pattern, None) is not None and self._connected:
                self._asked.append((pattern, False))

    def connected(self) -> None:
        """There is a new connection: all is asked for anew."""
        with self._changing:
            self._connected = True
            self._asked = [(pattern, True) for pattern in self._kept]

    def lost(self) -> None:
        """The connection is lost, and with it what does not last."""
        with self._changing:
            self._connected = False
            self._asked.clear()
            self._kept = {pattern: found for pattern, found in self._kept.items() if found.lasting}

    def asked(self) -> list[tuple[str, bool]]:
        """What is to be asked of the broker since the last call: patterns, and whether they are wanted."""
        with self._changing:
            asked, self._asked = self._asked, []
            return asked

    def get(self, pattern: str) -> Subscription | None:
        """The one of a pattern, if it is still wanted."""
        with self._changing:
            return self._kept.get(pattern)

    def of(self, topic: str, matches: Callable[[str, str], bool]) -> list[Subscription]:
        """Those whose pattern matches a topic.

        Args:
            topic: of a message.
            matches: says of a pattern and a topic whether it does.
        """
        with self._changing:
            return [found for pattern, found in self._kept.items() if matches(pattern, topic)]
