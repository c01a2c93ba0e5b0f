"""The container image: built twice without a network; run without rights, healthy, recognizing, stopped and restarted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_siamese import __version__
from tests.documented import commands
from tests.system.containers import TRIXIE, debian_tree, wait_for
from tests.system.device import CONFIG, draw
from tests.system.packages import ROOT

pytestmark = pytest.mark.system

BASE = "localhost/base:trixie"
# Podman raises these limits otherwise, which not every machine allows.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
# crun cannot run where both versions of control groups are mounted.
RUNTIMES = ((), ("--cgroup-manager", "cgroupfs"), ("--cgroup-manager", "cgroupfs", "--runtime", "runc"))


@dataclass(frozen=True)
class Engine:
    """Podman with a storage of its own."""

    words: tuple[str, ...]

    def call(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command of it; all about how it went."""
        command = [*self.words, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)

    def run(self, *words: str, timeout: float = 120) -> str:
        """The output of a command."""
        done = self.call(*words, timeout=timeout)
        assert done.returncode == 0, f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def inspect(self, name: str) -> dict[str, Any]:
        """What it knows of an image or a container."""
        found: dict[str, Any] = json.loads(self.run("inspect", name))[0]
        return found


@pytest.fixture(scope="module")
def engine(cache: Path, arch: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Podman with Debian 13 and its Python as the base image."""
    if not shutil.which("podman"):
        pytest.skip("podman is not installed; scripts/system_packages.sh installs it")
    place = tmp_path_factory.mktemp("podman")
    storage = ("--root", f"{place}/root", "--runroot", f"{place}/run", "--storage-driver", "overlay")
    plain = Engine(("podman", *storage))
    tree = debian_tree(cache, TRIXIE)
    with subprocess.Popen(["tar", "-C", tree, "--exclude=./dev/*", "-c", "."], stdout=subprocess.PIPE) as tar:
        done = subprocess.run(
            [*plain.words, "import", "-", BASE], stdin=tar.stdout, capture_output=True, text=True
        )
    try:
        said = done.stderr
        for runtime in RUNTIMES if done.returncode == 0 else ():
            engine = Engine((*plain.words, *runtime))
            done = engine.call("run", "--rm", "--network=none", *LIMITS, BASE, "true")
            if done.returncode == 0:
                yield engine
                break
            said = done.stderr
        else:
            pytest.skip(f"podman cannot run a container here: {said.strip().splitlines()[-1]}")
    finally:
        plain.call("rm", "--force", "--all")
        plain.call("rmi", "--force", "--all")
        subprocess.run(["umount", f"{place}/root/overlay"], capture_output=True, check=False)


@pytest.fixture(scope="module")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image, built twice."""
    wheels = tmp_path_factory.mktemp("wheels")
    also = ("--with", "numpy", "--with", "pillow", "--with", "av")
    subprocess.run(
        ["sh", ROOT / "scripts" / "wheels.sh", wheels, "--python", "3.13", *also],
        check=True,
        capture_output=True,
    )
    names = [f"localhost/edge-siamese:{number}" for number in ("first", "second")]
    for name in names:
        done = subprocess.run(
            ["sh", ROOT / "scripts" / "container.sh", "--base", BASE, "--wheels", wheels, "--tag", name],
            env={**os.environ, "ENGINE": " ".join(engine.words)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr
    return names[1]


def test_the_image_is_the_same_in_each_build_and_says_what_it_is(engine: Engine, image: str) -> None:
    second, first = engine.inspect(image), engine.inspect(image.replace("second", "first"))
    assert first["RootFS"] == second["RootFS"]
    assert first["Created"] == second["Created"]
    config = second["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] + config["Cmd"] == ["edge-siamese", "run"]
    assert second["Healthcheck"]["Test"] == ["CMD", "edge-siamese", "status"]
    labels = {name.rpartition(".")[2]: value for name, value in second["Labels"].items()}
    revision = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    assert labels["version"] == __version__
    assert labels["revision"] == (revision.strip() or "unknown")
    assert labels["licenses"] == "Apache-2.0"
    assert labels["name"] == BASE
    # The device's packages alone: nothing of the workstation, and no installer.
    script = "import importlib.util as i, sys; print([n for n in sys.argv[1:] if i.find_spec(n)])"
    names = ("numpy", "PIL", "av", "ai_edge_litert", "starlette", "torch", "onnx", "export", "pip")
    python = ("--entrypoint", "/opt/edge-siamese/bin/python", image, "-c", script)
    assert engine.run("run", "--rm", "--network=none", *LIMITS, *python, *names) == f"{list(names[:5])}\n"


def test_it_recognizes_without_rights_and_keeps_its_objects(
    engine: Engine, image: str, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    draw(tmp_path / "picture.png")
    (tmp_path / "config.toml").write_text(CONFIG.replace("/share", "/etc/edge-siamese"))
    # The limits that the guide shows; there is no camera here.
    (words,) = [
        line for line in commands("docs/installing.md", "make container") if line[:2] == ["podman", "run"]
    ]
    options = words[words.index("--read-only") : words.index("--device")]
    options += ["--volume", "state:/var/lib/edge-siamese", "--volume", f"{tmp_path}:/etc/edge-siamese:ro"]

    def status() -> dict[str, Any]:
        done = engine.call("exec", "it", "edge-siamese", "status", "--json")
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found if found.get("frames", 0) > 3 else {}

    for start in ("first", "second"):
        engine.run("run", "--detach", "--name=it", "--network=none", *LIMITS, *options, image)
        try:
            found = wait_for(status, 60, "frames are recognized", every=0.5)
            assert found["version"] == __version__
            assert found["model"]["runtime"] == "ai-edge-litert"
            if start == "first":
                assert engine.run("exec", "it", "edge-siamese", "register", "mug") == '"mug" is registered\n'
            wait_for(lambda: "mug appeared" in logs(engine), 30, "the object is recognized", every=0.5)
            assert engine.run("exec", "it", "id", "-u") == "10001\n"
            assert engine.call("exec", "it", "touch", "/opt/x").returncode == 1
            engine.run("healthcheck", "run", "it")
            assert engine.inspect("it")["State"]["Health"]["Status"] == "healthy"
            engine.run("stop", "--time=20", "it")
            assert engine.inspect("it")["State"]["ExitCode"] == 0
            assert "the daemon is stopping" in logs(engine)
        finally:
            engine.call("rm", "--force", "it")


def logs(engine: Engine) -> str:
    """Both streams of the container's log."""
    done = engine.call("logs", "it")
    return done.stdout + done.stderr
