from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data import folders, load_splits
from export.data.folders import load_folder
from export.data.sampling import episodes, verification_pairs
from export.training.validation import usual_ways

RGB = Preprocessing(16, 16, "rgb")


def picture(path: Path, shade: int = 100, size: tuple[int, int] = (20, 20)) -> Path:
    """A picture of one shade, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)
    return path


def some_classes(root: Path, names: str, images: int = 3) -> Path:
    for number, name in enumerate(names.split()):
        for i in range(images):
            picture(root / name / f"{i}.png", shade=10 * number + i)
    return root


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
    some_classes(tmp_path, "b c d e f")
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
        f"{tmp_path}/a/notes.txt is not JPEG, PNG or WebP and is ignored"
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
    assert "... and 3 more such lines" in caplog.text


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
        some_classes(root / f"g{group}", " ".join(f"c{i}" for i in range(classes)), images=4)
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
            within = episodes(images, 1, usual_ways(images), 1, 1, np.random.default_rng(0), True)
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
        assert usual_ways(images) == 2
        assert len(verification_pairs(images, 10, np.random.default_rng(0))) == 10


def test_given_splits_with_a_class_of_each_group_are_one_group_each(tmp_path: Path) -> None:
    for group in "abcd":
        some_classes(tmp_path / "train" / group, f"{group}1 {group}2")
        some_classes(tmp_path / "evaluation" / group, f"{group}3")
    splits = load_folder(tmp_path, RGB)
    assert usual_ways(splits.evaluation) == 4
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
