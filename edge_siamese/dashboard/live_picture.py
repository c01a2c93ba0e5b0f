"""The live picture: one JPEG for all who watch, made only while somebody waits for it, and not too often."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from edge_siamese.daemon.actions import Actions
from edge_siamese.daemon.current_view import CurrentView
from edge_siamese.dashboard.exchange import Problem
from edge_siamese.dashboard.notifier import Notifier
from edge_siamese.pictures import encode_jpeg
from edge_siamese.settings import DashboardSettings

LOG = logging.getLogger(__name__)

WAIT_SECONDS = 10.0
"""The longest that a request waits for a picture."""
WELCOME_SECONDS = 1.0
"""So often it is seen whether who waits still may have it; and again before it is sent."""
OLD_SECONDS = 0.15
"""A picture that was made within so long is one of now."""
SIDE, QUALITY = 640, 80
"""Of the pictures: pixels of the longer side; and as JPEG counts it."""


@dataclass(frozen=True)
class LivePicture:
    """A frame as it is sent."""

    number: int
    jpeg: bytes
    now: str
    """What was made of it, as JSON in ASCII."""


class Live:
    """Belongs to the loop's thread."""

    def __init__(self, settings: DashboardSettings, actions: Actions, pulse: Notifier) -> None:
        """Make no pictures yet."""
        self._settings, self._actions, self._pulse = settings, actions, pulse
        self._latest: LivePicture | None = None
        self._shown: CurrentView | None = None
        self._making: asyncio.Task[None] | None = None
        self._every = 1.0 / settings.frame_rate
        self._made_at = -self._every
        self._watching = 0
        self._failures, self._failure = 0, ""

    async def after(
        self, number: int, work: Callable[..., Any], welcome: Callable[[], bool] = lambda: True
    ) -> LivePicture | None:
        """The picture of a later frame than this one, waiting for it; None if none comes in time.

        Args:
            number: of the frame that is known already.
            work: calls a function on another thread, and can be awaited.
            welcome: whether the client may still have it.

        Raises:
            Problem: 401 if it may not any more; 503 if too many watch, or no picture can be made.
        """
        if self._watching >= self._settings.max_viewers:
            raise Problem(
                503,
                f"{self._settings.max_viewers} watch already",
                kind="TooManyWatch",
                headers={"Retry-After": "2"},
            )
        self._watching += 1
        failures = self._failures
        clock = asyncio.get_running_loop().time
        asked = clock()

        def look() -> LivePicture | None:
            if self._failures != failures:  # since this one waits; it may ask again
                raise Problem(503, self._failure, kind="NoPicture", headers={"Retry-After": "2"})
            nonlocal asked
            found = self._look(number, work)
            if found is not None or clock() - asked >= WELCOME_SECONDS:
                asked = clock()
                if not welcome():
                    raise Problem(401, "log in first", headers={"WWW-Authenticate": "Bearer"})
            return found

        try:
            return await self._pulse.until(look, WAIT_SECONDS)
        finally:
            self._watching -= 1

    def _look(self, number: int, work: Callable[..., Any]) -> LivePicture | None:
        """The latest picture if it is news to who asks; else see that one is made."""
        shown = self._actions.shown()
        if shown is None:
            return None
        latest, age = self._latest, asyncio.get_running_loop().time() - self._made_at
        newest = self._shown is not None and shown.frame is self._shown.frame
        # Frames may come faster than anybody looks: then one that was made just now is new enough.
        if latest is not None and latest.number != number and (newest or age < max(self._every, OLD_SECONDS)):
            return latest
        if not newest and age >= self._every and self._making is None:
            self._made_at += age
            self._making = asyncio.get_running_loop().create_task(self._make(shown, work))
        return None

    async def _make(self, shown: CurrentView, work: Callable[..., Any]) -> None:
        try:
            self._latest = await work(self.picture, shown)
            self._shown = shown
        except Exception as error:
            if not self._pulse.closed:  # else it fails because there is no thread for it any more
                self._fail(error)
        finally:
            self._making = None
        self._pulse.beat()

    def _fail(self, error: Exception) -> None:
        text = f"the picture cannot be made: {str(error) or type(error).__name__}"
        if text != self._failure:  # once, however often it is asked for
            LOG.error("%s", text, exc_info=error)
        self._failures, self._failure = self._failures + 1, text

    def picture(self, shown: CurrentView) -> LivePicture:
        """A frame as it is sent; takes some milliseconds."""
        told = json.dumps(brief(shown), separators=(",", ":"))
        return LivePicture(shown.frame.number, encode_jpeg(shown.frame.pixels, QUALITY, SIDE), told)


def brief(shown: CurrentView) -> dict[str, Any]:
    """What was made of a frame, in a few words."""
    found = shown.recognition
    present = [{"uid": sighting.uid, "name": sighting.name} for sighting in shown.present]
    if found is None:
        return {"learning": True, "text": "looks at something that it shall learn", "present": present}
    return {
        "name": found.name,
        "uid": found.uid,
        "probability": round(found.probability, 4),
        "threshold": round(found.threshold, 4),
        "rule": found.rule,
        "nearest": found.nearest,
        "runner_up": found.runner_up,
        "margin": round(found.margin, 4),
        "learning": False,
        "present": present,
        "text": str(found),
    }


def full(shown: CurrentView | None, now: float) -> dict[str, Any]:
    """What was made of a frame, in full."""
    if shown is None:
        return {
            "shown": False,
            "learning": False,
            "text": "",
            "explanation": [],
            "present": [],
            "frame": None,
        }
    found = shown.recognition
    learning = {"text": "looks at something that it shall learn", "explanation": []}
    return {
        **(learning if found is None else found.described()),
        "shown": True,
        "learning": found is None,
        "present": [
            {
                "uid": sighting.uid,
                "name": sighting.name,
                "probability": round(sighting.probability, 4),
                "since": wall_time(sighting.since, now),
            }
            for sighting in shown.present
        ],
        "frame": shown.frame.number,
    }


def wall_time(moment: float, now: float) -> str:
    """When a moment of the frames' clock was: UTC, ISO 8601."""
    found = datetime.now(UTC) - timedelta(seconds=max(0.0, now - moment))
    return found.isoformat(timespec="milliseconds")
