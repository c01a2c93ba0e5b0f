"""Pictures and videos in the place of a camera."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.supervisor import RateLimit
from edge_siamese.cameras.video import Picture, Video, open_video
from edge_siamese.errors import CameraEnded, CameraError, PictureError
from edge_siamese.pictures import read_picture
from edge_siamese.settings import CameraSettings

LOG = logging.getLogger(__name__)

PICTURES = frozenset(["bmp", "gif", "jpeg", "jpg", "pbm", "pgm", "png", "ppm", "tif", "tiff", "webp"])
"""The suffixes of files that are read as pictures; in a folder, others are passed over."""


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder in natural order: 2.png comes before 10.png."""
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower().lstrip(".") in PICTURES and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(found, key=lambda path: _natural(path.name))


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key of sorting in which runs of digits count as numbers."""
    parts = re.split(r"(\d+)", name.lower())
    return [(0, int(part), part) if part.isdigit() and part.isascii() else (1, 0, part) for part in parts]


class FilesCamera:
    """Shows a picture, a folder of pictures or a video, paced as a camera would.

    Pictures come one a frame at the wanted rate. A video comes at its own speed, with the frames left out that are
    beyond the rate. Pictures keep their size and colors; `imaging` makes of them what the encoder needs.

    Args:
        settings: path, rate, and whether to start again at the end. A folder is looked through anew each time.
        color: what the frames of a video are.
        clock: `time.monotonic`, or a test's own.
        pause: waits that many seconds.

    Raises:
        CameraError: there is no such file or folder, or nothing in it can be read.
    """

    def __init__(
        self,
        settings: CameraSettings,
        color: Literal["gray", "rgb"],
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] = time.sleep,
    ) -> None:
        self._path = Path(settings.path).expanduser()
        self._interval = 1.0 / settings.frame_rate
        # A screen recording where nothing happens has no frames: who waits for one must not think that this hangs.
        self._longest = max(self._interval, settings.timeout_s)
        self._loop = settings.loop
        self._clock, self._pause = clock, pause
        self._number = 0
        self._due: float | None = None
        self._warned: set[Path] = set()
        self._kept: tuple[Path, float, Picture] | None = None
        self._video: Video | None = None
        if not self._path.exists():
            raise CameraError(f"{self._path}: there is no such picture, folder or video; set camera.path")
        if self._path.is_dir():
            count = len(pictures_in(self._path))
            if not count:
                raise CameraError(f"{self._path} has no pictures in it: {', '.join(sorted(PICTURES))}")
            self.description = f"the folder {self._path}, {count} pictures"
            self._frames = self._rounds(self._folder_round)
        elif self._path.suffix.lower().lstrip(".") in PICTURES:
            self._only_picture()  # so that a damaged one is an error now
            self.description = f"the picture {self._path}"
            self._frames = self._rounds(self._picture_round)
        else:
            self._video = open_video(self._path, color)
            width, height = self._video.size
            self.description = f"the video {self._path}, {width} x {height} {self._video.codec}"
            self._frames = self._rounds(self._video_round)

    def capture(self) -> Frame:
        """See `Camera.capture`."""
        picture = next(self._frames, None)
        if picture is None:
            raise CameraEnded(f"{self.description} has come to its end")
        self._number += 1
        return Frame(picture.pixels, self._clock(), self._number)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`; nothing here."""

    def close(self) -> None:
        """See `Camera.close`."""
        if self._video is not None:
            self._video.close()

    def _rounds(self, one: Callable[[], Iterator[Picture]]) -> Iterator[Picture]:
        while True:
            shown = 0
            for picture in one():
                shown += 1
                yield picture
            if not shown:
                raise CameraError(f"{self._path}: none of it can be read as a picture")
            if not self._loop:
                return

    def _folder_round(self) -> Iterator[Picture]:
        try:
            paths = pictures_in(self._path)
        except OSError as error:
            raise CameraError(f"{self._path} is gone: {error.strerror}") from error
        for path in paths:
            try:
                picture = self._read(path)
            except PictureError as error:
                if path not in self._warned:
                    self._warned.add(path)
                    LOG.warning("%s; it is passed over", error)
                continue
            self._wait_for(self._interval)
            yield picture

    def _picture_round(self) -> Iterator[Picture]:
        picture = self._only_picture()
        self._wait_for(self._interval)
        yield picture

    def _only_picture(self) -> Picture:
        try:
            return self._read(self._path)
        except PictureError as error:
            raise CameraError(str(error)) from error

    def _read(self, path: Path) -> Picture:
        """A picture; the last one is kept, for a picture that is alone is shown again and again."""
        try:
            changed = path.stat().st_mtime
        except OSError as error:
            raise PictureError(f"{path} cannot be read as a picture: {error.strerror}") from error
        if self._kept is None or self._kept[:2] != (path, changed):
            self._kept = (path, changed, Picture(read_picture(path), None))
        return self._kept[2]

    def _video_round(self) -> Iterator[Picture]:
        assert self._video is not None
        limit = RateLimit(1.0 / self._interval)
        shown: float | None = None
        for picture in self._video.pictures():
            moment = picture.time
            if moment is not None and not limit.admits(moment):
                continue
            # The first of a round comes one interval after the last of the round before.
            between = self._interval if moment is None or shown is None else moment - shown
            self._wait_for(min(between, self._longest))
            shown = moment
            yield picture

    def _wait_for(self, interval: float) -> None:
        """Wait until so many seconds after the frame before were due; not at all where reading is slower than that."""
        now = self._clock()
        if self._due is None:
            self._due = now
            return
        self._due = max(self._due + interval, now)
        if self._due > now:
            self._pause(self._due - now)
