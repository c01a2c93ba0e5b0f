"""A daemon with its dashboard on a free port of the loopback interface, and an HTTP client."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.dashboard.server import Dashboard
from tests.edge_siamese.daemon.running import Daemon, daemon_in, until

TABLE = """
[dashboard]
enabled = true
port = {port}
{more}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@dataclass
class Got:
    """An answer."""

    status: int
    headers: http.client.HTTPMessage
    data: bytes

    def json(self) -> Any:
        assert self.headers["Content-Type"] == "application/json"
        return json.loads(self.data)

    @property
    def problem(self) -> tuple[int, str]:
        """Status and kind."""
        return self.status, self.json()["kind"]


class Client:
    """A program at the other end; keeps the cookie and the token for changes, as a page does."""

    def __init__(self, port: int, context: ssl.SSLContext | None = None) -> None:
        self.port, self.context = port, context
        self.headers: dict[str, str] = {}

    def connect(self) -> http.client.HTTPConnection:
        if self.context is not None:
            return http.client.HTTPSConnection("localhost", self.port, timeout=20, context=self.context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(
        self,
        method: str,
        path: str,
        value: Any = None,
        *,
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Got:
        """One request; `value` goes as JSON. A path without a slash before it is below the prefix."""
        sent = {**self.headers, **(headers or {})}
        if value is not None:
            data = json.dumps(value).encode()
            sent.setdefault("Content-Type", "application/json")
        connection = self.connect()
        try:
            address = path if path.startswith("/") else f"/api/v1/{path}"
            connection.request(method, address, data, {k: v for k, v in sent.items() if v})
            answer = connection.getresponse()
            return Got(answer.status, answer.headers, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **more: Any) -> Got:
        return self.ask("GET", path, **more)

    def come_in(self, password: str = "") -> Client:
        """What a page does first."""
        if password:
            got = self.ask("POST", "login", {"password": password})
            assert got.status == 200, got.data
            self.headers["Cookie"] = got.headers["Set-Cookie"].partition(";")[0]
        self.headers["X-CSRF-Token"] = self.get("session").json()["csrf"]
        return self

    @contextmanager
    def stream(self, path: str = "stream", **headers: str) -> Iterator[Events]:
        """Follow what happens."""
        connection = self.connect()
        connection.request("GET", f"/api/v1/{path}", headers={**self.headers, **headers})
        try:
            yield Events(connection.getresponse())
        finally:
            connection.close()


class Events:
    """Server-sent events; those of a kind one after the other."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status, self.answer = answer.status, answer
        self._passed: list[tuple[str, dict[str, Any]]] = []

    def next(self, kind: str) -> dict[str, Any]:
        """The next one of this kind."""
        for place, (found, value) in enumerate(self._passed):
            if found == kind:
                del self._passed[place]
                return value
        while True:
            found, value = self._read()
            if found == kind:
                return value
            self._passed.append((found, value))

    def _read(self) -> tuple[str, dict[str, Any]]:
        found: dict[str, str] = {}
        while line := self.answer.readline().decode():
            name, _, value = line.strip().partition(": ")
            if name:
                found[name] = value
            elif "event" in found:
                return found["event"], {"id": found.get("id"), **json.loads(found["data"])}
        raise EOFError("the stream has ended")


@contextmanager
def serving(
    home: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, more: str = "", *, wait: bool = True
) -> Iterator[tuple[Daemon, Client]]:
    """A daemon that recognizes, with its dashboard."""
    port = free_port()
    with daemon_in(home, monkeypatch) as daemon:
        daemon.configure(bundle)
        with daemon.config.open("a") as file:
            file.write(TABLE.format(port=port, more=more))
        daemon.start().up()
        if wait:
            until(lambda: daemon.events("dashboard"))
        yield daemon, Client(port)


def lose_camera(daemon: Daemon) -> None:
    """Make the camera hang, and wait until the daemon shows no frame any more."""
    daemon.stage.hangs = True
    until(lambda: daemon.service.engine is not None and daemon.service.engine.current_view is None)


def dashboard_of(daemon: Daemon) -> Dashboard:
    (slot,) = (slot for slot in daemon.service.integrations._slots if slot.spec.kind == "dashboard")
    assert isinstance(slot.instance, Dashboard)
    return slot.instance


def make_certificate(folder: Path) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"
