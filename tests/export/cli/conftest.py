"""A program `ssh` that runs commands on this machine."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

FAKE_SSH = """\
#!/bin/sh
# Runs the command of the last argument here, in this process, unless the host cannot be reached.
for last; do host=$previous; previous=$last; done
case $host in *.away) echo "ssh: connect to host $host: timed out" >&2; exit 255;; esac
exec sh -c "exec $last"
"""


def script(path: Path, text: str) -> Path:
    """Write a program."""
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program `ssh`, which reaches every host but those that end with `.away`."""
    place = tmp_path / "bin"
    place.mkdir()
    script(place / "ssh", FAKE_SSH)
    monkeypatch.setenv("PATH", str(place), prepend=":")
