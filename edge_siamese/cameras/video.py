"""Video files and V4L2 devices, read through PyAV, the Python bindings of FFmpeg."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

from edge_siamese.errors import CameraError
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.registry import CAMERAS

# 4 is AVFMT_FLAG_NONBLOCK, which has no name among FFmpeg's options: a read returns immediately instead of waiting for a
# camera that may never answer. `nobuffer`: frames that were read to detect the stream's format are dropped.
NON_BLOCKING = "nobuffer+4"
MAX_PIXEL_ASPECT = 10.0
"""Largest plausible width of a pixel relative to its height, or the inverse."""


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded picture."""

    pixels: Bytes
    """uint8 (h, w) gray or (h, w, 3) RGB."""
    time: float | None
    """Presentation time in seconds, as the file states it; None if it does not. See `Timeline`."""


class Video:
    """An open video file or device, used from one thread."""

    def __init__(
        self, container: Any, name: str, color: Literal["gray", "rgb"], max_side: int | None = None
    ) -> None:
        """Read the streams of a container.

        Args:
            container: PyAV's container; closed after an error.
            name: path or device, for messages.
            color: color of the pictures.
            max_side: maximum length of a picture's longer side, in pixels; None: no limit.

        Raises:
            CameraError: it contains no video.
        """
        import av
        from av.video.reformatter import VideoReformatter

        self.name = name
        self._error = av.FFmpegError
        self._container = container
        self._format = "gray" if color == "gray" else "rgb24"
        self._max_side = max_side
        self._reformatter = VideoReformatter()
        # The first stream may be the cover picture of a piece of music.
        self._stream = container.streams.best("video")
        if self._stream is None:
            container.close()
            raise CameraError(f"{name} contains no video")
        # More decoder threads would add latency, and the other cores have other work.
        self._stream.codec_context.thread_count = 1
        self.codec = str(self._stream.codec_context.name)
        self.size = (int(self._stream.codec_context.width), int(self._stream.codec_context.height))
        """(width, height) in pixels."""
        rate = self._stream.average_rate
        self.rate = float(rate) if rate else None
        """Average number of pictures per second; None if unknown."""

    def packet(self) -> Any | None:
        """Return the next packet of a device; None if there is none yet.

        Raises:
            CameraError: the device is disconnected.
        """
        packets = self._container.demux(self._stream)
        try:
            return next(packets)
        except BlockingIOError:
            return None
        except StopIteration:
            raise CameraError(f"{self.name} delivers no more pictures") from None
        except self._error as error:
            raise CameraError(f"{self.name} is disconnected: {_reason(error)}") from error
        finally:
            packets.close()

    def decode(self, packet: Any) -> Picture | None:
        """Decode a packet; returns None if it is damaged, or if the decoder needs more packets."""
        try:
            frames = packet.decode()
        except self._error:  # one picture damaged by a bad cable; the next may be intact
            return None
        return self._picture(frames[-1]) if frames else None

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures of a file, once; damaged ones are skipped.

        Raises:
            CameraError: the file cannot be read, or all of it is damaged.
        """
        damage: Any = None
        count = 0
        try:
            for packet in self._container.demux(self._stream):
                try:
                    frames = packet.decode()
                except self._error as error:
                    damage = error
                    continue
                for frame in frames:
                    count += 1
                    yield self._picture(frame)
        except self._error as error:
            damage, count = error, 0
        if damage is not None and not count:
            raise CameraError(f"{self.name} is damaged: {_reason(damage)}") from damage

    def close(self) -> None:
        """Close the file or device; may be called twice."""
        self._container.close()

    def _picture(self, frame: Any) -> Picture:
        size = picture_size(frame.width, frame.height, self._stream.sample_aspect_ratio, self._max_side)
        reformatted = self._reformatter.reformat(frame, *size, format=self._format, threads=1)
        pixels = np.asarray(reformatted.to_ndarray(), dtype=np.uint8)
        # A phone stores pictures in the orientation of its sensor, with the rotation as metadata.
        quarter_turns = round(frame.rotation / 90) % 4
        if quarter_turns:
            pixels = np.ascontiguousarray(np.rot90(pixels, quarter_turns))
        return Picture(pixels, None if frame.pts is None else float(frame.time))


class Timeline:
    """The times at which the pictures of a video are shown, in seconds from its beginning.

    Times of a file may be missing, go back where recordings were joined, or jump ahead by hours. Such a picture is shown
    one usual interval after the previous one.
    """

    def __init__(self, interval: float, max_interval: float) -> None:
        """Start a video.

        Args:
            interval: seconds between two pictures until the file has shown others.
            max_interval: longer intervals count as errors of the file.
        """
        self._max_interval = max_interval
        self._steps = deque([min(interval, max_interval)], maxlen=5)
        """The latest plausible intervals."""
        self._previous: float | None = None
        self._now: float | None = None

    def next(self, time: float | None) -> float:
        """Return when to show the next picture.

        Args:
            time: time of the picture, in seconds, as the file states it; None if it does not.
        """
        if self._now is None:
            self._now = 0.0
        else:
            step = 0.0 if time is None or self._previous is None else time - self._previous
            if 0 < step <= self._max_interval:
                self._steps.append(step)
            else:
                step = median(self._steps)
            self._now += step
        self._previous = time
        return self._now


def picture_size(
    width: int, height: int, pixel_aspect: float | None, max_side: int | None
) -> tuple[int, int]:
    """Return the size at which a picture with square pixels looks as intended; neither side grows.

    Args:
        width, height: size of the stored picture, in pixels.
        pixel_aspect: width of a stored pixel relative to its height; None or 0 if unknown.
        max_side: maximum length of the longer side; None: no limit.
    """
    aspect = float(pixel_aspect or 1)
    wide, high = float(width), float(height)
    if 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        wide, high = (wide, high / aspect) if aspect > 1 else (wide * aspect, high)
    scale = 1.0 if max_side is None else min(1.0, max_side / max(wide, high))
    return max(1, round(wide * scale)), max(1, round(high * scale))


def open_video(path: Path, color: Literal["gray", "rgb"], max_side: int | None = None) -> Video:
    """Open a video file; its pictures are reduced to a longer side of at most `max_side` pixels.

    Raises:
        CameraError: there is no such file, it is not a video, or PyAV is not installed.
    """
    av = _load_av(f"the video {path}")
    try:
        return Video(av.open(str(path)), str(path), color, max_side)
    except av.FFmpegError as error:
        raise CameraError(f"{path} cannot be read as a video: {_reason(error)}") from error


def open_device(
    device: str, size: tuple[int, int], rate: float, timeout_s: float, color: Literal["gray", "rgb"]
) -> Video:
    """Open a V4L2 device at the size and rate nearest to the requested ones.

    Args:
        device: its path.
        size: (width, height) in pixels.
        rate: frames per second.
        timeout_s: limit for opening, in seconds.
        color: color of the pictures.

    Raises:
        CameraError: there is no such device, it is not a camera, another program uses it, or PyAV is not installed.
    """
    av = _load_av(f"the camera {device}")
    if not os.path.exists(device):
        raise CameraError(
            f"{device} does not exist: connect the camera, or correct camera.device{_other_devices()}"
        )
    requested = {"video_size": f"{size[0]}x{size[1]}", "framerate": f"{rate:g}"}
    attempts: list[Mapping[str, str]] = [requested, {"video_size": requested["video_size"]}, {}]
    for number, options in enumerate(attempts, 1):
        try:
            container = av.open(
                device,
                format="v4l2",
                # Not `options`: those also reach the decoder, where they override the size that the camera selected.
                container_options={"fflags": NON_BLOCKING, **options},
                timeout=(timeout_s, timeout_s),
            )
            return Video(container, device, color)
        except av.FFmpegError as error:
            # A driver answers "Invalid argument" to a size or rate that it does not support.
            if number == len(attempts) or error.errno != errno.EINVAL:
                raise CameraError(_open_error(device, error)) from error
    raise AssertionError("unreachable")


def _load_av(user: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise CameraError(f"{user} needs PyAV: {CAMERAS['usb'].install}") from error
    return av


def _open_error(device: str, error: Any) -> str:
    hints = {
        errno.EACCES: "permission denied; add the user to the group video",
        errno.EBUSY: "another program uses it",
        errno.ENODEV: f"it is disconnected{_other_devices()}",
        errno.ENOTTY: f"it is not a camera{_other_devices()}",
        errno.EINVAL: f"it does not capture video{_other_devices()}",
    }
    return f"{device} cannot be opened: {hints.get(error.errno, _reason(error))}"


def _other_devices() -> str:
    """List the V4L2 devices that exist, as the end of a message."""
    by_id = Path("/dev/v4l/by-id")
    devices = sorted(by_id.iterdir()) if by_id.is_dir() else sorted(Path("/dev").glob("video*"))
    return "; existing devices: " + ", ".join(str(path) for path in devices[:4]) if devices else ""


def _reason(error: Any) -> str:
    return str(error.strerror or type(error).__name__)
