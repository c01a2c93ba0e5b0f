"""Notifications to systemd, read from a real datagram socket."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_siamese.daemon.systemd import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(1)
        yield listener


@pytest.fixture
def notifier(systemd: socket.socket) -> Iterator[Notifier]:
    made = Notifier({"NOTIFY_SOCKET": systemd.getsockname()})
    yield made
    made.close()


def test_each_state_is_one_datagram(systemd: socket.socket, notifier: Notifier) -> None:
    notifier.extend_timeout(2.5)
    notifier.ready("3 objects, 10 frames/s")
    notifier.watchdog()
    notifier.ready()
    notifier.status("camera: stalled")
    notifier.stopping("SIGTERM")
    assert [systemd.recv(4096).decode() for _ in range(6)] == [
        "EXTEND_TIMEOUT_USEC=2500000",
        "READY=1\nSTATUS=3 objects, 10 frames/s",
        "WATCHDOG=1",
        "READY=1",
        "STATUS=camera: stalled",
        "STOPPING=1\nSTATUS=SIGTERM",
    ]


def test_a_status_cannot_inject_other_fields(systemd: socket.socket, notifier: Notifier) -> None:
    notifier.status("mug\nREADY=1\n\ttoo \ud800")
    assert systemd.recv(4096).decode() == r"STATUS=mug READY=1 too \ud800"
    notifier.status("a" * 1000)
    assert systemd.recv(4096).decode() == "STATUS=" + "a" * 300


def test_an_empty_status_is_not_sent(systemd: socket.socket, notifier: Notifier) -> None:
    notifier.status(" \n")
    notifier.watchdog()
    assert systemd.recv(4096) == b"WATCHDOG=1"


def test_an_abstract_address_works() -> None:
    name = f"edge-siamese-{uuid.uuid4()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        systemd.settimeout(1)
        notifier = Notifier({"NOTIFY_SOCKET": f"@{name}"})
        notifier.ready()
        notifier.close()
        assert systemd.recv(4096) == b"READY=1"


def test_without_a_socket_nothing_is_sent_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({})
    notifier.ready("yes")
    notifier.watchdog()
    notifier.close()
    assert notifier.watchdog_s is None
    assert caplog.messages == []


def test_an_invalid_address_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": "vsock:2:1234"})
    notifier.ready()
    assert caplog.messages == [
        "NOTIFY_SOCKET=vsock:2:1234 is neither a path nor an abstract name; systemd is not notified"
    ]


def test_a_lost_socket_is_logged_once_and_used_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "later")
    notifier = Notifier({"NOTIFY_SOCKET": path})
    with caplog.at_level(logging.INFO):
        notifier.ready()
        notifier.watchdog()
    assert caplog.messages == ["systemd cannot be notified: No such file or directory"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(1)
        notifier.watchdog()
        assert systemd.recv(4096) == b"WATCHDOG=1"
    notifier.watchdog()
    assert len(caplog.messages) == 2
    notifier.close()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "20000000"}, 20.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": str(os.getpid())}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_PID": str(os.getpid())}, None),
    ],
)
def test_the_watchdog_must_belong_to_this_process(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier(environment).watchdog_s == seconds


def test_the_process_environment_is_read(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", systemd.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    notifier = Notifier()
    notifier.ready()
    notifier.close()
    assert (systemd.recv(4096), notifier.watchdog_s) == (b"READY=1", 3.0)
