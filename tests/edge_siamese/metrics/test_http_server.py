"""The HTTP server of the metrics: what it refuses, and that no client blocks it."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.errors import ControlError
from edge_siamese.metrics.http_server import ResponseCache, Server, restrict
from tests.edge_siamese.daemon.running import until

LONG = 60.0  # seconds: only a test that fails waits this long

COMMAND = Path("/proc/self/comm").read_text().strip()


def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"all is well\n"]


@contextmanager
def served(app: Any = answer, listen: str = "127.0.0.1", **options: Any) -> Iterator[Server]:
    server = Server(restrict(app, "/metrics", listen), listen, 0, **options)
    try:
        yield server
    finally:
        server.close(1)


def get(
    server: Server, path: str = "/metrics", address: str = "127.0.0.1", **headers: str
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(address, server.port, timeout=LONG)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_only_one_path_is_served() -> None:
    with served() as server:
        assert get(server) == get(server, "/metrics?name[]=up") == (200, "all is well\n")
        for path in ("/", "/metrics/", "/metrics/x", "/favicon.ico", "/../metrics"):
            assert get(server, path) == (404, "the only path is /metrics\n"), path


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:9477", "LOCALHOST:1", "[::1]:9477", "127.8.9.1", "localhost."]
)
def test_loopback_names_are_accepted_on_loopback(host: str) -> None:
    with served() as server:
        assert get(server, Host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9477", "127.0.0.1.evil.example", "", "[::2]", "::1:1:x"]
)
def test_foreign_names_are_refused_on_loopback(host: str) -> None:
    with served() as server:
        assert get(server, Host=host) == (403, "use the host name 127.0.0.1 or localhost\n")


def test_any_name_is_accepted_on_the_network() -> None:
    with served(listen="0.0.0.0") as server:
        assert get(server, Host="shelf.local:9477")[0] == 200


def test_ipv6_works() -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("there is no IPv6 here")
    with served(listen="::1") as server:
        assert get(server, address="::1")[0] == 200


def test_a_port_in_use_is_reported() -> None:
    with served() as server:
        with pytest.raises(ControlError) as caught:
            Server(answer, "127.0.0.1", server.port)
        assert (
            str(caught.value) == f"cannot listen at 127.0.0.1, port {server.port}: Address already in use; "
            f"process {os.getpid()} ({COMMAND}) uses it: set another port in [metrics]"
        )
    # And is free at once when it is closed.
    Server(answer, "127.0.0.1", server.port).close(1)


def test_an_invalid_address_is_reported() -> None:
    with pytest.raises(ControlError, match=r"^cannot listen at 192\.0\.2\.1, port 1: "):
        Server(answer, "192.0.2.1", 1)
    with pytest.raises(ControlError, match=r"^cannot listen at nowhere\.invalid, port 1: "):
        Server(answer, "nowhere.invalid", 1)


def test_a_client_that_sends_byte_by_byte_is_cut_off() -> None:
    with (
        served(requests=1, request_s=0.5) as server,
        socket.create_connection(("127.0.0.1", server.port)) as slow,
    ):
        started = time.monotonic()
        slow.settimeout(0.05)
        until(lambda: ended(slow), LONG)
        assert time.monotonic() - started > 0.4
        # Its place is free again.
        until(lambda: get_or_nothing(server) == 200, LONG)


def ended(slow: socket.socket) -> bool:
    """Send one more byte of a line that never ends; whether the server has had enough."""
    try:
        slow.sendall(b"G")
        return slow.recv(100) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def get_or_nothing(server: Server) -> int:
    try:
        return get(server)[0]
    except (OSError, http.client.HTTPException):
        return 0


def test_requests_beyond_the_limit_are_closed_at_once() -> None:
    free, inside = threading.Event(), threading.Semaphore(0)

    def waits(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        inside.release()
        free.wait(LONG)
        return answer(environ, start_response)

    with served(waits, requests=2) as server:
        found: list[int] = []
        clients = [threading.Thread(target=lambda: found.append(get(server)[0])) for _ in range(2)]
        before = threading.active_count()
        for client in clients:
            client.start()
        assert inside.acquire(timeout=LONG) and inside.acquire(timeout=LONG)
        # While both places are taken: nobody waits for one.
        assert [get_or_nothing(server) for _ in range(20)] == [0] * 20
        assert not found
        assert threading.active_count() <= before + 4  # two clients and two answers
        free.set()
        for client in clients:
            client.join(LONG)
        assert found == [200, 200]


def test_closing_does_not_wait_for_a_request_that_hangs() -> None:
    free, inside = threading.Event(), threading.Event()

    def hangs(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        inside.set()
        free.wait(LONG)
        return answer(environ, start_response)

    server = Server(hangs, "127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        assert inside.wait(LONG)
        server.close(0.5)
        assert not free.is_set()
        free.set()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), timeout=1)


class Counted:
    """An application that counts how often it is asked, and by how many at a time."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.inside = self.most = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.02)  # time for other threads to come in, if they could
        self.asked.append((environ["QUERY_STRING"], environ["HTTP_ACCEPT"], environ["HTTP_ACCEPT_ENCODING"]))
        self.inside -= 1
        return answer(environ, start_response)


def test_a_flood_computes_one_response_a_second() -> None:
    now, app = 0.0, Counted()
    with served(ResponseCache(app, 1.0, lambda: now)) as server:
        for number in range(40):
            assert get(server, "/metrics", Accept=f"a/{number}") == (200, "all is well\n")
        assert app.asked == [("", "text/plain", "identity")]
        now = 0.9
        assert get(server)[0] == 200 and len(app.asked) == 1
        now = 1.0
        assert get(server)[0] == 200 and len(app.asked) == 2


def test_a_flood_of_different_queries_computes_eight_responses() -> None:
    now, app = 0.0, Counted()
    with served(ResponseCache(app, 1.0, lambda: now)) as server:
        found = [get(server, f"/metrics?name[]={number}") for number in range(40)]
        assert found == [(200, "all is well\n")] * 8 + [(503, "too many different queries\n")] * 32
        assert [query for query, *_ in app.asked] == [f"name[]={number}" for number in range(8)]
        now = 1.0
        assert get(server)[0] == 200


def test_one_response_serves_all_waiting_clients() -> None:
    app = Counted()
    with served(ResponseCache(app, 60.0)) as server:
        clients = [threading.Thread(target=lambda: get_or_nothing(server)) for _ in range(8)]
        for client in clients:
            client.start()
        for client in clients:
            client.join(LONG)
    assert (len(app.asked), app.most) == (1, 1)


def test_responses_are_cached_by_accepted_format() -> None:
    app = Counted()
    with served(ResponseCache(app, 60.0)) as server:
        for _ in range(3):
            get(server, Accept="application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1")
            get(server, **{"Accept-Encoding": "gzip"})
    assert [asked[1:] for asked in app.asked] == [
        ("application/openmetrics-text; version=1.0.0", "identity"),
        ("text/plain", "gzip"),
    ]


def test_only_get_is_allowed() -> None:
    with served(ResponseCache(answer)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        connection.request("DELETE", "/metrics")
        assert connection.getresponse().status == 405
        connection.close()
