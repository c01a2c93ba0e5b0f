"""The door: hosts, other pages, logins, tokens, and what a change has to show."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from edge_siamese.dashboard.app import head_of
from edge_siamese.dashboard.auth import SECURITY_HEADERS, Authenticator, Entry
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.dashboard.schemas import Head, ApiError
from edge_siamese.dashboard.auth import AllowedHosts
from edge_siamese.dashboard.limits import LoginAttempts
from edge_siamese.dashboard.auth import MAX_SESSION_SECONDS, MAX_SESSIONS, SESSION_IDLE_SECONDS, Sessions
from edge_siamese.errors import SettingsError
from edge_siamese.settings import DashboardSettings

PASSWORD = "correct horse"
LOCAL = DashboardSettings(enabled=True)
ABROAD = structs.replace(LOCAL, listen="0.0.0.0")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> CredentialsFile:
    return CredentialsFile(tmp_path)


def guard(settings: DashboardSettings, file: CredentialsFile, clock: Clock | None = None) -> Authenticator:
    clock = clock or Clock()
    hosts = AllowedHosts(settings.listen, settings.hosts, hostname="kitchen")
    return Authenticator(settings, file, hosts=hosts, sessions=Sessions(clock), attempts=LoginAttempts(clock))


def head(
    method: str = "GET",
    host: str = "localhost:8765",
    *,
    secure: bool = False,
    arrived: str = "127.0.0.1",
    **headers: str,
) -> Head:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Head(method, "/api/v1/status", {"host": host, **names}, "127.0.0.1", secure, arrived)


def refusal(door: Authenticator, asked: Head) -> tuple[int, str]:
    try:
        door.check_place(asked)
        door.check(asked)
    except ApiError as problem:
        return problem.status, problem.kind
    return 200, ""


# --- places ---


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8765", "127.0.0.1:8765", "[::1]:8765", "localhost.", "[::ffff:127.0.0.1]:8765"],
)
def test_on_loopback_names_of_loopback_are_allowed(file: CredentialsFile, host: str) -> None:
    guard(LOCAL, file).check_place(head(host=host))


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8765", "192.168.1.7", "kitchen.local", "localhost.evil.example", "localhost@evil",
     "[::1", "localhost:x", "127.0.0.1.evil.example"],
)  # fmt: skip
def test_on_loopback_any_other_name_is_another_pages(file: CredentialsFile, host: str) -> None:
    assert refusal(guard(LOCAL, file), head(host=host)) == (403, "UnknownHost")


def test_a_request_names_one_host(file: CredentialsFile) -> None:
    assert refusal(guard(LOCAL, file), head(host="")) == (400, "BadRequest")
    assert refusal(guard(LOCAL, file), head(host="localhost, evil.example")) == (400, "BadRequest")


def test_abroad_the_machines_own_names_and_addresses_are_allowed(file: CredentialsFile) -> None:
    file.set_password(PASSWORD)
    door = guard(structs.replace(ABROAD, allowed_hosts=("home.example:8443",)), file)
    for host in ("kitchen", "kitchen.local:8765", "192.168.1.7:8765", "localhost", "home.example"):
        door.check_place(head(host=host, arrived="192.168.1.7"))
    for host in ("192.168.1.8", "0.0.0.0", "kitchen.local.evil.example", "lounge.local", "kitchen.lan"):
        assert refusal(door, head(host=host, arrived="192.168.1.7")) == (403, "UnknownHost")


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


def test_where_a_request_came_is_told_by_the_server() -> None:
    scope = {"method": "GET", "path": "/", "headers": [], "client": None, "server": ("192.168.1.7", 8765)}
    assert head_of(scope).arrived == "192.168.1.7"
    assert head_of({**scope, "server": None}).arrived == ""


def test_on_loopback_only_loopback_is_allowed_whatever_the_address(file: CredentialsFile) -> None:
    assert not AllowedHosts("127.0.0.1").allow("192.168.1.7", "192.168.1.7")


@pytest.mark.parametrize("state", ["cross-state", "same-state"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_another_page_asks_for_is_refused(file: CredentialsFile, state: str, method: str) -> None:
    assert refusal(guard(LOCAL, file), head(method, sec_fetch_site=state)) == (403, "CrossSite")


def test_what_a_person_types_is_no_change(file: CredentialsFile) -> None:
    guard(LOCAL, file).check_place(head(sec_fetch_site="none"))
    assert refusal(guard(LOCAL, file), head("POST", sec_fetch_site="none")) == (403, "CrossSite")


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
    door, asked = guard(LOCAL, file), head("POST", origin=origin, secure=secure)
    if fine:
        door.check_place(asked)
    else:
        assert refusal(door, asked) == (403, "CrossSite")


# --- who ---


def test_on_loopback_without_credentials_nobody_logs_in_but_changes_show_the_token(
    file: CredentialsFile,
) -> None:
    door = guard(LOCAL, file)
    door.require_credentials()
    assert not door.login_needed()
    assert door.check(head()).by == "open"
    assert refusal(door, head("POST")) == (403, "CsrfToken")
    assert refusal(door, head("POST", x_csrf_token="wrong")) == (403, "CsrfToken")
    csrf = door.entry(head()).csrf
    assert len(csrf) == 43
    assert door.check(head("POST", x_csrf_token=csrf)).by == "open"
    assert guard(LOCAL, file).entry(head()).csrf != csrf


@pytest.mark.parametrize("settings", [ABROAD, structs.replace(LOCAL, allowed_hosts=("home.example",))])
def test_where_others_come_from_it_does_not_start_without_credentials(
    file: CredentialsFile, settings: DashboardSettings
) -> None:
    door = guard(settings, file)
    with pytest.raises(
        SettingsError, match=r"^the dashboard needs a password, since .*: sudo edge-siamese dashboard pass"
    ):
        door.require_credentials()
    assert door.login_needed()
    assert refusal(door, head()) == (401, "NotLoggedIn")  # also if they are taken away while it runs
    file.add_token("grafana")
    door.require_credentials()


def test_with_a_password_everybody_logs_in(file: CredentialsFile) -> None:
    file.set_password(PASSWORD)
    door = guard(LOCAL, file)
    assert door.login_needed()
    assert refusal(door, head()) == (401, "NotLoggedIn")
    assert door.entry(head()) == Entry("nobody")
    number, session = door.log_in(PASSWORD, "127.0.0.1")
    inside = head(cookie=f"a=b; {door.cookie_name}={number}; c=d")
    entry = door.check(inside)
    assert (entry.by, entry.csrf, entry.number) == ("session", session.csrf, number)
    cookie = f"{door.cookie_name}={number}"
    assert refusal(door, head("POST", cookie=cookie)) == (403, "CsrfToken")
    assert door.check(head("POST", cookie=cookie, x_csrf_token=session.csrf)).inside
    door.log_out(entry)
    assert refusal(door, inside) == (401, "NotLoggedIn")


def test_another_sessions_token_is_none(file: CredentialsFile) -> None:
    file.set_password(PASSWORD)
    door = guard(LOCAL, file)
    first, _ = door.log_in(PASSWORD, "127.0.0.1")
    _, other = door.log_in(PASSWORD, "127.0.0.1")
    asked = head("POST", cookie=f"{door.cookie_name}={first}", x_csrf_token=other.csrf)
    assert refusal(door, asked) == (403, "CsrfToken")


def test_a_token_needs_no_other(file: CredentialsFile) -> None:
    token = file.add_token("grafana")
    door = guard(ABROAD, file)
    assert door.check(head("POST", authorization=f"Bearer {token}")) == Entry("token", name="grafana")
    assert refusal(door, head(authorization="Bearer es_wrong")) == (401, "NotLoggedIn")
    assert refusal(door, head(authorization=f"Basic {token}")) == (401, "NotLoggedIn")
    still = door.still(head(authorization=f"Bearer {token}"))
    assert still()
    file.revoke("grafana")
    assert not still()


def test_a_new_password_ends_all_sessions(file: CredentialsFile) -> None:
    file.set_password(PASSWORD)
    door = guard(LOCAL, file)
    number, _ = door.log_in(PASSWORD, "127.0.0.1")
    still = door.still(head(cookie=f"{door.cookie_name}={number}"))
    assert still()
    file.set_password(PASSWORD)
    assert not still()


def test_a_damaged_file_of_credentials_keeps_everybody_out(file: CredentialsFile) -> None:
    file.path.write_text("{")
    assert refusal(guard(LOCAL, file), head()) == (503, "SettingsError")


def test_cookies(file: CredentialsFile) -> None:
    assert guard(LOCAL, file).cookie("n") == "edge-siamese-8765=n; Path=/; HttpOnly; SameSite=Strict"
    tls = structs.replace(LOCAL, certificate="a.pem", key="a.key", port=443)
    assert guard(tls, file).cookie("n") == (
        "__Host-edge-siamese-443=n; Path=/; HttpOnly; SameSite=Strict; Secure"
    )
    assert guard(LOCAL, file).cookie("") == (
        "edge-siamese-8765=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"
    )


def test_the_policy_allows_no_script_that_is_not_a_file_of_this_page() -> None:
    policy = dict(
        part.strip().split(" ", 1) for part in SECURITY_HEADERS["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in SECURITY_HEADERS["Content-Security-Policy"]


# --- sessions ---


def test_sessions_end_when_they_are_not_used_and_in_any_case_after_a_week(clock: Clock) -> None:
    sessions = Sessions(clock)
    number, _ = sessions.open("mark")
    for _ in range(13):
        clock.now += IDLE_SECONDS - 1
        assert sessions.find(number, "mark") is not None
    clock.now += MAX_SECONDS - 13 * (IDLE_SECONDS - 1) + 1
    assert sessions.find(number, "mark") is None
    number, _ = sessions.open("mark")
    clock.now += IDLE_SECONDS + 1
    assert sessions.find(number, "mark") is None
    assert sessions.find("", "mark") is None


def test_there_are_not_any_number_of_sessions(clock: Clock) -> None:
    sessions = Sessions(clock)
    first, second = sessions.open("mark")[0], sessions.open("mark")[0]
    assert sessions.find(first, "mark")  # so the second one is the one that was used longest ago
    for _ in range(MOST - 1):
        sessions.open("mark")
    assert sessions.find(first, "mark") and not sessions.find(second, "mark")


# --- tries ---


def test_each_failure_makes_the_next_try_wait_longer(clock: Clock) -> None:
    attempts, waits = LoginAttempts(clock), []
    for _ in range(14):
        waits.append(attempts.begin("10.0.0.1"))
        clock.now += waits[-1]
        if waits[-1]:
            assert attempts.begin("10.0.0.1") == 0
    assert waits == [0, 0, 0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    clock.now += 3601
    assert [attempts.begin("10.0.0.1") for _ in range(3)] == [0, 0, 0]


def test_who_goes_on_for_days_still_has_to_wait(clock: Clock) -> None:
    attempts = LoginAttempts(clock)
    for _ in range(1100):
        clock.now += 300
        assert attempts.begin("10.0.0.1") == 0
    assert attempts.begin("10.0.0.1") == 300


def test_who_fails_has_to_wait_even_with_the_right_password(file: CredentialsFile, clock: Clock) -> None:
    file.set_password(PASSWORD)
    door = guard(LOCAL, file, clock)
    for _ in range(3):
        with pytest.raises(ApiError, match="that is not the password"):
            door.log_in("wrong", "10.0.0.1")
    with pytest.raises(ApiError, match=r"^too many wrong passwords; try again in 1 s$") as caught:
        door.log_in(PASSWORD, "10.0.0.1")
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})
    clock.now += 1
    door.log_in(PASSWORD, "10.0.0.1")
    for _ in range(3):  # counted anew from there
        with pytest.raises(ApiError, match="that is not the password"):
            door.log_in("wrong", "10.0.0.1")


def test_one_who_fails_does_not_lock_others_out(clock: Clock) -> None:
    attempts = LoginAttempts(clock)
    for _ in range(3):
        assert attempts.begin("10.0.0.1") == 0
    assert attempts.begin("10.0.0.1") > 0
    assert attempts.begin("10.0.0.2") == 0


def test_an_ipv6_host_is_one_whatever_address_it_takes(clock: Clock) -> None:
    attempts = LoginAttempts(clock)
    for number in range(3):
        assert attempts.begin(f"2001:db8:1:1::{number}") == 0
    assert attempts.begin("2001:db8:1:1:ffff::9") > 0
    assert attempts.begin("2001:db8:1:2::9") == 0
    assert attempts.begin("::ffff:10.0.0.1") == 0


def test_many_addresses_together_are_slowed_down(clock: Clock) -> None:
    attempts = LoginAttempts(clock)
    for number in range(30):
        assert attempts.begin(f"10.0.1.{number}") == 0
    assert attempts.begin("10.0.2.1") == pytest.approx(2.0)
    clock.now += 2
    assert attempts.begin("10.0.2.1") == 0
    assert attempts.begin("10.0.2.2") > 0
    clock.now += 61
    assert attempts.begin("10.0.2.2") == 0


def test_a_success_takes_back_its_own_try_and_nobody_elses(clock: Clock) -> None:
    attempts = LoginAttempts(clock)
    assert attempts.begin("10.0.0.1") == 0
    clock.now += 1
    for number in range(29):
        assert attempts.begin(f"10.0.1.{number}") == 0
    attempts.succeeded("10.0.0.1")
    assert attempts.begin("10.0.2.1") == 0  # it makes thirty again
    assert attempts.begin("10.0.2.2") == pytest.approx(2.0)
    clock.now += 59.5  # those that others failed at are as old as they are
    assert attempts.begin("10.0.2.3") == 0
    assert [key for key, _ in attempts._recent][:2] == ["10.0.1.1", "10.0.1.2"]


def test_what_is_remembered_of_addresses_is_bounded(clock: Clock) -> None:
    attempts = LoginAttempts(clock)
    for number in range(3000):
        clock.now += 3
        attempts.begin(f"10.{number // 65536}.{number // 256 % 256}.{number % 256}")
    assert len(attempts._failures) == 1000


def test_without_a_password_there_is_no_login(file: CredentialsFile) -> None:
    file.add_token("grafana")
    with pytest.raises(ApiError, match="there is no password") as caught:
        guard(LOCAL, file).log_in("x", "127.0.0.1")
    assert caught.value.status == 409
