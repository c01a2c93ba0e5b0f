"""What the fleet asks of a connection to a broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Handler = Callable[[str, bytes], object]
"""Is given a message's topic and payload, on the connection's thread: it must be quick, and must not raise."""


class Transport(Protocol):
    """A connection to a broker that comes and goes; used from any thread, and no call waits for the network."""

    @property
    def connected(self) -> bool:
        """Whether messages can go out now."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> bool:
        """Hand a message over; what is handed over goes out in this order.

        Returns:
            False: it was not taken, because there is no connection or too much waits to go out. What was taken may
            still be lost with the connection: who needs to know subscribes to it.
        """

    def subscribe(
        self, pattern: str, handler: Handler, subscribed: Callable[[], object] = lambda: None
    ) -> None:
        """Be given what is published on the topics of a pattern (`+` and `#` as MQTT has them), with quality 1.

        It holds until the connection is lost, and is not renewed by itself: who wants it again asks again in the
        callback of `on_connected`. (A broker that has to send thousands of retained messages at once drops some, so
        the fleet subscribes to one part after the other.) Without a connection nothing happens.

        Args:
            pattern: one pattern has one handler; a second call replaces it, and subscribes once more, which brings
                the retained messages once more.
            handler: for the messages, retained ones among them.
            subscribed: is called when the broker has acknowledged it, on the connection's thread; the retained
                messages may come before or after.
        """

    def unsubscribe(self, pattern: str) -> None:
        """No more of these."""

    def on_connected(self, callback: Callable[[], object]) -> None:
        """Have this called each time that the connection was made, on its thread, before any message of it."""
