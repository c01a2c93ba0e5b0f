"""Runs the daemon's loop as fast as it goes, with registrations among the frames, and watches its memory.

A part of scripts/measure_daemon.py. `--serve` is the daemon; without it, it is started and watched from outside.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edge_siamese.cameras.camera import FakeCamera
from edge_siamese.cameras.synthetic.scene import demo_scene
from edge_siamese.daemon import hardware
from edge_siamese.daemon.client import request
from edge_siamese.daemon.service import Service
from edge_siamese.errors import ControlError, DaemonNotRunning, Refused
from edge_siamese.settings import (
    CameraSettings,
    ModelSettings,
    PanelSettings,
    PathSettings,
    Settings,
)
from scripts.daemon_process import Process

SHOWN_AT_SECONDS = (3.0, 13.0, 23.0)
"""When the demo's scene shows an object each."""
EMPTY_AT_SECONDS = 9.5
FRAMES_OF_A_SHOW = 120
PICTURES_OF_A_SHOW = 8
INTERVAL_SECONDS = 0.0005
"""Between two frames: less than a frame takes, and time for other threads."""
MAX_RATE = 1e6
LOOK_SECONDS = 0.25
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class Look:
    """What was seen of the daemon at one moment."""

    frames: int
    rss_mb: float


def serve(bundle: Path, runtime: str, state: Path) -> int:
    """The daemon, with a camera that shows three objects by turns as fast as it is asked."""
    camera = CameraSettings(kind="synthetic")
    # What the daemon looks at is bounded by its settings to what cameras give; here it is to do all that it can.
    object.__setattr__(camera, "rate", MAX_RATE)
    settings = Settings(
        model=ModelSettings(bundle=str(bundle), runtime=runtime),  # type: ignore[arg-type]
        camera=camera,
        panel=PanelSettings(kind="none"),
        paths=PathSettings(state=str(state), runtime=str(state)),
    )
    hardware.open_camera = _open  # type: ignore[attr-defined]
    return Service(settings).run()


def _open(
    settings: CameraSettings, color: Literal["gray", "rgb"], press: Callable[[bool], None] | None = None
) -> FakeCamera:
    scene = demo_scene(CameraSettings(), color)
    shows = [
        [scene.frame(start + 0.001 * number) for number in range(PICTURES_OF_A_SHOW)]
        for shown in SHOWN_AT_SECONDS
        for start in (shown, EMPTY_AT_SECONDS)
    ]

    def picture(number: int) -> npt.NDArray[np.uint8]:
        return shows[number // FRAMES_OF_A_SHOW % len(shows)][number % PICTURES_OF_A_SHOW]

    return FakeCamera(picture, interval=INTERVAL_SECONDS)


def measure_steady(
    python: Path, bundle: Path, runtime: str, place: Path, *, frames: int, settled: int, register_every: int
) -> dict[str, Any]:
    """Let the daemon look at so many frames, and learn and unlearn objects meanwhile.

    Args:
        python: its interpreter.
        bundle: of the model.
        runtime: that runs it.
        place: a directory for it.
        frames: how many it looks at.
        settled: growth is counted from this frame on.
        register_every: so many frames after a registration, the next one begins; every second one is undone.

    Returns:
        Frames, seconds, and resident memory, in MB of a million bytes: when it was settled, most, at the end, growth.
    """
    state = place / "state"
    state.mkdir(parents=True, exist_ok=True)
    command = [str(python), "-m", "scripts.daemon_steady", "--serve", "--bundle", str(bundle)]
    command += ["--runtime", runtime, "--state", str(state)]
    looks: list[Look] = []
    done = {"registered": 0, "undone": 0, "forgotten": 0, "refused": 0}
    kept: list[str] = []
    with Process(command, place) as daemon:
        daemon.wait_until_ready()
        began, next_registration, last_progress = time.monotonic(), settled // 5, time.monotonic()
        while not looks or looks[-1].frames < frames:
            seen = _frames(state)
            if not looks or seen > looks[-1].frames:
                last_progress = time.monotonic()
            elif time.monotonic() - last_progress > PATIENCE_SECONDS:
                raise SystemExit(f"no frames for {PATIENCE_SECONDS:g} s:\n{daemon.log}")
            looks.append(Look(seen, daemon.memory()["rss_mb"]))
            if seen >= next_registration:
                _change(state, done, kept)
                next_registration = seen + register_every
            time.sleep(LOOK_SECONDS if frames > 10 * settled else LOOK_SECONDS / 5)
        seconds = time.monotonic() - began
        events = _events(state)
    counted = [look for look in looks if look.frames >= settled]
    memory = [look.rss_mb for look in counted]
    return {
        "frames": looks[-1].frames,
        "seconds": round(seconds, 1),
        "settled_at": counted[0].frames,
        "settled_mb": memory[0],
        "most_mb": max(memory),
        "end_mb": memory[-1],
        "growth_mb": round(max(memory) - memory[0], 2),
        "rss_mb_at": {str(look.frames): look.rss_mb for look in counted[:: max(1, len(counted) // 10)]},
        "events": events,
        **done,
    }


def _frames(state: Path) -> int:
    try:
        return int(request(state / "control.sock", "status")["frames"])
    except DaemonNotRunning:
        return 0


def _events(state: Path) -> int:
    """How many there were, by the file that the daemon wrote."""
    return (state / "events.jsonl").read_text(encoding="utf-8").count("\n")


def _change(state: Path, done: dict[str, int], kept: list[str]) -> None:
    """Register what is before the camera; take every second one back, and forget the oldest of more than three."""
    control = state / "control.sock"
    name = f"object {done['registered'] + 1}"
    try:
        request(control, "register", name=name, force=True)
    except (Refused, ControlError):  # the scene changed amid the burst
        done["refused"] += 1
        return
    done["registered"] += 1
    if done["registered"] % 2:
        request(control, "undo")
        done["undone"] += 1
        return
    kept.append(name)
    if len(kept) > 3:
        request(control, "forget", name=kept.pop(0))
        done["forgotten"] += 1


def main() -> int:
    """Serve, or measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--runtime", required=True)
    parser.add_argument("--serve", action="store_true", help="be the daemon that is measured")
    parser.add_argument("--state", type=Path, help="its state, with --serve")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="its interpreter")
    parser.add_argument("--frames", type=int, default=100_000)
    options = parser.parse_args()
    if options.serve:
        return serve(options.bundle, options.runtime, options.state)
    with tempfile.TemporaryDirectory() as place:
        found = measure_steady(
            options.python,
            options.bundle,
            options.runtime,
            Path(place),
            frames=options.frames,
            settled=options.frames // 20,
            register_every=max(500, options.frames // 100),
        )
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
