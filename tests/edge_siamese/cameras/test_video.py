"""Video files and devices through PyAV: the real one where it is installed."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.cameras.video import Video, open_device, open_video
from edge_siamese.errors import CameraError


@pytest.fixture
def av() -> Any:
    return pytest.importorskip("av")


def write_clip(av: Any, path: Path, frames: int = 10) -> Path:
    """A clip of 25 pictures a second, each 20 brighter than the one before."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(frames):
            pixels = np.full((48, 64, 3), number * 20, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def test_a_clip_is_decoded_to_gray(av: Any, tmp_path: Path) -> None:
    video = open_video(write_clip(av, tmp_path / "clip.mkv"), "gray")
    assert (video.size, video.codec, video.rate) == ((64, 48), "mjpeg", 25.0)
    pictures = list(video.pictures())
    assert [picture.time for picture in pictures] == pytest.approx([0.04 * n for n in range(10)])
    assert pictures[3].pixels.shape == (48, 64) and pictures[3].pixels.dtype == np.uint8
    assert [int(picture.pixels.mean().round()) for picture in pictures] == [20 * n for n in range(10)]
    video.close()
    video.close()


def test_a_clip_is_decoded_to_colors(av: Any, tmp_path: Path) -> None:
    video = open_video(write_clip(av, tmp_path / "clip.mkv"), "rgb")
    picture = next(video.pictures())
    assert picture.pixels.shape == (48, 64, 3)
    video.close()


def test_what_is_no_video_is_one_line(av: Any, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"not a video" * 100)
    with pytest.raises(CameraError) as caught:
        open_video(path, "gray")
    assert str(caught.value) == f"{path} cannot be read as a video: Invalid data found when processing input"
    with pytest.raises(CameraError, match="cannot be read as a video: No such file or directory"):
        open_video(tmp_path / "none.mp4", "gray")


def test_a_device_that_is_not_there_or_no_camera_says_so(av: Any) -> None:
    with pytest.raises(
        CameraError, match=r"^/dev/video99 does not exist: connect the camera, or correct camera.device"
    ):
        open_device("/dev/video99", (640, 480), 10.0, 1.0, "gray")
    with pytest.raises(CameraError, match=r"^/dev/null cannot be opened: it is not a camera"):
        open_device("/dev/null", (640, 480), 10.0, 1.0, "gray")


def test_without_pyav_one_is_told_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(CameraError) as caught:
        open_device("/dev/video0", (640, 480), 10.0, 1.0, "gray")
    assert str(caught.value) == "the camera /dev/video0 needs PyAV: pip install av"
    with pytest.raises(CameraError) as caught:
        open_video(tmp_path / "clip.mp4", "gray")
    assert str(caught.value) == f"the video {tmp_path / 'clip.mp4'} needs PyAV: pip install av"


# --- a device, with the container replaced


class Container:
    """Answers reads with packets, or errors."""

    def __init__(self, clip: Any, *answers: Any) -> None:
        self.streams = clip.streams
        self.answers = list(answers)
        self.closed = 0

    def demux(self, stream: Any) -> Any:
        # A read that fails ends the generator, as PyAV's does; the next read is another one's.
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        if answer is not None:
            yield answer

    def close(self) -> None:
        self.closed += 1


def opened(av: Any, tmp_path: Path, *answers: Any) -> tuple[Video, list[Any]]:
    clip = av.open(str(write_clip(av, tmp_path / "clip.mkv", 3)))
    packets = [packet for packet in clip.demux(video=0) if packet.size]
    return Video(Container(clip, *answers), "/dev/video0", "gray"), packets


def test_a_read_says_packet_nothing_yet_or_gone(av: Any, tmp_path: Path) -> None:
    video, packets = opened(
        av,
        tmp_path,
        "a packet",
        av.error.BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        av.error.OSError(errno.ENODEV, "No such device"),
        None,
    )
    assert video.packet() == "a packet"
    assert video.packet() is None
    with pytest.raises(CameraError, match=r"^/dev/video0 is disconnected: No such device$"):
        video.packet()
    with pytest.raises(CameraError, match=r"^/dev/video0 delivers no more pictures$"):
        video.packet()
    picture = video.decode(packets[2])
    assert picture is not None and picture.pixels.mean().round() == 40


def test_a_damaged_packet_gives_no_picture(av: Any, tmp_path: Path) -> None:
    video, _ = opened(av, tmp_path)

    class Damaged:
        def decode(self) -> None:
            raise av.error.InvalidDataError(1, "Invalid data found")

    class Early:
        def decode(self) -> list[Any]:
            return []

    assert video.decode(Damaged()) is None
    assert video.decode(Early()) is None


@pytest.mark.parametrize("refused", [0, 1, 2])
def test_a_size_or_rate_that_a_camera_does_not_have_is_given_up(
    av: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int
) -> None:
    clip = av.open(str(write_clip(av, tmp_path / "clip.mkv", 1)))
    tried: list[dict[str, str]] = []

    def open_(
        device: str, format: str, container_options: dict[str, str], timeout: tuple[float, float]
    ) -> Any:
        assert (device, format, timeout) == ("/dev/null", "v4l2", (3.0, 3.0))
        tried.append(container_options)
        if len(tried) <= refused:
            raise av.error.ArgumentError(errno.EINVAL, "Invalid argument")
        return Container(clip)

    monkeypatch.setattr(av, "open", open_)
    open_device("/dev/null", (640, 480), 7.5, 3.0, "gray")
    flags = {"fflags": "nobuffer+4"}
    assert (
        tried
        == [
            {**flags, "video_size": "640x480", "framerate": "7.5"},
            {**flags, "video_size": "640x480"},
            flags,
        ][: refused + 1]
    )


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            errno.EACCES,
            "/dev/null cannot be opened: permission denied; add the user to the group video",
        ),
        (errno.EBUSY, "/dev/null cannot be opened: another program uses it"),
        (errno.EIO, "/dev/null cannot be opened: told by the driver"),
    ],
)
def test_why_a_device_cannot_be_opened_is_said(
    av: Any, monkeypatch: pytest.MonkeyPatch, number: int, message: str
) -> None:
    def open_(*args: Any, **options: Any) -> Any:
        raise av.error.OSError(number, "told by the driver")

    monkeypatch.setattr(av, "open", open_)
    with pytest.raises(CameraError) as caught:
        open_device("/dev/null", (640, 480), 7.5, 3.0, "gray")
    assert str(caught.value) == message


def test_flags_of_a_device_mean_that_reads_do_not_wait(av: Any, tmp_path: Path) -> None:
    container = av.open(str(write_clip(av, tmp_path / "clip.mkv", 1)), options={"fflags": "nobuffer+4"})
    assert container.flags & av.container.Flags.non_block.value
    assert container.flags & av.container.Flags.no_buffer.value
