"""Request handlers for events: the latest ones, and a stream of server-sent events."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from edge_siamese.daemon.event_bus import MAX_RECENT_EVENTS
from edge_siamese.dashboard.endpoints import BoundedStreamingResponse, Endpoints
from edge_siamese.dashboard.event_stream import EventStream
from edge_siamese.dashboard.schemas import ApiError, JsonObject
from edge_siamese.dashboard.state import AppState
from edge_siamese.validation import Record

ENDPOINTS = Endpoints("events")
EVENT_STREAM = "text/event-stream"


class EventList(Record):
    """Recent events."""

    events: Annotated[
        tuple[JsonObject, ...],
        Meta(description="Oldest first, each with kind, time, text, seq, and the keys of its kind."),
    ]


@ENDPOINTS.add("GET", "/events")
def events(
    state: AppState,
    count: Annotated[int, Meta(description="Maximum number of events.", ge=0, le=MAX_RECENT_EVENTS)] = 50,
    seen: Annotated[
        bool,
        Meta(description="Whether to include `seen` events, which repeat while an object stays in view."),
    ] = True,
) -> EventList:
    """The latest events."""
    return EventList(events=tuple(state.streams.feed.latest(count, seen=seen)))


@ENDPOINTS.add("GET", "/stream", media_type=EVENT_STREAM, responses={503: "Too many clients are following."})
async def stream(
    state: AppState,
    request: Request,
    after: Annotated[
        int | None,
        Meta(
            description="The `seq` of the last known event; the header Last-Event-ID takes precedence.",
            ge=0,
            le=2**53,
        ),
    ] = None,
) -> Response:
    """Server-sent events: `event`, `status`, `registration`, and `lost` for events that are no longer kept."""
    if state.streams.count >= state.settings.max_viewers:
        message = f"{state.settings.max_viewers} clients are following already"
        raise ApiError(503, message, kind="TooManyViewers", headers={"Retry-After": "5"})
    last = request.headers.get("last-event-id", "")
    start = state.streams.feed.newest
    if last.isascii() and last.isdecimal() and len(last) <= 16:
        start = int(last)
    elif after is not None:
        start = after
    followed = EventStream(state.streams, start, state.authenticator.recheck(request))
    return BoundedStreamingResponse(
        followed,
        media_type=EVENT_STREAM,
        headers={"X-Accel-Buffering": "no"},  # proxies must not buffer it
        on_end=followed.close,
    )
