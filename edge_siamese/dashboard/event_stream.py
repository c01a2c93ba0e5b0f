"""Server-sent events: recent events, changes of the daemon's status, and the registration in progress."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import Any, TypeVar

from edge_siamese.daemon.api import DaemonApi
from edge_siamese.daemon.event_bus import MAX_RECENT_EVENTS
from edge_siamese.daemon.registration_session import RegistrationRecord
from edge_siamese.dashboard.schemas import to_json
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.events import Event

T = TypeVar("T")

POLL_SECONDS = 0.05
"""Interval at which waiting requests check for changes."""
PING_SECONDS = 15.0
"""A stream without messages sends a comment at this interval."""
STATUS_SECONDS = 1.0
"""Interval at which the daemon's status is read while a client follows."""
RECHECK_SECONDS = 1.0
"""Interval at which the login of a waiting client is checked again."""
REFRESH_SECONDS = 10.0
"""Values that always change, such as the frame rate, are sent at this interval."""
MAX_EVENTS_PER_MESSAGE = 50
MAX_FIRST = 2**52
"""Numbers of events begin below this one: JavaScript has exact integers up to 2**53."""


class Notifier:
    """Notifies waiting requests of changes by other threads; polls while any request waits. Belongs to one event loop."""

    def __init__(self) -> None:
        """Start without waiting requests."""
        self._waiting = 0
        self._tick: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self.closed = False

    async def wait_for(self, check: Callable[[], T | None], timeout: float) -> T | None:
        """Return the first result of `check` that is not None; None after `timeout` seconds or when closed."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        self._waiting += 1
        try:
            while not self.closed:
                if (result := check()) is not None:
                    return result
                if loop.time() >= end:
                    return None
                await self._next_tick()
            return None
        finally:
            self._waiting -= 1

    def notify(self) -> None:
        """Make all waiting requests check now. Call on the event loop's thread."""
        tick, self._tick = self._tick, asyncio.Event()
        if tick is not None:
            tick.set()

    def close(self) -> None:
        """End all waiting. Call from any thread."""
        self.closed = True

    async def _next_tick(self) -> None:
        if self._tick is None:
            self._tick = asyncio.Event()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        await self._tick.wait()

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(POLL_SECONDS)
            self.notify()


class EventFeed:
    """The latest `MAX_RECENT_EVENTS` events since the daemon's start, numbered. Thread-safe.

    A client remembers a number instead of having a queue: a slow client costs nothing, and the numbers show what it missed.
    """

    def __init__(self, api: DaemonApi) -> None:
        """Start without events; `open` subscribes to them."""
        self._hub = api.bus
        self._events: deque[dict[str, Any]] = deque(maxlen=MAX_RECENT_EVENTS)
        self._unrepeated: deque[dict[str, Any]] = deque(maxlen=MAX_RECENT_EVENTS)
        """The latest events without `seen` events, which would displace all others after a while."""
        # Random, so that numbers from before a restart are not taken for current ones.
        self._first = self._next = 1 + secrets.randbelow(MAX_FIRST)
        self._early: list[Event] | None = []
        self._closed = False
        self._lock = threading.Lock()

    def open(self) -> None:
        """Subscribe, and add the events from before."""
        self._hub.listen(self._receive)
        earlier = self._hub.latest(MAX_RECENT_EVENTS)
        with self._lock:
            early, self._early = self._early or [], None
            new = [event for event in early if not any(event is known for known in earlier)]
            for event in [*earlier, *new]:
                self._append(event)

    def close(self) -> None:
        """Unsubscribe, and drop all events."""
        self._hub.unlisten(self._receive)
        with self._lock:
            self._closed = True
            self._events.clear()
            self._unrepeated.clear()

    @property
    def newest(self) -> int:
        """Number of the latest event."""
        return self._next - 1

    def latest(self, count: int, *, seen: bool = True) -> list[dict[str, Any]]:
        """Return at most `count` events, oldest first, each with its number as `seq`; with or without `seen` events."""
        with self._lock:
            return list(self._events if seen else self._unrepeated)[-count:] if count > 0 else []

    def after(self, number: int) -> tuple[list[dict[str, Any]], int]:
        """Return the events after this number, and how many of them are no longer kept.

        For a number from an earlier run of the daemon, return all events.
        """
        with self._lock:
            if not self._events:
                return [], 0
            if not self._first - 1 <= number < self._next:
                return list(self._events), 0
            oldest = self._next - len(self._events)
            return list(self._events)[max(0, number + 1 - oldest) :], max(0, oldest - 1 - number)

    def _receive(self, event: Event) -> None:
        with self._lock:
            if self._early is not None:
                self._early.append(event)
            elif not self._closed:
                self._append(event)

    def _append(self, event: Event) -> None:
        numbered = {"seq": self._next, **event.to_dict()}
        self._events.append(numbered)
        if event.kind != "seen":
            self._unrepeated.append(numbered)
        self._next += 1


class StatusMonitor:
    """The daemon's status for all streams, read once a second while there are any. Belongs to the event loop's thread."""

    def __init__(self, api: DaemonApi) -> None:
        """Start without a status."""
        self._api = api
        self._read_at = -STATUS_SECONDS
        self._reading: asyncio.Task[None] | None = None
        self._published: dict[str, Any] = {}
        self._published_at = -REFRESH_SECONDS
        self.version = 0
        """Increases with every status that is worth sending."""
        self.latest: dict[str, Any] = {}
        """The body of `GET /status`."""

    def refresh(self, pool: Executor) -> None:
        """Start to read the status if the latest is old."""
        loop = asyncio.get_running_loop()
        if self._reading is None and loop.time() - self._read_at >= STATUS_SECONDS:
            self._read_at = loop.time()
            self._reading = loop.create_task(self._read(pool))

    async def _read(self, pool: Executor) -> None:
        loop = asyncio.get_running_loop()
        try:
            status = await loop.run_in_executor(pool, self._api.status)
        except (EdgeSiameseError, RuntimeError):  # the daemon is stopping, or the pool has been shut down
            return
        finally:
            self._reading = None
        stale = loop.time() - self._published_at >= REFRESH_SECONDS
        changed = _steady_part(status) != _steady_part(self._published)
        if changed or (stale and _timeless_part(status) != _timeless_part(self._published)):
            self.version += 1
            self._published, self._published_at = status, loop.time()
        self.latest = status


class EventStreams:
    """Shared state of all streams. Belongs to the event loop's thread, except for `feed`."""

    def __init__(self, api: DaemonApi, notifier: Notifier, pool: Executor) -> None:
        """Start without streams. `pool` reads the daemon's status."""
        self.api, self.notifier, self.pool = api, notifier, pool
        self.feed = EventFeed(api)
        self.status = StatusMonitor(api)
        self.count = 0
        """Open streams."""


class EventStream:
    """The stream of one client. The response that sends it closes it."""

    def __init__(self, shared: EventStreams, after: int, is_authenticated: Callable[[], bool]) -> None:
        """Begin after an event.

        Args:
            shared: shared state of all streams.
            after: number of the last event that the client knows.
            is_authenticated: whether the client may still follow.
        """
        self._shared, self._after, self._is_authenticated = shared, after, is_authenticated
        self._registration_version = shared.api.registrations.version
        self._status_version = -1
        self._open, self._checked_at = True, 0.0
        shared.count += 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        notifier = self._shared.notifier
        yield b"retry: 2000\n\n"
        while self._open and not notifier.closed:
            news = await notifier.wait_for(self._check, PING_SECONDS)
            if not self._is_authenticated():
                return
            if news is not None:
                yield news
            elif not notifier.closed:
                yield b": ping\n\n"

    def close(self) -> None:
        """End the stream. May be called twice."""
        if self._open:
            self._open = False
            self._shared.count -= 1

    def _check(self) -> bytes | None:
        """Return the next messages; empty, which ends the stream, if the client has been logged out."""
        now = asyncio.get_running_loop().time()
        if now - self._checked_at >= RECHECK_SECONDS:
            self._checked_at = now
            if not self._is_authenticated():
                return b""
        return self._news()

    def _news(self) -> bytes | None:
        shared = self._shared
        messages: list[bytes] = []
        shared.status.refresh(shared.pool)
        if self._status_version != shared.status.version and shared.status.latest:
            self._status_version = shared.status.version
            messages.append(sse_message("status", shared.status.latest))
        if (version := shared.api.registrations.version) != self._registration_version:
            self._registration_version = version
            latest = shared.api.registrations.latest()
            if latest is not None:
                messages.append(sse_message("registration", registration_data(latest, pictures=False)))
        if shared.feed.newest != self._after:
            events, lost = shared.feed.after(self._after)
            if lost:
                messages.append(sse_message("lost", {"count": lost}))
            for event in events[:MAX_EVENTS_PER_MESSAGE]:
                self._after = int(event["seq"])
                messages.append(sse_message("event", event, event_id=self._after))
        return b"".join(messages) or None


def sse_message(kind: str, value: Any, event_id: int | None = None) -> bytes:
    """Return a server-sent event. JSON has no line breaks, so it is one line of data."""
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {kind}\ndata: ".encode() + to_json(value) + b"\n\n"


def registration_data(record: RegistrationRecord, *, pictures: bool, prefix: str = "") -> dict[str, Any]:
    """Return a registration as JSON values, with or without the URLs of its pictures, which begin with `prefix`."""
    url = f"{prefix}/api/v1/registration/{record.id}/frames"
    return {
        "id": record.id,
        "name": record.name,
        "target": record.target,
        "source": record.source,
        "needed": record.needed,
        "done": record.done,
        "saved": record.saved,
        "text": record.text,
        "uid": record.uid,
        "frames": [
            {
                "number": frame.number,
                "good": frame.good,
                "text": frame.text,
                **({"picture": f"{url}/{frame.number}"} if pictures else {}),
            }
            for frame in record.frames
        ],
    }


def _steady_part(status: dict[str, Any]) -> dict[str, Any]:
    """Return what is sent as soon as it changes: no counters, times and frame rates."""
    steady = {name: value for name, value in _timeless_part(status).items() if name not in ("frames", "line")}
    if camera := status.get("camera"):
        steady["camera"] = _without(camera, "captured", "dropped", "fps")
    steady["integrations"] = _without_numbers(status.get("integrations", {}))
    return steady


def _timeless_part(status: dict[str, Any]) -> dict[str, Any]:
    return _without(status, "uptime_s")


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _without_numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Return the reports of integrations without their counters and times."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            result[name] = _without_numbers(value)
        elif name != "last_sync" and (isinstance(value, bool) or not isinstance(value, (int, float))):
            result[name] = value
    return result
