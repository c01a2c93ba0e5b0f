"""Numbers of events, and the wake-up of those who wait, without a server."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from edge_siamese.daemon.event_bus import EventHub
from edge_siamese.dashboard.event_stream import EventFeed
from edge_siamese.dashboard.event_stream import POLL_SECONDS, Notifier
from edge_siamese.events import Event


def event(number: int) -> Event:
    return Event("store", f"event {number}")


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [str(found["text"]) for found in events]


@pytest.fixture
def hub() -> EventHub:
    return EventHub(ring=5)


@pytest.fixture
def feed(hub: EventHub, monkeypatch: pytest.MonkeyPatch) -> EventFeed:
    monkeypatch.setattr("edge_siamese.dashboard.event_stream.RING", 5)
    actions: Any = SimpleNamespace(hub=hub)
    return EventFeed(actions)


def test_what_was_before_comes_first(hub: EventHub, feed: EventFeed) -> None:
    hub.publish(event(1))
    feed.open()
    hub.publish(event(2))
    assert texts(feed.latest(9)) == ["event 1", "event 2"]
    assert texts(feed.latest(1)) == ["event 2"] and feed.latest(0) == []
    first, second = (found["seq"] for found in feed.latest(9))
    assert second == first + 1 == feed.newest
    assert abs(first - time.time() * 1000) < 60_000


def test_what_happens_while_it_opens_is_told_once(hub: EventHub, feed: EventFeed) -> None:
    latest = hub.latest

    def slow(count: int) -> list[Event]:
        hub.publish(event(2))  # after it listens, before it has seen what was
        found = latest(count)
        hub.publish(event(3))
        return found

    hub.publish(event(1))
    hub.latest = slow  # type: ignore[method-assign]
    feed.open()
    assert texts(feed.latest(9)) == ["event 1", "event 2", "event 3"]


def test_going_on_after_a_number(hub: EventHub, feed: EventFeed) -> None:
    feed.open()
    start = feed.newest
    for number in range(8):
        hub.publish(event(number))
    assert feed.after(feed.newest) == ([], 0)
    assert texts(feed.after(feed.newest - 2)[0]) == ["event 6", "event 7"]
    events, lost = feed.after(start)
    assert (texts(events), lost) == ([f"event {number}" for number in range(3, 8)], 3)
    for other_life in (0, start - 1, feed.newest + 1, 2**53):
        events, lost = feed.after(other_life)
        assert (len(events), lost) == (5, 0), other_life


def test_after_its_end_it_keeps_nothing(hub: EventHub, feed: EventFeed) -> None:
    feed.open()
    hub.publish(event(1))
    feed.close()
    hub.publish(event(2))
    assert feed.latest(9) == [] and feed.after(0) == ([], 0)
    assert hub._listeners == []


def test_who_waits_is_woken_by_what_another_thread_does() -> None:
    async def wait() -> tuple[list[str | None], float, bool]:
        pulse, found = Notifier(), []
        threading.Timer(0.1, lambda: found.append("news")).start()
        began = time.monotonic()
        both = await asyncio.gather(
            *[pulse.until(lambda: found[0] if found else None, 5.0) for _ in range(2)]
        )
        took = time.monotonic() - began
        await asyncio.sleep(3 * POLL_SECONDS)
        return list(both), took, pulse._task is not None and pulse._task.done()

    both, took, rests = asyncio.run(wait())
    assert both == ["news", "news"] and 0.1 <= took < 1.0
    assert rests  # nobody waits, so nothing beats


def test_waiting_ends_with_its_time_and_with_the_dashboard() -> None:
    async def wait() -> None:
        pulse = Notifier()
        began = time.monotonic()
        assert await pulse.until(lambda: None, 0.1) is None
        assert 0.1 <= time.monotonic() - began < 1.0
        threading.Timer(0.1, pulse.close).start()
        assert await pulse.until(lambda: None, 60.0) is None
        assert time.monotonic() - began < 5.0

    asyncio.run(wait())
