"""The cameras and buttons that are found on made-up machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_siamese.doctor import detection
from edge_siamese.doctor.detection import FoundDevice, find_buttons, find_cameras, list_libcamera
from edge_siamese.errors import PanelError
from edge_siamese.panel.gpio import GpioNotInstalled
from edge_siamese.settings import PanelSettings
from tests.edge_siamese.doctor.machines import PI, WORKSTATION, write


def v4l2(root: Path, number: int, name: str, parent: str, index: int = 0) -> None:
    """A V4L2 device with its entry in sysfs below a bus."""
    (root / f"dev/video{number}").touch()
    entry = root / f"sys/devices/{parent}/video4linux/video{number}"
    write(entry / "name", f"{name}\n")
    write(entry / "index", f"{index}\n")
    (root / "sys/class/video4linux").mkdir(parents=True, exist_ok=True)
    (root / f"sys/class/video4linux/video{number}").symlink_to(entry)


def test_cameras_of_a_raspberry_pi(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "find_spec", lambda name: object() if name == "picamera2" else None)
    monkeypatch.setattr(detection, "list_libcamera", lambda: ["imx708"])
    v4l2(root, 10, "bcm2835-codec-decode", "platform/soc/codec")
    v4l2(root, 2, "HD Webcam C920", "platform/soc/usb1/1-1")
    v4l2(root, 3, "HD Webcam C920", "platform/soc/usb1/1-1", index=1)
    (root / "dev/v4l/by-id").mkdir(parents=True)
    (root / "dev/v4l/by-id/usb-C920-index0").symlink_to("../../video2")
    by_id = "/dev/v4l/by-id/usb-C920-index0"
    assert find_cameras(root, PI) == [
        FoundDevice("picamera2", "the Raspberry Pi camera imx708"),
        FoundDevice("usb", f"HD Webcam C920 at {by_id}", by_id, "PyAV is not installed: pip install av"),
    ]
    monkeypatch.setattr(detection, "find_spec", lambda name: object() if name == "av" else None)
    found = [(device.device, device.problem) for device in find_cameras(root, WORKSTATION)]
    assert found == [(by_id, ""), ("/dev/video10", "")]


def test_buttons(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chip(label: str, devices: Path) -> tuple[str, str]:
        assert (label, devices) == ("", root / "dev")
        return "/dev/gpiochip0", "pinctrl-bcm2835"

    write(root / "sys/class/input/event3/device/name", "edge-siamese-button\n")
    monkeypatch.setattr(detection, "find_chip", chip)
    assert find_buttons(root, PI, PanelSettings()) == [
        FoundDevice("input", 'the input device "edge-siamese-button" (event3)'),
        FoundDevice("gpio", "a button on GPIO 17 and an LED on GPIO 27 (pinctrl-bcm2835)"),
    ]


@pytest.mark.parametrize("error", [GpioNotInstalled("install gpiod"), PanelError("no chip")])
def test_a_header_that_cannot_be_used(root: Path, monkeypatch: pytest.MonkeyPatch, error: PanelError) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(detection, "find_chip", fail)
    assert find_buttons(root, PI, PanelSettings()) == [
        FoundDevice("gpio", "the GPIO header", problem=str(error))
    ]
    assert find_buttons(root, WORKSTATION, PanelSettings()) == []


def test_libcamera_runs_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "_LIST_CAMERAS", 'print("noise"); print("cameras:", "imx708|ov5647")')
    assert list_libcamera() == ["imx708", "ov5647"]
    monkeypatch.setattr(detection, "_LIST_CAMERAS", 'print("cameras:", "")')
    assert list_libcamera() == []
    monkeypatch.setattr(detection, "_LIST_CAMERAS", "import os; os.abort()")
    assert list_libcamera() is None
    monkeypatch.setattr(detection, "_LIST_CAMERAS", "import time; time.sleep(600)")
    monkeypatch.setattr(detection, "LIST_TIMEOUT_SECONDS", 0.05)
    assert list_libcamera() is None
