"""A revoked token ends the responses that are in progress: the stream, and waiting for a picture."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_siamese.dashboard import event_stream
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import Daemon, until
from tests.edge_siamese.dashboard.serving import Client, Got, dashboard_of, lose_camera, serving

Served = tuple[Daemon, Client]


@pytest.fixture
def served(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A dashboard, and a client with a token."""
    file = CredentialsFile(tmp_path / "state")
    token = file.add_token("grafana")
    with serving(tmp_path, bundle.path, monkeypatch) as (daemon, client):
        client.headers["Authorization"] = f"Bearer {token}"
        yield daemon, client


def test_a_silent_stream_ends(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, client = served
    monkeypatch.setattr(event_stream, "PING_SECONDS", 3600.0)  # so that no ping ends it
    with client.stream() as events:
        events.next("status")
        CredentialsFile(daemon.state).revoke("grafana")
        with pytest.raises(EOFError):
            events.next("never")


def test_later_events_are_not_sent(served: Served) -> None:
    daemon, client = served
    with client.stream() as events:
        events.next("status")
        CredentialsFile(daemon.state).revoke("grafana")
        daemon.ask("reload")
        with pytest.raises(EOFError):
            events.next("never")
        assert [kind for kind, _ in events._passed if kind == "event"] == []


def test_waiting_for_a_picture_ends(served: Served) -> None:
    daemon, client = served
    state = dashboard_of(daemon)._state
    assert state is not None
    lose_camera(daemon)  # with a frame to show, the answer would be a picture
    found: list[Got] = []
    waiting = threading.Thread(target=lambda: found.append(client.get("live")))
    waiting.start()
    until(lambda: state.live.waiting == 1)
    CredentialsFile(daemon.state).revoke("grafana")
    waiting.join(20)
    assert found and found[0].problem == (401, "NotLoggedIn")
