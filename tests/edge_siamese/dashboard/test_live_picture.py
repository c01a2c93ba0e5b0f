"""The live picture: what those who wait for one are told when none can be made."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from edge_siamese.dashboard.schemas import ApiError
from edge_siamese.dashboard.live_picture import LivePictures, LivePicture
from edge_siamese.dashboard.event_stream import Notifier
from edge_siamese.errors import PictureError
from edge_siamese.settings import DashboardSettings

SETTINGS = structs.replace(DashboardSettings(), frame_rate=60.0)


async def at_once(function: Callable[..., Any], *given: Any) -> Any:
    return function(*given)


def live(monkeypatch: pytest.MonkeyPatch, picture: Callable[[Any], LivePicture]) -> Live:
    """One of a daemon that always has the same frame."""
    shown = SimpleNamespace(frame=object())
    found = LivePictures(SETTINGS, cast(Any, SimpleNamespace(shown=lambda: shown)), Notifier())
    monkeypatch.setattr(found, "picture", picture)
    return found


def test_what_cannot_be_made_is_said_to_all_who_wait_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: Any) -> LivePicture:
        raise PictureError("reading pictures needs Pillow")

    found = live(monkeypatch, fails)

    async def watch() -> list[Any]:
        both = await asyncio.gather(*(found.after(-1, at_once) for _ in range(2)), return_exceptions=True)
        third = await asyncio.gather(found.after(-1, at_once), return_exceptions=True)
        return [*both, *third]

    with caplog.at_level(logging.ERROR):
        said = asyncio.run(asyncio.wait_for(watch(), 5))
    assert [type(problem) for problem in said] == [ApiError] * 3
    assert {(problem.status, problem.kind, str(problem)) for problem in said} == {
        (503, "NoPicture", "the picture cannot be made: reading pictures needs Pillow")
    }
    assert [record.message for record in caplog.records] == [
        "the picture cannot be made: reading pictures needs Pillow"
    ]


def test_after_a_failure_the_next_picture_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = LivePicture(7, b"jpeg", "{}")
    outcomes: list[LivePicture | Exception] = [OSError("no memory"), made]

    def sometimes(_: Any) -> LivePicture:
        if isinstance(outcome := outcomes.pop(0), Exception):
            raise outcome
        return outcome

    found = live(monkeypatch, sometimes)

    async def watch() -> LivePicture | None:
        with pytest.raises(ApiError, match="no memory"):
            await found.after(-1, at_once)
        return await found.after(-1, at_once)

    assert asyncio.run(asyncio.wait_for(watch(), 5)) is made
