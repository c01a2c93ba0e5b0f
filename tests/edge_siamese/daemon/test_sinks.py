"""Sinks: lines for people, a file that outlives full disks and power cuts, and hooks that cannot hold the daemon up."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.daemon.sinks import FileSink, HookSink, JournalSink, in_journal, open_sinks, read_events
from edge_siamese.events import Event, Kind
from edge_siamese.settings import EventSettings, PathSettings, Settings
from tests.edge_siamese.daemon.running import returns, until

TIME = "2026-11-24T10:00:00.000+00:00"


def event(number: int = 0, kind: Kind = "appeared", **data: Any) -> Event:
    return Event(kind, f"mug {number}", time=TIME, data={"name": "mug", "n": number, **data})


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["n"] for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "events.jsonl"


class TestJournal:
    def test_at_a_terminal_a_line_has_the_local_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        try:
            out = io.StringIO()
            JournalSink(out, journal=False).take(event(3))
            assert out.getvalue() == "2026-11-24 11:00:00  mug 3\n"
        finally:
            monkeypatch.delenv("TZ")
            time.tzset()

    @pytest.mark.parametrize(
        ("found", "line"),
        [
            (event(), "<6>mug 0\n"),
            (event(kind="seen"), "<7>mug 0\n"),
            (event(kind="refused"), "<5>mug 0\n"),
            (event(kind="camera", level="error"), "<3>mug 0\n"),
            (event(kind="camera", level="warning"), "<4>mug 0\n"),
            (Event("renamed", "a\n<0>b"), "<6>a\\n<0>b\n"),
        ],
    )
    def test_in_the_journal_a_line_has_its_priority(self, found: Event, line: str) -> None:
        out = io.StringIO()
        JournalSink(out, journal=True).take(found)
        assert out.getvalue() == line

    def test_unencodable_characters_are_replaced(self) -> None:
        raw = io.BytesIO()
        sink = JournalSink(io.TextIOWrapper(raw, encoding="ascii"), journal=True)
        sink.take(Event("renamed", "Tasse ☕"))
        assert raw.getvalue() == b"<6>Tasse ?\n"

    def test_the_journal_is_detected_by_device_and_inode(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with (tmp_path / "stream").open("w") as stream:
            monkeypatch.setattr(sys, "stderr", stream)
            state = os.fstat(stream.fileno())
            monkeypatch.setenv("JOURNAL_STREAM", f"{state.st_dev}:{state.st_ino}")
            assert in_journal()
            assert JournalSink()._out is stream
            monkeypatch.setenv("JOURNAL_STREAM", f"{state.st_dev}:{state.st_ino + 1}")
            assert not in_journal()
            assert JournalSink()._out is sys.stdout
            monkeypatch.setattr(sys, "stderr", None)
            assert not in_journal()


class TestFile:
    def test_each_event_is_a_line(self, path: Path) -> None:
        sink = FileSink(path, 10_000)
        sink.take(event(1, name="Tasse ☕"))
        sink.take(event(2))
        sink.close()
        assert path.read_text(encoding="utf-8").splitlines() == [
            f'{{"kind":"appeared","time":"{TIME}","text":"mug 1","name":"Tasse ☕","n":1}}',
            f'{{"kind":"appeared","time":"{TIME}","text":"mug 2","name":"mug","n":2}}',
        ]

    def test_a_torn_line_is_terminated_first(self, path: Path) -> None:
        path.parent.mkdir()
        path.write_bytes(b'{"kind":"seen","n":0}\n{"kind":"se')
        sink = FileSink(path, 10_000)
        sink.take(event(1))
        sink.take(event(2))
        sink.close()
        lines = path.read_bytes().splitlines()
        assert lines[1] == b'{"kind":"se'
        assert [found["n"] for found in read_events(path, 10)] == [0, 1, 2]
        assert len(lines) == 4

    def test_a_full_file_is_rotated(self, path: Path) -> None:
        size = len(json.dumps(event(0).to_dict(), separators=(",", ":"))) + 1
        sink = FileSink(path, 3 * size)
        for number in range(8):
            sink.take(event(number))
        sink.close()
        assert numbers(path) == [6, 7]
        assert numbers(path.with_name("events.jsonl.1")) == [3, 4, 5]
        assert [found["n"] for found in read_events(path, 4)] == [4, 5, 6, 7]
        assert [found["n"] for found in read_events(path, 100)] == [3, 4, 5, 6, 7]

    def test_an_event_larger_than_the_limit_is_written(self, path: Path) -> None:
        sink = FileSink(path, 10)
        sink.take(event(0))
        sink.take(event(1))
        sink.close()
        assert (numbers(path), numbers(path.with_name("events.jsonl.1"))) == ([1], [0])

    @pytest.mark.parametrize("change", [Path.unlink, lambda path: path.rename(path.with_name("moved"))])
    def test_a_moved_file_is_created_again(self, path: Path, change: Any) -> None:
        sink = FileSink(path, 10_000)
        sink.take(event(0))
        change(path)
        sink.take(event(1))
        sink.close()
        assert numbers(path) == [1]

    def test_a_full_disk_is_logged_once_and_retried(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        now = 0.0
        sink = FileSink(path, 10_000, clock=lambda: now)
        sink.take(event(0))
        real, tried = os.write, 0

        def full(descriptor: int, line: bytes) -> int:
            nonlocal tried
            tried += 1
            if tried == 1:
                return real(descriptor, line[:9])  # what still fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "write", full)
        for now in (1.0, 30.9, 31.0, 60.0):
            sink.take(event(int(now)))
        assert tried == 2
        assert caplog.messages == [f"{path} cannot be written: No space left on device"]
        monkeypatch.setattr(os, "write", real)
        now = 61.0
        sink.take(event(61))
        sink.close()
        assert caplog.messages[1:] == [f"{path} can be written again; 4 events are missing"]
        assert [found["n"] for found in read_events(path, 10)] == [0, 61]
        assert path.read_bytes().splitlines()[1] == b'{"kind":"'

    def test_an_unwritable_directory_stops_nothing(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").touch()
        sink = FileSink(tmp_path / "file" / "state" / "events.jsonl", 10_000)
        sink.take(event(0))
        sink.take(event(1))
        sink.close()
        assert caplog.messages == [f"{tmp_path}/file/state/events.jsonl cannot be written: Not a directory"]

    def test_reading_skips_torn_lines_and_missing_files(self, path: Path) -> None:
        assert read_events(path, 10) == []
        path.parent.mkdir()
        path.write_bytes(b'\0\0\0\n\xff\n[]\n{"kind":"seen"}\n{"a":1}\n{"kind":')
        assert read_events(path, 10) == [{"kind": "seen"}]
        assert read_events(path, 0) == []


def hook(tmp_path: Path, text: str, timeout_s: float = 5.0) -> HookSink:
    """A hook that runs a shell script in the test's folder."""
    script = tmp_path / "hook.sh"
    script.write_text(f"#!/bin/sh\ncd {tmp_path}\n{text}\n")
    script.chmod(0o755)
    return HookSink((str(script), "first; second", "$HOME"), timeout_s)


class TestHook:
    def test_a_hook_gets_arguments_the_event_and_two_variables(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        sink = hook(
            tmp_path, 'cat > event; printf "%s|" "$@" "$EDGE_SIAMESE_EVENT" "$EDGE_SIAMESE_NAME" > rest'
        )
        sink.take(event(7, kind="left", name="Tasse ☕\0\n"))
        sink.close()
        assert json.loads((tmp_path / "event").read_text()) == {
            "kind": "left",
            "time": TIME,
            "text": "mug 7",
            "name": "Tasse ☕\0\n",
            "n": 7,
        }
        assert (tmp_path / "event").read_bytes().count(b"\n") == 1
        assert (tmp_path / "rest").read_text() == "first; second|$HOME|left|Tasse ☕ \n|"
        assert caplog.messages == []

    def test_a_hook_does_not_get_systemd_variables(self, tmp_path: Path) -> None:
        script = tmp_path / "hook.sh"
        script.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\n")
        script.chmod(0o755)
        given = {
            "NOTIFY_SOCKET": "/n",
            "WATCHDOG_USEC": "1",
            "JOURNAL_STREAM": "1:2",
            "PATH": "/usr/bin:/bin",
        }
        sink = HookSink((str(script),), 5, environment=given)
        sink.take(Event("started", "here"))
        sink.close()
        found = dict(
            line.split("=", 1) for line in (tmp_path / "environment").read_text().splitlines() if "=" in line
        )
        assert {name: found.get(name) for name in (*given, "EDGE_SIAMESE_EVENT", "EDGE_SIAMESE_NAME")} == {
            "NOTIFY_SOCKET": None,
            "WATCHDOG_USEC": None,
            "JOURNAL_STREAM": None,
            "PATH": "/usr/bin:/bin",
            "EDGE_SIAMESE_EVENT": "started",
            "EDGE_SIAMESE_NAME": "",
        }

    def test_a_hook_inherits_no_sockets_and_has_its_own_session(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as control:
            control.set_inheritable(True)
            sink = hook(
                tmp_path, "ls -l /proc/$$/fd > fds; cut -d' ' -f6 /proc/$$/stat > session; echo $$ > pid"
            )
            sink.take(event())
            sink.close()
        assert "socket:" not in (tmp_path / "fds").read_text()
        assert (tmp_path / "session").read_text() == (tmp_path / "pid").read_text()

    def test_a_hook_failure_is_logged_once_with_status_and_last_line(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        sink = hook(tmp_path, "test -e works && exit 0; echo trying; echo 'no broker' >&2; exit 3")
        sink.take(event())
        sink.take(event())
        (tmp_path / "works").touch()
        sink.take(event())
        sink.close()
        assert caplog.messages == [
            f"the hook {tmp_path}/hook.sh failed with status 3: no broker",
            f"the hook {tmp_path}/hook.sh works again",
        ]

    def test_a_signal_has_a_name(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        sink = hook(tmp_path, "kill -SEGV $$")
        sink.take(event())
        sink.close()
        assert caplog.messages == [f"the hook {tmp_path}/hook.sh was killed by SIGSEGV"]

    def test_a_missing_command_is_reported_once(self, caplog: pytest.LogCaptureFixture) -> None:
        sink = HookSink(("/no/such/hook",), 5)
        sink.take(event())
        sink.take(event())
        sink.close()
        assert caplog.messages == ["the hook /no/such/hook cannot be run: No such file or directory"]

    def test_a_slow_hook_is_killed_with_its_children(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        sink = hook(tmp_path, "(trap '' TERM; echo $$ > pid; sleep 60) & sleep 60", timeout_s=0.1)
        returns(lambda: sink.take(event()))  # the hook would run for a minute
        sink.close()
        assert caplog.messages == [f"the hook {tmp_path}/hook.sh took longer than 0.1 s and was killed"]
        group = int((tmp_path / "pid").read_text())
        until(lambda: _alive(group) == [])

    def test_a_flood_of_hook_output_uses_bounded_memory(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        sink = hook(tmp_path, "exec yes", timeout_s=0.1)
        sink.take(event())
        sink.close()
        assert caplog.messages == [f"the hook {tmp_path}/hook.sh took longer than 0.1 s and was killed: y"]

    def test_background_processes_of_a_hook_are_not_waited_for(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        sink = hook(tmp_path, "sleep 60 & echo $! > pid")
        returns(lambda: sink.take(event()))  # the hook would run for a minute
        sink.close()
        assert caplog.messages == []
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    def test_stopping_the_daemon_kills_a_running_hook(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        sink = hook(tmp_path, "touch begun; exec sleep 60")
        worker = threading.Thread(target=sink.take, args=(event(),))
        worker.start()
        until((tmp_path / "begun").exists)
        sink.interrupt()
        worker.join(30)
        assert not worker.is_alive()
        sink.take(event())
        sink.close()
        assert caplog.messages == []

    def test_a_large_event_reaches_a_hook_that_reads_late(self, tmp_path: Path) -> None:
        sink = hook(tmp_path, "wc -c > size")
        sink.take(event(data="x" * 300_000))
        sink.close()
        assert int((tmp_path / "size").read_text()) > 300_000


def _alive(group: int) -> list[str]:
    """Processes of a group that are not dead yet."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of_group) == group and state != "Z":
            found.append(stat.parent.name)
    return found


def test_settings_select_the_sinks(tmp_path: Path) -> None:
    def names(events: EventSettings) -> list[tuple[str, int]]:
        settings = Settings(events=events, paths=PathSettings(state=str(tmp_path)))
        return [(sink.name, sink.queue) for sink in open_sinks(settings)]

    assert names(EventSettings()) == [("journal", 1000), ("event file", 1000)]
    assert names(EventSettings(file=False, hook=("/bin/true",))) == [("journal", 1000), ("hook", 32)]
    assert list(tmp_path.iterdir()) == []
