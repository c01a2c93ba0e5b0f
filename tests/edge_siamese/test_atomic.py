"""A write that fails leaves what was there, and nothing beside it."""

import pytest

from edge_siamese.atomic import write_atomically, write_text_atomically


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
