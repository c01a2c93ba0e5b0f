"""Operations of a network: those that are said to convert do, and the others are named with their place."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.imaging import Preprocessing
from export.conversion.graph import exported_encoder, operation_of
from export.conversion.onnx import OnnxGraph
from export.conversion.operations import CONVERTIBLE, require_convertible
from export.conversion.quantize import choose_ranges, collect_statistics
from export.conversion.tflite import TfliteGraph, read_tflite
from export.encoders import ENCODERS, EncoderNetwork, build_encoder


class Every(EncoderNetwork):
    """Every convertible operation once or more."""

    name = "every"
    citation = "none: it is for tests"
    normalization = "l2"

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(33, 33, "rgb")
        self.dimensions = 8
        self.stem = nn.Conv2d(3, 8, 3, 2)
        self.activations = nn.Sequential(nn.Hardswish(), nn.GELU(), nn.SiLU(), nn.ReLU())
        self.pooling = nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2))
        self.normalization_layer = nn.BatchNorm2d(8)
        self.gates = nn.Sequential(
            nn.Conv2d(8, 8, 1),
            nn.ReLU6(),
            nn.Conv2d(8, 8, 1),
            nn.Sigmoid(),
            nn.Tanh(),
            nn.Conv2d(8, 8, 1),
            nn.Hardsigmoid(),
        )
        self.first_half, self.linear = nn.Conv2d(4, 8, 1), nn.Linear(8, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.pooling(self.activations(self.stem((pixels - 127.0) * (1 / 128.0))))
        x = self.normalization_layer(x + x)
        x = F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)
        x = x.reshape(-1, 8, 16).transpose(1, 2).transpose(1, 2).reshape(-1, 8, 4, 4)
        x = x * self.gates(x.mean(dim=(2, 3), keepdim=True))
        left, right = x.chunk(2, dim=1)
        x = x - self.first_half(torch.cat([left, right], dim=1)[:, :4])
        embedding: Tensor = self.linear(x.mean(dim=(2, 3), keepdim=True).flatten(1))
        return embedding


def test_every_convertible_operation_converts_to_both_formats(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Every().eval()
    require_convertible(encoder)
    network = exported_encoder(encoder, quantizable=True)
    used = {
        operation_of(network.encoder, node)
        for node in network.encoder.graph.nodes
        if node.op.startswith("call")
    }
    assert used == CONVERTIBLE
    images = np.random.default_rng(0).integers(0, 256, (4, 33, 33, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = encoder(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()
    for kind in (OnnxGraph, TfliteGraph):
        graph = kind(network, tmp_path)
        out = tmp_path / f"int8.{graph.format}"
        graph.quantize(out, choose_ranges(graph, collect_statistics(graph, images), "min-max"))
        last = graph.steps[-1].output
        rounded = np.concatenate([values[last] for values in graph.quantized_activations(out, images)])
        cosines = (
            (rounded * expected).sum(1) / np.linalg.norm(rounded, axis=1) / np.linalg.norm(expected, axis=1)
        )
        assert cosines.min() > 0.99
    assert read_tflite(tmp_path / "int8.tflite").float_operators() == []


def test_other_operations_are_named_with_number_and_place() -> None:
    encoder = Every().eval()
    encoder.activations[1] = nn.Mish()
    encoder.activations[2] = nn.Mish()
    encoder.activations[3] = nn.LeakyReLU()
    with pytest.raises(SettingsError) as raised:
        require_convertible(encoder)
    # Without the rectifier the border of the pooling cannot be zeros.
    assert str(raised.value) == (
        "every cannot be converted to int8: mish (2 times, first after activations.0), leakyrelu (1 times, first after "
        "activations.2), padded maxpool2d (1 times, first after activations.3); choose a network of convolutions, such as "
        "timm:mobilenetv4_conv_small, or cut this one earlier with :stageN"
    )


def test_a_network_whose_shapes_depend_on_the_picture_is_named() -> None:
    with pytest.raises(
        SettingsError, match=r"^timm:tf_efficientnet_lite0@65 cannot be converted: its operations depend"
    ):
        require_convertible(build_encoder("timm:tf_efficientnet_lite0@65"))


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_our_own_networks_are_convertible(name: str) -> None:
    require_convertible(build_encoder(name))


@pytest.mark.parametrize("name", ["mobilenetv4_conv_small", "fastvit_t8", "resnet18", "convnext_atto"])
def test_these_networks_of_timm_are_convertible(name: str) -> None:
    require_convertible(build_encoder(f"timm:{name}@65"))


def test_a_finished_file_is_not_checked_here(tmp_path: Path) -> None:
    from tests.export.encoders.test_onnx_extractor import write

    encoder = build_encoder(f"onnx:{write(tmp_path / 'features.onnx')}")
    require_convertible(encoder)
    assert not encoder.trainable and re.search("not trained", encoder.citation)
