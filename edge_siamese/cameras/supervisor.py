"""Camera supervisor: a capture thread that keeps the newest frame and reopens a camera that fails.

A driver may block forever, and no thread can be freed from that. Each capture therefore has a time limit; a thread
that exceeds it is abandoned and counted, and another thread opens the camera again. A process with several abandoned
threads should exit and be restarted.
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
"""Limit for opening a camera: a small board needs several seconds just for its libraries."""
MARGIN_SECONDS = 1.0
"""Time that a capture may take beyond the camera's own limit before its thread counts as stuck."""
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.5, 30.0
STABLE_SECONDS = 10.0
"""A camera that has delivered frames for this long has recovered. One that keeps failing sooner is reopened at growing
intervals, so that a bad cable does not keep the processor busy."""
RATE_TOLERANCE = 0.25
"""Share of an interval that a frame may come too early: the clocks of cameras are not exact."""
POLL_SECONDS = 0.25
"""Interval at which a caller that waits for a frame checks whether the capture thread is stuck."""


@dataclass(frozen=True)
class SourceState:
    """State of a camera."""

    status: Status
    """`stalled`: the camera delivers no frames. `absent`: it cannot be opened, or is gone. `ended`: a recording ended."""
    reason: str
    """Why it is not running; empty if it is."""
    description: str
    """See `Camera.description`; empty before it was opened."""
    captured: int
    """Frames that the camera delivered since the start."""
    dropped: int
    """Captured frames that no caller received: above the rate, or replaced by a newer one."""
    restarts: int
    """Attempts to open the camera again."""
    stuck_threads: int
    """Threads that are blocked in the camera's driver now."""
    fps: float
    """Recent rate of accepted frames, per second."""


class RateLimit:
    """Accepts at most `rate` frames per second, evenly spaced."""

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate
        self._due: float | None = None

    def admits(self, time: float) -> bool:
        """Decide whether a frame of this time, in seconds, is accepted."""
        if self._due is None or time - self._due > 4 * self._interval:
            self._due = time  # the first frame, or the first after a gap
        if time < self._due - RATE_TOLERANCE * self._interval:
            return False
        # Counted from the due time, not from the arrival, so that the average rate is right.
        self._due = max(self._due, time - self._interval / 2) + self._interval
        return True


class FrameSource:
    """The newest frame of a camera, which is reopened when it fails.

    Args:
        open: opens the camera; called again after a failure. Like everything that touches the camera, it runs on the
            capture thread.
        timeout_s: the camera's own limit for a frame, in seconds.
        rate: maximum number of frames per second to return; the camera is always drained.
        clock: returns seconds, like `time.monotonic`.
        on_change: called with one line when the camera starts, stalls, disappears or ends. It runs on whichever thread
            noticed the change, and must not block.
        wait: waits for an event for a number of seconds at most.
    """

    def __init__(
        self,
        open: Callable[[], Camera],
        *,
        timeout_s: float,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[str], None] = lambda text: None,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._open, self._clock, self._on_change, self._wait = open, clock, on_change, wait
        self._capture_s = timeout_s + MARGIN_SECONDS
        self._rate, self._limit = rate, RateLimit(rate)
        self._backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
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
        """Start the capture thread; returns before the camera is open."""
        with self._changed:
            if self._worker is None and not self._closing.is_set():
                self._start_worker(0.0)

    def next(self, after: int, timeout: float) -> Frame | None:
        """Return the newest frame if its number is greater than `after`; otherwise wait for one.

        Args:
            after: number of the caller's previous frame; 0 at first.
            timeout: maximum time to wait, in seconds.

        Returns:
            A frame, whose number keeps rising when the camera is reopened. None if there was none in time, or if there
            will be none: the recording has ended, or the source is closed.
        """
        deadline = time.monotonic() + timeout
        while True:
            self._abandon_stuck_worker()
            with self._changed:
                if self._closing.is_set():
                    return None
                if self._newest is not None and self._newest.number > after:
                    self._taken = True
                    return self._newest
                remaining = deadline - time.monotonic()
                if remaining <= 0 or self._status == "ended":
                    return None
                self._changed.wait(min(remaining, POLL_SECONDS))

    @property
    def state(self) -> SourceState:
        """Current state of the camera."""
        self._abandon_stuck_worker()
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
        """Lock exposure and white balance, or unlock them.

        Args:
            held: lock or unlock.
            timeout: maximum time to wait for the camera, in seconds; None: as long as for a frame.

        Returns:
            Whether the camera did it in that time. If not, it is done before its next frame.
        """
        deadline = time.monotonic() + (self._capture_s if timeout is None else timeout)
        with self._changed:
            self._hold = held
        while True:
            self._abandon_stuck_worker()
            with self._changed:
                worker = self._worker
                if worker is None or not worker.camera_is_open:
                    return False
                if worker.held == held:
                    return True
                remaining = deadline - time.monotonic()
                if remaining <= 0 or self._closing.is_set():
                    return False
                self._changed.wait(min(remaining, POLL_SECONDS))

    def close(self, timeout: float = 2.0) -> None:
        """Release the camera; a capture thread that does not end within `timeout` seconds is abandoned."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
            worker = self._worker
        if worker is not None:
            worker.thread.join(timeout)

    def _start_worker(self, delay: float) -> None:
        """Start a capture thread that opens the camera after a delay; the caller holds the lock."""
        self._worker = _Worker(self, delay)
        self._worker.thread.start()

    def _abandon_stuck_worker(self) -> None:
        """Replace the capture thread if its operation has exceeded its limit."""
        with self._changed:
            worker = self._worker
            if worker is None or self._closing.is_set() or self._clock() <= worker.deadline:
                return
            worker.abandoned = True
            self._stuck += 1
            reason = f"{worker.operation} has not returned for {self._clock() - worker.started:.0f} s"
            message = self._set_status("stalled", reason)
            self._start_worker(self._backoff.pause())
        self._notify(message)

    def _set_status(self, status: Status, reason: str = "") -> str:
        """Change the status while the lock is held; returns the message about it, empty if nothing changed."""
        if (status, reason) == (self._status, self._reason):
            return ""
        self._status, self._reason = status, reason
        if status != "running":
            self._times.clear()
        self._changed.notify_all()
        if status == "running":
            return f"the camera is running: {self._description}"
        if status == "ended":
            return f"the camera has ended: {reason}"
        verb = "has stalled" if status == "stalled" else "is unavailable"
        return f"the camera {verb}: {reason}; it is reopened as soon as possible"

    def _notify(self, message: str) -> None:
        if message:
            self._on_change(message)

    # The following methods are called by workers.

    def _camera_opened(self, worker: _Worker, camera: Camera) -> int | None:
        """Return the offset to add to the camera's frame numbers; None if the worker was abandoned."""
        with self._changed:
            if worker.abandoned:
                return None
            self._description = camera.description
            worker.opened = self._clock()
            self._limit = RateLimit(self._rate)  # accept its first frame immediately
            self._changed.notify_all()
            return self._number

    def _accept_frame(self, worker: _Worker, frame: Frame) -> bool:
        """Keep a frame; returns whether the worker should continue."""
        with self._changed:
            if worker.abandoned:
                return False
            self._captured += 1
            self._number = frame.number
            if self._clock() - worker.opened >= STABLE_SECONDS:
                self._backoff.reset()
            message = self._set_status("running")
            if self._limit.admits(frame.time):
                self._dropped += not self._taken
                self._newest, self._taken = frame, False
                self._times.append(frame.time)
                self._changed.notify_all()
            else:
                self._dropped += 1
        self._notify(message)
        return not self._closing.is_set()

    def _camera_failed(self, worker: _Worker, status: Status, reason: str) -> float | None:
        """Return the delay before the next attempt in seconds; None if there is to be none."""
        with self._changed:
            if worker.abandoned:
                return None
            message = self._set_status(status, reason)
            delay = self._backoff.pause()
        self._notify(message)
        return None if status == "ended" else delay


class _Worker:
    """One capture thread: opens, captures and closes until it is stuck, abandoned or finished."""

    def __init__(self, source: FrameSource, delay: float) -> None:
        self.source = source
        self.abandoned = False
        self.camera_is_open = False
        self.held = False
        self.operation = "the camera"
        self.started, self.deadline = 0.0, float("inf")
        self.opened = float("inf")
        self._first_delay = delay
        self.thread = threading.Thread(target=self._run, name="camera", daemon=True)

    def _begin(self, operation: str, limit: float) -> None:
        """Begin an operation that may take `limit` seconds."""
        self.operation, self.started = operation, self.source._clock()
        self.deadline = self.started + limit

    def _run(self) -> None:
        source = self.source
        delay: float | None = self._first_delay
        try:
            while delay is not None and not self.abandoned:
                self.deadline = float("inf")
                if delay:
                    source._wait(source._closing, delay)
                if source._closing.is_set():
                    return
                delay = self._use_camera()
        finally:
            self.deadline = float("inf")
            with source._changed:
                # An abandoned thread that gets here has returned from the driver after all.
                source._stuck -= self.abandoned
                source._changed.notify_all()

    def _use_camera(self) -> float | None:
        """Open the camera, capture until it fails, close it; returns the delay before the next attempt, or None."""
        source = self.source
        camera: Camera | None = None
        try:
            self._begin("opening the camera", OPEN_SECONDS)
            with source._changed:
                source._restarts += 1
            camera = source._open()
            offset = source._camera_opened(self, camera)
            if offset is not None:
                self.camera_is_open = True
                self._capture(camera, offset)
            return None
        except CameraEnded as error:
            return source._camera_failed(self, "ended", str(error))
        except CameraStalled as error:
            return source._camera_failed(self, "stalled", str(error))
        except CameraError as error:
            return source._camera_failed(self, "absent", str(error))
        except Exception as error:  # a bug in a driver must not end this thread
            LOG.exception("unexpected error of the camera")
            return source._camera_failed(self, "absent", f"{type(error).__name__}: {error}")
        finally:
            self.camera_is_open = self.held = False
            if camera is not None:
                self._close(camera)

    def _capture(self, camera: Camera, offset: int) -> None:
        source = self.source
        running = not source._closing.is_set()
        while running:
            if source._hold != self.held:
                self._begin("holding the exposure", source._capture_s)
                hold = source._hold
                camera.hold_exposure(hold)
                with source._changed:
                    self.held = hold
                    source._changed.notify_all()
            self._begin("capturing a frame", source._capture_s)
            frame = camera.capture()
            running = source._accept_frame(self, Frame(frame.pixels, frame.time, offset + frame.number))

    def _close(self, camera: Camera) -> None:
        self._begin("closing the camera", self.source._capture_s)
        try:
            camera.close()
        except Exception as error:  # it is given up in any case
            LOG.warning("the camera could not be closed: %s: %s", type(error).__name__, error)
