"""Deploying: what is sent, and a deployment over a real OpenSSH server on loopback with a real `model install`."""

from __future__ import annotations

import getpass
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_siamese.errors import ExportError
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.models.installed import InstalledModels
from export.__main__ import main
from export.cli.deploy import archive, deploy
from export.cli.ssh import Device, ssh_options
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parents[3]
SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:" + os.environ.get("PATH", ""))


@dataclass(frozen=True)
class Server:
    """A device on loopback."""

    host: str
    port: int
    key: Path
    state: Path
    """The device's state directory."""
    command: Path
    """What `edge-siamese` is there."""

    @property
    def device(self) -> Device:
        options = ssh_options(self.port, str(self.key), self.options)
        return Device(self.host, options, str(self.command), sudo=False)

    @property
    def options(self) -> list[str]:
        return [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "IdentitiesOnly=yes",
        ]

    @property
    def words(self) -> list[str]:
        """Of the command line."""
        given = [part for option in self.options for part in ("--ssh-option", option)]
        return [
            self.host, "--port", str(self.port), "--identity", str(self.key), "--command", str(self.command),
            "--no-sudo", *given,
        ]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if SSHD is None or shutil.which("ssh-keygen") is None:
        pytest.skip("no OpenSSH server here: apt install openssh-server")
    place = tmp_path_factory.mktemp("ssh")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", place / name], check=True)
    shutil.copyfile(place / "user.pub", place / "authorized")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    (place / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host\nAuthorizedKeysFile {place}/authorized\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    log = (place / "log").open("wb")
    process = subprocess.Popen([SSHD, "-D", "-e", "-f", place / "sshd_config"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None and time.monotonic() < deadline, (place / "log").read_text()
            time.sleep(0.02)
        yield Server(f"{getpass.getuser()}@127.0.0.1", port, place / "user", place / "state", _command(place))
    finally:
        process.terminate()
        process.wait(10)
        log.close()


def _command(place: Path) -> Path:
    """The device's command, with a state directory of its own."""
    config = place / "config.toml"
    config.write_text(f'[paths]\nstate = "{place}/state"\nruntime = "{place}/run"\n')
    path = place / "edge-siamese"
    path.write_text(
        f'#!/bin/sh\nEDGE_SIAMESE_CONFIG={config} PYTHONPATH={ROOT} exec {sys.executable} -m edge_siamese "$@"\n'
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_what_is_sent_is_the_bundle_and_nothing_else(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "notes.txt").write_text("not listed in the manifest")
    try:
        data = archive(bundle)
    finally:
        (bundle.path / "notes.txt").unlink()
    assert data == archive(bundle)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(tmp_path, filter="data")
    assert load_bundle(tmp_path / "bundle").manifest == bundle.manifest
    listed = {"manifest.json", *(item.path for _, item in bundle.manifest.files())}
    assert {path.name for path in (tmp_path / "bundle").iterdir()} == listed


@pytest.mark.parametrize("host", ["", "-oProxyCommand=x", "pi@", "pi@-x", "a b", "@host"])
def test_a_host_that_ssh_would_misread_is_refused(host: str) -> None:
    with pytest.raises(ExportError, match="is not a host: HOST or USER@HOST is needed"):
        Device(host)


@pytest.mark.system
def test_a_bundle_arrives_passes_its_self_test_and_becomes_current(
    bundle: Bundle, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", str(bundle.path), *server.words]) == 0
    out = capsys.readouterr().out
    models = InstalledModels(server.state / "models")
    (model,) = models.all()
    assert out == f"{server.host}: {model.name} is now the current model; the daemon is not running\n"
    assert load_bundle(model.path).manifest == bundle.manifest
    assert list(Path("/tmp").glob("tmp.*/bundle/manifest.json")) == []


@pytest.mark.system
def test_a_bundle_that_fails_there_changes_nothing(bundle: Bundle, server: Server, tmp_path: Path) -> None:
    deploy(archive(bundle), server.device)
    before = InstalledModels(server.state / "models").state()
    other = load_bundle(write_tiny_bundle(tmp_path / "other", model_id="tiny-ffffffffffff"))
    data = bytearray(archive(other))
    place = data.index((other.path / "encoder.int8.tflite").read_bytes()[:200])
    data[place + 100] ^= 0xFF
    found = deploy(bytes(data), server.device)
    assert not found.succeeded
    assert "encoder.int8.tflite" in found.text
    assert InstalledModels(server.state / "models").state() == before


@pytest.mark.system
def test_each_failure_says_what_it_is(bundle: Bundle, server: Server) -> None:
    data = archive(bundle)
    nobody = Device(server.host, ssh_options(1, str(server.key), server.options), sudo=False)
    assert deploy(data, nobody).text.startswith("cannot connect: ")
    without = Device(server.host, server.device.options, "edge-siamese-is-not-here", sudo=False)
    found = deploy(data, without)
    assert found.text.endswith("not found; is edge-siamese installed there?")
    slow = Device(server.host, server.device.options, "sleep 5; true", sudo=False)
    assert deploy(data, slow, timeout_s=0.5).text == "no answer within 0.5 s"


@pytest.mark.system
def test_one_device_that_fails_does_not_keep_the_others_from_it(
    bundle: Bundle, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [server.words[0], "nobody@127.0.0.1", *server.words[1:]]
    assert main(["deploy", str(bundle.path), *words, "--json"]) == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [item["succeeded"] for item in found] == [True, False]
    assert captured.err.splitlines()[-1] == "error: 1 of 2 devices failed: nobody@127.0.0.1"
