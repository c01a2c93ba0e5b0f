"""Exports of a collection: one at a time, only with enough disk space, and for a limited time."""

from __future__ import annotations

import contextlib
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_siamese.dashboard import limits
from edge_siamese.dashboard.state import AppState
from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import Daemon, until
from tests.edge_siamese.dashboard.serving import Client, dashboard_of, serving

Served = tuple[Daemon, Client, AppState]


@pytest.fixture
def served(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """One whose collection is large: more than the system holds of what nobody takes."""

    def export(path: Path) -> int:
        path.write_bytes(b"PK" + bytes(40_000_000))
        return 1

    with serving(tmp_path, bundle.path, monkeypatch) as (daemon, client):
        state = dashboard_of(daemon)._state
        assert state is not None
        monkeypatch.setattr(state.api, "export_to", export)
        yield daemon, client, state


def left(daemon: Daemon) -> list[Path]:
    return list((daemon.state / "outgoing").iterdir())


@contextlib.contextmanager
def one_that_takes_nothing(client: Client) -> Iterator[socket.socket]:
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", client.port))
        slow.sendall(b"GET /api/v1/collection HTTP/1.1\r\nHost: localhost\r\n\r\n")
        yield slow


def test_one_at_a_time(served: Served) -> None:
    daemon, client, state = served
    with one_that_takes_nothing(client):
        until(state.exporting.locked)
        for _ in range(3):
            got = client.get("collection")
            assert got.problem == (503, "Unavailable") and got.headers["Retry-After"] == "10"
        until(lambda: len(left(daemon)) == 1)
    until(lambda: not state.exporting.locked())
    assert left(daemon) == []
    assert len(client.get("collection").data) == 40_000_002


def test_it_may_not_take_for_ever(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, client, state = served
    monkeypatch.setattr(limits, "DOWNLOAD_SECONDS", 0.3)
    monkeypatch.setattr(limits, "MIN_BYTES_PER_SECOND", 10**12)
    with one_that_takes_nothing(client):
        until(state.exporting.locked)
        until(lambda: not state.exporting.locked())
        assert left(daemon) == []


def test_where_the_disk_is_nearly_full_nothing_is_written(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, client, state = served
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=64 << 20))
    got = client.get("collection")
    assert got.problem == (503, "Unavailable") and "the disk is nearly full" in got.json()["error"]
    assert left(daemon) == [] and not state.exporting.locked()
