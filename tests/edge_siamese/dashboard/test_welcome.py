"""A token that is revoked ends at once what goes on with it: the stream, and waiting for a picture."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import Daemon, until
from tests.edge_siamese.dashboard.serving import Client, Got, serving

Served = tuple[Daemon, Client]


@pytest.fixture
def served(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """One to which a program has a token."""
    file = CredentialsFile(tmp_path / "state")
    token = file.add_token("grafana")
    with serving(tmp_path, bundle.path, monkeypatch) as (daemon, client):
        client.headers["Authorization"] = f"Bearer {token}"
        yield daemon, client


def test_a_stream_on_which_nothing_comes(served: Served) -> None:
    daemon, client = served
    with client.stream() as events:
        events.next("status")
        CredentialsFile(daemon.state).revoke("grafana")
        began = time.monotonic()
        with pytest.raises(EOFError):
            events.next("never")
        assert time.monotonic() - began < 3  # no ping, which comes after 15 s


def test_of_what_happens_afterward_nothing_is_told(served: Served) -> None:
    daemon, client = served
    with client.stream() as events:
        events.next("status")
        CredentialsFile(daemon.state).revoke("grafana")
        daemon.ask("reload")
        with pytest.raises(EOFError):
            events.next("never")
        assert [kind for kind, _ in events._passed if kind == "event"] == []


def test_who_waits_for_a_picture(served: Served) -> None:
    daemon, client = served
    daemon.stage.hangs = True
    until(lambda: daemon.service.hardware.state and daemon.service.hardware.state.status != "running")
    found: list[Got] = []
    waiting = threading.Thread(target=lambda: found.append(client.get("live")))
    waiting.start()
    time.sleep(0.3)
    CredentialsFile(daemon.state).revoke("grafana")
    waiting.join(4)
    assert found and found[0].problem == (401, "NotLoggedIn")
