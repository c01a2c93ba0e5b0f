"""A broker in memory that can stop, forget, and break connections. For tests and demonstrations."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from edge_siamese.fleet.broker_mirror import Handler


class FakeBroker:
    """Retains messages and delivers them immediately. Thread-safe."""

    def __init__(self, loss: float = 0.0, seed: int = 0) -> None:
        """Start without messages.

        Args:
            loss: share of messages, 0 to 1, that are lost with the connection, which is restored immediately.
            seed: seed of the losses.
        """
        self.loss = loss
        self.retained: dict[str, bytes] = {}
        self.published: list[tuple[str, bytes]] = []
        """All messages, the oldest first."""
        self.running = True
        self._rng = random.Random(seed)
        self._clients: list[FakeTransport] = []
        self.lock = threading.RLock()
        """Held while messages are delivered, so that they arrive in order."""

    def transport(self) -> FakeTransport:
        """Return a new client."""
        client = FakeTransport(self)
        with self.lock:
            self._clients.append(client)
        return client

    def stop(self, forget: bool = False) -> None:
        """End all connections; with `forget`, lose all retained messages."""
        with self.lock:
            self.running = False
            for client in self._clients:
                client.disconnect()
            if forget:
                self.retained.clear()

    def start(self) -> None:
        """Accept connections again."""
        with self.lock:
            self.running = True
            for client in self._clients:
                client.connect()

    def handle(self, client: FakeTransport, topic: str, payload: bytes, retain: bool) -> None:
        """Handle a message of a client."""
        with self.lock:
            if self._rng.random() < self.loss:
                client.disconnect()
                client.connect()
                return
            self.published.append((topic, payload))
            if retain and payload:
                self.retained[topic] = payload
            elif retain:
                self.retained.pop(topic, None)
            for other in self._clients:
                other.deliver(topic, payload)


class FakeTransport:
    """One client's connection: a `Transport`."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self.connected = broker.running
        self._handlers: dict[str, Handler] = {}
        self._callbacks: list[Callable[[], object]] = []

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> bool:
        with self._broker.lock:
            if not self.connected:
                return False
            self._broker.handle(self, topic, payload, retain)
            return True

    def subscribe(
        self, pattern: str, handler: Handler, on_subscribed: Callable[[], object] = lambda: None
    ) -> None:
        with self._broker.lock:
            if not self.connected:
                return
            self._handlers[pattern] = handler
            for topic, payload in list(self._broker.retained.items()):
                if matches(pattern, topic):
                    handler(topic, payload)
            on_subscribed()

    def unsubscribe(self, pattern: str) -> None:
        with self._broker.lock:
            self._handlers.pop(pattern, None)

    def on_connected(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)

    def disconnect(self) -> None:
        """Break the connection."""
        with self._broker.lock:
            self.connected = False
            self._handlers.clear()

    def connect(self) -> None:
        """Connect again."""
        with self._broker.lock:
            if self._broker.running and not self.connected:
                self.connected = True
                for callback in self._callbacks:
                    callback()

    def deliver(self, topic: str, payload: bytes) -> None:
        """Deliver a message."""
        for pattern, handler in list(self._handlers.items()):
            if matches(pattern, topic):
                handler(topic, payload)


def matches(pattern: str, topic: str) -> bool:
    """Return whether a topic matches a pattern."""
    expected, levels = pattern.split("/"), topic.split("/")
    for index, level in enumerate(expected):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(expected) == len(levels)
