"""The event feed, waiting for events, and the daemon's status in streams."""

from __future__ import annotations

import asyncio
import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge_siamese.daemon.event_bus import EventBus
from edge_siamese.dashboard import event_stream
from edge_siamese.dashboard.event_stream import EventFeed, Notifier, StatusMonitor
from edge_siamese.events import Event


def event(number: int) -> Event:
    return Event("store", f"event {number}")


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [str(found["text"]) for found in events]


@pytest.fixture
def hub() -> EventBus:
    return EventBus(ring=5)


@pytest.fixture
def feed(hub: EventBus, monkeypatch: pytest.MonkeyPatch) -> EventFeed:
    monkeypatch.setattr(event_stream, "MAX_RECENT_EVENTS", 5)
    actions: Any = SimpleNamespace(bus=hub)
    return EventFeed(actions)


# --- feed ---


def test_earlier_events_come_first(hub: EventBus, feed: EventFeed) -> None:
    hub.publish(event(1))
    feed.open()
    hub.publish(event(2))
    assert texts(feed.latest(9)) == ["event 1", "event 2"]
    assert texts(feed.latest(1)) == ["event 2"] and feed.latest(0) == []
    first, second = (found["seq"] for found in feed.latest(9))
    assert second == first + 1 == feed.newest


def test_an_event_during_opening_is_kept_once(hub: EventBus, feed: EventFeed) -> None:
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


def test_events_after_a_number(hub: EventBus, feed: EventFeed) -> None:
    feed.open()
    start = feed.newest
    for number in range(8):
        hub.publish(event(number))
    assert feed.after(feed.newest) == ([], 0)
    assert texts(feed.after(feed.newest - 2)[0]) == ["event 6", "event 7"]
    events, lost = feed.after(start)
    assert (texts(events), lost) == ([f"event {number}" for number in range(3, 8)], 3)
    for earlier_run in (0, start - 1, feed.newest + 1, 2**53):
        events, lost = feed.after(earlier_run)
        assert (len(events), lost) == (5, 0), earlier_run


def test_a_daemon_that_starts_at_the_same_time_again_repeats_no_numbers(
    hub: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 1_769_904_000_000_000_000)
    actions: Any = SimpleNamespace(bus=hub)
    earlier, later = EventFeed(actions), EventFeed(actions)
    for feed in (earlier, later):
        feed.open()
        for number in range(3):
            hub.publish(event(number))
    assert 0 < later.newest < 2**53
    assert later.after(earlier.newest - 1) == (later.latest(9), 0)


def test_events_that_an_object_is_still_seen_displace_no_other(hub: EventBus, feed: EventFeed) -> None:
    hub.publish(event(0))
    feed.open()
    hub.publish(event(1))
    for number in range(20):
        hub.publish(Event("seen", f"seen {number}"))
    assert texts(feed.latest(2)) == ["seen 18", "seen 19"]
    assert texts(feed.latest(2, seen=False)) == ["event 0", "event 1"]
    assert texts(feed.latest(1, seen=False)) == ["event 1"] and feed.latest(0, seen=False) == []
    feed.close()
    assert feed.latest(9, seen=False) == []


def test_a_closed_feed_is_empty(hub: EventBus, feed: EventFeed) -> None:
    feed.open()
    hub.publish(event(1))
    feed.close()
    hub.publish(event(2))
    assert feed.latest(9) == [] and feed.after(0) == ([], 0)
    assert hub._listeners == []


# --- notifier ---


def test_waiting_requests_see_what_another_thread_changes() -> None:
    async def wait() -> tuple[list[str | None], bool]:
        notifier, found = Notifier(), list[str]()
        waiting = [
            asyncio.ensure_future(notifier.wait_for(lambda: found[0] if found else None, 60.0))
            for _ in range(2)
        ]
        while notifier._waiting < 2:
            await asyncio.sleep(0)
        thread = threading.Thread(target=lambda: found.append("news"))
        thread.start()
        results = list(await asyncio.gather(*waiting))
        thread.join()
        assert notifier._task is not None
        await asyncio.wait_for(notifier._task, 60)  # polling ends, since nobody waits
        return results, notifier._waiting == 0

    assert asyncio.run(wait()) == (["news", "news"], True)


def test_waiting_ends_after_its_timeout_and_when_closed() -> None:
    async def wait() -> None:
        notifier, loop = Notifier(), asyncio.get_running_loop()
        began = loop.time()
        assert await notifier.wait_for(lambda: None, 0.1) is None
        assert loop.time() - began >= 0.1
        waiting = asyncio.ensure_future(notifier.wait_for(lambda: None, 3600.0))
        while not notifier._waiting:
            await asyncio.sleep(0)
        threading.Thread(target=notifier.close).start()
        assert await asyncio.wait_for(waiting, 60) is None

    asyncio.run(wait())


# --- status ---


STATE: dict[str, Any] = {
    "line": "sees mug; 1 object; 9.8 frames/s",
    "uptime_s": 5.0,
    "fault": "",
    "model": {"model_id": "demo"},
    "objects": 1,
    "present": ["mug"],
    "frames": 50,
    "camera": {"status": "live", "captured": 50, "dropped": 0, "restarts": 0, "fps": 9.8},
    "integrations": {
        "dashboard": {"works": True, "state": "at http://shelf.local:8765/", "followers": 1},
        "mqtt": {
            "works": True,
            "state": "connected",
            "sent": 3,
            "fleet": {"last_sync": "then", "to_publish": 2},
        },
    },
}


class Watched:
    """The status of a daemon, read when a test says so."""

    def __init__(self) -> None:
        self.now = copy.deepcopy(STATE)
        self.monitor = StatusMonitor(cast(Any, SimpleNamespace(status=lambda: copy.deepcopy(self.now))))

    async def read(self, pool: ThreadPoolExecutor) -> bool:
        """Read the status; whether it is worth sending."""
        before = self.monitor.version
        await self.monitor._read(pool)
        return self.monitor.version != before


def process_frames(state: dict[str, Any]) -> None:
    """Change what changes with every frame."""
    state["line"] = "sees mug; 1 object; 9.9 frames/s"
    state["uptime_s"] += 1
    state["frames"] += 10
    state["camera"] |= {"captured": state["camera"]["captured"] + 10, "dropped": 1, "fps": 9.9}
    state["integrations"]["dashboard"]["followers"] += 1
    state["integrations"]["mqtt"] |= {"sent": 9, "fleet": {"last_sync": "now", "to_publish": 0}}


def wait(state: dict[str, Any]) -> None:
    """Change what changes without frames: the time."""
    state["uptime_s"] += 1


def test_an_unchanged_status_is_sent_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "REFRESH_SECONDS", 0.0)
    watched = Watched()

    async def watch() -> list[bool]:
        with ThreadPoolExecutor(1) as pool:
            found = []
            for _ in range(4):
                found.append(await watched.read(pool))
                wait(watched.now)
            return found

    assert asyncio.run(watch()) == [True, False, False, False]
    assert watched.monitor.latest["uptime_s"] == 8.0  # a new stream starts with the current status


def test_counters_are_sent_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()

    async def watch() -> list[bool]:
        with ThreadPoolExecutor(1) as pool:
            found = [await watched.read(pool)]
            for _ in range(3):
                process_frames(watched.now)
                found.append(await watched.read(pool))
            monkeypatch.setattr(event_stream, "REFRESH_SECONDS", 0.0)
            found.append(await watched.read(pool))
            return found

    assert asyncio.run(watch()) == [True, False, False, False, True]


@pytest.mark.parametrize(
    "change",
    [
        {"present": []},
        {"objects": 2},
        {"fault": "no model"},
        {"model": None},
        {"camera": None},
        {"camera": {**STATE["camera"], "status": "stalled"}},
        {"camera": {**STATE["camera"], "restarts": 1}},
        {"integrations": {**STATE["integrations"], "mqtt": {"works": False, "state": "away", "sent": 3}}},
        {"integrations": {}},
    ],
)
def test_any_other_change_is_sent_at_once(change: dict[str, Any]) -> None:
    watched = Watched()

    async def watch() -> list[bool]:
        with ThreadPoolExecutor(1) as pool:
            found = [await watched.read(pool)]
            watched.now |= change
            return [*found, await watched.read(pool)]

    assert asyncio.run(watch()) == [True, True]
