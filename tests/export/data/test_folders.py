from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data import folders, load_splits
from export.data.folders import load_folder, split_of
from export.data.images import Splits
from export.data.sampling import episodes, verification_pairs
from export.provenance import data_fingerprint
from export.training.validation import default_ways

RGB = Preprocessing(16, 16, "rgb")


def picture(path: Path, shade: int = 100, size: tuple[int, int] = (20, 20), blue: int | None = None) -> Path:
    """A picture of one color, in the format of its suffix; gray without `blue`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade if blue is None else blue)).save(path)
    return path


def some_classes(root: Path, names: str, images: int = 3, blue: int | None = None) -> Path:
    """Classes of different pictures; those with another `blue` are different, too."""
    for number, name in enumerate(names.split()):
        for i in range(images):
            picture(root / name / f"{i}.png", shade=10 * number + i, blue=blue)
    return root


def every_class(splits: Splits) -> set[str]:
    return {
        name for part in (splits.train, splits.validation, splits.evaluation) for name in part.class_names
    }


def test_classes_are_split_without_overlap_by_the_seed(tmp_path: Path) -> None:
    some_classes(tmp_path, " ".join(f"c{i:02d}" for i in range(20)))
    first = load_folder(tmp_path, RGB, seed=0)
    sizes = [s.classes for s in (first.train, first.validation, first.evaluation)]
    assert sizes == [12, 4, 4]
    names = [set(s.class_names) for s in (first.train, first.validation, first.evaluation)]
    assert set.union(*names) == {f"c{i:02d}" for i in range(20)}
    assert sum(map(len, names)) == 20
    for images in (first.train, first.validation, first.evaluation):
        for c, name in enumerate(images.class_names):  # each class has the shades that were written into it
            of = images.images_of(c)
            assert images.images[of, 8, 8, 0].tolist() == [10 * int(name[1:]) + i for i in range(3)]
        assert set(images.drawers) == {-1}
        assert images.group_names == (tmp_path.name,)
    again = load_folder(tmp_path, RGB, seed=0)
    assert again.evaluation.class_names == first.evaluation.class_names
    assert load_folder(tmp_path, RGB, seed=1).evaluation.class_names != first.evaluation.class_names


def test_six_classes_are_just_enough(tmp_path: Path) -> None:
    splits = load_splits(f"folder:{some_classes(tmp_path, 'a b c d e f')}", RGB)
    assert [s.classes for s in (splits.train, splits.validation, splits.evaluation)] == [2, 2, 2]
    assert splits.provenance["data"] == f"folder:{tmp_path}"
    assert splits.provenance["evaluation_classes"] == list(splits.evaluation.class_names)


def test_formats_suffixes_and_hidden_files(tmp_path: Path) -> None:
    some_classes(tmp_path, "b c d e f", blue=200)
    for name, shade in (("1.JPG", 10), ("2.jpeg", 20), ("3.Png", 30), ("4.webp", 40)):
        picture(tmp_path / "a" / name, shade)
    picture(tmp_path / "a" / ".5.png", 50)
    picture(tmp_path / ".hidden" / "1.png")
    (tmp_path / "a" / ".DS_Store").write_bytes(b"junk")
    (tmp_path / "a" / "notes.txt").write_text("text")
    splits = load_folder(tmp_path, RGB)
    images = next(s for s in (splits.train, splits.validation, splits.evaluation) if "a" in s.class_names)
    shades = images.images[images.images_of(images.class_names.index("a")), 8, 8, 1]
    assert np.abs(shades.astype(int) - [10, 20, 30, 40]).max() <= 2
    assert splits.provenance["warnings"] == [
        f"1 file ignored in {tmp_path}, not JPEG, PNG or WebP: a/notes.txt"
    ]
    assert sum(s.classes for s in (splits.train, splits.validation, splits.evaluation)) == 6


def test_photographs_are_turned_as_the_camera_says(tmp_path: Path) -> None:
    some_classes(tmp_path, "b c d e f")
    upright = np.zeros((40, 40, 3), dtype=np.uint8)
    upright[:20] = 250  # light above
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    (tmp_path / "a").mkdir()
    Image.fromarray(upright).save(tmp_path / "a" / "1.png")
    Image.fromarray(np.rot90(upright)).save(tmp_path / "a" / "2.jpg", exif=exif, quality=95)
    splits = load_folder(tmp_path, RGB)
    images = next(s for s in (splits.train, splits.validation, splits.evaluation) if "a" in s.class_names)
    plain, turned = images.images[images.images_of(images.class_names.index("a"))].astype(int)
    assert np.abs(plain - turned)[2:6].max() < 12
    assert turned[2, 8, 0] > 240


def test_what_cannot_be_read_is_named_skipped_and_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some_classes(tmp_path, "a b c d e f")
    broken = picture(tmp_path / "a" / "broken.jpg", size=(200, 200))
    broken.write_bytes(broken.read_bytes()[:300])
    (tmp_path / "b" / "empty.png").write_bytes(b"")
    (tmp_path / "c" / "text.webp").write_text("no picture")
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        splits = load_folder(tmp_path, RGB)
        warnings = splits.provenance["warnings"]
        assert len(warnings) == 3
        for warning, name in zip(warnings, ("a/broken.jpg", "b/empty.png", "c/text.webp"), strict=True):
            assert warning.startswith(f"skipped: {tmp_path}/{name}")
            assert warning in caplog.text
        assert sum(len(s) for s in (splits.train, splits.validation, splits.evaluation)) == 18


def test_many_warnings_are_cut_where_they_are_shown_but_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some_classes(tmp_path, "a b c d e f")
    for i in range(13):
        (tmp_path / "a" / f"x{i}.png").write_bytes(b"junk")
    splits = load_folder(tmp_path, RGB)
    assert len(splits.provenance["warnings"]) == 13
    assert caplog.text.count("skipped: ") == 10
    assert "... and 3 more warnings" in caplog.text


def test_a_file_repaired_later_is_read(tmp_path: Path) -> None:
    some_classes(tmp_path, "a b c d e f")
    (tmp_path / "a" / "9.png").write_bytes(b"junk")
    assert len(load_folder(tmp_path, RGB).provenance["warnings"]) == 1
    picture(tmp_path / "a" / "9.png")
    assert load_folder(tmp_path, RGB).provenance["warnings"] == []


def test_enormous_pictures_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_classes(tmp_path, "a b c d e f")
    picture(tmp_path / "a" / "bomb.png", size=(2001, 1000))
    monkeypatch.setattr(folders, "MAX_PIXELS", 2_000_000)
    (warning,) = load_folder(tmp_path, RGB).provenance["warnings"]
    assert warning == f"{tmp_path}/a/bomb.png is skipped: it has 2 million pixels, at most 2 are read"


def test_a_class_of_one_picture_is_left_out(tmp_path: Path) -> None:
    some_classes(tmp_path, "a b c d e f")
    picture(tmp_path / "lonely" / "1.png")
    (tmp_path / "nothing").mkdir()
    splits = load_folder(tmp_path, RGB)
    assert splits.provenance["warnings"] == [
        f"class lonely in {tmp_path} has 1 readable picture and is skipped: 2 are needed",
        f"class nothing in {tmp_path} has no readable picture and is skipped: 2 are needed",
    ]
    assert sum(s.classes for s in (splits.train, splits.validation, splits.evaluation)) == 6


def test_two_levels_are_groups_of_classes(tmp_path: Path) -> None:
    some_classes(tmp_path / "fruit", "apple pear plum kiwi")
    some_classes(tmp_path / "tools", "apple saw pliers file", images=2)
    splits = load_folder(tmp_path, RGB)
    found = {}
    for images in (splits.train, splits.validation, splits.evaluation):
        for c, name in enumerate(images.class_names):
            found[name] = images.group_names[images.class_groups[c]]
    assert found == {
        "fruit/apple": "fruit", "fruit/pear": "fruit", "fruit/plum": "fruit", "fruit/kiwi": "fruit",
        "tools/apple": "tools", "tools/saw": "tools", "tools/pliers": "tools", "tools/file": "tools",
    }  # fmt: skip


def shapes_of(root: Path, groups: int, classes: int) -> Path:
    for group in range(groups):
        names = " ".join(f"g{group}c{i}" for i in range(classes))
        some_classes(root / f"g{group}", names, images=4, blue=20 * group)
    return root


@pytest.mark.parametrize(("groups", "classes"), [(5, 2), (2, 10), (3, 3), (10, 3), (4, 20)])
def test_held_out_classes_have_others_of_their_group_to_be_told_from(
    tmp_path: Path, groups: int, classes: int
) -> None:
    shapes_of(tmp_path, groups, classes)
    for seed in range(10):
        splits = load_folder(tmp_path, RGB, seed=seed)
        assert splits.provenance["warnings"] == []
        for images in (splits.validation, splits.evaluation):
            assert images.classes == max(2, round(0.2 * groups * classes))
            assert np.bincount(images.class_groups).min() >= 2
            within = episodes(images, 1, default_ways(images), 1, 1, np.random.default_rng(0), True)
            assert len(next(within).supports) >= 2
        for images in (splits.train, splits.validation, splits.evaluation):
            assert len(verification_pairs(images, 10, np.random.default_rng(0))) == 10
        again = load_folder(tmp_path, RGB, seed=seed)
        assert again.evaluation.class_names == splits.evaluation.class_names
        every = [s.class_names for s in (splits.train, splits.validation, splits.evaluation)]
        assert len(set().union(*every)) == sum(map(len, every)) == groups * classes


def test_a_large_set_holds_out_handfuls_of_several_groups(tmp_path: Path) -> None:
    evaluation = load_folder(shapes_of(tmp_path, 4, 20), RGB).evaluation
    assert evaluation.classes == 16
    assert np.bincount(evaluation.class_groups).tolist() == [5, 5, 6]


def test_the_split_of_classes_without_groups_is_the_order_of_the_seed(tmp_path: Path) -> None:
    some_classes(tmp_path, " ".join(f"c{i:02d}" for i in range(40)), images=2)
    for seed in range(3):
        splits = load_folder(tmp_path, RGB, seed=seed)
        order = np.random.default_rng([seed, 7]).permutation(40)
        for images, part in zip(
            (splits.train, splits.validation, splits.evaluation), np.split(order, [24, 32]), strict=True
        ):
            assert images.class_names == tuple(f"c{i:02d}" for i in np.sort(part))


def test_classes_that_are_alone_in_their_groups_are_told_apart_all_the_same(tmp_path: Path) -> None:
    shapes_of(tmp_path, 6, 1)
    splits = load_folder(tmp_path, RGB)
    assert splits.provenance["warnings"][-1] == (
        f"{tmp_path.name} evaluation has a single class of each group: its 2 classes become one group"
    )
    for images in (splits.train, splits.validation, splits.evaluation):
        assert images.group_names == (images.name,)
        assert default_ways(images) == 2
        assert len(verification_pairs(images, 10, np.random.default_rng(0))) == 10


def test_given_splits_with_a_class_of_each_group_are_one_group_each(tmp_path: Path) -> None:
    for group in "abcd":
        some_classes(tmp_path / "train" / group, f"{group}1 {group}2")
        some_classes(tmp_path / "evaluation" / group, f"{group}3")
    splits = load_folder(tmp_path, RGB)
    assert default_ways(splits.evaluation) == 4
    assert splits.evaluation.class_names == ("a/a3", "b/b3", "c/c3", "d/d3")


def test_given_splits_are_used(tmp_path: Path) -> None:
    some_classes(tmp_path / "Train", "a b c")
    some_classes(tmp_path / "validation", "d e")
    some_classes(tmp_path / "evaluation", "f g")
    splits = load_folder(tmp_path, RGB)
    assert splits.train.class_names == ("a", "b", "c")
    assert splits.validation.class_names == ("d", "e")
    assert splits.evaluation.class_names == ("f", "g")
    assert splits.provenance["split"] == "subfolders"


def test_without_a_validation_folder_classes_of_training_are_held_out(tmp_path: Path) -> None:
    some_classes(tmp_path / "train", " ".join(f"c{i}" for i in range(9)))
    some_classes(tmp_path / "evaluation", "f g")
    splits = load_folder(tmp_path, RGB)
    assert (splits.train.classes, splits.validation.classes) == (7, 2)
    assert not set(splits.train.class_names) & set(splits.validation.class_names)
    assert splits.evaluation.class_names == ("f", "g")


def test_only_an_evaluation_folder(tmp_path: Path) -> None:
    some_classes(tmp_path / "evaluation", "f g")
    splits = load_folder(tmp_path, RGB)
    assert splits.evaluation.class_names == ("f", "g")
    assert splits.train.classes == splits.validation.classes == 0
    assert splits.train.images.shape == (0, 16, 16, 3)


def test_classes_that_are_only_called_so_are_classes(tmp_path: Path) -> None:
    some_classes(tmp_path, "train evaluation bus car tram ship")
    splits = load_folder(tmp_path, RGB)
    assert sum(s.classes for s in (splits.train, splits.validation, splits.evaluation)) == 6


def test_a_class_in_two_given_splits_is_refused(tmp_path: Path) -> None:
    some_classes(tmp_path / "train", "a b c d")
    some_classes(tmp_path / "evaluation", "d e")
    with pytest.raises(DataError, match=r"class d is in .*train.* the splits must not share classes"):
        load_folder(tmp_path, RGB)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            "",
            "has 0 usable classes; it needs at least 2 subfolders with at least 2 JPEG, PNG or WebP pictures each",
        ),
        ("a", "has 1 usable classes; it needs at least 2 subfolders"),
        (
            "a b c d e",
            "has 5 usable classes; at least 6 are needed, 2 each for training, validation and evaluation",
        ),
    ],
)
def test_too_few_classes(tmp_path: Path, names: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_folder(some_classes(tmp_path, names), RGB)


def test_too_few_classes_say_why(tmp_path: Path) -> None:
    some_classes(tmp_path, "a")
    some_classes(tmp_path, "b", images=1)
    with pytest.raises(
        DataError, match=r"has 1 usable classes.*\(class b in .* has 1 readable picture and is skipped"
    ):
        load_folder(tmp_path, RGB)


def test_too_few_classes_to_hold_some_out(tmp_path: Path) -> None:
    some_classes(tmp_path / "train", "a b c")
    some_classes(tmp_path / "evaluation", "d e")
    with pytest.raises(
        DataError, match="train has 3 usable classes; at least 4 are needed, of which 2 are held out"
    ):
        load_folder(tmp_path, RGB)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*none; --data folder:PATH requires one"):
        load_splits(f"folder:{tmp_path / 'none'}", RGB)


def test_the_order_of_the_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some_classes(tmp_path, "a b c d e f")
    first = load_folder(tmp_path, RGB)
    monkeypatch.setenv("EDGE_SIAMESE_CACHE", str(tmp_path / ".other"))  # hidden, so no class
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: sorted(listed(path), reverse=True))
    second = load_folder(tmp_path, RGB)
    assert second.train.class_names == first.train.class_names
    assert np.array_equal(second.train.images, first.train.images)


# --- layouts and names that tools and people make ---


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[
            (name, "train")
            for name in ("train", "Train", "TRAINING", "training_set", "train2017", "train-images")
        ],
        *[
            (name, "validation")
            for name in ("val", "Valid", "validation", "dev", "val2017", "validation set")
        ],
        *[(name, "evaluation") for name in ("test", "Testing", "eval", "evaluation", "test_data", "TestSet")],
        *[(name, None) for name in ("trains", "tests", "latest", "train 1", "valve", "device", "contest")],
    ],
)
def test_the_names_of_splits(name: str, split: str | None) -> None:
    assert split_of(name) == split


def classifier_splits(root: Path, names: tuple[str, ...] = ("train", "valid", "test")) -> Path:
    """The same eight classes in each split, as for a classifier."""
    for number, split in enumerate(names):
        some_classes(root / split, " ".join(f"class{i}" for i in range(8)), images=2, blue=50 * number)
    return root


@pytest.mark.parametrize(
    "names", [("train", "valid", "test"), ("Training", "Testing"), ("train", "val"), ("valid", "test")]
)
def test_splits_that_divide_the_pictures_of_the_same_classes_are_put_together(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    splits = load_folder(classifier_splits(tmp_path, names), RGB)
    parts = (splits.train, splits.validation, splits.evaluation)
    assert [part.classes for part in parts] == [4, 2, 2]
    assert sum(part.classes for part in parts) == len(every_class(splits)) == 8  # none in two splits
    assert all(part.counts.tolist() == [2 * len(names)] * part.classes for part in parts)
    (warning,) = splits.provenance["warnings"]
    assert warning == (
        f"the splits {', '.join(names)} have the same classes, such as class0: the pictures of each class are put together "
        "and the seed draws classes for each split, because evaluation needs classes that were not trained on"
    )
    assert splits.provenance["split"] == "classes drawn by the seed"


def test_a_class_of_another_case_or_unicode_form_is_the_same_class(tmp_path: Path) -> None:
    composed, decomposed = "\u00c4pfel", "A\u0308pfel"
    some_classes(tmp_path / "train", f"{composed} Class1 c d")
    some_classes(tmp_path / "test", f"{decomposed} class1 e f", blue=9)
    with pytest.raises(DataError) as error:
        load_folder(tmp_path, RGB)
    assert str(error.value) == (
        f"class {composed} is in {tmp_path}/train and in {tmp_path}/test, and 1 more classes are in two splits; "
        "the splits must not share classes: evaluation needs classes that were not trained on"
    )


def test_two_folders_of_one_name_in_other_unicode_forms_are_one_class(tmp_path: Path) -> None:
    some_classes(tmp_path, "a b c d e")
    some_classes(tmp_path, "\u00c4pfel", blue=100)
    some_classes(tmp_path, "A\u0308pfel", blue=200)
    splits = load_folder(tmp_path, RGB)
    assert every_class(splits) == {"a", "b", "c", "d", "e", "\u00c4pfel"}
    assert splits.provenance["warnings"] == [
        f"two folders in {tmp_path} are called \u00c4pfel, in different Unicode forms: they are one class"
    ]
    part = next(
        p for p in (splits.train, splits.validation, splits.evaluation) if "\u00c4pfel" in p.class_names
    )
    assert part.counts[part.class_names.index("\u00c4pfel")] == 6


@pytest.mark.parametrize("names", ["a b c d e f A", "g/a g/b G/c G/d g/e g/f"])
def test_names_that_differ_in_case_only_are_refused(tmp_path: Path, names: str) -> None:
    some_classes(tmp_path, names)
    with pytest.raises(
        DataError, match=r"the folders (A|G|a|g) and (A|G|a|g) differ in case only: merge them"
    ):
        load_folder(tmp_path, RGB)


def test_a_class_name_in_two_groups_is_reported(tmp_path: Path) -> None:
    some_classes(tmp_path / "fold1", "a b c d", blue=1)
    some_classes(tmp_path / "fold2", "A b c d", blue=2)
    assert load_folder(tmp_path, RGB).provenance["warnings"] == [
        "4 class names in several groups, such as fold1/a and fold2/A, count as different classes; "
        "if the groups are parts of the same classes, name them train, validation and evaluation"
    ]


def test_two_folders_of_the_same_split_are_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "val", "Validation")):
        some_classes(tmp_path / name, f"a{number} b{number} c{number} d{number}")
    with pytest.raises(DataError, match=r"Validation and .*val are both the split validation: merge them"):
        load_folder(tmp_path, RGB)


def test_classes_beside_splits_are_refused(tmp_path: Path) -> None:
    some_classes(tmp_path / "train", "a b c d")
    some_classes(tmp_path, "bus")
    with pytest.raises(
        DataError, match=r"has folders of splits \(train\) next to bus: move bus into one of them"
    ):
        load_folder(tmp_path, RGB)


def test_what_tools_add_beside_splits_is_ignored_and_named(tmp_path: Path) -> None:
    some_classes(tmp_path / "train", "a b c d")
    some_classes(tmp_path / "val", "e f", blue=200)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text("{}")
    for i in range(5):  # a test split without labels
        picture(tmp_path / "test" / f"{i}.jpg")
    splits = load_folder(tmp_path, RGB)
    assert [p.classes for p in (splits.train, splits.validation, splits.evaluation)] == [2, 2, 2]
    assert splits.validation.class_names == ("e", "f")
    assert splits.provenance["warnings"] == [
        f"5 pictures ignored in {tmp_path}, not at CLASS/PICTURE or GROUP/CLASS/PICTURE: "
        "test/0.jpg, test/1.jpg, test/2.jpg, ..."
    ]


def test_one_split_alone(tmp_path: Path) -> None:
    some_classes(tmp_path / "a" / "train", "a b c d e f")
    splits = load_folder(tmp_path / "a", RGB)
    assert [p.classes for p in (splits.train, splits.validation, splits.evaluation)] == [2, 2, 2]
    some_classes(tmp_path / "b" / "val", "a b")
    splits = load_folder(tmp_path / "b", RGB)
    assert [p.classes for p in (splits.train, splits.validation, splits.evaluation)] == [0, 0, 2]
    some_classes(tmp_path / "c" / "val", "a b")
    some_classes(tmp_path / "c" / "test", "c d")
    with pytest.raises(DataError, match="folders for validation and evaluation, but none for train"):
        load_folder(tmp_path / "c", RGB)


def test_pictures_that_are_not_looked_at_are_named(tmp_path: Path) -> None:
    some_classes(tmp_path, "a b c d e f")
    picture(tmp_path / "loose.jpg")
    picture(tmp_path / "a" / "raw" / "1.jpg")
    picture(tmp_path / "g" / "h" / "i" / "j" / "2.jpg")
    picture(tmp_path / "g" / "h" / "1.jpg")
    picture(tmp_path / "g" / "h" / "2.jpg", 7)
    warnings = load_folder(tmp_path, RGB).provenance["warnings"]
    assert warnings == [
        f"3 pictures ignored in {tmp_path}, not at CLASS/PICTURE or GROUP/CLASS/PICTURE: "
        "loose.jpg, a/raw/1.jpg, g/h/i/j/2.jpg"
    ]


def test_a_group_with_a_loose_picture_is_a_group(tmp_path: Path) -> None:
    some_classes(tmp_path / "fruit", "a b c", blue=1)
    some_classes(tmp_path / "tools", "d e f", blue=2)
    picture(tmp_path / "fruit" / "cover.jpg")
    splits = load_folder(tmp_path, RGB)
    assert every_class(splits) == {"fruit/a", "fruit/b", "fruit/c", "tools/d", "tools/e", "tools/f"}
    assert splits.provenance["warnings"][0].endswith("GROUP/CLASS/PICTURE: fruit/cover.jpg")


def test_links_that_lead_back_or_to_the_same_folder_are_read_once(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    some_classes(root, "a b c d e f")
    (root / "again").symlink_to(root / "b")
    (root / "loop").symlink_to(root)
    (root / "up").symlink_to(tmp_path)
    (root / "self").symlink_to(root / "self")
    (root / "a" / "gone.jpg").symlink_to(root / "nowhere.jpg")
    splits = load_folder(root, RGB)
    assert every_class(splits) == set("abcdef")
    linked, loop, up, *_ = splits.provenance["warnings"]
    assert linked == f"{root}/again is a link to {root}/b and is skipped"
    assert loop == f"{root}/loop is a link to {root} and is skipped"
    assert up == f"{root}/up is a link to {tmp_path} and is skipped"
    assert splits.provenance["warnings"][-1] == f"skipped: {root}/a/gone.jpg: there is no such file"


def test_files_of_operating_systems_are_ignored(tmp_path: Path) -> None:
    some_classes(tmp_path, "a b c d e f")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "a/Thumbs.db", "a/._0.png"):
        (tmp_path / name).write_bytes(b"system")
    picture(tmp_path / "__MACOSX" / "a" / "0.png")
    picture(tmp_path / "a" / "@eaDir" / "0.png")
    splits = load_folder(tmp_path, RGB)
    assert splits.provenance["warnings"] == []
    assert every_class(splits) == set("abcdef")


def test_the_same_picture_in_two_splits_is_named(tmp_path: Path) -> None:
    some_classes(tmp_path / "train", "a b c d")
    some_classes(tmp_path / "test", "e f", blue=200)
    picture(tmp_path / "test" / "e" / "copy.png", shade=1)
    assert load_folder(tmp_path, RGB).provenance["warnings"] == [
        "1 picture of evaluation also in train, such as train/a/1.png and test/e/copy.png: "
        "the figures of evaluation may be too good"
    ]


def test_names_that_are_not_utf8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xfcr"))
    some_classes(root, os.fsdecode(b"\xc4pfel b c d e f"))
    (root / "b" / os.fsdecode(b"kaputt\xff.png")).write_bytes(b"junk")
    splits = load_splits(f"folder:{root}", RGB)
    assert every_class(splits) == {"\\xc4pfel", "b", "c", "d", "e", "f"}
    assert splits.provenance["data"] == f"folder:{tmp_path}/f\\xfcr"
    (warning,) = splits.provenance["warnings"]
    assert warning.startswith(f"skipped: {tmp_path}/f\\xfcr/b/kaputt\\xff.png")
    json.dumps(splits.provenance, ensure_ascii=False).encode("utf-8")
    assert caplog.text.encode("utf-8")
    # The path as it is written into a manifest finds the folder again.
    again = load_splits(splits.provenance["data"], RGB)
    assert data_fingerprint(again) == data_fingerprint(splits)


def test_unusual_pictures_are_scaled_or_refused_by_name(tmp_path: Path) -> None:
    some_classes(tmp_path, "b c d e f", blue=3)
    place = tmp_path / "a"
    place.mkdir()
    gradient = np.linspace(0, 65535, 400).reshape(20, 20)
    Image.fromarray(gradient.astype(np.uint16)).save(place / "0-16bit.png")
    Image.new("CMYK", (20, 20), (0, 255, 255, 0)).save(place / "1-cmyk.jpg", quality=95)
    Image.new("LA", (20, 20), (0, 0)).save(place / "2-transparent.png")
    Image.new("1", (20, 20), 1).save(place / "3-1bit.png")
    palette = Image.new("P", (20, 20), 0)
    palette.putpalette([10, 200, 30])
    palette.save(place / "4-palette.png")
    palette.save(place / "5-palette.png", transparency=0)
    Image.fromarray(gradient.astype(np.float32)).save(place / "6-float.png", "TIFF")
    Image.fromarray((gradient / 65535).astype(np.float32)).save(place / "7-float.png", "TIFF")
    Image.fromarray(gradient.astype(np.int32) * 30000).save(place / "8-32bit.png", "TIFF")
    splits = load_folder(tmp_path, RGB)
    part = next(p for p in (splits.train, splits.validation, splits.evaluation) if "a" in p.class_names)
    images = part.images[part.images_of(part.class_names.index("a"))].astype(int)
    assert np.abs(images[0, 0, 0] - 1).max() <= 8 and np.abs(images[0, -1, -1] - 254).max() <= 8
    centers = images[1:, 8, 8]
    expected = [[254, 0, 0], [255, 255, 255], [255, 255, 255], [10, 200, 30], [255, 255, 255]]
    assert np.abs(centers[: len(expected)] - expected).max() <= 3
    refused = [warning for warning in splits.provenance["warnings"] if "skipped" in warning]
    assert len(images) == 6 and [Path(w.split(": ")[1].split(" ")[0]).name for w in refused] == [
        "6-float.png", "7-float.png", "8-32bit.png",
    ]  # fmt: skip


def test_warnings_appear_once_although_training_pictures_are_read_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some_classes(tmp_path, "a b c d e f")
    picture(tmp_path / "loose.png")
    splits = load_splits(f"folder:{tmp_path}", RGB, training_preprocessing=Preprocessing(32, 32, "rgb"))
    assert splits.training_pictures is not None
    assert caplog.text.count("loose.png") == 1
