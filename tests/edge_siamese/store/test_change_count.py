"""Changes that were on disk and are missing are reported, and an older file is replaced by its backup."""

import os
import shutil
import sqlite3
from contextlib import closing

import pytest

from edge_siamese.store import database as database_module
from edge_siamese.store.change_count import ChangeCount, read_count, write_count
from tests.edge_siamese.store.samples import names, open_store, vector, view

COUNT_FILE, LOG = "objects.db.changes", "objects.db-wal"


def lost(changes: str, place) -> str:
    return f"{changes} missing in {place / 'objects.db'}: the file or its log was lost or replaced"


def copy_while_open(store, place, target):
    """What a power cut leaves: the database with its log."""
    shutil.copytree(place, target, ignore=shutil.ignore_patterns("*-shm", "*.lock"))


@pytest.fixture
def cut(tmp_path):
    """A store of five changes, of which the last three are in the log."""
    place = tmp_path / "place"
    with open_store(place) as store:
        for number in (1, 2):
            store.register(f"thing {number}", view(number))
    with open_store(place) as store:
        for number in (3, 4):
            store.register(f"thing {number}", view(number))
        store.forget("thing 1")
        copy_while_open(store, place, tmp_path / "cut")
    return tmp_path / "cut"


@pytest.mark.parametrize("harm", ["missing", "empty", "half", "damaged", "none"])
def test_a_lost_or_torn_log_is_reported_once(cut, harm):
    path = cut / LOG
    log = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm != "none":
        position = 200 if harm == "damaged" else len(log)
        changed = {"empty": b"", "half": log[: len(log) // 2]}
        path.write_bytes(changed.get(harm, log[:position] + b"?" + log[position + 1 :]))
    with open_store(cut) as store:
        here = names(store)
        count = {"none": 0, "half": 5 - 2 - (len(here) - 2)}.get(harm, 3)
        assert store.lost_changes == count
        assert here == (
            ["thing 2", "thing 3", "thing 4"]
            if harm == "none"
            else ["thing 1", "thing 2", "thing 3"][: 5 - count]
        )
        expected = (lost(f"the last {count} changes are", cut),) if count else ()
        assert store.findings == expected
        assert store.repair is None
    with open_store(cut) as store:
        assert (store.lost_changes, store.findings) == (0, ())


def test_without_power_before_the_report_it_is_reported_again(cut):
    (cut / LOG).unlink()
    with open_store(cut) as store:
        assert store.lost_changes == 3
        copy_while_open(store, cut, cut.parent / "again")
        store.register("new", view(9))
        copy_while_open(store, cut, cut.parent / "changed")
    with open_store(cut.parent / "again") as store:
        assert store.lost_changes == 3
    with open_store(cut.parent / "changed") as store:
        assert store.lost_changes == 0


def test_a_file_older_than_its_backup_is_replaced_by_it(cut):
    with open_store(cut) as store:
        assert store.backup()
        store.register("thing 5", view(5))
        copy_while_open(store, cut, cut.parent / "older")
    older = cut.parent / "older"
    shutil.copy(cut.parent / "cut" / "objects.backup.db", older)
    (older / LOG).unlink()
    with open_store(cut.parent / "place") as store:  # of the same store, without the later changes
        store.close()
    with closing(sqlite3.connect(older / "objects.db")) as connection, connection:
        connection.execute("DELETE FROM embeddings")
        connection.execute("UPDATE facts SET value = '2' WHERE name = 'changes'")
    with open_store(older) as store:
        assert names(store) == ["thing 2", "thing 3", "thing 4"]
        assert (store.entries()[0].embeddings == [vector(2)]).all()
        repaired, missing = store.findings
        assert repaired == (
            f"{older / 'objects.db'} was damaged (it is older than its backup by 3 changes): 3 of 3 objects were recovered; "
            "the damaged file is kept as objects.damaged-2026-11-24.db"
        )
        assert missing == lost("the last change is", older)
        assert (older / "objects.damaged-2026-11-24.db").exists()


def test_a_missing_file_without_a_backup_is_reported(cut):
    for name in ("objects.db", LOG):
        (cut / name).unlink()
    with open_store(cut) as store:
        assert "was damaged (it is missing or empty): 0 of 0 objects were recovered" in store.findings[0]
    for path in cut.glob("objects.db*"):
        path.unlink()
    with open_store(cut) as store:  # as the documentation says: a new store
        assert store.findings == ()


def test_the_file_of_another_store_is_ignored(cut, tmp_path):
    with open_store(tmp_path / "other") as store:
        store.register("mug", view(1))
    shutil.copy(cut / COUNT_FILE, tmp_path / "other")
    with open_store(tmp_path / "other") as store:
        assert (store.lost_changes, names(store)) == (0, ["mug"])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"9" * 5000,
        b"0" * 32 + b" 99 00000000\n",
        b"0" * 32 + b" " + b"9" * 30 + b" 00000000\n",
    ],
)
def test_a_damaged_file_is_ignored_and_replaced(cut, content):
    before = (cut / COUNT_FILE).read_bytes()
    (cut / COUNT_FILE).write_bytes(content)
    with open_store(cut) as store:
        assert store.lost_changes == 0
    assert (cut / COUNT_FILE).read_bytes() == before


def test_any_changed_byte_makes_the_file_invalid(tmp_path):
    path, count = tmp_path / COUNT_FILE, ChangeCount("0a" * 16, 1234)
    write_count(path, count)
    content = path.read_bytes()
    assert read_count(path) == count
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        assert read_count(path) is None
    path.unlink()
    assert read_count(path) is None


def test_embeddings_are_not_counted_and_an_undo_is(tmp_path):
    path = tmp_path / COUNT_FILE
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
        store.set_embeddings({1: vector(2)})
        assert read_count(path).changes == 1
        store.undo()
        assert read_count(path).changes == 2
        with store._database.change(counted=False) as connection:
            connection.execute("DELETE FROM crops")
        assert read_count(path).changes == 2


class PowerCutError(BaseException):
    """Nothing after it happens."""


def test_a_power_cut_between_change_and_count_is_no_loss(tmp_path, monkeypatch):
    place = tmp_path / "place"
    with open_store(place) as store:
        store.register("mug", view(1))

        def cut(*_):
            copy_while_open(store, place, tmp_path / "cut")
            raise PowerCutError

        with monkeypatch.context() as patch:
            patch.setattr(database_module, "write_count", cut)
            with pytest.raises(PowerCutError):
                store.register("pen", view(2))
    with open_store(tmp_path / "cut") as store:
        assert (store.lost_changes, names(store)) == (0, ["mug", "pen"])
        assert read_count(tmp_path / "cut" / COUNT_FILE).changes == 2


def test_a_full_disk_does_not_undo_the_change(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, os.strerror(28))

    with open_store(tmp_path) as store:
        monkeypatch.setattr("edge_siamese.store.change_count.write_text_atomically", full)
        store.register("mug", view(1))
        assert names(store) == ["mug"]
    monkeypatch.undo()
    with open_store(tmp_path) as store:
        assert store.lost_changes == 0
