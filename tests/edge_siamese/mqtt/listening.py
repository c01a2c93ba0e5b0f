"""A broker of a few lines: accepts connections, answers as it is told, and keeps what was sent."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

CONNECT, PUBLISH, SUBSCRIBE, PINGREQ, DISCONNECT = 0x10, 0x30, 0x80, 0xC0, 0xE0


class Listener:
    """Answers each connection with the next of its answers to CONNECT; acknowledges publications of quality 1."""

    def __init__(self, *answers: bytes) -> None:
        """`answers`: CONNACK packets; empty ones end the connection, and when all are used the last one is again."""
        self._answers = list(answers)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.versions: list[int] = []
        """Of the protocol, of each CONNECT."""
        self.published: list[tuple[str, bytes, int]] = []
        """Topic, payload (with what MQTT 5 puts before it) and flags of each PUBLISH."""
        self.acknowledge = True
        self.refuse: set[str] = set()
        """Topics to which nobody may publish."""
        self._open: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while (packet := _packet(connection)) is not None:
                self._take(connection, *packet)
        except OSError:
            pass  # the other end has gone

    def _take(self, connection: socket.socket, head: int, body: bytes) -> None:
        kind = head & 0xF0
        if kind == CONNECT:
            self.versions.append(body[6])
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            if not answer:
                connection.close()
                return
            connection.sendall(answer)
        elif kind == PUBLISH:
            length = int.from_bytes(body[:2], "big")
            topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
            if head & 0x06:
                number, rest = rest[:2], rest[2:]
                if topic in self.refuse:
                    connection.sendall(b"\x40\x03" + number + b"\x87")
                elif self.acknowledge:
                    connection.sendall(b"\x40\x02" + number)
            self.published.append((topic, rest, head & 0x0F))

    def answer(self, *answers: bytes) -> None:
        """From now on, answer so."""
        self._answers = list(answers)

    def drop(self) -> None:
        """End all connections."""
        for connection in self._open:
            with suppress(OSError):  # it has ended already
                connection.shutdown(socket.SHUT_RDWR)  # ends what another thread reads
            connection.close()
        self._open.clear()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self.drop()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _packet(connection: socket.socket) -> tuple[int, bytes] | None:
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
