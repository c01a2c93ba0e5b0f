"""A broker in memory: it keeps what is to be retained, hands on at once, and can be away, forget, and break connections."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from edge_siamese.fleet.transport import Handler


class FakeBroker:
    """Made for tests and for trying things out in one process; used from any thread."""

    def __init__(self, loss: float = 0.0, seed: int = 0) -> None:
        """`loss`: the share of messages that are lost because the connection breaks; it is made again at once."""
        self.loss = loss
        self.retained: dict[str, bytes] = {}
        self.published: list[tuple[str, bytes]] = []
        """All messages that came here, the oldest first."""
        self.running = True
        self._chance = random.Random(seed)
        self._clients: list[FakeTransport] = []
        self._lock = threading.RLock()

    def transport(self) -> FakeTransport:
        """One more client."""
        client = FakeTransport(self)
        with self._lock:
            self._clients.append(client)
        return client

    def stop(self, forget: bool = False) -> None:
        """End all connections, and with `forget` all that is retained."""
        with self._lock:
            self.running = False
            for client in self._clients:
                client.cut()
            if forget:
                self.retained.clear()

    def start(self) -> None:
        """Let all connect again."""
        with self._lock:
            self.running = True
            for client in self._clients:
                client.join()

    def take(self, client: FakeTransport, topic: str, payload: bytes, retain: bool) -> None:
        """A message of a client."""
        with self._lock:
            if self._chance.random() < self.loss:
                client.cut()
                client.join()
                return
            self.published.append((topic, payload))
            if retain and payload:
                self.retained[topic] = payload
            elif retain:
                self.retained.pop(topic, None)
            for other in self._clients:
                other.give(topic, payload)

    def lock(self) -> threading.RLock:
        """Held while messages go out, so that they arrive in one order."""
        return self._lock


class FakeTransport:
    """One client's connection: a `Transport`."""

    def __init__(self, broker: FakeBroker) -> None:
        self._broker = broker
        self._up = broker.running
        self._handlers: dict[str, Handler] = {}
        self._callbacks: list[Callable[[], object]] = []

    @property
    def connected(self) -> bool:
        return self._up

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> bool:
        with self._broker.lock():
            if not self._up:
                return False
            self._broker.take(self, topic, payload, retain)
            return True

    def subscribe(
        self, pattern: str, handler: Handler, subscribed: Callable[[], object] = lambda: None
    ) -> None:
        with self._broker.lock():
            if not self._up:
                return
            self._handlers[pattern] = handler
            for topic, payload in list(self._broker.retained.items()):
                if matches(pattern, topic):
                    handler(topic, payload)
            subscribed()

    def unsubscribe(self, pattern: str) -> None:
        with self._broker.lock():
            self._handlers.pop(pattern, None)

    def on_connected(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)

    def cut(self) -> None:
        """Lose the connection."""
        with self._broker.lock():
            self._up = False
            self._handlers.clear()

    def join(self) -> None:
        """Make the connection again."""
        with self._broker.lock():
            if self._broker.running and not self._up:
                self._up = True
                for callback in self._callbacks:
                    callback()

    def give(self, topic: str, payload: bytes) -> None:
        """A message from the broker."""
        for pattern, handler in list(self._handlers.items()):
            if matches(pattern, topic):
                handler(topic, payload)


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic is of a pattern, as MQTT has them."""
    wanted, found = pattern.split("/"), topic.split("/")
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place >= len(found) or level not in ("+", found[place]):
            return False
    return len(wanted) == len(found)
