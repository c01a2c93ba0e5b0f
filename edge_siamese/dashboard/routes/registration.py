"""Operations that learn: a new object or a view, from the camera or from pictures, and the burst as it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from edge_siamese.daemon.registration_progress import BurstRecord
from edge_siamese.daemon.registration_session import RegistrationRequest
from edge_siamese.dashboard.api_types import Failure, Known, Name, OfObject, Uploads
from edge_siamese.dashboard.event_stream import burst_data
from edge_siamese.dashboard.exchange import Call, Problem, Reply
from edge_siamese.dashboard.operations import Answer, Operation
from edge_siamese.dashboard.routes.objects import named
from edge_siamese.dashboard.schemas import About
from edge_siamese.dashboard.state import AppState, asked
from edge_siamese.pictures import encode_png

SOURCE = "page"
"""Where the wish came from, as events tell it."""


@dataclass(frozen=True)
class NewObject:
    """What is to be learned."""

    name: Annotated[Name | None, About("Of the object; null: one that counts up.")] = None
    force: Annotated[bool, About("Also if it looks like another object.")] = False
    pictures: Uploads = ()


@dataclass(frozen=True)
class NewView:
    """A view that is to be learned."""

    force: Annotated[bool, About("Also if it looks like another object.")] = False
    pictures: Uploads = ()


@dataclass(frozen=True)
class Saved:
    """What was learned."""

    text: str
    object: Known


@dataclass(frozen=True)
class Refusal:
    """Why nothing was learned."""

    error: str
    kind: str
    reason: Annotated[str, About("Of a refusal, such as blurred, collision, failed, ended.")] = ""
    collides: Annotated[str | None, About("The object that it looks like.")] = None


@dataclass(frozen=True)
class Shot:
    """A frame of a burst."""

    number: int
    good: bool
    text: Annotated[str, About("Why it is not good, and what to do.")]
    picture: Annotated[str, About("The address of a small picture of it.")]


@dataclass(frozen=True)
class Burst:
    """A registration, up to now or to its end."""

    id: str
    name: str | None
    target: Annotated[str | None, About("The uid of the object that gets a view; null: a new object.")]
    source: str
    wanted: Annotated[int, About("Good frames that it needs.")]
    done: bool
    saved: bool
    text: str
    uid: Annotated[str | None, About("Of the object that was saved.")]
    frames: tuple[Shot, ...]


@dataclass(frozen=True)
class OfShot:
    """A frame of a burst."""

    burst: Annotated[str, About("12 hexadecimal digits.", pattern="^[0-9a-f]{12}$", longest=12)]
    number: Annotated[int, About("The frame's.", 0, 2**53)]


def register(site: AppState, call: Call) -> Reply:
    """Learn an object."""
    body: NewObject = call.body
    name = None if body.name is None else named(body.name)
    return _learn(site, RegistrationRequest(name, None, body.force, SOURCE), body.pictures)


def add_view(site: AppState, call: Call) -> Reply:
    """Learn a view."""
    known = asked(lambda: site.actions.object(call.path.uid), missing=True)
    return _learn(site, RegistrationRequest(None, known.uid, call.body.force, SOURCE), call.body.pictures)


def _learn(site: AppState, wish: RegistrationRequest, uploads: tuple[str, ...]) -> Reply:
    pictures = site.uploads.get(uploads)
    learned = asked(lambda: site.actions.register(wish, pictures))
    if not learned.saved or learned.object is None:
        raise Problem(409, learned.text, "Refused", reason=learned.reason, collides=learned.collides or None)
    site.uploads.drop(uploads)
    return Reply(201, {"text": learned.text, "object": site.object_data(learned.object)})


def burst(site: AppState, call: Call) -> Reply:
    """The latest."""
    return Reply(value=burst_data(_latest(site), pictures=True))


def burst_picture(site: AppState, call: Call) -> Reply:
    """One of its frames."""
    record = _latest(site)
    for frame in record.frames if record.id == call.path.burst else ():
        if frame.number == call.path.number:
            headers = {"Cache-Control": "private, max-age=3600"}
            return Reply(data=encode_png(frame.crop), type="image/png", headers=headers)
    raise Problem(404, "there is no such frame any more", kind="NoBurst")


def _latest(site: AppState) -> BurstRecord:
    record = site.actions.bursts.latest()
    if record is None:
        raise Problem(404, "nothing was registered since the dashboard is there", kind="NoBurst")
    return record


_REFUSED: Any = Answer(409, "Refused, for a reason; or it cannot be now.", Refusal)
_SAVED = Answer(201, "Saved.", Saved)
_NONE = Answer(404, "There is none, or a picture is not kept any more.", Failure)

OPERATIONS = (
    Operation(
        "POST",
        "/objects",
        "registerObject",
        "registration",
        "Learn what is before the camera, or in pictures; waits for the end.",
        _SAVED,
        register,
        body="json",
        shape=NewObject,
        others=(_NONE, _REFUSED),
    ),
    Operation(
        "POST",
        "/objects/{uid}/views",
        "addView",
        "registration",
        "Learn another view of an object, from the camera or from pictures.",
        _SAVED,
        add_view,
        parameters=OfObject,
        body="json",
        shape=NewView,
        others=(_NONE, _REFUSED),
    ),
    Operation(
        "GET",
        "/burst",
        "burst",
        "registration",
        "The registration that is under way, or was last.",
        Answer(200, "As far as it is.", Burst),
        burst,
        others=(_NONE,),
    ),
    Operation(
        "GET",
        "/burst/{burst}/frames/{number}",
        "burstPicture",
        "registration",
        "A frame of a registration.",
        Answer(200, "A small picture.", type="image/png"),
        burst_picture,
        parameters=OfShot,
        others=(_NONE,),
    ),
)
