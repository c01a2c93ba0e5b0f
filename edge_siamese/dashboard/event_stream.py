"""The stream of what happens: events, registrations and the daemon's state, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from edge_siamese.daemon.actions import Actions
from edge_siamese.daemon.registration_progress import BurstRecord
from edge_siamese.dashboard.exchange import to_json
from edge_siamese.errors import EdgeSiameseError

if TYPE_CHECKING:
    from edge_siamese.dashboard.state import AppState

PING_SECONDS = 15.0
"""After so long without news, a word that the stream still lives."""
STATUS_SECONDS = 1.0
WELCOME_SECONDS = 1.0
"""So often at least it is seen whether who follows, or waits, still may: before each piece, and also where none comes."""
FRESH_SECONDS = 10.0
"""What changes always, such as the rate of frames, is told so often at most, unless something else is told."""
AT_ONCE = 50
"""Events that are sent in one piece, at most."""


class Reports:
    """The daemon's state for all who follow it: asked once a second, while somebody does; for the loop's thread."""

    def __init__(self, actions: Actions) -> None:
        """Nothing is asked yet."""
        self._actions = actions
        self._asked_at = -STATUS_SECONDS
        self._asking: asyncio.Task[None] | None = None
        self.number = 0
        """Counts up with each state that is worth telling."""
        self._told: dict[str, Any] = {}
        self._told_at = -FRESH_SECONDS
        self.latest: dict[str, Any] = {}
        """As `GET status` answers."""

    def ask(self, pool: Executor) -> None:
        """See that it is asked again, if that was long ago."""
        loop = asyncio.get_running_loop()
        if self._asking is None and loop.time() - self._asked_at >= STATUS_SECONDS:
            self._asked_at = loop.time()
            self._asking = loop.create_task(self._ask(pool))

    async def _ask(self, pool: Executor) -> None:
        try:
            found = await asyncio.get_running_loop().run_in_executor(pool, self._actions.status)
        except (EdgeSiameseError, RuntimeError):  # the daemon ends; or the pool does, which Python says so
            return
        finally:
            self._asking = None
        now = asyncio.get_running_loop().time()
        stale = now - self._told_at >= FRESH_SECONDS and _fresh(found) != _fresh(self._told)
        if stale or _steady(found) != _steady(self._told):
            self.number += 1
            self._told, self._told_at = found, now
        self.latest = found


class Stream:
    """One client's; closed by whoever sends it."""

    def __init__(self, site: AppState, after: int, welcome: Callable[[], bool]) -> None:
        """Begin after an event.

        Args:
            site: where it happens.
            after: the number of the last event that the client knows.
            welcome: whether the client may still have it.
        """
        self._site, self._after, self._welcome = site, after, welcome
        self._burst = site.actions.bursts.version
        self._report = -1
        self._open, self._asked = True, 0.0
        site.streams += 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"retry: 2000\n\n"
        while self._open and not self._site.pulse.closed:
            news = await self._site.pulse.until(self._look, PING_SECONDS)
            if not self._welcome():
                return
            if news is not None:
                yield news
            elif not self._site.pulse.closed:
                yield b": still here\n\n"

    async def aclose(self) -> None:
        """The client has gone; may be called twice."""
        if self._open:
            self._open = False
            self._site.streams -= 1

    def _look(self) -> bytes | None:
        """What is new; nothing but no longer None when the client may not have it any more."""
        now = asyncio.get_running_loop().time()
        if now - self._asked >= WELCOME_SECONDS:
            self._asked = now
            if not self._welcome():
                return b""
        return self._news()

    def _news(self) -> bytes | None:
        """What the client does not know yet; None if there is nothing."""
        site = self._site
        pieces: list[bytes] = []
        site.reports.ask(site.pool)
        if self._report != site.reports.number and site.reports.latest:
            self._report = site.reports.number
            pieces.append(message("status", site.reports.latest))
        if (version := site.actions.bursts.version) != self._burst:
            self._burst = version
            record = site.actions.bursts.latest()
            if record is not None:
                pieces.append(message("burst", burst_data(record, pictures=False)))
        if site.feed.newest != self._after:
            events, lost = site.feed.after(self._after)
            if lost:
                pieces.append(message("lost", {"count": lost}))
            for event in events[:AT_ONCE]:
                self._after = int(event["seq"])
                pieces.append(message("event", event, number=self._after))
        return b"".join(pieces) or None


def message(kind: str, value: Any, number: int | None = None) -> bytes:
    """One server-sent event. JSON has no line breaks, so it is one line of data."""
    head = f"id: {number}\n" if number is not None else ""
    return f"{head}event: {kind}\ndata: ".encode() + to_json(value) + b"\n\n"


def burst_data(record: BurstRecord, *, pictures: bool) -> dict[str, Any]:
    """A registration, as JSON values; with the addresses of its pictures, or without."""
    return {
        "id": record.id,
        "name": record.name,
        "target": record.target,
        "source": record.source,
        "wanted": record.wanted,
        "done": record.done,
        "saved": record.saved,
        "text": record.text,
        "uid": record.uid,
        "frames": [
            {
                "number": frame.number,
                "good": frame.good,
                "text": frame.text,
                **({"picture": f"/api/v1/burst/{record.id}/frames/{frame.number}"} if pictures else {}),
            }
            for frame in record.frames
        ],
    }


def _steady(report: dict[str, Any]) -> dict[str, Any]:
    """What is told at once when it changes. The line repeats what stands elsewhere, and has the rate of frames."""
    found = {name: value for name, value in _fresh(report).items() if name not in ("frames", "line")}
    if camera := report.get("camera"):
        found["camera"] = _without(camera, "captured", "dropped", "fps")
    found["extras"] = _words(report.get("extras", {}))
    return found


def _fresh(report: dict[str, Any]) -> dict[str, Any]:
    """All of which a change may be seen: not the time that has gone by."""
    return _without(report, "uptime_s")


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _words(values: dict[str, Any]) -> dict[str, Any]:
    """What extras say of themselves, without their counters and times."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found[name] = _words(value)
        elif name != "last_sync" and (isinstance(value, bool) or not isinstance(value, (int, float))):
            found[name] = value
    return found
