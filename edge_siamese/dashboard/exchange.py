"""What handlers are asked and what they answer, whatever web framework is around them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from edge_siamese.errors import EdgeSiameseError

JSON = "application/json"


class Problem(EdgeSiameseError):
    """An answer that says why something is not done."""

    def __init__(
        self, status: int, text: str, kind: str = "", *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        """Say so.

        Args:
            status: of HTTP.
            text: one line for people.
            kind: for programs, such as the name of an error; empty: made of the status.
            headers: of the answer.
            more: what programs need besides, as JSON values.
        """
        super().__init__(text)
        self.status, self.text, self.more = status, text, more
        self.kind = kind or KINDS.get(status, "Problem")
        self.headers = dict(headers or {})

    def reply(self) -> Reply:
        """As it is sent."""
        return Reply(self.status, {"error": self.text, "kind": self.kind, **self.more}, headers=self.headers)


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
    503: "NotNow",
}
"""What programs read of an error that has no name of its own."""


@dataclass(frozen=True)
class Head:
    """A request without its body: all that is looked at before anything is read."""

    method: str
    path: str
    headers: Mapping[str, str]
    """By their names in lower case; of those that stand there twice, both, separated by a comma."""
    address: str = ""
    """Of the client."""
    secure: bool = False
    """Whether it came over TLS."""
    arrived: str = ""
    """The address of this machine at which it came; empty if that is not known."""

    def header(self, name: str) -> str:
        """One of them; empty if it is not there."""
        return self.headers.get(name, "")

    def cookie(self, name: str) -> str:
        """The value of a cookie; empty if it is not there."""
        for part in self.header("cookie").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                return value
        return ""


@dataclass(frozen=True)
class Call:
    """One call of an operation, with everything read and checked."""

    head: Head
    path: Any = None
    """An object of the operation's dataclass for parameters in the path; None if it has none."""
    query: Any = None
    """The same for those behind the question mark."""
    body: Any = None
    """The same for JSON; bytes of a picture; the path of a file with a collection."""
    entry: Any = None
    """A `guard.Entry`: who asks."""


class Streamed(Protocol):
    """A body that comes bit by bit."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None:
        """Nobody takes any more of it."""


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int = 200
    value: Any = None
    """JSON values, if it is neither of those below; None: no body at all."""
    data: bytes | None = None
    """A body as it is."""
    stream: Streamed | None = None
    """A body that comes bit by bit."""
    file: Path | None = None
    """A body that is in a file, which is removed afterward."""
    ended: Callable[[], object] = lambda: None
    """Called once the file is removed."""
    type: str = JSON
    """Of the body."""
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """What is sent at once."""
        if self.data is not None:
            return self.data
        return b"" if self.value is None else to_json(self.value)


def to_json(value: Any) -> bytes:
    """JSON in UTF-8. Half characters, which no store takes but a file name may have, become question marks."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
        "utf-8", "replace"
    )
