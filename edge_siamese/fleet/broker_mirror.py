"""The fleet's view of its broker: the transport it needs, the inbox for what arrives, and a mirror of retained registers."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from edge_siamese.fleet.messages import SHARDS, Topics, decode_object, decode_view, encode_state
from edge_siamese.fleet.reconciliation import FleetState
from edge_siamese.fleet.state import Key, Part, Registers, resolve
from edge_siamese.validation import SchemaError

MAX_INBOX_BYTES = 24_000_000
MARKER_SECONDS = 5.0
"""A shard is requested again when nothing has arrived for this long."""
MAX_REGISTERS: dict[Part, int] = {"objects": 20_000, "views": 100_000}
"""Registers accepted from others: each costs memory, and time at every change."""
_MAX_WARNINGS = 100
_ITEM_OVERHEAD_BYTES = 400
_DECODERS: dict[Part, Callable[[bytes], Any]] = {"objects": decode_object, "views": decode_view}

LOG = logging.getLogger(__name__)

Handler = Callable[[str, bytes], object]
"""Receives topic and payload on the transport's thread; returns immediately and does not raise."""


class Transport(Protocol):
    """A connection to a broker that comes and goes. Thread-safe; no call waits for the network."""

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> bool:
        """Send a message; messages are sent in order.

        Returns:
            False if it was not accepted: no connection, or a full queue. An accepted message may still be lost with the
            connection; to be sure that it arrived, subscribe to it.
        """

    def subscribe(
        self, pattern: str, handler: Handler, on_subscribed: Callable[[], object] = lambda: None
    ) -> None:
        """Subscribe with QoS 1 until the connection ends; do nothing without one.

        Args:
            pattern: with `+` and `#`. A second subscription replaces the handler and delivers the retained messages again.
            handler: for retained and new messages.
            on_subscribed: called on the transport's thread when the broker has acknowledged the subscription, before or
                after the retained messages.
        """

    def unsubscribe(self, pattern: str) -> None:
        """End the subscription of a pattern."""

    def on_connected(self, callback: Callable[[], object]) -> None:
        """Call this on the transport's thread after each connect, before any message of that connection."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection was established."""


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker has acknowledged a subscription."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Message:
    """A message from the broker."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Overflow:
    """Messages were lost because the inbox was full."""


Item = Connected | Subscribed | Message | Overflow


class Inbox:
    """A bounded queue from the transport's thread, which never waits, to the fleet's thread."""

    def __init__(self, max_bytes: int = MAX_INBOX_BYTES) -> None:
        self._items: deque[Item] = deque()
        self._bytes, self._max_bytes = 0, max_bytes
        self._changed = threading.Condition()
        self._woken = False

    def put(self, item: Item) -> None:
        """Append an item; when the inbox is full, drop messages and append one `Overflow`."""
        size = _ITEM_OVERHEAD_BYTES
        if isinstance(item, Message):
            size += len(item.topic) + len(item.payload)
        with self._changed:
            if isinstance(item, Message) and self._bytes + size > self._max_bytes:
                if not (self._items and isinstance(self._items[-1], Overflow)):
                    self._items.append(Overflow())
            else:
                self._items.append(item)
                self._bytes += size
            self._changed.notify()

    def wake(self) -> None:
        """Make the reader return from `take`."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    def take(self, timeout: float) -> list[Item]:
        """Return all items in order; wait at most `timeout` seconds for one, or for `wake`."""
        with self._changed:
            if timeout > 0:
                self._changed.wait_for(lambda: self._items or self._woken, timeout)
            items = list(self._items)
            self._items.clear()
            self._bytes, self._woken = 0, False
            return items


class _FutureStampError(SchemaError):
    """A stamp is too far ahead of this device's clock."""


@dataclass
class ReadResult:
    """The result of reading messages with registers."""

    changes: Registers
    """Registers that are newer than this device's."""
    outdated: set[Key]
    """Keys whose registers at the broker are older than this device's, or missing."""
    in_sync: set[Key]
    """Keys whose registers are equal now."""


class BrokerMirror:
    """The objects and views that the broker retains, as far as this device has seen. Not thread-safe.

    After a connect it subscribes to one shard after the other. After each it publishes a marker to itself: when the marker
    arrives, the shard's retained messages have arrived. Brokers drop retained messages when thousands are due together.
    """

    def __init__(
        self,
        topics: Topics,
        device: str,
        transport: Transport,
        is_ahead: Callable[[str], bool] = lambda stamp: False,
    ) -> None:
        """Start without a connection.

        Args:
            topics: topics of the collection.
            device: id of this device.
            transport: connection to the broker.
            is_ahead: whether a stamp is too far ahead of this device's clock.
        """
        self._topics, self._transport, self._is_ahead = topics, transport, is_ahead
        self.device = device
        self.markers = topics.of("markers", device)
        """Topic of this device's markers."""
        # Called on the transport's thread.
        self.on_message: Handler = lambda topic, payload: None
        self.on_subscribed: Callable[[str], object] = lambda pattern: None
        self.retained = Registers()
        self._patterns = [
            topics.requests,
            *(topics.shard(part, shard) for part in MAX_REGISTERS for shard in SHARDS),
        ]
        self._reading: int | None = None
        """Index of the pattern being read; None without a connection."""
        self._marker, self._deadline = b"", 0.0
        self._overruled: set[Key] = set()
        """Registers from the future that were answered with this device's."""
        self._warned: set[str] = set()
        self._visible: Mapping[str, str] | None = None
        """Cached views that the retained registers show."""

    @property
    def complete(self) -> bool:
        """Whether everything that the broker retains has been read since the connect."""
        return self._reading == len(self._patterns)

    def start_reading(self, now: float) -> None:
        """Read everything that the broker retains, after a connect."""
        self.retained = Registers()
        self._visible = None
        self._overruled.clear()
        self._transport.subscribe(self.markers, self.on_message, lambda: self.on_subscribed(self.markers))
        self._read_pattern(0, now)

    def disconnected(self) -> None:
        """Note that the connection was lost."""
        self._reading = None

    def tick(self, now: float) -> None:
        """Request the current shard again if nothing has arrived for a while."""
        if self._reading is not None and not self.complete and now >= self._deadline:
            self._read_pattern(self._reading, now)

    def subscription_acknowledged(self, pattern: str) -> None:
        """Publish the marker: what is published now arrives after everything retained."""
        if self._reading is not None and not self.complete and pattern == self._patterns[self._reading]:
            self._transport.publish(self.markers, self._marker)

    def marker_received(self, payload: bytes, now: float) -> None:
        """Continue with the next shard, if it is the current marker."""
        if self._reading is not None and not self.complete and payload == self._marker:
            self._read_pattern(self._reading + 1, now)

    def read(self, messages: list[Message], known: FleetState, now: float) -> ReadResult:
        """Read messages with registers and compare them with what this device knows."""
        self._deadline = now + MARKER_SECONDS
        self._visible = None
        result = ReadResult(Registers(), set(), set())
        for message in messages:
            uid, part = self._topics.uid(message.topic), self._topics.kind(message.topic)
            if uid is None or part not in ("objects", "views"):
                continue
            key: Key = (part, uid)  # type: ignore[assignment]
            if message.payload and self._is_full(key, known, result.changes):
                error = SchemaError("", f"more than {MAX_REGISTERS[key[0]]}; the others are not accepted")
                self.warn_once(f"{self._topics.base}/{part}", error)
                continue
            outdated = self._read_or_skip(key, message, known, result.changes)
            (result.outdated if outdated else result.in_sync).add(key)
            (result.in_sync if outdated else result.outdated).discard(key)
        return result

    def warn_once(self, topic: str, error: SchemaError) -> None:
        """Log that messages of a topic are skipped, the first time."""
        if topic not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(topic)
            LOG.warning("%s is skipped: %s", topic, error)

    def shows(self, view: str) -> bool:
        """Return whether a view exists according to the retained registers alone."""
        if self._visible is None:
            self._visible = resolve(self.retained.objects, self.retained.views).views
        return view in self._visible

    def outdated(self, known: FleetState) -> set[Key]:
        """Return the keys whose registers at the broker are older than this device's, or missing."""
        return {key for key in known.all_keys() if self._register(key) != known.part(key[0])[key[1]]}

    def _register(self, key: Key) -> Any:
        return self.retained.part(key[0]).get(key[1])

    def _read_pattern(self, index: int, now: float) -> None:
        self._reading = index
        if self.complete:
            return
        pattern = self._patterns[index]
        self._marker, self._deadline = secrets.token_hex(8).encode(), now + MARKER_SECONDS
        self._transport.subscribe(pattern, self.on_message, lambda: self.on_subscribed(pattern))

    def _is_full(self, key: Key, known: FleetState, changes: Registers) -> bool:
        """Return whether a register is new and the maximum is reached."""
        part, uid = key
        old, new = known.part(part), changes.part(part)
        return uid not in old and uid not in new and len(old) + len(new) >= MAX_REGISTERS[part]

    def _read_or_skip(self, key: Key, message: Message, known: FleetState, changes: Registers) -> bool:
        """Read one message, and skip an unusable one; return whether the broker is outdated."""
        part, uid = key
        try:
            return self._read(key, message.payload, known, changes)
        except _FutureStampError as error:
            self.warn_once(message.topic, error)
            # Answer only once: a device without a time of day may accept it and publish it again.
            mine = known.part(part).get(uid)
            if key not in self._overruled and mine is not None and not self._is_ahead(mine.latest):
                self._overruled.add(key)
                self.retained.part(part).pop(uid, None)
                return True
        except SchemaError as error:
            self.warn_once(message.topic, error)  # perhaps from a newer release, whose devices can read it
        # Leave it: treat the broker as if it had this device's register.
        if uid in known.part(part):
            self.retained.part(part)[uid] = known.part(part)[uid]
        return False

    def _read(self, key: Key, payload: bytes, known: FleetState, changes: Registers) -> bool:
        """Record a retained register, and add it to `changes` if it is newer; return whether the broker is outdated."""
        part, uid = key
        retained = self.retained.part(part)
        mine = changes.part(part).get(uid) or known.part(part).get(uid)
        if mine is not None and self._is_ahead(mine.latest):
            mine = None  # accepted while this device's clock was wrong: any other register supersedes it
        if not payload:
            retained.pop(uid, None)
            return mine is not None
        if mine is not None and payload == encode_state(mine):
            retained[uid] = mine
            return False
        received = _DECODERS[part](payload)
        if self._is_ahead(received.latest):
            raise _FutureStampError(
                "stamp",
                f"{received.latest} is more than a year ahead of this device's clock; set the clock that is wrong",
            )
        retained[uid] = received
        merged = received if mine is None else mine.merged(received)
        if merged != mine:
            changes.part(part)[uid] = merged
        return bool(merged != received)
