"""The Pi's cameras, with a module in the place of picamera2."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edge_siamese.cameras.picamera2 import HINT, Picamera2Camera, list_cameras
from edge_siamese.errors import CameraError, CameraStalled
from edge_siamese.registry import CAMERAS
from edge_siamese.settings import CameraSettings
from tests.edge_siamese.cameras.fake_picamera2 import Camera, installed

SETTINGS = CameraSettings(kind="picamera2", width=100, height=60, frame_rate=10.0, timeout_s=2.0)
# Of a stride of 128, 100 columns are picture.
GRADIENT = np.add(*np.mgrid[:60, :100]).astype(np.uint8)


@pytest.fixture
def picamera2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with installed(monkeypatch) as module:
        yield module


def test_gray_is_the_luma_plane_of_the_small_stream_without_its_padding(picamera2: type[Camera]) -> None:
    camera = Picamera2Camera(SETTINGS, "gray", clock=lambda: 7.5)
    frame = camera.capture()
    assert frame.pixels.dtype == np.uint8
    # A copy: the buffer was zeroed when the request was released.
    assert (frame.pixels == GRADIENT).all()
    assert frame.pixels.flags.c_contiguous and frame.pixels.flags.owndata
    assert (frame.time, frame.number) == (7.5, 1)
    assert camera.capture().number == 2
    made = picamera2.made[0]
    assert [request.released for request in made.requests] == [1, 1]
    assert camera.description == "imx708 through picamera2, 100 x 60 YUV420"
    assert made.configuration == {
        "main": {"size": (100, 60), "format": "YUV420"},
        "lores": {"size": (100, 60), "format": "YUV420"},
        "raw": None,
        # Luma from 0 to 255; that of videos, the default, goes from 16 to 235.
        "colour_space": "sYCC",
        "display": None,
        "encode": None,
    }
    assert made.wanted == {
        "buffer_count": 3,
        "controls": {"FrameDurationLimits": (100_000, 100_000)},
        "queue": False,
    }
    assert made.waited == 2.0


def test_colors_come_from_the_main_stream_red_first(picamera2: type[Camera]) -> None:
    camera = Picamera2Camera(SETTINGS, "rgb")
    pixels = camera.capture().pixels
    assert pixels.shape == (60, 100, 3)
    assert tuple(pixels[5, 5]) == (10, 20, 30)
    assert picamera2.made[0].configuration["main"]["format"] == "BGR888"
    assert picamera2.made[0].configuration["lores"] is None


@pytest.mark.parametrize("format", ["BGR888", "RGB888", "XBGR8888", "XRGB8888", "MJPEG"])
def test_a_camera_that_is_not_the_pis_gives_colors_of_any_order(picamera2: type[Camera], format: str) -> None:
    picamera2.properties = {"Model": "UVC"}
    picamera2.given = format
    camera = Picamera2Camera(SETTINGS, "gray")
    pixels = camera.capture().pixels
    assert pixels.shape == (60, 100, 3) and pixels.flags.c_contiguous
    assert (pixels == np.array([10, 20, 30], np.uint8)).all()


def test_packed_luma_and_chroma_will_do_for_gray_and_not_for_colors(picamera2: type[Camera]) -> None:
    picamera2.properties = {"Model": "UVC"}
    picamera2.given = "YUYV"
    assert (Picamera2Camera(SETTINGS, "gray").capture().pixels == GRADIENT).all()
    with pytest.raises(CameraError) as caught:
        Picamera2Camera(SETTINGS, "rgb")
    assert str(caught.value) == (
        "the camera UVC delivers YUYV, of which only the brightness is read, and the model needs colors; "
        "set camera.kind to usb if it is a USB camera"
    )
    assert picamera2.made[1].calls == ["configure", "close"]


def test_a_format_that_is_not_read_is_an_error_and_the_camera_is_let_go(picamera2: type[Camera]) -> None:
    picamera2.given = "R8"
    with pytest.raises(CameraError) as caught:
        Picamera2Camera(SETTINGS, "gray")
    assert str(caught.value) == (
        "the camera imx708 delivers R8, which is not supported; set camera.kind to usb if it is a USB camera"
    )
    assert picamera2.made[0].calls == ["configure", "close"]


def test_why_it_cannot_be_opened_is_told_though_it_cannot_be_closed_either(
    picamera2: type[Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Camera) -> None:
        raise RuntimeError("not now")

    monkeypatch.setattr(Camera, "start", fail)
    monkeypatch.setattr(Camera, "close", lambda self: 1 / 0)
    with pytest.raises(CameraError) as caught:
        Picamera2Camera(SETTINGS, "gray")
    assert str(caught.value) == f"the Pi camera cannot be opened: not now; {HINT}"


def test_a_frame_that_does_not_come_is_a_stall_and_the_job_is_cancelled(picamera2: type[Camera]) -> None:
    camera = Picamera2Camera(SETTINGS, "gray")
    picamera2.failures.append(TimeoutError())
    with pytest.raises(CameraStalled) as caught:
        camera.capture()
    assert str(caught.value) == f"the Pi camera delivered no frame within 2 s: {HINT}"
    camera.close()
    assert picamera2.made[0].calls == ["configure", "start", "cancel", "stop", "close"]


def test_an_older_picamera2_that_cannot_cancel_stalls_all_the_same(
    picamera2: type[Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Camera, "cancel_all_and_flush")
    camera = Picamera2Camera(SETTINGS, "gray")
    picamera2.failures.append(TimeoutError())
    with pytest.raises(CameraStalled):
        camera.capture()


def test_what_libcamera_raises_is_one_line(picamera2: type[Camera]) -> None:
    camera = Picamera2Camera(SETTINGS, "gray")
    picamera2.failures.append(RuntimeError("dequeue timer expired\nmore of it"))
    with pytest.raises(CameraError) as caught:
        camera.capture()
    assert str(caught.value) == f"the Pi camera failed: dequeue timer expired; {HINT}"
    assert not isinstance(caught.value, CameraStalled)


def test_a_request_is_released_though_its_buffer_cannot_be_read(picamera2: Any) -> None:
    camera = Picamera2Camera(SETTINGS, "gray")
    picamera2.mapped.broken = OSError("mmap failed")
    with pytest.raises(CameraError, match=r"^the Pi camera's frame cannot be read: mmap failed$"):
        camera.capture()
    assert picamera2.made[0].requests[0].released == 1


def test_the_exposure_is_held_where_it_is_and_let_go(picamera2: type[Camera]) -> None:
    camera = Picamera2Camera(SETTINGS, "gray")
    camera.hold_exposure(True)
    camera.hold_exposure(False)
    assert picamera2.made[0].set == [
        {
            "AeEnable": False,
            "AwbEnable": False,
            "ExposureTime": 12_345,
            "AnalogueGain": 2.5,
            "ColourGains": (1.5, 2.0),
        },
        {"AeEnable": True, "AwbEnable": True},
    ]
    assert [request.released for request in picamera2.made[0].requests] == [1]


def test_controls_that_a_camera_does_not_have_are_left_out(picamera2: type[Camera]) -> None:
    picamera2.controls = {"AeEnable": (False, True, True), "ExposureTime": (1, 10**6, 20_000)}
    camera = Picamera2Camera(SETTINGS, "gray")
    assert picamera2.made[0].wanted["controls"] == {}
    camera.hold_exposure(True)
    assert picamera2.made[0].set == [{"AeEnable": False, "ExposureTime": 12_345}]
    picamera2.made[0].camera_controls = {}
    camera.hold_exposure(False)
    assert len(picamera2.made[0].set) == 1


@pytest.mark.parametrize(
    ("rate", "limits", "duration"),
    [
        (0.5, (10_000, 500_000, 33_333), 500_000),
        (240.0, (10_000, 500_000, 33_333), 10_000),
        (10.0, (0, 0, 0), 100_000),
        # Four frames come in the 3 s after which the camera is taken to have stalled, though one in ten is wanted.
        (0.1, (10_000, 220_000_000, 33_333), 750_000),
    ],
)
def test_the_rate_is_kept_within_what_the_sensor_can(
    picamera2: type[Camera], rate: float, limits: tuple[int, int, int], duration: int
) -> None:
    picamera2.controls = {"FrameDurationLimits": limits}
    Picamera2Camera(CameraSettings(width=100, height=60, frame_rate=rate), "gray")
    assert picamera2.made[0].wanted["controls"] == {"FrameDurationLimits": (duration, duration)}


def test_a_lens_with_a_motor_follows_what_is_held_before_it(picamera2: type[Camera]) -> None:
    picamera2.controls = {"AfMode": (0, 2, 0)}
    Picamera2Camera(SETTINGS, "gray")
    assert picamera2.made[0].wanted["controls"] == {"AfMode": 2}


def test_no_camera_and_no_picamera2_say_what_to_do(
    picamera2: type[Camera], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list_cameras() == ["imx708"]
    picamera2.infos = [{"Model": "UVC", "Id": "/base/scb/pcie@7d500000/pci@0,0/usb@0,0-1.2:1.0-046d:0825"}]
    assert list_cameras() == []
    picamera2.infos = []
    assert list_cameras() == []
    with pytest.raises(CameraError) as caught:
        Picamera2Camera(SETTINGS, "gray")
    assert str(caught.value) == f"picamera2 finds no camera: {HINT}"
    picamera2.infos = [{}]
    error = RuntimeError("Camera __init__ sequence did not complete.")
    error.__cause__ = RuntimeError("Failed to acquire camera: Device or resource busy (16)")
    picamera2.refuse = error
    with pytest.raises(CameraError) as caught:
        Picamera2Camera(SETTINGS, "gray")
    assert str(caught.value) == (
        f"the Pi camera cannot be opened: Failed to acquire camera: Device or resource busy (16); {HINT}"
    )
    monkeypatch.setitem(sys.modules, "picamera2", None)
    assert list_cameras() == []
    with pytest.raises(CameraError) as caught:
        Picamera2Camera(SETTINGS, "gray")
    assert str(caught.value).startswith("picamera2 cannot be used: ")
    assert str(caught.value).endswith(f"; {CAMERAS['picamera2'].install}; or set camera.kind to usb")


def test_a_camera_that_is_busy_for_a_day_uses_up_no_files(picamera2: type[Camera]) -> None:
    picamera2.refuse = RuntimeError("Camera __init__ sequence did not complete.")
    gc.collect()  # what former tests left
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(CameraError, match="did not complete"):
            Picamera2Camera(SETTINGS, "gray")
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_closing_twice_is_harmless_and_a_closed_camera_gives_nothing(picamera2: type[Camera]) -> None:
    camera = Picamera2Camera(SETTINGS, "gray")
    camera.close()
    camera.close()
    assert picamera2.made[0].calls == ["configure", "start", "stop", "close"]
    with pytest.raises(CameraError, match=r"^the Pi camera is closed$"):
        camera.capture()
