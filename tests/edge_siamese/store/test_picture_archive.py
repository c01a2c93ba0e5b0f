"""Archives of pictures for training: what they contain, and what is refused in those of others."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.errors import StoreError
from edge_siamese.pictures import decode_png, encode_png
from edge_siamese.store import SupportStore, bounded_zip
from edge_siamese.store.mistakes import Actual, KeptMistakes
from edge_siamese.store.picture_archive import ArchivedPicture, open_pictures
from tests.edge_siamese.store.samples import MODEL, NOW, open_store, picture, view

UID = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SupportStore]:
    with open_store(tmp_path / "device") as opened:
        opened.register("mug", view(1))
        opened.add_view("mug", view(2, crops=0))
        opened.add_negative("mug", view(3, crops=1))
        opened.register("pen", view(4, crops=1))
        opened.register("gone", view(5))
        opened.forget("gone")
        yield opened


@pytest.fixture
def kept(tmp_path: Path) -> KeptMistakes:
    made = KeptMistakes(tmp_path / "device")
    made.allow(True)
    return made


def reject(store: SupportStore, kept: KeptMistakes, number: int, actual: str | None) -> str:
    uid = store.object("mug").uid
    store.add_negative("mug", view(number, crops=1))
    kept.keep(store, uid, picture(99), Actual.of(store, uid, actual))
    return store.views("mug")[-1].uid


def read(path: Path) -> list[tuple[ArchivedPicture, np.ndarray[Any, Any]]]:
    with open_pictures(path, "nothing was collected") as archive:
        archive.check_pictures()
        return [(one, decode_png(archive.read(one))) for one in archive.manifest.pictures]


def test_views_and_mistakes_are_written(store: SupportStore, kept: KeptMistakes, tmp_path: Path) -> None:
    named, unnamed = reject(store, kept, 6, "pen"), reject(store, kept, 7, None)
    cup = reject(store, kept, 8, "cup")
    store.rename("pen", "quill")
    path = tmp_path / "pictures.zip"
    manifest = store.export_pictures(path, kept.all())
    assert (manifest.without_pictures, manifest.exported) == (1, NOW)
    mug, _, old, *_ = [one.uid for one in store.views("mug")]
    (quill,) = [one.uid for one in store.views("quill")]
    found = read(path)
    assert [one for one, _ in found] == [
        ArchivedPicture(f"{mug}-0.png", "view", "mug", None, NOW, MODEL),
        ArchivedPicture(f"{mug}-1.png", "view", "mug", None, NOW, MODEL),
        ArchivedPicture(f"{old}-0.png", "wrong", None, "mug", NOW, ""),
        ArchivedPicture(f"{quill}-0.png", "view", "quill", None, NOW, MODEL),
        ArchivedPicture(f"{named}-0.png", "wrong", "quill", "mug", NOW, MODEL),
        ArchivedPicture(f"{unnamed}-0.png", "wrong", None, "mug", NOW, MODEL),
        ArchivedPicture(f"{cup}-0.png", "wrong", "cup", "mug", NOW, MODEL),
    ]
    numbers = [10, 11, 30, 40, 99, 99, 99]
    assert all(np.array_equal(pixels, picture(n)) for (_, pixels), n in zip(found, numbers, strict=True))
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_undone_mistake_is_left_out(store: SupportStore, kept: KeptMistakes, tmp_path: Path) -> None:
    uid = reject(store, kept, 6, "pen")
    store.undo()
    store.export_pictures(tmp_path / "a.zip", kept.all())
    assert uid not in {one.member[:32] for one, _ in read(tmp_path / "a.zip")}


def test_a_damaged_picture_on_the_device_is_left_out(store: SupportStore, tmp_path: Path) -> None:
    pen = store.views("pen")[0]
    with store._database.change() as connection:
        connection.execute("UPDATE crops SET picture = substr(picture, 1, 100) WHERE view_id = ?", (pen.id,))
    manifest = store.export_pictures(tmp_path / "a.zip", ())
    assert manifest.without_pictures == 2
    assert {one.name for one, _ in read(tmp_path / "a.zip")} == {"mug", None}


def write(path: Path, pictures: list[dict[str, Any]], /, **changes: Any) -> Path:
    """An archive of somebody else."""
    manifest = {
        "format": "edge-siamese pictures", "version": 1, "exported": NOW, "pictures": pictures,
        "without_pictures": 0, **changes,
    }  # fmt: skip
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("manifest.json", json.dumps(manifest))
        for one in pictures:
            file.writestr(str(one["member"]), encode_png(picture(1)))
    return path


def entry(**changes: Any) -> dict[str, Any]:
    return {
        "member": f"{UID}-0.png", "kind": "view", "name": "mug", "recognized": None, "created": NOW,
        "model_id": MODEL, **changes,
    }  # fmt: skip


def test_a_valid_archive_is_read(tmp_path: Path) -> None:
    (found,) = read(write(tmp_path / "a.zip", [entry()]))
    assert found[0].name == "mug"


@pytest.mark.parametrize(
    ("pictures", "changes", "problem"),
    [
        (
            [entry(member="../../etc/passwd")],
            {},
            "pictures[0].member: must be a uid and a number, and used once",
        ),
        ([entry(member=f"{UID}-0.png/x")], {}, "pictures[0].member: must be a uid and a number"),
        ([entry(), entry()], {}, "duplicate members"),
        ([entry(kind="negative")], {}, "pictures[0].kind: must be "),
        ([entry(name=None)], {}, "pictures[0].name: is needed for a view"),
        ([entry(name="")], {}, "an object needs a name that is not empty"),
        ([entry(name="a\u202eb\x1b[2J")], {}, "has a control character"),
        ([entry(name="x" * 81)], {}, "has 81 characters"),
        ([entry(name=7)], {}, "pictures[0].name: must be a string or null"),
        ([entry(recognized="pen")], {}, "pictures[0].recognized: is needed for a wrong recognition"),
        ([entry(kind="wrong")], {}, "pictures[0].recognized: is needed for a wrong recognition"),
        ([entry(created="now")], {}, "pictures[0].created: must be a UTC time"),
        ([entry(model_id="a\nb")], {}, "pictures[0].model_id: must be one line"),
        ([entry(more=1)], {}, "pictures[0].more: "),
        ([], {"version": 2}, "it has version 2 of the format, and this release reads version 1"),
        ([], {"version": 0}, "version: must be 1, not 0"),
        ([], {"format": "zip"}, "format: must be "),
        ([], {"pictures": {}}, "pictures: must be a list"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_manifest_that_does_not_fit_is_refused(
    tmp_path: Path, pictures: list[dict[str, Any]], changes: dict[str, Any], problem: str
) -> None:
    path = write(tmp_path / "a.zip", pictures, **changes)
    with pytest.raises(StoreError) as error:
        read(path)
    assert problem in str(error.value)
    assert str(error.value).startswith(f"{path}: ") and str(error.value).endswith("; nothing was collected")


def replaced(path: Path, data: bytes) -> Path:
    """The archive with other bytes for its picture."""
    with zipfile.ZipFile(path) as file:
        manifest = file.read("manifest.json")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("manifest.json", manifest)
        file.writestr(f"{UID}-0.png", data)
    return path


def test_pictures_that_are_none_or_too_large_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.zip", [entry()])
    for data, problem in [
        (b"#!/bin/sh\n", "a stored picture is a PNG, and this is not one"),
        (encode_png(picture(1))[:-30], "a stored picture is damaged"),
        (encode_png(np.zeros((1, 2049), np.uint8)), "sides of 2048 pixels at most, not 2049 x 1"),
        (bytes(20_000_000), "has 20000000 bytes; at most 16777216 are read"),
    ]:
        with pytest.raises(StoreError, match=problem):
            read(replaced(path, data))
    monkeypatch.setattr(bounded_zip, "MAX_TOTAL_BYTES", 100)
    with pytest.raises(StoreError, match="it unpacks to more than 0 GiB; nothing was collected"):
        read(replaced(path, encode_png(picture(1))))


def test_a_missing_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    write(path, [entry()])
    with zipfile.ZipFile(path) as file:
        manifest = file.read("manifest.json")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("manifest.json", manifest)
    with pytest.raises(StoreError, match=rf"the member '{UID}-0.png' is missing"):
        read(path)


@pytest.mark.parametrize("length", [0, 10, -1, -30])
def test_an_incomplete_file_is_refused(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "a.zip", [entry()])
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(StoreError, match=r"is damaged, or not an archive: .*; nothing was collected$"):
        read(path)
