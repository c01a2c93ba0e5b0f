"""Notes what the broker says to the thread that tells: of each message only what matters, and never more than a bound."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from edge_siamese.mqtt.subscriptions import Incoming
from edge_siamese.mqtt.topics import Topics

MAX_BYTES = 4_000_000
"""Of a discovery message; the device's own are a tenth of it."""
MAX_OBJECTS, MAX_UID = 2000, 64
"""Objects that are noted at once, and how long their uids may be. What is beyond comes again with the next connection."""


@dataclass
class InboundMessages:
    """What came since it was asked for last."""

    connected: bool = False
    """The connection was made: whatever the broker has kept, it may be another one, or one that forgot."""
    started: bool = False
    """Home Assistant was."""
    discovery: bytes | None = None
    """What the broker had kept of the discovery message."""
    uids: set[str] = field(default_factory=set)
    """Objects of which the broker keeps a state."""


class InboundBuffer:
    """Notes on the network's thread, and is asked on another one, which may be busy for long."""

    def __init__(self, topics: Topics, discovery: str) -> None:
        """`discovery`: the topic of the discovery message; empty if there is none."""
        self._objects, self._discovery = topics.object(""), discovery
        self._changing = threading.Lock()
        self._heard = InboundMessages()

    def connected(self) -> None:
        """There is a new connection."""
        with self._changing:
            self._heard.connected = True

    def hear(self, message: Incoming) -> None:
        """A message came: an object's state, the discovery message, or what Home Assistant says of itself."""
        with self._changing:
            if message.topic == self._discovery:
                if message.retain and 0 < len(message.payload) <= MAX_BYTES:
                    self._heard.discovery = message.payload
            elif message.topic.startswith(self._objects):
                uid = message.topic.removeprefix(self._objects)
                room = len(uid) <= MAX_UID and len(self._heard.uids) < MAX_OBJECTS
                if message.retain and message.payload and room:
                    self._heard.uids.add(uid)
            elif message.payload == b"online":
                self._heard.started = True

    def take(self) -> InboundMessages:
        """What came since the last call."""
        with self._changing:
            heard, self._heard = self._heard, InboundMessages()
            return heard
