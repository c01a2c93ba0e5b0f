"""Handlers of the registration in progress, or the latest one."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from edge_siamese.daemon.registration_session import RegistrationRecord
from edge_siamese.dashboard.endpoints import Endpoints
from edge_siamese.dashboard.event_stream import registration_data
from edge_siamese.dashboard.routes.objects import png_response
from edge_siamese.dashboard.schemas import ApiError, JsonObject
from edge_siamese.dashboard.state import AppState
from edge_siamese.pictures import encode_png
from edge_siamese.validation import Record

ENDPOINTS = Endpoints("registration")

NOT_FOUND = "There is no such registration."


class RegistrationFrame(Record):
    """A frame of a registration."""

    number: int
    good: bool
    text: Annotated[str, Meta(description="Why it was rejected, and what to do.")]
    picture: Annotated[str, Meta(description="URL of a small picture of it.")]


class Registration(Record):
    """A registration in progress, or the latest one."""

    id: str
    name: str | None
    target: Annotated[str | None, Meta(description="Uid of the object that gets a view; null: a new object.")]
    source: str
    needed: Annotated[int, Meta(description="Number of good frames that it needs.")]
    done: bool
    saved: bool
    text: str
    uid: Annotated[str | None, Meta(description="Uid of the saved object.")]
    frames: tuple[RegistrationFrame, ...]


@ENDPOINTS.add("GET", "/registration", returns=Registration, responses={404: NOT_FOUND})
def registration(state: AppState) -> JsonObject:
    """The registration in progress, or the latest one."""
    public = state.settings.public
    return registration_data(_latest(state), pictures=True, prefix=public.path if public else "")


@ENDPOINTS.add(
    "GET", "/registration/{registration}/frames/{number}", media_type="image/png", responses={404: NOT_FOUND}
)
def registration_picture(
    state: AppState,
    registration: Annotated[str, Meta(description="12 hexadecimal digits.", pattern="^[0-9a-f]{12}$")],
    number: Annotated[int, Meta(description="Number of the frame.", ge=0, le=2**53)],
) -> Response:
    """A frame of a registration."""
    latest = _latest(state)
    for frame in latest.frames if latest.id == registration else ():
        if frame.number == number:
            return png_response(encode_png(frame.crop))
    raise ApiError(404, "that frame is no longer kept", kind="NoRegistration")


def _latest(state: AppState) -> RegistrationRecord:
    latest = state.api.registrations.latest()
    if latest is None:
        raise ApiError(404, "nothing has been registered since the dashboard started", kind="NoRegistration")
    return latest
