"""Turning objects as a data set: split by object, each view in front of a background of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data import load_splits
from export.data.cut_outs import cut_out_set
from tests.export.turntables import write_turntable

COLOR = Preprocessing(40, 40, "rgb")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_turntable(tmp_path, list(range(10)))
    return tmp_path


def test_the_splits_share_no_object(folder: Path) -> None:
    splits = load_splits(
        f"turntable:{folder}", COLOR, seed=3, training_preprocessing=Preprocessing(48, 48, "rgb")
    )
    parts = [splits.train, splits.validation, splits.evaluation]
    assert [part.classes for part in parts] == [6, 2, 2]
    names = [name for part in parts for name in part.class_names]
    assert sorted(names) == [f"object-{number}" for number in range(10)]
    assert all(part.images.shape == (4 * part.classes, 40, 40, 3) for part in parts)
    pictures = splits.training_pictures
    assert pictures is not None and pictures.class_names == splits.train.class_names
    assert pictures.images.shape == (24, 48, 48, 4)
    assert splits.provenance["evaluation_classes"] == list(splits.evaluation.class_names)
    assert splits.provenance["train"] == {"images": 24, "classes": 6, "groups": 1}


def test_views_show_the_object_in_front_of_different_backgrounds(folder: Path) -> None:
    """The object's hue is in the middle of each view; a corner shows the background, which no two views share."""
    splits = load_splits(f"turntable:{folder}", COLOR, seed=3)
    (part,) = (p for p in (splits.train, splits.validation, splits.evaluation) if "object-0" in p.class_names)
    views = part.images[part.images_of(part.class_names.index("object-0"))].astype(int)
    middle = views[:, 15:25, 15:25].reshape(4, -1, 3).max(axis=1)
    assert (middle[:, 0] > middle[:, 1] + 60).all()
    corners = views[:, :3, :3].mean(axis=(1, 2))
    assert len({tuple(np.round(corner)) for corner in corners}) == 4


def test_the_pictures_are_the_same_each_time_and_others_with_another_seed(folder: Path) -> None:
    first, again, other = (load_splits(f"turntable:{folder}", COLOR, seed=seed).train for seed in (3, 3, 4))
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(first.images, other.images[: len(first)])


def test_cut_outs_are_scaled_with_their_transparency(folder: Path) -> None:
    cut_outs = cut_out_set(folder, 24)
    assert cut_outs.images.shape == (40, 24, 24, 4)
    assert (cut_outs.images[:, 0, 0, 3] == 0).all() and (cut_outs.images[:, 12, 12, 3] == 255).all()


def test_too_few_objects_are_refused(tmp_path: Path) -> None:
    write_turntable(tmp_path, [0, 1, 2])
    with pytest.raises(DataError, match="has 3 objects; at least 6 are needed"):
        load_splits(f"turntable:{tmp_path}", COLOR)
    with pytest.raises(DataError, match=r"has no objects.json: render models into it"):
        load_splits(f"turntable:{tmp_path}/missing", COLOR)
