"""Runs the daemon at full speed for many frames, registers objects meanwhile, and watches its memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.daemon.process import Daemon
from edge_siamese.errors import ControlError, DaemonNotRunning, Refused

FRAMES_PER_OBJECT = 120
SAMPLE_SECONDS = 0.25
STALL_SECONDS = 30.0
MAX_OBJECTS = 3


@dataclass
class Registrations:
    """The objects that are registered, undone and forgotten during a run."""

    registered: int = 0
    undone: int = 0
    forgotten: int = 0
    refused: int = 0
    names: list[str] = field(default_factory=list)

    def register_next(self, daemon: Daemon) -> None:
        """Register what the camera shows. Undo every second one; forget the oldest of more than `MAX_OBJECTS`."""
        name = f"object {self.registered + 1}"
        try:
            daemon.request("register", name=name, force=True)
        except (Refused, ControlError):  # the scene changed during the burst
            self.refused += 1
            return
        self.registered += 1
        if self.registered % 2:
            daemon.request("undo")
            self.undone += 1
            return
        self.names.append(name)
        if len(self.names) > MAX_OBJECTS:
            daemon.request("forget", name=self.names.pop(0))
            self.forgotten += 1


def measure_soak(
    python: Path,
    bundle: Path,
    runtime: str,
    home: Path,
    *,
    frames: int,
    settled_frame: int,
    register_every: int,
) -> dict[str, Any]:
    """Run the daemon over `frames` frames.

    Args:
        python: the interpreter.
        bundle: the model.
        runtime: the inference runtime.
        home: directory for the daemon.
        frames: how many frames to process.
        settled_frame: memory growth is counted from this frame on.
        register_every: frames between two registrations.

    Returns:
        Frames, seconds, events, registrations, and resident memory in megabytes (10^6 bytes): when settled, maximum,
        at the end, and growth.
    """
    samples: list[tuple[int, float]] = []  # (frames, resident memory)
    registrations = Registrations()
    command = ("-m", "benchmarks.daemon.full_speed", "--frames-per-object", str(FRAMES_PER_OBJECT))
    pause = SAMPLE_SECONDS if frames > 10 * settled_frame else SAMPLE_SECONDS / 5
    with Daemon(python, bundle, runtime, home, command=command) as daemon:
        daemon.wait_until_ready()
        started = last_progress = time.monotonic()
        next_registration = settled_frame // 5
        while not samples or samples[-1][0] < frames:
            processed = _frames(daemon)
            if not samples or processed > samples[-1][0]:
                last_progress = time.monotonic()
            elif time.monotonic() - last_progress > STALL_SECONDS:
                raise SystemExit(f"no frames for {STALL_SECONDS:g} s:\n{daemon.log}")
            samples.append((processed, daemon.memory()["rss_mb"]))
            if processed >= next_registration:
                registrations.register_next(daemon)
                next_registration = processed + register_every
            time.sleep(pause)
        seconds = time.monotonic() - started
        events = (daemon.state / "events.jsonl").read_text(encoding="utf-8").count("\n")
    settled = [sample for sample in samples if sample[0] >= settled_frame]
    memory = [megabytes for _, megabytes in settled]
    return {
        "frames": samples[-1][0],
        "seconds": round(seconds, 1),
        "settled_at": settled[0][0],
        "settled_mb": memory[0],
        "max_mb": max(memory),
        "end_mb": memory[-1],
        "growth_mb": round(max(memory) - memory[0], 2),
        "rss_mb_at": {str(number): mb for number, mb in settled[:: max(1, len(settled) // 10)]},
        "events": events,
        "registered": registrations.registered,
        "undone": registrations.undone,
        "forgotten": registrations.forgotten,
        "refused": registrations.refused,
    }


def _frames(daemon: Daemon) -> int:
    try:
        return int(daemon.status()["frames"])
    except DaemonNotRunning:
        return 0
