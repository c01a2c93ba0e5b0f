"""Pictures, folders and videos in the place of a camera."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edge_siamese.cameras.files import FilesCamera, list_folders, list_pictures
from edge_siamese.cameras.video import Picture
from edge_siamese.errors import CameraEnded, CameraError
from edge_siamese.settings import CameraSettings

pytest.importorskip("PIL")


class Clock:
    """A clock that moves when somebody pauses."""

    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def picture(path: Path, value: int) -> Path:
    from PIL import Image

    Image.fromarray(np.full((4, 6), value, np.uint8)).save(path)
    return path


def camera_of(path: Path, clock: Clock, loop: bool = True, rate: float = 10.0) -> FilesCamera:
    settings = CameraSettings(kind="files", path=str(path), loop=loop, frame_rate=rate)
    return FilesCamera(settings, "gray", clock=clock, sleep=clock.pause)


def values(camera: FilesCamera, count: int) -> list[int]:
    return [int(camera.capture().pixels.flat[0]) for _ in range(count)]


def test_subfolders_are_listed_in_natural_order(tmp_path: Path) -> None:
    for name in ("10-pen", "2-mug", ".cache"):
        (tmp_path / name).mkdir()
    picture(tmp_path / "1.png", 0)
    assert [path.name for path in list_folders(tmp_path)] == ["2-mug", "10-pen"]


def test_pictures_of_a_folder_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.png", "9.PNG", "b2.jpg", "B10.jpg", "a.webp"):
        (tmp_path / name).touch()
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in list_pictures(tmp_path)] == [
        "9.PNG",
        "10.png",
        "a.webp",
        "b2.jpg",
        "B10.jpg",
    ]


def test_each_picture_of_a_folder_is_a_frame_at_the_rate_and_then_they_start_again(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        picture(tmp_path / f"{number}.png", number)
    clock = Clock()
    camera = camera_of(tmp_path, clock)
    frames = [camera.capture() for _ in range(5)]
    assert [int(frame.pixels[0, 0]) for frame in frames] == [1, 2, 10, 1, 2]
    assert [frame.number for frame in frames] == [1, 2, 3, 4, 5]
    assert [round(frame.time, 3) for frame in frames] == [10.0, 10.1, 10.2, 10.3, 10.4]
    assert camera.description == f"the folder {tmp_path}, 3 pictures"


def test_a_folder_comes_to_its_end_where_it_is_not_to_loop(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 1)
    camera = camera_of(tmp_path, Clock(), loop=False)
    assert values(camera, 1) == [1]
    with pytest.raises(CameraEnded) as caught:
        camera.capture()
    assert str(caught.value) == f"the folder {tmp_path}, 1 pictures has ended"


def test_a_slow_reader_is_not_slowed_down_further(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        picture(tmp_path / f"{number}.png", number)
    clock = Clock()
    camera = camera_of(tmp_path, clock)
    camera.capture()
    clock.now += 5.0
    assert [round(camera.capture().time, 3) for _ in range(2)] == [15.0, 15.1]


def test_a_damaged_picture_is_skipped_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    picture(tmp_path / "1.png", 1)
    (tmp_path / "2.png").write_bytes(b"no picture")
    picture(tmp_path / "3.png", 3)
    assert values(camera_of(tmp_path, Clock()), 6) == [1, 3, 1, 3, 1, 3]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / '2.png'} is not a JPEG, PNG, WEBP, GIF, BMP, PPM or TIFF; it is skipped"
    ]


def test_a_folder_may_change_while_it_is_shown(tmp_path: Path) -> None:
    picture(tmp_path / "1.png", 1)
    second = picture(tmp_path / "2.png", 2)
    camera = camera_of(tmp_path, Clock())
    assert values(camera, 2) == [1, 2]
    picture(tmp_path / "3.png", 3)
    second.unlink()
    assert values(camera, 2) == [1, 3]


def test_a_folder_of_which_nothing_can_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "2.png").write_bytes(b"no picture")
    with pytest.raises(CameraError) as caught:
        camera_of(tmp_path, Clock()).capture()
    assert str(caught.value) == f"{tmp_path}: no file can be read as a picture"
    assert not isinstance(caught.value, CameraEnded)


def test_one_picture_is_shown_repeatedly_and_read_again_when_it_changes(tmp_path: Path) -> None:
    path = picture(tmp_path / "mug.png", 7)
    clock = Clock()
    camera = camera_of(path, clock)
    frames = [camera.capture() for _ in range(3)]
    assert [round(frame.time, 3) for frame in frames] == [10.0, 10.1, 10.2]
    assert frames[0].pixels is frames[1].pixels  # it is not decoded for each frame
    picture(path, 8)
    os.utime(path, (1, 1))
    assert values(camera, 1) == [8]
    assert camera.description == f"the picture {path}"


def test_what_is_not_there_or_no_picture_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CameraError) as caught:
        camera_of(tmp_path / "none", Clock())
    assert str(caught.value) == f"{tmp_path / 'none'}: there is no such file or folder; correct camera.path"
    with pytest.raises(CameraError, match=r"contains no pictures \(bmp, gif, jpeg, jpg, "):
        camera_of(tmp_path, Clock())
    path = tmp_path / "mug.png"
    path.write_bytes(b"no picture")
    with pytest.raises(CameraError) as caught:
        camera_of(path, Clock())
    assert str(caught.value) == f"{path} is not a JPEG, PNG, WEBP, GIF, BMP, PPM or TIFF"


class Recording:
    """A video of a test: the times of its pictures."""

    codec, size = "h264", (6, 4)

    def __init__(self, *times: float | None, rate: float | None = None) -> None:
        self.times, self.rate = times, rate
        self.closed = False

    def pictures(self):  # type: ignore[no-untyped-def]
        for number, time in enumerate(self.times):
            pixels: npt.NDArray[np.uint8] = np.full((4, 6), number, np.uint8)
            yield Picture(pixels, time)

    def close(self) -> None:
        self.closed = True


def video_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock, recording: Recording, rate: float
) -> FilesCamera:
    path = tmp_path / "clip.mp4"
    path.touch()
    monkeypatch.setattr("edge_siamese.cameras.files.open_video", lambda path, color, max_side: recording)
    return camera_of(path, clock, rate=rate)


def test_a_video_plays_at_its_own_speed_without_the_frames_beyond_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, recording = Clock(), Recording(*(number / 25 for number in range(25)))
    camera = video_camera(tmp_path, monkeypatch, clock, recording, rate=10.0)
    frames = [camera.capture() for _ in range(12)]
    shown = [int(frame.pixels[0, 0]) for frame in frames]
    # Every 0.1 s as nearly as 25 frames a second can; then it starts again.
    assert shown == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 0, 2]
    assert [round(frame.time - 10, 2) for frame in frames[:5]] == [0.0, 0.08, 0.2, 0.28, 0.4]
    assert camera.description == f"the video {tmp_path / 'clip.mp4'}, 6 x 4 h264"
    camera.close()
    assert recording.closed


def test_a_video_slower_than_the_rate_and_one_without_times_are_shown_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    slow = video_camera(tmp_path, monkeypatch, clock, Recording(0.0, 0.5, 1.0), rate=10.0)
    assert [round(slow.capture().time, 2) for _ in range(3)] == [10.0, 10.5, 11.0]
    clock = Clock()
    timeless = video_camera(tmp_path, monkeypatch, clock, Recording(None, None, None), rate=10.0)
    assert [round(timeless.capture().time, 2) for _ in range(3)] == [10.0, 10.1, 10.2]


def test_a_gap_of_a_video_does_not_look_like_a_camera_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    still = video_camera(tmp_path, monkeypatch, clock, Recording(0.0, 0.5, 1.0, 60.0, 60.5), rate=10.0)
    assert [round(still.capture().time, 2) for _ in range(5)] == [10.0, 10.5, 11.0, 11.5, 12.0]
    # No longer than `camera.timeout_s`, which is 3 s.
    clock, slides = Clock(), Recording(0.0, 60.0, 120.0, rate=1 / 60)
    still = video_camera(tmp_path, monkeypatch, clock, slides, rate=10.0)
    assert [round(still.capture().time, 2) for _ in range(3)] == [10.0, 13.0, 16.0]


def test_a_large_photograph_is_reduced_while_it_is_decoded(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "large.jpg"
    Image.new("RGB", (4000, 3000), (200, 40, 90)).save(path)
    frame = camera_of(path, Clock()).capture()
    assert max(frame.pixels.shape[:2]) <= 1600
    assert min(frame.pixels.shape[:2]) >= 500
    assert np.abs(frame.pixels[0, 0].astype(int) - (200, 40, 90)).max() <= 3


def test_a_picture_that_is_being_written_is_a_blink(tmp_path: Path) -> None:
    path, clock = picture(tmp_path / "snapshot.png", 10), Clock()
    camera = camera_of(path, clock)
    assert values(camera, 1) == [10]
    whole = picture(tmp_path / "next.png", 20).read_bytes()
    for part in (b"", whole[:20], whole[:40]):
        path.write_bytes(part)
        os.utime(path, (len(part) + 1, len(part) + 1))
        assert values(camera, 2) == [10, 10]
    path.write_bytes(whole)
    assert values(camera, 1) == [20]
    path.write_bytes(b"")
    os.utime(path, (7, 7))
    assert values(camera, 1) == [20]
    clock.now += 10.1
    with pytest.raises(CameraError, match=r"snapshot\.png"):
        camera.capture()
