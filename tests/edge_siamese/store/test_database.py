"""A change is on disk, or it has not happened; each failure is reported with a remedy."""

import os
import sqlite3
import subprocess
from contextlib import closing

import numpy as np
import pytest

from edge_siamese.errors import StoreError
from edge_siamese.store import tables
from edge_siamese.store.errors import store_error
from tests.edge_siamese.store.samples import names, open_store, vector, view


def test_the_file_says_what_it_is_and_how_it_is_written(tmp_path):
    with open_store(tmp_path) as store:
        found = {
            name: store._database.read(f"PRAGMA {name}")[0][0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "application_id", "user_version")
        }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,  # FULL
        "foreign_keys": 1,
        "application_id": 0x45534F42,
        "user_version": 2,
    }


def test_a_directory_at_the_place_of_the_store_is_an_error(tmp_path):
    path = tmp_path / "objects.db"
    path.mkdir()
    with pytest.raises(StoreError, match="unable to open database file") as caught:
        open_store(tmp_path)
    assert str(caught.value).startswith(f"{path} cannot be ")


def test_the_directory_is_made(tmp_path):
    with open_store(tmp_path / "a" / "b") as store:
        store.register("mug", view(1))
    assert (tmp_path / "a" / "b" / "objects.db").is_file()


def test_a_store_of_a_newer_release_is_left_alone(tmp_path):
    open_store(tmp_path).close()
    path = tmp_path / "objects.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 7")
    before = path.read_bytes()
    with pytest.raises(StoreError) as error:
        open_store(tmp_path)
    assert str(error.value) == (
        f"{path} was written by a newer release (schema version 7; this release reads up to 2); "
        "install that release again, or restore a backup made before it"
    )
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["objects.db", "objects.db.lock"]


def test_a_database_of_another_program_is_left_alone(tmp_path):
    path = tmp_path / "objects.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"objects\.db is a database of another program; move it away"):
        open_store(tmp_path)
    assert path.read_bytes() == before


def test_an_older_layout_is_brought_to_the_newest(tmp_path, monkeypatch):
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
    step = ("ALTER TABLE objects ADD COLUMN color TEXT", "UPDATE objects SET color = 'blue'")
    monkeypatch.setattr(tables, "MIGRATIONS", (*tables.MIGRATIONS, step, ("CREATE TABLE later (x)",)))
    with open_store(tmp_path) as store:
        assert store._database.read("SELECT name, color FROM objects") == [("mug", "blue")]
        assert store._database.read("PRAGMA user_version") == [(4,)]


def test_a_step_that_fails_leaves_the_older_layout(tmp_path, monkeypatch):
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
    older = tables.MIGRATIONS
    monkeypatch.setattr(
        tables, "MIGRATIONS", (*older, ("ALTER TABLE objects ADD COLUMN x", "CREATE TABLE views (x)"))
    )
    with pytest.raises(StoreError, match="nothing was changed: table views already exists"):
        open_store(tmp_path)
    monkeypatch.setattr(tables, "MIGRATIONS", older)
    with open_store(tmp_path) as store:
        assert names(store) == ["mug"]
        assert store._database.read("PRAGMA user_version") == [(2,)]
        assert len(store._database.read("PRAGMA table_info(objects)")) == 6


def register_all(store, views, done=None):
    """Register until it fails; the names of what returned go to `done`."""
    for number, one in enumerate(views):
        name = store.register(f"thing {number}", one).name
        if done is not None:
            done.append(name)


def test_a_full_disk_changes_nothing_and_says_so(tmp_path):
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
        connection = store._database.connection
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 3}")
        big = [view(number, crops=8) for number in range(2, 9)]
        with pytest.raises(StoreError) as error:
            register_all(store, big)
        assert str(error.value) == (
            f"the disk is full: {tmp_path / 'objects.db'} could not be written, nothing was changed; "
            "free some space and try again"
        )
        before = names(store)
        assert not connection.in_transaction
        store.undo()
        connection.execute("PRAGMA max_page_count = 100000")
        store.register("cup", view(9))
        assert names(store) == [*before[:-1], "cup"]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small file system is for the superuser")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.system
def test_on_a_full_file_system_all_that_returned_is_there(small_disk):
    done = []
    filler = small_disk / "filler"
    with open_store(small_disk) as store:
        filler.write_bytes(bytes(200_000))
        with pytest.raises(
            StoreError, match=r"^the disk is full: .*objects\.db could not be written, nothing was"
        ):
            register_all(store, (view(number, crops=4) for number in range(1000)), done)
        assert 5 < len(done) < 200
        assert names(store) == done
        assert len(store.entries()) == len(done)
        assert store.crop(1).shape == (12, 16, 3)
        with pytest.raises(StoreError, match=r"^the disk is full: .*\.backing-up could not be written"):
            store.backup()
    with open_store(small_disk) as store:  # a full disk keeps nobody from opening it
        assert names(store) == done
        assert store.repair is None
        filler.unlink()
        store.register("one more", view(1))
    with open_store(small_disk) as store:
        assert names(store) == [*done, "one more"]


@pytest.mark.system
def test_a_read_only_file_system_is_named_with_a_remedy(small_disk):
    with open_store(small_disk) as store:
        store.register("mug", view(1))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(StoreError) as error:
        open_store(small_disk)
    assert str(error.value) == (
        f"{small_disk / 'objects.db.lock'} cannot be written, nothing was changed (Read-only file system); "
        "give this user write access to it and its directory, or mount the file system writable"
    )


def test_a_store_that_turns_read_only_changes_nothing(tmp_path):
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
        store._database.connection.execute("PRAGMA query_only = ON")
        with pytest.raises(
            StoreError, match=r"objects\.db cannot be written, nothing was changed \(attempt to write"
        ):
            store.register("pen", view(2))
        assert names(store) == ["mug"]


def test_a_store_that_another_program_writes_is_busy(tmp_path):
    with (
        open_store(tmp_path) as store,
        closing(sqlite3.connect(tmp_path / "objects.db", isolation_level=None)) as other,
    ):
        store._database.connection.execute("PRAGMA busy_timeout = 1")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            StoreError, match=r"is in use by another program, nothing was changed \(database is locked\)"
        ):
            store.register("pen", view(2))


def test_another_thread_gets_an_error_for_people(tmp_path):
    from threading import Thread

    with open_store(tmp_path) as store:
        found = []

        def use():
            try:
                store.register("mug", view(1))
            except StoreError as error:
                found.append(str(error))

        thread = Thread(target=use)
        thread.start()
        thread.join()
        assert "can only be used in that same thread" in found[0]
        assert store.objects() == []


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (
            sqlite3.SQLITE_IOERR | (2 << 8),
            "the disk reported an error at {path}, nothing was changed (gone); the memory",
        ),
        (
            sqlite3.SQLITE_CORRUPT,
            "{path} is damaged (gone); restart, and what can be read of it is recovered into",
        ),
        (
            sqlite3.SQLITE_CANTOPEN,
            "{path} cannot be written, nothing was changed (gone); give this user write access",
        ),
        (sqlite3.SQLITE_MISMATCH, "{path} cannot be used, nothing was changed: gone"),
    ],
)
def test_each_failure_of_sqlite_is_reported_with_a_remedy(tmp_path, code, told):
    error = sqlite3.DatabaseError("gone")
    error.sqlite_errorcode = code
    path = tmp_path / "objects.db"
    assert str(store_error(error, path)).startswith(told.format(path=path))


def test_a_backup_is_a_whole_store(tmp_path):
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
        assert store.backup()
        path = tmp_path / "objects.backup.db"
        first = path.stat()
        assert first.st_mode & 0o777 == 0o600
        assert store.backup()  # nothing has changed: not written again
        assert path.stat().st_ino == first.st_ino
        store.register("pen", view(2))
        assert store.backup(limit_s=60)
        assert path.stat().st_ino != first.st_ino
        assert not [name for name in os.listdir(tmp_path) if "backing-up" in name]
    other = tmp_path / "other"
    other.mkdir()
    path.rename(other / "objects.db")
    with open_store(other) as store:
        assert names(store) == ["mug", "pen"]
        assert np.array_equal(store.entries()[1].embeddings, [vector(2)])


def test_a_backup_that_takes_too_long_leaves_the_one_before(tmp_path):
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
        assert store.backup()
        before = (tmp_path / "objects.backup.db").read_bytes()
        for number in range(20):
            store.register(None, view(number, crops=100))
        assert store.backup(limit_s=0) is False
        assert (tmp_path / "objects.backup.db").read_bytes() == before
        assert not [name for name in os.listdir(tmp_path) if "backing-up" in name]
        store.register("pen", view(2))
