"""Daemon processes to measure from outside: when they are ready, what they did, and how much memory they use."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
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

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0
STOP_SECONDS = 10.0
DAEMON = ("-m", "edge_siamese", "run", "--config")
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
    """Create a store with `objects` objects of one random view each, without pictures."""
    manifest = load_bundle(bundle, verify_checksums=False).manifest
    support = random_support(objects, manifest.embedding.dimensions)
    with SupportStore(path, manifest.model_id, manifest.embedding.dimensions, keep_crops=False) as store:
        for name, embedding in zip(support.names, support.embeddings, strict=True):
            store.register(name, NewView(embedding, (), "camera"))


def environment(home: Path) -> dict[str, str]:
    """The whole environment of a measured process: one thread, and a cache of compiled modules of its own."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        # The first process compiles the modules, like the installation of a package; later ones use the result.
        "PYTHONPYCACHEPREFIX": str(home / "compiled"),
    }


class Daemon:
    """A daemon process with a synthetic camera and a notification socket, as systemd starts one.

    A context manager that stops the process.
    """

    def __init__(
        self,
        python: Path,
        bundle: Path,
        runtime: str,
        home: Path,
        *,
        rate: float = 10.0,
        config: str = "",
        command: Sequence[str] = DAEMON,
        python_options: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Start the process.

        Args:
            python: the interpreter.
            bundle: the model.
            runtime: the inference runtime.
            home: directory for state, settings, socket, log and compiled modules; an existing store is used.
            rate: frames per second.
            config: TOML to append to the settings.
            command: arguments of the interpreter before the path of the settings.
            python_options: options of the interpreter.
            variables: environment variables in addition to `environment`.
        """
        state = home / "state"
        state.mkdir(parents=True, exist_ok=True)
        settings = home / "config.toml"
        settings.write_text(CONFIG.format(bundle=bundle, runtime=runtime, rate=rate, state=state) + config)
        self.state = state
        self._log = home / "log"
        self._folder = tempfile.TemporaryDirectory(prefix="notify-")
        address = f"{self._folder.name}/socket"
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notifications.bind(address)
        with self._log.open("wb") as log:
            self._started = time.monotonic()
            self._process = subprocess.Popen(
                [str(python), *python_options, *command, str(settings)],
                cwd=ROOT,
                env={**environment(home), "NOTIFY_SOCKET": address, **(variables or {})},
                stdout=log,
                stderr=log,
            )
        self._ready_after: float | None = None
        self._ready = threading.Event()
        # The daemon blocks on a full notification socket, so it has to be read all the time.
        threading.Thread(target=self._read_notifications, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.resume()  # a stopped process does not handle SIGTERM
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._notifications.shutdown(socket.SHUT_RDWR)
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """Output of the process."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_until_ready(self) -> float:
        """Wait for READY=1; returns the seconds since exec.

        Raises:
            SystemExit: the process ended, or was not ready within `READY_SECONDS`.
        """
        deadline = self._started + READY_SECONDS
        while not self._ready.wait(0.5) and self._process.poll() is None and time.monotonic() < deadline:
            pass
        if self._ready_after is None:
            raise SystemExit(f"the daemon did not become ready:\n{self.log}")
        return self._ready_after

    def request(self, command: str, **arguments: Any) -> Any:
        """Send a command to the control socket. Raises the errors of `edge_siamese.daemon.client.request`."""
        return request(self.state / "control.sock", command, **arguments)

    def status(self) -> dict[str, Any]:
        """The result of `edge-siamese status --json`."""
        result = self.request("status")
        assert isinstance(result, dict)
        return result

    def wait_for_frames(self, frames: int, timeout_s: float = 120.0) -> int:
        """Wait until the daemon has processed `frames` frames; returns their number."""
        deadline = time.monotonic() + timeout_s
        while (processed := int(self.status()["frames"])) < frames:
            if time.monotonic() > deadline:
                raise SystemExit(f"only {processed} frames within {timeout_s:g} s:\n{self.log}")
            time.sleep(0.05)
        return processed

    def memory(self) -> dict[str, float]:
        """Memory in megabytes (10^6 bytes): resident, proportional share (PSS), and anonymous."""
        status = _kibibytes(f"/proc/{self._process.pid}/status")
        shares = _kibibytes(f"/proc/{self._process.pid}/smaps_rollup")
        memory = {"rss_mb": status["VmRSS"], "pss_mb": shares["Pss"], "anonymous_mb": status["RssAnon"]}
        return {name: round(kibibytes * 1024 / 1e6, 2) for name, kibibytes in memory.items()}

    def cpu_seconds(self) -> float:
        """Processor time of all threads."""
        # The command's name, in brackets, may contain anything.
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def pause(self) -> None:
        """Stop the process until `resume`; it uses no processor time."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue a paused process."""
        self._process.send_signal(signal.SIGCONT)

    def _read_notifications(self) -> None:
        with self._notifications:
            while message := self._notifications.recv(4096):
                if message.startswith(b"READY=1") and self._ready_after is None:
                    self._ready_after = time.monotonic() - self._started
                    self._ready.set()


def measure_memory(python: Path, bundle: Path, runtime: str, home: Path, frames: int) -> dict[str, Any]:
    """Memory of a daemon that has processed `frames` frames, with the store in `home`."""
    with Daemon(python, bundle, runtime, home, rate=100.0) as daemon:
        daemon.wait_until_ready()
        processed = daemon.wait_for_frames(frames)
        return {"frames": processed, **daemon.memory()}


def measure_start(python: Path, bundle: Path, runtime: str, home: Path, runs: int) -> list[float]:
    """Seconds from exec to READY=1 of `runs` runs.

    One more run before them compiles modules and fills the disk cache.
    """
    seconds = []
    for _ in range(1 + runs):
        with Daemon(python, bundle, runtime, home) as daemon:
            seconds.append(daemon.wait_until_ready())
    return seconds[1:]


def _kibibytes(path: str) -> dict[str, int]:
    """The lines `Name: number kB` of a file in /proc."""
    values = {}
    for line in Path(path).read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            values[name] = int(value.split()[0])
    return values
