"""The folder of collected pictures: one file for each, stable names, and nothing of a name that a path could use."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.errors import DataError, StoreError
from edge_siamese.pictures import encode_png
from edge_siamese.recognition.imaging import Preprocessing
from edge_siamese.store.picture_archive import open_pictures
from export.data import load_splits
from export.data.collected import CollectedFolder, Contents, Fetched, folder_name
from tests.edge_siamese.store.samples import picture

NOW = "2026-11-24T10:00:00.000+00:00"
PREPROCESSING = Preprocessing(12, 12, "rgb")


def view(number: int, name: str | None = "mug", place: int = 0, **changes: Any) -> tuple[dict[str, Any], int]:
    """A picture of a view, and the number of its pixels."""
    member = f"{number:032x}-{place}.png"
    values = {
        "member": member,
        "kind": "view",
        "name": name,
        "recognized": None,
        "created": NOW,
        "model_id": "m",
    }
    return values | changes, 10 * number + place


def wrong(number: int, name: str | None) -> tuple[dict[str, Any], int]:
    return view(number, name, kind="wrong", recognized="mug")


def archive(path: Path, *pictures: tuple[dict[str, Any], int], damaged: bool = False) -> Path:
    manifest = {
        "format": "edge-siamese pictures", "version": 1, "exported": NOW, "without_pictures": 1,
        "pictures": [values for values, _ in pictures],
    }  # fmt: skip
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("manifest.json", json.dumps(manifest))
        for values, pixels in pictures:
            file.writestr(values["member"], b"damaged" if damaged else encode_png(picture(pixels)))
    return path


class Collecting:
    """A folder, and devices whose pictures are added to it."""

    def __init__(self, place: Path) -> None:
        self.place, self.path = place, place / "photos"

    def add(
        self, *pictures: tuple[dict[str, Any], int], host: str = "pi@door.local", dry_run: bool = False
    ) -> Fetched:
        """Add an archive, as another run of the command does."""
        file = archive(self.place / "archive.zip", *pictures)
        self.folder = CollectedFolder.open(self.path, dry_run)
        with open_pictures(file, "nothing was collected") as opened:
            return self.folder.add(host, opened)

    @property
    def files(self) -> list[str]:
        """All files, relative to the place, with hashes replaced by their lengths."""
        found = [path.relative_to(self.place) for path in sorted(self.place.rglob("*")) if path.is_file()]
        return [str(path) for path in found if path.name != "archive.zip"]

    def folders(self) -> dict[str, int]:
        """Number of pictures by folder."""
        counts: dict[str, int] = {}
        for file in self.files:
            if not file.endswith(".json"):
                counts[str(Path(file).parent)] = counts.get(str(Path(file).parent), 0) + 1
        return counts


@pytest.fixture
def collecting(tmp_path: Path) -> Collecting:
    return Collecting(tmp_path)


def test_pictures_go_to_the_folder_of_what_they_show(collecting: Collecting) -> None:
    pictures = view(1), view(1, place=1), view(2, "pen"), wrong(3, "cup"), wrong(4, None)
    assert collecting.add(*pictures) == Fetched(views=3, named=1, strangers=1, without_pictures=1)
    assert collecting.folders() == {
        "photos/mug": 2, "photos/pen": 1, "photos/cup": 1, "photos-strangers": 1,
    }  # fmt: skip
    entries = json.loads((collecting.path / "collected.json").read_text())
    (cup,) = [entry for entry in entries if entry["name"] == "cup"]
    assert cup == {
        "file": f"cup/door.local-{cup['digest']}.png", "picture": f"{3:032x}-0.png", "digest": cup["digest"],
        "host": "pi@door.local", "time": NOW, "kind": "wrong", "name": "cup", "recognized": "mug", "model_id": "m",
    }  # fmt: skip
    assert (collecting.path / cup["file"]).read_bytes() == encode_png(picture(30))


def test_a_second_run_changes_nothing(collecting: Collecting) -> None:
    pictures = view(1), wrong(3, "cup"), wrong(4, None)
    collecting.add(*pictures)
    before = {file: (collecting.place / file).read_bytes() for file in collecting.files}
    assert collecting.add(*pictures) == Fetched(known=3, without_pictures=1)
    assert {file: (collecting.place / file).read_bytes() for file in collecting.files} == before


def test_a_run_without_the_list_of_an_interrupted_one_writes_the_same_files(collecting: Collecting) -> None:
    pictures = view(1), view(2, "pen")
    collecting.add(*pictures)
    before = collecting.files
    (collecting.path / "collected.json").unlink()
    assert collecting.add(*pictures).views == 2
    assert collecting.files == before


def test_devices_of_a_fleet_give_each_picture_once(collecting: Collecting) -> None:
    collecting.add(view(1), wrong(4, None))
    assert collecting.add(view(1), view(5), wrong(4, None), host="pi@shelf").views == 1
    assert collecting.folders() == {"photos/mug": 2, "photos-strangers": 1}


def test_equal_pictures_of_different_views_are_one(collecting: Collecting) -> None:
    same, pen = (view(7)[0], 10), (view(8, "pen")[0], 10)
    for count in ({"views": 1}, {"known": 1}):
        assert collecting.add(view(1), same, pen) == Fetched(**count, equal=2, without_pictures=1)
    assert collecting.folders() == {"photos/mug": 1}


def test_a_stranger_gets_the_name_of_an_equal_picture(collecting: Collecting) -> None:
    collecting.add(wrong(4, None))
    assert collecting.add((view(5, "pen")[0], 40)) == Fetched(moved=1, without_pictures=1)
    assert collecting.add((view(5, "pen")[0], 40), wrong(4, None)) == Fetched(
        known=1, equal=1, without_pictures=1
    )
    assert collecting.folders() == {"photos/pen": 1}


def test_a_renamed_object_and_a_stranger_with_a_name_move(collecting: Collecting) -> None:
    collecting.add(view(1, "object 1"), view(2, "pen"), wrong(4, None))
    pictures = view(1, "mug"), view(2, "pen"), wrong(4, "cup")
    assert collecting.add(*pictures) == Fetched(moved=2, known=1, without_pictures=1)
    assert collecting.folders() == {"photos/mug": 1, "photos/pen": 1, "photos/cup": 1}
    assert not (collecting.path / "object 1").exists()
    assert collecting.add(wrong(4, None)) == Fetched(known=1, without_pictures=1)
    assert collecting.folders() == {"photos/mug": 1, "photos/pen": 1, "photos/cup": 1}


def test_what_a_person_deleted_or_moved_stays_so(collecting: Collecting) -> None:
    collecting.add(view(1), view(2), view(3, "pen"))
    shutil.rmtree(collecting.path / "pen")
    assert collecting.add(view(1), view(2), view(3, "quill")) == Fetched(known=3, without_pictures=1)
    assert collecting.folders() == {"photos/mug": 2}


def test_names_that_differ_in_case_share_a_folder(collecting: Collecting) -> None:
    (collecting.path / "Straße").mkdir(parents=True)
    collecting.add(view(1, "STRASSE"), view(2, "Mug"), view(3, "mug"), host="a")
    assert collecting.folders() == {"photos/Straße": 1, "photos/Mug": 2}


def test_a_dry_run_writes_nothing_and_counts_the_same(collecting: Collecting) -> None:
    collecting.add(view(1, "object 1"), view(2, "pen"))
    before = collecting.files
    pictures = view(1, "mug"), view(2, "pen"), view(3, "pen"), wrong(4, None)
    assert collecting.add(*pictures, dry_run=True) == Fetched(
        views=1, strangers=1, moved=1, known=1, without_pictures=1
    )
    planned = collecting.folder.contents()
    assert collecting.files == before
    collecting.add(*pictures)
    assert collecting.folder.contents() == planned == Contents(2, 3, 1, 0, 1)


def test_contents_count_what_can_be_trained_on(collecting: Collecting) -> None:
    collecting.add(view(1), view(1, place=1), view(2, "pen"), view(3, "pen"), view(4, "cup"), wrong(5, None))
    assert collecting.folder.contents() == Contents(objects=3, pictures=5, usable=2, one_view=1, strangers=1)
    shutil.copy(next((collecting.path / "pen").iterdir()), collecting.path / "mug" / "IMG_1.JPG")
    assert collecting.folder.contents() == Contents(objects=3, pictures=6, usable=2, one_view=0, strangers=1)
    assert (Contents(9, 90, 9, 0, 0).training_classes, Contents(2, 9, 2, 0, 0).training_classes) == (5, 0)


def test_the_folder_is_trained_on(collecting: Collecting, caplog: pytest.LogCaptureFixture) -> None:
    names = ["mug", "train", "test", "a/b", "..", "ünï"]
    collecting.add(
        *[view(10 * n + i, name) for n, name in enumerate(names, 1) for i in range(2)], wrong(99, None)
    )
    splits = load_splits(f"folder:{collecting.path}", PREPROCESSING)
    found = {*splits.train.class_names, *splits.validation.class_names, *splits.evaluation.class_names}
    assert found == set(map(folder_name, names))
    assert splits.provenance["warnings"] == []
    data = f"folder:{collecting.path},anything:{collecting.folder.strangers}"
    training = load_splits(data, PREPROCESSING, training_preprocessing=PREPROCESSING).training_pictures
    assert training is not None and training.classes == splits.train.classes + 1


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("../../../etc", "-..-..-etc-"), ("/", "--"), (".", "-"), ("..", "-"), (".hidden", "hidden-"),
        ("a/b", "a-b-"), ("a\\b", "a-b-"), ("C:", "C--"), ("Thumbs.db", "Thumbs.db-"), ("mug.", "mug-"),
        ("界" * 80, "界" * 53 + "-"),
    ],
)  # fmt: skip
def test_names_that_folders_cannot_have_are_changed(name: str, start: str) -> None:
    folder = folder_name(name)
    assert folder.startswith(start) and len(folder) == len(start) + 8
    assert not folder.startswith(".") and "/" not in folder and len(folder.encode()) < 200


def test_different_names_have_different_folders(collecting: Collecting) -> None:
    assert len({folder_name(name) for name in ("a/b", "a-b", "a\\b", "a:b", ".a-b")}) == 5
    assert [folder_name(name) for name in ("mug", "Tasse mit Ünï", "train")] == [
        "mug",
        "Tasse mit Ünï",
        "train",
    ]
    collecting.add(view(1, "a/b"), view(2, "A/B"), view(3, "../x"))
    assert len(collecting.folders()) == 2
    assert all(file.startswith("photos/") for file in collecting.files)


@pytest.mark.parametrize(
    ("host", "label"), [("pi@a b/../c", "a-b-..-c"), ("[fe80::1%eth0]", "fe80-1-eth0"), ("é", "device")]
)
def test_a_host_is_part_of_a_file_name(collecting: Collecting, host: str, label: str) -> None:
    collecting.add(view(1), host=host)
    (file,) = [file for file in collecting.files if file.endswith(".png")]
    assert file.startswith(f"photos/mug/{label}-")


def test_nothing_of_an_archive_with_a_damaged_picture_is_written(collecting: Collecting) -> None:
    file = archive(collecting.place / "archive.zip", view(1), damaged=True)
    folder = CollectedFolder.open(collecting.path)
    with pytest.raises(StoreError, match="a stored picture is a PNG, and this is not one"):  # noqa: SIM117
        with open_pictures(file, "nothing was collected") as opened:
            folder.add("door", opened)
    assert collecting.files == []


@pytest.mark.parametrize("file", ["../x.png", "/etc/x.png", "mug/../x.png", "x.png", "mug/a/b.png"])
def test_a_list_with_files_elsewhere_is_refused(collecting: Collecting, file: str) -> None:
    collecting.add(view(1))
    path = collecting.path / "collected.json"
    entries = json.loads(path.read_text())
    path.write_text(json.dumps([entries[0] | {"file": file}]))
    with pytest.raises(DataError, match="is not the file of a collected picture"):
        CollectedFolder.open(collecting.path)


def test_places_that_are_no_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^/ cannot be the folder for pictures: name a folder below it$"):
        CollectedFolder.open(Path("/"))
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"/file is not a folder$"):
        CollectedFolder.open(tmp_path / "file")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "collected.json").write_text('[{"file": 1}]')
    with pytest.raises(DataError, match="is not a record of this release"):
        CollectedFolder.open(tmp_path / "photos")
