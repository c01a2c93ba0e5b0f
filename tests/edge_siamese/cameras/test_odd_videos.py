"""Videos as they come: times that go back, jump or are missing, pixels that are not square, more than one stream."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.cameras.camera import Frame
from edge_siamese.cameras.files import FilesCamera
from edge_siamese.cameras.video import Timeline, open_video, picture_size
from edge_siamese.errors import CameraEnded, CameraError
from edge_siamese.settings import CameraSettings

RATE = 30
COUNT = 40


@pytest.fixture
def av() -> Any:
    return pytest.importorskip("av")


def write_video(
    av: Any,
    path: Path,
    change: Callable[[int], int | None] = lambda number: number,
    *,
    count: int = COUNT,
    codec: str = "mjpeg",
    size: tuple[int, int] = (64, 48),
    aspect: Fraction | None = None,
    rotation: int = 0,
    pictures: Sequence[Any] = (),
) -> Path:
    """A video whose picture n has the brightness 6 n.

    Args:
        change: the presentation time of packet n, in pictures; None for none.
        pictures: other pictures, uint8 (h, w, 3).
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if codec != "mjpeg":
            stream.codec_context.max_b_frames = 0
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        packets: list[Any] = []
        for number in range(count):
            pixels = pictures[number] if pictures else np.full((size[1], size[0], 3), 6 * number, np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            packets += stream.encode(frame)
        packets += stream.encode()
        assert len(packets) == count
        for number, packet in enumerate(packets):
            time = change(number)
            packet.pts = None if time is None else round(time / RATE / packet.time_base)
            container.mux(packet)
    return path


class Playing:
    """A camera that plays a video, with a clock of its own."""

    def __init__(self, path: Path, *, loop: bool = False, frame_rate: float = RATE) -> None:
        self.now = 0.0
        settings = CameraSettings(kind="files", path=str(path), loop=loop, frame_rate=frame_rate)
        self.camera = FilesCamera(settings, "gray", clock=lambda: self.now, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def frames(self, count: int | None = None) -> list[Frame]:
        """The next frames; without a number all until the end."""
        frames: list[Frame] = []
        try:
            while count is None or len(frames) < count:
                frames.append(self.camera.capture())
        except CameraEnded:
            assert count is None
        return frames


def numbers(frames: list[Frame]) -> list[int]:
    """Which pictures of `write_video` these are."""
    return [round(float(frame.pixels.mean()) / 6) for frame in frames]


def require_whole(playing: Playing) -> None:
    """Check that a video of `COUNT` pictures is shown whole, at its usual rate."""
    frames = playing.frames()
    assert numbers(frames) == list(range(COUNT))
    steps = np.diff([frame.time for frame in frames])
    assert steps == pytest.approx(1 / RATE, abs=0.002)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_two_pictures_far_ahead_of_the_others_do_not_cut_a_video_short(
    av: Any, tmp_path: Path, suffix: str
) -> None:
    codec = "mjpeg" if suffix == "mkv" else "mpeg4"
    path = write_video(
        av,
        tmp_path / f"spike.{suffix}",
        lambda number: number + (300 * RATE if number in (20, 21) else 0),
        codec=codec,
    )
    require_whole(Playing(path))


def test_joined_recordings_are_played_whole_each_time(av: Any, tmp_path: Path) -> None:
    """The times of the second part begin at 0 again; so do those of a camera that was restarted."""
    first = write_video(av, tmp_path / "first.ts", codec="mpeg4", count=30).read_bytes()
    second = write_video(av, tmp_path / "second.ts", codec="mpeg4", count=12).read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(first + second)
    playing = Playing(path, loop=True)
    for _ in range(3):
        assert numbers(playing.frames(42)) == [*range(30), *range(12)]
    assert playing.now == pytest.approx((3 * 42 - 1) / RATE, abs=0.02)


def test_a_part_that_is_hours_later_follows_at_once(av: Any, tmp_path: Path) -> None:
    path = write_video(
        av, tmp_path / "later.mkv", lambda number: number + (3600 * RATE if number >= 20 else 0)
    )
    require_whole(Playing(path))


def test_a_video_without_times_is_played_at_its_rate(av: Any, tmp_path: Path) -> None:
    """A raw stream, as Raspberry Pi cameras record it, has no container and no times."""
    path = write_video(av, tmp_path / "raw.m4v", codec="mpeg4")
    frames = Playing(path).frames()
    assert numbers(frames) == list(range(COUNT))
    assert frames[-1].time == pytest.approx((COUNT - 1) / RATE, rel=0.25)


def test_a_variable_frame_rate_is_kept(av: Any, tmp_path: Path) -> None:
    times = [0, 1, 2, 10, 11, 40, 41, 42, 60, 61]
    path = write_video(av, tmp_path / "variable.mkv", lambda number: times[number], count=len(times))
    frames = Playing(path).frames()
    assert numbers(frames) == list(range(len(times)))
    assert [frame.time * RATE for frame in frames] == pytest.approx(times, abs=0.1)


def test_damaged_pictures_are_skipped(av: Any, tmp_path: Path) -> None:
    path = write_video(av, tmp_path / "damaged.avi")
    data = bytearray(path.read_bytes())
    starts = [match.start() for match in re.finditer(b"\xff\xd8\xff", data)]
    assert len(starts) == COUNT
    for number in (4, 5, 10):
        end = data.index(b"\xff\xd9", starts[number])
        data[starts[number] : end] = bytes(end - starts[number])
    path.write_bytes(data)
    assert numbers(Playing(path).frames()) == [number for number in range(COUNT) if number not in (4, 5, 10)]


def test_a_truncated_video_is_played_to_where_it_ends(av: Any, tmp_path: Path) -> None:
    path = write_video(av, tmp_path / "cut.mkv")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    shown = numbers(Playing(path).frames())
    assert len(shown) > COUNT // 4
    assert shown == list(range(len(shown)))


@pytest.mark.parametrize("aspect", [Fraction(2, 1), Fraction(1, 2), Fraction(64, 45)])
def test_a_circle_is_a_circle_although_pixels_are_not_square(
    av: Any, tmp_path: Path, aspect: Fraction
) -> None:
    side = 180
    down, right = np.mgrid[:side, :side] - (side - 1) / 2
    wide = right * float(aspect)
    disc = np.where(np.hypot(down, wide) < 0.2 * side, 255, 0).astype(np.uint8)
    pixels = np.repeat(disc[..., np.newaxis], 3, axis=2)
    path = write_video(
        av, tmp_path / "wide.mkv", codec="mpeg4", size=(side, side), aspect=aspect, count=1, pictures=[pixels]
    )
    (frame,) = Playing(path).frames()
    bright = frame.pixels > 127
    width, height = int(bright.any(0).sum()), int(bright.any(1).sum())
    assert width == pytest.approx(height, abs=2)
    assert frame.pixels.shape[1] / frame.pixels.shape[0] == pytest.approx(float(aspect), rel=0.02)


def test_a_phones_video_is_upright(av: Any, tmp_path: Path) -> None:
    upper = np.zeros((48, 64, 3), np.uint8)
    upper[:24] = 255
    for rotation in (90, -90, 180):
        path = write_video(
            av, tmp_path / "turned.mp4", codec="mpeg4", count=1, rotation=rotation, pictures=[upper]
        )
        (frame,) = Playing(path).frames()
        expected = np.rot90(upper[..., 0], rotation // 90)
        assert frame.pixels.shape == expected.shape
        assert np.abs(frame.pixels.astype(int) - expected).mean() < 5


def write_sound(av: Any, path: Path, *, video: bool) -> Path:
    """A file whose first stream is sound."""
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000)
        stream = container.add_stream("mjpeg", rate=RATE) if video else None
        if stream is not None:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        silence.sample_rate, silence.pts = 8000, 0
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
        if stream is not None:
            for number in range(COUNT):
                pixels = np.full((48, 64, 3), 6 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode(None))
    return path


def test_a_video_whose_first_stream_is_sound_is_played(av: Any, tmp_path: Path) -> None:
    require_whole(Playing(write_sound(av, tmp_path / "film.mkv", video=True)))


def test_sound_alone_is_no_video(av: Any, tmp_path: Path) -> None:
    path = write_sound(av, tmp_path / "sound.mkv", video=False)
    with pytest.raises(CameraError) as caught:
        Playing(path)
    assert str(caught.value) == f"{path} contains no video"


def test_a_large_video_is_reduced(av: Any, tmp_path: Path) -> None:
    path = write_video(av, tmp_path / "large.mkv", size=(3200, 800), count=1)
    video = open_video(path, "rgb", max_side=1600)
    assert next(video.pictures()).pixels.shape == (400, 1600, 3)
    video.close()


def test_a_video_that_is_replaced_is_shown_in_the_next_round(av: Any, tmp_path: Path) -> None:
    path = write_video(av, tmp_path / "clip.mkv", count=4)
    playing = Playing(path, loop=True)
    assert numbers(playing.frames(4)) == [0, 1, 2, 3]
    write_video(av, path, count=2)
    assert numbers(playing.frames(4)) == [0, 1, 0, 1]
    path.unlink()
    with pytest.raises(CameraError, match="cannot be read as a video: No such file or directory"):
        playing.frames(1)
    playing.camera.close()


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ((5.0, 5.5, 6.0), (0.0, 0.5, 1.0)),
        ((None, None, None), (0.0, 0.1, 0.2)),
        ((0.0, 0.0, 0.0), (0.0, 0.1, 0.2)),
        ((0.0, 0.2, 900.0, 900.2), (0.0, 0.2, 0.35, 0.55)),  # the median of 0.1 and 0.2
        ((0.0, 0.04, 0.08, 0.12, -3.0, -2.96), (0.0, 0.04, 0.08, 0.12, 0.16, 0.2)),
        ((0.0, 2.5, 2.6), (0.0, 2.5, 2.6)),
        ((0.0, None, 0.08, 0.12), (0.0, 0.1, 0.2, 0.24)),
    ],
)
def test_times_go_on_whatever_the_file_states(
    times: tuple[float | None, ...], expected: tuple[float, ...]
) -> None:
    timeline = Timeline(0.1, 3.0)
    assert [timeline.next(time) for time in times] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("width", "height", "aspect", "max_side", "expected"),
    [
        (720, 576, Fraction(16, 15), None, (720, 540)),
        (720, 576, Fraction(64, 45), None, (720, 405)),
        (480, 480, Fraction(1, 2), None, (240, 480)),
        (640, 480, None, None, (640, 480)),
        (640, 480, Fraction(0, 1), None, (640, 480)),
        (640, 480, Fraction(1000, 1), None, (640, 480)),  # not believed
        (3840, 2160, Fraction(1, 1), 1600, (1600, 900)),
        (640, 480, None, 1600, (640, 480)),
        (65_000, 2, None, 1600, (1600, 1)),
    ],
)
def test_a_picture_with_square_pixels_has_no_side_that_grew(
    width: int, height: int, aspect: Fraction | None, max_side: int | None, expected: tuple[int, int]
) -> None:
    assert picture_size(width, height, aspect, max_side) == expected
