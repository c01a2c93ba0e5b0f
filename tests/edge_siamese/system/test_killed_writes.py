"""Processes that are killed while they write leave nothing that looks complete, and nothing for long."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge_siamese.system.files import write_atomically, write_text_atomically

WRITER = """
import sys, time
from pathlib import Path
from edge_siamese.system.files import write_atomically
from edge_siamese.system.signals import cleaning_up_when_ended

def write(file):
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(1000)

with cleaning_up_when_ended():
    write_atomically(Path(sys.argv[1]), write)
"""

DEFAULT = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
"""Nohup, which may run the tests, has it ignored."""


def end_while_writing(path: Path, number: signal.Signals, before: str = "") -> int:
    """The exit status of a process that gets a signal while it writes a file."""
    with subprocess.Popen(
        [sys.executable, "-c", DEFAULT + before + WRITER, path], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(number)
        return process.wait(30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_that_is_told_to_end_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "objects.zip").write_bytes(b"former")
    assert end_while_writing(tmp_path / "objects.zip", number) == -number
    assert [path.name for path in tmp_path.iterdir()] == ["objects.zip"]
    assert (tmp_path / "objects.zip").read_bytes() == b"former"


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path: Path) -> None:
    path = tmp_path / "objects [1].zip"
    assert end_while_writing(path, signal.SIGKILL) == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".objects [1].zip.") and left.suffix == ".tmp"
    others = [".objects [1].zip.original", ".objects [1].zip.tmp", ".objects 1.zip.abcdefgh.tmp"]
    for name in others:
        (tmp_path / name).touch()
    write_text_atomically(path, "whole")
    assert sorted(found.name for found in tmp_path.iterdir()) == sorted([*others, path.name])


def test_the_file_of_a_process_that_is_writing_stays(tmp_path: Path) -> None:
    path = tmp_path / "objects.zip"

    def write(file: object) -> None:
        assert len(list(tmp_path.iterdir())) == 1
        write_text_atomically(path, "the other")
        assert len(list(tmp_path.iterdir())) == 2
        assert path.read_text() == "the other"

    write_atomically(path, write)
    assert path.read_bytes() == b""
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_system_without_locks_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, os.strerror(38))

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_text_atomically(tmp_path / "objects.zip", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["objects.zip"]


def test_a_command_under_nohup_goes_on(tmp_path: Path) -> None:
    ignoring = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            ignoring + WRITER.replace("time.sleep(1000)", "sys.stdin.readline()"),
            tmp_path / "a",
        ],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGHUP)
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.wait(30) == 0
    assert (tmp_path / "a").read_bytes() == b"half"
