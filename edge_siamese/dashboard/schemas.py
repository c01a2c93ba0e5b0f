"""Types of the API that several endpoints share: JSON objects as `Record`s, and errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from edge_siamese.errors import (
    ControlError,
    EdgeSiameseError,
    ImageError,
    NoSuchObject,
    NotReady,
    Refused,
    StoreError,
    SupportError,
)
from edge_siamese.validation import Record

Uid = Annotated[
    str,
    Meta(
        description="Id of an object: 32 hexadecimal digits.", pattern="^[0-9a-f]{32}$", examples=["0" * 32]
    ),
]
Name = Annotated[
    str,
    Meta(
        description="Name of an object: 1 to 80 characters, no control characters.",
        min_length=1,
        max_length=80,
    ),
]
DecisionId = Annotated[
    str, Meta(description="Id of a past decision: 12 hexadecimal digits.", pattern="^[0-9a-f]{12}$")
]
UploadId = Annotated[
    str, Meta(description="Id of an uploaded picture: 32 hexadecimal digits.", pattern="^[0-9a-f]{32}$")
]
UploadIds = Annotated[
    tuple[UploadId, ...],
    Meta(description="Uploaded pictures to register from instead of the camera.", max_length=12),
]
ViewId = Annotated[int, Meta(description="Id of a view or a negative.", ge=1, le=2**53)]
Time = Annotated[str, Meta(description="UTC, ISO 8601.")]
JsonObject = dict[str, Any]


class Failure(Record):
    """Why a request failed."""

    error: Annotated[str, Meta(description="Human-readable line.")]
    kind: Annotated[str, Meta(description="Machine-readable kind of the error.")]


class Message(Record):
    """The outcome of a request."""

    text: Annotated[str, Meta(description="Human-readable line.")]


class Object(Record):
    """A registered object."""

    uid: Uid
    name: str
    created: Time
    views: int
    negatives: int
    embedded: Annotated[
        int,
        Meta(description="Views with an embedding of the current model; 0: the object cannot be recognized."),
    ]
    last_view: Annotated[int | None, Meta(description="Id of the newest view.")]
    last_seen: Annotated[str | None, Meta(description="When it was last present: UTC, ISO 8601.")]
    present: Annotated[bool, Meta(description="Whether it is present now.")]


class Decision(Record):
    """The decision about a picture, with its explanation."""

    name: Annotated[str | None, Meta(description="The recognized object; null: none.")]
    uid: str | None
    probability: Annotated[
        float, Meta(description="That the picture and the nearest view show the same object.")
    ]
    threshold: Annotated[
        float, Meta(description="Minimum probability at which the nearest object is recognized.")
    ]
    general_threshold: float
    rule: Annotated[str, Meta(description="The rule that decided.")]
    nearest: Annotated[str | None, Meta(description="The most probable object, recognized or not.")]
    nearest_uid: str | None
    runner_up: str | None
    runner_up_uid: str | None
    margin: Annotated[float, Meta(description="Difference from the probability of the runner-up.")]
    view: Annotated[int | None, Meta(description="Id of the nearest view.")]
    rejected: Annotated[
        tuple[str, ...], Meta(description="Objects that a negative rejects, the nearest first.")
    ]
    view_place: Annotated[
        int | None, Meta(description="Position of the nearest view among its object's views, from 1.")
    ]
    view_count: Annotated[int, Meta(description="Number of that object's views.")]
    by_surroundings: Annotated[
        bool, Meta(description="Whether other things the camera sees make the threshold stricter.")
    ]
    text: Annotated[str, Meta(description="Human-readable line.")]
    explanation: Annotated[tuple[str, ...], Meta(description="How it was decided, in sentences.")]


KINDS = {
    400: "BadRequest",
    401: "NotLoggedIn",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    408: "TooSlow",
    409: "Conflict",
    413: "TooLarge",
    415: "UnsupportedType",
    422: "Invalid",
    429: "TooMany",
    500: "InternalError",
    503: "Unavailable",
}
"""The `kind` of errors that have no name of their own."""
STATUSES: tuple[tuple[type[EdgeSiameseError], int], ...] = (
    (Refused, 409),
    (NotReady, 503),
    (ControlError, 409),
    (NoSuchObject, 404),
    (SupportError, 409),
    (ImageError, 422),
    (StoreError, 503),
)
"""The first match applies: subclasses come before their bases."""


class ApiError(EdgeSiameseError):
    """An error that is sent to the client as JSON."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        **details: Any,
    ) -> None:
        """Describe the error.

        Args:
            status: HTTP status.
            message: human-readable line.
            kind: name of the error for programs; empty: derived from the status.
            headers: headers of the response.
            details: more keys of the JSON body.
        """
        super().__init__(message)
        self.status, self.kind, self.details = status, kind or KINDS.get(status, "Error"), details
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body."""
        return {"error": str(self), "kind": self.kind, **self.details}


def api_error(error: EdgeSiameseError) -> ApiError:
    """Return the `ApiError` for an error that the daemon raised."""
    if isinstance(error, ApiError):
        return error
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    headers = {"Retry-After": "2"} if status == 503 else {}
    details: dict[str, Any] = {}
    if isinstance(error, Refused):
        details = {"reason": error.reason, "collides": error.collides or None}
    return ApiError(status, str(error), type(error).__name__, headers=headers, **details)


def to_json(value: Any) -> bytes:
    """Encode as JSON. Lone surrogates, which file names may contain, become question marks."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        text = json.dumps(msgspec.to_builtins(value), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")
