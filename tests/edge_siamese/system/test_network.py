"""Host names and addresses of this machine, and in Host headers."""

from __future__ import annotations

import errno
import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from edge_siamese.dashboard.state import AppState
from edge_siamese.settings import MqttSettings, Settings
from edge_siamese.system.network import (
    BrokerAddress,
    device_name,
    is_loopback,
    local_name,
    parse_broker,
    parse_host,
    parse_public_url,
    port_user,
    without_password,
)


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
    assert parse_host(netloc) == name


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("broker.local", BrokerAddress("broker.local")),
        ("broker.local:1884", BrokerAddress("broker.local", 1884)),
        ("192.168.1.2:1884", BrokerAddress("192.168.1.2", 1884)),
        ("fd00::7", BrokerAddress("fd00::7")),
        ("[fd00::7]:1884", BrokerAddress("fd00::7", 1884)),
        ("mqtt://broker.local", BrokerAddress("broker.local", 0, False)),
        ("MQTT://Broker.local:1883/", BrokerAddress("broker.local", 1883, False)),
        ("tcp://broker.local:1883", BrokerAddress("broker.local", 1883, False)),
        ("mqtts://[fd00::7]:8884", BrokerAddress("fd00::7", 8884, True)),
        ("ssl://broker.local", BrokerAddress("broker.local", 0, True)),
        (
            "mqtts://hall:p%40ss%2Fw%3Ard@broker.local:8884",
            BrokerAddress("broker.local", 8884, True, "hall", "p@ss/w:rd"),
        ),
        ("mqtt://hall@broker.local", BrokerAddress("broker.local", 0, False, "hall")),
        (" mqtt://broker.local ", BrokerAddress("broker.local", 0, False)),
    ],
)
def test_a_broker_is_a_host_or_a_url(text: str, expected: BrokerAddress) -> None:
    assert parse_broker(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ws://broker.local:9001", "MQTT over WebSockets is not supported; use the broker's TCP port"),
        ("wss://broker.local/mqtt", "MQTT over WebSockets is not supported; use the broker's TCP port"),
        ("http://broker.local", "must be a host name, an address, or a URL that begins with mqtt://"),
        ("://broker.local", "must be a host name, an address, or a URL that begins with mqtt://"),
        ("mqtt://", "the host name is missing"),
        ("mqtt://:1883", "the host name is missing"),
        ("mqtt://hall@", "the host name is missing"),
        ("mqtt://broker.local/topic", "nothing may follow the port"),
        ("broker.local/topic", "nothing may follow the port"),
        ("mqtt://broker.local?x=1", "nothing may follow the port"),
        ("mqtt://broker.local#x", "nothing may follow the port"),
        ("mqtt://broker.local:port", "the port must be a number from 1 to 65535"),
        ("broker.local:0", "the port must be a number from 1 to 65535"),
        ("broker.local:65536", "the port must be a number from 1 to 65535"),
        ("mqtt://[fd00::7", "the port must be a number from 1 to 65535"),
        ("mqtt://:secret@broker.local", "a password needs a user name"),
        ("mqtt://hall:se cret@broker.local", "contains a character that a URL cannot have"),
        ("broker local", "contains a character that a URL cannot have"),
        ("bro\0ker", "contains a character that a URL cannot have"),
        ("bro\nker", "contains a character that a URL cannot have"),
    ],
)
def test_an_invalid_broker_is_refused_without_its_password(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(problem)}") as caught:
        parse_broker(text)
    assert "secret" not in str(caught.value)


def test_the_address_of_a_broker_has_no_password() -> None:
    assert BrokerAddress("broker.local", 1883, False, "hall", "secret").netloc == "broker.local:1883"
    assert BrokerAddress("fd00::7", 1883).netloc == "[fd00::7]:1883"


@pytest.mark.parametrize(
    ("text", "origin", "path"),
    [
        ("https://home.example/shelf", "https://home.example", "/shelf"),
        ("https://home.example/shelf/", "https://home.example", "/shelf"),
        ("https://Home.example:443", "https://home.example", ""),
        ("http://home.example:80/", "http://home.example", ""),
        ("http://home.example:8443/a/b", "http://home.example:8443", "/a/b"),
        ("https://[fd00::7]:8443/a", "https://[fd00::7]:8443", "/a"),
    ],
)
def test_a_public_url_has_an_origin_and_a_path(text: str, origin: str, path: str) -> None:
    found = parse_public_url(text)
    assert found is not None and (found.origin, found.path) == (origin, path)


@pytest.mark.parametrize(
    "text",
    ["home.example/shelf", "/shelf", "ftp://home.example", "https://", "https:///shelf", "https://home.example:x",
     "https://home.example/a?b", "https://home.example/a#b", "https://me@home.example", "https://home.example/a b",
     "https://home.example/a;b", "https://home.example//a", "https://home.example/a/../b", "https://home.example/%41",
     "https://home.example/ä", "https://home.example/a\n", "https://[fd00::7/a"],
)  # fmt: skip
def test_an_invalid_public_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^(must|the path) "):
        parse_public_url(text)


def test_without_a_public_url_there_is_none() -> None:
    assert parse_public_url("") is None


def test_the_program_that_uses_a_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match="Address already in use") as caught:
            socket.create_server(("127.0.0.1", port))
        name = Path("/proc/self/comm").read_text().strip()
        assert port_user(caught.value, port) == f"process {os.getpid()} ({name})"
    # That of another user, whose descriptors cannot be read.
    assert port_user(caught.value, port) == "another program"
    assert port_user(caught.value, port, tmp_path) == "another program"
    assert port_user(PermissionError(errno.EACCES, "denied"), port) == ""


def test_a_descriptor_that_was_closed_meanwhile_hides_no_program(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    entry = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1"
    (tmp_path / "net" / "tcp").write_text(f"header\n{entry}\n")
    descriptors = tmp_path / "417" / "fd"
    descriptors.mkdir(parents=True)
    (tmp_path / "417" / "comm").write_text("nginx\n")
    (descriptors / "3").write_text("not a link: as unreadable as one that is gone")
    (descriptors / "4").symlink_to("socket:[4711]")
    error = OSError(errno.EADDRINUSE, "Address already in use")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "iterdir", lambda folder: (folder / name for name in ("3", "4")))
        assert port_user(error, 8080, tmp_path) == "process 417 (nginx)"


@pytest.mark.parametrize(
    ("broker", "shown"),
    [
        ("", ""),
        ("broker.local:1884", "broker.local:1884"),
        ("mqtt://u@b", "mqtt://u@b"),
        ("mqtts://u:p:q@b:1", "mqtts://u@b:1"),
        ("u:p@b", "u@b"),
    ],
)
def test_a_broker_without_its_password(broker: str, shown: str) -> None:
    assert without_password(broker) == shown
