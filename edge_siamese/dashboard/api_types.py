"""The words of the interface that several operations use: ids, names, objects, recognitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from edge_siamese.dashboard.schemas import About

Uid = Annotated[
    str, About("Of an object: 32 hexadecimal digits.", pattern="^[0-9a-f]{32}$", longest=32, example="0" * 32)
]
Name = Annotated[
    str,
    About(
        "What people call an object: 1 to 80 characters, without control characters.", shortest=1, longest=80
    ),
]
MomentId = Annotated[str, About("Of a moment: 12 hexadecimal digits.", pattern="^[0-9a-f]{12}$", longest=12)]
UploadId = Annotated[
    str, About("Of a picture that was sent: 32 hexadecimal digits.", pattern="^[0-9a-f]{32}$", longest=32)
]
Uploads = Annotated[tuple[UploadId, ...], About("Pictures to learn from, instead of the camera.", longest=12)]
Time = Annotated[str, About("UTC, ISO 8601.")]
Number = Annotated[int, About("A number that the store gave.", 1, 2**53)]


@dataclass(frozen=True)
class Failure:
    """Why something was not done."""

    error: Annotated[str, About("One line for people.")]
    kind: Annotated[str, About("For programs.")]


@dataclass(frozen=True)
class Told:
    """How it went."""

    text: Annotated[str, About("One line for people.")]


@dataclass(frozen=True)
class Known:
    """An object."""

    uid: Uid
    name: str
    created: Time
    views: int
    negatives: int
    embedded: Annotated[int, About("How many of its views the model knows; 0: it cannot be recognized.")]
    last_view: Annotated[int | None, About("The number of its newest view.")]
    last_seen: Annotated[str | None, About("When it was there last: UTC, ISO 8601; null: not known.")]
    present: Annotated[bool, About("Whether it is there now.")]


@dataclass(frozen=True)
class Recognized:
    """What a picture shows, and why."""

    name: Annotated[str | None, About("The object; null: none that is known.")]
    uid: str | None
    probability: Annotated[float, About("Of the nearest object's nearest view being the same thing.")]
    threshold: Annotated[float, About("From which on the nearest object is recognized.")]
    general_threshold: float
    rule: Annotated[str, About("What decided.")]
    nearest: Annotated[str | None, About("The most probable object, recognized or not.")]
    nearest_uid: str | None
    runner_up: str | None
    margin: Annotated[float, About("How far the runner-up's probability is below.")]
    view: Annotated[int | None, About("The number of the nearest view.")]
    set_aside: Annotated[tuple[str, ...], About("Objects that a negative speaks against; the nearest first.")]
    view_place: Annotated[
        int | None, About("The place of the nearest view among those of its object, from 1.")
    ]
    view_count: Annotated[int, About("How many views that object has.")]
    text: Annotated[str, About("One line for people.")]
    explanation: Annotated[tuple[str, ...], About("How it was decided, in sentences.")]


@dataclass(frozen=True)
class OfObject:
    """An object."""

    uid: Uid


@dataclass(frozen=True)
class OfView:
    """A view of an object."""

    uid: Uid
    view: Number


Values = dict[str, Any]
"""JSON values that are described in words."""
