"""Limits on what clients may cost: connections, requests and login attempts."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from edge_siamese.dashboard import app, limits, server
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.dashboard.limits import (
    ACCEPT_BATCH,
    MAX_ADDRESSES,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_ADDRESS,
    REFUSAL_PAUSE_SECONDS,
    ConnectionLimiter,
    LoginAttempts,
    Rate,
    RateLimiter,
    network_of,
)
from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import until
from tests.edge_siamese.dashboard.serving import Client, dashboard_of, make_certificate, serving
from tests.manual_clock import ManualClock

PASSWORD = "correct horse"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


# --- connections ---


class ManualLoop:
    """An event loop whose turns and timers a test runs by hand."""

    def __init__(self) -> None:
        self.reader: Callable[[], None] | None = None
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.started: list[socket.socket] = []

    def add_reader(self, _: socket.socket, callback: Callable[[], None]) -> None:
        self.reader = callback

    def remove_reader(self, _: socket.socket) -> None:
        self.reader = None

    def call_later(self, delay: float, callback: Callable[..., None], *arguments: Any) -> Any:
        self.timers.append((delay, lambda: callback(*arguments)))
        return self

    def create_task(self, coroutine: Any) -> Any:
        # `_start` waits for `connect_accepted_socket` below, which keeps the connection.
        with contextlib.suppress(StopIteration):
            coroutine.send(None)
        return self

    async def connect_accepted_socket(self, _: Any, connection: socket.socket) -> None:
        self.started.append(connection)

    def cancel(self) -> None: ...

    def add_done_callback(self, _: Any) -> None: ...

    def turn(self) -> None:
        """Run the accept loop once, if it is not paused."""
        if self.reader is not None:
            self.reader()

    def fire(self) -> float:
        """Run the only timer; its delay."""
        ((delay, callback),) = self.timers
        self.timers.clear()
        callback()
        return delay


class Accepting:
    """A connection limiter on a listener of loopback, with clients."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = ManualLoop()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.clients: list[socket.socket] = []
        self.address = "127.0.0.1"
        monkeypatch.setattr(limits, "_peer", lambda _: self.address)
        self.limiter = ConnectionLimiter(
            cast(Any, self.loop), cast(Any, None), self.listener, backlog=4 * ACCEPT_BATCH
        )

    def connect(self, count: int) -> list[socket.socket]:
        """Open connections; the kernel queues them."""
        new = [socket.create_connection(self.listener.getsockname(), timeout=10) for _ in range(count)]
        self.clients += new
        return new

    def accepted(self, count: int) -> list[socket.socket]:
        """Those of so many new connections that the limiter keeps."""
        new = self.connect(count)
        while self.loop.timers or queued(self.listener):
            self.loop.turn()
            if self.loop.timers:
                self.loop.fire()
        return [one for one in new if not closed(one)]

    def close(self, clients: list[socket.socket]) -> None:
        """Close connections at both ends."""
        ports = [one.getsockname()[1] for one in clients]
        for one in clients:
            one.close()
        for started in self.loop.started:
            if started.fileno() >= 0 and started.getpeername()[1] in ports:
                started.close()


def queued(listener: socket.socket) -> bool:
    return bool(select.select([listener], [], [], 0)[0])


def closed(client: socket.socket) -> bool:
    """Whether the other end has closed a connection."""
    return bool(select.select([client], [], [], 0)[0])


@pytest.fixture
def accepting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Accepting]:
    monkeypatch.setattr(limits, "CONNECTION_RATE", Rate(0.0001, 60.0))
    made = Accepting(monkeypatch)
    yield made
    made.limiter.close()
    for one in [made.listener, *made.clients, *made.loop.started]:
        one.close()


def test_one_address_has_half_of_the_connections(accepting: Accepting) -> None:
    accepting.address = "192.0.2.7"
    first = accepting.accepted(40)
    assert len(first) == MAX_CONNECTIONS_PER_ADDRESS
    accepting.address = "127.0.0.1"
    local = accepting.accepted(40)
    # Addresses are looked up again for each new connection, so these count as local now.
    assert len(local) == MAX_CONNECTIONS - MAX_CONNECTIONS_PER_ADDRESS
    accepting.close(first)
    assert len(accepting.accepted(40)) == MAX_CONNECTIONS_PER_ADDRESS


def test_one_address_opens_connections_at_a_bounded_rate(accepting: Accepting) -> None:
    accepting.address = "192.0.2.7"
    count = 0
    for _ in range(4):
        accepted = accepting.accepted(20)
        count += len(accepted)
        accepting.close(accepted)
    assert count == 60
    accepting.address = "192.0.2.8"
    assert len(accepting.accepted(20)) == 20
    accepting.address = "127.0.0.1"
    assert len(accepting.accepted(30)) == 30


def test_a_flood_is_refused_in_batches_with_pauses(
    accepting: Accepting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 0)
    clients = accepting.connect(2 * ACCEPT_BATCH + 50)
    for refused in (ACCEPT_BATCH, 2 * ACCEPT_BATCH, len(clients)):
        accepting.loop.turn()
        assert sum(map(closed, clients)) == refused
        assert accepting.loop.reader is None  # paused: further turns accept nothing
        accepting.loop.turn()
        assert sum(map(closed, clients)) == refused
        assert accepting.loop.fire() == REFUSAL_PAUSE_SECONDS
    accepting.loop.turn()  # nobody is refused, so there is no pause
    assert accepting.loop.reader is not None and accepting.loop.timers == []


def test_accepted_connections_cause_no_pause(accepting: Accepting) -> None:
    clients = accepting.connect(10)
    accepting.loop.turn()
    assert len(accepting.loop.started) == len(clients)
    assert accepting.loop.reader is not None and accepting.loop.timers == []


@pytest.fixture
def silent() -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    yield clients
    for one in clients:
        one.close()


@pytest.mark.parametrize("tls", [False, True])
def test_silent_connections_are_closed(
    tmp_path: Path,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    silent: list[socket.socket],
    tls: bool,
) -> None:
    monkeypatch.setattr(limits, "TLS_SECONDS", 2.0)
    monkeypatch.setattr(limits, "HEAD_SECONDS", 2.0)
    monkeypatch.setattr(limits, "WATCH_SECONDS", 0.2)
    more, context = "", None
    if tls:
        cert, key = make_certificate(tmp_path)
        more = f'certificate = "{cert}"\nkey = "{key}"'
        context = ssl.create_default_context(cafile=str(cert))
    with serving(tmp_path, bundle.path, monkeypatch, more) as (daemon, plain):
        silent += [socket.create_connection(("127.0.0.1", plain.port), timeout=10) for _ in range(300)]
        until(lambda: all(map(closed, silent)), 60)
        assert Client(plain.port, context).get("session").status == 200
        found = dashboard_of(daemon)._server
        assert found is not None
        until(lambda: len(found.server_state.connections) == 0)


# --- rates ---


def test_tokens_are_refilled(clock: ManualClock) -> None:
    rates = RateLimiter(Rate(2, 4), Rate(100, 100), clock)
    assert [rates.wait("192.0.2.1") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert rates.wait("192.0.2.2") == 0
    clock.now += 0.5
    assert [rates.wait("192.0.2.1") for _ in range(2)] == [0, 0.5]
    clock.now += 3600
    assert [rates.wait("192.0.2.1") for _ in range(5)] == [0, 0, 0, 0, 0.5]


def test_all_addresses_share_a_rate_and_an_ipv6_network_is_one_address(clock: ManualClock) -> None:
    rates = RateLimiter(Rate(1, 2), Rate(2, 4), clock)
    assert [rates.wait(f"2001:db8::{number}") for number in range(3)] == [0, 0, 1]
    assert [rates.wait(f"192.0.2.{number}") for number in range(3)] == [0, 0, 0.5]
    assert rates.wait("") == 0.5
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert network_of("2001:db8::1%eth0") == "2001:db8::/64"
    assert network_of("a socket") == "a socket"


def test_the_number_of_remembered_addresses_is_bounded(clock: ManualClock) -> None:
    rates = RateLimiter(Rate(1, 1), Rate(1, 10**6), clock)
    for number in range(MAX_ADDRESSES + 50):
        assert rates.wait(f"10.0.{number // 250}.{number % 250}") == 0
    assert len(rates._buckets) == MAX_ADDRESSES


# --- login attempts ---


def test_each_failure_doubles_the_delay(clock: ManualClock) -> None:
    attempts, waits = LoginAttempts(clock), []
    for _ in range(14):
        waits.append(attempts.begin("10.0.0.1"))
        clock.now += waits[-1]
        if waits[-1]:
            assert attempts.begin("10.0.0.1") == 0
    assert waits == [0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    clock.now += 3601
    assert [attempts.begin("10.0.0.1") for _ in range(3)] == [0, 0, 0]


def test_the_delay_stays_after_days_of_failures(clock: ManualClock) -> None:
    attempts = LoginAttempts(clock)
    for _ in range(1100):
        clock.now += 300
        assert attempts.begin("10.0.0.1") == 0
    assert attempts.begin("10.0.0.1") == 300


def test_failures_of_one_address_do_not_delay_another(clock: ManualClock) -> None:
    attempts = LoginAttempts(clock)
    for _ in range(3):
        assert attempts.begin("10.0.0.1") == 0
    assert attempts.begin("10.0.0.1") > 0
    assert attempts.begin("10.0.0.2") == 0


def test_failures_of_an_ipv6_network_count_together(clock: ManualClock) -> None:
    attempts = LoginAttempts(clock)
    for number in range(3):
        assert attempts.begin(f"2001:db8:1:1::{number}") == 0
    assert attempts.begin("2001:db8:1:1:ffff::9") > 0
    assert attempts.begin("2001:db8:1:2::9") == 0
    assert attempts.begin("::ffff:10.0.0.1") == 0


def test_failures_of_many_addresses_delay_everybody(clock: ManualClock) -> None:
    attempts = LoginAttempts(clock)
    for number in range(30):
        assert attempts.begin(f"10.0.1.{number}") == 0
    assert attempts.begin("10.0.2.1") == pytest.approx(2.0)
    clock.now += 2
    assert attempts.begin("10.0.2.1") == 0
    assert attempts.begin("10.0.2.2") > 0
    clock.now += 61
    assert attempts.begin("10.0.2.2") == 0


def test_a_success_takes_back_its_own_attempt_only(clock: ManualClock) -> None:
    attempts = LoginAttempts(clock)
    assert attempts.begin("10.0.0.1") == 0
    clock.now += 1
    for number in range(29):
        assert attempts.begin(f"10.0.1.{number}") == 0
    attempts.succeeded("10.0.0.1")
    assert attempts.begin("10.0.2.1") == 0  # the thirtieth
    assert attempts.begin("10.0.2.2") == pytest.approx(2.0)
    clock.now += 59.5  # failures of others keep their age
    assert attempts.begin("10.0.2.3") == 0
    assert [key for key, _ in attempts._recent][:2] == ["10.0.1.1", "10.0.1.2"]


def test_the_number_of_addresses_with_failures_is_bounded(clock: ManualClock) -> None:
    attempts = LoginAttempts(clock)
    for number in range(3000):
        clock.now += 3
        attempts.begin(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}")
    assert len(attempts._failures) == 1000


# --- requests without a login ---


@pytest.fixture
def remote(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of a dashboard with a password, which takes it for one on another machine."""
    monkeypatch.setattr(app, "is_loopback", lambda _: False)
    # So slow that no token comes back while a test runs, however long that takes.
    monkeypatch.setattr(limits, "REQUEST_RATE", Rate(0.0001, 100.0))
    CredentialsFile(tmp_path / "state").set_password(PASSWORD)
    with serving(tmp_path, bundle.path, monkeypatch) as (_, client):
        yield client


def test_a_stranger_can_load_the_page_and_log_in_and_is_not_limited_then(remote: Client) -> None:
    for path in ("/", *(f"/static/{name}" for name in app.page_files()), "session", "status"):
        assert remote.get(path).status in (200, 401), path
    remote.come_in(PASSWORD)
    assert {remote.get(path).status for path in ("/", "status", "session") * 60} == {200}
    stranger = Client(remote.port)
    found = [stranger.get("session").status for _ in range(100)]
    assert found.count(429) > 20 and found[-1] == 429
    assert remote.get("status").status == 200


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/nothing", "session", "openapi.json", "status"])
def test_every_request_without_a_login_is_limited(remote: Client, path: str) -> None:
    for _ in range(101):
        remote.get(path)
    got = remote.get(path)
    assert got.problem == (429, "TooMany") and got.headers["Connection"] == "close"
    assert int(got.headers["Retry-After"]) >= 1 and got.headers["X-Frame-Options"] == "DENY"
    for headers in ({"Authorization": "Bearer x"}, {"Cookie": "a=b"}, {"Host": "evil.example"}):
        assert remote.get(path, headers=headers).status == 429


def test_the_wait_of_a_limited_request_is_at_least_a_second(
    remote: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RateLimiter, "wait", lambda *_: 0.05)
    assert remote.get("session").headers["Retry-After"] == "1"


def test_strangers_behind_a_proxy_are_counted_together(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TOTAL_REQUEST_RATE", Rate(0.0001, 5.0))
    CredentialsFile(tmp_path / "state").set_password(PASSWORD)
    with serving(tmp_path, bundle.path, monkeypatch, 'allowed_hosts = ["home.example"]') as (_, proxy):
        assert [proxy.get("session").status for _ in range(6)] == [200] * 5 + [429]


def test_the_description_is_made_once(remote: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    first = remote.get("openapi.json")
    monkeypatch.setattr(app, "describe", None)
    again = remote.get("openapi.json")
    assert first.json() == again.json() and first.json()["openapi"] == "3.1.0"


def test_files_of_the_page_are_served_as_they_are(remote: Client) -> None:
    assert {path.name for path in app.STATIC.iterdir()} == set(app.page_files())
    for name in app.page_files():
        got = remote.get(f"/static/{name}")
        assert got.data == (app.STATIC / name).read_bytes() and got.data
        kind = app.MEDIA_TYPES[Path(name).suffix]
        charset = "; charset=utf-8" if kind.startswith("text/") else ""
        assert got.headers["Content-Type"] == kind + charset
        tag = got.headers["ETag"]
        same = remote.get(f"/static/{name}", headers={"If-None-Match": f'"x", W/{tag}'})
        assert (same.status, same.data, same.headers["ETag"]) == (304, b"", tag)
    connection = http.client.HTTPConnection("127.0.0.1", remote.port, timeout=5)
    connection.request("HEAD", "/")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    assert int(answer.headers["Content-Length"]) == (app.STATIC / "index.html").stat().st_size
    connection.close()


# --- documentation ---


def test_the_page_on_security_states_the_limits() -> None:
    text = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
    connections, requests = limits.CONNECTION_RATE, limits.REQUEST_RATE
    all_connections, all_requests = limits.TOTAL_CONNECTION_RATE, limits.TOTAL_REQUEST_RATE
    for statement in (
        f"| connections | {MAX_CONNECTIONS}, at most {MAX_CONNECTIONS_PER_ADDRESS} of one address,",
        f"| {connections.per_second:.0f} a second of one address ({connections.burst:.0f} at first), "
        f"{all_connections.per_second:.0f} of all ({all_connections.burst:.0f} at first); "
        f"after a refused one, the next are accepted {REFUSAL_PAUSE_SECONDS} s later |",
        f"| TLS handshake | {limits.TLS_SECONDS:.0f} s |",
        f"| request head | {server.MAX_HEAD_BYTES // 1024} KB, {limits.HEAD_SECONDS:.0f} s |",
        f"| JSON body | {limits.MAX_JSON_BYTES // 1024} KB, {limits.JSON_SECONDS:.0f} s |",
        f"| picture | `max_upload_bytes`, {limits.PICTURE_SECONDS:.0f} s, two at a time |",
        f"downloads {limits.DOWNLOAD_SECONDS:.0f} s and a second for each "
        f"{limits.MIN_BYTES_PER_SECOND // 1000} KB |",
        f"| pause within a body | {limits.CHUNK_SECONDS:.0f} s |",
        f"| client that reads nothing | {limits.STUCK_SECONDS:.0f} s |",
        f"| {requests.per_second:.0f} a second of one address ({requests.burst:.0f} at first), "
        f"{all_requests.per_second:.0f} of all ({all_requests.burst:.0f} at first), in one thread |",
        f"| login attempts | {limits.FREE_ATTEMPTS}, then one after 1, 2, 4 … "
        f"{limits.MAX_DELAY_SECONDS:.0f} s; {limits.TOTAL_ATTEMPTS} a minute of all, then one every "
        f"{limits.SLOW_ATTEMPT_SECONDS:.0f} s |",
    ):
        assert statement in text, statement
    assert limits.ARCHIVE_SECONDS == 3600 and limits.TOTAL_ATTEMPTS_SECONDS == 60
