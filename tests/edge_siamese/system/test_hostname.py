"""Names of this machine, for people and for its network."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from edge_siamese.dashboard.state import AppState
from edge_siamese.settings import MqttSettings, Settings
from edge_siamese.system.hostname import device_name, local_name


def test_people_call_it_as_the_settings_say_else_as_its_network_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "shelf.lan")
    assert device_name("Kitchen shelf") == "Kitchen shelf"
    assert device_name("") == "shelf.lan"
    monkeypatch.setattr(socket, "gethostname", lambda: "")
    assert device_name("") == "edge-siamese"


@pytest.mark.parametrize(
    ("host", "local"), [("shelf", "shelf.local"), ("shelf.lan", "shelf.local"), ("", "")]
)
def test_the_name_of_mdns(host: str, local: str) -> None:
    assert local_name(host) == local


@pytest.mark.parametrize(("given", "shown"), [("Kitchen shelf", "Kitchen shelf"), ("", "shelf")])
def test_the_dashboard_shows_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, shown: str
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "shelf")
    settings = structs.replace(Settings(), mqtt=MqttSettings(device_name=given))
    actions = SimpleNamespace(settings=settings, config=None, hub=None)
    assert AppState(settings.dashboard, cast(Any, actions)).device == shown
