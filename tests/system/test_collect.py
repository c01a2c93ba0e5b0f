"""Collecting pictures over a real ssh: a daemon as the device, and an sshd on loopback."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_siamese.daemon.client import reload
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.imaging import Preprocessing
from export.__main__ import main
from export.data import load_splits
from tests.documented import commands
from tests.edge_siamese.daemon.running import CUP, MUG, Daemon, until
from tests.edge_siamese.daemon.test_collecting import set_consent
from tests.export.cli.test_collect import collecting_daemon, registered
from tests.system.broker import HOST, free_port

ROOT = Path(__file__).parents[2]
GUIDE = "docs/own-photos.md"
BANNER = "Authorized users only.\n"
SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {home}/host
AuthorizedKeysFile {home}/authorized
Banner {home}/banner
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""


@dataclass(frozen=True)
class Server:
    """An sshd that lets the user of the tests in with one key."""

    port: int
    key: Path
    """The private key that it accepts."""
    other: Path
    """A private key that it does not accept."""
    known: Path
    """A file of known hosts with its host key."""
    log: Path

    def options(self, **changes: object) -> list[str]:
        """The options of the command that reach it; every host name is this machine."""
        used = {"port": self.port, "identity": self.key, "known": self.known} | changes
        ssh = ("HostName=127.0.0.1", "IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=yes")
        found = ["--port", str(used["port"]), "--identity", str(used["identity"])]
        for option in (*ssh, f"UserKnownHostsFile={used['known']}", "GlobalKnownHostsFile=/dev/null"):
            found += ["--ssh-option", option]
        return found


def make_key(path: Path) -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def known_hosts(path: Path, port: int, key: Path) -> Path:
    kind, data, *_ = key.with_suffix(".pub").read_text().split()
    path.write_text(f"[{HOST}]:{port} {kind} {data}\n")
    return path


def greets(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), 1.0) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


@pytest.fixture
def server(asked_for: None, tmp_path: Path) -> Iterator[Server]:
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if program is None or not shutil.which("ssh"):
        pytest.skip(
            "needs sshd and ssh: sh scripts/system_packages.sh installs openssh-server and openssh-client"
        )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # systemd makes it for the service
    home, port = tmp_path / "ssh", free_port()
    home.mkdir()
    host, key, other = (make_key(home / name) for name in ("host", "key", "other"))
    (home / "authorized").write_text(key.with_suffix(".pub").read_text())
    (home / "banner").write_text(BANNER)
    config, log = home / "sshd_config", home / "log"
    config.write_text(SSHD.format(port=port, home=home))
    with log.open("wb") as file:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(config)], stdout=file, stderr=file)
    try:
        until(lambda: greets(port) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield Server(port, key, other, known_hosts(home / "known", port, host), log)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with collecting_daemon(tmp_path / "device", bundle, monkeypatch) as made:
        yield made


Collect = Callable[..., str]


def on_the_device(tmp_path: Path) -> list[str]:
    """The options that name the device's command."""
    found = ["--command", str(tmp_path / "device" / "edge-siamese")]
    return found if os.geteuid() == 0 else [*found, "--no-sudo"]


@pytest.fixture
def collect_one(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Collect:
    """Run the command for a device that fails, within this process; why it failed."""
    monkeypatch.chdir(tmp_path)

    def run(**changes: object) -> str:
        capsys.readouterr()
        host = f"{getpass.getuser()}@door.local"
        status = main(["collect", host, *server.options(**changes), *on_the_device(tmp_path)])
        said = capsys.readouterr()
        assert (status, said.err.splitlines()[-1]) == (1, f"error: 1 of 1 devices failed: {host}")
        (line,) = said.out.splitlines()
        assert line.startswith(f"{host}: FAILED: ")
        return line.removeprefix(f"{host}: FAILED: ")

    return run


def test_the_command_of_the_guide_collects_over_ssh(daemon: Daemon, server: Server, tmp_path: Path) -> None:
    daemon.learn("mug", MUG)
    daemon.show(MUG // 8 * 7, "mug")  # another frame
    daemon.ask("wrong", actual="teapot")
    daemon.learn("cup", CUP)
    daemon.show(CUP // 8 * 7, "cup")
    daemon.ask("wrong")
    registered(daemon, 6)
    _, *words = commands(GUIDE, ".venv/bin/python -m export collect")[0]
    door, shelf = (f"{getpass.getuser()}@{name}.local" for name in ("door", "shelf"))
    words = [word.replace("pi@", f"{getpass.getuser()}@") for word in words]
    done = subprocess.run(
        [sys.executable, *words, *server.options(), *on_the_device(tmp_path)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    errors = done.stderr.splitlines()
    assert (done.returncode, errors) == (0, [f"{host}: waiting for its pictures" for host in (door, shelf)])
    assert done.stdout.splitlines() == [
        f"{door}: 16 new pictures (14 of registered objects, "
        "1 of labeled wrong recognitions, 1 of unlabeled wrong recognitions)",
        f"{shelf}: 0 new pictures; 16 already fetched",
        "collected has 15 pictures of 9 objects, and collected-strangers 1 picture of other things",
        "little to train on: 2 objects for training, the others are held out; with fewer than 10 the pipeline advises "
        "against training, and compares the shipped bundle",
        "next: python -m export pipeline --data folder:collected,anything:collected-strangers --out build/collected",
    ]
    folders = {
        path.name: len(list(path.glob("door.local-*.png"))) for path in (tmp_path / "collected").iterdir()
    }
    assert folders.pop("collected.json") == 0
    assert folders == {"mug": 1, "teapot": 1, "cup": 1} | {f"thing {number}": 2 for number in range(6)}
    assert len(list((tmp_path / "collected-strangers").glob("door.local-*.png"))) == 1
    found = json.loads((tmp_path / "collected" / "collected.json").read_text())
    assert {one["host"] for one in found} == {door} and len(found) == 16

    # What the guide trains on.
    data = f"folder:{tmp_path}/collected,anything:{tmp_path}/collected-strangers"
    small = Preprocessing(24, 24)
    splits = load_splits(data, small, training_preprocessing=small)
    parts = (splits.train, splits.validation, splits.evaluation)
    assert sorted(name for part in parts for name in part.class_names) == [f"thing {n}" for n in range(6)]
    assert sum(len(part.images) for part in parts) == 12
    (view,) = (tmp_path / "collected" / "mug").iterdir()
    with Image.open(view) as image:
        assert np.array_equal(np.asarray(image.convert("L")), MUG)


def test_a_device_without_consent_refuses_over_ssh(
    daemon: Daemon, collect_one: Collect, tmp_path: Path
) -> None:
    daemon.learn("mug", MUG)
    set_consent(daemon, False)
    reload(daemon.socket)
    assert collect_one() == (
        "this device does not give its pictures for training; its owner can allow it: set "
        f"collect_pictures = true in [training] of {daemon.config}, then run edge-siamese reload"
    )
    set_consent(daemon, True)
    reload(daemon.socket)
    daemon.stop()
    assert "the daemon is not running" in collect_one()
    assert not (tmp_path / "collected").exists()


def test_connections_that_fail_are_explained(server: Server, collect_one: Collect, tmp_path: Path) -> None:
    empty, changed = tmp_path / "empty", known_hosts(tmp_path / "changed", server.port, server.other)
    empty.touch()
    user, port = getpass.getuser(), free_port()
    assert collect_one(port=port) == (
        f"cannot connect: ssh: connect to host {HOST} port {port}: Connection refused"
    )
    assert collect_one(identity=server.other) == (
        f"cannot connect: {user}@{HOST}: Permission denied (publickey); name the key with --identity, or copy yours to the "
        "device with ssh-copy-id"
    )
    assert collect_one(identity=tmp_path / "none") == (
        f"cannot connect: Identity file {tmp_path}/none not accessible: No such file or directory"
    )
    assert collect_one(known=empty) == (
        "cannot connect: the host key is not known; log in once with ssh, and accept it"
    )
    assert collect_one(known=changed) == (
        "cannot connect: the host key has changed; if the device was installed again, remove its old key with ssh-keygen -R"
    )
    assert collect_one().endswith("edge-siamese: not found; is edge-siamese installed there?")
    assert not (tmp_path / "collected").exists()
