"""Operations on the objects that are registered: list, name, forget, merge, and their views and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from edge_siamese.dashboard.api_types import Failure, Known, Name, Number, OfObject, OfView, Time, Told, Uid
from edge_siamese.dashboard.exchange import Call, Problem, Reply
from edge_siamese.dashboard.operations import Answer, Operation
from edge_siamese.dashboard.schemas import About
from edge_siamese.dashboard.state import AppState, asked
from edge_siamese.errors import SupportError
from edge_siamese.store.names import checked_name


@dataclass(frozen=True)
class Objects:
    """All of them."""

    model_id: Annotated[str, About("Of the model that recognizes them.")]
    objects: tuple[Known, ...]


@dataclass(frozen=True)
class Renamed:
    """Another name."""

    name: Name


@dataclass(frozen=True)
class Into:
    """The object that stays."""

    into: Uid


@dataclass(frozen=True)
class View:
    """A view, or a negative: an example of what the object is not."""

    id: Number
    uid: str
    kind: Annotated[str, About("view or negative")]
    created: Time
    source: str
    crops: Annotated[int, About("How many pictures are kept of it.")]


@dataclass(frozen=True)
class Views:
    """Of one object."""

    views: tuple[View, ...]


@dataclass(frozen=True)
class OfPicture:
    """A picture of a view."""

    view: Number
    index: Annotated[int, About("From 0.", 0, 1000)]


def named(name: str) -> str:
    """A name as it is kept; raises `Problem` with 422 if it cannot be one."""
    try:
        return checked_name(name)
    except SupportError as error:
        raise Problem(422, str(error), "SupportError") from error


def objects(site: AppState, call: Call) -> Reply:
    """All of them."""
    model, found = asked(
        lambda: site.actions.with_engine(lambda engine: (engine.encoder.model_id, engine.store.objects()))
    )
    return Reply(value={"model_id": model, "objects": [site.object_data(known) for known in found]})


def one(site: AppState, call: Call) -> Reply:
    """One of them."""
    return Reply(value=site.object_data(asked(lambda: site.actions.object(call.path.uid), missing=True)))


def rename(site: AppState, call: Call) -> Reply:
    """Give it another name."""
    name = named(call.body.name)
    known = asked(lambda: site.actions.rename(call.path.uid, name), missing=True)
    return Reply(value=site.object_data(known))


def forget(site: AppState, call: Call) -> Reply:
    """Unlearn it."""
    known = asked(lambda: site.actions.forget(call.path.uid), missing=True)
    return Reply(value=site.object_data(known))


def merge(site: AppState, call: Call) -> Reply:
    """Make two one."""
    asked(lambda: site.actions.object(call.path.uid), missing=True)
    return Reply(value=site.object_data(asked(lambda: site.actions.merge(call.path.uid, call.body.into))))


def undo(site: AppState, call: Call) -> Reply:
    """Take the last change back."""
    return Reply(value={"text": asked(site.actions.undo)})


def views(site: AppState, call: Call) -> Reply:
    """Of one object."""
    found = asked(lambda: site.actions.views(call.path.uid), missing=True)
    return Reply(value={"views": [_view(view) for view in found]})


def _view(view: Any) -> dict[str, Any]:
    names = ("id", "uid", "kind", "created", "source", "crops")
    return {name: getattr(view, name) for name in names}


def remove_view(site: AppState, call: Call) -> Reply:
    """Take it away."""
    found = asked(lambda: site.actions.views(call.path.uid), missing=True)
    if call.path.view not in [view.id for view in found]:
        raise Problem(404, f"the object has no view {call.path.view}", kind="NoSuchObject")
    known = asked(lambda: site.actions.remove_view(call.path.uid, call.path.view))
    return Reply(value=site.object_data(known))


def picture(site: AppState, call: Call) -> Reply:
    """Of the newest view."""
    known = asked(lambda: site.actions.object(call.path.uid), missing=True)
    if known.last_view is None:
        raise Problem(404, f'there is no picture of "{known.name}"', kind="NoPicture")
    return _picture(site, known.last_view, 0)


def view_picture(site: AppState, call: Call) -> Reply:
    """Of any view."""
    return _picture(site, call.path.view, call.path.index)


def _picture(site: AppState, view: int, index: int) -> Reply:
    try:
        png = asked(lambda: site.actions.picture(view, index))
    except Problem as problem:
        if problem.kind == "NoSuchObject":
            raise Problem(404, problem.text, kind="NoPicture") from problem
        raise
    return Reply(data=png, type="image/png", headers={"Cache-Control": "private, max-age=3600"})


_NONE = Answer(404, "There is none.", Failure)
_CONFLICT = Answer(409, "It cannot be, as the error says.", Failure)
_PNG = Answer(200, "The picture.", type="image/png")
_OBJECT = Answer(200, "The object.", Known)

OPERATIONS = (
    Operation(
        "GET",
        "/objects",
        "objects",
        "objects",
        "All objects, in the order of their registration.",
        Answer(200, "All of them.", Objects),
        objects,
    ),
    Operation(
        "GET",
        "/objects/{uid}",
        "object",
        "objects",
        "One object.",
        _OBJECT,
        one,
        parameters=OfObject,
        others=(_NONE,),
    ),
    Operation(
        "PATCH",
        "/objects/{uid}",
        "renameObject",
        "objects",
        "Give an object another name.",
        _OBJECT,
        rename,
        parameters=OfObject,
        body="json",
        shape=Renamed,
        others=(_NONE, _CONFLICT),
    ),
    Operation(
        "DELETE",
        "/objects/{uid}",
        "forgetObject",
        "objects",
        "Forget an object; undo brings it back.",
        Answer(200, "The object, as it was.", Known),
        forget,
        parameters=OfObject,
        others=(_NONE, _CONFLICT),
    ),
    Operation(
        "POST",
        "/objects/{uid}/merge",
        "mergeObjects",
        "objects",
        "Give an object's views to another one, which keeps its name, and forget the first.",
        Answer(200, "The object that stays.", Known),
        merge,
        parameters=OfObject,
        body="json",
        shape=Into,
        others=(_NONE, _CONFLICT),
    ),
    Operation(
        "GET",
        "/objects/{uid}/picture",
        "objectPicture",
        "objects",
        "The picture of an object's newest view.",
        _PNG,
        picture,
        parameters=OfObject,
        others=(_NONE,),
    ),
    Operation(
        "GET",
        "/objects/{uid}/views",
        "views",
        "objects",
        "Views and negatives of an object.",
        Answer(200, "In their order.", Views),
        views,
        parameters=OfObject,
        others=(_NONE,),
    ),
    Operation(
        "DELETE",
        "/objects/{uid}/views/{view}",
        "removeView",
        "objects",
        "Take a view or a negative from an object; undo brings it back.",
        Answer(200, "The object without it.", Known),
        remove_view,
        parameters=OfView,
        others=(_NONE, _CONFLICT),
    ),
    Operation(
        "GET",
        "/views/{view}/pictures/{index}",
        "viewPicture",
        "objects",
        "A picture of a view.",
        _PNG,
        view_picture,
        parameters=OfPicture,
        others=(_NONE,),
    ),
    Operation(
        "POST",
        "/undo",
        "undo",
        "objects",
        "Take the last change back.",
        Answer(200, "Which one that was.", Told),
        undo,
        others=(_CONFLICT,),
    ),
)
