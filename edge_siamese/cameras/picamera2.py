"""Raspberry Pi cameras, and others that libcamera supports, through picamera2.

picamera2 is a package of the operating system, like libcamera. It prints and starts a thread when it is imported, so it
is imported when a camera is opened.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import numpy as np

from edge_siamese.cameras.camera import Frame
from edge_siamese.errors import CameraError, CameraStalled, first_line
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.registry import CAMERAS
from edge_siamese.settings import CameraSettings

BUFFERS = 3
"""One buffer is being exposed, one waits, and one is read; a Zero 2 W has little contiguous memory for more."""
FRAMES_PER_TIMEOUT = 4
"""Frames that the sensor captures within the timeout, however low the rate is: otherwise each would seem to be missing."""
AF_CONTINUOUS = 2  # libcamera's AfMode
HINT = "check the cable and `rpicam-hello --list-cameras`, and that no other program uses the camera"


def list_cameras() -> list[str]:
    """Return the models of the cameras that picamera2 finds, without USB cameras; empty if it does not work here."""
    try:
        from picamera2 import Picamera2

        # USB cameras are listed too; this is how picamera2 itself distinguishes them.
        cameras = [info for info in Picamera2.global_camera_info() if "/usb" not in str(info.get("Id", ""))]
        return [str(info.get("Model", info.get("Id", "?"))) for info in cameras]
    except Exception:  # libcamera's bindings raise any exception if they do not match the system
        return []


class Picamera2Camera:
    """The first camera of libcamera.

    Args:
        settings: size, rate and timeout.
        color: `gray`: the luma plane of the low-resolution YUV stream, from the image processor. `rgb`: the main stream.
        clock: returns seconds, like `time.monotonic`.

    Raises:
        CameraError: picamera2 is not installed, or there is no camera, or it cannot be opened.
    """

    def __init__(
        self,
        settings: CameraSettings,
        color: Literal["gray", "rgb"],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._timeout_s = settings.timeout_s
        self._clock = clock
        self._number = 0
        self._started = False
        self._camera: Any = None
        try:
            from libcamera import ColorSpace
            from picamera2 import MappedArray, Picamera2
        except Exception as error:  # ImportError, or what its compiled parts raise
            raise CameraError(
                f"picamera2 cannot be used: {first_line(error)}; {CAMERAS['picamera2'].install}; or set camera.kind to usb"
            ) from error
        self._map = MappedArray
        # The color space of JPEG has luma from 0 to 255. The default, that of small videos, has 16 to 235.
        self._color_space = ColorSpace.Sycc()
        try:
            if not Picamera2.global_camera_info():
                raise CameraError(f"picamera2 finds no camera: {HINT}")
            self._camera = _create(Picamera2)
            self._configure(settings, color)
            self._camera.start()
            self._started = True
        except CameraError:
            self._close_quietly()
            raise
        except Exception as error:  # it raises RuntimeError, KeyError, OSError and others
            self._close_quietly()
            raise CameraError(f"the Pi camera cannot be opened: {first_line(error)}; {HINT}") from error

    @property
    def description(self) -> str:
        """See `Camera.description`."""
        width, height = self._size
        return f"{self._model} through picamera2, {width} x {height} {self._format}"

    def capture(self) -> Frame:
        """See `Camera.capture`."""
        request = self._request()
        try:
            captured = self._clock()
            pixels = self._pixels(request)
        except Exception as error:  # from mapping its buffers
            raise CameraError(f"the Pi camera's frame cannot be read: {first_line(error)}") from error
        finally:
            request.release()
        self._number += 1
        return Frame(pixels, captured, self._number)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`."""
        controls: dict[str, Any] = {"AeEnable": not held, "AwbEnable": not held}
        if held:
            request = self._request()
            try:
                metadata = request.get_metadata()
            finally:
                request.release()
            controls |= {
                name: metadata[name] for name in ("ExposureTime", "AnalogueGain") if name in metadata
            }
            if "ColourGains" in metadata:
                controls["ColourGains"] = tuple(metadata["ColourGains"])
        # A camera raises an error for controls that it lacks: a monochrome one has no white balance.
        supported = self._camera.camera_controls
        controls = {name: value for name, value in controls.items() if name in supported}
        if controls:
            self._camera.set_controls(controls)

    def close(self) -> None:
        """See `Camera.close`."""
        camera, self._camera = self._camera, None
        if camera is None:
            return
        try:
            if self._started:
                camera.stop()
        finally:
            camera.close()

    def _close_quietly(self) -> None:
        """Close after a failure; an error here would hide the first one."""
        with suppress(Exception):
            self.close()

    def _configure(self, settings: CameraSettings, color: str) -> None:
        camera = self._camera
        size = (settings.width, settings.height)
        properties = camera.camera_properties
        self._model = str(properties.get("Model", "a camera"))
        # USB cameras have neither a raw stream nor a second one, and raise an error when one is requested.
        is_pi = "ColorFilterArrangement" in properties
        lores: dict[str, Any] | None = None
        if is_pi and color == "gray":
            # The main stream is mandatory; YUV420 is its smallest format.
            main = {"size": size, "format": "YUV420"}
            lores = {"size": size, "format": "YUV420"}
        else:
            main = {"size": size, "format": "BGR888"}  # picamera2's name for R, G, B in memory
        self._stream = "lores" if lores else "main"
        configuration = camera.create_video_configuration(
            main=main,
            lores=lores,
            raw=None,
            colour_space=self._color_space,
            buffer_count=BUFFERS,
            controls=_start_controls(camera.camera_controls, settings),
            # A queued frame may be old, and the daemon has no display and no recording.
            queue=False,
            display=None,
            encode=None,
        )
        camera.configure(configuration)
        # The camera may have changed it.
        actual = camera.camera_configuration()[self._stream]
        self._size: tuple[int, int] = (int(actual["size"][0]), int(actual["size"][1]))
        self._format = str(actual["format"])
        if self._format not in _READERS:
            raise CameraError(
                f"the camera {self._model} delivers {self._format}, which is not supported; set camera.kind to usb if it "
                "is a USB camera"
            )
        if color == "rgb" and _READERS[self._format] in (_luma_plane, _luma_of_pairs):
            raise CameraError(
                f"the camera {self._model} delivers {self._format}, of which only the brightness is read, and the model "
                "needs colors; set camera.kind to usb if it is a USB camera"
            )

    def _request(self) -> Any:
        """Return the next completed request within the timeout; the caller releases it."""
        if self._camera is None:
            raise CameraError("the Pi camera is closed")
        try:
            return self._camera.capture_request(wait=self._timeout_s)
        except TimeoutError as error:
            # Otherwise the job would keep waiting, and take the first frame after the camera has recovered.
            if hasattr(self._camera, "cancel_all_and_flush"):
                self._camera.cancel_all_and_flush()
            raise CameraStalled(
                f"the Pi camera delivered no frame within {self._timeout_s:g} s: {HINT}"
            ) from error
        except Exception as error:  # raised by libcamera on picamera2's thread
            raise CameraError(f"the Pi camera failed: {first_line(error)}; {HINT}") from error

    def _pixels(self, request: Any) -> Bytes:
        """Copy a request's picture, because the camera reuses its buffer."""
        width, height = self._size
        if self._format == "MJPEG":
            return np.asarray(request.make_array(self._stream), dtype=np.uint8)
        with self._map(request, self._stream, write=False) as mapped:
            return np.array(_READERS[self._format](mapped.array, width, height), order="C")


Reader = Callable[[Bytes, int, int], Bytes]


def _luma_plane(array: Bytes, width: int, height: int) -> Bytes:
    """Luma of (3 h / 2, stride): rows are padded to the stride, U and V follow below."""
    return array[:height, :width]


def _luma_of_pairs(array: Bytes, width: int, height: int) -> Bytes:
    """Luma of (h, stride / 2, 2): luma and chroma alternate."""
    return array[:height, :width, 0]


_READERS: dict[str, Reader] = {
    "YUV420": _luma_plane,
    "NV12": _luma_plane,
    # (h, w, 3), and (h, w, 4) with an unused fourth byte. The names are in the order of a little-endian word.
    "BGR888": lambda array, width, height: array[:height, :width],
    "RGB888": lambda array, width, height: array[:height, :width, ::-1],
    "XBGR8888": lambda array, width, height: array[:height, :width, :3],
    "XRGB8888": lambda array, width, height: array[:height, :width, 2::-1],
    "YUYV": _luma_of_pairs,
    "MJPEG": lambda array, width, height: array,
}


def _create(cls: Any) -> Any:
    """Create a Picamera2 without leaking files if that fails.

    Its constructor (0.3.38) leaves one end of a pipe open when it fails, for example while another program uses the
    camera. After a day or two of retries the process would have no file descriptors left.
    """
    camera = cls.__new__(cls)
    try:
        camera.__init__()
    except BaseException:
        with suppress(Exception):
            camera.close()  # does nothing unless the camera was acquired
        # `close` closes both ends, this one first. If it did, the number may belong to another file by now.
        read = getattr(camera, "notifymeread", None)
        if read is not None and not read.closed:
            read.close()
            os.close(camera.notifyme_w)
        raise
    return camera


def _start_controls(supported: Any, settings: CameraSettings) -> dict[str, Any]:
    """Return the controls that the camera is started with."""
    # By default, an autofocus lens rests at a distance at which near objects are blurred.
    focus = {"AfMode": AF_CONTINUOUS} if "AfMode" in supported else {}
    return _frame_duration(supported, settings.frame_rate, settings.timeout_s) | focus


def _frame_duration(supported: Any, rate: float, timeout_s: float) -> dict[str, Any]:
    """Return the control that runs the sensor as near to this rate as it can, in frames per second."""
    if "FrameDurationLimits" not in supported:
        return {}
    microseconds = round(1e6 * min(1.0 / rate, timeout_s / FRAMES_PER_TIMEOUT))
    minimum, maximum = supported["FrameDurationLimits"][:2]
    if maximum and maximum > minimum:
        microseconds = min(max(microseconds, int(minimum)), int(maximum))
    return {"FrameDurationLimits": (microseconds, microseconds)}
