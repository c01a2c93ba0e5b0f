"""The Raspberry Pi's cameras, and others that libcamera knows, through picamera2.

picamera2 comes with the system's packages, next to libcamera; it prints and starts a thread when it is imported, so
that is done when a camera is opened, not before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import numpy as np

from edge_siamese.cameras.camera import Frame
from edge_siamese.errors import CameraError, CameraStalled
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.settings import CameraSettings

# One buffer is being exposed, one waits, one is read; a Zero 2 W has little contiguous memory for more.
BUFFERS = 3
FRAMES_WITHIN_TIMEOUT = 4
AF_CONTINUOUS = 2  # of libcamera's AfMode
HINT = "check the cable and `rpicam-hello --list-cameras`, and that no other program uses the camera"


def list_cameras() -> list[str]:
    """The cameras that picamera2 sees, by model, without those at USB; empty if it does not work here."""
    try:
        from picamera2 import Picamera2

        # Those at USB are listed too, last; picamera2 itself tells them apart like this.
        found = [info for info in Picamera2.global_camera_info() if "/usb" not in str(info.get("Id", ""))]
        return [str(info.get("Model", info.get("Id", "?"))) for info in found]
    except Exception:  # libcamera's bindings raise whatever they like where they do not fit the system
        return []


class Picamera2Camera:
    """The first camera of libcamera.

    Args:
        settings: size, rate and time.
        color: `gray`: the luma plane of the small YUV stream, as the image processor made it. `rgb`: the main stream.
        clock: `time.monotonic`, or a test's own.

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
        except Exception as error:  # besides ImportError, what its compiled parts raise
            raise CameraError(
                f"picamera2 cannot be used: {_line(error)}; apt install python3-picamera2, and make the environment "
                "with --system-site-packages, or set camera.kind to usb"
            ) from error
        self._map = MappedArray
        # The one of JPEG: luma from 0 to 255. The one of small videos, the default, has 16 to 235.
        self._color_space = ColorSpace.Sycc()
        try:
            if not Picamera2.global_camera_info():
                raise CameraError(f"picamera2 finds no camera: {HINT}")
            self._camera = _made(Picamera2)
            self._configure(settings, color)
            self._camera.start()
            self._started = True
        except CameraError:
            self._let_go()
            raise
        except Exception as error:  # it raises RuntimeError, KeyError, OSError and others
            self._let_go()
            raise CameraError(f"the Pi camera cannot be opened: {_line(error)}; {HINT}") from error

    @property
    def description(self) -> str:
        """See `Camera.description`."""
        width, height = self._size
        return f"{self._model} through picamera2, {width} x {height} {self._format}"

    def capture(self) -> Frame:
        """See `Camera.capture`."""
        request = self._request()
        try:
            moment = self._clock()
            pixels = self._pixels(request)
        except Exception as error:  # of the mapping of its buffers
            raise CameraError(f"the Pi camera's frame cannot be read: {_line(error)}") from error
        finally:
            request.release()
        self._number += 1
        return Frame(pixels, moment, self._number)

    def hold_exposure(self, held: bool) -> None:
        """See `Camera.hold_exposure`."""
        wanted: dict[str, Any] = {"AeEnable": not held, "AwbEnable": not held}
        if held:
            request = self._request()
            try:
                now = request.get_metadata()
            finally:
                request.release()
            wanted |= {name: now[name] for name in ("ExposureTime", "AnalogueGain") if name in now}
            if "ColourGains" in now:
                wanted["ColourGains"] = tuple(now["ColourGains"])
        # A camera without these (a monochrome one has no white balance) raises when it is asked for them.
        known = self._camera.camera_controls
        controls = {name: value for name, value in wanted.items() if name in known}
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

    def _let_go(self) -> None:
        """Close what could not be opened; that this fails as well would hide why."""
        with suppress(Exception):
            self.close()

    def _configure(self, settings: CameraSettings, color: str) -> None:
        camera = self._camera
        size = (settings.width, settings.height)
        properties = camera.camera_properties
        self._model = str(properties.get("Model", "a camera"))
        # Others than the Pi's (USB) have neither a raw stream nor a second one, and raise when asked for them.
        is_pi = "ColorFilterArrangement" in properties
        lores: dict[str, Any] | None = None
        if is_pi and color == "gray":
            # A main stream has to be; YUV420 is its smallest format.
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
            controls=_controls(camera.camera_controls, settings),
            # A queued frame may be old; a daemon has no screen and records nothing.
            queue=False,
            display=None,
            encode=None,
        )
        camera.configure(configuration)
        # What the camera made of it.
        given = camera.camera_configuration()[self._stream]
        self._size: tuple[int, int] = (int(given["size"][0]), int(given["size"][1]))
        self._format = str(given["format"])
        if self._format not in _READERS:
            raise CameraError(
                f"the camera {self._model} gives {self._format}, which is not read here; set camera.kind to usb if it "
                "is a USB camera"
            )
        if color == "rgb" and _READERS[self._format] in (_luma_plane, _luma_of_pairs):
            raise CameraError(
                f"the camera {self._model} gives {self._format} here, of which only the brightness is read, and the model "
                "needs colors; set camera.kind to usb if it is a USB camera"
            )

    def _request(self) -> Any:
        """The next completed request, within the camera's time; the caller releases it."""
        if self._camera is None:
            raise CameraError("the Pi camera is closed")
        try:
            return self._camera.capture_request(wait=self._timeout_s)
        except TimeoutError as error:
            # Without this the job would wait on, and take the first frame after the camera has come back.
            if hasattr(self._camera, "cancel_all_and_flush"):
                self._camera.cancel_all_and_flush()
            raise CameraStalled(
                f"the Pi camera gave no frame within {self._timeout_s:g} s: {HINT}"
            ) from error
        except Exception as error:  # what libcamera raised on picamera2's thread
            raise CameraError(f"the Pi camera failed: {_line(error)}; {HINT}") from error

    def _pixels(self, request: Any) -> Bytes:
        """A copy of a request's picture: its buffer is the camera's again in a moment."""
        width, height = self._size
        if self._format == "MJPEG":
            return np.asarray(request.make_array(self._stream), dtype=np.uint8)
        with self._map(request, self._stream, write=False) as mapped:
            return np.array(_READERS[self._format](mapped.array, width, height), order="C")


Reader = Callable[[Bytes, int, int], Bytes]


def _luma_plane(array: Bytes, width: int, height: int) -> Bytes:
    """Of (3 h / 2, stride): rows are padded to a stride, and U and V come below."""
    return array[:height, :width]


def _luma_of_pairs(array: Bytes, width: int, height: int) -> Bytes:
    """Of (h, stride / 2, 2): luma and chroma in turns."""
    return array[:height, :width, 0]


_READERS: dict[str, Reader] = {
    "YUV420": _luma_plane,
    "NV12": _luma_plane,
    # (h, w, 3), and (h, w, 4) with a fourth byte that says nothing. The names are in the order of a little-endian word.
    "BGR888": lambda array, width, height: array[:height, :width],
    "RGB888": lambda array, width, height: array[:height, :width, ::-1],
    "XBGR8888": lambda array, width, height: array[:height, :width, :3],
    "XRGB8888": lambda array, width, height: array[:height, :width, 2::-1],
    "YUYV": _luma_of_pairs,
    "MJPEG": lambda array, width, height: array,
}


def _made(kind: Any) -> Any:
    """A Picamera2; of one that cannot be made, nothing stays open.

    Its constructor (0.3.38) leaves half a pipe open when it fails, as it does each time while another program has the
    camera: in a day or two of trying, that uses all the files that a process may open.
    """
    camera = kind.__new__(kind)
    try:
        camera.__init__()
    except BaseException:
        with suppress(Exception):
            camera.close()  # which does nothing unless it had the camera already
        # `close` closes both ends, this one first; if it did, the number may be another file's by now.
        read = getattr(camera, "notifymeread", None)
        if read is not None and not read.closed:
            read.close()
            os.close(camera.notifyme_w)
        raise
    return camera


def _controls(known: Any, settings: CameraSettings) -> dict[str, Any]:
    """What the camera is told at its start."""
    # Left alone, a lens with a motor rests where a room is sharp, and what is held before it is not.
    focus = {"AfMode": AF_CONTINUOUS} if "AfMode" in known else {}
    return _frame_duration(known, settings.frame_rate, settings.timeout_s) | focus


def _frame_duration(known: Any, rate: float, timeout_s: float) -> dict[str, Any]:
    """The control that lets the sensor run at the wanted rate, as near as it can, and no faster.

    But several frames come within the time of one, however few are wanted: else each would seem to be missing.
    """
    if "FrameDurationLimits" not in known:
        return {}
    wanted = round(1e6 * min(1.0 / rate, timeout_s / FRAMES_WITHIN_TIMEOUT))
    least, most = known["FrameDurationLimits"][:2]
    if most and most > least:
        wanted = min(max(wanted, int(least)), int(most))
    return {"FrameDurationLimits": (wanted, wanted)}


def _line(error: BaseException) -> str:
    """What an error of another library says, as one line; of a chain, the first, which explains."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
