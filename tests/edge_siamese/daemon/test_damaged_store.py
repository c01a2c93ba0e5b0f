"""Damage in the store costs a view at most, is reported wherever people look, and is repaired from the pictures."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edge_siamese.daemon import service as service_module
from edge_siamese.errors import ControlError
from edge_siamese.models.bundle import Bundle
from edge_siamese.mqtt.publisher import problem_of
from tests.edge_siamese.daemon.running import CUP, MUG, PEN, Daemon, daemon_in, until


def flip(daemon: Daemon, view: int, pictures: bool) -> None:
    """Change one bit of an embedding behind the daemon's back."""
    with closing(sqlite3.connect(daemon.state / "objects.db")) as connection, connection:
        ((vector,),) = connection.execute("SELECT vector FROM embeddings WHERE view_id = ?", (view,))
        changed = bytes([vector[0] ^ 1]) + vector[1:]
        connection.execute("UPDATE embeddings SET vector = ? WHERE view_id = ?", (changed, view))
        if not pictures:
            connection.execute("DELETE FROM crops WHERE view_id = ?", (view,))


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    pytest.importorskip("onnxruntime")
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        yield made


@pytest.fixture
def three(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """A daemon that has registered three things and was stopped; it has no backup."""
    monkeypatch.setattr(service_module, "STATUS_SECONDS", 0.02)
    daemon.start().up()
    for name, picture in (("mug", MUG), ("pen", PEN), ("cup", CUP)):
        daemon.learn(name, picture)
    daemon.stop()
    return daemon


LISTED = 'view 2 of "pen" is not used: its embedding is damaged and no pictures of it are stored'


def test_damaged_embeddings_are_computed_again_or_listed(three: Daemon) -> None:
    flip(three, 1, pictures=True)
    flip(three, 2, pictures=False)
    three.start().up()
    (text,) = three.events("store")
    assert text == (
        "the store had damaged data: 2 embeddings of registered views; 1 embedding to be computed again from stored "
        "pictures; not used, for lack of pictures: 1 view (2)"
    )
    status = three.ask("status")
    assert status["store"]["repair"] == text
    assert [(part["id"], part["text"]) for part in status["quarantine"]] == [("damaged-view-2", LISTED)]
    assert problem_of(status) == LISTED
    assert three.ask("quarantine")["parts"] == status["quarantine"]
    three.show(MUG, "mug")
    three.show(CUP, "cup")
    with pytest.raises(ControlError, match=r"register the view again, then remove this one"):
        three.ask("restore", id="damaged-view-2")
    three.learn("pen 2", PEN)
    three.show(PEN, "pen 2")
    three.ask("forget", name="pen")
    assert three.ask("status")["quarantine"] == []


def test_damage_while_the_daemon_runs_is_found_when_the_objects_are_read_again(three: Daemon) -> None:
    three.start().up()
    engine = three.service.engine
    flip(three, 1, pictures=True)
    three.ask("rename", name="pen", new="pencil")
    assert three.events("store") == []
    assert engine is not None
    three.service.call(engine.reload_objects)
    text = three.told("store")
    assert text.startswith("the store had damaged data: 1 embedding of registered views; 1 embedding to be")
    until(lambda: len(engine.support) == 3)
    assert three.service.engine is engine
    three.show(MUG, "mug")


def test_views_whose_pictures_are_damaged_too_are_listed(three: Daemon) -> None:
    flip(three, 1, pictures=True)
    with closing(sqlite3.connect(three.state / "objects.db")) as connection, connection:
        connection.execute("UPDATE crops SET picture = substr(picture, 1, 60) WHERE view_id = 1")
    three.start().up()
    assert len(three.events("store")) == 2
    assert three.events("store")[-1].startswith(
        "1 view cannot be embedded and will not be recognized: view 1: "
    )
    (part,) = three.ask("status")["quarantine"]
    assert part["id"] == "damaged-view-1"
    assert "a stored picture is damaged" in part["reason"]
    three.show(CUP, "cup")


def test_lost_changes_are_reported_at_the_start(three: Daemon) -> None:
    three.start().up()
    three.ask("rename", name="pen", new="pencil")
    copy = three.home / "copy"
    shutil.copytree(three.state, copy, ignore=shutil.ignore_patterns("objects.db-*", "*.lock"))
    three.stop()
    for name in ("objects.db", "objects.db.changes"):
        shutil.copy(copy / name, three.state / name)
    three.start().up()
    text = f"the last change is missing in {three.state / 'objects.db'}: the file or its log was lost or replaced"
    assert three.events("store") == [text]
    assert three.ask("status")["store"]["repair"] == text
    assert "pen" in [item["name"] for item in three.ask("objects")["objects"]]
    three.stop()
    three.start().up()
    assert three.events("store") == []
