"""Queue of outgoing MQTT messages: bounded in number and bytes, retained topics coalesced, losses counted.

paho's own queue does not coalesce, is bounded by number only, and rejects new messages when full.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_MESSAGES, MAX_BYTES = 2000, 4_000_000
MAX_IN_FLIGHT = 20
"""Messages sent and not acknowledged; brokers allow this many by default."""
MAX_ATTEMPTS = 5
"""A message that was in flight at this many connection losses is dropped: it may be what breaks the connection."""
OVERHEAD_BYTES = 300
"""Memory that a message takes besides topic and payload."""


@dataclass(frozen=True)
class Message:
    """A message to publish."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1
    keep: bool = True
    """Whether it waits for a connection; otherwise it is dropped when there is none."""
    on_done: Callable[[bool], object] | None = field(default=None, compare=False)
    """Called with True when the broker has acknowledged the message, with False when it was rejected or lost. Not called
    for QoS 0, nor for a retained message that a newer one replaced. Runs on any thread and must return immediately."""

    @property
    def size(self) -> int:
        """Memory in bytes."""
        return len(self.topic) + len(self.payload) + OVERHEAD_BYTES

    def finish(self, accepted: bool) -> None:
        """Call `on_done`."""
        if self.on_done is not None:
            self.on_done(accepted)


class Outbox:
    """Messages in the order in which they are sent. Thread-safe.

    Of the retained messages of one topic only the latest is queued, since the broker would keep no other. When the queue
    is full, the oldest messages that are not retained are dropped first: old events lose their value, states do not.
    """

    def __init__(self, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES) -> None:
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._lock = threading.Lock()
        self._last_number = 0
        self._queued: OrderedDict[int, Message] = OrderedDict()
        self._transient: OrderedDict[int, None] = OrderedDict()
        """Numbers of queued messages that are not retained, the oldest first."""
        self._retained: dict[str, int] = {}
        """Numbers of the other queued messages, by topic."""
        self._in_flight: OrderedDict[int, Message] = OrderedDict()
        self._attempts: dict[int, int] = {}
        self._bytes = 0
        self.lost = 0
        """Number of messages lost, not counting those with `keep=False`."""

    def __len__(self) -> int:
        """Return the number of messages queued or in flight."""
        return len(self._queued) + len(self._in_flight)

    @property
    def bytes(self) -> int:
        """Memory of all messages."""
        return self._bytes

    @property
    def has_room(self) -> bool:
        """Whether the outbox is less than half full."""
        return len(self) < self._max_messages // 2 and self._bytes < self._max_bytes // 2

    def put(self, message: Message) -> bool:
        """Append a message; return whether there was room. One with `keep=False` displaces no other."""
        with self._lock:
            dropped: list[Message] = []
            if message.retain and (former := self._retained.get(message.topic)) is not None:
                self._remove(former)
            if message.keep and message.size <= self._max_bytes:
                dropped = self._make_room(message.size)
            fits = self._fits(message.size)
            if fits:
                self._add(message)
            else:
                self.lost += message.keep
                dropped.append(message)
        _finish_dropped(dropped)
        return fits

    def take(self, max_in_flight: int = MAX_IN_FLIGHT) -> tuple[int, Message] | None:
        """Return the next message and its number and put it in flight; None if none may be sent now.

        A message of QoS 0 is done when it is taken.
        """
        with self._lock:
            if not self._queued or len(self._in_flight) >= max_in_flight:
                return None
            number, message = self._queued.popitem(last=False)
            self._unindex(number, message)
            if message.qos:
                self._in_flight[number] = message
            else:
                self._bytes -= message.size
            return number, message

    def done(self, number: int, accepted: bool = True) -> Message | None:
        """Remove a message that the broker acknowledged or rejected; return it, or None if it is unknown."""
        with self._lock:
            message = self._in_flight.pop(number, None)
            self._attempts.pop(number, None)
            if message is not None:
                self._bytes -= message.size
        if message is not None:
            message.finish(accepted)
        return message

    def disconnected(self) -> None:
        """Queue the messages in flight again, at the front; drop those with `keep=False`."""
        dropped: list[Message] = []
        with self._lock:
            for number, message in reversed(self._in_flight.items()):
                attempts = self._attempts.get(number, 0) + 1
                replaced = message.retain and message.topic in self._retained
                if message.keep and not replaced and attempts < MAX_ATTEMPTS:
                    self._attempts[number] = attempts
                    self._requeue(number, message)
                    continue
                self._bytes -= message.size
                self._attempts.pop(number, None)
                if not replaced:
                    self.lost += message.keep
                    dropped.append(message)
            self._in_flight.clear()
            for number in [number for number, message in self._queued.items() if not message.keep]:
                dropped.append(self._remove(number))
        _finish_dropped(dropped)

    def _fits(self, size: int) -> bool:
        return len(self) < self._max_messages and self._bytes + size <= self._max_bytes

    def _add(self, message: Message) -> None:
        self._last_number += 1
        self._queued[self._last_number] = message
        self._bytes += message.size
        if message.retain:
            self._retained[message.topic] = self._last_number
        else:
            self._transient[self._last_number] = None

    def _requeue(self, number: int, message: Message) -> None:
        self._queued[number] = message
        self._queued.move_to_end(number, last=False)
        if message.retain:
            self._retained[message.topic] = number
        else:
            self._transient[number] = None
            self._transient.move_to_end(number, last=False)

    def _make_room(self, size: int) -> list[Message]:
        """Drop the oldest messages until `size` bytes fit."""
        dropped = []
        while not self._fits(size) and self._queued:
            oldest = next(iter(self._transient or self._retained.values()))
            self.lost += self._queued[oldest].keep
            dropped.append(self._remove(oldest))
        return dropped

    def _remove(self, number: int) -> Message:
        message = self._queued.pop(number)
        self._bytes -= message.size
        self._attempts.pop(number, None)
        self._unindex(number, message)
        return message

    def _unindex(self, number: int, message: Message) -> None:
        self._transient.pop(number, None)
        if message.retain and self._retained.get(message.topic) == number:
            del self._retained[message.topic]


def _finish_dropped(messages: list[Message]) -> None:
    """Report losses; called without the lock, as callbacks may use the outbox."""
    for message in messages:
        message.finish(False)
