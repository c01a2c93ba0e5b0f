"""Lets requests in or not: by the host that they name, where they come from, and who sends them."""

from __future__ import annotations

import hmac
import math
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from edge_siamese.dashboard.credentials import LONGEST, Credentials, CredentialsFile
from edge_siamese.dashboard.exchange import Head, Problem
from edge_siamese.dashboard.host_check import Hosts
from edge_siamese.dashboard.login_attempts import Attempts
from edge_siamese.dashboard.sessions import Session, Sessions
from edge_siamese.errors import SettingsError
from edge_siamese.settings import DashboardSettings
from edge_siamese.system.network import is_loopback

SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
"""Methods that change nothing."""
CSRF_HEADER = "x-csrf-token"
HOW_TO_SET = "sudo edge-siamese dashboard password"

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""With every answer. Strict-Transport-Security is not among them: it would bind all ports of this host for a year, and
so whatever else is served there, such as a Home Assistant without TLS."""


@dataclass(frozen=True)
class Entry:
    """Who was let in."""

    by: Literal["nobody", "open", "session", "token"]
    """`open`: where no login is needed. `nobody`: not let in."""
    csrf: str = ""
    """What a change has to show; of a token none."""
    number: str = ""
    """The session's id."""
    name: str = ""
    """Of the token."""

    @property
    def inside(self) -> bool:
        """Whether it may do what needs a login."""
        return self.by != "nobody"


class Authenticator:
    """The door; any thread may ask."""

    def __init__(
        self,
        settings: DashboardSettings,
        credentials: CredentialsFile,
        *,
        hosts: Hosts | None = None,
        sessions: Sessions | None = None,
        attempts: Attempts | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            settings: of the dashboard.
            credentials: where password and tokens are.
            hosts, sessions, attempts: others than those that the settings make.
        """
        self._settings, self._credentials = settings, credentials
        self._hosts = hosts or Hosts(settings.listen, settings.allowed_hosts)
        self._sessions = sessions or Sessions()
        self._attempts = attempts or Attempts()
        self._open_csrf = secrets.token_urlsafe(32)
        self._hashing = threading.Lock()
        # A proxy on this machine comes from loopback, whoever is behind it.
        self._beyond = not is_loopback(settings.listen) or bool(settings.allowed_hosts)

    @property
    def cookie_name(self) -> str:
        """Cookies know no ports, so the name does: two daemons of one machine do not log each other out."""
        prefix = "__Host-" if self._settings.certificate else ""
        return f"{prefix}edge-siamese-{self._settings.port}"

    def require_credentials(self) -> None:
        """Raise `SettingsError` if others could reach this, and nothing would keep them out."""
        if self._beyond and not self._credentials.current():
            why = (
                f"allowed_hosts names {', '.join(self._settings.allowed_hosts)}"
                if is_loopback(self._settings.listen)
                else f"it listens at {self._settings.listen}, which others can reach"
            )
            raise SettingsError(f"the dashboard needs a password, since {why}: {HOW_TO_SET}")

    def login_needed(self) -> bool:
        """Whether anybody has to log in."""
        return self._beyond or bool(self._current())

    def check_host(self, head: Head) -> None:
        """See that a request is meant for this page; raises `Problem` with 400 or 403."""
        host = head.header("host")
        if not host or "," in host:
            raise Problem(400, "a request names one host")
        if not self._hosts.allow(host, head.arrived):
            raise Problem(
                403,
                "this dashboard is not known by that host name; allowed_hosts in the settings can allow it",
                kind="UnknownHost",
            )

    def check_place(self, head: Head) -> None:
        """See that a request is meant for this page, and comes from it or from no page at all.

        Raises:
            Problem: 400 or 403.
        """
        self.check_host(head)
        site = head.header("sec-fetch-site")
        safe = head.method in SAFE
        if (site and site not in ("same-origin", "none")) or (site == "none" and not safe):
            raise Problem(403, "another page asked for this", kind="CrossSite")
        origin = head.header("origin")
        if origin and not _is_same(origin, head.header("host"), head.secure):
            raise Problem(403, "another page asked for this", kind="CrossSite")

    def entry(self, head: Head) -> Entry:
        """Who asks.

        Raises:
            Problem: 401, for a token that is none; 503, if the credentials cannot be read.
        """
        known = self._current()
        scheme, _, token = head.header("authorization").partition(" ")
        if scheme.lower() == "bearer":
            found = known.token(token.strip())
            if found is None:
                raise Problem(401, "this token is not known", headers={"WWW-Authenticate": "Bearer"})
            return Entry("token", name=found.name)
        if not known and not self._beyond:
            return Entry("open", self._open_csrf)
        number = head.cookie(self.cookie_name)
        session = self._sessions.find(number, known.mark) if known.password else None
        return Entry("nobody") if session is None else Entry("session", session.csrf, number)

    def check(self, head: Head) -> Entry:
        """Let in who may do what needs a login.

        Raises:
            Problem: 401 for who is not logged in, 403 for a change without the token that shows whose it is.
        """
        entry = self.entry(head)
        if not entry.inside:
            raise Problem(401, "log in first", headers={"WWW-Authenticate": "Bearer"})
        if head.method not in SAFE and entry.by != "token":
            shown = head.header(CSRF_HEADER)
            if not hmac.compare_digest(shown.encode("utf-8", "replace"), entry.csrf.encode("ascii")):
                raise Problem(
                    403, "X-CSRF-Token is missing or old: GET session tells the one of now", kind="CsrfToken"
                )
        return entry

    def log_in(self, password: str, address: str) -> tuple[str, Session]:
        """Begin a session.

        Raises:
            Problem: 401 for a wrong password, 429 after too many, 409 where there is none.
        """
        known = self._current()
        if known.password is None:
            raise Problem(409, f"there is no password: {HOW_TO_SET}", kind="NoPassword")
        if wait := self._attempts.begin(address):
            raise _too_many(wait)
        # One at a time: scrypt takes 16 MiB and a processor for a while.
        if not self._hashing.acquire(timeout=5.0):
            raise _too_many(1.0)
        try:
            right = len(password) <= LONGEST and known.password.matches(password)
        finally:
            self._hashing.release()
        if not right:
            raise Problem(401, "that is not the password", kind="WrongPassword")
        self._attempts.succeeded(address)
        return self._sessions.open(known.mark)

    def log_out(self, entry: Entry) -> None:
        """End a session."""
        self._sessions.close(entry.number)

    def cookie(self, number: str) -> str:
        """The header Set-Cookie of a session, or of its end if the id is empty."""
        end = "" if number else "; Max-Age=0"
        secure = "; Secure" if self._settings.certificate else ""
        return f"{self.cookie_name}={number}; Path=/; HttpOnly; SameSite=Strict{secure}{end}"

    def still(self, head: Head) -> Callable[[], bool]:
        """Asks whether who was let in still would be: for answers that go on for hours."""

        def ask() -> bool:
            try:
                return self.entry(head).inside
            except Problem:
                return False

        return ask

    def _current(self) -> Credentials:
        try:
            return self._credentials.current()
        except SettingsError as error:
            raise Problem(503, str(error), kind="SettingsError") from error


def _too_many(wait: float) -> Problem:
    seconds = max(1, math.ceil(wait))
    return Problem(
        429,
        f"too many wrong passwords; try again in {seconds} s",
        headers={"Retry-After": str(seconds)},
        retry_after_s=seconds,
    )


def _is_same(origin: str, host: str, secure: bool) -> bool:
    """Whether an Origin is this page. Before a proxy that speaks TLS the scheme is not the one of here."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    schemes = ("https",) if secure else ("http", "https")
    return parts.scheme in schemes and parts.netloc.lower() == host.strip().lower()
