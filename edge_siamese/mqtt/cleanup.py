"""Removes retained messages that this device published under former names.

The file `mqtt.json` in the state directory remembers these names until the broker has acknowledged the removal.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from edge_siamese.mqtt.client import MqttClient, ReceivedMessage
from edge_siamese.mqtt.topics import Topics
from edge_siamese.system.files import write_text_atomically
from edge_siamese.validation import Record, SchemaError, convert, parse_json

FILE_NAME = "mqtt.json"
MAX_FORMER = 10
"""Maximum number of former names in the file; the oldest are dropped."""
MARKER = "end"
"""Published in place of an object's uid; when it comes back, the broker has sent all retained objects."""

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedTopics:
    """The names under which a broker retains messages of this device."""

    broker: str
    """Host and port."""
    prefix: str
    device: str
    discovery: str
    """Home Assistant's prefix; empty without discovery."""

    @property
    def topics(self) -> Topics:
        """The device's topics."""
        return Topics(self.prefix, self.device)

    @property
    def retained(self) -> tuple[str, ...]:
        """The retained topics, except those of objects."""
        topics = (self.topics.state, self.topics.availability)
        return (self.topics.discovery(self.discovery), *topics) if self.discovery else topics


class _File(Record):
    """The file: the current names, and former names that may have retained messages."""

    broker: str
    prefix: str
    device: str
    discovery: str
    former: tuple[PublishedTopics, ...] = ()


def read_published_topics(state: Path) -> tuple[PublishedTopics, ...]:
    """Return the names of the state directory's file, the latest first; empty if there is no usable file."""
    path = state / FILE_NAME
    try:
        file = convert(parse_json(path.read_bytes()), _File)
    except FileNotFoundError:
        return ()
    except (OSError, SchemaError) as error:
        LOG.warning("%s cannot be read: %s", path, getattr(error, "strerror", None) or error)
        return ()
    return (PublishedTopics(file.broker, file.prefix, file.device, file.discovery), *file.former)


def write_published_topics(state: Path, names: Sequence[PublishedTopics]) -> None:
    """Remember names, the latest first; a failure is logged."""
    current, *former = names
    value = {**asdict(current), "former": [asdict(item) for item in former]}
    try:
        write_text_atomically(state / FILE_NAME, json.dumps(value) + "\n")
    except OSError as error:
        LOG.warning("%s cannot be written: %s", state / FILE_NAME, error.strerror)


class RetainedCleanup:
    """Empties the topics of former names. After `start`, it runs on the network thread."""

    def __init__(self, state: Path, client: MqttClient, current: PublishedTopics) -> None:
        """Prepare the cleanup; `start` begins it.

        Args:
            state: the state directory.
            client: connection to the broker of the current names.
            current: the names of the settings.
        """
        self._state, self._client, self._current = state, client, current
        self._former: tuple[PublishedTopics, ...] = ()
        self._patterns: set[str] = set()
        """Patterns of the former names' objects."""
        self._pending: set[str] = set()
        """Topics whose removal the broker has not acknowledged."""
        self._listing: set[str] = set()
        """Patterns of former objects that the broker may still send in this round."""
        self._incomplete: set[str] = set()
        """Patterns with retained objects. There may be more, since brokers limit what they send at a time."""
        self._round = 0

    def start(self) -> None:
        """Save the current names, and remove the messages of former names once there is a connection."""
        current = self._current
        known = read_published_topics(self._state)
        former = known if known and known[0].broker == current.broker else known[1:]
        # Names at another broker are remembered until the settings name it again.
        former = tuple(
            item
            for item in dict.fromkeys(former)
            if item.broker != current.broker or set(item.retained) - set(current.retained)
        )[:MAX_FORMER]
        if (current, *former) != known:
            write_published_topics(self._state, (current, *former))
        self._former = tuple(item for item in former if item.broker == current.broker)
        self._patterns = {item.topics.objects for item in self._former} - {current.topics.objects}
        self._listing = set(self._patterns)
        for topic in dict.fromkeys(topic for item in self._former for topic in item.retained):
            if topic not in current.retained:
                self._remove(topic)
        for pattern in self._listing:
            self._list_objects(pattern)

    def _remove(self, topic: str) -> None:
        self._pending.add(topic)
        self._client.enqueue(topic, b"", retain=True, on_done=partial(self._on_removed, topic))

    def _on_removed(self, topic: str, accepted: bool) -> None:
        if accepted:  # otherwise the next start tries again
            self._pending.discard(topic)
            self._advance()

    def _list_objects(self, pattern: str) -> None:
        self._client.listen(pattern, partial(self._on_object, pattern), partial(self._send_marker, pattern))

    def _send_marker(self, pattern: str) -> None:
        self._client.publish(pattern.replace("+", MARKER), b"%d" % self._round)

    def _on_object(self, pattern: str, message: ReceivedMessage) -> None:
        if message.retain and message.payload:
            self._incomplete.add(pattern)
            if self._client.has_room:
                self._remove(message.topic)
        elif message.topic == pattern.replace("+", MARKER) and message.payload == b"%d" % self._round:
            self._listing.discard(pattern)
            self._advance()

    def _advance(self) -> None:
        """When the broker has acknowledged all removals, list objects again; when none are left, forget the names."""
        if self._pending:
            return
        if self._listing:
            for pattern in self._listing & self._incomplete:
                self._send_marker(pattern)  # the broker may have dropped the first one
            return
        self._listing, self._incomplete = self._incomplete, set()
        self._round += 1
        for pattern in self._listing:
            self._list_objects(pattern)
        if self._listing or not self._former:
            return
        for pattern in self._patterns:
            self._client.unsubscribe(pattern)
        # The daemon may have opened another connection, which has written the file since.
        current, *former = read_published_topics(self._state) or (self._current,)
        remaining = [item for item in former if item not in self._former]
        write_published_topics(self._state, (current, *remaining))
        self._former = ()
