"""Starts real daemons to measure them from outside: when they are ready, and how much memory they take."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from edge_siamese.benchmark import random_support
from edge_siamese.daemon.client import request
from edge_siamese.models.bundle import load_bundle
from edge_siamese.recognition.registration import NewView
from edge_siamese.store import SupportStore

ROOT = Path(__file__).resolve().parent.parent
READY_WITHIN_SECONDS = 60.0
STOPPED_WITHIN_SECONDS = 10.0
CONFIG = """\
[model]
bundle = "{bundle}"
runtime = "{runtime}"
[camera]
kind = "synthetic"
frame_rate = {rate}
[panel]
kind = "none"
[paths]
state = "{state}"
runtime = "{state}"
"""


def fill_store(path: Path, bundle: Path, objects: int) -> None:
    """Make a store with so many objects of one view each, at random and without pictures."""
    manifest = load_bundle(bundle, verify_checksums=False).manifest
    support = random_support(objects, manifest.embedding.dimensions)
    with SupportStore(path, manifest.model_id, manifest.embedding.dimensions, keep_crops=False) as store:
        for name, embedding in zip(support.names, support.embeddings, strict=True):
            store.register(name, NewView(embedding, (), "camera"))


def environment(place: Path) -> dict[str, str]:
    """What measured processes get, and nothing else: one thread, and compiled modules in a place of their own."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        # The first process compiles, as the installation of a package does; those after it find it done.
        "PYTHONPYCACHEPREFIX": str(place / "compiled"),
    }


class Process:
    """A process with a notification socket, as systemd starts one; a context manager that ends it."""

    def __init__(self, command: Sequence[str], place: Path, more: Mapping[str, str] | None = None) -> None:
        """Start it.

        Args:
            command: program and arguments.
            place: a directory for its socket, its log and compiled modules.
            more: environment variables besides those of `environment`.
        """
        self._log = place / "log"
        self._folder = tempfile.TemporaryDirectory(prefix="notify-")
        address = f"{self._folder.name}/socket"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(address)
        variables = {**environment(place), "NOTIFY_SOCKET": address, **(more or {})}
        with self._log.open("wb") as log:
            self._started = time.monotonic()
            self._process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log)
        self._ready_after: float | None = None
        self._ready = threading.Event()
        # A daemon waits for a listener that is slow, so somebody has to listen all the time.
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOPPED_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._notified.shutdown(socket.SHUT_RDWR)
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """What it printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_until_ready(self) -> float:
        """Seconds from its start to READY=1; raises `SystemExit` if it ends before, or takes too long."""
        until = self._started + READY_WITHIN_SECONDS
        while not self._ready.wait(0.5) and self._process.poll() is None and time.monotonic() < until:
            pass
        if self._ready_after is None:
            raise SystemExit(f"the daemon did not become ready:\n{self.log}")
        return self._ready_after

    def _listen(self) -> None:
        with self._notified:
            while told := self._notified.recv(4096):
                if told.startswith(b"READY=1") and self._ready_after is None:
                    self._ready_after = time.monotonic() - self._started
                    self._ready.set()

    def memory(self) -> dict[str, float]:
        """What it occupies now, in MB of a million bytes: resident, its share of it (PSS), and its own (anonymous)."""
        status = _fields(f"/proc/{self._process.pid}/status")
        shares = _fields(f"/proc/{self._process.pid}/smaps_rollup")
        found = {"rss_mb": status["VmRSS"], "pss_mb": shares["Pss"], "anonymous_mb": status["RssAnon"]}
        return {name: round(kibibytes * 1024 / 1e6, 2) for name, kibibytes in found.items()}


class Daemon(Process):
    """`edge-siamese run` with a drawn scene for a camera."""

    def __init__(
        self,
        python: Path,
        bundle: Path,
        runtime: str,
        place: Path,
        *,
        rate: float = 100.0,
        options: Sequence[str] = (),
    ) -> None:
        """Start it; what `place` holds of former runs, such as a store, is what it finds.

        Args:
            python: the interpreter.
            bundle: of the model.
            runtime: that runs it.
            place: its state, settings and socket.
            rate: frames a second.
            options: of the interpreter.
        """
        state = place / "state"
        state.mkdir(parents=True, exist_ok=True)
        config = place / "config.toml"
        config.write_text(CONFIG.format(bundle=bundle, runtime=runtime, rate=rate, state=state))
        self._socket = state / "control.sock"
        super().__init__([str(python), *options, "-m", "edge_siamese", "run", "--config", str(config)], place)

    def status(self) -> dict[str, Any]:
        """As `edge-siamese status --json` has it."""
        result = request(self._socket, "status")
        assert isinstance(result, dict)
        return result

    def wait_for_frames(self, frames: int, within_s: float = 120.0) -> int:
        """Wait until it has looked at so many; how many it has."""
        until = time.monotonic() + within_s
        while (seen := int(self.status()["frames"])) < frames:
            if time.monotonic() > until:
                raise SystemExit(f"only {seen} frames within {within_s:g} s:\n{self.log}")
            time.sleep(0.05)
        return seen


def measure_memory(python: Path, bundle: Path, runtime: str, place: Path, frames: int) -> dict[str, Any]:
    """The memory of a daemon that has looked at so many frames; objects are those of the store in `place`."""
    with Daemon(python, bundle, runtime, place) as daemon:
        daemon.wait_until_ready()
        seen = daemon.wait_for_frames(frames)
        return {"frames": seen, **daemon.memory()}


def measure_start(python: Path, bundle: Path, runtime: str, place: Path, runs: int) -> list[float]:
    """Seconds from exec to READY=1 of each run but a first one, which compiles modules and fills the disk's cache."""
    found = []
    for _ in range(1 + runs):
        with Daemon(python, bundle, runtime, place, rate=10.0) as daemon:
            found.append(daemon.wait_until_ready())
    return found[1:]


def _fields(path: str) -> dict[str, int]:
    """The lines `Name: number kB` of a file of the kernel's."""
    found = {}
    for line in Path(path).read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0])
    return found


if __name__ == "__main__":
    sys.exit("this is a part of scripts/measure_daemon.py")
