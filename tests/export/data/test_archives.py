from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from edge_siamese.errors import DataError
from export.data.archives import Archive

from .conftest import write_zip

FILES = {"b/two.txt": b"2" * 500, "a/one.txt": b"1", "a/c/three.txt": b"333"}
JUNK = {"__MACOSX/a/._one.txt": b"fork", "a/.DS_Store": b"junk"}


def test_a_zip_and_its_folder_give_the_same_files(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", FILES | JUNK)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path / "x")
    packed = list(Archive(tmp_path / "x.zip").files())
    assert packed == sorted(FILES.items())
    assert list(Archive(tmp_path / "x").files()) == packed


def test_fingerprints(tmp_path: Path) -> None:
    write_zip(tmp_path / "x.zip", FILES)
    content = (tmp_path / "x.zip").read_bytes()
    assert Archive(tmp_path / "x.zip").fingerprint() == {
        "name": "x.zip",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        archive.extractall(tmp_path / "x")
    before = Archive(tmp_path / "x").fingerprint()
    assert before["bytes"] == 504
    (tmp_path / "x" / "a" / "one.txt").write_bytes(b"7")
    assert Archive(tmp_path / "x").fingerprint()["sha256"] != before["sha256"]


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_truncated_zip_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "images_background.zip"
    write_zip(path, FILES)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"images_background\.zip is truncated or corrupt; delete it"):
        list(Archive(path).files())


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/file", b"hello, world")
    content = bytearray(path.read_bytes())
    content[content.index(b"hello")] = ord("j")
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"x\.zip is truncated or corrupt.*CRC"):
        list(Archive(path).files())


def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.zip"):
        Archive(tmp_path / "none.zip").fingerprint()
