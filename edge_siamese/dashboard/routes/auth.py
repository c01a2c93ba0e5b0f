"""Operations to come in and to leave, and the description of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from edge_siamese import __version__
from edge_siamese.dashboard.api_types import Failure, Values
from edge_siamese.dashboard.credentials import LONGEST
from edge_siamese.dashboard.exchange import Call, Reply
from edge_siamese.dashboard.operations import Answer, Operation
from edge_siamese.dashboard.schemas import About
from edge_siamese.dashboard.state import AppState


@dataclass(frozen=True)
class Door:
    """Who asks, and whether that is enough."""

    authenticated: bool
    login: Annotated[bool, About("Whether a login is needed here.")]
    csrf: Annotated[str | None, About("For the header X-CSRF-Token of what changes something.")]
    device: Annotated[str, About("What people call this machine.")]
    version: str


@dataclass(frozen=True)
class Login:
    """What a person types."""

    password: Annotated[str, About("The password.", shortest=1, longest=LONGEST)]


def door(site: AppState, *, inside: bool, csrf: str) -> dict[str, Any]:
    """A `Door`, as JSON values. A stranger is not told which release it is."""
    return {
        "authenticated": inside,
        "login": site.guard.login_needed(),
        "csrf": csrf or None,
        "device": site.device,
        "version": __version__ if inside else "",
    }


def session(site: AppState, call: Call) -> Reply:
    """Who asks."""
    entry = site.guard.entry(call.head)
    return Reply(value=door(site, inside=entry.inside, csrf=entry.csrf))


def login(site: AppState, call: Call) -> Reply:
    """Come in."""
    number, opened = site.guard.log_in(call.body.password, call.head.address)
    return Reply(
        value=door(site, inside=True, csrf=opened.csrf), headers={"Set-Cookie": site.guard.cookie(number)}
    )


def logout(site: AppState, call: Call) -> Reply:
    """Leave."""
    site.guard.log_out(call.entry)
    return Reply(204, headers={"Set-Cookie": site.guard.cookie("")})


def description(site: AppState, call: Call) -> Reply:
    """All operations."""
    return Reply(data=site.description)


OPERATIONS = (
    Operation(
        "GET",
        "/session",
        "session",
        "session",
        "Whether a login is needed, and the token for changes.",
        Answer(200, "Who asks.", Door),
        session,
        public=True,
        others=(Answer(401, "A token that is not known.", Failure),),
    ),
    Operation(
        "POST",
        "/login",
        "login",
        "session",
        "Log in with the password; a cookie is the session.",
        Answer(200, "Logged in.", Door, headers={"Set-Cookie": "The session."}),
        login,
        body="json",
        shape=Login,
        public=True,
        others=(
            Answer(401, "Another password.", Failure),
            Answer(409, "There is no password.", Failure),
            Answer(429, "Too many tries.", Failure, headers={"Retry-After": "Seconds to wait."}),
        ),
    ),
    Operation(
        "POST",
        "/logout",
        "logout",
        "session",
        "End the session.",
        Answer(204, "Logged out."),
        logout,
    ),
    Operation(
        "GET",
        "/openapi.json",
        "openapi",
        "session",
        "This description.",
        Answer(200, "OpenAPI 3.1.", Values),
        description,
        public=True,
    ),
)
