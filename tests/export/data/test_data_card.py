"""The data card: counts, near-duplicates within and across splits, and pictures that cannot be used."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export import records
from export.__main__ import main
from export.data import load_splits
from export.data.data_card import DataCard, Finding, data_card
from export.data.embedded_pictures import thumbnail

INPUT = Preprocessing(48, 48, "rgb")


def texture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Soft spots of color, different for each seed."""
    spots = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize(size, Image.Resampling.BICUBIC)


def write(path: Path, picture: Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=90)
    return path


def write_folder(root: Path, classes: int = 3, each: int = 6) -> Path:
    """Splits of classes without anything to find."""
    for place, split in enumerate(("train", "val", "test")):
        for number in range(classes):
            for view in range(each):
                write(
                    root / split / f"{split}{number}" / f"{view}.png",
                    texture(1000 * place + 100 * number + view),
                )
    return root


def card_of(root: Path) -> DataCard:
    return data_card(load_splits(f"folder:{root}", INPUT), INPUT)


def finding(card: DataCard, kind: str) -> Finding:
    (found,) = (f for f in card.findings if f.kind == kind)
    return found


def test_a_clean_folder_has_counts_and_no_findings(tmp_path: Path) -> None:
    card = card_of(write_folder(tmp_path))
    assert card.findings == () and card.caution == ""
    assert (card.pictures, card.split) == (54, "subfolders")
    assert [(s.title, s.classes, s.pictures, s.fewest, s.median, s.most) for s in card.splits] == [
        ("training", 3, 18, 6, 6.0, 6), ("validation", 3, 18, 6, 6.0, 6), ("test", 3, 18, 6, 6.0, 6),
    ]  # fmt: skip
    assert [(c.name, c.split) for c in card.classes][::4] == [
        ("train0", "train"), ("val1", "validation"), ("test2", "evaluation"),
    ]  # fmt: skip


def saved_again(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).copy()


ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda p: p.resize((p.width // 2, p.height // 2)),
    "JPEG of quality 40": saved_again,
    "brighter": lambda p: ImageEnhance.Brightness(p).enhance(1.3),
    "gray": lambda p: p.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_altered_picture_in_a_test_class_makes_figures_too_good(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path)
    write(tmp_path / "test" / "test1" / "again.png", ALTERATIONS[name](texture(203)))
    card = card_of(tmp_path)
    (found,) = card.findings
    assert (found.kind, found.serious, found.count) == ("across splits", True, 1)
    assert found.what == (
        "2 pictures in 1 group are in classes of different splits, which must not share pictures."
    )
    assert found.groups[0].files == ("train/train2/3.png", "test/test1/again.png")
    assert len(found.groups[0].thumbnails) == 2
    assert card.caution == (
        "The figures are too good: 1 of 19 test pictures is also in a training or validation class, or "
        "has a near-duplicate there."
    )


def test_duplicates_within_a_class_are_copies_or_near_duplicates(tmp_path: Path) -> None:
    write_folder(tmp_path)
    shutil.copy(tmp_path / "train/train0/0.png", tmp_path / "train/train0/copy.png")
    write(tmp_path / "train/train1/dark.png", ImageEnhance.Brightness(texture(100)).enhance(0.7))
    write(tmp_path / "val/val1/other.png", texture(1000))
    card = card_of(tmp_path)
    assert [f.kind for f in card.findings] == ["across classes", "copies", "near-duplicates"]
    files = {f.kind: f.groups[0].files for f in card.findings}
    assert files["copies"] == ("train/train0/0.png", "train/train0/copy.png")
    assert files["near-duplicates"] == ("train/train1/0.png", "train/train1/dark.png")
    assert files["across classes"] == ("val/val0/0.png", "val/val1/other.png")
    assert "copies" not in card.caution and card.caution == ""


def test_test_classes_of_near_duplicates_are_a_caution(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for view in range(2):
        write(tmp_path / f"test/test0/burst{view}.png", ALTERATIONS["brighter"](texture(2000)))
    card = card_of(tmp_path)
    found = finding(card, "near-duplicates")
    assert found.groups[0].files == tuple(f"test/test0/{n}.png" for n in ("0", "burst0", "burst1"))
    assert card.caution == (
        "The figures are too good: 3 of 20 test pictures have a near-duplicate in their own class."
    )


def test_unsuitable_pictures_are_named_with_a_remedy(tmp_path: Path) -> None:
    write_folder(tmp_path)
    train = tmp_path / "train"
    (train / "train0" / "torn.jpg").write_bytes(write(tmp_path / "whole.jpg", texture(1)).read_bytes()[:300])
    (tmp_path / "whole.jpg").unlink()
    write(train / "train0" / "stamp.png", texture(11, (20, 20)))
    write(train / "train0" / "strip.png", texture(12, (64, 200)))
    write(train / "train0" / "lens-cap.png", Image.new("RGB", (64, 64), (9, 8, 8)))
    write(train / "single" / "0.png", texture(13))
    for view in range(3):
        write(train / "rare" / f"{view}.png", texture(20 + view))
    for view in range(40):
        write(train / "common" / f"{view}.png", texture(40 + view))
    card = card_of(tmp_path)
    assert {f.kind: f.groups[0].files for f in card.findings} == {
        "unreadable": ("train/train0/torn.jpg",),
        "blank": ("train/train0/lens-cap.png",),
        "small": ("train/train0/stamp.png",),
        "extreme shape": ("train/train0/strip.png",),
        "unused classes": ("single",),
        "few pictures": ("rare",),
        "imbalance": ("common",),
    }
    assert finding(card, "small").what == (
        "1 picture is small: the shorter side has less than 24 pixels, half of the encoder's input."
    )
    assert finding(card, "small").groups[0].note == "20 x 20"
    assert finding(card, "imbalance").what == (
        "1 training class has more than 5 times as many pictures as the median class (6)."
    )
    assert all(f.remedy and not f.serious for f in card.findings)


def test_a_picture_rotated_by_its_exif_data_has_its_displayed_size(tmp_path: Path) -> None:
    write_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    texture(5, (200, 64)).save(tmp_path / "train" / "train0" / "turned.jpg", exif=exif)
    assert finding(card_of(tmp_path), "extreme shape").groups[0].note == "64 x 200"


def test_blank_pictures_are_not_duplicates_of_each_other(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for split, shade in (("train", 10), ("test", 240)):
        write(tmp_path / split / f"{split}0" / "blank.png", Image.new("RGB", (64, 64), (shade,) * 3))
    assert [f.kind for f in card_of(tmp_path).findings] == ["blank"]


def test_only_folders_have_a_card() -> None:
    with pytest.raises(DataError, match="a data card is for folders of pictures"):
        data_card(load_splits("glyphs", Preprocessing(16, 16)), Preprocessing(16, 16))


def test_a_thumbnail_is_the_centered_square(tmp_path: Path) -> None:
    wide = Image.new("RGB", (120, 40), "red")
    wide.paste("blue", (40, 0, 80, 40))
    uri = thumbnail(write(tmp_path / "wide.png", wide), 32)
    assert uri.startswith("data:image/webp;base64,")

    shown = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
    assert shown.size == (32, 32)
    red, _, blue = np.asarray(shown).reshape(-1, 3).mean(axis=0)
    assert blue > 200 and red < 40


def test_the_command_prints_and_writes_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = write_folder(tmp_path / "photos")
    write(photos / "test" / "test1" / "again.png", texture(203))
    words = ["data", str(photos), "--encoder", "efficientnet-lite0-small"]
    assert main([*words, "--out", str(tmp_path / "card.json")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"{photos}: 55 pictures of 9 classes (subfolders)"
    assert printed[1].split() == ["split", "classes", "pictures", "fewest", "median", "most"]
    assert printed[4].split() == ["test", "3", "19", "6", "6", "7"]
    assert "    train/train2/3.png = test/test1/again.png" in printed
    assert printed[-1].startswith("! Training is not advised: 3 training classes are fewer than 10.")
    assert printed[-2].startswith("! The figures are too good: 1 of 19 test pictures")
    card = records.read(DataCard, tmp_path / "card.json")
    assert finding(card, "across splits").count == 1
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "card.json").read_text())


def test_photographs_of_different_classes_are_not_duplicates(real_grocery: Path, tmp_path: Path) -> None:
    """Of 240 photographs and a smaller, brighter copy of one, the copy is found, and nothing else across classes."""
    for place in sorted((real_grocery / "base").iterdir())[:24]:
        (tmp_path / place.name).mkdir()
        for photo in sorted(place.glob("*.jpg"))[:10]:
            shutil.copy(photo, tmp_path / place.name)
    one, other, *_ = sorted(tmp_path.iterdir())
    source = sorted(one.iterdir())[3]
    changed = ImageEnhance.Brightness(Image.open(source)).enhance(1.3)
    write(other / "changed.jpg", ALTERATIONS["half the size"](changed))
    (found,) = (f for f in card_of(tmp_path).findings if f.serious)
    expected = {f"{one.name}/{source.name}", f"{other.name}/changed.jpg"}
    assert [set(group.files) for group in found.groups] == [expected]
