"""Operations on what is seen now, and on pictures: the live picture, the decision, the button, the score."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from edge_siamese.dashboard.api_types import (
    Failure,
    Known,
    MomentId,
    Name,
    Recognized,
    Time,
    UploadId,
    Values,
)
from edge_siamese.dashboard.exchange import Call, Problem, Reply
from edge_siamese.dashboard.live_picture import full
from edge_siamese.dashboard.operations import Answer, Operation
from edge_siamese.dashboard.schemas import About
from edge_siamese.dashboard.state import AppState, asked
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.pictures import encode_png


@dataclass(frozen=True)
class After:
    """What is known already."""

    after: Annotated[int, About("The number of the frame that is known already.", -1, 2**53)] = -1


@dataclass(frozen=True)
class Pressed:
    """What a hand does."""

    gesture: Literal["press", "double press", "hold"]


@dataclass(frozen=True)
class Scored:
    """A picture."""

    upload: UploadId


@dataclass(frozen=True)
class Mistake:
    """What was not that."""

    moment: Annotated[MomentId | None, About("Of the event; null: what was recognized last.")] = None
    name: Annotated[Name | None, About("Only if it was this object: its uid or name.")] = None


@dataclass(frozen=True)
class OfMoment:
    """A moment that an event told of."""

    moment: MomentId


@dataclass(frozen=True)
class Remembered(Recognized):
    """A decision that an event told of."""

    id: MomentId
    time: Time


@dataclass(frozen=True)
class Sent:
    """A picture that is kept for a while."""

    upload: UploadId
    width: int
    height: Annotated[int, About("Of the picture as it is kept, in pixels.")]


async def live(site: AppState, call: Call) -> Reply:
    """The picture."""
    loop = asyncio.get_running_loop()
    found = await site.live.after(
        call.query.after,
        lambda function, *args: loop.run_in_executor(site.painter, function, *args),
        site.guard.still(call.head),
    )
    if found is None:
        return Reply(204)
    headers = {"X-Frame": str(found.number), "X-Now": found.now}
    return Reply(data=found.jpeg, type="image/jpeg", headers=headers)


def now(site: AppState, call: Call) -> Reply:
    """The decision."""
    return Reply(value=full(site.actions.shown(), site.actions.now))


def button(site: AppState, call: Call) -> Reply:
    """The button."""
    asked(lambda: site.actions.gesture(Gesture(call.body.gesture)))
    return Reply(202, {"text": f"{call.body.gesture}: done; events tell what came of it"})


def score(site: AppState, call: Call) -> Reply:
    """What a picture shows."""
    (pixels,) = site.uploads.get([call.body.upload])
    found = asked(lambda: site.actions.recognize(pixels))
    return Reply(value=found.described())


def upload(site: AppState, call: Call) -> Reply:
    """Take a picture."""
    made = asked(lambda: site.uploads.add(call.body))
    height, width = made.pixels.shape[:2]
    return Reply(201, {"upload": made.id, "width": width, "height": height})


def wrong(site: AppState, call: Call) -> Reply:
    """Keep a negative."""
    known = asked(lambda: site.actions.wrong(call.body.name, call.body.moment))
    return Reply(value=site.object_data(known))


def moment(site: AppState, call: Call) -> Reply:
    """A decision of before."""
    kept = _moment(site, call)
    return Reply(
        value={
            **kept.recognition.described(),
            "id": kept.id,
            "time": kept.time,
            "uid": kept.uid,
            "name": kept.name,
        }
    )


def moment_picture(site: AppState, call: Call) -> Reply:
    """What it saw."""
    return Reply(data=encode_png(_moment(site, call).crop), type="image/png")


def _moment(site: AppState, call: Call) -> Any:
    kept = site.actions.moments.get(call.path.moment)
    if kept is None:
        raise Problem(404, "that moment is not kept any more", kind="NoMoment")
    return kept


_GONE = Answer(404, "It is not kept any more.", Failure)
_NOT_NOW = Answer(409, "Nothing of the kind was recognized lately.", Failure)

OPERATIONS = (
    Operation(
        "GET",
        "/live",
        "live",
        "recognition",
        "The picture of now, once it is another one than the last; waits for it at most 10 s.",
        Answer(
            200,
            "The picture.",
            type="image/jpeg",
            headers={"X-Frame": "The frame's number.", "X-Now": "What was made of it: JSON in ASCII."},
        ),
        waiter=live,
        query=After,
        others=(Answer(204, "There is nothing new."),),
    ),
    Operation(
        "GET",
        "/now",
        "now",
        "recognition",
        "What the frame of now shows, and why.",
        Answer(200, "The decision.", Values),
        now,
    ),
    Operation(
        "POST",
        "/button",
        "button",
        "recognition",
        "Do what the button does.",
        Answer(202, "Done; events tell what came of it.", Values),
        button,
        body="json",
        shape=Pressed,
    ),
    Operation(
        "POST",
        "/uploads",
        "upload",
        "recognition",
        "Send a picture; it is kept for ten minutes.",
        Answer(201, "It is kept.", Sent),
        upload,
        body="picture",
    ),
    Operation(
        "POST",
        "/score",
        "score",
        "recognition",
        "What a picture shows that was sent.",
        Answer(200, "The decision.", Recognized),
        score,
        body="json",
        shape=Scored,
        others=(_GONE,),
    ),
    Operation(
        "POST",
        "/wrong",
        "wrong",
        "recognition",
        "That was something else: keep it as a negative.",
        Answer(200, "The object, with one more negative.", Known),
        wrong,
        body="json",
        shape=Mistake,
        others=(_NOT_NOW,),
    ),
    Operation(
        "GET",
        "/moments/{moment}",
        "moment",
        "recognition",
        "A decision that an event told of.",
        Answer(200, "The decision.", Remembered),
        moment,
        parameters=OfMoment,
        others=(_GONE,),
    ),
    Operation(
        "GET",
        "/moments/{moment}/picture",
        "momentPicture",
        "recognition",
        "What the camera saw then.",
        Answer(200, "The picture.", type="image/png"),
        moment_picture,
        parameters=OfMoment,
        others=(_GONE,),
    ),
)
