"""What the stream tells of the daemon's state: what changes, and seldom what changes always."""

from __future__ import annotations

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from edge_siamese.dashboard import event_stream
from edge_siamese.dashboard.event_stream import StatusMonitor

STATE: dict[str, Any] = {
    "line": "sees mug; 1 object; 9.8 frames/s",
    "uptime_s": 5.0,
    "fault": "",
    "model": {"model_id": "demo"},
    "objects": 1,
    "present": ["mug"],
    "frames": 50,
    "camera": {"status": "live", "captured": 50, "dropped": 0, "restarts": 0, "fps": 9.8},
    "extras": {
        "dashboard": {"works": True, "state": "at http://shelf.local:8765/", "followers": 1},
        "mqtt": {
            "works": True,
            "state": "connected",
            "sent": 3,
            "fleet": {"last_sync": "then", "to_tell": 2},
        },
    },
}


class Watched:
    """The state of a daemon, asked for whenever a test says so."""

    def __init__(self) -> None:
        self.now = copy.deepcopy(STATE)
        self.monitor = StatusMonitor(cast(Any, SimpleNamespace(status=lambda: copy.deepcopy(self.now))))

    async def told(self, pool: ThreadPoolExecutor) -> bool:
        """Ask; whether that is news."""
        before = self.monitor.version
        await self.monitor._read(pool)
        return self.monitor.version != before


def always(state: dict[str, Any]) -> None:
    """What changes whenever the daemon looks at something."""
    state["line"] = "sees mug; 1 object; 9.9 frames/s"
    state["uptime_s"] += 1
    state["frames"] += 10
    state["camera"] |= {"captured": state["camera"]["captured"] + 10, "dropped": 1, "fps": 9.9}
    state["extras"]["dashboard"]["followers"] += 1
    state["extras"]["mqtt"] |= {"sent": 9, "fleet": {"last_sync": "now", "to_tell": 0}}


def waits(state: dict[str, Any]) -> None:
    """Of a camera that gives nothing, only the time changes."""
    state["uptime_s"] += 1


def test_an_unchanged_state_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "REFRESH_SECONDS", 0.0)
    watched = Watched()

    async def watch() -> list[bool]:
        with ThreadPoolExecutor(1) as pool:
            found = []
            for _ in range(4):
                found.append(await watched.told(pool))
                waits(watched.now)
            return found

    assert asyncio.run(watch()) == [True, False, False, False]
    assert watched.monitor.latest["uptime_s"] == 8.0  # who comes now is told what holds now


def test_what_changes_always_is_told_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched()

    async def watch() -> list[bool]:
        with ThreadPoolExecutor(1) as pool:
            found = [await watched.told(pool)]
            for _ in range(3):
                always(watched.now)
                found.append(await watched.told(pool))
            monkeypatch.setattr(event_stream, "REFRESH_SECONDS", 0.0)
            found.append(await watched.told(pool))
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
        {"extras": {**STATE["extras"], "mqtt": {"works": False, "state": "away", "sent": 3}}},
        {"extras": {}},
    ],
)
def test_anything_else_is_told_at_once(change: dict[str, Any]) -> None:
    watched = Watched()

    async def watch() -> list[bool]:
        with ThreadPoolExecutor(1) as pool:
            found = [await watched.told(pool)]
            watched.now |= change
            return [*found, await watched.told(pool)]

    assert asyncio.run(watch()) == [True, True]
