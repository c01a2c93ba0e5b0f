"""Handlers of an object and of stored pictures; commands change objects."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from edge_siamese.dashboard.endpoints import Endpoints
from edge_siamese.dashboard.schemas import ApiError, Object, ViewId
from edge_siamese.dashboard.state import AppState
from edge_siamese.errors import NoSuchObject

ENDPOINTS = Endpoints("objects")

NO_PICTURE = "There is no such picture."

ObjectName = Annotated[str, Meta(description="Uid or name of an object.", max_length=256)]


def png_response(png: bytes) -> Response:
    """Return a response with a picture that never changes."""
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


@ENDPOINTS.add("GET", "/objects/{name}", responses={404: "There is no such object."})
def object_(state: AppState, name: ObjectName) -> Object:
    """One object."""
    return state.describe_object(state.api.object(name))


@ENDPOINTS.add("GET", "/objects/{name}/picture", media_type="image/png", responses={404: NO_PICTURE})
def object_picture(state: AppState, name: ObjectName) -> Response:
    """The picture of an object's newest view."""
    stored = state.api.object(name)
    if stored.last_view is None:
        raise ApiError(404, f'there is no picture of "{stored.name}"', kind="NoPicture")
    return view_picture(state, stored.last_view, 0)


@ENDPOINTS.add("GET", "/views/{view}/pictures/{index}", media_type="image/png", responses={404: NO_PICTURE})
def view_picture(
    state: AppState, view: ViewId, index: Annotated[int, Meta(description="From 0.", ge=0, le=1000)]
) -> Response:
    """A picture of a view."""
    try:
        return png_response(state.api.picture(view, index))
    except NoSuchObject as error:
        raise ApiError(404, str(error), kind="NoPicture") from error
