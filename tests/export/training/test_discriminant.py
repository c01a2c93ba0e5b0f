"""Discriminant weighting: exact on known covariances, absorbed by the last layer, refused where it makes no sense."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.embedding import unit_vectors
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Preprocessing
from export.data.images import ImageSet
from export.encoders import EncoderNetwork, Koch2015
from export.training.discriminant import discriminant, with_discriminant
from export.training.network import TorchEncoder, load_run
from export.training.train import train
from export.training.validation import one_shot_accuracy
from tests.export.training.test_train import SHORT, drawn_splits

RANKING = SigmoidDistanceHead(scale=1.0, bias=0.0)


def classes_of(count: int, each: int, group_size: int, side: int = 1) -> ImageSet:
    """Blank pictures, of `count` classes."""
    groups = np.arange(count) // group_size
    return ImageSet(
        name="blanks",
        images=np.zeros((count * each, side, side, 1), np.uint8),
        labels=np.repeat(np.arange(count), each),
        class_names=tuple(map(str, range(count))),
        class_groups=groups,
        group_names=tuple(map(str, range(int(groups.max()) + 1))),
        drawers=np.tile(np.arange(each), count),
    )


def test_the_weighting_of_known_variances() -> None:
    # Two classes of a group differ by 2 in the first direction; the pictures of a class by 2 and 4 in the others.
    points = [[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-2.0, 2.0)]
    images = classes_of(2, 4, 2)
    # Variances within: 0, 1, 4. Shrunk by half toward their mean, 5/3: 5/6, 4/3, 17/6. Between: 1, 0, 0.
    found = discriminant(np.array(points), images, shrinkage=0.5, power=0.5)
    ratio = 6 / 5
    np.testing.assert_allclose(
        found, np.diag([np.sqrt(ratio / (ratio + 1)) / np.sqrt(5 / 6), 0, 0]), atol=1e-9
    )
    whitening = discriminant(np.array(points), images, shrinkage=0.5, power=0.0)
    np.testing.assert_allclose(
        whitening, np.diag([5 / 6, 4 / 3, 17 / 6]) ** 0.5 @ np.diag([6 / 5, 3 / 4, 6 / 17])
    )


def test_what_distinguishes_groups_does_not_count() -> None:
    rng = np.random.default_rng(0)
    images = classes_of(40, 20, 10)
    centers = rng.normal(size=(40, 6))
    centers[:, :3] = 5 * rng.normal(size=(4, 3))[images.class_groups]
    points = centers[images.labels] + rng.normal(size=(800, 6))
    weights = np.abs(discriminant(points, images))
    assert weights[:3, :3].max() < 0.3 < 0.5 < np.diag(weights)[3:].min()


def test_one_shot_accuracy_rises_on_other_classes() -> None:
    rng = np.random.default_rng(1)
    noise = np.array([3.0] * 4 + [0.3] * 12)

    def points(images: ImageSet) -> np.ndarray:
        centers = rng.normal(size=(images.classes, 16))
        return unit_vectors(
            (centers[images.labels] + noise * rng.normal(size=(len(images), 16))).astype(np.float32)
        )

    training, others = classes_of(60, 10, 20), classes_of(40, 10, 20)
    matrix = discriminant(points(training).astype(np.float64), training)
    embeddings = points(others)
    before = one_shot_accuracy(embeddings, others, RANKING, 1000, seed=0)
    weighted = unit_vectors((embeddings @ matrix.T).astype(np.float32))
    assert one_shot_accuracy(weighted, others, RANKING, 1000, seed=0) > before + 0.2


class Flat(EncoderNetwork):
    """One linear layer on 4x4 pixels."""

    name = "flat"
    citation = ""
    normalization = "l2"

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(4, 4, "gray")
        self.dimensions = 6
        self.embedding = nn.Linear(16, 6)

    def forward(self, pixels: Tensor) -> Tensor:
        result: Tensor = self.embedding(pixels.flatten(1) / 255)
        return result


def test_the_last_layer_absorbs_the_weighting() -> None:
    torch.manual_seed(0)
    images = classes_of(6, 10, 3, side=4)
    pictures = np.random.default_rng(2).integers(0, 256, images.images.shape, dtype=np.uint8)
    images = replace(images, images=pictures)
    encoder = Flat().eval()
    before = TorchEncoder(encoder).embed_prepared(images.images)
    weighted = with_discriminant(encoder, images)
    expected = unit_vectors((before @ discriminant(before.astype(np.float64), images).T).astype(np.float32))
    np.testing.assert_allclose(TorchEncoder(weighted).embed_prepared(images.images), expected, atol=1e-5)
    assert np.abs(expected - before).max() > 0.1
    np.testing.assert_array_equal(TorchEncoder(encoder).embed_prepared(images.images), before)


def test_a_run_keeps_weighted_weights_and_trains_the_others(tmp_path: Path) -> None:
    plain, weighted = (
        train(replace(SHORT, discriminant=chosen, validations=1), drawn_splits(), tmp_path / str(chosen)).run
        for chosen in (False, True)
    )
    encoders = [
        torch.load(run / "checkpoint.pt", weights_only=False)["ema"]["embedding.weight"]
        for run in (plain, weighted)
    ]
    assert torch.equal(*encoders)
    kept, other = load_run(weighted).module, load_run(plain).module
    assert torch.equal(kept.stem[0].weight, other.stem[0].weight)  # type: ignore[index, operator]
    assert not torch.equal(kept.embedding.weight, other.embedding.weight)  # type: ignore[union-attr]


def test_encoders_and_data_that_do_not_suit_are_refused(tmp_path: Path) -> None:
    settings = replace(SHORT, encoder="koch2015", objective="pairs", discriminant=True)
    with pytest.raises(
        SettingsError, match="needs an encoder that ends in a linear layer, which koch2015 does not"
    ):
        with_discriminant(Koch2015(), drawn_splits().train)
    with pytest.raises(SettingsError, match="ends in a linear layer"):
        train(settings, drawn_splits(), tmp_path)
    with pytest.raises(SettingsError, match="needs a group with two classes, which blanks does not have"):
        discriminant(np.eye(6), classes_of(3, 2, 1))
