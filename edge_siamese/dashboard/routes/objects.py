"""Handlers of registered objects, their views and pictures."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from edge_siamese.dashboard.endpoints import Endpoints
from edge_siamese.dashboard.schemas import ApiError, Message, Name, Object, Time, Uid, ViewId
from edge_siamese.dashboard.state import AppState
from edge_siamese.errors import NoSuchObject, SupportError
from edge_siamese.store.names import checked_name
from edge_siamese.validation import Record

ENDPOINTS = Endpoints("objects")

NO_OBJECT = "There is no such object."
NO_PICTURE = "There is no such picture."


class ObjectList(Record):
    """All registered objects."""

    model_id: Annotated[str, Meta(description="Id of the current model.")]
    objects: tuple[Object, ...]


class Rename(Record):
    """A new name."""

    name: Name


class Merge(Record):
    """The object that remains."""

    into: Uid


class View(Record):
    """A view, or a negative: an example of what the object is not."""

    id: ViewId
    uid: str
    kind: Annotated[str, Meta(description="view or negative")]
    created: Time
    source: str
    crops: Annotated[int, Meta(description="Number of pictures that are kept.")]


class ViewList(Record):
    """Views and negatives of an object."""

    views: tuple[View, ...]


def valid_name(name: str) -> str:
    """Return a normalized name; raises `ApiError` with 422 if it is not one."""
    try:
        return checked_name(name)
    except SupportError as error:
        raise ApiError(422, str(error), "SupportError") from error


def png_response(png: bytes) -> Response:
    """Return a response with a picture that never changes."""
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


@ENDPOINTS.add("GET", "/objects")
def objects(state: AppState) -> ObjectList:
    """All objects, in the order of their registration."""
    model_id, stored = state.actions.with_engine(
        lambda engine: (engine.encoder.model_id, engine.store.objects())
    )
    return ObjectList(model_id=model_id, objects=tuple(map(state.describe_object, stored)))


@ENDPOINTS.add("GET", "/objects/{uid}", responses={404: NO_OBJECT})
def object_(state: AppState, uid: Uid) -> Object:
    """One object."""
    return state.describe_object(state.actions.object(uid))


@ENDPOINTS.add("PATCH", "/objects/{uid}", responses={404: NO_OBJECT, 409: "The name is taken."})
def rename_object(state: AppState, uid: Uid, body: Rename) -> Object:
    """Rename an object."""
    return state.describe_object(state.actions.rename(uid, valid_name(body.name)).object)


@ENDPOINTS.add("DELETE", "/objects/{uid}", responses={404: NO_OBJECT})
def forget_object(state: AppState, uid: Uid) -> Object:
    """Forget an object; undo restores it."""
    return state.describe_object(state.actions.forget(uid).object)


@ENDPOINTS.add(
    "POST", "/objects/{uid}/merge", responses={404: NO_OBJECT, 409: "The objects cannot be merged."}
)
def merge_objects(state: AppState, uid: Uid, body: Merge) -> Object:
    """Move an object's views to another one, which keeps its name, and forget the first."""
    state.actions.object(uid)  # a missing one is 404; a missing target is 409
    try:
        return state.describe_object(state.actions.merge(uid, body.into).object)
    except NoSuchObject as error:
        raise ApiError(409, str(error), "NoSuchObject") from error


@ENDPOINTS.add("GET", "/objects/{uid}/picture", media_type="image/png", responses={404: NO_PICTURE})
def object_picture(state: AppState, uid: Uid) -> Response:
    """The picture of an object's newest view."""
    stored = state.actions.object(uid)
    if stored.last_view is None:
        raise ApiError(404, f'there is no picture of "{stored.name}"', kind="NoPicture")
    return view_picture(state, stored.last_view, 0)


@ENDPOINTS.add("GET", "/objects/{uid}/views", responses={404: NO_OBJECT})
def views(state: AppState, uid: Uid) -> ViewList:
    """Views and negatives of an object, oldest first."""
    fields = View.__struct_fields__
    found = [View(**{name: getattr(view, name) for name in fields}) for view in state.actions.views(uid)]
    return ViewList(views=tuple(found))


@ENDPOINTS.add(
    "DELETE", "/objects/{uid}/views/{view}", responses={404: NO_OBJECT, 409: "It is the last view."}
)
def remove_view(state: AppState, uid: Uid, view: ViewId) -> Object:
    """Remove a view or a negative from an object; undo restores it."""
    if view not in [found.id for found in state.actions.views(uid)]:
        raise ApiError(404, f"the object has no view {view}", kind="NoSuchObject")
    return state.describe_object(state.actions.remove_view(uid, view).object)


@ENDPOINTS.add("GET", "/views/{view}/pictures/{index}", media_type="image/png", responses={404: NO_PICTURE})
def view_picture(
    state: AppState, view: ViewId, index: Annotated[int, Meta(description="From 0.", ge=0, le=1000)]
) -> Response:
    """A picture of a view."""
    try:
        return png_response(state.actions.picture(view, index))
    except NoSuchObject as error:
        raise ApiError(404, str(error), kind="NoPicture") from error


@ENDPOINTS.add("POST", "/undo", responses={409: "There is nothing to undo."})
def undo(state: AppState) -> Message:
    """Undo the last change."""
    return Message(text=state.actions.undo().text)
