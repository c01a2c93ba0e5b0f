"""Handlers that register objects and views, and show the registration in progress."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from edge_siamese.daemon.api import SilentClient
from edge_siamese.daemon.registration_session import RegistrationRecord
from edge_siamese.dashboard.endpoints import Endpoints
from edge_siamese.dashboard.event_stream import burst_data
from edge_siamese.dashboard.routes.objects import png_response, valid_name
from edge_siamese.dashboard.schemas import ApiError, JsonObject, Name, Object, Uid, UploadIds
from edge_siamese.dashboard.state import AppState
from edge_siamese.errors import Refused
from edge_siamese.pictures import encode_png
from edge_siamese.validation import Record

ENDPOINTS = Endpoints("registration")

SOURCE = "page"
"""Source of these registrations in events."""
MISSING = "There is no such object, or an uploaded picture is no longer kept."
NO_BURST = "There is no such registration."


class NewObject(Record):
    """An object to register."""

    name: Annotated[Name | None, Meta(description="Null: the next numbered name.")] = None
    force: Annotated[bool, Meta(description="Register it although it looks like another object.")] = False
    pictures: UploadIds = ()


class NewView(Record):
    """A view to register."""

    force: Annotated[bool, Meta(description="Register it although it looks like another object.")] = False
    pictures: UploadIds = ()


class Registered(Record):
    """The outcome of a registration."""

    text: str
    object: Object


class Refusal(Record):
    """Why nothing was registered."""

    error: str
    kind: str
    reason: Annotated[str, Meta(description="Of a refusal, such as blurred, collision, failed, ended.")] = ""
    collides: Annotated[str | None, Meta(description="The object that it looks like.")] = None


class BurstFrame(Record):
    """A frame of a registration."""

    number: int
    good: bool
    text: Annotated[str, Meta(description="Why it was rejected, and what to do.")]
    picture: Annotated[str, Meta(description="URL of a small picture of it.")]


class Burst(Record):
    """A registration in progress, or the latest one."""

    id: str
    name: str | None
    target: Annotated[str | None, Meta(description="Uid of the object that gets a view; null: a new object.")]
    source: str
    wanted: Annotated[int, Meta(description="Number of good frames that it needs.")]
    done: bool
    saved: bool
    text: str
    uid: Annotated[str | None, Meta(description="Uid of the saved object.")]
    frames: tuple[BurstFrame, ...]


@ENDPOINTS.add("POST", "/objects", status=201, responses={404: MISSING, 409: Refusal})
def register_object(state: AppState, body: NewObject) -> Registered:
    """Register what the camera sees, or uploaded pictures; returns when it is done."""
    name = None if body.name is None else valid_name(body.name)
    return _register(state, name, False, body.force, body.pictures)


@ENDPOINTS.add("POST", "/objects/{uid}/views", status=201, responses={404: MISSING, 409: Refusal})
def add_view(state: AppState, uid: Uid, body: NewView) -> Registered:
    """Register another view of an object, from the camera or from uploaded pictures."""
    state.actions.object(uid)
    return _register(state, uid, True, body.force, body.pictures)


def _register(
    state: AppState, name: str | None, view: bool, force: bool, uploads: tuple[str, ...]
) -> Registered:
    pictures = state.uploads.get(uploads)
    try:
        saved = state.actions.register(name, view, force, pictures, client=SilentClient(SOURCE))
    except Refused as error:
        raise ApiError(
            409, str(error), "Refused", reason=error.reason, collides=error.collides or None
        ) from error
    state.uploads.drop(uploads)
    return Registered(text=saved.text, object=state.describe_object(saved.object))


@ENDPOINTS.add("GET", "/burst", returns=Burst, responses={404: NO_BURST})
def burst(state: AppState) -> JsonObject:
    """The registration in progress, or the latest one."""
    return burst_data(_latest(state), pictures=True)


@ENDPOINTS.add("GET", "/burst/{burst}/frames/{number}", media_type="image/png", responses={404: NO_BURST})
def burst_picture(
    state: AppState,
    burst: Annotated[str, Meta(description="12 hexadecimal digits.", pattern="^[0-9a-f]{12}$")],
    number: Annotated[int, Meta(description="Number of the frame.", ge=0, le=2**53)],
) -> Response:
    """A frame of a registration."""
    latest = _latest(state)
    for frame in latest.frames if latest.id == burst else ():
        if frame.number == number:
            return png_response(encode_png(frame.crop))
    raise ApiError(404, "that frame is no longer kept", kind="NoBurst")


def _latest(state: AppState) -> RegistrationRecord:
    latest = state.actions.registrations.latest()
    if latest is None:
        raise ApiError(404, "nothing has been registered since the dashboard started", kind="NoBurst")
    return latest
