"""Limits of a broker: announced by MQTT 5 brokers, learned from others by the connections that they end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from edge_siamese.events import counted
from edge_siamese.mqtt.outbox import MAX_IN_FLIGHT

MIN_SUSPECT_BYTES = 1000
"""Smaller packets are not suspected of ending a connection."""
SUSPECT_SECONDS = 5.0
"""A packet is suspected if the broker ends the connection within this time, without having acknowledged it."""
SUSPECT_LOSSES = 3
"""After this many such losses in a row, packets of that size are no longer sent."""

RECEIVE_MAXIMUM_EXCEEDED, PACKET_TOO_LARGE = 0x93, 0x95
RETAIN_NOT_SUPPORTED, QOS_NOT_SUPPORTED, WILDCARDS_NOT_SUPPORTED = 0x9A, 0x9B, 0xA2
SESSION_TAKEN_OVER = 0x8E


@dataclass(frozen=True)
class BrokerLimits:
    """Limits of a broker. The defaults are those of MQTT."""

    max_packet_bytes: int | None = None
    """Size of the largest packet; None: no limit."""
    max_in_flight: int = MAX_IN_FLIGHT
    """Messages that may be sent without an acknowledgment."""
    max_qos: int = 2
    retain: bool = True
    wildcards: bool = True
    """Whether patterns may contain + and #."""

    @classmethod
    def announced(cls, properties: Any) -> BrokerLimits:
        """Return the limits in the properties of a CONNACK packet; None, as in MQTT 3.1.1: there are none."""

        def read(name: str, default: Any) -> Any:
            return getattr(properties, name, default)

        return cls(
            max_packet_bytes=read("MaximumPacketSize", None),
            max_in_flight=max(1, min(MAX_IN_FLIGHT, read("ReceiveMaximum", MAX_IN_FLIGHT))),
            max_qos=read("MaximumQoS", 2),
            retain=bool(read("RetainAvailable", 1)),
            wildcards=bool(read("WildcardSubscriptionAvailable", 1)),
        )

    def combine(self, other: BrokerLimits) -> BrokerLimits:
        """Return the stricter of each limit."""
        sizes = [size for size in (self.max_packet_bytes, other.max_packet_bytes) if size is not None]
        return BrokerLimits(
            max_packet_bytes=min(sizes, default=None),
            max_in_flight=min(self.max_in_flight, other.max_in_flight),
            max_qos=min(self.max_qos, other.max_qos),
            retain=self.retain and other.retain,
            wildcards=self.wildcards and other.wildcards,
        )

    def after_error(self, code: int) -> BrokerLimits:
        """Return the limits after the broker ended or refused a connection with this reason code."""
        if code == RETAIN_NOT_SUPPORTED:
            return replace(self, retain=False)
        if code == QOS_NOT_SUPPORTED:
            return replace(self, max_qos=max(0, min(self.max_qos, 1) - 1))
        if code == WILDCARDS_NOT_SUPPORTED:
            return replace(self, wildcards=False)
        if code == RECEIVE_MAXIMUM_EXCEEDED:
            return replace(self, max_in_flight=max(1, self.max_in_flight // 2))
        return self

    def max_payload(self, topic: str, qos: int = 1, *, mqtt5: bool = True) -> int | None:
        """Return the size of the largest payload for a topic; None: no limit, negative: not even an empty one fits."""
        if self.max_packet_bytes is None:
            return None
        payload = max(0, self.max_packet_bytes - packet_bytes(topic, 0, qos, mqtt5=mqtt5))
        # The length field of the packet grows with it, by at most three bytes.
        while payload >= 0 and packet_bytes(topic, payload, qos, mqtt5=mqtt5) > self.max_packet_bytes:
            payload -= 1
        return payload

    def describe(self) -> str:
        """Describe the limits below the usual ones, in one line; empty if there are none."""
        parts = []
        if self.max_packet_bytes is not None:
            parts.append(f"messages of at most {self.max_packet_bytes:,} bytes")
        if self.max_in_flight < MAX_IN_FLIGHT:
            parts.append(counted(self.max_in_flight, "unacknowledged message"))
        if self.max_qos < 1:
            parts.append("QoS 0 only")
        if not self.retain:
            parts.append("no retained messages")
        if not self.wildcards:
            parts.append("no wildcards in subscriptions")
        return ", ".join(parts)


def packet_bytes(topic: str, payload: int, qos: int, *, mqtt5: bool) -> int:
    """Return the size of a PUBLISH packet with a payload of this many bytes."""
    rest = 2 + len(topic.encode("utf-8")) + (2 if qos else 0) + mqtt5 + payload
    length = next(size for size in (1, 2, 3, 4, 5) if rest < 128**size)
    return 1 + length + rest


class LossObserver:
    """Learns the largest packet from a broker that ends the connection instead of announcing a limit.

    A packet is suspected if the connection ends soon after it was sent, without an acknowledgment of it or of a later one.
    Brokers also restart and networks fail, so only several losses in a row count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without suspects. `clock` returns seconds."""
        self._clock = clock
        self._unproven: list[tuple[int, int, float]] = []
        """Packets of this connection: number, bytes, and when they were sent."""
        self._losses = 0

    @property
    def suspicious(self) -> bool:
        """Whether a packet is suspected: then messages are sent one at a time, which shows which one it is."""
        return self._losses > 0

    def sent(self, number: int, size: int) -> None:
        """Note a packet. Numbers increase."""
        if size >= MIN_SUSPECT_BYTES:
            self._unproven.append((number, size, self._clock()))
            del self._unproven[:-MAX_IN_FLIGHT]

    def acknowledged(self, number: int) -> None:
        """Note that the broker has read the packets up to this one."""
        if self._unproven and self._unproven[0][0] <= number:
            self._unproven = [entry for entry in self._unproven if entry[0] > number]
            self._losses = 0

    def connection_ended(self, code: int | None = None) -> int | None:
        """Return the newly learned size of the largest packet, or None.

        Args:
            code: reason code of the broker's DISCONNECT packet; None: there was none.
        """
        since = self._clock() - SUSPECT_SECONDS
        suspects = [size for _, size, sent_at in self._unproven if sent_at >= since]
        self._unproven.clear()
        if not suspects or code not in (None, PACKET_TOO_LARGE):
            self._losses = 0
            return None
        self._losses += 1
        if code is None and self._losses < SUSPECT_LOSSES:
            return None
        self._losses = 0
        return max(suspects) - 1
