"""Recognize things in front of a webcam, in a video, or in a folder of pictures, from one picture of each."""

from __future__ import annotations

import argparse
import sys

from edge_siamese import EdgeSiameseError, Recognizer
from edge_siamese.cameras import Camera, open_camera
from edge_siamese.errors import CameraEnded
from edge_siamese.settings import CameraSettings

EXAMPLE = """\
examples:
  .venv/bin/python examples/recognize_video.py /dev/video0 --object mug=mug.jpg --object keys=keys.jpg
  .venv/bin/python examples/recognize_video.py examples/pictures/cactus --object cactus=examples/pictures/cactus/1.webp \\
      --object milk=examples/pictures/milk/1.webp"""


def camera_of(source: str) -> Camera:
    """A V4L2 device, a video, or a folder of pictures, which is shown once."""
    if source.startswith("/dev/"):
        return open_camera(CameraSettings(kind="usb", device=source), "rgb")
    return open_camera(CameraSettings(kind="files", path=source, loop=False), "rgb")


def watch(camera: Camera, recognizer: Recognizer) -> None:
    """Print a line whenever the recognized object changes."""
    seen = ""
    while True:
        try:
            frame = camera.capture()
        except CameraEnded:
            return
        result = recognizer.recognize(frame.pixels)
        if (result.name or "unknown") != seen:
            seen = result.name or "unknown"
            print(f"frame {frame.number}: {result}", flush=True)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="a V4L2 device such as /dev/video0, a video, or a folder of pictures")
    parser.add_argument(
        "--object", action="append", required=True, metavar="NAME=PICTURE",
        help="a picture of an object; can be repeated, including for other views of the same object",
    )  # fmt: skip
    parser.add_argument("--model", default="objects", help="a bundle (default: objects)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    parser = build_parser()
    options = parser.parse_args(arguments)
    try:
        recognizer = Recognizer(options.model)
        for name, separator, picture in (item.partition("=") for item in options.object):
            if not separator:
                parser.error(f"--object takes NAME=PICTURE, not {name}")
            recognizer.register(name, picture)
        watch(camera_of(options.source), recognizer)
    except EdgeSiameseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
