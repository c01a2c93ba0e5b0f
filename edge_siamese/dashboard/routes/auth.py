"""Handlers that log in and out."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from edge_siamese import __version__
from edge_siamese.dashboard.auth import Identity, client_address
from edge_siamese.dashboard.credentials import MAX_PASSWORD_LENGTH
from edge_siamese.dashboard.endpoints import ApiResponse, Endpoints
from edge_siamese.dashboard.state import AppState
from edge_siamese.validation import Record

ENDPOINTS = Endpoints("session")


class SessionInfo(Record):
    """The session of a request."""

    authenticated: bool
    login: Annotated[bool, Meta(description="Whether a login is required.")]
    csrf: Annotated[str | None, Meta(description="Value of the header X-CSRF-Token that changes require.")]
    device: Annotated[str, Meta(description="Name of this device.")]
    version: str


class Login(Record):
    """A password."""

    password: Annotated[str, Meta(min_length=1, max_length=MAX_PASSWORD_LENGTH)]


def session_info(state: AppState, *, authenticated: bool, csrf: str) -> SessionInfo:
    """Describe a session. Unauthenticated clients do not learn the version."""
    return SessionInfo(
        authenticated=authenticated,
        login=state.authenticator.login_required(),
        csrf=csrf or None,
        device=state.device,
        version=__version__ if authenticated else "",
    )


@ENDPOINTS.add("GET", "/session", public=True, responses={401: "Unknown token."})
def session(state: AppState, request: Request) -> SessionInfo:
    """Whether a login is required, and the CSRF token for changes."""
    identity = state.authenticator.identify(request)
    return session_info(state, authenticated=identity.authenticated, csrf=identity.csrf)


@ENDPOINTS.add(
    "POST",
    "/login",
    public=True,
    returns=SessionInfo,
    headers={"Set-Cookie": "The session."},
    responses={401: "Wrong password.", 409: "No password is set.", 429: "Too many attempts."},
)
def login(state: AppState, request: Request, body: Login) -> Response:
    """Log in with the password; the session is a cookie."""
    session_id, opened = state.authenticator.log_in(body.password, client_address(request))
    info = session_info(state, authenticated=True, csrf=opened.csrf)
    return ApiResponse(info, headers={"Set-Cookie": state.authenticator.cookie(session_id, request)})


@ENDPOINTS.add("POST", "/logout", status=204)
def logout(state: AppState, request: Request, identity: Identity) -> Response:
    """End the session."""
    state.authenticator.log_out(identity)
    return Response(status_code=204, headers={"Set-Cookie": state.authenticator.cookie("", request)})
