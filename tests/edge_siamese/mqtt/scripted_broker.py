"""A minimal broker whose answers a test scripts."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

CONNECT, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, PING = 0x10, 0x30, 0x80, 0xA0, 0xC0
ACCEPTED_5, ACCEPTED_311 = b"\x20\x03\x00\x00\x00", b"\x20\x02\x00\x00"
UNSUPPORTED_VERSION = b"\x20\x02\x00\x01"
BAD_USER_5, NOT_AUTHORIZED_5, BAD_USER_311 = (
    b"\x20\x03\x00\x86\x00",
    b"\x20\x03\x00\x87\x00",
    b"\x20\x02\x00\x04",
)


DISCONNECT = 0xE0
MAXIMUM_QOS, RETAIN_AVAILABLE, WILDCARDS_AVAILABLE = 0x24, 0x25, 0x28
RECEIVE_MAXIMUM, SERVER_KEEP_ALIVE, MAXIMUM_PACKET_SIZE = 0x21, 0x13, 0x27


def accepted_5(**limits: int) -> bytes:
    """CONNACK of MQTT 5 with properties: `max_qos`, `retain`, `wildcards`, `receive`, `keep_alive`, `size`."""
    sizes = {
        "max_qos": (MAXIMUM_QOS, 1),
        "retain": (RETAIN_AVAILABLE, 1),
        "wildcards": (WILDCARDS_AVAILABLE, 1),
        "receive": (RECEIVE_MAXIMUM, 2),
        "keep_alive": (SERVER_KEEP_ALIVE, 2),
        "size": (MAXIMUM_PACKET_SIZE, 4),
    }
    properties = b""
    for name, value in limits.items():
        code, length = sizes[name]
        properties += bytes([code]) + value.to_bytes(length, "big")
    return bytes([0x20, 3 + len(properties), 0, 0, len(properties)]) + properties


def refused_5(code: int) -> bytes:
    """CONNACK of MQTT 5 that refuses with a reason code."""
    return bytes([0x20, 3, 0, code, 0])


class ScriptedBroker:
    """Answers each CONNECT with the next of its CONNACK packets, the last one again and again.

    Publications of QoS 1 and subscriptions are acknowledged.
    """

    def __init__(self, *answers: bytes) -> None:
        """`answers`: CONNACK packets; an empty one ends the connection."""
        self._answers = list(answers)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.connects: list[bytes] = []
        self.versions: list[int] = []
        """Protocol version of each CONNECT."""
        self.published: list[tuple[str, bytes, int]] = []
        """Topic, payload (with the properties of MQTT 5 before it) and flags of each PUBLISH."""
        self.subscribed: list[str] = []
        """Pattern of each SUBSCRIBE."""
        self.unsubscribed: list[str] = []
        self.pings = 0
        self.acknowledge = True
        self.acknowledge_later: list[tuple[socket.socket, bytes]] | None = None
        """A list keeps acknowledgments until `release`."""
        self.most_unacknowledged = 0
        self.max_bytes: int | None = None
        """Size of the largest packet; a larger one ends the connection."""
        self.reason: int | None = None
        """Reason code of the DISCONNECT packet before that; None: there is none."""
        self.wills: list[tuple[int, bool]] = []
        """QoS and retain flag of the last will of each CONNECT."""
        self.topics: list[list[str]] = []
        """Topics published in each connection, in order."""
        self.refuse: set[str] = set()
        """Topics that nobody may publish to, and patterns that nobody may subscribe to."""
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def send(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Publish to all clients, as MQTT 5 with QoS 0."""
        body = len(topic).to_bytes(2, "big") + topic.encode() + b"\x00" + payload
        for connection in self._connections:
            connection.sendall(bytes([PUBLISH | retain, len(body)]) + body)

    def disconnect(self, code: int) -> None:
        """End all connections with a DISCONNECT packet of MQTT 5."""
        for connection in self._connections:
            connection.sendall(bytes([DISCONNECT, 1, code]))
        self.drop()

    def release(self) -> None:
        """Send one acknowledgment that is kept."""
        assert self.acknowledge_later
        connection, packet = self.acknowledge_later.pop(0)
        connection.sendall(packet)

    def answer(self, *answers: bytes) -> None:
        """Replace the CONNACK packets."""
        self._answers = list(answers)

    def drop(self) -> None:
        """End all connections."""
        for connection in self._connections:
            with suppress(OSError):  # it has ended already
                connection.shutdown(socket.SHUT_RDWR)  # interrupts the thread that reads it
            connection.close()
        self._connections.clear()

    def close(self) -> None:
        """End all connections and accept no more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.drop()

    def __enter__(self) -> ScriptedBroker:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):  # the client has disconnected
            while (packet := _read_packet(connection)) is not None:
                head, body = packet
                size = 1 + (1 if len(body) < 128 else 2 if len(body) < 128**2 else 3) + len(body)
                if self.max_bytes is not None and size > self.max_bytes:
                    if self.reason is not None:
                        connection.sendall(bytes([DISCONNECT, 1, self.reason]))
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(65536):  # unread bytes would reset the connection
                            pass
                    connection.close()
                    return
                self._handle(connection, head, body)

    def _handle(self, connection: socket.socket, head: int, body: bytes) -> None:
        kind = head & 0xF0
        if kind == CONNECT:
            self.connects.append(body)
            self.versions.append(body[6])
            self.wills.append((body[7] >> 3 & 3, bool(body[7] & 0x20)))
            self.topics.append([])
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            if not answer:
                connection.close()
                return
            connection.sendall(answer)
        elif kind == PUBLISH:
            self._handle_publish(connection, head, body)
        elif kind == PING:
            self.pings += 1
            connection.sendall(b"\xd0\x00")
        elif kind in (SUBSCRIBE, UNSUBSCRIBE):
            length = int.from_bytes(body[3:5], "big")
            pattern = body[5 : 5 + length].decode()
            (self.subscribed if kind == SUBSCRIBE else self.unsubscribed).append(pattern)
            code = b"\x87" if pattern in self.refuse else b"\x00"
            answer_kind = b"\x90" if kind == SUBSCRIBE else b"\xb0"
            connection.sendall(answer_kind + b"\x04" + body[:2] + b"\x00" + code)

    def _handle_publish(self, connection: socket.socket, head: int, body: bytes) -> None:
        length = int.from_bytes(body[:2], "big")
        topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
        if head & 0x06:
            number, rest = rest[:2], rest[2:]
            if topic in self.refuse:
                connection.sendall(b"\x40\x03" + number + b"\x87")
            elif self.acknowledge_later is not None:
                self.acknowledge_later.append((connection, b"\x40\x02" + number))
                self.most_unacknowledged = max(self.most_unacknowledged, len(self.acknowledge_later))
            elif self.acknowledge:
                connection.sendall(b"\x40\x02" + number)
        self.topics[-1].append(topic)
        self.published.append((topic, rest, head & 0x0F))


def _read_packet(connection: socket.socket) -> tuple[int, bytes] | None:
    head = connection.recv(1)
    if not head:
        return None
    length, shift = 0, 0
    while True:
        byte = connection.recv(1)[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return head[0], body
