"""Host and Origin checks, logins, sessions, tokens and CSRF tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from starlette.requests import Request

from edge_siamese.dashboard.app import SECURITY_HEADERS
from edge_siamese.dashboard.auth import (
    MAX_SESSION_SECONDS,
    MAX_SESSIONS,
    NOBODY,
    SESSION_IDLE_SECONDS,
    AllowedHosts,
    Authenticator,
    Identity,
    Sessions,
)
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.dashboard.limits import LoginAttempts
from edge_siamese.dashboard.schemas import ApiError
from edge_siamese.errors import SettingsError
from edge_siamese.settings import DashboardSettings
from tests.manual_clock import ManualClock

PASSWORD = "correct horse"
LOCAL = DashboardSettings(enabled=True)
EXPOSED = structs.replace(LOCAL, listen="0.0.0.0")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def file(tmp_path: Path) -> CredentialsFile:
    return CredentialsFile(tmp_path)


def make(
    settings: DashboardSettings, file: CredentialsFile, clock: ManualClock | None = None
) -> Authenticator:
    clock = clock or ManualClock()
    hosts = AllowedHosts(settings.listen, settings.allowed_hosts, hostname="kitchen")
    return Authenticator(settings, file, hosts=hosts, sessions=Sessions(clock), attempts=LoginAttempts(clock))


def head(
    method: str = "GET",
    host: str | tuple[str, ...] = "localhost:8765",
    *,
    secure: bool = False,
    arrived: str = "127.0.0.1",
    **headers: str,
) -> Request:
    scope: dict[str, Any] = {
        "type": "http",
        "method": method,
        "path": "/api/v1/status",
        "scheme": "https" if secure else "http",
        "client": ("127.0.0.1", 40000),
        "server": (arrived, 8765) if arrived else None,
        "headers": [(b"host", value.encode()) for value in (host if isinstance(host, tuple) else (host,))],
    }
    for name, value in headers.items():
        scope["headers"].append((name.replace("_", "-").encode(), value.encode()))
    return Request(scope)


def refusal(authenticator: Authenticator, request: Request) -> tuple[int, str]:
    try:
        authenticator.check_origin(request)
        authenticator.authorize(request)
    except ApiError as problem:
        return problem.status, problem.kind
    return 200, ""


# --- places ---


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8765", "127.0.0.1:8765", "[::1]:8765", "localhost.", "[::ffff:127.0.0.1]:8765"],
)
def test_on_loopback_names_of_loopback_are_allowed(file: CredentialsFile, host: str) -> None:
    make(LOCAL, file).check_origin(head(host=host))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "192.168.1.7", "kitchen.local", "localhost.evil.example", "localhost@evil",
     "[::1", "localhost:x", "127.0.0.1.evil.example"],
)  # fmt: skip
def test_on_loopback_any_other_name_is_another_pages(file: CredentialsFile, host: str) -> None:
    assert refusal(make(LOCAL, file), head(host=host)) == (403, "UnknownHost")


def test_a_request_names_one_host(file: CredentialsFile) -> None:
    assert refusal(make(LOCAL, file), head(host="")) == (400, "BadRequest")
    assert refusal(make(LOCAL, file), head(host="localhost, evil.example")) == (400, "BadRequest")
    assert refusal(make(LOCAL, file), head(host=("localhost", "evil.example"))) == (400, "BadRequest")


def test_abroad_the_machines_own_names_and_addresses_are_allowed(file: CredentialsFile) -> None:
    file.set_password(PASSWORD)
    authenticator = make(structs.replace(EXPOSED, allowed_hosts=("home.example:8443",)), file)
    for host in ("kitchen", "kitchen.local:8765", "192.168.1.7:8765", "localhost", "home.example"):
        authenticator.check_origin(head(host=host, arrived="192.168.1.7"))
    for host in ("192.168.1.8", "0.0.0.0", "kitchen.local.evil.example", "lounge.local", "kitchen.lan"):
        assert refusal(authenticator, head(host=host, arrived="192.168.1.7")) == (403, "UnknownHost")


@pytest.mark.parametrize(
    ("host", "arrived", "fine"),
    [
        ("192.168.1.7:8765", "192.168.1.7", True),
        ("10.8.0.1", "10.8.0.1", True),  # of a second network
        ("192.168.1.7", "::ffff:192.168.1.7", True),  # as a socket of both versions has it
        ("[fd00::7]:8765", "fd00::7", True),
        ("[FD00:0::7]", "fd00::7", True),
        ("[fe80::7]", "fe80::7%wlan0", True),
        ("192.168.1.7", "10.8.0.1", False),
        ("192.168.1.7", "", False),
        ("evil.example", "192.168.1.7", False),
        ("192.168.1.7.evil.example", "192.168.1.7", False),
    ],
)
def test_abroad_the_address_at_which_a_request_came_is_allowed(host: str, arrived: str, fine: bool) -> None:
    assert AllowedHosts("0.0.0.0", hostname="kitchen").allow(host, arrived) == fine


def test_without_the_address_where_a_request_arrived_only_names_are_allowed(file: CredentialsFile) -> None:
    file.set_password(PASSWORD)
    authenticator = make(EXPOSED, file)
    authenticator.check_origin(head(host="kitchen.local", arrived=""))
    assert refusal(authenticator, head(host="192.168.1.7", arrived="")) == (403, "UnknownHost")


def test_a_repeated_header_is_no_way_around_a_check(file: CredentialsFile) -> None:
    request = head("POST", origin="http://localhost:8765")
    request.scope["headers"].append((b"origin", b"http://evil.example"))
    assert refusal(make(LOCAL, file), request) == (403, "CrossSite")


def test_on_loopback_only_loopback_is_allowed_whatever_the_address(file: CredentialsFile) -> None:
    assert not AllowedHosts("127.0.0.1").allow("192.168.1.7", "192.168.1.7")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_another_page_asks_for_is_refused(file: CredentialsFile, site: str, method: str) -> None:
    assert refusal(make(LOCAL, file), head(method, sec_fetch_site=site)) == (403, "CrossSite")


def test_what_a_person_types_is_no_change(file: CredentialsFile) -> None:
    make(LOCAL, file).check_origin(head(sec_fetch_site="none"))
    assert refusal(make(LOCAL, file), head("POST", sec_fetch_site="none")) == (403, "CrossSite")


@pytest.mark.parametrize(
    ("origin", "secure", "fine"),
    [
        ("http://localhost:8765", False, True),
        ("http://LOCALHOST:8765", False, True),
        ("https://localhost:8765", False, True),  # before a proxy that speaks TLS
        ("https://localhost:8765", True, True),
        ("http://localhost:8765", True, False),
        ("http://localhost", False, False),
        ("http://localhost:8766", False, False),
        ("http://evil.example", False, False),
        ("null", False, False),
        ("ftp://localhost:8765", False, False),
        ("http://[", False, False),
    ],
)
def test_the_origin_is_this_page(file: CredentialsFile, origin: str, secure: bool, fine: bool) -> None:
    authenticator, request = make(LOCAL, file), head("POST", origin=origin, secure=secure)
    if fine:
        authenticator.check_origin(request)
    else:
        assert refusal(authenticator, request) == (403, "CrossSite")


# --- who ---


def test_on_loopback_without_credentials_nobody_logs_in_but_changes_show_the_token(
    file: CredentialsFile,
) -> None:
    authenticator = make(LOCAL, file)
    authenticator.require_credentials()
    assert not authenticator.login_required()
    assert authenticator.authorize(head()).kind == "open"
    assert refusal(authenticator, head("POST")) == (403, "CsrfToken")
    assert refusal(authenticator, head("POST", x_csrf_token="wrong")) == (403, "CsrfToken")
    csrf = authenticator.identify(head()).csrf
    assert len(csrf) == 43
    assert authenticator.authorize(head("POST", x_csrf_token=csrf)).kind == "open"
    assert make(LOCAL, file).identify(head()).csrf != csrf


@pytest.mark.parametrize("settings", [EXPOSED, structs.replace(LOCAL, allowed_hosts=("home.example",))])
def test_where_others_come_from_it_does_not_start_without_credentials(
    file: CredentialsFile, settings: DashboardSettings
) -> None:
    authenticator = make(settings, file)
    with pytest.raises(
        SettingsError, match=r"^the dashboard needs a password, since .*: sudo edge-siamese dashboard pass"
    ):
        authenticator.require_credentials()
    assert authenticator.login_required()
    assert refusal(authenticator, head()) == (401, "NotLoggedIn")  # also if they are taken away while it runs
    file.add_token("grafana")
    authenticator.require_credentials()


def test_with_a_password_everybody_logs_in(file: CredentialsFile) -> None:
    file.set_password(PASSWORD)
    authenticator = make(LOCAL, file)
    assert authenticator.login_required()
    assert refusal(authenticator, head()) == (401, "NotLoggedIn")
    assert authenticator.identify(head()) == NOBODY
    number, session = authenticator.log_in(PASSWORD, "127.0.0.1")
    inside = head(cookie=f"a=b; {authenticator.cookie_name}={number}; c=d")
    entry = authenticator.authorize(inside)
    assert (entry.kind, entry.csrf, entry.session_id) == ("session", session.csrf, number)
    cookie = f"{authenticator.cookie_name}={number}"
    assert refusal(authenticator, head("POST", cookie=cookie)) == (403, "CsrfToken")
    assert authenticator.authorize(head("POST", cookie=cookie, x_csrf_token=session.csrf)).authenticated
    authenticator.log_out(entry)
    assert refusal(authenticator, inside) == (401, "NotLoggedIn")


def test_another_sessions_token_is_none(file: CredentialsFile) -> None:
    file.set_password(PASSWORD)
    authenticator = make(LOCAL, file)
    first, _ = authenticator.log_in(PASSWORD, "127.0.0.1")
    _, other = authenticator.log_in(PASSWORD, "127.0.0.1")
    request = head("POST", cookie=f"{authenticator.cookie_name}={first}", x_csrf_token=other.csrf)
    assert refusal(authenticator, request) == (403, "CsrfToken")


def test_a_token_needs_no_other(file: CredentialsFile) -> None:
    token = file.add_token("grafana")
    authenticator = make(EXPOSED, file)
    assert authenticator.authorize(head("POST", authorization=f"Bearer {token}")) == Identity(
        "token", token_name="grafana"
    )
    assert refusal(authenticator, head(authorization="Bearer es_wrong")) == (401, "NotLoggedIn")
    assert refusal(authenticator, head(authorization=f"Basic {token}")) == (401, "NotLoggedIn")
    still = authenticator.recheck(head(authorization=f"Bearer {token}"))
    assert still()
    file.revoke("grafana")
    assert not still()


def test_a_new_password_ends_all_sessions(file: CredentialsFile) -> None:
    file.set_password(PASSWORD)
    authenticator = make(LOCAL, file)
    number, _ = authenticator.log_in(PASSWORD, "127.0.0.1")
    still = authenticator.recheck(head(cookie=f"{authenticator.cookie_name}={number}"))
    assert still()
    file.set_password(PASSWORD)
    assert not still()


def test_a_damaged_file_of_credentials_keeps_everybody_out(file: CredentialsFile) -> None:
    file.path.write_text("{")
    assert refusal(make(LOCAL, file), head()) == (503, "SettingsError")


def test_cookies(file: CredentialsFile) -> None:
    assert make(LOCAL, file).cookie("n", head()) == "edge-siamese-8765=n; Path=/; HttpOnly; SameSite=Strict"
    tls = structs.replace(LOCAL, certificate="a.pem", key="a.key", port=443)
    assert make(tls, file).cookie("n", head()) == (
        "__Host-edge-siamese-443=n; Path=/; HttpOnly; SameSite=Strict; Secure"
    )
    assert make(LOCAL, file).cookie("", head()) == (
        "edge-siamese-8765=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"
    )


# --- behind a proxy ---

PUBLIC = structs.replace(LOCAL, public_url="https://home.example:8443/shelf")


@pytest.mark.parametrize(
    ("host", "origin", "fine"),
    [
        ("home.example:8443", "https://home.example:8443", True),
        ("home.example", "https://home.example:8443", True),  # nginx leaves the port out of $host
        ("127.0.0.1:8765", "https://home.example:8443", True),  # nginx by default
        ("127.0.0.1:8765", "http://127.0.0.1:8765", True),  # without the proxy
        ("home.example", "http://home.example:8443", False),
        ("home.example", "https://home.example:8444", False),
        ("home.example", "https://evil.example", False),
        ("evil.example", "https://home.example:8443", False),
    ],
)
def test_the_public_url_is_the_page_too(file: CredentialsFile, host: str, origin: str, fine: bool) -> None:
    authenticator = Authenticator(PUBLIC, file)
    if fine:
        authenticator.check_origin(head("POST", host, origin=origin))
    else:
        kind = "UnknownHost" if host == "evil.example" else "CrossSite"
        assert refusal(authenticator, head("POST", host, origin=origin)) == (403, kind)


@pytest.mark.parametrize(
    ("url", "origin", "cookie"),
    [
        ("https://home.example/shelf", "https://home.example", "__Secure-edge-siamese-8765=n; Path=/shelf; {}; Secure"),
        ("https://home.example", "https://home.example", "__Host-edge-siamese-8765=n; Path=/; {}; Secure"),
        ("http://home.example/shelf", "http://home.example", "edge-siamese-8765=n; Path=/shelf; {}"),
        ("https://home.example/shelf", "http://127.0.0.1:8765", "edge-siamese-8765=n; Path=/; {}"),
        ("https://home.example/shelf", "", "edge-siamese-8765=n; Path=/; {}"),
    ],
)  # fmt: skip
def test_the_cookie_is_for_the_path_of_the_public_url(
    file: CredentialsFile, url: str, origin: str, cookie: str
) -> None:
    authenticator = Authenticator(structs.replace(LOCAL, public_url=url), file)
    request = head("POST", **({"origin": origin} if origin else {}))
    assert authenticator.cookie("n", request) == cookie.format("HttpOnly; SameSite=Strict")


def test_a_session_is_found_by_either_cookie(file: CredentialsFile) -> None:
    file.set_password(PASSWORD)
    authenticator = Authenticator(PUBLIC, file)
    number, _ = authenticator.log_in(PASSWORD, "127.0.0.1")
    assert authenticator.cookie_name == "__Secure-edge-siamese-8765"
    for name in ("__Secure-edge-siamese-8765", "edge-siamese-8765"):
        assert authenticator.identify(head(cookie=f"{name}={number}")).kind == "session"
    both = f"__Secure-edge-siamese-8765=outdated; edge-siamese-8765={number}"
    assert authenticator.identify(head(cookie=both)).kind == "session"
    assert authenticator.identify(head(cookie="other=x")) == NOBODY


def test_behind_a_proxy_a_password_is_needed(file: CredentialsFile) -> None:
    authenticator = Authenticator(PUBLIC, file)
    with pytest.raises(
        SettingsError,
        match=r"^the dashboard needs a password, since public_url is https://home\.example:8443/shelf: sudo",
    ):
        authenticator.require_credentials()
    assert authenticator.identify(head()) == NOBODY
    Authenticator(structs.replace(LOCAL, public_url="http://localhost:80/a"), file).require_credentials()


def test_the_policy_allows_no_script_that_is_not_a_file_of_this_page() -> None:
    policy = dict(
        part.strip().split(" ", 1) for part in SECURITY_HEADERS["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in SECURITY_HEADERS["Content-Security-Policy"]


# --- sessions ---


def test_sessions_end_when_they_are_not_used_and_in_any_case_after_a_week(clock: ManualClock) -> None:
    sessions = Sessions(clock)
    number, _ = sessions.open("mark")
    for _ in range(13):
        clock.now += SESSION_IDLE_SECONDS - 1
        assert sessions.find(number, "mark") is not None
    clock.now += MAX_SESSION_SECONDS - 13 * (SESSION_IDLE_SECONDS - 1) + 1
    assert sessions.find(number, "mark") is None
    number, _ = sessions.open("mark")
    clock.now += SESSION_IDLE_SECONDS + 1
    assert sessions.find(number, "mark") is None
    assert sessions.find("", "mark") is None


def test_there_are_not_any_number_of_sessions(clock: ManualClock) -> None:
    sessions = Sessions(clock)
    first, second = sessions.open("mark")[0], sessions.open("mark")[0]
    assert sessions.find(first, "mark")  # so the second one was used longest ago
    for _ in range(MAX_SESSIONS - 1):
        sessions.open("mark")
    assert sessions.find(first, "mark") and not sessions.find(second, "mark")


# --- login ---


def test_who_fails_has_to_wait_even_with_the_right_password(
    file: CredentialsFile, clock: ManualClock
) -> None:
    file.set_password(PASSWORD)
    authenticator = make(LOCAL, file, clock)
    for _ in range(3):
        with pytest.raises(ApiError, match="wrong password"):
            authenticator.log_in("wrong", "10.0.0.1")
    with pytest.raises(ApiError, match=r"^too many wrong passwords; try again in 1 s$") as caught:
        authenticator.log_in(PASSWORD, "10.0.0.1")
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})
    clock.now += 1
    authenticator.log_in(PASSWORD, "10.0.0.1")
    for _ in range(3):  # counted again from there
        with pytest.raises(ApiError, match="wrong password"):
            authenticator.log_in("wrong", "10.0.0.1")


def test_without_a_password_there_is_no_login(file: CredentialsFile) -> None:
    file.add_token("grafana")
    with pytest.raises(ApiError, match="no password is set") as caught:
        make(LOCAL, file).log_in("x", "127.0.0.1")
    assert caught.value.status == 409
