"""Authentication, Origin and Host checks for HTTP requests."""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from starlette.requests import Request

from edge_siamese.dashboard.credentials import MAX_PASSWORD_LENGTH, Credentials, CredentialsFile
from edge_siamese.dashboard.limits import LoginAttempts
from edge_siamese.dashboard.schemas import ApiError
from edge_siamese.errors import SettingsError
from edge_siamese.settings import DashboardSettings
from edge_siamese.system.network import (
    PublicUrl,
    host_name,
    is_loopback,
    local_name,
    parse_address,
    parse_host,
)

SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))
"""Methods that change nothing, and so need no CSRF token."""
CSRF_HEADER = "x-csrf-token"
SET_PASSWORD = "sudo edge-siamese dashboard password"

SESSION_IDLE_SECONDS = 12 * 3600.0
"""A session ends when it is unused for this long."""
MAX_SESSION_SECONDS = 7 * 24 * 3600.0
MAX_SESSIONS = 100
"""A login beyond this ends the least recently used session."""
MAX_HASHING_WAIT_SECONDS = 5.0
"""Maximum time that a login waits for the scrypt of another one."""


@dataclass(frozen=True)
class Identity:
    """The sender of a request."""

    kind: Literal["nobody", "open", "session", "token"]
    """`open`: no login is required. `nobody`: a login is required, and missing."""
    csrf: str = ""
    """The CSRF token that changes must send; empty for API tokens."""
    session_id: str = ""
    token_name: str = ""

    @property
    def authenticated(self) -> bool:
        """Whether it may use endpoints that require a login."""
        return self.kind != "nobody"


NOBODY = Identity("nobody")


@dataclass
class Session:
    """A browser that has logged in."""

    csrf: str
    fingerprint: str
    """Fingerprint of the credentials it was opened with."""
    opened_at: float
    used_at: float


class Sessions:
    """Login sessions by the hashes of their ids, in memory only. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without sessions. `clock` returns seconds."""
        self._clock = clock
        self._open: OrderedDict[bytes, Session] = OrderedDict()
        self._lock = threading.Lock()

    def open(self, fingerprint: str) -> tuple[str, Session]:
        """Open a session. Return its id, which is stored only in the cookie, and the session."""
        session_id, now = secrets.token_urlsafe(32), self._clock()
        session = Session(secrets.token_urlsafe(32), fingerprint, now, now)
        with self._lock:
            self._open[_hash(session_id)] = session
            while len(self._open) > MAX_SESSIONS:
                self._open.popitem(last=False)
        return session_id, session

    def find(self, session_id: str, fingerprint: str) -> Session | None:
        """Return the session and mark it as used; None if it is unknown, expired, or was opened with other credentials."""
        if not session_id:
            return None
        key, now = _hash(session_id), self._clock()
        with self._lock:
            session = self._open.get(key)
            if session is None:
                return None
            expired = (
                now - session.used_at > SESSION_IDLE_SECONDS or now - session.opened_at > MAX_SESSION_SECONDS
            )
            if expired or session.fingerprint != fingerprint:
                del self._open[key]
                return None
            session.used_at = now
            self._open.move_to_end(key)
            return session

    def close(self, session_id: str) -> None:
        """End a session, if there is one of this id."""
        with self._lock:
            self._open.pop(_hash(session_id), None)


def _hash(session_id: str) -> bytes:
    return hashlib.sha256(session_id.encode("utf-8", "replace")).digest()


class AllowedHosts:
    """Host header values that the dashboard accepts; prevents DNS rebinding."""

    def __init__(self, listen: str, extra: Iterable[str] = (), *, hostname: str | None = None) -> None:
        """Collect the allowed names.

        Args:
            listen: the address that the dashboard listens at.
            extra: more names, with or without a port.
            hostname: the host name; None: this machine's.
        """
        self._loopback_only = is_loopback(listen)
        self._names = {parse_host(name) for name in extra}
        if not self._loopback_only:
            name = (host_name() if hostname is None else hostname).lower()
            self._names |= {name, local_name(name)}
        self._names.discard("")

    def allow(self, host: str, local_address: str = "") -> bool:
        """Return whether a Host header names this dashboard.

        Args:
            host: the header.
            local_address: the address of this machine at which the request arrived. A host that is that address needed no
                DNS, so it cannot be DNS rebinding.
        """
        name = parse_host(host)
        if not name:
            return False
        if is_loopback(name) or name in self._names:
            return True
        address = parse_address(name)
        return not self._loopback_only and address is not None and address == parse_address(local_address)


class Authenticator:
    """Decides which requests are served. Thread-safe."""

    def __init__(
        self,
        settings: DashboardSettings,
        credentials: CredentialsFile,
        *,
        hosts: AllowedHosts | None = None,
        sessions: Sessions | None = None,
        attempts: LoginAttempts | None = None,
    ) -> None:
        """Configure the checks; the credentials are read with the first request.

        Args:
            settings: settings of the dashboard.
            credentials: file with the password and the tokens.
            hosts, sessions, attempts: defaults follow from the settings.
        """
        self._settings, self._credentials = settings, credentials
        self._public = settings.public
        extra = (*settings.allowed_hosts, *((self._public.host,) if self._public else ()))
        self._hosts = hosts or AllowedHosts(settings.listen, extra)
        self._sessions = sessions or Sessions()
        self._attempts = attempts or LoginAttempts()
        self._open_csrf = secrets.token_urlsafe(32)
        self._hashing = threading.Lock()
        # Requests through a proxy on this machine come from loopback, whoever sent them.
        self._exposed = settings.is_exposed

    @property
    def cookie_name(self) -> str:
        """Name of the session cookie: at the public URL, if there is one."""
        return self._cookie_name(self._public)

    def require_credentials(self) -> None:
        """Raise `SettingsError` if other machines can reach the dashboard and there is no password or token."""
        if self._exposed and not self._credentials.current():
            if not is_loopback(self._settings.listen):
                reason = f"it listens at {self._settings.listen}, which other machines can reach"
            elif self._settings.allowed_hosts:
                reason = f"allowed_hosts names {', '.join(self._settings.allowed_hosts)}"
            else:
                reason = f"public_url is {self._settings.public_url}"
            raise SettingsError(f"the dashboard needs a password, since {reason}: {SET_PASSWORD}")

    def problem(self) -> str:
        """Return why nobody can use the dashboard: its credentials cannot be read; empty if they can."""
        try:
            self._credentials.current()
        except SettingsError as error:
            return str(error)
        return ""

    def login_required(self) -> bool:
        """Return whether clients have to log in."""
        return self._exposed or bool(self._current())

    def check_host(self, request: Request) -> None:
        """Raise `ApiError` with 400 or 403 unless the Host header names this dashboard."""
        host = _header(request, "host")
        if not host or "," in host:
            raise ApiError(400, "a request must have exactly one Host header")
        server = request.scope.get("server")
        if not self._hosts.allow(host, server[0] if server else ""):
            raise ApiError(
                403,
                "this dashboard does not answer to that host name; add it to allowed_hosts in [dashboard] of the settings",
                kind="UnknownHost",
            )

    def check_origin(self, request: Request) -> None:
        """Raise `ApiError` with 400 or 403 unless a request comes from the dashboard's page or from no page at all."""
        self.check_host(request)
        site = _header(request, "sec-fetch-site")
        safe = request.method in SAFE_METHODS
        foreign = site not in ("", "same-origin", "none") or (site == "none" and not safe)
        origin = _header(request, "origin")
        secure = request.scope.get("scheme") == "https"
        own = self._is_public(origin) or _is_same_origin(origin, _header(request, "host"), secure)
        if foreign or (origin and not own):
            raise ApiError(403, "the request comes from another website", kind="CrossSite")

    def identify(self, request: Request) -> Identity:
        """Return who sent a request.

        Raises:
            ApiError: 401 for an unknown token; 503 if the credentials cannot be read.
        """
        credentials = self._current()
        scheme, _, secret = _header(request, "authorization").partition(" ")
        if scheme.lower() == "bearer":
            token = credentials.token(secret.strip())
            if token is None:
                raise ApiError(401, "unknown token", headers={"WWW-Authenticate": "Bearer"})
            return Identity("token", token_name=token.name)
        if not credentials and not self._exposed:
            return Identity("open", self._open_csrf)
        names = (self._cookie_name(self._public), self._cookie_name(None))
        for session_id in dict.fromkeys(request.cookies.get(name, "") for name in names):
            session = (
                self._sessions.find(session_id, credentials.fingerprint) if credentials.password else None
            )
            if session is not None:
                return Identity("session", session.csrf, session_id)
        return NOBODY

    def authorize(self, request: Request) -> Identity:
        """Return who sent a request to an endpoint that requires a login.

        Raises:
            ApiError: 401 without a login; 403 for a change without the CSRF token.
        """
        identity = self.identify(request)
        if not identity.authenticated:
            raise not_logged_in()
        if request.method not in SAFE_METHODS and identity.kind != "token":
            token = _header(request, CSRF_HEADER).encode("utf-8", "replace")
            if not hmac.compare_digest(token, identity.csrf.encode("ascii")):
                raise ApiError(
                    403,
                    "X-CSRF-Token is missing or outdated; GET /session returns the current one",
                    kind="CsrfToken",
                )
        return identity

    def log_in(self, password: str, address: str) -> tuple[str, Session]:
        """Open a session. Return its id and the session.

        Raises:
            ApiError: 401 for a wrong password, 429 after too many, 409 if no password is set.
        """
        credentials = self._current()
        if credentials.password is None:
            raise ApiError(409, f"no password is set: {SET_PASSWORD}", kind="NoPassword")
        if wait := self._attempts.begin(address):
            raise _too_many_attempts(wait)
        # One at a time: scrypt takes 16 MiB and a processor core for a while.
        if not self._hashing.acquire(timeout=MAX_HASHING_WAIT_SECONDS):
            raise _too_many_attempts(1.0)
        try:
            correct = len(password) <= MAX_PASSWORD_LENGTH and credentials.password.matches(password)
        finally:
            self._hashing.release()
        if not correct:
            raise ApiError(401, "wrong password", kind="WrongPassword")
        self._attempts.succeeded(address)
        return self._sessions.open(credentials.fingerprint)

    def log_out(self, identity: Identity) -> None:
        """End a session."""
        self._sessions.close(identity.session_id)

    def cookie(self, session_id: str, request: Request) -> str:
        """Return the Set-Cookie header of a session; an empty id deletes the cookie.

        A request whose Origin is the public URL came through the proxy: the cookie is for its path.
        """
        public = self._public if self._is_public(_header(request, "origin")) else None
        deletion = "" if session_id else "; Max-Age=0"
        secure = "; Secure" if self._is_secure(public) else ""
        path = (public.path if public else "") or "/"
        return f"{self._cookie_name(public)}={session_id}; Path={path}; HttpOnly; SameSite=Strict{secure}{deletion}"

    def _cookie_name(self, public: PublicUrl | None) -> str:
        """Return the cookie's name. Cookies are shared by all ports of a host, so it contains the port.

        Browsers accept the prefixes on secure cookies only, `__Host-` only on those for all paths.
        """
        prefix = ("__Secure-" if public and public.path else "__Host-") if self._is_secure(public) else ""
        return f"{prefix}edge-siamese-{self._settings.port}"

    def _is_secure(self, public: PublicUrl | None) -> bool:
        return public.scheme == "https" if public else bool(self._settings.certificate)

    def _is_public(self, origin: str) -> bool:
        return self._public is not None and origin.lower() == self._public.origin

    def recheck(self, request: Request) -> Callable[[], bool]:
        """Return a function that checks whether the sender of a request is still logged in, for long responses."""

        def is_authenticated() -> bool:
            try:
                return self.identify(request).authenticated
            except ApiError:
                return False

        return is_authenticated

    def _current(self) -> Credentials:
        try:
            return self._credentials.current()
        except SettingsError as error:
            raise ApiError(503, str(error), kind="SettingsError") from error


def not_logged_in() -> ApiError:
    """Return the error of a request without a login."""
    return ApiError(401, "log in first", headers={"WWW-Authenticate": "Bearer"})


def client_address(request: Request) -> str:
    """Return the client's address; empty if it is unknown."""
    return request.client.host if request.client else ""


def _too_many_attempts(wait: float) -> ApiError:
    seconds = max(1, math.ceil(wait))
    return ApiError(
        429,
        f"too many wrong passwords; try again in {seconds} s",
        headers={"Retry-After": str(seconds)},
        retry_after_s=seconds,
    )


def _header(request: Request, name: str) -> str:
    """Return a header; repeated ones are joined, so that none of them goes unchecked."""
    return ", ".join(request.headers.getlist(name))


def _is_same_origin(origin: str, host: str, secure: bool) -> bool:
    """Return whether an Origin is this page. Behind a proxy that terminates TLS the schemes differ."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    schemes = ("https",) if secure else ("http", "https")
    return parts.scheme in schemes and parts.netloc.lower() == host.strip().lower()
