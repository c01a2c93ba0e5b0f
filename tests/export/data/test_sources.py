"""Several sources of training pictures: names, classes of their own, and what remains the first source's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data import load_splits, same_data, same_source, sources
from export.data.sources import anything, source_names
from tests.export.turntables import write_turntable

COLOR = Preprocessing(16, 16, "rgb")
LARGER = Preprocessing(24, 24, "rgb")


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((32, 32, 3), [shade, 40, 200 - shade], np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of 10 classes, a turntable of 7 objects, and 5 other pictures."""
    for number in range(10):
        for index in range(3):
            picture(tmp_path / "folder" / f"class-{number}" / f"{index}.png", 18 * number + index)
    for number in range(5):
        picture(tmp_path / "other" / "part" / f"{number}.png", 40 * number)
    (tmp_path / "turntable").mkdir()
    write_turntable(tmp_path / "turntable", list(range(7)))
    return tmp_path


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ("grocery", ["grocery"]),
        ("omniglot:Greek,Latin", ["omniglot:Greek,Latin"]),
        ("grocery,turntable:a,b,anything:c", ["grocery", "turntable:a,b", "anything:c"]),
        ("folder:x,folders,glyphs", ["folder:x,folders", "glyphs"]),
    ],
)
def test_a_comma_separates_sources_only_before_the_name_of_another(data: str, names: list[str]) -> None:
    assert source_names(data) == names


def test_the_first_source_is_evaluated_and_all_have_training_classes(root: Path) -> None:
    data = f"folder:{root}/folder,turntable:{root}/turntable,anything:{root}/other"
    splits = load_splits(data, COLOR, seed=1, training_preprocessing=LARGER)
    alone = load_splits(f"folder:{root}/folder", COLOR, seed=1)
    for split in ("train", "validation", "evaluation"):
        own, expected = getattr(splits, split), getattr(alone, split)
        assert own.class_names == expected.class_names
        assert np.array_equal(own.images, expected.images)
    pictures = splits.training_pictures
    assert pictures is not None and pictures.images.shape == (6 * 3 + 7 * 4 + 5, 24, 24, 4)
    assert pictures.class_sources is not None
    assert np.bincount(pictures.class_sources).tolist() == [6, 7, 5]
    assert pictures.class_names[:6] == alone.train.class_names
    assert pictures.class_names[6:8] == ("object-0", "object-1")
    assert pictures.class_names[-1] == "part/4.png"
    assert pictures.counts.tolist() == [3] * 6 + [4] * 7 + [1] * 5
    opaque = pictures.images[..., 3].min(axis=(1, 2)) == 255
    assert np.array_equal(opaque, pictures.class_sources[pictures.labels] != 1)
    assert splits.provenance["further_sources"] == [
        {"data": f"turntable:{root}/turntable", "images": 28, "classes": 7, "groups": 1},
        {"data": f"anything:{root}/other", "images": 5, "classes": 5, "groups": 1},
    ]


def test_labels_of_all_sources_belong_to_the_right_pictures(root: Path) -> None:
    data = f"folder:{root}/folder,anything:{root}/other"
    pictures = load_splits(data, COLOR, training_preprocessing=LARGER).training_pictures
    assert pictures is not None and pictures.images.shape[3] == 3
    (last,) = pictures.images_of(pictures.classes - 1)
    assert pictures.images[last, 0, 0].tolist() == [160, 40, 40]  # part/4.png


def test_evaluation_reads_the_first_source_only(root: Path) -> None:
    splits = load_splits(f"folder:{root}/folder,anything:{root}/removed", COLOR)
    assert splits.training_pictures is None and splits.train.classes == 6


def test_the_seed_draws_pictures_of_a_large_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_ANYTHING", 3)
    drawn = {seed: anything(root / "other", COLOR, seed).class_names for seed in range(4)}
    assert all(len(names) == 3 for names in drawn.values()) and len(set(drawn.values())) > 1
    assert anything(root / "other", COLOR, 2).class_names == drawn[2]


def test_pictures_of_anything_alone_cannot_be_evaluated(root: Path) -> None:
    with pytest.raises(
        DataError, match=r"is for training in addition to other data: .* as in grocery,anything:PATH"
    ):
        load_splits(f"anything:{root}/other", COLOR)


def test_cut_outs_need_an_encoder_for_color(root: Path) -> None:
    gray = Preprocessing(16, 16, "gray")
    with pytest.raises(DataError, match="several sources of data need an encoder for color pictures"):
        load_splits(f"folder:{root}/folder,turntable:{root}/turntable", gray, training_preprocessing=gray)


def test_data_share_classes_if_they_have_a_source_in_common(tmp_path: Path) -> None:
    one, other = f"grocery,turntable:{tmp_path}", f"turntable:{tmp_path}/."
    assert same_source(one, other) and not same_data(one, other)
    assert same_data(one, f"grocery,turntable:{tmp_path}/x/..")
    assert not same_source(one, "folder:photos") and not same_source(one, "turntable:other")
    assert same_source("omniglot:characters", "omniglot,glyphs")
