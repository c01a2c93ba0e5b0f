"""Imports and exports of archives, while the daemon goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.errors import StoreBusy, StoreError
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.registration import NewView
from edge_siamese.store import SupportStore, bounded_zip
from edge_siamese.store import archive as archive_module
from edge_siamese.system.threads import DaemonThreadPool
from tests.edge_siamese.daemon.running import CUP, MUG, PEN, Daemon, daemon_in, until

pytest.importorskip("onnxruntime")


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        yield made.start().up()


def archive_in(folder: Path, count: int = 20) -> Path:
    """An archive of one object with one view of another model and many pictures, which compress very well."""
    path = folder / "many.zip"
    with SupportStore(folder / "other.db", "other", 4) as store:
        store.register(
            "many", NewView(np.ones(4, np.float32), (np.zeros((512, 512, 3), np.uint8),) * count, "camera")
        )
        store.export_archive(path)
    return path


def with_frames_before(daemon: Daemon, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that the daemon's loop must not call: it waits for frames before it does its work."""

    def wait_and_call(*words: Any) -> Any:
        engine: Any = daemon.service.engine
        before = engine.frames
        until(lambda: engine.frames > before + 1, 10)
        return function(*words)

    return wait_and_call


def test_frames_are_recognized_while_an_archive_is_decoded_and_written(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive_in(tmp_path)
    decode, insert = bounded_zip.decode_png, archive_module.insert_crops
    monkeypatch.setattr(bounded_zip, "decode_png", with_frames_before(daemon, decode))
    monkeypatch.setattr(archive_module, "insert_crops", with_frames_before(daemon, insert))
    done = DaemonThreadPool(1, "import").submit(lambda: daemon.service.api.import_(path, "rename"))
    daemon.show(MUG, None)
    assert done.result(60)["text"] == (
        "imported: objects 1, views 1, negatives 0; to be embedded from pictures 1"
    )
    until(lambda: "many" in daemon.service.engine.support.names)  # type: ignore[union-attr]


def test_frames_are_recognized_while_an_archive_is_exported(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.learn("mug", MUG)
    member = with_frames_before(daemon, archive_module.new_member)
    monkeypatch.setattr(archive_module, "new_member", member)
    assert daemon.service.api.export_to(tmp_path / "objects.zip") == 1


def test_an_export_has_the_state_of_its_beginning_and_others_change_the_store_meanwhile(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.learn("mug", MUG)
    reached, proceed = threading.Event(), threading.Event()
    member = archive_module.new_member

    def slow(name: str) -> Any:
        reached.set()
        assert proceed.wait(30)
        return member(name)

    monkeypatch.setattr(archive_module, "new_member", slow)
    done = DaemonThreadPool(1, "export").submit(
        lambda: daemon.service.api.export_to(tmp_path / "objects.zip")
    )
    assert reached.wait(30)
    daemon.learn("pen", PEN)
    daemon.ask("forget", name="mug")
    proceed.set()
    assert done.result(30) == 1
    with SupportStore(None, "other", 4) as store:
        store.import_archive(tmp_path / "objects.zip")
        assert [known.name for known in store.objects()] == ["mug"]


def import_that_waits(
    daemon: Daemon, path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Future[dict[str, Any]], threading.Event]:
    """An import that has begun to store its pictures, and the event that it waits for."""
    reached, proceed = threading.Event(), threading.Event()
    insert = archive_module.insert_crops

    def slow(*words: Any) -> None:
        reached.set()
        assert proceed.wait(30)
        insert(*words)

    monkeypatch.setattr(archive_module, "insert_crops", slow)
    done = DaemonThreadPool(1, "import").submit(lambda: daemon.service.api.import_(path, "rename"))
    assert reached.wait(30)
    return done, proceed


def test_changes_during_the_last_phase_of_an_import_are_refused_and_nothing_is_lost(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.learn("mug", MUG)
    path = archive_in(tmp_path, 2)
    done, proceed = import_that_waits(daemon, path, monkeypatch)
    busy = "an archive is being imported, nothing was changed; try again when it is finished"
    with pytest.raises(StoreBusy, match=busy):
        daemon.ask("rename", name="mug", new="cup")
    with pytest.raises(StoreError, match="an archive is being imported; try again when it is finished"):
        daemon.service.api.import_(path, "rename")
    daemon.show(MUG, "mug")
    proceed.set()
    assert done.result(30)["objects"] == 1
    daemon.ask("rename", name="mug", new="cup")
    daemon.learn("pen", PEN)
    names = [item["name"] for item in daemon.ask("objects")["objects"]]
    assert names == ["cup", "many", "pen"]


def test_an_import_ends_with_the_daemon_and_changes_nothing(
    daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.learn("mug", MUG)
    path = archive_in(tmp_path, 3)
    done, proceed = import_that_waits(daemon, path, monkeypatch)
    daemon.stop()
    proceed.set()
    with pytest.raises(StoreError, match=r"objects\.db is closed$"):
        done.result(30)
    daemon.start().up()
    assert [item["name"] for item in daemon.ask("objects")["objects"]] == ["mug"]
    daemon.learn("cup", CUP)
