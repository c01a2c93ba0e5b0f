"""Recognizes messages of other clients on this device's own topics, and decides when to publish the device's again."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

MIN_REASSERT_SECONDS, MAX_REASSERT_SECONDS = 5.0, 300.0
"""Delay before the device's own messages are published again; doubled each time, so that two devices do not compete."""
QUIET_SECONDS = 600.0
"""After this time without a message of another client, earlier ones are forgotten."""
CONFLICT_MESSAGES = 3
"""After this many messages of another client, it is reported."""
MAX_TOPICS, RECENT_PAYLOADS = 5000, 8
"""Own topics whose latest payloads are remembered, to recognize them when the broker sends them back."""


class TopicOwnership:
    """The device's own retained topics. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without published topics. `clock` returns seconds."""
        self._clock = clock
        self._own: OrderedDict[str, deque[int]] = OrderedDict()
        """Hashes of the latest payloads by topic."""
        self._foreign: set[str] = set()
        """Topics to publish again."""
        self._interval = MIN_REASSERT_SECONDS
        self._due = float("-inf")
        self._count = 0
        self._latest_at = float("-inf")
        self._latest_topic = ""
        self._lock = threading.Lock()

    def published(self, topic: str, payload: bytes) -> None:
        """Note a payload of this device."""
        with self._lock:
            self._own.setdefault(topic, deque(maxlen=RECENT_PAYLOADS)).append(hash(payload))
            self._own.move_to_end(topic)
            while len(self._own) > MAX_TOPICS:
                self._own.popitem(last=False)

    def is_own(self, topic: str, payload: bytes) -> bool:
        """Return whether this device published the payload recently."""
        with self._lock:
            return hash(payload) in self._own.get(topic, ())

    def note_foreign(self, topic: str, *, counts: bool = True) -> None:
        """Note a message of another client.

        Args:
            topic: topic of the message.
            counts: whether it indicates another device. The broker itself publishes this device's last will.
        """
        with self._lock:
            now = self._clock()
            if now - self._latest_at >= QUIET_SECONDS:
                self._interval, self._count = MIN_REASSERT_SECONDS, 0
            if len(self._foreign) < MAX_TOPICS:
                self._foreign.add(topic)
            if counts:
                self._count += 1
                self._latest_topic = topic
            self._latest_at = now

    @property
    def due(self) -> float | None:
        """When `take` will return topics; None if there are none."""
        return self._due if self._foreign else None

    def take(self) -> set[str]:
        """Return the topics to publish again now; usually none."""
        with self._lock:
            now = self._clock()
            if not self._foreign or now < self._due:
                return set()
            topics, self._foreign = self._foreign, set()
            self._due = now + self._interval
            self._interval = min(2 * self._interval, MAX_REASSERT_SECONDS)
            return topics

    @property
    def conflict(self) -> str:
        """Description of another client that publishes to these topics; empty if there is none."""
        with self._lock:
            if self._count < CONFLICT_MESSAGES or self._clock() - self._latest_at >= QUIET_SECONDS:
                return ""
            return (
                f"another client publishes to {self._latest_topic}: does another device use this device_id?"
            )
