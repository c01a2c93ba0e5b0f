"""The server over HTTP: requests that it accepts, headers of all responses, and its shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from starlette.applications import Starlette
from starlette.routing import Mount

from edge_siamese.dashboard import limits
from edge_siamese.dashboard import server as server_module
from edge_siamese.dashboard.app import SECURITY_HEADERS, make_app
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.dashboard.server import bind, tls_context
from edge_siamese.dashboard.state import AppState
from edge_siamese.errors import SettingsError
from edge_siamese.models.bundle import Bundle
from edge_siamese.settings import DashboardSettings
from tests.edge_siamese.daemon.running import MUG, Daemon, daemon_in, until
from tests.edge_siamese.dashboard.serving import (
    Client,
    dashboard_of,
    free_port,
    lose_camera,
    make_certificate,
    serving,
)

pytest.importorskip("uvicorn")

PASSWORD = "correct horse"
Served = tuple[Daemon, Client]

COMMAND = Path("/proc/self/comm").read_text().strip()


@pytest.fixture
def served(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with serving(tmp_path, bundle.path, monkeypatch) as found:
        yield found


@pytest.fixture
def locked(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """One with a password."""
    CredentialsFile(tmp_path / "state").set_password(PASSWORD)
    with serving(tmp_path, bundle.path, monkeypatch) as found:
        yield found


def test_it_says_where_it_is(served: Served) -> None:
    daemon, client = served
    assert daemon.told("dashboard") == f"dashboard: at http://localhost:{client.port}/"
    assert daemon.ask("status")["integrations"]["dashboard"] == {
        "state": f"at http://localhost:{client.port}/",
        "works": True,
        "url": f"http://localhost:{client.port}/",
        "followers": 0,
    }


def test_every_answer_has_the_headers_that_protect_the_page(served: Served) -> None:
    _, client = served
    client.come_in()
    for path in ("/", "/static/main.js", "/nothing", "session", "status", "live", "views/1/pictures/0"):
        got = client.get(path)
        for name, value in SECURITY_HEADERS.items():
            assert got.headers[name] == value, path
        assert "Server" not in got.headers and "Access-Control-Allow-Origin" not in got.headers
        assert got.headers["Cache-Control"] == (
            "no-cache" if path in ("/", "/static/main.js") else "no-store"
        )
    refused = client.get("status", headers={"Host": "evil.example"})
    assert refused.headers["X-Frame-Options"] == "DENY"


def test_files_of_the_page_and_nothing_else(served: Served) -> None:
    _, client = served
    assert client.get("/").data.startswith(b"<!doctype html>")
    tag = client.get("/").headers["ETag"]
    assert client.get("/", headers={"If-None-Match": tag}).status == 304
    for path in (
        "/static/",
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static//etc/passwd",
        "/server.py",
    ):
        assert client.get(path).status == 404, path


def test_another_host_gets_nothing_not_even_the_page(served: Served) -> None:
    _, client = served
    for path in ("/", "session", "status"):
        assert client.get(path, headers={"Host": "evil.example"}).problem == (403, "UnknownHost")


def test_a_link_on_another_page_leads_here_but_another_page_reads_nothing(served: Served) -> None:
    _, client = served
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert client.get("/", headers=elsewhere).status == 200
    assert client.get("status", headers=elsewhere).problem == (403, "CrossSite")
    assert client.ask("POST", "login", {"password": "x"}, headers=elsewhere).problem == (403, "CrossSite")
    assert client.ask("OPTIONS", "status").problem == (405, "MethodNotAllowed")


def test_a_change_shows_the_token(served: Served) -> None:
    _, client = served
    assert client.ask("POST", "undo", {}).problem == (403, "CsrfToken")
    client.come_in()
    assert client.ask("POST", "undo", {}).problem == (409, "ControlError")  # there is nothing to undo


def test_coming_in_and_leaving(locked: Served) -> None:
    _, client = locked
    stranger = client.get("session").json()
    assert (stranger["authenticated"], stranger["login"], stranger["csrf"], stranger["version"]) == (
        False, True, None, "",
    )  # fmt: skip
    for path in ("status", "live", "stream", "objects", "collection", "doctor"):
        assert client.get(path).problem == (401, "NotLoggedIn")
    assert client.get("/").status == client.get("openapi.json").status == 200
    assert client.ask("POST", "login", {"password": "wrong"}).problem == (401, "WrongPassword")
    got = client.ask("POST", "login", {"password": PASSWORD})
    assert got.json()["authenticated"]
    cookie = got.headers["Set-Cookie"]
    assert cookie.endswith("; Path=/; HttpOnly; SameSite=Strict")
    client.headers["Cookie"] = cookie.partition(";")[0]
    assert client.get("status").status == 200
    assert client.ask("POST", "logout").problem == (403, "CsrfToken")
    client.headers["X-CSRF-Token"] = client.get("session").json()["csrf"]
    left = client.ask("POST", "logout")
    assert (left.status, left.data) == (204, b"") and "Max-Age=0" in left.headers["Set-Cookie"]
    assert client.get("status").problem == (401, "NotLoggedIn")


def test_tries_are_limited(locked: Served) -> None:
    _, client = locked
    for _ in range(3):
        assert client.ask("POST", "login", {"password": "wrong"}).problem == (401, "WrongPassword")
    got = client.ask("POST", "login", {"password": PASSWORD})
    assert (
        got.problem == (429, "TooMany")
        and int(got.headers["Retry-After"]) == got.json()["retry_after_s"] == 1
    )


def test_a_client_cannot_say_that_it_is_another(locked: Served) -> None:
    _, client = locked
    told = [
        client.ask(
            "POST", "login", {"password": "wrong"}, headers={"X-Forwarded-For": f"10.0.0.{number}"}
        ).status
        for number in range(4)
    ]
    assert told == [401, 401, 401, 429]


def test_a_token_opens_it_for_programs(locked: Served) -> None:
    daemon, client = locked
    file = CredentialsFile(daemon.state)
    client.headers["Authorization"] = f"Bearer {file.add_token('grafana')}"
    assert client.get("status").status == 200
    assert client.ask("POST", "undo", {}).problem == (409, "ControlError")
    file.revoke("grafana")
    got = client.get("status")
    assert got.problem == (401, "NotLoggedIn") and got.headers["WWW-Authenticate"] == "Bearer"


def test_a_stream_ends_with_what_let_it_in(locked: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_siamese.dashboard.event_stream.PING_SECONDS", 0.2)
    daemon, client = locked
    client.come_in(PASSWORD)
    with client.stream() as events:
        assert events.next("status")["version"]
        CredentialsFile(daemon.state).set_password("battery staple")
        with pytest.raises(EOFError):
            events.next("never")


def test_no_more_than_so_many_follow(served: Served) -> None:
    daemon, client = served
    with client.stream() as a, client.stream() as b, client.stream() as c, client.stream() as d:
        assert [events.status for events in (a, b, c, d)] == [200] * 4
        got = client.get("stream")
        assert got.problem == (503, "TooManyViewers") and got.headers["Retry-After"] == "5"
    until(lambda: dashboard_of(daemon).report()["followers"] == 0)
    with client.stream() as events:
        assert events.status == 200


def test_streams_of_those_who_have_gone_end_each_time(served: Served) -> None:
    """asyncio's wait_for, before Python 3.12, loses a cancellation that comes just when what it waits for is done."""
    daemon, client = served
    for _ in range(60):
        with client.stream() as a, client.stream() as b, client.stream() as c, client.stream() as d:
            assert [events.status for events in (a, b, c, d)] == [200] * 4
        until(lambda: dashboard_of(daemon).report()["followers"] == 0)


def test_who_has_gone_waits_for_no_picture(served: Served) -> None:
    daemon, client = served
    state = dashboard_of(daemon)._state
    assert state is not None
    lose_camera(daemon)
    for _ in range(8):  # twice as many as may watch
        connection = client.connect()
        connection.request("GET", "/api/v1/live")
        until(lambda: state.live.waiting == 1)
        connection.close()
        until(lambda: state.live.waiting == 0)


def test_bodies_of_another_type_or_size(served: Served) -> None:
    _, client = served
    client.come_in()
    text = {"Content-Type": "text/plain"}
    assert client.ask("POST", "objects", data=b"{}", headers=text).problem == (415, "UnsupportedType")
    assert client.ask("POST", "objects", data=b"").problem == (415, "UnsupportedType")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.ask("POST", "login", data=b"password=x", headers=form).problem == (415, "UnsupportedType")
    for body in (b"{", b"\xff", b'{"force": NaN}', b'{"name": "a", "name": "b"}', b"[" * 60000):
        got = client.ask("POST", "objects", data=body, headers={"Content-Type": "application/json"})
        assert got.problem == (400, "BadRequest"), body
    for value in (
        [],
        {"names": "x"},
        {"name": 3},
        {"pictures": ["x"]},
        {"pictures": ["0" * 32] * 13},
    ):
        assert client.ask("POST", "objects", value).problem == (422, "Invalid"), value
    assert client.ask("POST", "objects", {"name": "x" * 70_000}).problem == (413, "TooLarge")


def test_a_body_that_does_not_say_how_long_it_is(served: Served) -> None:
    _, client = served
    client.come_in()
    connection = client.connect()
    connection.putrequest("POST", "/api/v1/objects")
    for name, value in {
        **client.headers,
        "Content-Type": "application/json",
        "Transfer-Encoding": "chunked",
    }.items():
        connection.putheader(name, value)
    connection.endheaders()
    with contextlib.suppress(ConnectionError):  # the answer may come before all is sent
        for _ in range(40):
            connection.send(b"1000\r\n" + b" " * 4096 + b"\r\n")
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["kind"]) == (413, "TooLarge")
    connection.close()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_content_length_and_transfer_encoding_together_are_refused(served: Served, method: str) -> None:
    _, client = served
    client.come_in()
    token = client.headers["X-CSRF-Token"]
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as smuggler:
        smuggler.sendall(
            f"{method} /api/v1/objects HTTP/1.1\r\nHost: localhost:{client.port}\r\nX-CSRF-Token: {token}\r\n"
            "Content-Type: application/json\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            "0\r\n\r\n"
            f"GET /api/v1/status HTTP/1.1\r\nHost: localhost:{client.port}\r\n\r\n".encode()
        )
        answers = b"".join(iter(lambda: smuggler.recv(65536), b""))
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1 and b"connection: close" in answers.lower()
    assert b"a request must not have both Content-Length and Transfer-Encoding" in answers


def test_damaged_credentials_close_it_and_show_in_the_status(locked: Served) -> None:
    daemon, client = locked
    client.come_in(PASSWORD)
    file = CredentialsFile(daemon.service.settings.state_directory)
    file.path.write_text("{")
    assert client.get("status").problem == (503, "SettingsError")
    report = daemon.ask("status")["integrations"]["dashboard"]
    assert report["works"] is False
    assert report["state"].startswith(f"closed: {file.path} is damaged (")
    file.set_password(PASSWORD)
    assert client.get("status").problem == (401, "NotLoggedIn")
    assert daemon.ask("status")["integrations"]["dashboard"]["works"] is True


# --- below a path, behind a proxy ---


@pytest.fixture(params=["a path that the proxy removes", "a path that the proxy keeps"])
def proxied(
    request: pytest.FixtureRequest, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Daemon, Client, str]]:
    """One with a public URL, and the path with which the proxy's requests arrive."""
    CredentialsFile(tmp_path / "state").set_password(PASSWORD)
    more = 'public_url = "https://home.example/shelf"'
    with serving(tmp_path, bundle.path, monkeypatch, more) as (daemon, client):
        client.headers |= {"Host": "home.example", "Origin": "https://home.example"}
        yield daemon, client, "" if "removes" in request.param else "/shelf"


def test_the_page_works_below_a_path(proxied: tuple[Daemon, Client, str]) -> None:
    daemon, client, path = proxied
    page = client.get(f"{path}/")
    assert page.status == 200
    links = re.findall(rb'(?:href|src)="([^"#]+)"', page.data)
    assert links and not any(link.startswith((b"/", b"http")) for link in links)
    for link in links:
        assert client.get(f"{path}/{link.decode()}").status == 200
    got = client.ask("POST", f"{path}/api/v1/login", {"password": PASSWORD})
    cookie = got.headers["Set-Cookie"]
    assert re.fullmatch(
        rf"__Secure-edge-siamese-{client.port}=[\w-]+; Path=/shelf; HttpOnly; SameSite=Strict; Secure", cookie
    )
    client.headers |= {"Cookie": cookie.partition(";")[0], "X-CSRF-Token": got.json()["csrf"]}
    daemon.stage.picture = MUG
    got = client.ask("POST", f"{path}/api/v1/objects", {"name": "mug"})
    assert got.status == 200, got.data
    frames = client.get(f"{path}/api/v1/registration").json()["frames"]
    assert frames[0]["picture"].startswith("/shelf/api/v1/registration/")
    assert client.get(frames[0]["picture"]).headers["Content-Type"] == "image/png"
    (server,) = client.get(f"{path}/api/v1/openapi.json").json()["servers"]
    assert server == {"url": "https://home.example/shelf"}
    got = client.ask("POST", f"{path}/api/v1/logout", {})
    assert "Path=/shelf;" in got.headers["Set-Cookie"] and "Max-Age=0" in got.headers["Set-Cookie"]
    assert daemon.ask("status")["integrations"]["dashboard"]["url"] == "https://home.example/shelf/"


def test_the_path_without_a_slash_leads_to_the_page(proxied: tuple[Daemon, Client, str]) -> None:
    _, client, _ = proxied
    got = client.get("/shelf")
    assert (got.status, got.headers["Location"]) == (308, "/shelf/")
    for path in ("/shelfs/", "/shelf/shelf/", "/other/"):
        assert client.get(path).status == 404


def test_the_application_can_be_mounted(locked: Served) -> None:
    daemon, _ = locked
    settings = DashboardSettings(enabled=True, public_url="https://home.example/shelf")
    state = AppState(settings, daemon.service.api)
    messages: list[Any] = []

    async def ask(path: str) -> int:
        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            messages.append(message)

        messages.clear()
        scope = {
            "type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "path": path, "root_path": "",
            "raw_path": path.encode(), "query_string": b"", "headers": [(b"host", b"home.example")],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8765),
        }  # fmt: skip
        await Starlette(routes=[Mount("/shelf", make_app(state))])(scope, receive, send)
        return int(messages[0]["status"])

    try:
        statuses = [
            asyncio.run(ask(path)) for path in ("/shelf/", "/shelf/static/api.js", "/shelf/api/v1/session")
        ]
        assert statuses == [200, 200, 200]
        assert asyncio.run(ask("/shelf/api/v1/status")) == 401
    finally:
        state.close()


def test_a_body_that_never_comes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_siamese.dashboard.limits.CHUNK_SECONDS", 0.2)
    _, client = served
    client.come_in()
    connection = client.connect()
    connection.putrequest("POST", "/api/v1/objects")
    for name, value in {**client.headers, "Content-Type": "application/json", "Content-Length": "2"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.load(answer)["kind"]) == (408, "TooSlow")


def test_what_cannot_be_a_path_or_a_parameter(served: Served) -> None:
    _, client = served
    client.come_in()
    assert client.get("objects/nope").problem == (404, "NoSuchObject")
    assert client.get(f"objects/{'a' * 32}").problem == (404, "NoSuchObject")
    assert client.get("objects/..%2fstatus").problem == (404, "NotFound")
    assert client.get("views/0/pictures/0").problem == (404, "NotFound")
    assert client.get(f"views/{10**30}/pictures/0").problem == (404, "NotFound")
    for query in ("count=x", "count=501", "count=-1", "count=1&count=2", "number=1", "count=", "count=%ff"):
        assert client.get(f"events?{query}").problem == (422, "Invalid"), query
    got = client.ask("PUT", "objects", {})
    assert got.problem == (405, "MethodNotAllowed") and set(got.headers["Allow"].split(", ")) - {"HEAD"} == {
        "GET",
        "POST",
    }


def test_a_head_that_does_not_end_and_one_that_is_too_long(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(limits, "WATCH_SECONDS", 0.1)
    _, client = served
    for begun in (b"", b"GET / HTTP/1.1\r\nHost: loc"):
        with socket.create_connection(("127.0.0.1", client.port), timeout=10) as slow:
            slow.sendall(begun)
            with contextlib.suppress(ConnectionResetError):
                assert slow.recv(100) == b""
    with socket.create_connection(("127.0.0.1", client.port), timeout=10) as long:
        long.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000)
        assert long.recv(100).startswith(b"HTTP/1.1 400 ")


def test_who_takes_nothing_is_left(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_siamese.dashboard.limits.SEND_SECONDS", 0.3)
    monkeypatch.setattr(limits, "STUCK_SECONDS", 0.3)
    monkeypatch.setattr(limits, "WATCH_SECONDS", 0.1)
    daemon, client = served
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", client.port))
        slow.sendall(b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
        server = dashboard_of(daemon)._server
        assert server is not None
        until(lambda: len(server.server_state.connections) == 0)
        assert client.get("status").status == 200


def test_connections_are_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_siamese.dashboard.limits.MAX_CONNECTIONS", 5)
    daemon, client = served
    held = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(8)]
    server = dashboard_of(daemon)._server
    assert server is not None
    until(lambda: len(server.server_state.connections) == 5)
    for one in held:
        one.close()
    until(lambda: len(server.server_state.connections) == 0)
    assert client.get("status").status == 200


def test_what_nobody_foresaw_is_in_the_journal_once_and_told_without_details(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    daemon, client = served

    def fail() -> None:
        raise KeyError("a secret")

    state = dashboard_of(daemon)._state
    assert state is not None
    monkeypatch.setattr(state.api, "status", fail)
    for _ in range(3):
        got = client.get("status")
        assert got.problem == (500, "InternalError")
        assert b"secret" not in got.data and got.headers["X-Content-Type-Options"] == "nosniff"
    (record,) = [record for record in caplog.records if record.name == "edge_siamese.dashboard.app"]
    assert record.getMessage() == "the dashboard failed: KeyError: 'a secret'" and record.exc_info
    assert client.get("session").status == 200


def test_it_ends_in_time_with_all_that_is_open(served: Served) -> None:
    daemon, client = served
    client.come_in()
    lose_camera(daemon)
    state = dashboard_of(daemon)._state
    assert state is not None
    waiting = threading.Thread(target=lambda: client.get("live"), daemon=True)
    with client.stream() as events:
        waiting.start()
        events.next("status")
        until(lambda: state.live.waiting == 1)
        daemon.stop()
        with pytest.raises((EOFError, ConnectionError, http.client.IncompleteRead)):
            events.next("never")
    waiting.join(5)
    assert not waiting.is_alive()
    assert not [thread.name for thread in threading.enumerate() if thread.name == "dashboard"]
    with pytest.raises(ConnectionRefusedError):
        client.get("status")


def test_a_slow_client_costs_recognition_nothing(served: Served) -> None:
    daemon, client = served
    client.come_in()
    daemon.stage.picture = MUG
    with client.stream(), client.stream():
        engine = daemon.service.engine
        assert engine is not None
        before = engine.frames
        until(lambda: engine.frames > before + 100, 60)


def test_a_port_that_is_taken(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr("tests.edge_siamese.dashboard.serving.free_port", lambda: port)
    with (
        socket.create_server(("127.0.0.1", port)),
        serving(tmp_path, bundle.path, monkeypatch) as (daemon, _),
    ):
        assert daemon.told("dashboard") == (
            f"no dashboard: the dashboard cannot listen at 127.0.0.1, port {port}: Address already in use; "
            f"process {os.getpid()} ({COMMAND}) uses it: set another port in [dashboard]"
        )
        assert daemon.ask("status")["integrations"]["dashboard"]["works"] is False


def test_beyond_this_machine_it_needs_a_password(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path, bundle.path, monkeypatch, 'listen = "0.0.0.0"') as (daemon, client):
        assert daemon.told("dashboard") == (
            "no dashboard: the dashboard needs a password, since it listens at 0.0.0.0, which other machines can reach: "
            "sudo edge-siamese dashboard password"
        )
        with pytest.raises(ConnectionRefusedError):
            client.get("session")


def test_addresses_that_cannot_be_had() -> None:
    settings = DashboardSettings(port=free_port())
    with pytest.raises(SettingsError, match=r"^the dashboard cannot listen at 192\.0\.2\.1, port \d+: "):
        bind(structs.replace(settings, listen="192.0.2.1"))
    with pytest.raises(
        SettingsError,
        match=r"^listen in \[dashboard\] must be an address of this machine, such as 0\.0\.0\.0, not 'kitchen'$",
    ):
        bind(structs.replace(settings, listen="kitchen"))


def test_responses_do_not_wait_for_acknowledgments() -> None:
    settings = DashboardSettings(port=free_port())
    with (
        bind(settings) as listener,
        socket.create_connection(("127.0.0.1", settings.port)),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# --- TLS ---


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_over_tls(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, certificate: tuple[Path, Path]
) -> None:
    CredentialsFile(tmp_path / "state").set_password(PASSWORD)
    more = f'certificate = "{certificate[0]}"\nkey = "{certificate[1]}"'
    with serving(tmp_path, bundle.path, monkeypatch, more) as (daemon, plain):
        client = Client(plain.port, ssl.create_default_context(cafile=str(certificate[0])))
        got = client.ask("POST", "login", {"password": PASSWORD})
        assert got.headers["Set-Cookie"].startswith(f"__Host-edge-siamese-{plain.port}=")
        assert got.headers["Set-Cookie"].endswith("; Secure")
        # It would bind all ports of the host, and so what else is served there.
        assert got.headers["Strict-Transport-Security"] is None
        client.come_in(PASSWORD)
        with client.stream() as events:
            assert events.next("status")["version"]
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            plain.get("session")
        daemon.stop()


def test_a_new_certificate_is_taken_while_it_runs(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_module, "CERTIFICATE_CHECK_SECONDS", 0.1)
    cert, key = make_certificate(tmp_path)
    first = cert.read_text()
    with serving(tmp_path, bundle.path, monkeypatch, f'certificate = "{cert}"\nkey = "{key}"') as (_, plain):
        client = Client(plain.port, ssl.create_default_context(cadata=first))
        assert client.get("session").status == 200
        cert.write_text("not yet")
        until(lambda: "keeping the previous certificate" in caplog.text)
        assert client.get("session").status == 200
        make_certificate(tmp_path)
        renewed = Client(plain.port, ssl.create_default_context(cadata=cert.read_text()))

        def works() -> bool:
            with contextlib.suppress(ssl.SSLError):
                return renewed.get("session").status == 200
            return False

        until(works)
        with pytest.raises(ssl.SSLError):
            client.get("session")


def test_certificates_that_cannot_be_used(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key = certificate
    settings = DashboardSettings(certificate=str(cert), key=str(key))
    context = tls_context(settings)
    assert context is not None and context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls_context(DashboardSettings()) is None
    for wrong in (
        structs.replace(settings, key=str(cert)),
        structs.replace(settings, certificate=str(tmp_path / "none.pem")),
    ):
        with pytest.raises(SettingsError, match=r"^certificate .* and key .* cannot be used: "):
            tls_context(wrong)
    subprocess.run(
        ["openssl", "rsa", "-aes256", "-passout", "pass:x", "-in", key, "-out", tmp_path / "locked.pem"],
        check=True,
        capture_output=True,
    )
    with pytest.raises(SettingsError, match=r"the key is encrypted; use one without a password$"):
        tls_context(structs.replace(settings, key=str(tmp_path / "locked.pem")))


def test_without_its_packages_the_daemon_runs_and_says_so(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "edge_siamese.dashboard.server")
    with serving(tmp_path, bundle.path, monkeypatch) as (daemon, _):
        told = daemon.told("dashboard")
        assert "it needs the package uvicorn, which is not installed: " in told
        assert "pip install 'edge-siamese[dashboard]'" in told


def test_the_daemon_without_it_imports_nothing_of_it(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with daemon_in(tmp_path, monkeypatch) as daemon:
        daemon.configure(bundle.path)
        daemon.start().up()
        assert daemon.ask("status")["integrations"] == {}
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("dashboard")]
