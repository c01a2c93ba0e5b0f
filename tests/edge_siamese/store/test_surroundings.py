"""The file of the surroundings: what is read again, and what is ignored."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from edge_siamese.errors import StoreError
from edge_siamese.store import errors
from edge_siamese.store.surroundings import SurroundingsFile

PLACES = np.array([[1.0, 0.0, 0.0]], np.float32)
ROWS = np.array([[0.6, 0.8, 0.0], [0.0, 0.28, 0.96]], np.float32)


@pytest.fixture
def file(tmp_path: Path) -> SurroundingsFile:
    made = SurroundingsFile(tmp_path)
    made.save("model-1", ROWS, PLACES)
    return made


def test_embeddings_are_read_again_in_half_precision(file: SurroundingsFile, tmp_path: Path) -> None:
    read, places = file.load("model-1", 3)
    assert read.dtype == places.dtype == np.float32
    np.testing.assert_array_equal(places, PLACES)
    np.testing.assert_array_equal(read, ROWS.astype(np.float16))
    assert [entry.name for entry in tmp_path.iterdir()] == ["surroundings.bin"]
    assert (tmp_path / "surroundings.bin").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "surroundings.bin").stat().st_size < 200


def test_another_model_learns_anew(file: SurroundingsFile) -> None:
    assert file.load("model-2", 3)[0].shape == (0, 3)
    assert file.load("model-1", 4)[0].shape == (0, 4)
    file.save("model-2", ROWS[:1], PLACES)
    assert file.load("model-1", 3)[0].shape == (0, 3)
    assert file.load("model-2", 3)[0].shape == (1, 3)


def test_a_missing_file_is_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert SurroundingsFile(tmp_path).load("model-1", 3)[0].shape == (0, 3)
    assert SurroundingsFile(None).load("model-1", 3)[0].shape == (0, 3)
    assert caplog.text == ""


def write(tmp_path: Path, content: bytes, **header: object) -> None:
    known = {
        "version": 1,
        "model_id": "model-1",
        "dimensions": 3,
        "places": 0,
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    (tmp_path / "surroundings.bin").write_bytes(json.dumps(known | header).encode() + b"\n" + content)


@pytest.mark.parametrize(
    ("content", "header", "problem"),
    [
        (ROWS.astype("<f2").tobytes(), {"version": 2}, "version: must be 1, not 2"),
        (ROWS.astype("<f2").tobytes(), {"sha256": "0"}, "sha256: is not that of the content"),
        (b"12345", {}, "dimensions: do not match a content of 5 bytes"),
        (np.full(3, np.nan, "<f2").tobytes(), {}, "sha256: is that of numbers that are not finite"),
        (b"", {"model_id": 5}, "model_id: "),
        (b"", {"places": 1}, "places: must be at most 0, not 1"),
    ],
)
def test_a_damaged_file_is_ignored(
    content: bytes, header: dict[str, object], problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, content, **header)
    assert SurroundingsFile(tmp_path).load("model-1", 3)[0].shape == (0, 3)
    assert f"{tmp_path / 'surroundings.bin'} is ignored: {problem}" in caplog.text


def test_each_cut_of_the_file_is_ignored(file: SurroundingsFile, tmp_path: Path) -> None:
    """As a file system may leave it; the write itself is atomic."""
    path = tmp_path / "surroundings.bin"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert file.load("model-1", 3)[0].shape == (0, 3)
    path.write_bytes(whole)
    assert file.load("model-1", 3)[0].shape == (2, 3)


def test_numbers_beyond_half_precision_are_left_out(tmp_path: Path) -> None:
    file = SurroundingsFile(tmp_path)
    file.save("model-1", np.array([[1e6, 0, 0], [1, 0, 0]], np.float32), PLACES)
    np.testing.assert_array_equal(file.load("model-1", 3)[0], [[1, 0, 0]])


def test_a_nearly_full_disk_keeps_the_former_file(
    file: SurroundingsFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "is_nearly_full", lambda _: True)
    with pytest.raises(StoreError, match="the disk is nearly full: less than 64 MiB are free"):
        file.save("model-1", ROWS[:1], PLACES)
    assert file.load("model-1", 3)[0].shape == (2, 3)


def test_a_failed_write_keeps_the_former_file(
    file: SurroundingsFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match="the disk is full"):
        file.save("model-1", ROWS[:1], PLACES)
    assert [entry.name for entry in tmp_path.iterdir()] == ["surroundings.bin"]
    assert file.load("model-1", 3)[0].shape == (2, 3)


def test_it_is_deleted(file: SurroundingsFile, tmp_path: Path) -> None:
    file.delete()
    file.delete()
    SurroundingsFile(None).delete()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_deleted_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "surroundings.bin").mkdir()
    with pytest.raises(StoreError, match=r"surroundings\.bin cannot be deleted: Is a directory"):
        SurroundingsFile(tmp_path).delete()


def test_another_model_is_no_warning(file: SurroundingsFile, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        file.load("model-2", 3)
    assert [record.levelname for record in caplog.records] == ["INFO"]
