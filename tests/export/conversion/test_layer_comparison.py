"""The noise of each layer: exact powers on made-up activations, and a layer of a real file that was damaged."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from export.conversion.graph import exported_encoder
from export.conversion.layer_comparison import LayerNoise, compare_layers
from export.conversion.onnx import OnnxGraph
from export.conversion.ranges import choose, collect
from export.conversion.routes import Bytes, Floats, Format, GraphStep, Range
from tests.export.conversion.test_graph import Tiny
from tests.tiny_network import pictures

IMAGES = np.zeros((4, 1, 1, 1), dtype=np.uint8)
INT8 = Path("never-read.onnx")


class FakeGraph:
    """A graph of given activations, (N, …) by name, and of an int8 file that has `rounded` instead; two at a time."""

    format: Format = "onnx"
    input = "pixels"

    def __init__(
        self,
        steps: Collection[GraphStep],
        exact: Mapping[str, Floats],
        rounded: Mapping[str, Floats] | None = None,
    ) -> None:
        self.steps = tuple(steps)
        self.exact = {name: np.asarray(value, dtype=np.float32) for name, value in exact.items()}
        self.rounded = {name: np.asarray(value, dtype=np.float32) for name, value in (rounded or {}).items()}

    def activations(self, images: Bytes) -> Iterator[dict[str, Floats]]:
        for start in range(0, len(images), 2):
            yield {name: value[start : start + 2] for name, value in self.exact.items()}

    def quantized_activations(self, path: Path, images: Bytes) -> Iterator[dict[str, Floats]]:
        for start in range(0, len(images), 2):
            yield {name: value[start : start + 2] for name, value in self.rounded.items()}

    def quantize(self, out: Path, ranges: Mapping[str, Range], float_layers: Collection[str] = ()) -> None:
        raise AssertionError("nothing here writes a file")


def convolution(name: str, *inputs: str) -> GraphStep:
    return GraphStep(name, "Conv", inputs, f"out of {name}", weighted=True)


def signal(power: float) -> Floats:
    """One number for each of the four images: this power together, all of it in the last two."""
    return np.array([[0.0], [0.0], [1.0], [1.0]], dtype=np.float32) * math.sqrt(power / 2)


def test_noise_is_the_power_of_the_difference_over_that_of_the_signal_over_all_images() -> None:
    # The first batch has the noise and the second nearly all of the signal: a mean of ratios would be 0.5 and more.
    exact = np.array([[1.0, 0.0], [0.0, 1.0], [7.0, 0.0], [0.0, 7.0]])
    rounded = exact + np.array([[0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    graph = FakeGraph([convolution("a", "pixels")], {"out of a": exact}, {"out of a": rounded})
    assert compare_layers(graph, INT8, IMAGES) == [LayerNoise("a", "Conv", noise=0.01, added=0.01)]


def test_the_culprit_is_not_the_noisiest_layer_but_the_one_that_adds_most() -> None:
    # Powers of the noise along the chain: 1, 9, 16 and 4 of a signal of 100.
    names = ("a", "b", "c", "d")
    steps = [convolution(name, f"out of {before}") for name, before in zip(names[1:], names, strict=False)]
    exact = {f"out of {name}": signal(100.0) for name in names}
    powers = dict(zip(names, (1.0, 9.0, 16.0, 4.0), strict=True))
    rounded = {f"out of {name}": signal(100.0) + signal(power) for name, power in powers.items()}
    found = compare_layers(FakeGraph([convolution("a", "pixels"), *steps], exact, rounded), INT8, IMAGES)
    assert [layer.layer for layer in found] == ["b", "c", "a", "d"]
    assert [layer.noise for layer in found] == pytest.approx([0.09, 0.16, 0.01, 0.04], rel=1e-5)
    # d removes noise, and has not added less than none.
    assert [layer.added for layer in found] == pytest.approx([0.08, 0.07, 0.01, 0.0], rel=1e-4)
    assert found[-1].added == 0.0


def test_a_sum_is_to_blame_for_what_it_adds_to_its_noisiest_input() -> None:
    add = GraphStep("Add after b", "Add", ("out of a", "out of b"), "sum", weighted=False)
    graph = FakeGraph(
        [convolution("a", "pixels"), convolution("b", "pixels"), add],
        {"out of a": signal(100.0), "out of b": signal(100.0), "sum": signal(100.0)},
        {
            "out of a": signal(100.0) + signal(4.0),
            "out of b": signal(100.0) + signal(1.0),
            "sum": signal(100.0) + signal(25.0),
        },
    )
    found = {layer.layer: layer.added for layer in compare_layers(graph, INT8, IMAGES)}
    assert found == pytest.approx({"Add after b": 0.21, "a": 0.04, "b": 0.01}, rel=1e-4)


def test_activations_that_the_int8_file_does_not_have_are_left_out() -> None:
    graph = FakeGraph(
        [convolution("a", "pixels"), convolution("b", "out of a")],
        {"pixels": signal(1.0), "out of a": signal(100.0), "out of b": signal(100.0)},
        {"pixels": signal(1.0), "out of b": signal(100.0) + signal(1.0), "scratch": signal(5.0)},
    )
    assert [layer.layer for layer in compare_layers(graph, INT8, IMAGES)] == ["b"]


def test_the_raw_bytes_are_free_of_noise_whatever_the_file_says() -> None:
    graph = FakeGraph(
        [convolution("a", "pixels")],
        {"pixels": signal(100.0), "out of a": signal(100.0)},
        {"pixels": signal(25.0), "out of a": signal(100.0) + signal(4.0)},
    )
    (found,) = compare_layers(graph, INT8, IMAGES)
    assert found.added == found.noise == pytest.approx(0.04, rel=1e-5)


def test_a_layer_says_its_noise_in_decibels() -> None:
    assert LayerNoise("stem.0", "Conv", 0.01, 0.01).signal_to_noise_db == pytest.approx(20.0)
    assert LayerNoise("stem.0", "Conv", 0.01, 0.0).describe() == "stem.0 (Conv, signal-to-noise 20.0 dB)"
    assert LayerNoise("a", "Gemm", 2.0, 0.0).describe() == "a (Gemm, signal-to-noise -3.0 dB)"
    assert LayerNoise("a", "Gemm", 0.0, 0.0).signal_to_noise_db == math.inf


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> OnnxGraph:
    torch.manual_seed(0)
    return OnnxGraph(exported_encoder(Tiny(), quantizable=True), tmp_path_factory.mktemp("layers"))


@pytest.mark.parametrize("damaged", ["stem.0", "expand.0", "project.0", "Add after project.0"])
def test_a_layer_of_a_real_file_that_was_damaged_comes_first(
    graph: OnnxGraph, damaged: str, tmp_path: Path
) -> None:
    images = pictures(16)
    ranges = choose(graph, collect(graph, images), "min-max")
    graph.quantize(tmp_path / "good.onnx", ranges)
    good = {layer.layer: layer for layer in compare_layers(graph, tmp_path / "good.onnx", images)}
    assert set(good) == {"stem.0", "expand.0", "project.0", "Add after project.0", "embedding"}
    assert all(layer.signal_to_noise_db > 25.0 for layer in good.values())
    step = next(step for step in graph.steps if step.name == damaged)
    low, high = ranges[step.output]
    graph.quantize(tmp_path / "bad.onnx", {**ranges, step.output: (low * 0.3, high * 0.3)})
    worst = compare_layers(graph, tmp_path / "bad.onnx", images)[0]
    assert worst.layer == damaged and worst.operation == step.operation
    assert worst.added > 10 * good[damaged].noise
