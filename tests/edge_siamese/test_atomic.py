"""A write that fails leaves what was there, and nothing beside it."""

import pytest

from edge_siamese import atomic
from edge_siamese.atomic import replace_directory, write_atomically, write_text_atomically


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
        monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
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
    if not atomic._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange names")
    assert [(tmp_path / name / "from").read_text() for name in "ab"] == ["b", "a"]
    assert not atomic._exchange(tmp_path / "a", tmp_path / "missing")
