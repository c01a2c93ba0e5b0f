"""Holds what comes from the broker's connection until the fleet's own thread takes it: bounded, and nobody waits."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

MAX_BYTES = 24_000_000
_OVERHEAD = 400


@dataclass(frozen=True, slots=True)
class Connected:
    """The connection was made."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker has acknowledged a subscription."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Message:
    """Something was published."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Overflow:
    """Messages were lost here, because too many came at once."""


Item = Connected | Subscribed | Message | Overflow


class Inbox:
    """A queue with one reader; `put` from any thread."""

    def __init__(self, most_bytes: int = MAX_BYTES) -> None:
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._most = most_bytes
        self._changed = threading.Condition()
        self._woken = False

    def put(self, item: Item) -> None:
        """One more; where too much waits already, messages are lost, which the reader learns."""
        size = _OVERHEAD + (len(item.topic) + len(item.payload) if isinstance(item, Message) else 0)
        with self._changed:
            if isinstance(item, Message) and self._bytes + size > self._most:
                if not (self._items and isinstance(self._items[-1], Overflow)):
                    self._items.append(Overflow())
            else:
                self._items.append(item)
                self._bytes += size
            self._changed.notify()

    def wake(self) -> None:
        """Let the reader look about."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def take(self, timeout: float) -> list[Item]:
        """What came, in order; waits for something, or for a `wake`, at most so many seconds."""
        with self._changed:
            if timeout > 0:
                self._changed.wait_for(lambda: self._items or self._woken, timeout)
            items = list(self._items)
            self._items.clear()
            self._bytes, self._woken = 0, False
            return items
