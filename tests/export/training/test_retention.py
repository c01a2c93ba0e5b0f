"""The anti-forgetting loss: fine-tuning keeps the initial embeddings of unrelated pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export import encoders
from export.data.images import Splits
from export.encoders import EncoderNetwork
from export.training.retention import MIN_IMAGES, AntiForgettingLoss, UnrelatedPictures
from export.training.settings import TrainingSettings
from export.training.train import train
from tests.export.training.colored import colored

SIDE = 32
INPUT = Preprocessing(SIDE, SIDE, "rgb")


class Small(EncoderNetwork):
    """Its published weights are those of one seed."""

    name = "glyphnet"
    normalization = "l2"

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = INPUT
        self.dimensions = 16
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 8, 8), torch.nn.ReLU())
        self.out = torch.nn.Linear(256, 16)

    def forward(self, pixels: Tensor) -> Tensor:
        embedding: Tensor = self.out(self.layers(pixels / 255.0).flatten(1))
        return embedding

    def load_published_weights(self) -> None:
        generator = torch.Generator().manual_seed(11)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


def start() -> Small:
    encoder = Small()
    encoder.load_published_weights()
    return encoder.eval().requires_grad_(False)


def pictures(folder: Path, seed: int = 0) -> UnrelatedPictures:
    return UnrelatedPictures(folder, INPUT, (SIDE, SIDE), seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many pictures as are needed, in folders that mean nothing."""
    place = tmp_path_factory.mktemp("varied")
    rng = np.random.default_rng(5)
    for index in range(MIN_IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        path = place / str(index % 3) / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        coarse.resize((40, 40)).save(path)
    return place


def test_a_batch_is_a_function_of_the_step(folder: Path) -> None:
    loss, again = (AntiForgettingLoss(start(), pictures(folder, seed=3)) for _ in range(2))
    pixels, known = loss.batch(6, step=4)
    assert pixels.shape == (6, 3, SIDE, SIDE) and 0.0 <= pixels.min() and pixels.max() <= 255.0
    assert torch.allclose(known.norm(dim=1), torch.ones(6))
    same, other = again.batch(6, step=4), loss.batch(6, step=5)
    assert torch.equal(pixels, same[0]) and torch.equal(known, same[1])
    assert not torch.equal(pixels, other[0])


def test_workers_draw_other_batches_and_have_the_same_sample(folder: Path) -> None:
    """The teacher of a distillation is fitted to the sample, so it must not differ between workers."""
    first, second = (UnrelatedPictures(folder, INPUT, (SIDE, SIDE), seed=0, worker=n) for n in range(2))
    assert torch.equal(torch.cat(list(first.sample(20))), torch.cat(list(second.sample(20))))
    assert not torch.equal(first.batch(8, step=0), second.batch(8, step=0))


def test_the_loss_is_zero_for_the_initial_network_and_not_for_another(folder: Path) -> None:
    loss = AntiForgettingLoss(start(), pictures(folder, seed=0))
    pixels, known = loss.batch(32, step=0)
    assert float(loss.loss(start()(pixels), known)) == pytest.approx(0.0, abs=1e-5)
    torch.manual_seed(1)
    assert float(loss.loss(Small()(pixels).detach(), known)) > 0.5


@pytest.mark.parametrize("name", ["nowhere", "few"])
def test_too_few_pictures_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "few").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "few" / "one.png")
    with pytest.raises(
        DataError,
        match=rf"{name} has [01] unrelated pictures, at least {MIN_IMAGES} are needed",
    ):
        pictures(tmp_path / name)


def test_training_with_the_loss_forgets_less(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(encoders.ENCODERS, "glyphnet", Small)
    torch.set_num_threads(1)
    splits = Splits(*(colored(name, SIDE) for name in ("train", "validation", "evaluation")))
    settings = TrainingSettings(
        data="folder:x", start="published", steps=30, batch=16, learning_rate=3e-3, augmentation="photo",
        symmetries=False, validations=1, validation_episodes=20,
    )  # fmt: skip
    loss = AntiForgettingLoss(start(), pictures(folder, seed=9))
    pixels, known = loss.batch(64, step=0)
    forgotten = {}
    for data in ("", str(folder)):
        out = tmp_path / ("with" if data else "without")
        train(replace(settings, anti_forgetting_data=data), splits, out)
        trained = Small()
        trained.load_state_dict(torch.load(out / "checkpoint.pt", weights_only=True)["ema"])
        forgotten[bool(data)] = float(loss.loss(trained(pixels).detach(), known))
    assert forgotten[True] < 0.85 * forgotten[False], forgotten
