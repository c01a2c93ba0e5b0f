"""The daemon with a camera that delivers frames as fast as the daemon processes them.

python -m benchmarks.daemon.full_speed [--frames-per-object N] CONFIG
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import numpy.typing as npt

from edge_siamese.cameras.camera import FakeCamera
from edge_siamese.cameras.synthetic.scene import demo_scene
from edge_siamese.daemon import hardware
from edge_siamese.daemon.service import Service
from edge_siamese.settings import CameraSettings
from edge_siamese.settings_file import load_settings

OBJECTS_AT_SECONDS = (3.0, 13.0, 23.0)
"""Times at which the demo scene shows one object each."""
EMPTY_AT_SECONDS = 9.5
PICTURES_PER_OBJECT = 8
OBJECT_SECONDS = 4.0
"""Time for which each object is shown, whatever the number of processed frames."""
FRAME_INTERVAL_SECONDS = 0.0005
"""Shorter than the processing of a frame, and long enough for other threads."""
UNLIMITED_RATE = 1e6


def serve(config: Path, frames_per_object: int | None = None) -> int:
    """Run the daemon until it is stopped; return its exit status.

    Args:
        config: its settings.
        frames_per_object: show an object for this many frames, and then an empty table for as many. By default an
            object is shown for `OBJECT_SECONDS`, and the table is never empty: empty frames are not embedded, so
            a daemon that happened to process more of them would appear to be faster.
    """
    settings = load_settings(config)
    # Settings limit the rate to what cameras deliver.
    msgspec.structs.force_setattr(settings.camera, "frame_rate", UNLIMITED_RATE)

    def open_camera(
        settings: CameraSettings, color: Literal["gray", "rgb"], press: Callable[[bool], None] | None = None
    ) -> FakeCamera:
        scene = demo_scene(CameraSettings(), color)
        starts = [
            start
            for at in OBJECTS_AT_SECONDS
            for start in ((at,) if frames_per_object is None else (at, EMPTY_AT_SECONDS))
        ]
        sequences = [
            [scene.frame(start + 0.001 * number) for number in range(PICTURES_PER_OBJECT)] for start in starts
        ]

        def picture(number: int) -> npt.NDArray[np.uint8]:
            index = (
                int(time.monotonic() / OBJECT_SECONDS)
                if frames_per_object is None
                else number // frames_per_object
            )
            return sequences[index % len(sequences)][number % PICTURES_PER_OBJECT]

        return FakeCamera(picture, interval=FRAME_INTERVAL_SECONDS)

    hardware.open_camera = open_camera  # type: ignore[attr-defined]
    return Service(settings, config).run()


def main() -> int:
    """Run the daemon."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="settings of the daemon")
    parser.add_argument(
        "--frames-per-object",
        type=int,
        metavar="N",
        help="show each object for N frames, then an empty table for N frames",
    )
    options = parser.parse_args()
    return serve(options.config, options.frames_per_object)


if __name__ == "__main__":
    sys.exit(main())
