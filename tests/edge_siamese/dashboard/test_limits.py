"""Connections are counted before anything is spent on them: who opens many, and who opens them often."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_siamese.dashboard import limits
from edge_siamese.dashboard.limits import ConnectionLimiter
from edge_siamese.dashboard.limits import MAX_ADDRESSES, network_of
from edge_siamese.dashboard.limits import RateLimiter
from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import until
from tests.edge_siamese.dashboard.serving import Client, dashboard_of, serving
from tests.edge_siamese.dashboard.test_server import make_certificate


def still_open(held: list[socket.socket]) -> int:
    """How many of these the other end has not closed."""
    readable, _, _ = select.select(held, [], [], 0)
    return len(held) - len(readable)


@pytest.fixture
def silent() -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        held: list[socket.socket] = []
        stack.callback(lambda: [one.close() for one in held])
        yield held


@pytest.mark.parametrize("tls", [False, True])
def test_many_that_say_nothing_are_not_kept(
    tmp_path: Path,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    silent: list[socket.socket],
    tls: bool,
) -> None:
    monkeypatch.setattr(limits, "TLS_SECONDS", 2.0)
    monkeypatch.setattr(server, "HEAD_SECONDS", 2.0)
    monkeypatch.setattr(server, "WATCH_SECONDS", 0.2)
    more, context = "", None
    if tls:
        cert, key = make_certificate(tmp_path)
        more = f'certificate = "{cert}"\nkey = "{key}"'
        context = ssl.create_default_context(cafile=str(cert))
    with serving(tmp_path, bundle.path, monkeypatch, more) as (daemon, plain):
        silent += [socket.create_connection(("127.0.0.1", plain.port), timeout=10) for _ in range(300)]
        until(lambda: still_open(silent) <= limits.MAX_CONNECTIONS)
        began = time.monotonic()
        until(lambda: still_open(silent) == 0)
        assert time.monotonic() - began < 5
        assert Client(plain.port, context).get("session").status == 200
        found = dashboard_of(daemon)._server
        assert found is not None
        until(lambda: len(found.server_state.connections) == 0)


Opened = tuple[socket.socket, list[socket.socket]]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """A gate on a loop of its own, where it stands, and those who came."""
    monkeypatch.setattr(limits, "PER_ADDRESS", (0.1, 60.0))
    listening, held = socket.create_server(("127.0.0.1", 0)), list[socket.socket]()
    loop = asyncio.new_event_loop()
    made = loop.run_until_complete(_gate(loop, listening))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield listening, held
    loop.call_soon_threadsafe(made.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()
    for one in [listening, *held]:
        one.close()


async def _gate(loop: asyncio.AbstractEventLoop, listening: socket.socket) -> ConnectionLimiter:
    return ConnectionLimiter(loop, asyncio.Protocol, listening)


def taken(opened: Opened, count: int) -> list[socket.socket]:
    """Of so many new connections those that stay open."""
    listening, held = opened
    new = [socket.create_connection(listening.getsockname()) for _ in range(count)]
    held += new
    left, end = len(new), time.monotonic() + 1.0
    while time.monotonic() < end:  # all have been looked at once no more are closed
        time.sleep(0.25)
        if (now := still_open(new)) == left and now < count:
            break
        left = now
    readable, _, _ = select.select(new, [], [], 0)
    return [one for one in new if one not in readable]


def test_one_address_has_half_of_them(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "192.0.2.7"
    monkeypatch.setattr(limits, "_peer", lambda _: address)
    first = taken(opened, 40)
    assert len(first) == limits.MAX_CONNECTIONS_PER_ADDRESS
    monkeypatch.setattr(limits, "_peer", lambda _: "127.0.0.1")
    assert len(taken(opened, 40)) == limits.MAX_CONNECTIONS - limits.MAX_CONNECTIONS_PER_ADDRESS
    for one in first:
        one.close()
    time.sleep(0.3)  # until that is known at the other end
    assert len(taken(opened, 40)) == limits.MAX_CONNECTIONS_PER_ADDRESS


def test_one_address_has_them_not_too_often(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "192.0.2.7"
    monkeypatch.setattr(limits, "_peer", lambda _: address)
    came = 0
    for _ in range(4):
        found = taken(opened, 20)
        came += len(found)
        for one in found:
            one.close()
    assert came == 60
    address = "192.0.2.8"
    assert len(taken(opened, 20)) == 20
    address = "127.0.0.1"
    assert len(taken(opened, 30)) == 30


def test_to_turn_thousands_away_takes_little_time(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTIONS", 0)
    ended, came = time.monotonic() + 1.0, 0
    while time.monotonic() < ended:
        with socket.create_connection(opened[0].getsockname()) as one:
            one.recv(1)
            came += 1
    assert came <= 15  # one after the other: each of them waits for the end of a pause


def test_what_is_left_grows_again() -> None:
    now = 1000.0
    rates = RateLimiter((2, 4), (100, 100), lambda: now)
    assert [rates.wait("192.0.2.1") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert rates.wait("192.0.2.2") == 0
    now += 0.5
    assert [rates.wait("192.0.2.1") for _ in range(2)] == [0, 0.5]
    now += 3600
    assert [rates.wait("192.0.2.1") for _ in range(5)] == [0, 0, 0, 0, 0.5]


def test_all_together_have_a_bound_too_and_an_ipv6_host_is_one() -> None:
    rates = RateLimiter((1, 2), (2, 4), lambda: 0.0)
    assert [rates.wait(f"2001:db8::{number}") for number in range(3)] == [0, 0, 1]
    assert [rates.wait(f"192.0.2.{number}") for number in range(3)] == [0, 0, 0.5]
    assert rates.wait("") == 0.5
    assert network_of("::ffff:192.0.2.1") == "192.0.2.1"


def test_only_so_many_addresses_are_known() -> None:
    rates = RateLimiter((1, 1), (1, 10**6), lambda: 0.0)
    for number in range(MAX_ADDRESSES + 50):
        assert rates.wait(f"10.0.{number // 250}.{number % 250}") == 0
    assert len(rates._known) == MAX_ADDRESSES
