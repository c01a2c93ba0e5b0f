"""Starts the daemon with everything on, or with nothing on, and counts its frames, its processor time and its memory.

A part of scripts/measure_extras.py. `--serve` is the daemon that looks at frames as fast as it can.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.cameras.camera import FakeCamera
from edge_siamese.cameras.synthetic.scene import demo_scene
from edge_siamese.daemon import hardware
from edge_siamese.daemon.client import request
from edge_siamese.daemon.service import Service
from edge_siamese.errors import ControlError, Refused
from edge_siamese.settings import CameraSettings, load_settings
from scripts.daemon_process import ROOT, Process
from scripts.daemon_steady import INTERVAL_SECONDS, MAX_RATE, PICTURES_OF_A_SHOW, SHOWN_AT_SECONDS

SHOW_SECONDS = 4.0
"""An object is shown for so long, and then the next one, as somebody would, however many frames are looked at."""
AS_THE_UNIT = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
"""Environment variables of systemd/edge-siamese.service, besides those that measured processes get anyway."""
CONFIG = """\
[model]
bundle = "{bundle}"
runtime = "{runtime}"
[camera]
kind = "synthetic"
[panel]
kind = "none"
[paths]
state = "{state}"
runtime = "{state}"
"""
EXTRAS = {
    "dashboard": "[dashboard]\nenabled = true\nport = {port}\n",
    "metrics": "[metrics]\nenabled = true\nport = {port}\n",
    "mqtt": '[mqtt]\nbroker = "127.0.0.1"\nport = {port}\ndevice_id = "bench"\n',
}
OPEN_WITHIN_SECONDS = 20.0
LEARN_WITHIN_SECONDS = 60.0


@dataclass(frozen=True)
class Subject:
    """What is measured."""

    python: Path
    """The interpreter."""
    bundle: Path
    runtime: str
    fast: bool
    """As fast as it can, instead of the default rate."""


@dataclass(frozen=True)
class Look:
    """What a daemon has done up to a moment."""

    time: float
    frames: int
    cpu_s: float


@dataclass(frozen=True)
class Slice:
    """What a daemon did between two looks."""

    frames: int
    seconds: float
    cpu_s: float
    """Processor time of all of its threads."""

    @classmethod
    def between(cls, before: Look, after: Look) -> Slice:
        """What it did."""
        if after.frames <= before.frames:
            raise SystemExit(f"no frames for {after.time - before.time:.1f} s")
        return cls(after.frames - before.frames, after.time - before.time, after.cpu_s - before.cpu_s)

    def __add__(self, other: Slice) -> Slice:
        return Slice(self.frames + other.frames, self.seconds + other.seconds, self.cpu_s + other.cpu_s)

    @property
    def rate(self) -> float:
        """Frames a second."""
        return self.frames / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Processor time of a frame, in ms."""
        return 1000 * self.cpu_s / self.frames


def serve(config: Path) -> int:
    """The daemon, with a camera that shows three objects by turns as fast as it is asked."""
    settings = load_settings(config)
    # What the daemon looks at is bounded by its settings to what cameras give; here it is to do all that it can.
    object.__setattr__(settings.camera, "rate", MAX_RATE)
    hardware.open_camera = _open  # type: ignore[attr-defined]
    return Service(settings, config).run()


def _open(
    settings: CameraSettings, color: Literal["gray", "rgb"], press: Callable[[bool], None] | None = None
) -> FakeCamera:
    scene = demo_scene(CameraSettings(), color)
    # Never an empty picture: it is not embedded, so who happened to see it would seem to be faster.
    shows = [
        [scene.frame(start + 0.001 * number) for number in range(PICTURES_OF_A_SHOW)]
        for start in SHOWN_AT_SECONDS
    ]

    def picture(number: int) -> npt.NDArray[np.uint8]:
        return shows[int(time.monotonic() / SHOW_SECONDS) % len(shows)][number % PICTURES_OF_A_SHOW]

    return FakeCamera(picture, interval=INTERVAL_SECONDS)


class Daemon(Process):
    """A daemon whose frames, processor time and memory are counted from outside."""

    def __init__(self, subject: Subject, place: Path, store: Path | None, ports: dict[str, int]) -> None:
        """Start it.

        Args:
            subject: what runs.
            place: a directory for its settings, state and log, and for compiled modules.
            store: a database of objects that it begins with.
            ports: of what is turned on: of `dashboard` and `metrics` its own, of `mqtt` the broker's.
        """
        state = place / "state"
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        if store is not None:
            shutil.copy(store, state / "objects.db")
        text = CONFIG.format(bundle=subject.bundle, runtime=subject.runtime, state=state)
        text += "".join(EXTRAS[extra].format(port=port) for extra, port in ports.items())
        config = place / "config.toml"
        config.write_text(text)
        self.socket, self._on = state / "control.sock", set(ports)
        command = ["-m", "edge_siamese", "run", "--config", str(config)]
        if subject.fast:
            command = ["-m", "scripts.extras_process", "--serve", str(config)]
        super().__init__([str(subject.python), *command], place, AS_THE_UNIT)

    def status(self) -> dict[str, Any]:
        """As `edge-siamese status --json` has it."""
        result = request(self.socket, "status")
        assert isinstance(result, dict)
        return result

    def wait_until_open(self) -> None:
        """Wait for all that is turned on; raises `SystemExit` if it does not come."""
        until = time.monotonic() + OPEN_WITHIN_SECONDS
        while True:
            status = self.status()
            extras = status["extras"]
            works = {extra for extra, told in extras.items() if told["works"]}
            if works == self._on and status["frames"]:
                return
            if time.monotonic() > until:
                raise SystemExit(f"not everything came up: {json.dumps(extras)}\n{self.log}")
            time.sleep(0.1)

    def look(self) -> Look:
        """What it has done up to now."""
        # It answers between two frames, so the time of the answer is that of a whole number of them.
        frames = int(self.status()["frames"])
        return Look(time.monotonic(), frames, self._cpu_s())

    def pause(self) -> None:
        """Stop it where it is: it takes no processor time until `go_on`."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on, as if nothing had been but time."""
        self._process.send_signal(signal.SIGCONT)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on()  # what is stopped does not end
        super().__exit__(kind, error, trace)

    def learn(self, objects: int) -> None:
        """Register so many of the objects that its camera shows."""
        until, learned = time.monotonic() + LEARN_WITHIN_SECONDS, 0
        while learned < objects:
            if time.monotonic() > until:
                raise SystemExit(f"only {learned} objects were learned:\n{self.log}")
            try:
                # A model for photographs takes drawn symbols for each other.
                request(self.socket, "register", name=f"object {learned + 1}", force=True)
                learned += 1
                time.sleep(SHOW_SECONDS)  # for the next one
            except (Refused, ControlError):  # the object changed meanwhile
                time.sleep(SHOW_SECONDS / 10)

    def _cpu_s(self) -> float:
        # The command's name, in brackets, may contain anything.
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def watcher(ports: dict[str, int]) -> Iterator[Callable[[], dict[str, int]]]:
    """A process that looks at dashboard and metrics; what is yielded ends it, and gives what it got."""
    command = [sys.executable, "-m", "scripts.extras_watch"]
    command += ["--dashboard", str(ports["dashboard"]), "--metrics", str(ports["metrics"])]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )

    def end() -> dict[str, int]:
        said, _ = process.communicate(timeout=60)
        counts = json.loads(said)
        assert isinstance(counts, dict)
        return counts

    try:
        yield end
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@contextmanager
def mosquitto(place: Path) -> Iterator[int | None]:
    """A broker on loopback: its port; None where none is installed."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        yield None
        return
    port, config = free_port(), place / "mosquitto.conf"
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
    """A port of loopback that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Be the daemon that looks at frames as fast as it can."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", type=Path, required=True, metavar="CONFIG", help="its settings")
    return serve(parser.parse_args().serve)


if __name__ == "__main__":
    sys.exit(main())
