"""Operations that tell what happens: the state, the latest events, and the stream of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from edge_siamese.daemon.event_bus import RING
from edge_siamese.dashboard.api_types import Failure, Values
from edge_siamese.dashboard.event_stream import Stream
from edge_siamese.dashboard.exchange import Call, Problem, Reply
from edge_siamese.dashboard.operations import Answer, Operation
from edge_siamese.dashboard.schemas import About
from edge_siamese.dashboard.state import AppState, asked


@dataclass(frozen=True)
class Count:
    """How many."""

    count: Annotated[int, About("The latest so many, at most.", 0, RING)] = 50


@dataclass(frozen=True)
class From:
    """Where to go on."""

    after: Annotated[
        int | None, About("The `seq` of the last event that is known; else that of Last-Event-ID.", 0, 2**53)
    ] = None


@dataclass(frozen=True)
class Events:
    """What happened."""

    events: Annotated[
        tuple[Values, ...],
        About("The oldest first, each with kind, time, text, seq, and what belongs to its kind."),
    ]


def status(site: AppState, call: Call) -> Reply:
    """The state."""
    return Reply(value=asked(site.actions.status))


def events(site: AppState, call: Call) -> Reply:
    """The latest."""
    return Reply(value={"events": site.feed.latest(call.query.count)})


async def stream(site: AppState, call: Call) -> Reply:
    """What happens from now on."""
    if site.streams >= site.settings.max_viewers:
        text = f"{site.settings.max_viewers} follow already"
        raise Problem(503, text, kind="TooManyWatch", headers={"Retry-After": "5"})
    last = call.head.header("last-event-id")
    after = site.feed.newest
    if last.isascii() and last.isdecimal() and len(last) <= 16:
        after = int(last)
    elif call.query.after is not None:
        after = call.query.after
    return Reply(stream=Stream(site, after, site.guard.still(call.head)), type="text/event-stream")


OPERATIONS = (
    Operation(
        "GET",
        "/status",
        "status",
        "events",
        "What the daemon sees, and how it is.",
        Answer(200, "As `edge-siamese status --json` prints it.", Values),
        status,
    ),
    Operation(
        "GET",
        "/events",
        "events",
        "events",
        "What happened lately.",
        Answer(200, "The latest events.", Events),
        events,
        query=Count,
    ),
    Operation(
        "GET",
        "/stream",
        "stream",
        "events",
        "What happens, as server-sent events: `event`, `status`, `burst`, and `lost` where some could not be kept.",
        Answer(200, "The stream; it ends with the session.", type="text/event-stream"),
        waiter=stream,
        query=From,
        others=(Answer(503, "Too many follow already.", Failure),),
    ),
)
