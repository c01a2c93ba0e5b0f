"""Wakes up who waits for something new, twenty times a second, and only while somebody does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

EVERY_SECONDS = 0.05


class Notifier:
    """Belongs to one event loop; what is looked at belongs to other threads, and may be read from any."""

    def __init__(self) -> None:
        """Nobody waits."""
        self._waiting = 0
        self._beat: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None
        self.closed = False
        """Whether all waiting is over."""

    async def until(self, look: Callable[[], T | None], timeout: float) -> T | None:
        """What `look` gives once it is not None; None after `timeout` seconds, or at the end."""
        loop = asyncio.get_running_loop()
        end = loop.time() + timeout
        self._waiting += 1
        try:
            while True:
                if self.closed:
                    return None
                if (found := look()) is not None:
                    return found
                if loop.time() >= end:
                    return None
                await self._next()
        finally:
            self._waiting -= 1

    def beat(self) -> None:
        """Let all look at once; from the loop's thread."""
        beat, self._beat = self._beat, asyncio.Event()
        if beat is not None:
            beat.set()

    def close(self) -> None:
        """End all waiting; from any thread."""
        self.closed = True

    async def _next(self) -> None:
        if self._beat is None:
            self._beat = asyncio.Event()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())
        await self._beat.wait()

    async def _run(self) -> None:
        while self._waiting:
            await asyncio.sleep(EVERY_SECONDS)
            self.beat()
