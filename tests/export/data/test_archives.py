"""Archives of data sets: downloads that are checked, and reading of zip files and folders."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_siamese.errors import DataError
from export.data.archives import OFFICIAL_URL, OMNIGLOT, Archive, RemoteFile, fetch_omniglot

from .conftest import write_zip

FILES = {"b/two.txt": b"2" * 500, "a/one.txt": b"1", "a/c/three.txt": b"333"}
JUNK = {"__MACOSX/a/._one.txt": b"fork", "a/.DS_Store": b"junk"}


def test_a_zip_and_its_folder_give_the_same_files(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", FILES | JUNK)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path / "x")
    packed = list(Archive(tmp_path / "x.zip").files())
    assert packed == sorted(FILES.items())
    assert list(Archive(tmp_path / "x").files()) == packed


def test_fingerprints(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", FILES)
    content = (tmp_path / "x.zip").read_bytes()
    assert Archive(tmp_path / "x.zip").fingerprint() == {
        "name": "x.zip",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path / "x")
    before = Archive(tmp_path / "x").fingerprint()
    assert before["bytes"] == 504
    (tmp_path / "x" / "a" / "one.txt").write_bytes(b"7")
    assert Archive(tmp_path / "x").fingerprint()["sha256"] != before["sha256"]


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_zip_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "images_background.zip"
    write_zip(path, FILES)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"images_background\.zip is truncated or corrupt; delete it"):
        list(Archive(path).files())


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/file", b"hello, world")
    content = bytearray(path.read_bytes())
    content[content.index(b"hello")] = ord("j")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.zip is truncated or corrupt.*CRC"):
        list(Archive(path).files())


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.zip"):
        Archive(tmp_path / "none.zip").fingerprint()


ONE, TWO = b"first archive " * 9000, b"second archive"
REMOTE_FILES = (
    RemoteFile("one.zip", len(ONE), hashlib.sha256(ONE).hexdigest()),
    RemoteFile("sub/two.zip", len(TWO), hashlib.sha256(TWO).hexdigest()),
)


class Server(ThreadingHTTPServer):
    """Serves `contents` by path and remembers what was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents = {"/one.zip": ONE, "/sub/two.zip": TWO}
        self.promised: dict[str, int] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.contents.get(self.path)
        if content is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(self.server.promised.get(self.path, len(content))))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_archives_are_fetched_once(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "new" / "omniglot"
    assert fetch_omniglot(into, server.url + "/", REMOTE_FILES) == into
    assert (into / "one.zip").read_bytes() == ONE
    assert (into / "two.zip").read_bytes() == TWO
    assert sorted(p.name for p in into.iterdir()) == ["one.zip", "two.zip"]
    assert server.asked == ["/one.zip", "/sub/two.zip"]
    assert "fetching one.zip (0.1 MB)" in capsys.readouterr().err
    fetch_omniglot(into, server.url, REMOTE_FILES)
    assert len(server.asked) == 2


def test_the_environment_names_a_mirror(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_SIAMESE_OMNIGLOT_URL", server.url)
    fetch_omniglot(tmp_path, files=REMOTE_FILES)
    assert (tmp_path / "two.zip").read_bytes() == TWO


def test_another_content_is_refused_and_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.contents["/one.zip"] = b"F" + ONE[1:]
    with pytest.raises(
        DataError, match=r"one\.zip: its sha256 is not that of the official archive; put one\.zip into"
    ):
        fetch_omniglot(tmp_path / "x", server.url, REMOTE_FILES)
    assert list((tmp_path / "x").iterdir()) == []


def test_more_than_expected_is_refused_without_reading_it_all(server: Server, tmp_path: Path) -> None:
    server.contents["/one.zip"] = ONE + b"x" * 10_000_000
    with pytest.raises(DataError, match="its sha256 is not that"):
        fetch_omniglot(tmp_path / "x", server.url, REMOTE_FILES)
    assert list((tmp_path / "x").iterdir()) == []


def test_a_connection_that_ends_early_leaves_nothing_and_the_next_try_starts_clean(
    server: Server, tmp_path: Path
) -> None:
    server.contents["/one.zip"], server.promised["/one.zip"] = ONE[:70_000], len(ONE)
    with pytest.raises(DataError, match=rf"the connection ended after 70000 of {len(ONE)} bytes; try again"):
        fetch_omniglot(tmp_path / "x", server.url, REMOTE_FILES)
    assert list((tmp_path / "x").iterdir()) == []
    server.contents["/one.zip"] = ONE
    fetch_omniglot(tmp_path / "x", server.url, REMOTE_FILES)
    assert (tmp_path / "x" / "one.zip").read_bytes() == ONE


def test_a_file_that_the_server_lacks(server: Server, tmp_path: Path) -> None:
    del server.contents["/sub/two.zip"]
    with pytest.raises(
        DataError, match=r"cannot fetch http://.*/sub/two\.zip \(HTTP 404 Not Found\); put two\.zip into .*x"
    ):
        fetch_omniglot(tmp_path / "x", server.url, REMOTE_FILES)
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["one.zip"]


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(
        DataError, match=r"cannot fetch http://127.*refused.*; put one\.zip into .*, or pass --data-root"
    ):
        fetch_omniglot(tmp_path, f"http://127.0.0.1:{port}", REMOTE_FILES)


def test_a_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot create .*file/omniglot for the Omniglot archives"):
        fetch_omniglot(tmp_path / "file" / "omniglot", server.url, REMOTE_FILES)


def test_only_old_leftovers_of_killed_runs_are_removed(server: Server, tmp_path: Path) -> None:
    old, recent = tmp_path / ".one.zip.old", tmp_path / ".one.zip.recent"
    old.write_bytes(b"half")
    recent.write_bytes(b"half")
    os.utime(old, (1, 1))
    fetch_omniglot(tmp_path, server.url, REMOTE_FILES)
    assert not old.exists()
    assert recent.exists()


def test_what_is_pinned() -> None:
    assert OFFICIAL_URL == "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
    assert {file.path: (file.bytes, file.sha256[:8]) for file in OMNIGLOT} == {
        "images_background.zip": (9464212, "ad41ab67"),
        "images_evaluation.zip": (6462886, "1f61a8f3"),
        "one-shot-classification/all_runs.zip": (352787, "437c1eea"),
    }
