"""Video files and V4L2 devices, read through PyAV, the Python bindings of FFmpeg."""

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
from edge_siamese.registry import CAMERAS

# 4 is AVFMT_FLAG_NONBLOCK, which has no name among FFmpeg's options: a read returns at once instead of waiting for a
# camera that may never answer. `nobuffer`: frames that were read to detect the stream's format are dropped.
NON_BLOCKING = "nobuffer+4"


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded picture."""

    pixels: Bytes
    """uint8 (h, w) gray or (h, w, 3) RGB."""
    time: float | None
    """Seconds from the beginning of the video; None if unknown."""


class Video:
    """An open video file or device, used from one thread."""

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
            raise CameraError(f"{name} contains no video") from None
        # More decoder threads would add latency, and the other cores have other work.
        self._stream.codec_context.thread_count = 1
        self.codec = str(self._stream.codec_context.name)
        self.size = (int(self._stream.codec_context.width), int(self._stream.codec_context.height))
        """(width, height) in pixels."""

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
        """Yield all pictures of a file from its beginning.

        Raises:
            CameraError: the file is damaged.
        """
        try:
            self._container.seek(0)
            for frame in self._container.decode(self._stream):
                yield self._picture(frame)
        except self._error as error:
            raise CameraError(f"{self.name} is damaged: {_reason(error)}") from error

    def close(self) -> None:
        """Close the file or device; may be called twice."""
        self._container.close()

    def _picture(self, frame: Any) -> Picture:
        reformatted = self._reformatter.reformat(frame, format=self._format, threads=1)
        pixels = np.asarray(reformatted.to_ndarray(), dtype=np.uint8)
        # A phone stores pictures in the orientation of its sensor, with the rotation as metadata.
        quarter_turns = round(frame.rotation / 90) % 4
        if quarter_turns:
            pixels = np.ascontiguousarray(np.rot90(pixels, quarter_turns))
        return Picture(pixels, None if frame.pts is None else float(frame.time))


def open_video(path: Path, color: Literal["gray", "rgb"]) -> Video:
    """Open a video file.

    Raises:
        CameraError: there is no such file, it is not a video, or PyAV is not installed.
    """
    av = _load_av(f"the video {path}")
    try:
        return Video(av.open(str(path)), str(path), color)
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
        errno.EINVAL: f"it is not a camera for pictures{_other_devices()}",
    }
    return f"{device} cannot be opened: {hints.get(error.errno, _reason(error))}"


def _other_devices() -> str:
    """List the V4L2 devices that exist, as the end of a message."""
    by_id = Path("/dev/v4l/by-id")
    devices = sorted(by_id.iterdir()) if by_id.is_dir() else sorted(Path("/dev").glob("video*"))
    return "; existing devices: " + ", ".join(str(path) for path in devices[:4]) if devices else ""


def _reason(error: Any) -> str:
    return str(error.strerror or type(error).__name__)
