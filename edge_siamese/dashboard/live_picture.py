"""The live picture: one JPEG for all clients, encoded on demand at a limited rate."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from edge_siamese.daemon.api import DaemonApi
from edge_siamese.daemon.telemetry import CurrentView
from edge_siamese.dashboard.auth import not_logged_in
from edge_siamese.dashboard.event_stream import RECHECK_SECONDS, Notifier
from edge_siamese.dashboard.schemas import ApiError
from edge_siamese.pictures import encode_jpeg
from edge_siamese.recognition.decision import Recognition
from edge_siamese.recognition.imaging import Box
from edge_siamese.settings import DashboardSettings
from edge_siamese.system.wall_clock import utc_ago

LOG = logging.getLogger(__name__)

MAX_WAIT_SECONDS = 10.0
"""Maximum time that a request waits for a new picture."""
MAX_AGE_SECONDS = 0.15
"""A picture of at most this age is current."""
SIDE, QUALITY = 640, 80
"""Pixels of the longer side, and JPEG quality."""
MAX_HEADER_BYTES, MAX_HEADER_NAMES = 3000, (32, 12, 4)
"""Size of the header with the decisions, as nginx accepts 4 kB of headers in total; characters of a name if it is larger."""
REGISTERING_TEXT = "registering an object"


@dataclass(frozen=True)
class LivePicture:
    """An encoded frame."""

    frame: int
    """The frame's number."""
    jpeg: bytes
    decisions: str
    """The decisions about the frame: JSON in ASCII, for a header."""
    parts: str
    """For each region left, top, width and height of the part that the encoder reads, as fractions of the frame, separated
    by spaces; empty if the region shows nothing new. Regions are separated by commas."""


class LivePictures:
    """Encodes frames for waiting clients. Belongs to the event loop's thread."""

    def __init__(
        self, settings: DashboardSettings, api: DaemonApi, notifier: Notifier, pool: Executor
    ) -> None:
        """Start without pictures. `pool` encodes them."""
        self._settings, self._api, self._notifier, self._pool = settings, api, notifier, pool
        self._latest: LivePicture | None = None
        self._latest_view: CurrentView | None = None
        self._encoding: asyncio.Task[None] | None = None
        self._interval = 1.0 / settings.frame_rate
        self._encoded_at = -self._interval
        self.waiting = 0
        """Requests that wait for a picture."""
        self._failures, self._failure = 0, ""

    async def next_after(
        self, frame: int, is_authenticated: Callable[[], bool] = lambda: True
    ) -> LivePicture | None:
        """Wait for the picture of a frame other than this one; None if there is none in time.

        Args:
            frame: number of the frame that the client has.
            is_authenticated: whether the client may still have it.

        Raises:
            ApiError: 401 if the client has been logged out; 503 if too many wait or encoding failed.
        """
        if self.waiting >= self._settings.max_viewers:
            message = f"{self._settings.max_viewers} clients are watching already"
            raise ApiError(503, message, kind="TooManyViewers", headers={"Retry-After": "2"})
        self.waiting += 1
        failures = self._failures
        clock = asyncio.get_running_loop().time
        checked_at = clock()

        def check() -> LivePicture | None:
            nonlocal checked_at
            if self._failures != failures:
                raise ApiError(503, self._failure, kind="NoPicture", headers={"Retry-After": "2"})
            picture = self._current(frame)
            if picture is not None or clock() - checked_at >= RECHECK_SECONDS:
                checked_at = clock()
                if not is_authenticated():
                    raise not_logged_in()
            return picture

        try:
            return await self._notifier.wait_for(check, MAX_WAIT_SECONDS)
        finally:
            self.waiting -= 1

    def _current(self, frame: int) -> LivePicture | None:
        """Return the latest picture if it is current and of another frame; else start to encode one."""
        view = self._api.current_view()
        if view is None:
            return None
        latest, age = self._latest, asyncio.get_running_loop().time() - self._encoded_at
        is_newest = self._latest_view is not None and view.frame is self._latest_view.frame
        # Frames may arrive faster than pictures are encoded: then a recent picture is current enough.
        is_current = is_newest or age < max(self._interval, MAX_AGE_SECONDS)
        if latest is not None and latest.frame != frame and is_current:
            return latest
        if not is_newest and age >= self._interval and self._encoding is None:
            self._encoded_at += age
            self._encoding = asyncio.get_running_loop().create_task(self._encode(view))
        return None

    async def _encode(self, view: CurrentView) -> None:
        try:
            loop = asyncio.get_running_loop()
            self._latest = await loop.run_in_executor(self._pool, self.encode, view)
            self._latest_view = view
        except Exception as error:
            if not self._notifier.closed:  # otherwise the pool has been shut down
                self._fail(error)
        finally:
            self._encoding = None
        self._notifier.notify()

    def _fail(self, error: Exception) -> None:
        message = f"cannot encode the picture: {str(error) or type(error).__name__}"
        if message != self._failure:  # the same failure is logged once
            LOG.error("%s", message, exc_info=error)
        self._failures, self._failure = self._failures + 1, message

    def encode(self, view: CurrentView) -> LivePicture:
        """Encode a frame; takes some milliseconds."""
        decisions = header_json(summary(view))
        jpeg = encode_jpeg(view.frame.pixels, QUALITY, SIDE)
        return LivePicture(view.frame.number, jpeg, decisions, parts(view))


def parts(view: CurrentView) -> str:
    """Return the parts of a frame that the encoder reads; see `LivePicture.parts`."""
    rows, columns = view.frame.pixels.shape[:2]

    def fractions(part: Box | None) -> str:
        if part is None:
            return ""
        values = part.left / columns, part.top / rows, part.width / columns, part.height / rows
        return " ".join(f"{value:.4f}" for value in values)

    return ",".join(fractions(region.part) for region in view.regions)


def summary(view: CurrentView) -> dict[str, Any]:
    """Return the decisions about a frame in short form, as JSON values."""
    return {
        "registering": view.registering,
        "present": [
            {"uid": sighting.uid, "name": sighting.name, "region": sighting.region}
            for sighting in view.present
        ],
        "regions": [{"region": region.name, **_short(region.recognition)} for region in view.regions],
    }


def _short(decision: Recognition | None) -> dict[str, Any]:
    if decision is None:
        return {"rule": None}
    return {
        "name": decision.name,
        "uid": decision.uid,
        "probability": round(decision.probability, 4),
        "threshold": round(decision.threshold, 4),
        "rule": decision.rule,
        "nearest": decision.nearest,
        "runner_up": decision.runner_up,
        "margin": round(decision.margin, 4),
    }


def header_json(decisions: dict[str, Any]) -> str:
    """Encode short decisions for a header, in ASCII. Proxies refuse long headers: then names are shortened, objects that are
    present are left out, and then the nearest objects of decisions."""
    text = to_ascii(decisions)
    for length in MAX_HEADER_NAMES:
        if len(text) > MAX_HEADER_BYTES:
            decisions = _shorten(decisions, length)
            text = to_ascii(decisions)
    while len(text) > MAX_HEADER_BYTES and decisions["present"]:
        decisions["present"].pop()
        text = to_ascii(decisions)
    for region in reversed(decisions["regions"]):
        if len(text) > MAX_HEADER_BYTES:
            for name in ("nearest", "runner_up"):
                region.pop(name, None)
            text = to_ascii(decisions)
    return text


def to_ascii(value: Any) -> str:
    """Encode as JSON in ASCII."""
    return json.dumps(value, separators=(",", ":"))


def _shorten(value: Any, length: int) -> Any:
    """Return a copy of JSON values, with shorter names."""
    if isinstance(value, dict):
        return {
            key: item if key in ("uid", "rule") else _shorten(item, length) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_shorten(item, length) for item in value]
    if not isinstance(value, str) or len(value) <= length:
        return value
    return value[: length - 1] + "…"


def details(view: CurrentView | None, now: float, region: str | None = None) -> dict[str, Any]:
    """Return the decision about a region of a frame with its explanation, as JSON values.

    Args:
        view: the latest frame.
        now: the time in seconds, on the clock of `Frame.time`.
        region: name of the region; None: the first one.

    Raises:
        ApiError: 404 if there is no such region.
    """
    if view is None:
        return {
            "available": False,
            "registering": False,
            "region": region or "",
            "text": "",
            "explanation": [],
            "present": [],
            "frame": None,
        }
    shown = next((item for item in view.regions if region in (None, item.name)), None)
    if shown is None:
        raise ApiError(404, "there is no such region", kind="NoRegion")
    text = REGISTERING_TEXT if view.registering else "not processed yet"
    nothing = {"text": text, "explanation": []}
    return {
        **(nothing if shown.recognition is None else shown.recognition.describe()),
        "available": True,
        "registering": view.registering,
        "region": shown.name,
        "present": [
            {
                "uid": sighting.uid,
                "name": sighting.name,
                "probability": round(sighting.probability, 4),
                "since": utc_ago(now - sighting.since),
            }
            for sighting in shown.present
        ],
        "frame": view.frame.number,
    }
