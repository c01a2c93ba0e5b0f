"""The ONNX route: the float file is the network, and the int8 file computes in integers from the raw bytes on."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from edge_siamese.errors import ExportError
from edge_siamese.recognition.imaging import Preprocessing
from export.conversion.graph import exported_encoder
from export.conversion.onnx import BATCH, OnnxGraph, export_onnx
from export.conversion.quantize import choose_ranges, collect_statistics
from export.encoders import EncoderNetwork
from export.encoders.glyphnet import FusedInvertedResidual

ROOT = Path(__file__).parents[3]
LAYERS = ["stem.0", "block.expand.0", "block.project.0", "pool", "embedding"]


class Tiny(EncoderNetwork):
    """16 x 16 gray to 8 numbers: each kind of layer that glyphnet has, in a size that converts in a second."""

    name = "tiny"
    citation = "none: it is for tests"
    normalization = "l2"

    def __init__(self) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(16, 16)
        self.dimensions = 8
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.block = FusedInvertedResidual(8, 8, stride=1, expansion=2)
        self.pool = nn.Conv2d(8, 8, 7, groups=8)
        self.embedding = nn.Linear(8, 8)

    def forward(self, pixels: Tensor) -> Tensor:
        ink = (255.0 - pixels) * (1.0 / 255.0)
        embedding: Tensor = self.embedding(self.pool(self.block(self.stem(ink))).flatten(1))
        return embedding


class Broken(Tiny):
    """Can be traced, but runs no image: its embedding expects another number of features."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(7, 8)


def tiny(seed: int = 0, network: type[Tiny] = Tiny) -> Tiny:
    """A network whose normalizations do something, as after a training."""
    torch.manual_seed(seed)
    encoder = network().eval()
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
    return encoder


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """uint8 (count, 16, 16, 1), with both extremes in each."""
    images = np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = 0, 255
    return images


@torch.no_grad()
def embedded(encoder: Tiny, images: np.ndarray) -> np.ndarray:
    """What the network itself says, in torch: (N, 8)."""
    return encoder(torch.from_numpy(images).permute(0, 3, 1, 2).float()).numpy()


def worst_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    return float((np.sum(found * expected, axis=1) / norms).min())


def assert_says_nothing_of_its_builder(path: Path) -> None:
    """No path of the machine that made a file is among its bytes."""
    content = path.read_bytes()
    for place in (ROOT, Path.home(), path.parent, path.parent.parent, Path(sys.prefix)):
        if len(str(place)) > 1:
            assert str(place).encode() not in content, f"{path.name} has {place} in it"
    for trace in (b"site-packages", b"Traceback", b'File "', b"test_to_"):
        assert trace not in content, f"{path.name} has {trace!r} in it"


def use_own_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `print` write to the process's own descriptors, as outside of a test."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        monkeypatch.setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (embedding,) = session.run(["embedding"], {"image": images})
    return embedding


def operations(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def optimized(path: Path, to: Path) -> Counter[str]:
    """The operations that onnxruntime really runs, after its fusions."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(to)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return operations(to)


def producer(graph: Any, tensor: str) -> Any:
    return next((node for node in graph.node if tensor in node.output), None)


def constants(graph: Any) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}


def weight_of(graph: Any, layer: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(quantized weight, scale, zero point) of a layer of an int8 file."""
    values = constants(graph)
    prefix = f"encoder.{layer}.weight"
    return values[f"{prefix}_quantized"], values[f"{prefix}_scale"], values[f"{prefix}_zero_point"]


@pytest.fixture(scope="module")
def encoder() -> Tiny:
    return tiny()


@pytest.fixture(scope="module")
def float_file(encoder: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "encoder.fp32.onnx"
    export_onnx(exported_encoder(encoder), path)
    return path


@pytest.fixture(scope="module")
def graph(encoder: Tiny, tmp_path_factory: pytest.TempPathFactory) -> OnnxGraph:
    return OnnxGraph(exported_encoder(encoder, quantizable=True), tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def ranges(graph: OnnxGraph) -> dict[str, tuple[float, float]]:
    return choose_ranges(graph, collect_statistics(graph, pictures(32, seed=5)), "min-max")


@pytest.fixture(scope="module")
def int8_file(
    graph: OnnxGraph, ranges: dict[str, tuple[float, float]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("int8") / "encoder.int8.onnx"
    graph.quantize(path, ranges)
    return path


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_graph_has_one_uint8_image_with_a_free_batch_and_one_float_embedding(
    float_file: Path, int8_file: Path, precision: str
) -> None:
    model = onnx.load(str(float_file if precision == "fp32" else int8_file))
    (image,), (embedding,) = model.graph.input, model.graph.output
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (image, embedding)]
    assert (image.name, image.type.tensor_type.elem_type, shapes[0]) == (
        "image",
        TensorProto.UINT8,
        ["N", 16, 16, 1],
    )
    assert (embedding.name, embedding.type.tensor_type.elem_type, shapes[1]) == (
        "embedding",
        TensorProto.FLOAT,
        ["N", 8],
    )
    assert {o.domain: o.version for o in model.opset_import}[""] == 18
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("batch", [1, 7])
def test_the_float_file_is_the_network_for_any_batch(encoder: Tiny, float_file: Path, batch: int) -> None:
    images = pictures(batch)
    np.testing.assert_allclose(run(float_file, images), embedded(encoder, images), rtol=0, atol=1e-5)


def test_nothing_is_left_of_normalizations_and_of_the_scaling_of_pixels(float_file: Path) -> None:
    found = operations(float_file)
    assert (found["Conv"], found["Gemm"], found["Add"], found["Cast"]) == (4, 1, 1, 1)
    assert {"BatchNormalization", "Sub", "Mul", "Div"} & set(found) == set()


def test_steps_are_called_as_the_encoder_calls_its_layers(graph: OnnxGraph) -> None:
    assert [step.name for step in graph.steps] == [*LAYERS[:3], "Add after block.project.0", *LAYERS[3:]]
    assert [step.operation for step in graph.steps] == ["Conv"] * 3 + ["Add", "Conv", "Gemm"]
    assert [step.weighted for step in graph.steps] == [True, True, True, False, True, True]
    stem, expand, project, total, pool, last = graph.steps
    assert stem.inputs == (graph.input,)
    assert expand.inputs == (stem.output,)
    assert set(total.inputs) == {stem.output, project.output}
    assert (pool.inputs, last.inputs, last.output) == ((total.output,), (pool.output,), "embedding")


def test_activations_are_those_of_the_network_image_by_image(encoder: Tiny, graph: OnnxGraph) -> None:
    images = pictures(BATCH + 3)
    blocks = list(graph.activations(images))
    assert [len(block["embedding"]) for block in blocks] == [BATCH, 3]
    together = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    assert set(together) >= {step.output for step in graph.steps} | {graph.input}
    np.testing.assert_array_equal(together[graph.input][:, 0], images[..., 0])
    stem = together[graph.steps[0].output]
    assert stem.shape == (BATCH + 3, 8, 7, 7) and 0.0 <= stem.min() and stem.max() <= 6.0
    # The weights of the first layer have been put on their int8 grid: near the network, not equal to it.
    assert worst_cosine(together["embedding"], embedded(encoder, images)) > 0.999


def test_the_int8_file_reads_the_bytes_themselves(int8_file: Path) -> None:
    graph = onnx.load(str(int8_file)).graph
    assert [node.op_type for node in graph.node if "image" in node.input] == ["Transpose"]
    (reader,) = (
        n for n in graph.node if producer(graph, n.input[0]) is producer(graph, "permute") is not None
    )
    assert reader.op_type == "DequantizeLinear"
    scale, zero = (constants(graph)[name] for name in reader.input[1:])
    assert (float(scale), int(zero), zero.dtype) == (1.0, 0, np.uint8)
    assert operations(int8_file)["Cast"] == 0


def test_the_embedding_comes_out_of_the_last_product_as_float(int8_file: Path) -> None:
    graph = onnx.load(str(int8_file)).graph
    last = producer(graph, "embedding")
    assert last.op_type == "Gemm"
    assert {producer(graph, name).op_type for name in last.input} == {"DequantizeLinear"}
    assert not any("embedding" in node.input for node in graph.node)


@pytest.mark.parametrize("layer", LAYERS)
def test_each_channel_of_a_weight_has_a_scale_of_its_own_and_uses_all_of_it(
    int8_file: Path, layer: str
) -> None:
    weight, scale, zero = weight_of(onnx.load(str(int8_file)).graph, layer)
    assert weight.dtype == np.int8 and scale.shape == zero.shape == (len(weight),)
    assert not zero.any()
    assert np.abs(weight.reshape(len(weight), -1).astype(int)).max(axis=1).tolist() == [127] * len(weight)
    assert len(np.unique(scale)) == len(scale)


def test_the_first_layer_loses_nothing_to_the_rounding_of_its_weights(
    graph: OnnxGraph, int8_file: Path
) -> None:
    exact = constants(onnx.load(str(graph.path)).graph)["encoder.stem.0.weight"]
    weight, scale, _ = weight_of(onnx.load(str(int8_file)).graph, "stem.0")
    np.testing.assert_allclose(weight * scale[:, None, None, None], exact, rtol=1e-5, atol=1e-9)


def test_the_given_ranges_are_used_and_not_those_of_the_blank_image(graph: OnnxGraph, tmp_path: Path) -> None:
    given = {step.output: (-1.25 * (i + 1), 3.0 * (i + 1)) for i, step in enumerate(graph.steps)}
    graph.quantize(tmp_path / "given.onnx", given)
    values = constants(onnx.load(str(tmp_path / "given.onnx")).graph)
    for step in graph.steps[:-1]:
        low, high = given[step.output]
        assert float(values[f"{step.output}_scale"]) == pytest.approx((high - low) / 255, rel=1e-6)
        # 75 of 255 steps are below zero.
        assert int(values[f"{step.output}_zero_point"]) == 75
        assert values[f"{step.output}_zero_point"].dtype == np.uint8


def test_the_int8_file_stays_near_the_network_for_any_batch(encoder: Tiny, int8_file: Path) -> None:
    images = pictures(7)
    together = run(int8_file, images)
    assert worst_cosine(together, embedded(encoder, images)) > 0.999
    alone = np.concatenate([run(int8_file, image[None]) for image in images])
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_onnxruntime_computes_every_layer_in_integers(int8_file: Path, tmp_path: Path) -> None:
    found = optimized(int8_file, tmp_path / "optimized.onnx")
    assert (found["QLinearConv"], found["QLinearAdd"], found["QGemm"]) == (4, 1, 1)
    assert {"Conv", "FusedConv", "Gemm", "FusedGemm", "Add", "QuantizeLinear", "Cast"} & set(found) == set()


def test_int8_activations_are_real_numbers_within_a_step_of_rounding(
    graph: OnnxGraph, int8_file: Path, ranges: dict[str, tuple[float, float]]
) -> None:
    images = pictures(3)
    (exact,), (rounded,) = graph.activations(images), graph.quantized_activations(int8_file, images)
    assert rounded.keys() == {step.output for step in graph.steps}
    stem = graph.steps[0].output
    low, high = ranges[stem]
    assert 0.0 < float(np.abs(rounded[stem] - exact[stem]).max()) <= 1.01 * (high - low) / 255


@pytest.mark.parametrize("layer", ["block.expand.0", "pool", "embedding"])
def test_a_float_layer_keeps_its_weights_and_is_computed_in_float(
    graph: OnnxGraph, ranges: dict[str, tuple[float, float]], layer: str, tmp_path: Path
) -> None:
    path = tmp_path / "mixed.onnx"
    graph.quantize(path, ranges, [layer])
    mixed, exact = (constants(onnx.load(str(p)).graph) for p in (path, graph.path))
    np.testing.assert_array_equal(mixed[f"encoder.{layer}.weight"], exact[f"encoder.{layer}.weight"])
    quantized = {name for name in LAYERS if f"encoder.{name}.weight_quantized" in mixed}
    assert quantized == set(LAYERS) - {layer}
    found = optimized(path, tmp_path / "optimized.onnx")
    if layer == "embedding":
        assert (found["QLinearConv"], found["Gemm"], found["QGemm"]) == (4, 1, 0)
    else:
        assert (found["QLinearConv"], found["Conv"] + found["FusedConv"]) == (3, 1)
    images = pictures(5)
    assert worst_cosine(run(path, images), run(graph.path, images)) > 0.999


def test_a_float_first_layer_takes_the_bytes_through_a_cast(
    graph: OnnxGraph, ranges: dict[str, tuple[float, float]], tmp_path: Path
) -> None:
    path = tmp_path / "mixed.onnx"
    graph.quantize(path, ranges, ["stem.0"])
    found = onnx.load(str(path)).graph
    first = next(node for node in found.node if node.op_type == "Conv")
    assert producer(found, first.input[0]).op_type == "Cast"
    assert "encoder.stem.0.weight" in constants(found)
    images = pictures(5)
    assert worst_cosine(run(path, images), run(graph.path, images)) > 0.999


def test_float_layers_cost_less_accuracy_than_none(
    graph: OnnxGraph, ranges: dict[str, tuple[float, float]], int8_file: Path, tmp_path: Path
) -> None:
    graph.quantize(tmp_path / "mixed.onnx", ranges, LAYERS)
    images = pictures(16)
    exact = run(graph.path, images)
    errors = [float(np.abs(run(p, images) - exact).max()) for p in (tmp_path / "mixed.onnx", int8_file)]
    assert errors[0] < 0.5 * errors[1]


def test_files_say_nothing_of_the_machine_that_made_them(
    float_file: Path, int8_file: Path, graph: OnnxGraph
) -> None:
    for path in (float_file, int8_file, graph.path):
        assert_says_nothing_of_its_builder(path)
        model = onnx.load(str(path))
        assert not model.metadata_props and not model.doc_string and not model.graph.doc_string
        assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_every_constant_of_the_int8_file_is_used(int8_file: Path) -> None:
    graph = onnx.load(str(int8_file)).graph
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} - used == set()


def test_a_conversion_that_fails_is_one_quiet_line_and_leaves_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_own_streams(monkeypatch)
    broken = exported_encoder(tiny(network=Broken), quantizable=True)
    with pytest.raises(ExportError) as raised:
        export_onnx(broken, tmp_path / "broken.onnx")
    message = str(raised.value)
    assert message.startswith("converting to ONNX failed: ") and message.endswith(
        "(--debug shows everything)"
    )
    assert "\n" not in message and len(message) < 300
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_quantization_that_fails_is_one_line(graph: OnnxGraph, tmp_path: Path) -> None:
    nan = {step.output: (0.0, float("nan")) for step in graph.steps}
    with pytest.raises(
        ExportError, match=r"^quantizing to ONNX int8 failed: \w+: .+ \(--debug shows everything\)$"
    ):
        graph.quantize(tmp_path / "int8.onnx", nan)
