"""The grocery photographs: both layouts are read, families stay together, nothing is missing without a word."""

import numpy as np
import pytest
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data import load_splits
from export.data.grocery import BASE, NOVEL, VALIDATION_FAMILIES, load_grocery

RGB = Preprocessing(8, 8, "rgb")
CLASSES = sorted(BASE | NOVEL)


def photograph(path, name):
    """A picture whose color says which class it is of."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (10, 12), (CLASSES.index(name), 0, 0)).save(path, quality=100, subsampling=0)


def split_layout(root):
    for part, classes in (("base", BASE), ("novel", NOVEL)):
        for name in classes:
            for i in range(2):
                photograph(root / part / name / f"{name}_{i}.jpg", name)
    for name in CLASSES:
        photograph(root / "iconic" / f"{name}.jpg", name)
    return root


def official_layout(root):
    dataset = root / "dataset"
    for name, family in (BASE | NOVEL).items():
        below = f"Kind/{name}" if family == name else f"Kind/{family}/{name}"
        photograph(dataset / "train" / below / f"{name}_001.jpg", name)
        photograph(dataset / "test" / below / f"{name}_002.jpg", name)
        catalog = dataset / "iconic-images-and-descriptions" / below
        photograph(catalog / f"{name}_Iconic.jpg", name)
        photograph(catalog / f"{name}_Clean.jpg", name)
    return root


@pytest.mark.parametrize("layout", [split_layout, official_layout])
def test_both_layouts_give_the_same_splits(tmp_path, layout):
    splits = load_grocery(RGB, layout(tmp_path))
    assert [s.classes for s in (splits.train, splits.validation, splits.evaluation, splits.catalog)] == [
        42,
        10,
        29,
        29,
    ]
    for images, each in (
        (splits.train, 2),
        (splits.validation, 2),
        (splits.evaluation, 2),
        (splits.catalog, 1),
    ):
        assert images.counts.tolist() == [each] * images.classes
        shown = np.array([CLASSES.index(images.class_names[label]) for label in images.labels])
        assert np.abs(images.images[:, 4, 4, 0].astype(int) - shown).max() <= 2
    assert splits.catalog.class_names == splits.evaluation.class_names == tuple(sorted(NOVEL))


def test_families_are_held_out_whole(tmp_path):
    splits = load_grocery(RGB, split_layout(tmp_path))
    families = [
        {(BASE | NOVEL)[c] for c in s.class_names}
        for s in (splits.train, splits.validation, splits.evaluation)
    ]
    assert families[1] == set(VALIDATION_FAMILIES)
    assert not families[0] & families[1] and not families[0] & families[2] and not families[1] & families[2]
    assert not set(BASE) & set(NOVEL) and (len(BASE), len(NOVEL)) == (52, 29)


def test_training_pictures_come_in_a_finer_size_too(tmp_path, monkeypatch):
    split_layout(tmp_path / "grocery")
    monkeypatch.setenv("EDGE_SIAMESE_DATA", str(tmp_path))
    splits = load_splits("grocery", RGB, training_preprocessing=Preprocessing(10, 10, "rgb"))
    assert splits.training_pictures.images.shape == (84, 10, 10, 3) and splits.train.images.shape == (
        84,
        8,
        8,
        3,
    )
    assert np.array_equal(splits.training_pictures.labels, splits.train.labels)
    assert load_splits("grocery", RGB).training_pictures is None


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGE_SIAMESE_DATA", raising=False)
    with pytest.raises(
        DataError, match=r"are not downloaded automatically: clone https://github.com/marcusklasson/"
    ):
        load_grocery(RGB)
    with pytest.raises(DataError, match=r"there is no folder .*none; clone https"):
        load_grocery(RGB, tmp_path / "none")
    split_layout(tmp_path)
    for file in (tmp_path / "novel" / "Kiwi").iterdir():
        file.unlink()
    with pytest.raises(
        DataError, match=r"no pictures of Kiwi for grocery novel \(1 of 29 classes are missing\)"
    ):
        load_grocery(RGB, tmp_path)


def test_a_damaged_photograph_is_named(tmp_path):
    split_layout(tmp_path)
    (tmp_path / "base" / "Plum" / "Plum_0.jpg").write_bytes(b"\xff\xd8 no more")
    with pytest.raises(DataError, match=r"grocery train: skipped: .*Plum_0\.jpg"):
        load_grocery(RGB, tmp_path)
