"""Reads video files and V4L2 devices through PyAV, the Python side of FFmpeg's libraries."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edge_siamese.errors import CameraError
from edge_siamese.recognition.imaging import Bytes

INSTALL = "pip install av"
# AVFMT_FLAG_NONBLOCK has no name among FFmpeg's options; with it a read says "nothing there yet" instead of waiting
# for a camera that may never answer. `nobuffer`: the frames read to find out about the stream are not kept.
WITHOUT_WAITING = "nobuffer+4"


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded picture."""

    pixels: Bytes
    """uint8 (h, w) gray or (h, w, 3) RGB."""
    time: float | None
    """Seconds from the video's beginning; None if it does not say."""


class Video:
    """An open video file or device; used from one thread."""

    def __init__(self, container: Any, name: str, color: Literal["gray", "rgb"]) -> None:
        import av
        from av.video.reformatter import VideoReformatter

        self.name = name
        self._error = av.FFmpegError
        self._container = container
        self._format = "gray" if color == "gray" else "rgb24"
        self._reformatter = VideoReformatter()
        try:
            self._stream = container.streams.video[0]
        except IndexError:
            container.close()
            raise CameraError(f"{name} has no pictures in it") from None
        # Frames in flight between decoder threads would be old ones, and the other cores have work of their own.
        self._stream.codec_context.thread_count = 1
        self.codec = str(self._stream.codec_context.name)
        self.size = (int(self._stream.codec_context.width), int(self._stream.codec_context.height))
        """(width, height) in pixels."""

    def packet(self) -> Any | None:
        """The next packet of a device; None if there is none yet.

        Raises:
            CameraError: the device is gone.
        """
        packets = self._container.demux(self._stream)
        try:
            return next(packets)
        except BlockingIOError:
            return None
        except StopIteration:
            raise CameraError(f"{self.name} gives no more pictures") from None
        except self._error as error:
            raise CameraError(f"{self.name} is gone: {_reason(error)}") from error
        finally:
            packets.close()

    def decode(self, packet: Any) -> Picture | None:
        """The picture of a packet; None if it is damaged, or the decoder needs more."""
        try:
            frames = packet.decode()
        except self._error:  # one damaged picture, as cheap cables make them; the next may be whole
            return None
        return self._picture(frames[-1]) if frames else None

    def pictures(self) -> Iterator[Picture]:
        """All pictures of a file, from its beginning.

        Raises:
            CameraError: the file cannot be read on.
        """
        try:
            self._container.seek(0)
            for frame in self._container.decode(self._stream):
                yield self._picture(frame)
        except self._error as error:
            raise CameraError(f"{self.name} cannot be read on: {_reason(error)}") from error

    def close(self) -> None:
        """Close the file or device; may be called twice."""
        self._container.close()

    def _picture(self, frame: Any) -> Picture:
        reformatted = self._reformatter.reformat(frame, format=self._format, threads=1)
        pixels = np.asarray(reformatted.to_ndarray(), dtype=np.uint8)
        # A phone writes its pictures as its sensor lies, and how to turn them beside it.
        quarters = round(frame.rotation / 90) % 4
        if quarters:
            pixels = np.ascontiguousarray(np.rot90(pixels, quarters))
        return Picture(pixels, None if frame.pts is None else float(frame.time))


def open_video(path: Path, color: Literal["gray", "rgb"]) -> Video:
    """Open a video file.

    Raises:
        CameraError: there is no such file, it is no video, or PyAV is not installed.
    """
    av = _av(f"the video {path}")
    try:
        return Video(av.open(str(path)), str(path), color)
    except av.FFmpegError as error:
        raise CameraError(f"{path} cannot be read as a video: {_reason(error)}") from error


def open_device(
    device: str, size: tuple[int, int], rate: float, timeout_s: float, color: Literal["gray", "rgb"]
) -> Video:
    """Open a V4L2 device at the size and rate that are nearest to the wanted ones.

    Args:
        device: its path.
        size: (width, height) in pixels.
        rate: frames a second.
        timeout_s: seconds that opening may take.
        color: what pictures are turned into.

    Raises:
        CameraError: there is no such device, it is no camera, another program has it, or PyAV is not installed.
    """
    av = _av(f"the camera {device}")
    if not os.path.exists(device):
        raise CameraError(f"there is no {device}: plug the camera in, or set camera.device{_others()}")
    wanted = {"video_size": f"{size[0]}x{size[1]}", "framerate": f"{rate:g}"}
    tries: list[Mapping[str, str]] = [wanted, {"video_size": wanted["video_size"]}, {}]
    for number, options in enumerate(tries, 1):
        try:
            container = av.open(
                device,
                format="v4l2",
                # Not `options`: those reach the decoder too, where they overrule the size that the camera has really taken.
                container_options={"fflags": WITHOUT_WAITING, **options},
                timeout=(timeout_s, timeout_s),
            )
            return Video(container, device, color)
        except av.FFmpegError as error:
            # "Invalid argument" is what a driver says to a size or rate that it does not have.
            if number == len(tries) or error.errno != errno.EINVAL:
                raise CameraError(_why(device, error)) from error
    raise AssertionError("unreachable")


def _av(what: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise CameraError(f"{what} needs PyAV: {INSTALL}") from error
    return av


def _why(device: str, error: Any) -> str:
    hints = {
        errno.EACCES: "this user may not use it; add the user to the group video",
        errno.EBUSY: "another program uses it",
        errno.ENODEV: f"it is gone{_others()}",
        errno.ENOTTY: f"it is no camera{_others()}",
        errno.EINVAL: f"it is no camera that gives pictures{_others()}",
    }
    return f"{device} cannot be opened: {hints.get(error.errno, _reason(error))}"


def _others() -> str:
    """Which other devices there are, as the end of a sentence."""
    by_name = Path("/dev/v4l/by-id")
    found = sorted(by_name.iterdir()) if by_name.is_dir() else sorted(Path("/dev").glob("video*"))
    return "; there are " + ", ".join(str(path) for path in found[:4]) if found else ""


def _reason(error: Any) -> str:
    return str(error.strerror or type(error).__name__)
