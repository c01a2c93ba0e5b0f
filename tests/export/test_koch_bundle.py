"""The reference network, koch2015, from training to bundle: 38.9 million parameters, weighted L1, positive units."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edge_siamese.models.bundle import Bundle
from edge_siamese.models.selftest import self_test
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.runtimes.selection import load_encoder
from export.cli.verify import require
from export.conversion.bundle import build_bundle
from export.conversion.tflite import read_tflite
from export.conversion.verification import Verification
from export.conversion.verify import verify
from export.data.images import ImageSet, Splits
from export.encoders import Koch2015
from export.evaluation.remote_runtime import run_device
from export.training.network import TrainedNetwork

# Quantization may lose what it likes here: the network is not trained.
BUDGET = 100.0


def bars(name: str, seed: int, classes: int = 6, each: int = 4) -> ImageSet:
    """Classes that differ by where a bar stands, more or less, in the size that the network reads."""
    rng = np.random.default_rng(seed)
    pictures = np.full((classes * each, 105, 105, 1), 255, np.uint8)
    for index, picture in enumerate(pictures):
        left = 8 + 15 * (index // each) + rng.integers(-6, 7)
        picture[15:90, left : left + 8] = rng.integers(0, 60)
    return ImageSet(
        name=name,
        images=pictures,
        labels=np.repeat(np.arange(classes), each),
        class_names=tuple(f"bar-{i}" for i in range(classes)),
        class_groups=np.arange(classes) // 3,
        group_names=("left", "right"),
        drawers=np.tile(np.arange(each), classes),
    )


SPLITS = Splits(bars("train", 0), bars("validation", 1), bars("evaluation", 2), (), {"source": "bars"})


@pytest.fixture(scope="module")
def network() -> TrainedNetwork:
    """Random weights that carry the picture through to the units, and a head that takes each unit for as telling."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Koch2015().eval()
    with torch.no_grad():
        for layer in module.convolutions:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                layer.bias.zero_()
        nn.init.normal_(module.units.weight, 0.0, 0.02)
        module.units.bias.zero_()
        module.head.alpha.weight.fill_(-0.02)
        module.head.alpha.bias.fill_(2.0)
    provenance = {"validation_accuracy": 0.5, "settings": {"objective": "pairs", "seed": 0}}
    return TrainedNetwork.of(module, provenance, Path("run"))


@pytest.fixture(scope="module")
def bundle(network: TrainedNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    place = tmp_path_factory.mktemp("koch") / "bundle"
    yield build_bundle(network, SPLITS, place, BUDGET).bundle
    shutil.rmtree(place)  # 390 MB


@pytest.fixture(scope="module")
def verified(bundle: Bundle, network: TrainedNetwork) -> Verification:
    return verify(bundle, network, SPLITS.validation, SPLITS.train.images[:4], BUDGET)


def test_the_manifest_describes_the_network_of_the_paper(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.encoder.name, manifest.encoder.parameters) == ("koch2015", 38_951_745)
    assert (manifest.embedding.dimensions, manifest.embedding.normalization) == (4096, "none")
    assert manifest.head.distance == "weighted_l1" and bundle.head.weights is not None
    assert bundle.head.weights == pytest.approx(np.full(4096, 0.02))
    assert {(m.format, m.precision): m.input_dtype for m in manifest.models} == {
        ("onnx", "fp32"): "uint8", ("onnx", "int8"): "uint8",
        ("tflite", "fp32"): "uint8", ("tflite", "int8"): "int8",
    }  # fmt: skip
    assert read_tflite(bundle.model_path("tflite", "int8")).float_operators() == []
    for model in manifest.models:
        # 4 bytes or 1 a parameter of the encoder, without the head.
        share = model.bytes / (38_947_648 * (4 if model.precision == "fp32" else 1))
        assert 0.999 < share < 1.01


def test_every_file_behaves_like_the_network(verified: Verification) -> None:
    require(verified)
    files = {(file.format, file.precision) for file in verified.files}
    assert files == {("onnx", "fp32"), ("onnx", "int8"), ("tflite", "fp32"), ("tflite", "int8")}
    assert verified.network_accuracy > 0.6  # a guess is right in 0.33
    for file in verified.files:
        if file.precision == "fp32":
            assert file.largest_score_difference < 1e-3
        else:
            assert file.worst_cosine > 0.99 and abs(file.loss_points or 0.0) < 10.0


@pytest.mark.parametrize("runtime", ["onnxruntime", "ai-edge-litert"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_this_machine_passes_the_self_test(bundle: Bundle, runtime: str, precision: str) -> None:
    report = self_test(load_encoder(bundle, runtime, precision, threads=1), bundle.golden, bundle.head)
    report.require()
    assert report.largest_score_difference < 0.01
    # Golden vectors with only certain scores would not show it.
    assert ((bundle.golden.scores > 0.1) & (bundle.golden.scores < 0.9)).any()


@pytest.mark.system
def test_the_device_passes_the_self_test(bundle: Bundle, device_python: Path) -> None:
    said = json.loads(run_device(device_python, ["selftest", str(bundle.path), "--threads", "1", "--json"]))
    assert said["passed"] is True
    assert {report["precision"] for report in said["reports"]} == {"fp32", "int8"}


class Forgetful:
    """Gives every picture the embedding of the first."""

    def __init__(self, encoder: Encoder) -> None:
        self.runtime, self.precision, self.model_id = encoder.runtime, encoder.precision, encoder.model_id
        self.preprocessing, self.dimensions = encoder.preprocessing, encoder.dimensions
        self.embed_prepared = lambda images: np.repeat(
            encoder.embed_prepared(images[:1]), len(images), axis=0
        )


def test_pictures_that_are_taken_for_one_another_fail_though_their_cosine_is_high(bundle: Bundle) -> None:
    """All units are positive, so the self-test cannot go by the cosine alone."""
    encoder = load_encoder(bundle, "onnxruntime", "fp32", threads=1)
    golden = bundle.golden
    alike = self_test(Forgetful(encoder), golden, bundle.head, min_cosine=0.5)
    assert alike.embeddings_agree and alike.worst_cosine > 0.8
    assert not alike.scores_agree and not alike.passed
