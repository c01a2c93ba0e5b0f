"""Keeps a camera running: a guarded thread that captures, keeps the newest frame, and opens the camera anew.

A driver may block for good, which no thread can be cured of. So each capture has a time; a thread that overstays it
is left behind and counted, and another one opens the camera again. The process that holds several of them should
end and be started anew.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from edge_siamese.cameras.camera import Camera, Frame
from edge_siamese.errors import CameraEnded, CameraError, CameraStalled
from edge_siamese.system.retry import Backoff

LOG = logging.getLogger(__name__)

Status = Literal["starting", "running", "stalled", "absent", "ended"]

OPEN_SECONDS = 30.0
"""How long a camera may take to open: a small board needs some seconds for its libraries alone."""
MARGIN_SECONDS = 1.0
"""What a capture may take beyond the camera's own time before its thread counts as stuck."""
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
STEADY_SECONDS = 10.0
"""A camera that has given frames for so long is well again. One that fails sooner, each time, is opened less and less
often: a bad cable must not wear card and processor with its coming and going."""
SLACK = 0.25
"""How much too early a frame may come, in frames of the wanted rate: the clocks of cameras waver."""
SLICE_SECONDS = 0.25
"""How often who waits for a frame looks whether the thread is stuck."""


@dataclass(frozen=True)
class SourceState:
    """How a camera is, for people and for the daemon."""

    status: Status
    """`stalled`: it is there and gives no frame. `absent`: it cannot be opened, or is gone. `ended`: a recording ended."""
    reason: str
    """Why it does not run; empty if it does."""
    description: str
    """Which camera, as it says of itself; empty before it was opened."""
    captured: int
    """Frames that the camera gave, over all openings."""
    dropped: int
    """Of these, the frames that nobody got: beyond the rate, or replaced by a newer one."""
    restarts: int
    """How often the camera was opened again, or it was tried."""
    stuck_threads: int
    """Threads that hang in the camera's driver now."""
    fps: float
    """Frames handed on in a second, lately."""


class RateLimit:
    """Lets at most so many frames a second through, evenly."""

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate
        self._due: float | None = None

    def admits(self, moment: float) -> bool:
        """Whether the frame of this moment, in seconds, is let through."""
        if self._due is None or moment - self._due > 4 * self._interval:
            self._due = moment  # the first one, or the first after a gap
        if moment < self._due - SLACK * self._interval:
            return False
        # From the moment when the frame was due, not from when it came: the rate holds on average.
        self._due = max(self._due, moment - self._interval / 2) + self._interval
        return True


class FrameSource:
    """The newest frame of a camera, whatever happens to the camera.

    Args:
        open: opens the camera; called again when it failed. It runs, like everything that touches the camera, on the
            capture thread.
        timeout_s: the camera's own time for a frame, in seconds.
        rate: frames a second to hand on, at most; the camera is drained all the same.
        clock: `time.monotonic`, or a test's own.
        on_change: told in one line when the camera runs, stalls, is gone or ends. It is called from whichever thread
            noticed, and must not block.
        pause: waits for an event at most so many seconds; a test's own does not wait.
    """

    def __init__(
        self,
        open: Callable[[], Camera],
        *,
        timeout_s: float,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[str], None] = lambda text: None,
        pause: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._open, self._clock, self._on_change, self._pause = open, clock, on_change, pause
        self._capture_s = timeout_s + MARGIN_SECONDS
        self._rate, self._limit = rate, RateLimit(rate)
        self._backoff = Backoff(FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._worker: _Worker | None = None
        self._status: Status = "starting"
        self._reason = ""
        self._description = ""
        self._newest: Frame | None = None
        self._taken = True
        self._captured = self._dropped = self._stuck = 0
        self._number = 0
        self._restarts = -1
        self._times: deque[float] = deque(maxlen=20)
        self._hold = False

    def start(self) -> None:
        """Begin; returns at once, before the camera is open."""
        with self._changed:
            if self._worker is None and not self._closing.is_set():
                self._employ(0.0)

    def next(self, after: int, timeout: float) -> Frame | None:
        """The newest frame if its number is larger than `after`; else wait for one.

        Args:
            after: the number of the frame that the caller had last; 0 at first.
            timeout: seconds to wait at most.

        Returns:
            None if there was none in time, or there will be none: the recording has ended, or the source is closed.
            Numbers rise over reopenings.
        """
        until = time.monotonic() + timeout
        while True:
            self._guard()
            with self._changed:
                if self._closing.is_set():
                    return None
                if self._newest is not None and self._newest.number > after:
                    self._taken = True
                    return self._newest
                left = until - time.monotonic()
                if left <= 0 or self._status == "ended":
                    return None
                self._changed.wait(min(left, SLICE_SECONDS))

    @property
    def state(self) -> SourceState:
        """How the camera is now."""
        self._guard()
        with self._changed:
            first, last = (self._times[0], self._times[-1]) if self._times else (0.0, 0.0)
            running = self._status == "running" and last > first
            return SourceState(
                status=self._status,
                reason=self._reason,
                description=self._description,
                captured=self._captured,
                dropped=self._dropped,
                restarts=max(0, self._restarts),
                stuck_threads=self._stuck,
                fps=(len(self._times) - 1) / (last - first) if running else 0.0,
            )

    def hold_exposure(self, held: bool, timeout: float | None = None) -> bool:
        """Keep exposure and white balance as they are, or let them adapt again.

        Args:
            held: which of the two.
            timeout: seconds to wait for the camera at most; None: as long as for a frame.

        Returns:
            Whether the camera did it in that time. If not, it is done before its next frame.
        """
        until = time.monotonic() + (self._capture_s if timeout is None else timeout)
        with self._changed:
            self._hold = held
        while True:
            self._guard()
            with self._changed:
                worker = self._worker
                if worker is None or not worker.camera_is_open:
                    return False
                if worker.held == held:
                    return True
                left = until - time.monotonic()
                if left <= 0 or self._closing.is_set():
                    return False
                self._changed.wait(min(left, SLICE_SECONDS))

    def close(self, timeout: float = 2.0) -> None:
        """Let the camera go; a capture thread that does not end within `timeout` seconds is left behind."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
            worker = self._worker
        if worker is not None:
            worker.thread.join(timeout)

    def _employ(self, pause: float) -> None:
        """Put a new thread to work; the caller holds the lock."""
        self._worker = _Worker(self, pause)
        self._worker.thread.start()

    def _guard(self) -> None:
        """Leave the capture thread behind if it is stuck."""
        with self._changed:
            worker = self._worker
            if worker is None or self._closing.is_set() or self._clock() <= worker.until:
                return
            worker.abandoned = True
            self._stuck += 1
            reason = f"{worker.doing} has not returned for {self._clock() - worker.since:.0f} s"
            text = self._set("stalled", reason)
            self._employ(self._backoff.pause())
        self._tell(text)

    def _set(self, status: Status, reason: str = "") -> str:
        """Change the state under the lock; returns what to tell of it, empty if nothing changed."""
        if (status, reason) == (self._status, self._reason):
            return ""
        self._status, self._reason = status, reason
        if status != "running":
            self._times.clear()
        self._changed.notify_all()
        if status == "running":
            return f"the camera runs: {self._description}"
        if status == "ended":
            return f"the camera has ended: {reason}"
        word = "has stalled" if status == "stalled" else "is not there"
        return f"the camera {word}: {reason}; it is opened again as soon as possible"

    def _tell(self, text: str) -> None:
        if text:
            self._on_change(text)

    # What follows is called by workers.

    def _opened(self, worker: _Worker, camera: Camera) -> int | None:
        """The number after which this opening's frames count on; None if the worker is no longer wanted."""
        with self._changed:
            if worker.abandoned:
                return None
            self._description = camera.description
            worker.opened = self._clock()
            self._limit = RateLimit(self._rate)  # its first frame is wanted at once
            self._changed.notify_all()
            return self._number

    def _take(self, worker: _Worker, frame: Frame) -> bool:
        """Keep a frame; whether the worker may go on."""
        with self._changed:
            if worker.abandoned:
                return False
            self._captured += 1
            self._number = frame.number
            if self._clock() - worker.opened >= STEADY_SECONDS:
                self._backoff.reset()
            text = self._set("running")
            if self._limit.admits(frame.time):
                self._dropped += not self._taken
                self._newest, self._taken = frame, False
                self._times.append(frame.time)
                self._changed.notify_all()
            else:
                self._dropped += 1
        self._tell(text)
        return not self._closing.is_set()

    def _failed(self, worker: _Worker, status: Status, reason: str) -> float | None:
        """Seconds until the next try; None if there is to be none."""
        with self._changed:
            if worker.abandoned:
                return None
            text = self._set(status, reason)
            pause = self._backoff.pause()
        self._tell(text)
        return None if status == "ended" else pause


class _Worker:
    """One capture thread; opens, captures and closes until it is stuck, abandoned or done."""

    def __init__(self, source: FrameSource, pause: float) -> None:
        self.source = source
        self.abandoned = False
        self.camera_is_open = False
        self.held = False
        self.doing = "the camera"
        self.since, self.until = 0.0, float("inf")
        self.opened = float("inf")
        self._first_pause = pause
        self.thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def _begin(self, doing: str, limit: float) -> None:
        """From now on the thread may take `limit` seconds for one thing."""
        self.doing, self.since = doing, self.source._clock()
        self.until = self.since + limit

    def _run(self) -> None:
        source = self.source
        pause: float | None = self._first_pause
        try:
            while pause is not None and not self.abandoned:
                self.until = float("inf")
                if pause:
                    source._pause(source._closing, pause)
                if source._closing.is_set():
                    return
                pause = self._one_opening()
        finally:
            self.until = float("inf")
            with source._changed:
                # It was stuck, and came back after all.
                source._stuck -= self.abandoned
                source._changed.notify_all()

    def _one_opening(self) -> float | None:
        """Open, capture until something happens, close; seconds until the next try, or None."""
        source = self.source
        camera: Camera | None = None
        try:
            self._begin("opening the camera", OPEN_SECONDS)
            with source._changed:
                source._restarts += 1
            camera = source._open()
            offset = source._opened(self, camera)
            if offset is not None:
                self.camera_is_open = True
                self._capture(camera, offset)
            return None
        except CameraEnded as error:
            return source._failed(self, "ended", str(error))
        except CameraStalled as error:
            return source._failed(self, "stalled", str(error))
        except CameraError as error:
            return source._failed(self, "absent", str(error))
        except (
            Exception
        ) as error:  # a driver's own; the thread has to live on, or there is no camera ever again
            LOG.exception("the camera failed in an unforeseen way")
            return source._failed(self, "absent", f"{type(error).__name__}: {error}")
        finally:
            self.camera_is_open = self.held = False
            if camera is not None:
                self._close(camera)

    def _capture(self, camera: Camera, offset: int) -> None:
        source = self.source
        going = not source._closing.is_set()
        while going:
            if source._hold != self.held:
                self._begin("holding the exposure", source._capture_s)
                wanted = source._hold
                camera.hold_exposure(wanted)
                with source._changed:
                    self.held = wanted
                    source._changed.notify_all()
            self._begin("the capture of a frame", source._capture_s)
            frame = camera.capture()
            going = source._take(self, Frame(frame.pixels, frame.time, offset + frame.number))

    def _close(self, camera: Camera) -> None:
        self._begin("closing the camera", self.source._capture_s)
        try:
            camera.close()
        except Exception as error:  # it is given up either way
            LOG.warning("the camera could not be closed: %s: %s", type(error).__name__, error)
