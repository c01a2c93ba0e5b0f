"""The table of operations: from it come the routes and their description, so that the two cannot differ."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from edge_siamese.dashboard.exchange import Call, Reply

if TYPE_CHECKING:
    from edge_siamese.dashboard.state import AppState

PREFIX = "/api/v1"
SMALL_BODY = 64 * 1024
"""Bytes of JSON, at most."""
PICTURE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif")

Handler = Callable[["AppState", Call], Reply]
Waiter = Callable[["AppState", Call], Awaitable[Reply]]
Body = Literal["none", "json", "picture", "collection"]


@dataclass(frozen=True)
class Answer:
    """One of the answers of an operation."""

    status: int
    text: str
    """What it means."""
    shape: Any = None
    """An annotation; None for no JSON."""
    type: str = ""
    """Of a body that is not JSON."""
    headers: dict[str, str] = field(default_factory=dict)
    """What those mean."""


@dataclass(frozen=True)
class Operation:
    """One thing that can be asked for."""

    method: str
    path: str
    """Below the prefix, with `{name}` for parameters."""
    name: str
    """Its `operationId`."""
    topic: str
    """Under which it is described."""
    summary: str
    """One line."""
    answer: Answer
    """Where all goes well."""
    handler: Handler | None = None
    """Called on a thread of the pool; where no login is needed, on the one for strangers."""
    waiter: Waiter | None = None
    """Awaited in the loop instead: for what waits long."""
    parameters: type | None = None
    """A dataclass of those in the path."""
    query: type | None = None
    """A dataclass of those behind the question mark."""
    body: Body = "none"
    shape: type | None = None
    """A dataclass of the body, if it is JSON."""
    public: bool = False
    """Whether it needs no login."""
    others: tuple[Answer, ...] = ()
    """Answers besides those that all operations of its kind have."""

    @property
    def full_path(self) -> str:
        """With the prefix."""
        return PREFIX + self.path


def table() -> tuple[Operation, ...]:
    """All of them."""
    from edge_siamese.dashboard.routes import (
        archive,
        auth,
        events,
        health,
        objects,
        recognition,
        registration,
    )

    modules = (auth, recognition, events, objects, registration, archive, health)
    return tuple(operation for module in modules for operation in module.OPERATIONS)
