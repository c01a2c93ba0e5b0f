"""Handlers of status and events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import StreamingResponse

from edge_siamese.daemon.event_bus import RING
from edge_siamese.dashboard.endpoints import Endpoints
from edge_siamese.dashboard.event_stream import EventStream
from edge_siamese.dashboard.limits import unless_disconnected
from edge_siamese.dashboard.schemas import ApiError, JsonObject
from edge_siamese.dashboard.state import AppState
from edge_siamese.validation import Record

ENDPOINTS = Endpoints("events")


class EventList(Record):
    """Recent events."""

    events: Annotated[
        tuple[JsonObject, ...],
        Meta(description="Oldest first, each with kind, time, text, seq, and the keys of its kind."),
    ]


class EventStreamResponse(StreamingResponse):
    """A streaming response that ends when the client disconnects, also while there is nothing to send.

    From ASGI 2.4 on, Starlette's own notices a disconnect only when it sends.
    """

    media_type = "text/event-stream"

    def __init__(self, stream: EventStream) -> None:
        """Send a stream. Proxies are asked not to buffer it."""
        super().__init__(stream, headers={"X-Accel-Buffering": "no"})
        self._stream = stream

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Send until the stream ends or the client disconnects."""
        try:
            await unless_disconnected(self.stream_response(send), receive)
        finally:
            self._stream.close()


@ENDPOINTS.add("GET", "/status")
def status(state: AppState) -> JsonObject:
    """The daemon's status, as `edge-siamese status --json` prints it."""
    return state.actions.status()


@ENDPOINTS.add("GET", "/events")
def events(
    state: AppState,
    count: Annotated[int, Meta(description="Number of events, at most.", ge=0, le=RING)] = 50,
) -> EventList:
    """The latest events."""
    return EventList(events=tuple(state.streams.feed.latest(count)))


@ENDPOINTS.add(
    "GET", "/stream", media_type="text/event-stream", responses={503: "Too many clients are following."}
)
async def stream(
    state: AppState,
    request: Request,
    after: Annotated[
        int | None,
        Meta(description="The `seq` of the last known event; the header Last-Event-ID wins.", ge=0, le=2**53),
    ] = None,
) -> StreamingResponse:
    """Server-sent events: `event`, `status`, `burst`, and `lost` for events that are no longer kept."""
    if state.streams.count >= state.settings.clients:
        message = f"{state.settings.clients} clients are following already"
        raise ApiError(503, message, kind="TooManyWatch", headers={"Retry-After": "5"})
    last = request.headers.get("last-event-id", "")
    start = state.streams.feed.newest
    if last.isascii() and last.isdecimal() and len(last) <= 16:
        start = int(last)
    elif after is not None:
        start = after
    return EventStreamResponse(EventStream(state.streams, start, state.authenticator.recheck(request)))
