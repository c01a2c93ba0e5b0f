"""V4L2 devices, with a fake in the place of the open device."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edge_siamese.cameras.usb import POLL_SECONDS, UsbCamera
from edge_siamese.cameras.video import Picture
from edge_siamese.errors import CameraError, CameraStalled
from edge_siamese.settings import CameraSettings

GRAY = np.zeros((4, 6), dtype=np.uint8)
SETTINGS = CameraSettings(
    kind="usb", device="/dev/video7", width=640, height=480, frame_rate=10.0, timeout_s=2.0
)


class Device:
    """A device that answers with what a test gives: None (nothing yet), a packet's number, or an error."""

    name, size = "/dev/video7", (640, 480)

    def __init__(self, *answers: Any, codec: str = "mjpeg") -> None:
        self.answers, self.codec = list(answers), codec
        self.now = 50.0
        self.asked: tuple[Any, ...] = ()
        self.decoded: list[Any] = []
        self.closed = 0

    def open(self, *asked: Any) -> Device:
        self.asked = asked
        return self

    def packet(self) -> Any:
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def decode(self, packet: Any) -> Picture | None:
        self.decoded.append(packet)
        return None if packet == "damaged" else Picture(GRAY, None)

    def close(self) -> None:
        self.closed += 1

    def pause(self, seconds: float) -> None:
        self.now += seconds


def camera_of(device: Device) -> UsbCamera:
    return UsbCamera(
        SETTINGS,
        "gray",
        open=device.open,  # type: ignore[arg-type]
        clock=lambda: device.now,
        sleep=device.pause,
    )


def test_a_frame_is_waited_for() -> None:
    device = Device(None, None, "first")
    camera = camera_of(device)
    frame = camera.capture()
    assert frame.pixels is GRAY
    assert (frame.number, round(frame.time, 3)) == (1, 50.0 + 2 * POLL_SECONDS)
    assert device.asked == ("/dev/video7", (640, 480), 10.0, 2.0, "gray")
    assert camera.description == "the camera /dev/video7, 640 x 480 mjpeg"
    camera.hold_exposure(True)
    camera.close()
    assert device.closed == 1


def test_frames_that_nobody_could_look_at_are_not_decoded() -> None:
    device = Device("a", "b", None, "c", *[None] * 15, "d")
    camera = camera_of(device)
    numbers = [camera.capture().number, camera.capture().number]
    assert device.decoded == ["a", "d"]
    assert numbers == [1, 4]


def test_of_thirty_frames_a_second_as_many_are_decoded_as_are_wanted() -> None:
    waits: list[Any] = [None] * 6  # 0.03 s, with the frame about 33 a second
    device = Device(*[answer for number in range(100) for answer in (number, *waits)])
    camera = camera_of(device)
    times = [camera.capture().time for _ in range(25)]
    assert len(device.decoded) == 25
    assert times[-1] - times[0] == pytest.approx(2.4, abs=0.05)


def test_a_camera_of_which_a_picture_is_seldom_wanted_does_not_stall() -> None:
    answers: list[Any] = [answer for number in range(1000) for answer in (number, *[None] * 6)]
    device = Device(*answers)
    camera = UsbCamera(
        structs.replace(SETTINGS, frame_rate=0.1),
        "gray",
        open=device.open,  # type: ignore[arg-type]
        clock=lambda: device.now,
        sleep=device.pause,
    )
    first, second = camera.capture(), camera.capture()
    assert 7.5 <= second.time - first.time <= 10.0


def test_frames_that_build_on_each_other_are_all_decoded() -> None:
    device = Device("a", "b", codec="h264")
    camera = camera_of(device)
    assert [camera.capture().number, camera.capture().number] == [1, 2]
    assert device.decoded == ["a", "b"]


def test_a_damaged_frame_is_passed_over() -> None:
    device = Device("damaged", "whole")
    assert camera_of(device).capture().number == 2


@pytest.mark.parametrize("answer", [None, "damaged"])
def test_a_device_that_gives_nothing_whole_stalls_in_its_time(answer: Any) -> None:
    device = Device(*[answer, None] * 1000)
    with pytest.raises(CameraStalled) as caught:
        camera_of(device).capture()
    assert str(caught.value) == "/dev/video7 delivered no frame within 2 s; reconnect it"
    assert 52.0 <= device.now < 52.1


def test_an_unplugged_device_is_known_at_once() -> None:
    device = Device(None, CameraError("/dev/video7 is gone: No such device"))
    with pytest.raises(CameraError, match=r"^/dev/video7 is gone: No such device$") as caught:
        camera_of(device).capture()
    assert not isinstance(caught.value, CameraStalled)
    assert device.now < 50.1
