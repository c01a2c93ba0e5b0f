"""The daemon with the dashboard, MQTT and metrics on or off, and its counters between two samples."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.daemon import process
from benchmarks.daemon.full_speed import OBJECT_SECONDS
from benchmarks.daemon.process import DAEMON, ROOT
from edge_siamese.errors import ControlError, Refused

UNIT_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""Environment variables of systemd/edge-siamese.service."""
INTEGRATIONS = {
    "dashboard": "[dashboard]\nenabled = true\nport = {port}\n",
    "metrics": "[metrics]\nenabled = true\nport = {port}\n",
    "mqtt": '[mqtt]\nbroker = "127.0.0.1"\nport = {port}\ndevice_id = "bench"\n',
}
OPEN_SECONDS = 20.0
REGISTER_SECONDS = 60.0


@dataclass(frozen=True)
class Setup:
    """A configuration to measure."""

    python: Path
    """The interpreter."""
    bundle: Path
    runtime: str
    full_speed: bool
    """Frames as fast as possible; otherwise at the default rate."""


@dataclass(frozen=True)
class Sample:
    """Counters of a daemon at one time."""

    time: float
    frames: int
    cpu_s: float


@dataclass(frozen=True)
class Interval:
    """Difference of two samples."""

    frames: int
    seconds: float
    cpu_s: float
    """Processor time of all threads."""

    @classmethod
    def between(cls, before: Sample, after: Sample) -> Interval:
        """The difference of two samples; raises `SystemExit` if no frame was processed."""
        if after.frames <= before.frames:
            raise SystemExit(f"no frames for {after.time - before.time:.1f} s")
        return cls(after.frames - before.frames, after.time - before.time, after.cpu_s - before.cpu_s)

    def __add__(self, other: Interval) -> Interval:
        return Interval(self.frames + other.frames, self.seconds + other.seconds, self.cpu_s + other.cpu_s)

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self.frames / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Processor time per frame, in milliseconds."""
        return 1000 * self.cpu_s / self.frames


class Daemon(process.Daemon):
    """A daemon with some integrations on, in the environment of the systemd unit."""

    def __init__(self, setup: Setup, home: Path, store: Path | None, ports: dict[str, int]) -> None:
        """Start the process.

        Args:
            setup: the configuration to measure.
            home: directory for settings, state, log and compiled modules.
            store: a database of objects to start with.
            ports: the integrations to turn on: `dashboard` and `metrics` with their own port, `mqtt` with the
                broker's.
        """
        state = home / "state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        if store is not None:
            shutil.copy(store, state / "objects.db")
        self._integrations = set(ports)
        super().__init__(
            setup.python,
            setup.bundle,
            setup.runtime,
            home,
            config="".join(INTEGRATIONS[name].format(port=port) for name, port in ports.items()),
            command=("-m", "benchmarks.daemon.full_speed") if setup.full_speed else DAEMON,
            variables=UNIT_ENVIRONMENT,
        )

    def wait_until_open(self) -> None:
        """Wait until all integrations work and a frame was processed; raises `SystemExit` if they do not."""
        deadline = time.monotonic() + OPEN_SECONDS
        while True:
            status = self.status()
            states = status["integrations"]
            working = {name for name, state in states.items() if state["works"]}
            if working == self._integrations and status["frames"]:
                return
            if time.monotonic() > deadline:
                raise SystemExit(f"not all integrations work: {json.dumps(states)}\n{self.log}")
            time.sleep(0.1)

    def sample(self) -> Sample:
        """Frames and processor time up to now."""
        # The daemon answers between two frames, so no frame is half processed when it answers.
        frames = int(self.status()["frames"])
        return Sample(time.monotonic(), frames, self.cpu_seconds())

    def register(self, objects: int) -> None:
        """Register `objects` of the objects that the camera shows."""
        deadline, registered = time.monotonic() + REGISTER_SECONDS, 0
        while registered < objects:
            if time.monotonic() > deadline:
                raise SystemExit(f"only {registered} objects were registered:\n{self.log}")
            try:
                # `force`, because a model for photographs confuses drawn symbols.
                self.request("register", name=f"object {registered + 1}", force=True)
                registered += 1
                time.sleep(OBJECT_SECONDS)  # until the next object is shown
            except (Refused, ControlError):  # the object changed during the burst
                time.sleep(OBJECT_SECONDS / 10)


@contextmanager
def client(ports: dict[str, int]) -> Iterator[Callable[[], dict[str, int]]]:
    """Run `benchmarks.integrations.client`; yields a function that ends it and returns its counts."""
    command = [sys.executable, "-m", "benchmarks.integrations.client"]
    command += ["--dashboard", str(ports["dashboard"]), "--metrics", str(ports["metrics"])]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )

    def stop() -> dict[str, int]:
        output, _ = process.communicate(timeout=60)
        counts = json.loads(output)
        assert isinstance(counts, dict)
        return counts

    try:
        yield stop
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def mosquitto(directory: Path) -> Iterator[int | None]:
    """Run a broker on loopback; yields its port, or None where Mosquitto is not installed."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        yield None
        return
    port, config = free_port(), directory / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nlog_dest none\n")
    process = subprocess.Popen(
        [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    """A free port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
