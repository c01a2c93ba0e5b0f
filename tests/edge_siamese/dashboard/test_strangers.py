"""Who is not logged in may ask as often as the page does, and no more."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_siamese.dashboard import app, openapi
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.dashboard.state import STATIC
from edge_siamese.dashboard.static_files import page_files
from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.dashboard.serving import Client, serving

PASSWORD = "correct horse"


@pytest.fixture
def client(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Of a dashboard with a password, which takes it for one on another machine."""
    monkeypatch.setattr(app, "is_loopback", lambda _: False)
    monkeypatch.setattr(app, "PER_ADDRESS", (1.0, 100.0))
    CredentialsFile(tmp_path / "state").set_password(PASSWORD)
    with serving(tmp_path, bundle.path, monkeypatch) as (_, found):
        yield found


def test_a_stranger_has_the_page_and_comes_in_and_then_asks_as_often_as_it_likes(client: Client) -> None:
    for path in ("/", *(f"/static/{name}" for name in page_files(STATIC)), "session", "status"):
        assert client.get(path).status in (200, 401), path
    client.come_in(PASSWORD)
    assert {client.get(path).status for path in ("/", "status", "session") * 60} == {200}
    stranger = Client(client.port)
    found = [stranger.get("session").status for _ in range(100)]
    assert found.count(429) > 20 and found[-1] == 429
    assert client.get("status").status == 200


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/nothing", "session", "openapi.json", "status"])
def test_nothing_can_be_asked_for_without_end(client: Client, path: str) -> None:
    for _ in range(101):
        client.get(path)
    got = client.get(path)
    assert got.problem == (429, "TooMany") and got.headers["Connection"] == "close"
    assert got.headers["Retry-After"] == "1" and got.headers["X-Frame-Options"] == "DENY"
    for headers in ({"Authorization": "Bearer x"}, {"Cookie": "a=b"}, {"Host": "evil.example"}):
        assert client.get(path, headers=headers).status == 429


def test_behind_a_proxy_strangers_are_counted_together(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "TOGETHER", (0.1, 5.0))
    CredentialsFile(tmp_path / "state").set_password(PASSWORD)
    with serving(tmp_path, bundle.path, monkeypatch, 'hosts = ["home.example"]') as (_, proxy):
        assert [proxy.get("session").status for _ in range(6)] == [200] * 5 + [429]


def test_the_description_is_made_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    first = client.get("openapi.json")
    monkeypatch.setattr(openapi, "describe", None)
    again = client.get("openapi.json")
    assert first.json() == again.json() and first.json()["openapi"] == "3.1.0"


def test_the_files_come_as_they_are(client: Client) -> None:
    files = page_files(STATIC)
    assert {path.name for path in STATIC.iterdir()} == set(files)
    for name, file in files.items():
        got = client.get(f"/static/{name}")
        assert (got.data, got.headers["Content-Type"]) == (file.data, file.type) and file.data
        same = client.get(f"/static/{name}", headers={"If-None-Match": f'"x", W/{file.tag}'})
        assert (same.status, same.data, same.headers["ETag"]) == (304, b"", file.tag)
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=5)
    connection.request("HEAD", "/")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    assert int(answer.headers["Content-Length"]) == len(files["index.html"].data)
    connection.close()
