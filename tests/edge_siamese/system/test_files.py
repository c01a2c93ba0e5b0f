"""A write that fails leaves what was there, and nothing beside it."""

import fcntl
import os
from pathlib import Path

import pytest

from edge_siamese.system import files
from edge_siamese.system.files import (
    recover_directory,
    replace_directory,
    workshop,
    write_atomically,
    write_text_atomically,
)


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text_atomically(path, "old ✓")
    assert path.read_text(encoding="utf-8") == "old ✓"

    def fail(file):
        file.write(b"half")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, fail)
    assert path.read_text(encoding="utf-8") == "old ✓"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize("exchange", ["of the system", "by two renames"])
def test_a_directory_takes_the_place_of_another(tmp_path, monkeypatch, exchange):
    if exchange == "by two renames":
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    place = tmp_path / "place"
    for content in ("first", "second"):
        new = tmp_path / "work" / "new"
        (new / "inner").mkdir(parents=True)
        (new / "inner" / "file").write_text(content)
        replace_directory(new, place)
        assert (place / "inner" / "file").read_text() == content
        assert sorted(p.name for p in tmp_path.iterdir()) == ["place", "work"]
        assert list((tmp_path / "work").iterdir()) == []


def test_two_names_are_exchanged_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "from").write_text(name)
    if not files._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange names")
    assert [(tmp_path / name / "from").read_text() for name in "ab"] == ["b", "a"]
    assert not files._exchange(tmp_path / "a", tmp_path / "missing")


def directory(path, content):
    path.mkdir(parents=True)
    (path / "file").write_text(content)
    return path


def tree(path):
    """Names of everything in a directory, with what the files hold."""
    return {str(p.relative_to(path)): p.read_text() for p in sorted(path.rglob("*")) if p.is_file()}


def stop_renames(monkeypatch, error, calls):
    """Let the renames of these numbers fail, by two renames instead of an exchange."""
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    rename, met = Path.rename, []

    def counted(self, target):
        met.append(target)
        if len(met) in calls:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", counted)


@pytest.mark.parametrize("error", [OSError("Invalid cross-device link"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing", [1, 2])
def test_a_replacement_that_fails_between_two_renames_leaves_the_former_directory(
    tmp_path, monkeypatch, error, failing
):
    place, new = directory(tmp_path / "place", "former"), directory(tmp_path / "work" / "new", "new")
    stop_renames(monkeypatch, error, {failing})
    with pytest.raises(type(error)):
        replace_directory(new, place)
    assert tree(tmp_path) == {"place/file": "former", "work/new/file": "new"}


def test_a_directory_that_lost_its_name_to_a_power_cut_gets_it_back(tmp_path, monkeypatch):
    place, new = directory(tmp_path / "place", "former"), directory(tmp_path / "work" / "new", "new")
    # A machine without power does not put anything back either.
    stop_renames(monkeypatch, KeyboardInterrupt(), {2, 3})
    with pytest.raises(KeyboardInterrupt):
        replace_directory(new, place)
    monkeypatch.undo()
    assert tree(tmp_path) == {".place.former/file": "former", "work/new/file": "new"}
    recover_directory(place)
    assert tree(tmp_path) == {"place/file": "former", "work/new/file": "new"}
    recover_directory(place)
    assert tree(place) == {"file": "former"}


@pytest.mark.parametrize("exchange", ["of the system", "by two renames"])
def test_what_a_process_that_was_killed_did_not_remove_goes_with_the_next_replacement(
    tmp_path, monkeypatch, exchange
):
    if exchange == "by two renames":
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    directory(tmp_path / ".place.former", "older")
    place, new = directory(tmp_path / "place", "former"), directory(tmp_path / "work" / "new", "new")
    recover_directory(place)
    assert tree(place) == {"file": "former"}
    replace_directory(new, place)
    assert tree(tmp_path) == {"place/file": "new"}


@pytest.mark.parametrize("exchange", ["of the system", "by two renames"])
def test_of_a_link_the_target_is_replaced(tmp_path, monkeypatch, exchange):
    if exchange == "by two renames":
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    target, new = directory(tmp_path / "disk" / "real", "former"), directory(tmp_path / "work" / "new", "new")
    link = tmp_path / "place"
    link.symlink_to(target)
    replace_directory(new, link)
    assert link.is_symlink() and link.resolve() == target
    assert tree(target) == {"file": "new"}
    assert sorted(p.name for p in (tmp_path / "disk").iterdir()) == ["real"]


def test_a_workshop_is_empty_and_goes_in_the_end(tmp_path):
    place = directory(tmp_path / "deep" / "shop", "what a killed process left")
    (place / "link").symlink_to(tmp_path)
    directory(place / "inner", "and this")
    with workshop(place) as empty:
        assert empty == place
        assert [p.name for p in place.iterdir()] == ["lock"]
        directory(place / "new", "begun")
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_workshop_goes_when_its_process_is_interrupted(tmp_path):
    place = tmp_path / "shop"

    def interrupted():
        with workshop(place):
            directory(place / "new", "begun")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_workshop_is_for_one_process_at_a_time(tmp_path):
    place = tmp_path / "shop"
    with workshop(place):
        directory(place / "new", "of the first")
        with pytest.raises(BlockingIOError), workshop(place):
            pass
        assert tree(place / "new") == {"file": "of the first"}
    with workshop(place):
        assert [p.name for p in place.iterdir()] == ["lock"]


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """As when the process before ends between this one's opening of the lock and its locking."""
    place, flock, met = tmp_path / "shop", fcntl.flock, []

    def late(descriptor, operation):
        flock(descriptor, operation)
        if not met:
            (place / "lock").unlink()
            place.rmdir()
        met.append(descriptor)

    monkeypatch.setattr(fcntl, "flock", late)
    with workshop(place):
        assert len(met) == 2
        assert os.path.samestat(os.fstat(met[1]), (place / "lock").stat())
