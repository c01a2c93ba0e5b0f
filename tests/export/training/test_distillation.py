"""Distillation: one network learns the embeddings of a fine-tuned and a published network side by side."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.imaging import Bytes, Preprocessing
from export import encoders
from export.data.images import Splits
from export.encoders import EncoderNetwork
from export.encoders.projection import fit_to_principal_components
from export.training.distillation import Distillation, DistillationStep, Teacher, fit_to_teacher
from export.training.network import load_run
from export.training.objectives import shuffled
from export.training.retention import UnrelatedPictures
from export.training.settings import TrainingSettings
from export.training.train import train
from tests.export.training.colored import colored

SIDE = 24
INPUT = Preprocessing(SIDE, SIDE, "rgb")


class Small(EncoderNetwork):
    """Colors and coarse shapes to 8 numbers; its published weights are those of one seed."""

    name = "glyphnet"
    normalization = "l2"
    published_weights = "weights of this test"

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = INPUT
        self.dimensions = 8
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 6, 6), nn.ReLU(), nn.Flatten())
        self.projection = nn.Linear(256, 8)

    def features(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.layers(pixels / 255.0 - 0.5)
        return features

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.projection(self.features(pixels))
        return embedding

    def fit_projection(self, images: Bytes) -> None:
        fit_to_principal_components(self.projection, self.features, images)

    def load_published_weights(self) -> None:
        draw(self, 1)


def draw(encoder: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def network(seed: int) -> Small:
    encoder = Small()
    draw(encoder, seed)
    return encoder.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("varied")
    rng = np.random.default_rng(5)
    for index in range(300):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE)).save(place / f"{index}.png")
    return place


@pytest.fixture(scope="module")
def pictures(folder: Path) -> UnrelatedPictures:
    torch.set_num_threads(1)
    return UnrelatedPictures(folder, INPUT, (SIDE, SIDE), seed=0)


def similarities(embeddings: Tensor) -> Tensor:
    units = F.normalize(embeddings - embeddings.mean(dim=0))
    return units @ units.T


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_teacher_of_one_network_has_its_similarities(pictures: UnrelatedPictures, weight: float) -> None:
    """At weights of 0 and 1 the other network does not count, and nothing is lost in the reduction to 8 numbers."""
    finetuned, published = network(2), network(1)
    teacher = Teacher(finetuned, published, weight, pictures)
    pixels = torch.cat(list(pictures.sample(300)))
    own = F.normalize([finetuned, published][int(weight)](pixels))
    difference = (similarities(teacher(pixels)) - similarities(own)).detach()
    assert float(difference.abs().mean()) < 0.02


def test_both_networks_count_in_the_teacher(pictures: UnrelatedPictures) -> None:
    finetuned, published = network(2), network(1)
    teacher = Teacher(copy.deepcopy(finetuned), published, 0.5, pictures)
    pixels = torch.cat(list(pictures.sample(300)))
    targets = teacher(pixels)
    assert targets.shape == (300, 8) and torch.allclose(targets.norm(dim=1), torch.ones(300))
    upper = torch.triu_indices(300, 300, 1)
    together, one, other = (
        similarities(x)[upper[0], upper[1]]
        for x in (targets, F.normalize(finetuned(pixels)), F.normalize(published(pixels)))
    )
    correlations = torch.corrcoef(torch.stack([together, one, other]).detach())
    assert min(correlations[0, 1], correlations[0, 2]) > correlations[1, 2] + 0.2


def test_the_first_projection_is_close_to_the_teacher(pictures: UnrelatedPictures) -> None:
    student = network(2)
    teacher = Teacher(network(2), network(1), 0.5, pictures)
    fit_to_teacher(student, teacher, pictures)
    pixels = pictures.batch(64, step=3)
    fitted, before = (
        float((F.normalize(encoder(pixels)) * teacher(pixels)).sum(dim=1).mean().detach())
        for encoder in (student, network(2))
    )
    assert fitted > 0.7 > before + 0.3


def test_the_student_alone_is_trained(pictures: UnrelatedPictures) -> None:
    student = network(2)
    step = DistillationStep(
        student, Distillation(shuffled), Teacher(network(2), network(1), 0.5, pictures), pictures
    )
    assert {id(p) for p in step.parameters()} == {id(p) for p in student.parameters()}
    loss = step(pictures.batch(8, step=0), torch.zeros(8), 0)
    loss.backward()
    assert 0.0 < float(loss.detach()) < 2.0 and student.layers[0].weight.grad.abs().sum() > 0


def test_training_approaches_the_teacher_and_keeps_its_last_step(
    tmp_path: Path, folder: Path, pictures: UnrelatedPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encoders.ENCODERS, "glyphnet", Small)
    splits = Splits(*(colored(name, SIDE) for name in ("train", "validation", "evaluation")))
    first = TrainingSettings(
        data="folder:x", batch=16, steps=2, symmetries=False, augmentation="photo", validations=1,
        validation_episodes=20,
    )  # fmt: skip
    train(first, splits, tmp_path / "first")
    settings = replace(
        first, start=f"run:{tmp_path / 'first'}", objective="distillation", anti_forgetting_data=str(folder),
        steps=60, learning_rate=3e-3,
    )  # fmt: skip
    result = train(settings, splits, tmp_path / "distilled")
    assert result.step == 60
    finetuned = load_run(tmp_path / "first").module
    teacher = Teacher(finetuned, network(1), 0.5, pictures)
    start = copy.deepcopy(finetuned)
    fit_to_teacher(start, teacher, pictures)
    pixels = pictures.batch(64, step=1000)
    losses = [
        float(Distillation(shuffled)(encoder(pixels), teacher(pixels)).detach())
        for encoder in (start, load_run(tmp_path / "distilled").module)
    ]
    assert losses[1] < 0.9 * losses[0], losses


def test_distillation_needs_a_fine_tuned_start_pictures_and_a_projection(pictures: UnrelatedPictures) -> None:
    settings = TrainingSettings(start="run:x", objective="distillation", anti_forgetting_data="varied")
    with pytest.raises(SettingsError, match="distillation starts from fine-tuned weights: --start run:DIR"):
        replace(settings, start="published")
    with pytest.raises(SettingsError, match="distillation needs pictures of anything"):
        replace(settings, anti_forgetting_data="")
    with pytest.raises(SettingsError, match=r"published_weight must be at most 1, not 1\.5"):
        replace(settings, published_weight=1.5)
    teacher = Teacher(network(2), network(1), 0.5, pictures)
    without = network(2)
    del without.projection
    with pytest.raises(SettingsError, match="distillation needs an encoder with a projection"):
        fit_to_teacher(without, teacher, pictures)
