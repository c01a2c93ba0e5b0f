"""Holds messages that wait for a broker: bounded in number and bytes, the newest are kept, losses are counted."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_MESSAGES, MAX_BYTES = 2000, 4_000_000
IN_FLIGHT = 20
"""Messages that are sent and not yet acknowledged, at most: what brokers allow by default."""
TRIES = 5
"""A message with which the connection broke so often is given up: it may be what breaks it."""
OVERHEAD = 300
"""Bytes that a message costs here besides topic and payload."""


@dataclass(frozen=True)
class Message:
    """What is published."""

    topic: str
    payload: bytes
    retain: bool = False
    qos: int = 1
    keep: bool = True
    """Whether it waits for a connection that is not there; else it is lost with it."""
    ended: Callable[[bool], object] | None = field(default=None, compare=False)
    """Called when the broker has acknowledged it: True; when it was refused or lost: False. Not for a state that a newer
    one replaces, nor for quality 0. From any thread; it must only note that."""

    @property
    def size(self) -> int:
        """What it costs, in bytes."""
        return len(self.topic) + len(self.payload) + OVERHEAD

    def end(self, taken: bool) -> None:
        """Say what became of it."""
        if self.ended is not None:
            self.ended(taken)


class Outbox:
    """Messages in the order in which they go out; used from any thread.

    Of retained messages on one topic, only the latest waits: it is all that the broker would keep. Where too much
    waits, the oldest that are not retained go first: states are still true when events are long over.
    """

    def __init__(self, most: int = MAX_MESSAGES, most_bytes: int = MAX_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._changing = threading.Lock()
        self._number = 0
        self._waiting: OrderedDict[int, Message] = OrderedDict()
        self._passing: OrderedDict[int, None] = OrderedDict()
        """Of those that wait, the ones that are not retained; the oldest first."""
        self._retained: dict[str, int] = {}
        """The others, by their topics."""
        self._sent: OrderedDict[int, Message] = OrderedDict()
        self._tries: dict[int, int] = {}
        self._bytes = 0
        self.lost = 0
        """Messages that were to be kept and could not be."""

    def __len__(self) -> int:
        """How many wait or are not acknowledged."""
        return len(self._waiting) + len(self._sent)

    @property
    def bytes(self) -> int:
        """What they cost."""
        return self._bytes

    @property
    def has_room(self) -> bool:
        """Whether it is not half full: who has much to say stops there, so that events do not go for it."""
        return len(self) < self._most // 2 and self._bytes < self._most_bytes // 2

    def put(self, message: Message) -> bool:
        """One more at the end; whether there was room for it. One that is not kept makes no room for itself."""
        with self._changing:
            lost: list[Message] = []
            if message.retain and (former := self._retained.get(message.topic)) is not None:
                self._remove(former)
            if message.keep and message.size <= self._most_bytes:
                lost = self._make_room(message.size)
            fits = self._fits(message.size)
            if fits:
                self._add(message)
            else:
                self.lost += message.keep
                lost.append(message)
        _all_lost(lost)
        return fits

    def take(self, in_flight: int = IN_FLIGHT) -> tuple[int, Message] | None:
        """The next one and its number, unless so many are on their way. One of quality 0 is done with that."""
        with self._changing:
            if not self._waiting or len(self._sent) >= in_flight:
                return None
            number, message = self._waiting.popitem(last=False)
            self._forget(number, message)
            if message.qos:
                self._sent[number] = message
            else:
                self._bytes -= message.size
            return number, message

    def done(self, number: int, taken: bool = True) -> Message | None:
        """It was acknowledged, or refused; None if it is not known (any more)."""
        with self._changing:
            message = self._sent.pop(number, None)
            self._tries.pop(number, None)
            if message is not None:
                self._bytes -= message.size
        if message is not None:
            message.end(taken)
        return message

    def disconnected(self) -> None:
        """The connection is lost: what was on its way goes to the front again; what is not to be kept goes."""
        lost: list[Message] = []
        with self._changing:
            for number, message in reversed(self._sent.items()):
                tries = self._tries.get(number, 0) + 1
                stale = message.retain and message.topic in self._retained
                if not message.keep or stale or tries >= TRIES:
                    self.lost += message.keep and not stale
                    self._bytes -= message.size
                    self._tries.pop(number, None)
                    if not stale:
                        lost.append(message)
                    continue
                self._tries[number] = tries
                self._waiting[number] = message
                self._waiting.move_to_end(number, last=False)
                if message.retain:
                    self._retained[message.topic] = number
                else:
                    self._passing[number] = None
                    self._passing.move_to_end(number, last=False)
            self._sent.clear()
            for number in [number for number, message in self._waiting.items() if not message.keep]:
                lost.append(self._remove(number))
        _all_lost(lost)

    def _fits(self, size: int) -> bool:
        return len(self) < self._most and self._bytes + size <= self._most_bytes

    def _add(self, message: Message) -> None:
        self._number += 1
        self._waiting[self._number] = message
        self._bytes += message.size
        if message.retain:
            self._retained[message.topic] = self._number
        else:
            self._passing[self._number] = None

    def _make_room(self, size: int) -> list[Message]:
        """What has to go for it."""
        lost = []
        while not self._fits(size) and self._waiting:
            oldest = next(iter(self._passing or self._retained.values()))
            self.lost += self._waiting[oldest].keep
            lost.append(self._remove(oldest))
        return lost

    def _remove(self, number: int) -> Message:
        message = self._waiting.pop(number)
        self._bytes -= message.size
        self._tries.pop(number, None)
        self._forget(number, message)
        return message

    def _forget(self, number: int, message: Message) -> None:
        """It does not wait any more."""
        self._passing.pop(number, None)
        if message.retain and self._retained.get(message.topic) == number:
            del self._retained[message.topic]


def _all_lost(messages: list[Message]) -> None:
    """Said when nothing is locked any more."""
    for message in messages:
        message.end(False)
