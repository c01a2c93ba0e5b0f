"""File camera: replays a picture, a folder of pictures or a video."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.supervisor import RateLimit
from edge_siamese.cameras.video import Picture, Timeline, Video, open_video
from edge_siamese.errors import CameraEnded, CameraError, PictureError
from edge_siamese.pictures import read_photograph
from edge_siamese.settings import CameraSettings

LOG = logging.getLogger(__name__)

PICTURE_SUFFIXES = frozenset(["bmp", "gif", "jpeg", "jpg", "pbm", "pgm", "png", "ppm", "tif", "tiff", "webp"])
"""Suffixes of picture files; other files in a folder are ignored."""
MAX_UNREADABLE_SECONDS = 10.0
"""How long the last picture is shown while its file cannot be read."""
MAX_FRAME_SIDE = 1600
"""Pixels of a frame's longer side; larger photographs and videos are reduced while they are decoded."""


def list_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder in natural order: 2.png comes before 10.png."""
    paths = [
        path
        for path in folder.iterdir()
        if path.suffix.lower().lstrip(".") in PICTURE_SUFFIXES
        and not path.name.startswith(".")
        and path.is_file()
    ]
    return sorted(paths, key=lambda path: _natural_key(path.name))


def list_folders(folder: Path) -> list[Path]:
    """Return the subfolders of a folder in natural order, without hidden ones."""
    paths = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(paths, key=lambda path: _natural_key(path.name))


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key in which runs of digits count as numbers."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part), part) if part.isdigit() and part.isascii() else (1, 0, part) for part in parts]


class FilesCamera:
    """A picture, a folder of pictures or a video, played back at the rate of a camera.

    Each picture is one frame, at the rate of the settings. A video plays at its own speed without the frames beyond that
    rate. Pictures keep their size and colors; `recognition.imaging` prepares them for the encoder.

    Args:
        settings: path, rate, and whether to repeat. A folder is listed again in each round.
        color: color of a video's frames.
        clock: returns seconds, like `time.monotonic`.
        sleep: waits for a number of seconds.

    Raises:
        CameraError: there is no such file or folder, or it contains nothing that can be read.
    """

    def __init__(
        self,
        settings: CameraSettings,
        color: Literal["gray", "rgb"],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._path = Path(settings.path).expanduser()
        self._interval = 1.0 / settings.frame_rate
        # A screen recording has no frames while nothing changes, which must not count as a stall.
        self._max_interval = max(self._interval, settings.timeout_s)
        self._loop = settings.loop
        self._clock, self._sleep = clock, sleep
        self._number = 0
        self._due: float | None = None
        self._warned: set[Path] = set()
        self._last_picture: tuple[Path, float, Picture] | None = None
        self._unreadable_since: float | None = None
        self._video: Video | None = None
        if not self._path.exists():
            raise CameraError(f"{self._path}: there is no such file or folder; correct camera.path")
        if self._path.is_dir():
            count = len(list_pictures(self._path))
            if not count:
                raise CameraError(
                    f"{self._path} contains no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})"
                )
            self.description = f"the folder {self._path}, {count} pictures"
            self._frames = self._repeat(self._folder_pictures)
        elif self._path.suffix.lower().lstrip(".") in PICTURE_SUFFIXES:
            self._read_picture()  # fail immediately if the picture is damaged
            self.description = f"the picture {self._path}"
            self._frames = self._repeat(self._picture)
        else:
            self._open_video = partial(open_video, self._path, color, MAX_FRAME_SIDE)
            self._video = self._open_video()
            width, height = self._video.size
            self.description = f"the video {self._path}, {width} x {height} {self._video.codec}"
            self._frames = self._repeat(self._video_pictures)

    def capture(self) -> Frame:
        """See `Camera.capture`."""
        picture = next(self._frames, None)
        if picture is None:
            raise CameraEnded(f"{self.description} has ended")
        self._number += 1
        return Frame(picture.pixels, self._clock(), self._number)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`; does nothing."""

    def close(self) -> None:
        """See `Camera.close`."""
        if self._video is not None:
            self._video.close()

    def _repeat(self, play: Callable[[], Iterator[Picture]]) -> Iterator[Picture]:
        while True:
            count = 0
            for picture in play():
                count += 1
                yield picture
            if not count:
                raise CameraError(f"{self._path}: no file can be read as a picture")
            if not self._loop:
                return

    def _folder_pictures(self) -> Iterator[Picture]:
        try:
            paths = list_pictures(self._path)
        except OSError as error:
            raise CameraError(f"{self._path} cannot be read: {error.strerror}") from error
        for path in paths:
            try:
                picture = self._read(path)
            except PictureError as error:
                if path not in self._warned:
                    self._warned.add(path)
                    LOG.warning("%s; it is skipped", error)
                continue
            self._pace(self._interval)
            yield picture

    def _picture(self) -> Iterator[Picture]:
        try:
            picture = self._read_picture()
            self._unreadable_since = None
        except CameraError:
            # A program that writes the file in place leaves it empty or incomplete for a moment.
            now = self._clock()
            if self._unreadable_since is None:
                self._unreadable_since = now
            if self._last_picture is None or now - self._unreadable_since > MAX_UNREADABLE_SECONDS:
                raise
            picture = self._last_picture[2]
        self._pace(self._interval)
        yield picture

    def _read_picture(self) -> Picture:
        try:
            return self._read(self._path)
        except PictureError as error:
            raise CameraError(str(error)) from error

    def _read(self, path: Path) -> Picture:
        """Read a picture; the last one is cached, because a single picture is shown repeatedly."""
        try:
            changed = path.stat().st_mtime
        except OSError as error:
            raise PictureError(f"{path} cannot be read as a picture: {error.strerror}") from error
        if self._last_picture is None or self._last_picture[:2] != (path, changed):
            self._last_picture = (path, changed, Picture(read_photograph(path, MAX_FRAME_SIDE), None))
        return self._last_picture[2]

    def _video_pictures(self) -> Iterator[Picture]:
        if self._video is None:
            # Seeking to the beginning fails in videos with timestamps that go backward.
            self._video = self._open_video()
        limit = RateLimit(1.0 / self._interval)
        timeline = Timeline(
            1.0 / self._video.rate if self._video.rate else self._interval, self._max_interval
        )
        previous: float | None = None
        for picture in self._video.pictures():
            time = timeline.next(picture.time)
            if not limit.admits(time):
                continue
            # The first frame of a round comes one interval after the last frame of the previous round.
            self._pace(self._interval if previous is None else time - previous)
            previous = time
            yield picture
        self._video.close()
        self._video = None

    def _pace(self, interval: float) -> None:
        """Wait until `interval` seconds after the previous frame was due; do not wait if reading is slower than that."""
        now = self._clock()
        if self._due is None:
            self._due = now
            return
        self._due = max(self._due + interval, now)
        if self._due > now:
            self._sleep(self._due - now)
