"""The guide for many devices, executed with an ssh that leads to directories."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from edge_siamese.daemon.integrations import MAX_RETRY_SECONDS, RETRY_SECONDS
from edge_siamese.dashboard.credentials import FILE as CREDENTIALS
from edge_siamese.fleet.ledger import FILE_NAME as FLEET
from edge_siamese.mqtt.cleanup import FILE_NAME as PUBLISHED_TOPICS
from edge_siamese.settings_file import parse_settings

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8").partition("## Many devices\n")[2]
INSTALL, PASSWORDS, IMAGE = re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
DEVICES = ("pi-01", "pi-02", "pi-03")

STUBS = {
    "ssh": 'cd "$STAGE/$1" && HERE=$PWD exec sh -c "$2"',
    "scp": 'for to; do :; done; [ -d "$STAGE/${to%:}" ]',
    "edge-siamese": "echo '{}'",
    # Paths of the device are below its directory, and what is installed is what comes by standard input, or the file.
    "sudo": """
printf '%s\\n' "$*" >>"$HERE/log"
[ "$1" = edge-siamese ] && case "$*" in *--stdin) head -n 1 >"$HERE/page" ;; esac
[ "$1" = install ] || exit 0
for from; do case $from in -*) ;; *) before=$to to=$from ;; esac; done
mkdir -p "$(dirname "$HERE$to")" && cat "$before" >"$HERE$to"
""",
}


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    for name, body in STUBS.items():
        stub = tmp_path / "bin" / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text(f"#!/bin/sh\n{body}\n")
        stub.chmod(0o755)
    for device in DEVICES:
        (tmp_path / device).mkdir()
    return tmp_path


def carry_out(script: str, stage: Path, typed: str = "") -> str:
    environment = {**os.environ, "STAGE": str(stage), "PATH": f"{stage / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=stage,
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_device_has_an_id_of_its_own(stage: Path) -> None:
    (stage / "config.toml").write_text(
        '[mqtt]\nbroker = "b.lan"\nusername = "@device@"\ndevice_id = "@device@"\n'
    )
    assert "see above" not in carry_out(INSTALL, stage)
    for device in DEVICES:
        read = parse_settings((stage / device / "etc/edge-siamese/config.toml").read_text())
        assert (read.mqtt.device_id, read.mqtt.username) == (device, device)
        steps = (stage / device / "log").read_text().splitlines()
        assert [step.split()[0] for step in steps] == ["install", "apt-get", "edge-siamese"]


def test_a_device_that_is_away_is_named_and_the_others_are_done(stage: Path) -> None:
    (stage / "config.toml").touch()
    (stage / "pi-02").rmdir()
    script = f"set +e\n{INSTALL}"
    assert "pi-02: see above" in carry_out(script, stage)
    assert (stage / "pi-03" / "log").exists()


def test_passwords_come_where_they_belong(stage: Path) -> None:
    carry_out(PASSWORDS, stage, "the page's\nthe broker's %s\n")
    for device in DEVICES:
        assert (stage / device / "page").read_text() == "the page's\n"
        assert (stage / device / "etc/edge-siamese/mqtt-password").read_text() == "the broker's %s\n"
        told = (stage / device / "log").read_text()
        assert "install -m 640 -g edge-siamese /dev/stdin /etc/edge-siamese/mqtt-password" in told
        assert "broker's" not in told and "page's" not in told
    assert (RETRY_SECONDS, MAX_RETRY_SECONDS) == (5, 300)
    assert "tries again after 5 seconds, then at growing\nintervals of up to 5 minutes" in GUIDE


def test_what_makes_copies_of_an_image_one_device_is_taken_out() -> None:
    (line,) = re.findall(r"sudo rm -f (device-id .*)", IMAGE)
    assert set(line.split()) == {
        *("device-id", PUBLISHED_TOPICS, FLEET, f"{FLEET}-wal", f"{FLEET}-shm", CREDENTIALS),
    }
    assert "truncate -s 0 /etc/machine-id" in IMAGE and "rm -f /var/lib/dbus/machine-id" in IMAGE
