"""A damaged store is renamed, and what can be read from it or from its backup is restored."""

import contextlib
import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edge_siamese.errors import StoreError
from edge_siamese.store import recovery
from edge_siamese.store.errors import is_damage, store_error
from edge_siamese.store.tables import row_checksum
from tests.edge_siamese.store.samples import names, open_store, vector, view

COUNT = 200
DAMAGED = "objects.damaged-2026-11-24.db"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A directory with a store of many pages and no backup; not to be changed."""
    place = tmp_path_factory.mktemp("sound")
    with open_store(place) as store:
        store._database.connection.execute("PRAGMA synchronous = OFF")
        for number in range(COUNT):
            store.register(f"a thing with a long name, so that pages fill {number}", view(number))
    return place


@pytest.fixture
def place(sound, tmp_path):
    shutil.copytree(sound, tmp_path, dirs_exist_ok=True)
    return tmp_path


def pages_of(path: Path, table: str) -> list[int]:
    """The numbers of the leaf pages of a table, found by the text or bytes in them; dbstat is not built in everywhere."""
    with closing(sqlite3.connect(path)) as connection:
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        (root,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    data = path.read_bytes()
    page = data[(root - 1) * size : root * size]
    if page[0] == 13:
        return [root]
    assert page[0] == 5, "an interior page of a table"
    cells = int.from_bytes(page[3:5], "big")
    starts = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)]
    return [int.from_bytes(page[start : start + 4], "big") for start in starts] + [
        int.from_bytes(page[8:12], "big")
    ]


def spoil(path: Path, page: int, size: int = 4096) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xa5" * size)


def test_a_file_that_is_no_database_is_renamed_and_kept(tmp_path):
    path = tmp_path / "objects.db"
    path.write_bytes(b"not a database at all" * 1000)
    with open_store(tmp_path) as store:
        assert store.objects() == []
        repair = store.repair
        store.register("mug", view(1))
    assert (repair.found, repair.recovered, repair.damaged) == (0, 0, tmp_path / DAMAGED)
    assert repair.text == (
        f"{path} was damaged (file is not a database): 0 of 0 objects were recovered; "
        f"the damaged file is kept as {DAMAGED}"
    )
    assert (tmp_path / DAMAGED).read_bytes() == b"not a database at all" * 1000
    with open_store(tmp_path) as store:
        assert store.repair is None
        assert names(store) == ["mug"]


def test_a_second_damaged_file_gets_a_name_of_its_own(tmp_path):
    for content in (b"first" * 999, b"second" * 999):
        for name in ("objects.db", "objects.db-wal"):
            (tmp_path / name).write_bytes(content)
        open_store(tmp_path).close()
    assert (tmp_path / DAMAGED).read_bytes() == b"first" * 999
    assert (tmp_path / f"{DAMAGED}-wal").read_bytes() == b"first" * 999
    assert (tmp_path / "objects.damaged-2026-11-24-2.db").read_bytes() == b"second" * 999
    assert (tmp_path / "objects.damaged-2026-11-24-2.db-wal").read_bytes() == b"second" * 999


@pytest.mark.parametrize("harm", ["not a database", "empty", "missing", "header", "half"])
def test_what_cannot_be_read_comes_from_the_backup(place, harm):
    path = place / "objects.db"
    with open_store(place) as store:
        before = [(entry.uid, entry.view_ids) for entry in store.entries()]
        assert store.backup()
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        harmed = {"not a database": b"?" * 5000, "empty": b"", "header": b"\0" * 100 + data[100:]}
        path.write_bytes(harmed.get(harm, data[: len(data) // 2]))
    with open_store(place) as store:
        assert [(entry.uid, entry.view_ids) for entry in store.entries()] == before
        assert np.array_equal(store.entries()[7].embeddings, [vector(7)])
        assert store.crop(COUNT, 1).shape == (12, 16, 3)
        assert (store.repair.found, store.repair.recovered) == (COUNT, COUNT)
        assert store.undo().kind == "registered"
        assert store.register(None, view(1)).id == COUNT + 1


@pytest.mark.parametrize("table", ["objects", "views", "embeddings", "changes"])
def test_a_spoiled_page_costs_what_was_on_it_at_most(place, table):
    path = place / "objects.db"
    pages = pages_of(path, table)
    assert len(pages) > 1
    spoil(path, pages[len(pages) // 2])
    with open_store(place) as store:
        assert store.repair.found in (COUNT, COUNT - 1) or table == "views"
        assert store.repair.damaged.name == DAMAGED
        found = store.objects()
        if table == "objects":  # their views are there: only the names are lost
            assert len(found) == COUNT
            assert 0 < sum(item.name.startswith("recovered ") for item in found) < COUNT / 2
            assert len({item.uid for item in found}) == COUNT
        elif table == "views":
            assert COUNT / 2 < len(found) < COUNT
        else:
            assert len(found) == COUNT
        missing = COUNT - len(store.entries())
        assert missing == (len(store.unembedded()) if table == "embeddings" else COUNT - len(found))
        assert store._database.read("PRAGMA foreign_key_check") == []
        assert store.register("next", view(99)).embedded == 1


def test_of_a_file_that_was_cut_off_the_rest_is_read(place):
    path = place / "objects.db"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - size // 20 // 4096 * 4096)
    with open_store(place) as store:
        assert COUNT / 2 < store.repair.recovered == len(store.objects()) <= COUNT
        assert len(store.entries()) > COUNT / 2


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_disk_does_the_store_opens_and_what_it_shows_is_whole(place, seed):
    path, chance = place / "objects.db", random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice([1, 20])):
        start, length = chance.randrange(len(data)), chance.choice([1, 512, 4096])
        data[start : start + length] = chance.randbytes(len(data[start : start + length]))
    path.write_bytes(data)
    for _ in range(2):
        with open_store(place) as store:
            assert all(np.isfinite(entry.embeddings).all() for entry in store.entries())
            assert len(store.entries()) <= len(store.objects()) <= COUNT + 1
            with contextlib.suppress(StoreError):  # damage among the pictures, which the next opening repairs
                store.register("next", view(999))
                store.undo()
    assert len(list(place.glob("*.damaged-*.db"))) <= 2


def test_a_message_that_is_no_text_is_damage_too(tmp_path):
    error = UnicodeDecodeError("utf-8", b"\xdb", 0, 1, "invalid")
    assert is_damage(error)
    assert "is damaged (it has text that is not UTF-8)" in str(store_error(error, tmp_path))


def test_a_name_that_is_no_text_any_more_is_repaired_once(tmp_path):
    """SQLite's own check passes it; each row is read when the store is opened."""
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
    with closing(sqlite3.connect(tmp_path / "objects.db")) as connection, connection:
        connection.execute("UPDATE objects SET name = CAST(x'6dff67' AS TEXT)")
    with open_store(tmp_path) as store:
        assert (store.repair.found, store.repair.recovered) == (1, 1)
        assert names(store) == ["m\ufffdg"]
    with open_store(tmp_path) as store:
        assert store.repair is None and not store.damaged


def test_with_a_backup_a_spoiled_page_costs_nothing(place):
    with open_store(place) as store:
        before = [(entry.uid, entry.name, entry.view_ids) for entry in store.entries()]
        store.backup()
        last = store.register("after the backup", view(1000))
        before.append((last.uid, last.name, (last.last_view,)))
    path = place / "objects.db"
    for table in ("objects", "views", "embeddings"):
        spoil(path, pages_of(path, table)[1])
    with open_store(place) as store:
        assert [(entry.uid, entry.name, entry.view_ids) for entry in store.entries()] == before
        assert f"of {COUNT + 1} objects were recovered" in store.repair.text


def test_what_was_forgotten_does_not_come_back_with_the_backup(place):
    with open_store(place) as store:
        store.backup()
        gone = store.objects()[0].uid
        store.forget(gone)
        with store._database.change() as connection:  # as a purge does in time
            connection.execute("DELETE FROM views WHERE object_id = 1")
            connection.execute("DELETE FROM objects WHERE id = 1")
    spoil(place / "objects.db", pages_of(place / "objects.db", "views")[1])
    with open_store(place) as store:
        assert len(store.objects()) == len(store.entries()) == COUNT - 1
        with pytest.raises(Exception, match="there is no object"):
            store.object(gone)


@pytest.mark.parametrize("table", ["objects", "views", "changes"])
def test_merges_and_removed_views_outlive_a_spoiled_page(place, table):
    """The page holds rows that the merge has not touched, or that differ in an older copy."""
    long = "a thing with a long name, so that pages fill {}".format
    with open_store(place) as store:
        store.backup()
        merged = store.merge(long(90), long(110))
        store.add_view(merged.uid, view(1000))
        store.remove_view(merged.uid, 111)
        before = [(entry.uid, entry.name, entry.view_ids) for entry in store.entries()]
    path = place / "objects.db"
    pages = pages_of(path, table)
    for page in pages[-1:] if table == "changes" else pages[1:-1]:
        spoil(path, page)
    with open_store(place) as store:
        assert store.repair is not None
        found = [(entry.uid, entry.name, entry.view_ids) for entry in store.entries()]
        if table == "views":  # that one was removed is not known to the backup
            found = [(*row[:2], tuple(n for n in row[2] if n != 111)) for row in found]
        assert found == before
        undone = [store.undo() for _ in range(3)]
        if table == "objects":
            assert [change.kind for change in undone] == ["view removed", "view added", "merged"]
        if table != "changes":
            assert undone[-1 if table == "objects" else 1].text == (
                f'undone: "{long(90)}" is a separate object again'
            )
            assert [v.id for v in store.views(long(90))] == [91]
            assert [v.id for v in store.views(long(110))] == [111]
        assert store._database.read("PRAGMA foreign_key_check") == []


def test_changes_that_cannot_be_read_are_left_out(place):
    bad = [
        ("merged", "{}"),
        ("merged", '{"into": "x", "views": []}'),
        ("merged", f'{{"into": {2**63}, "views": []}}'),
        ("merged", '{"into": 1, "views": [null]}'),
        ("merged", '{"into": 1, "views": 7}'),
        ("merged", "[]"),
        ("view removed", "{"),
        ("view removed", '{"gone": "x"}'),
        ("renamed", '{"former": 1}'),
        ("imported", '{"objects": [], "views": []}'),
        ("imported", '{"objects": [], "views": [], "former objects": [[1]], "former views": []}'),
        ("of a later release", "{}"),
        ("merged", "[" * 100_000),
        ("renamed", '{"former": "a", "former": "b"}'),
    ]
    good = [
        ("merged", '{"into": 1, "views": [99, 100]}'),
        ("imported", '{"objects": [], "views": [], "former objects": [[1, 2]], "former views": []}'),
    ]
    with closing(sqlite3.connect(place / "objects.db")) as connection, connection:
        connection.execute("DELETE FROM changes")
        connection.create_function("row_checksum", -1, row_checksum)
        connection.executemany(
            "INSERT INTO changes (kind, object_id, data, checksum) VALUES (?1, 5, ?2, row_checksum(?1, 5, NULL, ?2))",
            bad + good,
        )
        connection.execute(
            "INSERT INTO changes (kind, object_id, data) VALUES ('renamed', 5, '{\"former\": \"x\"}')"
        )
    spoil(place / "objects.db", pages_of(place / "objects.db", "embeddings")[1])
    with open_store(place) as store:
        assert store.repair is not None
        assert store._database.read("SELECT kind, data FROM changes ORDER BY id") == good
        assert store.undo().kind == "imported"
        assert store.undo() is None


def test_a_wrong_index_is_rebuilt(place):
    path = place / "objects.db"
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'views_by_object'"
        ).fetchone()
    spoil(path, root)
    with open_store(place) as store:
        assert store.repair.recovered == store.repair.found == COUNT
        assert len(store.entries()) == COUNT


def test_damage_among_the_pictures_is_found_when_it_is_met(place):
    path = place / "objects.db"
    spoil(path, pages_of(path, "crops")[3])
    with open_store(place) as store:
        assert store.repair is None  # gigabytes are not read at the start
        with pytest.raises(StoreError, match=r"objects\.db is damaged \(.*\); restart, and what can be read"):
            [store.crop(number) for number in range(1, COUNT + 1)]
    with open_store(place) as store:
        assert (store.repair.found, store.repair.recovered) == (COUNT, COUNT)
        kept = sum(view.crops for item in store.objects() for view in store.views(item.uid))
        assert 2 * COUNT - 10 < kept < 2 * COUNT
    with open_store(place) as store:
        assert store.repair is None


class PowerCutError(BaseException):
    """Nothing after it happens."""


def test_a_power_cut_at_any_step_of_a_repair_loses_nothing(tmp_path, monkeypatch):
    place = tmp_path / "place"
    path = place / "objects.db"
    with open_store(place) as store:
        uids = [store.register(None, view(number)).uid for number in range(5)]
        store.backup()
    path.write_bytes(b"?" * 9000)
    (place / "objects.db-wal").write_bytes(b"log")
    steps = {"left": 0}

    def cutting(function):
        def step(*arguments, **named):
            if steps["left"] == 0:
                raise PowerCutError
            steps["left"] -= 1
            return function(*arguments, **named)

        return step

    cuts = 0
    for owner, name in [
        (os, "rename"),
        (os, "replace"),
        (os, "fsync"),
        (recovery, "write_text_atomically"),
        (recovery, "sync_directory"),
        (Path, "unlink"),
    ]:
        monkeypatch.setattr(owner, name, cutting(getattr(owner, name)))
    while True:
        fresh = place.parent / f"{place.name}-{cuts}"
        shutil.copytree(place, fresh)
        steps["left"] = cuts
        try:
            open_store(fresh).close()
        except PowerCutError:
            pass
        else:
            break
        steps["left"] = 10_000
        with open_store(fresh) as store:
            assert [item.uid for item in store.objects()] == uids
        assert (fresh / DAMAGED).read_bytes() == b"?" * 9000
        assert (fresh / f"{DAMAGED}-wal").read_bytes() == b"log"
        assert not (fresh / "objects.db.repair").exists()
        assert not (fresh / "objects.db.rebuilding").exists()
        shutil.rmtree(fresh)
        cuts += 1
    assert cuts > 8


def test_a_repair_for_which_there_is_no_room_is_tried_again(place, monkeypatch):
    path = place / "objects.db"
    spoil(path, pages_of(path, "objects")[1])
    damaged = path.read_bytes()
    with monkeypatch.context() as patch:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL

        def full(*_, **__):
            raise error

        patch.setattr(recovery.RowRecovery, "finish", full)
        with pytest.raises(
            StoreError, match=r"^the disk is full: .*objects\.db\.rebuilding could not be written"
        ):
            open_store(place)
        with pytest.raises(StoreError, match=r"^the disk is full"):
            open_store(place)
    assert (place / DAMAGED).read_bytes() == damaged
    with open_store(place) as store:
        assert store.repair.recovered == COUNT
        assert len(store.entries()) == COUNT
