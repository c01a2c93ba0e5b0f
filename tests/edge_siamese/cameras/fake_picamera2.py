"""A module in the place of picamera2, with the shapes and the habits of version 0.3.38."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

STRIDE = 64  # rows are padded to multiples of this
PADDING = 77  # what is in the padding


class Camera:
    """What `Picamera2()` makes; class attributes are what a test decides."""

    properties: dict[str, Any]
    controls: dict[str, tuple[Any, Any, Any]]
    infos: list[dict[str, Any]]
    given: str | None
    """The format that the driver gives instead of the wanted one."""
    failures: list[BaseException]
    metadata: dict[str, Any]
    made: list[Camera]
    refuse: BaseException | None

    def __init__(self) -> None:
        self.notifyme_r, self.notifyme_w = os.pipe2(os.O_NONBLOCK)
        self.notifymeread = os.fdopen(self.notifyme_r, "rb")
        if type(self).refuse is not None:
            raise type(self).refuse
        type(self).made.append(self)
        self.calls: list[str] = []
        self.set: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.camera_properties = self.properties
        self.camera_controls = self.controls

    @classmethod
    def global_camera_info(cls) -> list[dict[str, Any]]:
        return cls.infos

    def create_video_configuration(
        self,
        main: dict[str, Any],
        lores: dict[str, Any] | None,
        raw: None,
        colour_space: str,
        buffer_count: int,
        controls: dict[str, Any],
        queue: bool,
        display: None,
        encode: None,
    ) -> dict[str, Any]:
        if lores is not None and "ColorFilterArrangement" not in self.properties:
            raise AttributeError("'NoneType' object has no attribute 'lores'")
        self.wanted = {"buffer_count": buffer_count, "controls": controls, "queue": queue}
        streams = {"main": dict(main), "lores": dict(lores) if lores else None}
        return streams | {"raw": raw, "colour_space": colour_space, "display": display, "encode": encode}

    def configure(self, configuration: dict[str, Any]) -> None:
        self.calls.append("configure")
        for stream in ("main", "lores"):
            if configuration[stream]:
                configuration[stream]["format"] = self.given or configuration[stream]["format"]
        self.configuration = configuration

    def camera_configuration(self) -> dict[str, Any]:
        return self.configuration

    def start(self) -> None:
        self.calls.append("start")

    def stop(self) -> None:
        self.calls.append("stop")

    def close(self) -> None:
        if hasattr(self, "calls"):  # it was opened
            self.calls.append("close")
            self.notifymeread.close()
            os.close(self.notifyme_w)

    def cancel_all_and_flush(self) -> None:
        self.calls.append("cancel")

    def capture_request(self, wait: float) -> Request:
        self.waited = wait
        if self.failures:
            raise self.failures.pop(0)
        self.requests.append(Request(self))
        return self.requests[-1]

    def set_controls(self, controls: dict[str, Any]) -> None:
        assert set(controls) <= set(self.controls), "Control is not advertised by libcamera"
        self.set.append(controls)


class Request:
    """A completed request; its buffers are overwritten when it is released."""

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self.released = 0
        self.buffers: list[Any] = []

    def buffer(self, stream: str) -> Any:
        width, height = self.camera.configuration[stream]["size"]
        format = self.camera.configuration[stream]["format"]
        y, x = np.mgrid[:height, :width]
        if format in ("YUV420", "NV12"):
            stride = -(-width // STRIDE) * STRIDE
            array = np.full((height * 3 // 2, stride), PADDING, np.uint8)
            array[:height, :width] = x + y
        elif format == "YUYV":
            array = np.full((height, -(-width // STRIDE) * STRIDE, 2), PADDING, np.uint8)
            array[:, :width, 0] = x + y
        else:
            array = np.full((height, width, 4 if format.startswith("X") else 3), 255, np.uint8)
            red_first = format in ("BGR888", "XBGR8888", "MJPEG")
            array[..., :3] = (10, 20, 30) if red_first else (30, 20, 10)
        self.buffers.append(array)
        return array

    def make_array(self, stream: str) -> Any:
        return self.buffer(stream).copy()

    def get_metadata(self) -> dict[str, Any]:
        return self.camera.metadata

    def release(self) -> None:
        self.released += 1
        for array in self.buffers:
            array[...] = 0


class MappedArray:
    """A view of a request's buffer."""

    broken: BaseException | None = None

    def __init__(self, request: Request, stream: str, write: bool) -> None:
        assert write is False
        self.request, self.stream = request, stream

    def __enter__(self) -> MappedArray:
        if self.broken is not None:
            raise self.broken
        self.array = self.request.buffer(self.stream)
        return self

    def __exit__(self, *error: object) -> None:
        del self.array


@contextmanager
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Camera]]:
    """Put the modules in the place of picamera2 and libcamera, with one camera of the Pi."""

    class Installed(Camera):
        pass

    Installed.properties = {"Model": "imx708", "ColorFilterArrangement": 0}
    Installed.controls = {
        "FrameDurationLimits": (10_000, 500_000, 33_333),
        "AeEnable": (False, True, True),
        "AwbEnable": (False, True, True),
        "ExposureTime": (1, 10**6, 20_000),
        "AnalogueGain": (1.0, 16.0, 1.0),
        "ColourGains": (0.0, 32.0, 1.0),
    }
    Installed.infos = [{"Model": "imx708", "Id": "/base/soc/i2c0mux/imx708@1a", "Num": 0}]
    Installed.given = Installed.refuse = None
    Installed.failures, Installed.made = [], []
    Installed.metadata = {
        "ExposureTime": 12_345,
        "AnalogueGain": 2.5,
        "ColourGains": [1.5, 2.0],
        "Lux": 40.0,
    }

    class Mapped(MappedArray):
        pass

    module = ModuleType("picamera2")
    module.Picamera2 = Installed  # type: ignore[attr-defined]
    module.MappedArray = Mapped  # type: ignore[attr-defined]
    Installed.mapped = Mapped  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "picamera2", module)
    libcamera = ModuleType("libcamera")
    libcamera.ColorSpace = SimpleNamespace(Sycc=lambda: "sYCC")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "libcamera", libcamera)
    yield Installed
