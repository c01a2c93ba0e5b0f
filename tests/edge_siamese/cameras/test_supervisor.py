"""The camera supervisor: newest frames, stalls, cameras that disappear and return, and drivers that block."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edge_siamese.cameras import supervisor
from edge_siamese.cameras.camera import Camera, FakeCamera, Frame
from edge_siamese.cameras.supervisor import FrameSource, RateLimit, SourceState
from edge_siamese.errors import CameraEnded, CameraError, CameraStalled

GRAY = np.zeros((4, 6), dtype=np.uint8)
LONG = 60.0  # seconds: only a test that fails waits this long


class Clock:
    """A clock that a test sets, and that each wait advances."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, event: threading.Event, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


class Script:
    """Opens one given camera after the other, then reports the end."""

    def __init__(self, *cameras: Camera | Exception) -> None:
        self.cameras = list(cameras)
        self.opened = 0
        self.exhausted = threading.Event()

    def __call__(self) -> Camera:
        self.opened += 1
        if not self.cameras:
            self.exhausted.set()
            raise CameraEnded("the test is over")
        camera = self.cameras.pop(0)
        if isinstance(camera, Exception):
            raise camera
        return camera


class GatedCamera:
    """A camera whose frames a test releases one by one; it blocks until then."""

    description = "a gate"

    def __init__(self) -> None:
        self.open = threading.Semaphore(0)
        self.number = 0
        self.closed = threading.Event()
        self.holds: list[bool] = []

    def capture(self) -> Frame:
        self.open.acquire()
        self.number += 1
        return Frame(GRAY, float(self.number), self.number)

    def hold_exposure(self, held: bool) -> None:
        self.holds.append(held)

    def close(self) -> None:
        self.closed.set()


def eventually(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.002)


def await_end(source: FrameSource) -> None:
    """Wait until the recording has ended and its messages are delivered."""
    eventually(lambda: source.state.status == "ended")
    assert source._worker is not None
    source._worker.thread.join(LONG)


def source_of(
    open: Callable[[], Camera], clock: Clock, messages: list[str] | None = None, rate: float = 10.0
) -> FrameSource:
    on_change = ([] if messages is None else messages).append
    return FrameSource(open, timeout_s=3.0, rate=rate, clock=clock, on_change=on_change, wait=clock.wait)


def test_frames_have_rising_numbers_and_the_state_says_that_it_runs() -> None:
    gate, messages = GatedCamera(), list[str]()
    source = source_of(lambda: gate, Clock(), messages)
    assert source.state == SourceState("starting", "", "", 0, 0, 0, 0, 0.0)
    source.start()
    gate.open.release()
    first = source.next(0, LONG)
    gate.open.release()
    second = source.next(1, LONG)
    assert first is not None and second is not None
    assert (first.number, second.number) == (1, 2)
    assert source.state == SourceState("running", "", "a gate", 2, 0, 0, 0, 1.0)
    assert messages == ["the camera is running: a gate"]
    source._closing.set()
    gate.open.release()
    source.close()
    assert gate.closed.is_set()
    assert source.next(2, LONG) is None


def test_a_slow_consumer_gets_the_newest_frame_and_the_others_count_as_dropped() -> None:
    gate = GatedCamera()
    source = source_of(lambda: gate, Clock())
    source.start()
    gate.open.release(5)
    eventually(lambda: source.state.captured == 5)
    frame = source.next(0, LONG)
    assert frame is not None and frame.number == 5
    assert source.next(5, 0.0) is None
    assert source.state.dropped == 4
    source._closing.set()
    gate.open.release()
    source.close()


def test_frames_beyond_the_rate_are_dropped_though_the_camera_is_drained() -> None:
    times = [number / 30 for number in range(31)]  # one second of a camera with 30 frames a second
    frames = [Frame(GRAY, moment, number + 1) for number, moment in enumerate(times)]
    camera = FakeCamera([])
    camera.capture = lambda: frames.pop(0) if frames else _ended()  # type: ignore[method-assign]
    source = source_of(Script(camera), Clock(), rate=10.0)
    source.start()
    await_end(source)
    newest = source.next(0, LONG)
    assert newest is not None and newest.number == 31
    state = source.state
    # Eleven were let through (0, 0.1 … 1 s); nobody asked for the first ten of them.
    assert (state.captured, state.dropped) == (31, 20 + 10)
    assert state.reason == "all shown"
    source.close()


def _ended() -> Frame:
    raise CameraEnded("all shown")


def test_a_camera_that_goes_and_comes_back_continues_the_numbers() -> None:
    clock, messages = Clock(), list[str]()
    first = FakeCamera([GRAY, GRAY, CameraError("the cable is out")], description="a camera")
    second = FakeCamera([GRAY, CameraStalled("no frame within 3 s")], description="a camera")
    third = FakeCamera([GRAY], description="a camera")
    source = source_of(Script(first, CameraError("there is not a camera"), second, third), clock, messages)
    source.start()
    await_end(source)
    frame = source.next(0, 0.0)
    assert frame is not None and frame.number == 4
    state = source.state
    assert (state.captured, state.restarts, state.stuck_threads, state.fps) == (4, 3, 0, 0.0)
    # The delay doubles while the camera is away, and keeps doubling if it delivers a frame or two only.
    assert clock.pauses == [0.5, 1.0, 2.0]
    again = "; it is reopened as soon as possible"
    assert messages == [
        "the camera is running: a camera",
        f"the camera is unavailable: the cable is out{again}",
        f"the camera is unavailable: there is not a camera{again}",
        "the camera is running: a camera",
        f"the camera has stalled: no frame within 3 s{again}",
        "the camera is running: a camera",
        "the camera has ended: a camera has shown all of its 1 frames",
    ]
    assert first.closed and second.closed and third.closed
    assert source.next(4, LONG) is None
    source.close()


def test_the_delay_is_short_again_once_a_camera_has_run_for_a_while() -> None:
    clock = Clock()

    def running(seconds: float) -> FakeCamera:
        def wait(interval: float) -> None:
            clock.now += interval

        shots = [GRAY, GRAY, CameraError("the cable is out")]
        return FakeCamera(shots, interval=seconds, clock=clock, sleep=wait)

    absent = CameraError("there is not a camera")
    opens = Script(absent, absent, running(9.9), running(9.9), running(10.0), absent)
    source = source_of(opens, clock)
    source.start()
    await_end(source)
    assert clock.pauses == [0.5, 1.0, 2.0, 4.0, 0.5, 1.0]
    source.close()


def test_delays_double_up_to_half_a_minute_and_the_same_reason_is_reported_once() -> None:
    clock, messages = Clock(), list[str]()
    opens = Script(*(CameraError("there is not a camera") for _ in range(9)))
    source = source_of(opens, clock, messages)
    source.start()
    assert opens.exhausted.wait(LONG)
    await_end(source)
    assert clock.pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert (
        messages[0] == "the camera is unavailable: there is not a camera; it is reopened as soon as possible"
    )
    assert len(messages) == 2
    source.close()


def test_an_unexpected_error_does_not_end_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    clock, messages = Clock(), list[str]()
    source = source_of(Script(FakeCamera([KeyError("lores")]), FakeCamera([GRAY])), clock, messages)
    source.start()
    eventually(lambda: source.state.captured == 1)
    assert messages[0].startswith("the camera is unavailable: KeyError: 'lores'; ")
    assert "unexpected error of the camera" in caplog.text
    source.close()


def test_a_capture_that_never_returns_is_abandoned_and_another_thread_continues() -> None:
    clock, messages = Clock(), list[str]()
    hanging, second = GatedCamera(), GatedCamera()
    source = source_of(Script(hanging, second), clock, messages)
    source.start()
    hanging.open.release()
    assert source.next(0, LONG) is not None
    eventually(lambda: source._worker is not None and source._worker.operation == "capturing a frame")
    clock.now += 3.9
    assert source.state.status == "running"
    clock.now += 0.2
    state = source.state
    assert (state.status, state.stuck_threads) == ("stalled", 1)
    assert state.reason == "capturing a frame has not returned for 4 s"
    second.open.release()
    frame = source.next(1, LONG)
    assert frame is not None and frame.number == 2
    assert source.state.status == "running"
    assert source.state.restarts == 1
    # The first thread returns after all: its frame is discarded, and it closes its camera.
    hanging.open.release()
    assert hanging.closed.wait(LONG)
    eventually(lambda: source.state.stuck_threads == 0)
    assert source.state.captured == 2
    eventually(lambda: len(messages) == 3)
    assert messages == [
        "the camera is running: a gate",
        "the camera has stalled: capturing a frame has not returned for 4 s; it is reopened as soon as possible",
        "the camera is running: a gate",
    ]
    source._closing.set()
    second.open.release()
    source.close()


def test_blocked_threads_are_counted() -> None:
    clock = Clock()
    gates = [GatedCamera(), GatedCamera(), GatedCamera()]
    opens = Script(*gates)
    source = source_of(opens, clock)
    source.start()
    for stuck in (1, 2):
        eventually(lambda: source._worker is not None and source._worker.camera_is_open)
        eventually(lambda: source._worker is not None and source._worker.deadline < float("inf"))
        clock.now += 4.1
        assert source.state.stuck_threads == stuck
    source.close(timeout=0.01)
    assert source.state.stuck_threads == 2
    for gate in gates:
        gate.open.release(2)


def test_opening_may_take_longer_than_a_frame_but_not_forever() -> None:
    clock, free = Clock(), threading.Event()

    def open_slowly() -> Camera:
        free.wait(LONG)
        raise CameraEnded("over")

    source = source_of(open_slowly, clock)
    source.start()
    eventually(lambda: source._worker is not None and source._worker.operation == "opening the camera")
    clock.now += 29.0
    assert source.state.stuck_threads == 0
    clock.now += 2.0
    assert source.state.reason == "opening the camera has not returned for 31 s"
    assert source.state.stuck_threads == 1
    free.set()
    source.close()


def test_closing_does_not_wait_for_a_camera_that_hangs() -> None:
    gate = GatedCamera()
    source = source_of(lambda: gate, Clock())
    source.start()
    eventually(lambda: source._worker is not None and source._worker.camera_is_open)
    source.close(timeout=0.02)
    assert not gate.closed.is_set()
    assert source.next(0, LONG) is None
    gate.open.release()
    assert gate.closed.wait(LONG)


def test_closing_ends_the_wait_for_the_next_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_RETRY_SECONDS", 2 * LONG)
    monkeypatch.setattr(supervisor, "MAX_RETRY_SECONDS", 2 * LONG)

    def absent() -> Camera:
        raise CameraError("there is not a camera")

    source = FrameSource(absent, timeout_s=1.0, rate=10.0)
    source.start()
    eventually(lambda: source.state.status == "absent")
    worker = source._worker
    assert worker is not None
    source.close(timeout=LONG)
    assert not worker.thread.is_alive()


def test_waiting_for_a_frame_ends_after_its_time() -> None:
    source = FrameSource(GatedCamera, timeout_s=1.0, rate=10.0)
    started = time.monotonic()
    assert source.next(0, 0.03) is None
    assert time.monotonic() - started >= 0.03


def test_the_exposure_is_held_on_the_thread_that_captures() -> None:
    gate = GatedCamera()
    threads: list[str] = []
    hold = gate.hold_exposure

    def noting(held: bool) -> None:
        threads.append(threading.current_thread().name)
        hold(held)

    gate.hold_exposure = noting  # type: ignore[method-assign]
    source = source_of(lambda: gate, Clock())
    assert source.hold_exposure(False) is False  # there is not a camera yet
    source.start()
    gate.open.release(1)
    assert source.next(0, LONG) is not None

    def release(held: bool) -> None:
        eventually(lambda: source._hold is held)
        gate.open.release(1)

    # The thread blocks in a capture; the hold comes before the next one.
    for held in (True, False):
        releasing = threading.Thread(target=release, args=(held,))
        releasing.start()
        assert source.hold_exposure(held, timeout=LONG) is True
        releasing.join()
    assert gate.holds == [True, False]
    assert threads == ["camera", "camera"]
    source._closing.set()
    gate.open.release()
    source.close()


def test_a_blocked_camera_does_not_block_a_caller_that_holds_the_exposure() -> None:
    gate, other = GatedCamera(), GatedCamera()
    source = FrameSource(Script(gate, other), timeout_s=-0.97, rate=10.0)  # 0.03 s with the margin
    source.start()
    eventually(lambda: source._worker is not None and source._worker.camera_is_open)
    assert source.hold_exposure(True) is False
    source.close(0.0)
    gate.open.release(2)
    other.open.release(2)


def test_an_exposure_that_is_to_be_held_is_held_after_the_camera_was_opened_again() -> None:
    first, second = FakeCamera([GRAY, CameraError("gone")]), FakeCamera([GRAY])
    source = source_of(Script(first, second), Clock())
    source.hold_exposure(True)
    source.start()
    await_end(source)
    assert (first.holds, second.holds) == ([True], [True])
    source.close()


def test_a_camera_that_cannot_be_closed_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    camera = FakeCamera([CameraError("gone")])

    def fail() -> None:
        raise RuntimeError("still busy")

    camera.close = fail  # type: ignore[method-assign]
    source = source_of(Script(camera, FakeCamera([GRAY])), Clock())
    source.start()
    eventually(lambda: source.state.captured == 1)
    assert "the camera could not be closed: RuntimeError: still busy" in caplog.text
    source.close()


def test_starting_twice_and_closing_before_starting_do_nothing() -> None:
    opens = Script(FakeCamera([GRAY]))
    source = source_of(opens, Clock())
    source.close()
    source.start()
    assert opens.opened == 0


@pytest.mark.parametrize(
    ("camera", "rate", "expected"),
    [
        (30.0, 10.0, 10),
        (25.0, 10.0, 10),
        (12.0, 10.0, 10),
        (10.0, 10.0, 10),
        (7.0, 10.0, 7),
        (30.0, 240.0, 30),
    ],
)
def test_the_rate_holds_on_average_whatever_the_camera_does(
    camera: float, rate: float, expected: float
) -> None:
    limit = RateLimit(rate)
    seconds = 20
    waver = np.random.default_rng(0).uniform(-0.05, 0.05, round(camera * seconds)) / camera
    admitted = sum(limit.admits(number / camera + waver[number]) for number in range(len(waver)))
    assert admitted / seconds == pytest.approx(expected, abs=0.15)


def test_frames_missed_in_a_gap_are_not_made_up_for() -> None:
    limit = RateLimit(10.0)
    assert [limit.admits(t) for t in (0.0, 0.05, 0.1, 60.0, 60.05, 60.1)] == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]
