"""Handlers of the live picture, uploaded pictures and decisions."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from edge_siamese.dashboard.endpoints import Endpoints
from edge_siamese.dashboard.limits import PICTURE_SECONDS, read_body, unless_disconnected
from edge_siamese.dashboard.live_picture import details
from edge_siamese.dashboard.schemas import (
    ApiError,
    Decision,
    DecisionId,
    JsonObject,
    Time,
    UploadId,
)
from edge_siamese.dashboard.state import AppState
from edge_siamese.pictures import encode_png
from edge_siamese.validation import Record

ENDPOINTS = Endpoints("recognition")

PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif")
NOT_KEPT = "It is no longer kept."


class Upload(Record):
    """An uploaded picture, as it is stored."""

    upload: UploadId
    width: int
    height: Annotated[int, Meta(description="In pixels.")]


class PastDecision(Decision):
    """A decision that an event reported."""

    id: DecisionId
    time: Time


@ENDPOINTS.add(
    "GET",
    "/live",
    media_type="image/jpeg",
    headers={
        "X-Frame": "Number of the frame.",
        "X-Decisions": "The decisions, one for each region: JSON in ASCII.",
        "X-Parts": "For each region left, top, width and height of the part that the encoder reads, as fractions of the "
        "picture, separated by spaces; empty if it shows nothing new. Regions are separated by commas.",
    },
    responses={204: "There is no new picture."},
)
async def live(
    state: AppState,
    request: Request,
    after: Annotated[int, Meta(description="Number of the frame that the client has.", ge=-1, le=2**53)] = -1,
) -> Response:
    """The live picture, as soon as there is a new one; waits 10 s at most."""
    waiting = state.live.next_after(after, state.authenticator.recheck(request))
    picture = await unless_disconnected(waiting, request.receive)
    if picture is None:
        return Response(status_code=204)
    headers = {"X-Frame": str(picture.frame), "X-Decisions": picture.decisions, "X-Parts": picture.parts}
    return Response(picture.jpeg, media_type="image/jpeg", headers=headers)


@ENDPOINTS.add("GET", "/decisions/current", responses={404: "There is no such region."})
def current_decision(
    state: AppState,
    region: Annotated[
        str | None, Meta(description="Name of the region; default: the first one.", max_length=32)
    ] = None,
) -> JsonObject:
    """The decision about a region of the current frame, with its explanation."""
    return details(state.api.current_view(), state.api.now, region)


@ENDPOINTS.add("POST", "/uploads", status=201, accepts=PICTURE_TYPES, returns=Upload)
async def upload(state: AppState, request: Request) -> Upload:
    """Upload a picture; it is kept for ten minutes."""
    async with state.uploading:
        data = await read_body(request, state.settings.max_upload_bytes, PICTURE_SECONDS)
        if not data:
            raise ApiError(422, "the body is empty")
        loop = asyncio.get_running_loop()
        added = await loop.run_in_executor(state.pool, state.uploads.add, data)
    height, width = added.pixels.shape[:2]
    return Upload(upload=added.id, width=width, height=height)


@ENDPOINTS.add("GET", "/decisions/{decision}", returns=PastDecision, responses={404: NOT_KEPT})
def past_decision(state: AppState, decision: DecisionId) -> JsonObject:
    """A decision that an event reported."""
    kept = _find(state, decision)
    more = {"id": kept.id, "time": kept.time, "uid": kept.uid, "name": kept.name}
    return {**kept.recognition.describe(), **more}


@ENDPOINTS.add("GET", "/decisions/{decision}/picture", media_type="image/png", responses={404: NOT_KEPT})
def decision_picture(state: AppState, decision: DecisionId) -> Response:
    """The picture of a past decision."""
    return Response(encode_png(_find(state, decision).crop), media_type="image/png")


def _find(state: AppState, decision_id: str) -> Any:
    kept = state.api.decisions.get(decision_id)
    if kept is None:
        raise ApiError(404, "that decision is no longer kept", kind="NoDecision")
    return kept
