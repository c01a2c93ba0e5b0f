"""A failed write leaves the previous content and no temporary files."""

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_siamese.errors import SettingsError
from edge_siamese.system import files
from edge_siamese.system.files import (
    recover_directory,
    replace_directory,
    staging_directory,
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


def names(path):
    return sorted(p.name for p in path.iterdir())


def test_a_staging_directory_is_empty_and_removed_at_the_end(tmp_path):
    path = directory(tmp_path / "deep" / "staging", "what a killed process left")
    (path / "link").symlink_to(tmp_path)
    directory(path / "inner", "and this")
    with staging_directory(path) as empty:
        assert empty == path
        assert names(path) == []
        directory(path / "new", "begun")
    assert names(tmp_path / "deep") == ["staging.lock"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_file_or_a_link_in_place_of_the_staging_directory_is_removed(tmp_path, kind):
    path, precious = tmp_path / "staging", directory(tmp_path / "precious", "stays")
    path.symlink_to(precious) if kind == "link" else path.write_text("")
    with staging_directory(path):
        assert names(path) == []
    assert tree(precious) == {"file": "stays"}
    assert names(tmp_path) == ["precious", "staging.lock"]


def test_a_staging_directory_is_removed_when_its_process_is_interrupted(tmp_path):
    path = tmp_path / "staging"

    def interrupted():
        with staging_directory(path):
            directory(path / "new", "begun")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["staging.lock"]
    with staging_directory(path):
        assert names(path) == []


def test_a_staging_directory_is_for_one_process_at_a_time(tmp_path):
    path = tmp_path / "staging"
    with staging_directory(path):
        directory(path / "new", "of the first")
        with pytest.raises(BlockingIOError), staging_directory(path):
            pass
        assert tree(path / "new") == {"file": "of the first"}
    with staging_directory(path):
        assert names(path) == []


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_that_ends_around_the_lock_disturbs_nobody(tmp_path, monkeypatch, moment):
    """The process before ends, and a third one tries, right before or after this one locks the file that it opened."""
    path, flock = tmp_path / "staging", fcntl.flock
    before = staging_directory(path)
    before.__enter__()
    refused = []

    def disturbed(descriptor, operation):
        monkeypatch.setattr(fcntl, "flock", flock)
        if moment == "before":
            before.__exit__(None, None, None)
        try:
            flock(descriptor, operation)
        except BlockingIOError:
            refused.append("second")
            raise
        finally:
            if moment == "after":
                before.__exit__(None, None, None)
        with pytest.raises(BlockingIOError), staging_directory(path):
            pass
        refused.append("third")

    monkeypatch.setattr(fcntl, "flock", disturbed)
    if moment == "before":
        with staging_directory(path):
            assert (refused, names(path)) == (["third"], [])
    else:
        with pytest.raises(BlockingIOError), staging_directory(path):
            pass
        assert refused == ["second"]
    assert names(tmp_path) == ["staging.lock"]


RIVAL = """
import os, sys
from pathlib import Path
from edge_siamese.system.files import staging_directory

path, witness, entered = Path(sys.argv[1]), Path(sys.argv[2]), 0
sys.stdin.readline()
while entered < int(sys.argv[3]):
    try:
        with staging_directory(path):
            os.close(os.open(witness, os.O_CREAT | os.O_EXCL))  # nobody else is in there
            (path / "file").touch()
            witness.unlink()
            entered += 1
    except BlockingIOError:
        pass
"""


@pytest.mark.system
def test_many_processes_enter_one_at_a_time_and_meet_no_other_error(tmp_path):
    path = tmp_path / "staging"
    command = [sys.executable, "-c", RIVAL, str(path), str(tmp_path / "witness"), "50"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    rivals = [subprocess.Popen(command, text=True, **pipes) for _ in range(6)]
    for rival in rivals:
        rival.stdin.write("go\n")
        rival.stdin.flush()
    assert [(rival.communicate()[1], rival.returncode) for rival in rivals] == [("", 0)] * len(rivals)
    assert names(tmp_path) == ["staging.lock"]


def test_the_disk_is_nearly_full_below_the_reserve(tmp_path, monkeypatch):
    assert not files.is_nearly_full(tmp_path / "missing")
    for free, full in ((files.DISK_RESERVE_BYTES, False), (files.DISK_RESERVE_BYTES - 1, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert files.is_nearly_full(tmp_path) is full


def test_where_a_directory_can_be_made(tmp_path, monkeypatch):
    files.require_writable(tmp_path)
    files.require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for path, reason in (
        (tmp_path / "file", "Not a directory"),
        (tmp_path / "file" / "a" / "b", "Not a directory"),
        (tmp_path / "link" / "a", "No such file or directory"),
    ):
        with pytest.raises(OSError, match=reason):
            files.require_writable(path)
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(PermissionError):
        files.require_writable(tmp_path / "a")
    monkeypatch.setattr(files.os, "statvfs", lambda _: SimpleNamespace(f_flag=files.os.ST_RDONLY))
    with pytest.raises(OSError, match="Read-only file system"):
        files.require_writable(tmp_path / "a")


def test_a_path_that_the_encoding_of_the_locale_cannot_express(monkeypatch):
    monkeypatch.setattr(files.os, "fsencode", lambda text: text.encode("latin-1"))
    assert files.expand_path("/mé") == Path("/mé")
    with pytest.raises(SettingsError) as caught:
        files.expand_path("/€")
    assert str(caught.value) == (r"'/\u20ac': the locale's encoding has no such file name: set LANG=C.UTF-8")
