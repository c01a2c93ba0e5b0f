"""The live picture: failures of encoding."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec import structs

from edge_siamese.dashboard.event_stream import Notifier
from edge_siamese.dashboard.live_picture import MAX_HEADER_BYTES, LivePicture, LivePictures, header_json
from edge_siamese.dashboard.schemas import ApiError
from edge_siamese.errors import PictureError
from edge_siamese.settings import DashboardSettings

SETTINGS = structs.replace(DashboardSettings(), frame_rate=60.0)


class Immediately(Executor):
    """Runs functions at once, on the caller's thread."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def live(monkeypatch: pytest.MonkeyPatch, encode: Callable[[Any], LivePicture]) -> LivePictures:
    """Pictures of a daemon that always has the same frame."""
    shown = SimpleNamespace(frame=object())
    found = LivePictures(
        SETTINGS, cast(Any, SimpleNamespace(current_view=lambda: shown)), Notifier(), Immediately()
    )
    monkeypatch.setattr(found, "encode", encode)
    return found


def test_a_failure_is_sent_to_all_waiting_clients_and_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: Any) -> LivePicture:
        raise PictureError("reading pictures needs Pillow")

    found = live(monkeypatch, fails)

    async def watch() -> list[Any]:
        both = await asyncio.gather(*(found.next_after(-1) for _ in range(2)), return_exceptions=True)
        third = await asyncio.gather(found.next_after(-1), return_exceptions=True)
        return [*both, *third]

    with caplog.at_level(logging.ERROR):
        said = asyncio.run(asyncio.wait_for(watch(), 60))
    assert [type(problem) for problem in said] == [ApiError] * 3
    assert {(problem.status, problem.kind, str(problem)) for problem in said} == {
        (503, "NoPicture", "cannot encode the picture: reading pictures needs Pillow")
    }
    assert [record.message for record in caplog.records] == [
        "cannot encode the picture: reading pictures needs Pillow"
    ]


def decisions(name: str, present: int, regions: int = 1) -> dict[str, Any]:
    decision = {
        "name": name, "uid": "a" * 32, "probability": 0.9714, "threshold": 0.71, "rule": "recognized", "nearest": name,
        "runner_up": name, "margin": 0.5,
    }  # fmt: skip
    return {
        "registering": False,
        "present": [
            {"uid": f"{number:032x}", "name": name, "region": "r" * 32 if regions > 1 else ""}
            for number in range(present)
        ],
        "regions": [{"region": "r" * 32 if regions > 1 else "", **decision} for _ in range(regions)],
    }


def test_the_header_with_the_decision_is_short_enough_for_proxies() -> None:
    usual = decisions("Täßchen", 10)
    assert json.loads(header_json(usual)) == usual
    for name, present in (("\N{COLLISION SYMBOL}" * 80, 3), ("ä" * 80, 20), ("mug", 500)):
        text = header_json(decisions(name, present))
        assert len(text) <= MAX_HEADER_BYTES and text.isascii()
        found = json.loads(text)
        (decision,) = found["regions"]
        assert decision["name"] == decision["nearest"]
        assert decision["name"] == (name if name == "mug" else decision["name"][:-1] + "…")
        assert (decision["uid"], decision["probability"]) == ("a" * 32, 0.9714)
        assert 0 < len(found["present"]) <= present


@pytest.mark.parametrize("name", ["mug", "ä" * 80, "\N{COLLISION SYMBOL}" * 80])
def test_the_header_has_a_decision_about_each_of_eight_regions(name: str) -> None:
    text = header_json(decisions(name, 16, regions=8))
    assert len(text) <= MAX_HEADER_BYTES and text.isascii()
    found = json.loads(text)["regions"]
    assert len(found) == 8
    for decision in found:
        assert (decision["probability"], decision["threshold"], decision["rule"]) == (
            0.9714,
            0.71,
            "recognized",
        )
        assert decision["name"] == (
            name if name == "mug" else "ä\N{COLLISION SYMBOL}"[name[0] != "ä"] * 3 + "…"
        )


def test_after_a_failure_the_next_picture_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    made = LivePicture(7, b"jpeg", "{}", parts="")
    outcomes: list[LivePicture | Exception] = [OSError("no memory"), made]

    def sometimes(_: Any) -> LivePicture:
        if isinstance(outcome := outcomes.pop(0), Exception):
            raise outcome
        return outcome

    found = live(monkeypatch, sometimes)

    async def watch() -> LivePicture | None:
        with pytest.raises(ApiError, match="no memory"):
            await found.next_after(-1)
        return await found.next_after(-1)

    assert asyncio.run(asyncio.wait_for(watch(), 60)) is made
