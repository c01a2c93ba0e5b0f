"""The control socket: requests answered, everything else refused in one line, and nobody kept waiting."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.daemon.client import request, stream
from edge_siamese.daemon.commands import EncodedPicture
from edge_siamese.daemon.control_socket import ControlConnection, ControlServer
from edge_siamese.errors import ClientGone, ControlError, DaemonNotRunning, StoreError
from edge_siamese.validation import convert
from tests.edge_siamese.daemon.running import returns, until

RELEASE = "release"


class Daemon:
    """What a handler might do."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.gone = threading.Event()
        self.refused = threading.Event()
        self.entered = threading.Event()

    def handle(self, asked: dict[str, Any], tell: ControlConnection) -> Any:
        match asked["command"]:
            case "echo":
                return asked
            case "count":
                for number in range(asked["to"]):
                    tell.send({"progress": f"{number + 1} of {asked['to']}"})
                return asked["to"]
            case "refuse":
                raise StoreError("objects.db: the disk\nis full")
            case "break":
                return [][1]
            case "odd":
                return {"name": "half \ud800"}
            case "nothing of JSON":
                return object()
            case "wait":
                self.entered.set()
                self.released.wait(5)
                return "released"
            case "follow":
                self.entered.set()
                while tell.open:
                    self.released.wait(0.005)
                self.gone.set()
                return None
            case "flood":
                try:
                    while True:
                        tell.send({"event": "x" * 4000})
                except ClientGone:
                    self.refused.set()
                    raise
        raise ControlError(f"no command {asked['command']!r}")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = Daemon()
    yield made
    made.released.set()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


@pytest.fixture
def server(daemon: Daemon, path: Path) -> Iterator[ControlServer]:
    with ControlServer(path, daemon.handle, workers=3, idle_s=0.15, send_timeout_s=0.1) as made:
        yield made


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(2)
    connection.connect(str(path))
    return connection


def said(connection: socket.socket) -> list[dict[str, Any]]:
    """All lines until the other side closes."""
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return [json.loads(line) for line in received.splitlines()]


def wait_for(condition: Any) -> None:
    until(condition)


@pytest.mark.usefixtures("server")
class TestAnswering:
    def test_a_request_gets_the_result(self, path: Path) -> None:
        assert request(path, "echo", name="Tasse ☕", number=3) == {
            "command": "echo",
            "name": "Tasse ☕",
            "number": 3,
        }

    def test_lines_before_the_result_arrive_in_order(self, path: Path) -> None:
        assert list(stream(path, "count", to=3)) == [
            {"progress": "1 of 3"},
            {"progress": "2 of 3"},
            {"progress": "3 of 3"},
            {"result": 3},
        ]
        assert request(path, "count", to=2) == 2

    def test_a_connection_can_pipeline_requests(self, path: Path) -> None:
        with connect(path) as connection:
            connection.sendall(b'{"command":"echo"}\n{"command":"echo","n":2}\n')
            connection.shutdown(socket.SHUT_WR)
            assert [line["result"] for line in said(connection)] == [
                {"command": "echo"},
                {"command": "echo", "n": 2},
            ]

    def test_an_error_keeps_its_class_and_becomes_one_line(self, path: Path) -> None:
        with pytest.raises(StoreError, match=r"^objects.db: the disk is full$"):
            request(path, "refuse")
        with connect(path) as connection:
            connection.sendall(b'{"command":"refuse"}\n')
            connection.shutdown(socket.SHUT_WR)
            assert said(connection) == [
                {"ok": False, "error": "objects.db: the disk is full", "kind": "StoreError"}
            ]

    def test_an_unexpected_error_is_reported_and_logged_with_traceback(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with pytest.raises(ControlError, match=r"^unexpected IndexError: list index out of range$"):
            request(path, "break")
        assert caplog.messages == ["break failed"]
        assert "return [][1]" in caplog.text
        with pytest.raises(ControlError, match=r"^unexpected TypeError: Object of type object is not JSON"):
            request(path, "nothing of JSON")
        assert request(path, "echo") == {"command": "echo"}

    def test_a_lone_surrogate_does_not_break_the_line(self, path: Path) -> None:
        assert request(path, "odd") == {"name": "half ?"}

    def test_a_large_request_arrives_complete(self, path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
        answer = request(path, "echo", picture=EncodedPicture.encode(pixels))
        assert np.array_equal(convert(answer["picture"], EncodedPicture).decode(), pixels)

    def test_the_socket_is_accessible_to_owner_and_group_only(self, path: Path) -> None:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert sorted(item.name for item in path.parent.iterdir()) == ["control.sock", "control.sock.lock"]

    def test_client_credentials_are_logged_at_debug_level(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.DEBUG):
            request(path, "echo")
        assert f"connection of pid {os.getpid()}, uid {os.getuid()}" in caplog.messages


@pytest.mark.usefixtures("server")
class TestRefusing:
    @pytest.mark.parametrize(
        ("sent", "error"),
        [
            (
                b"GET / HTTP/1.1\n",
                "invalid request: not valid JSON: Expecting value at line 1, column 1",
            ),
            (b'{"command":"a","command":"b"}\n', "command: duplicate key"),
            (b'{"command":"echo","n":NaN}\n', "n: must be a finite number, not nan"),
            (b"\xff\xfe\n", "invalid request: UTF-16 text instead of UTF-8"),
            (b'"\xff"\n', "invalid request: not UTF-8 text: byte 1 is invalid"),
            (b'["echo"]\n', 'a request must be an object with a "command"'),
            (b'{"command":3}\n', 'a request must be an object with a "command"'),
            (b"\n", "invalid request: not valid JSON: Expecting value at line 1, column 1"),
            (b"[" * 9000 + b"\n", "more than 100 nested levels"),
            (b"[" * 60000 + b"\n", "invalid request: more than 10000 values"),
        ],
    )
    def test_invalid_input_gets_an_error_and_a_disconnect(self, path: Path, sent: bytes, error: str) -> None:
        with connect(path) as connection:
            connection.sendall(sent + b'{"command":"echo"}\n')
            (line,) = said(connection)
        assert error in line["error"]
        assert (line["ok"], line["kind"]) == (False, "ControlError")
        assert request(path, "echo") == {"command": "echo"}

    def test_an_incomplete_request_times_out_with_an_error(self, path: Path) -> None:
        with connect(path) as connection:
            connection.sendall(b'{"command":')
            assert said(connection) == [
                {"ok": False, "error": "no complete request arrived within 0.15 s", "kind": "ControlError"}
            ]

    def test_a_truncated_request_gets_an_error(self, path: Path) -> None:
        with connect(path) as connection:
            connection.sendall(b'{"command":')
            connection.shutdown(socket.SHUT_WR)
            assert said(connection)[0]["error"] == "the request has no end of line"

    def test_an_idle_connection_is_closed(self, path: Path) -> None:
        with connect(path) as connection:
            assert said(connection) == []

    def test_a_connection_beyond_the_limit_is_refused_with_a_message(
        self, path: Path, server: ControlServer
    ) -> None:
        open_ones = [connect(path) for _ in range(3)]
        wait_for(lambda: len(server._clients) == 3)
        with pytest.raises(ControlError, match=r"^the daemon serves 3 connections already: try again$"):
            request(path, "echo")
        for connection in open_ones:
            connection.close()
        wait_for(lambda: not server._clients)
        assert request(path, "echo") == {"command": "echo"}


def test_a_too_long_request_is_refused(daemon: Daemon, path: Path) -> None:
    with ControlServer(path, daemon.handle, max_request=100_000):
        text = "x" * (100_000 - len('{"command":"echo","text":""}'))
        assert request(path, "echo", text=text)["text"] == text
        with pytest.raises(ControlError, match=r"^the request is longer than 100000 bytes$"):
            request(path, "echo", text=f"{text}x")


def test_large_requests_are_read_one_at_a_time(daemon: Daemon, path: Path) -> None:
    with ControlServer(path, daemon.handle, idle_s=0.1):
        first = threading.Thread(target=request, args=(path, "wait"), kwargs={"text": "x" * 70_000})
        first.start()
        assert daemon.entered.wait(2)
        with pytest.raises(ControlError, match=r"^the daemon is busy with another picture: try again$"):
            request(path, "echo", text="x" * 70_000)
        assert request(path, "echo", text="x" * 60_000)["command"] == "echo"
        daemon.released.set()
        first.join()
        assert request(path, "echo", text="x" * 70_000)["command"] == "echo"


@pytest.mark.usefixtures("server")
class TestSlowAndGone:
    def test_a_slow_reader_is_disconnected_without_blocking_its_handler(
        self, path: Path, daemon: Daemon, caplog: pytest.LogCaptureFixture
    ) -> None:
        with connect(path) as connection:
            connection.sendall(b'{"command":"flood"}\n')
            assert daemon.refused.wait(2)
            assert request(path, "echo") == {"command": "echo"}
        assert "a client of the control socket is too slow; disconnecting it" in caplog.messages

    def test_a_handler_detects_that_the_client_has_gone(
        self, path: Path, daemon: Daemon, server: ControlServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge_siamese.daemon.control_socket.HANGUP_CHECK_SECONDS", 0.01)
        connection = connect(path)
        connection.sendall(b'{"command":"follow"}\n')
        assert daemon.entered.wait(2)
        connection.close()
        assert daemon.gone.wait(2)
        wait_for(lambda: not server._clients)

    def test_a_half_closed_connection_still_receives_the_reply(
        self, path: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge_siamese.daemon.control_socket.HANGUP_CHECK_SECONDS", 0.001)
        with connect(path) as connection:
            connection.sendall(b'{"command":"wait"}\n')
            connection.shutdown(socket.SHUT_WR)
            assert daemon.entered.wait(2)
            time.sleep(0.02)
            daemon.released.set()
            assert said(connection) == [{"ok": True, "result": "released"}]

    def test_closing_the_stream_ends_it(
        self, path: Path, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge_siamese.daemon.control_socket.HANGUP_CHECK_SECONDS", 0.01)
        lines = stream(path, "count", to=200)
        assert next(lines) == {"progress": "1 of 200"}
        lines.close()  # type: ignore[attr-defined]
        assert request(path, "echo") == {"command": "echo"}


class TestLife:
    def test_closing_does_not_wait_for_clients(self, daemon: Daemon, path: Path) -> None:
        server = ControlServer(path, daemon.handle)
        server.start()
        idle, busy, stuck = connect(path), connect(path), connect(path)
        busy.sendall(b'{"command":"follow"}\n')
        stuck.sendall(b'{"command":"wait"}\n')
        wait_for(lambda: len(server._clients) == 3)
        assert daemon.entered.wait(2)
        returns(server.close)
        assert daemon.gone.is_set()
        assert not path.exists()
        for connection in (idle, stuck):
            assert said(connection) == []
            connection.close()
        busy.close()

    def test_a_handler_that_notices_the_close_still_replies(self, path: Path) -> None:
        asked = threading.Event()

        def stop(_: dict[str, Any], tell: ControlConnection) -> str:
            asked.set()
            while tell.open:
                time.sleep(0.001)
            return "stopped"

        server = ControlServer(path, stop)
        server.start()
        with connect(path) as connection:
            connection.sendall(b'{"command":"stop"}\n')
            assert asked.wait(2)
            threading.Thread(target=server.close).start()
            assert said(connection) == [{"ok": True, "result": "stopped"}]

    def test_closing_twice_or_before_start_is_harmless(self, daemon: Daemon, path: Path) -> None:
        server = ControlServer(path, daemon.handle)
        server.close()
        server = ControlServer(path, daemon.handle)
        server.start()
        server.close()
        server.close()

    @pytest.mark.usefixtures("server")
    def test_a_second_daemon_fails_and_names_the_first(self, daemon: Daemon, path: Path) -> None:
        second = ControlServer(path, daemon.handle)
        with pytest.raises(ControlError, match=rf"^another daemon is running: pid {os.getpid()} at {path}$"):
            second.start()
        assert request(path, "echo") == {"command": "echo"}

    def test_a_socket_of_another_program_is_not_replaced(self, daemon: Daemon, path: Path) -> None:
        path.parent.mkdir()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.bind(str(path))
            other.listen()
            with pytest.raises(
                ControlError, match=rf"^another daemon is running: pid {os.getpid()} at {path}$"
            ):
                ControlServer(path, daemon.handle).start()
        assert path.is_socket()

    def test_a_stale_socket_is_replaced(self, daemon: Daemon, path: Path) -> None:
        program = (
            "import os, signal, sys; from pathlib import Path\n"
            "from edge_siamese.daemon.control_socket import ControlConnection, ControlServer\n"
            "ControlServer(Path(sys.argv[1]), print).start(); os.kill(os.getpid(), signal.SIGKILL)"
        )
        assert subprocess.run([sys.executable, "-c", program, str(path)], check=False).returncode == -9
        assert path.is_socket()
        with pytest.raises(DaemonNotRunning, match=r"^the daemon is not running"):
            request(path, "echo")
        with ControlServer(path, daemon.handle):
            assert request(path, "echo") == {"command": "echo"}

    def test_a_file_at_the_path_is_not_replaced(self, daemon: Daemon, path: Path) -> None:
        path.parent.mkdir()
        path.write_text("mine")
        with pytest.raises(ControlError, match=rf"^{path} exists and is not a socket$"):
            ControlServer(path, daemon.handle).start()
        assert path.read_text() == "mine"

    def test_a_too_long_path_is_reported(self, daemon: Daemon, tmp_path: Path) -> None:
        path = tmp_path / ("a" * 100) / "control.sock"
        with pytest.raises(ControlError, match=r"may have 103 bytes at most: set \[paths\] runtime$"):
            ControlServer(path, daemon.handle).start()

    def test_a_failure_to_create_the_directory_is_reported(self, daemon: Daemon, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        path = tmp_path / "file" / "run" / "control.sock"
        with pytest.raises(ControlError, match=rf"^{path}: the socket cannot be created: Not a directory$"):
            ControlServer(path, daemon.handle).start()


class TestNotRunning:
    def test_a_missing_socket_means_not_running(self, path: Path) -> None:
        with pytest.raises(DaemonNotRunning) as caught:
            request(path, "status")
        assert str(caught.value) == (
            f"the daemon is not running (nothing listens at {path}): "
            "sudo systemctl start edge-siamese, or edge-siamese run"
        )

    def test_permission_denied_names_the_group(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Denied(socket.socket):
            def connect(self, _: Any) -> None:
                raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(socket, "socket", Denied)
        with pytest.raises(DaemonNotRunning) as caught:
            request(path, "status")
        assert str(caught.value) == (
            f"permission denied at {path}: add yourself to the group, "
            "sudo usermod -aG edge-siamese $USER, and log in again"
        )

    @pytest.mark.usefixtures("server")
    def test_an_unresponsive_daemon_is_distinguished_from_a_stopped_one(self, path: Path) -> None:
        with pytest.raises(DaemonNotRunning) as caught:
            request(path, "wait", timeout=0.02)
        assert str(caught.value) == (
            f"the daemon does not answer at {path} (waited 0.02 s); check it: systemctl status edge-siamese"
        )

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (b"", "the daemon stopped before it answered; see the log: journalctl -u edge-siamese -e"),
            (
                b"hello\n",
                "the reply is not from a daemon of this release: not valid JSON: Expecting value at line 1, column 1",
            ),
            (b"[]\n", "the reply is not from a daemon of this release: it is not an object"),
            (b'{"ok":false,"error":"no","kind":"of a later release"}\n', "no"),
        ],
    )
    def test_unexpected_replies_are_one_line_errors(self, path: Path, answer: bytes, error: str) -> None:
        path.parent.mkdir()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
            other.bind(str(path))
            other.listen()

            def reply() -> None:
                connection, _ = other.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(answer)

            thread = threading.Thread(target=reply)
            thread.start()
            with pytest.raises(ControlError, match=f"^{re.escape(error)}$"):
                request(path, "status")
            thread.join()
