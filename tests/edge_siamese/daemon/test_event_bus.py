"""The bus: everyone hears everything in order, and nobody who is slow delays the others."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

import pytest

from edge_siamese.daemon.event_bus import EventBus, Subscription
from edge_siamese.events import Event
from tests.edge_siamese.daemon.running import returns, until


def event(number: int) -> Event:
    return Event("seen", f"mug {number}", time="2026-11-24T10:00:00.000+00:00", data={"n": number})


def numbers(events: list[Event]) -> list[int]:
    return [found.data["n"] for found in events]


class Recorder:
    """A sink that remembers, and that can be held up or made to fail."""

    name = "recorder"

    def __init__(self, queue: int = 100) -> None:
        self.queue = queue
        self.taken: list[int] = []
        self.error: Exception | None = None
        self.going = threading.Event()
        self.going.set()
        self.at_work = threading.Event()
        self.closed = False
        self.interrupts_help = True

    def take(self, event: Event) -> None:
        self.at_work.set()
        self.going.wait()
        if self.error:
            raise self.error
        self.taken.append(event.data["n"])

    def interrupt(self) -> None:
        if self.interrupts_help:
            self.going.set()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder()
    yield made
    made.going.set()


def test_subscribers_get_events_in_order_and_late_ones_a_replay() -> None:
    bus = EventBus()
    early = bus.subscribe()
    for number in range(3):
        bus.publish(event(number))
    late = bus.subscribe(replay=2)
    bus.publish(event(3))
    assert [numbers(found.get(0)[0]) for found in (early, late)] == [[0, 1, 2, 3], [1, 2, 3]]
    assert early.get(0) == ([], 0)


def test_the_ring_keeps_the_last_events() -> None:
    bus = EventBus(ring=3)
    for number in range(5):
        bus.publish(event(number))
    assert numbers(bus.latest(10)) == [2, 3, 4]
    assert numbers(bus.latest(1)) == [4]
    assert bus.latest(0) == []
    assert numbers(bus.subscribe(replay=10).get(0)[0]) == [2, 3, 4]


def test_a_slow_subscriber_loses_the_oldest_events_and_gets_their_number() -> None:
    bus = EventBus()
    subscriber = bus.subscribe(size=2)
    for number in range(5):
        bus.publish(event(number))
    events, lost = subscriber.get(0)
    assert (numbers(events), lost) == ([3, 4], 3)
    bus.publish(event(5))
    events, lost = subscriber.get(0)
    assert (numbers(events), lost) == ([5], 0)


def test_a_listener_is_called_until_it_is_removed() -> None:
    bus, heard = EventBus(), list[str]()

    def listen(event: Event) -> None:
        heard.append(event.text)

    bus.listen(listen)
    bus.publish(Event("started", "one"))
    assert heard == ["one"]
    bus.unlisten(listen)
    bus.unlisten(listen)
    bus.publish(Event("started", "two"))
    assert heard == ["one"]


def test_unsubscribing_ends_delivery() -> None:
    bus = EventBus()
    subscriber = bus.subscribe()
    bus.unsubscribe(subscriber)
    bus.unsubscribe(subscriber)
    bus.publish(event(0))
    assert subscriber.get(0) == ([], 0)


def test_a_subscriber_waits_and_is_woken() -> None:
    subscriber = Subscription(10)
    found: list[Event] = []
    listener = threading.Thread(target=lambda: found.extend(subscriber.get(5)[0]))
    listener.start()
    subscriber.put(event(7))
    listener.join(2)
    assert numbers(found) == [7]


def test_a_subscriber_that_is_woken_returns_once_and_loses_no_event() -> None:
    subscriber = Subscription(2)
    for number in range(2):
        subscriber.put(event(number))
    for _ in range(50):
        subscriber.wake()
    events, lost = subscriber.get(5)
    assert (numbers(events), lost) == ([0, 1], 0)
    subscriber.wake()
    assert subscriber.get(5) == ([], 0)
    began = time.monotonic()
    assert subscriber.get(0.05) == ([], 0)
    assert time.monotonic() - began >= 0.05


def test_closing_wakes_subscribers_and_drops_later_events() -> None:
    bus = EventBus()
    subscriber = bus.subscribe()
    bus.publish(event(0))
    bus.close()
    bus.publish(event(1))
    assert subscriber.closed
    assert numbers(subscriber.get(5)[0]) == [0]
    assert subscriber.get(5) == ([], 0)
    assert bus.subscribe(replay=5).closed


def test_publishing_never_waits_for_a_sink(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    recorder.queue = 3
    quick = Recorder()
    bus = EventBus([recorder, quick])
    recorder.going.clear()
    bus.publish(event(0))
    assert recorder.at_work.wait(30)
    for number in range(1, 6):
        bus.publish(event(number))
    recorder.going.set()
    bus.close()
    assert recorder.taken == [0, 3, 4, 5]
    assert quick.taken == [0, 1, 2, 3, 4, 5]
    assert (recorder.closed, quick.closed) == (True, True)
    assert caplog.messages == ["the recorder is too slow: 2 events were lost"]


def test_a_sink_that_fails_is_logged_once_until_it_works(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bus = EventBus([recorder])
    recorder.error = OSError(32, "Broken pipe")
    bus.publish(event(0))
    bus.publish(event(1))
    until(lambda: caplog.messages)
    recorder.error = None
    bus.publish(event(2))
    bus.close()
    assert recorder.taken[-1] == 2
    assert caplog.messages == ["the recorder fails: Broken pipe", "the recorder works again"]


def test_an_unexpected_error_does_not_stop_a_sink(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.error = ZeroDivisionError("no")
    bus = EventBus([recorder])
    bus.publish(event(0))
    bus.close()
    assert caplog.messages == ["the recorder failed"]
    assert "ZeroDivisionError: no" in caplog.text
    assert recorder.closed


def test_closing_interrupts_a_sink_that_takes_too_long(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    recorder.going.clear()
    bus = EventBus([recorder])
    for number in range(3):
        bus.publish(event(number))
    assert recorder.at_work.wait(30)
    returns(lambda: bus.close(timeout=0.05))
    assert recorder.closed
    assert caplog.messages == ["the recorder is too slow: 2 events were lost at the end"]


def test_a_sink_that_hangs_is_abandoned(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    recorder.going.clear()
    recorder.interrupts_help = False
    bus = EventBus([recorder])
    bus.publish(event(0))
    assert recorder.at_work.wait(30)
    bus.close(timeout=0.01)
    assert caplog.messages == ["the recorder does not stop in time; abandoning it"]


def test_replacing_sinks_loses_no_event(recorder: Recorder) -> None:
    bus = EventBus([recorder])
    recorder.going.clear()
    bus.publish(event(0))
    assert recorder.at_work.wait(30)
    second, third = Recorder(), Recorder()
    # The recorder hangs: these would not return if they waited for it.
    bus.set_sinks([second])
    bus.publish(event(1))
    bus.set_sinks([third])
    bus.publish(event(2))
    assert (recorder.closed, second.taken, third.taken) == (False, [], [])
    recorder.going.set()
    bus.close()
    assert [found.taken for found in (recorder, second, third)] == [[0], [1], [2]]
    assert [found.closed for found in (recorder, second, third)] == [True, True, True]


def test_closing_does_not_wait_for_sinks_that_hang(recorder: Recorder) -> None:
    bus = EventBus([recorder])
    recorder.going.clear()
    recorder.interrupts_help = False
    bus.publish(event(0))
    assert recorder.at_work.wait(30)
    bus.set_sinks([Recorder()], timeout=5)
    returns(lambda: bus.close(timeout=0.05))
