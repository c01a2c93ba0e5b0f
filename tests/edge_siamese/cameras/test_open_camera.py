"""Which camera the settings open, and how its pictures are turned."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.cameras import open_camera
from edge_siamese.cameras.camera import FakeCamera, RotatedCamera
from edge_siamese.cameras.picamera2 import Picamera2Camera
from edge_siamese.cameras.synthetic.camera import SyntheticCamera
from edge_siamese.errors import CameraEnded, CameraError
from edge_siamese.settings import CameraSettings
from tests.edge_siamese.cameras.fake_picamera2 import installed

STAIRS = np.arange(6, dtype=np.uint8).reshape(2, 3)


def test_auto_takes_a_pi_camera_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    device = tmp_path / "video0"
    device.touch()
    opened: list[str] = []
    monkeypatch.setattr(
        "edge_siamese.cameras.usb.UsbCamera", lambda settings, color: opened.append(settings.device)
    )
    with installed(monkeypatch) as picamera2:
        settings = CameraSettings(device=str(device), width=100, height=60)
        assert isinstance(open_camera(settings, "gray"), Picamera2Camera)
        picamera2.infos = []
        open_camera(settings, "gray")
        assert opened == [str(device)]
        # libcamera lists USB cameras as well; of these, picamera2 gives no colors.
        picamera2.infos = [{"Model": "UVC", "Id": "/base/soc/usb@7e980000-1:1.0-046d:0825", "Num": 0}]
        open_camera(settings, "rgb")
        assert opened == [str(device)] * 2


def test_auto_without_any_camera_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "picamera2", None)
    with pytest.raises(CameraError) as caught:
        open_camera(CameraSettings(device="/dev/video99"), "gray")
    assert str(caught.value) == (
        "no camera: picamera2 finds none, and there is no /dev/video99; connect a USB camera, or connect the Pi "
        'camera with the power off, or set camera.kind to "synthetic" to try things out'
    )


def test_each_kind_opens_its_camera(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "edge_siamese.cameras.usb.UsbCamera", lambda settings, color: asked.append(("usb", color))
    )
    monkeypatch.setattr(
        "edge_siamese.cameras.files.FilesCamera", lambda settings, color: asked.append(("files", color))
    )
    open_camera(CameraSettings(kind="usb"), "rgb")
    open_camera(CameraSettings(kind="files", path=str(tmp_path)), "gray")
    assert asked == [("usb", "rgb"), ("files", "gray")]
    pressed: list[bool] = []
    camera = open_camera(CameraSettings(kind="synthetic"), "gray", pressed.append)
    assert isinstance(camera, SyntheticCamera)
    camera._press(True)
    assert pressed == [True]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        (90, [[3, 0], [4, 1], [5, 2]]),
        (180, [[5, 4, 3], [2, 1, 0]]),
        (270, [[2, 5], [1, 4], [0, 3]]),
    ],
)
def test_pictures_are_turned_clockwise(turn: int, expected: list[list[int]]) -> None:
    inner = FakeCamera([STAIRS], clock=lambda: 3.5)
    camera = RotatedCamera(inner, turn)
    frame = camera.capture()
    assert frame.pixels.tolist() == expected
    assert frame.pixels.flags.c_contiguous
    assert (frame.time, frame.number) == (3.5, 1)
    assert camera.description == f"a fake camera, rotated by {turn}°"
    camera.hold_exposure(True)
    camera.close()
    assert inner.holds == [True] and inner.closed


def test_the_setting_turns_any_camera() -> None:
    camera = open_camera(CameraSettings(kind="synthetic", width=64, height=48, rotation=90), "rgb")
    assert isinstance(camera, RotatedCamera)
    assert camera.capture().pixels.shape == (64, 48, 3)


def test_the_fake_camera_shows_what_it_is_given() -> None:
    waits: list[float] = []
    camera = FakeCamera(
        [STAIRS, CameraError("gone"), STAIRS], interval=0.1, clock=lambda: 1.0, sleep=waits.append
    )
    assert camera.capture().number == 1
    with pytest.raises(CameraError, match="gone"):
        camera.capture()
    assert camera.capture().number == 2
    with pytest.raises(CameraEnded, match=r"^a fake camera has shown all of its 2 frames$"):
        camera.capture()
    assert waits == [0.1, 0.1, 0.1]
    counting = FakeCamera(lambda number: np.full((2, 2), number, np.uint8))
    assert [int(counting.capture().pixels[0, 0]) for _ in range(3)] == [1, 2, 3]


def test_opening_cameras_imports_no_camera_library() -> None:
    program = (
        "import sys; import edge_siamese.cameras.picamera2, edge_siamese.cameras.usb, edge_siamese.cameras.files; "
        "from edge_siamese.cameras import open_camera; from edge_siamese.settings import CameraSettings; "
        "open_camera(CameraSettings(kind='synthetic'), 'gray'); "
        "print(sorted({'av', 'picamera2', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
