"""Host names and addresses of this machine, and in Host headers."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from edge_siamese.dashboard.state import AppState
from edge_siamese.settings import MqttSettings, Settings
from edge_siamese.system.network import device_name, host_of, is_loopback, local_name


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.8.9.1",
        "::1",
        "::ffff:127.0.0.1",
        "::1%lo",
        "localhost",
        "LOCALHOST",
        "localhost.",
        " ::1 ",
    ],
)
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", ".", "0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "localhost..", "localhost.lan", "a.localhost",
     "127.0.0.1.example", "[::1]", "2130706433", "0x7f.1", "127.1"],
)  # fmt: skip
def test_no_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("netloc", "name"),
    [
        ("Shelf.local:8765", "shelf.local"),
        ("shelf.local.", "shelf.local"),
        ("[::1]:8765", "::1"),
        ("[::1]", "::1"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("", ""),
        ("::1", ""),
        ("[::1", ""),
        ("[::1]x", ""),
        ("[::1]:x", ""),
        ("shelf:x", ""),
        (":80", ""),
    ],
)
def test_what_a_host_header_names(netloc: str, name: str) -> None:
    assert host_of(netloc) == name


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
    actions = SimpleNamespace(settings=settings, config=None, bus=None)
    assert AppState(settings.dashboard, cast(Any, actions)).device == shown
