"""The process that has a file open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_siamese.system.processes import process_using


def test_a_process_that_has_a_file_open(tmp_path: Path) -> None:
    file = tmp_path / "file"
    name = Path("/proc/self/comm").read_text().strip()
    with file.open("w"):
        assert process_using([str(file)]) == f"process {os.getpid()} ({name})"
    assert process_using([str(file)]) == ""


def test_a_descriptor_that_has_been_closed_does_not_hide_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptors = tmp_path / "417" / "fd"
    descriptors.mkdir(parents=True)
    (tmp_path / "417" / "comm").write_text("mo\ttion\n")
    (descriptors / "4").symlink_to("/dev/video0")
    monkeypatch.setattr(Path, "iterdir", lambda folder: (folder / name for name in ("3", "4")))
    assert process_using(["/dev/video0"], tmp_path) == "process 417 (mo\\ttion)"
