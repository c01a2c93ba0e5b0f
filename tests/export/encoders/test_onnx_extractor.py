"""Finished ONNX files as encoders: what they read and return, their cost, and their int8 files."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.imaging import Preprocessing
from export.conversion.onnx import OnnxGraph
from export.conversion.quantize import choose_ranges, collect_statistics
from export.encoder_names import ExtractorName
from export.encoders import build_encoder
from export.encoders.onnx_extractor import OnnxExtractor
from export.training.network import TorchEncoder, count_macs, model_id

SIDE = 36
RNG = np.random.default_rng(5)
WEIGHTS = {
    "first": (RNG.normal(size=(8, 3, 3, 3)) * 0.3).astype(np.float32),
    "second": (RNG.normal(size=(12, 8, 3, 3)) * 0.2).astype(np.float32),
}


def write(
    path: Path,
    shape: tuple[int | str, ...] = ("N", 3, SIDE, SIDE),
    kind: int = TensorProto.FLOAT,
    output: tuple[int | str, ...] = ("N", 12, 16, 16),
    opset: int = 18,
    last: str = "Relu",
) -> Path:
    """Two convolutions, padded ones, and a rectifier after each: maps (N, 12, 18, 18)."""
    nodes = [
        helper.make_node("Conv", ["picture", "first"], ["a"], "conv1", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"], "relu1"),
        helper.make_node("Conv", ["b", "second"], ["c"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node(last, ["c"], ["maps"], "last"),
    ]
    if shape[-1] == 3:
        nodes.insert(0, helper.make_node("Transpose", ["pictures"], ["picture"], "planes", perm=[0, 3, 1, 2]))
    graph = helper.make_graph(
        nodes,
        "extractor",
        [helper.make_tensor_value_info("pictures" if shape[-1] == 3 else "picture", kind, shape)],
        [helper.make_tensor_value_info("maps", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in WEIGHTS.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


def expected(images: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """The pooled maps, of length 1."""
    x = torch.from_numpy((images.astype(np.float64) - mean) / deviation).permute(0, 3, 1, 2).float()
    first, second = (torch.from_numpy(WEIGHTS[name]) for name in ("first", "second"))
    x = torch.relu(torch.nn.functional.conv2d(x, first, stride=2, padding=1))
    x = torch.relu(torch.nn.functional.conv2d(x, second, padding=1)).mean(dim=(2, 3))
    return torch.nn.functional.normalize(x).numpy()


def pictures(count: int = 6) -> np.ndarray:
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (count, 6, 6, 3)).repeat(6, axis=1).repeat(6, axis=2)
    return blocks.astype(np.uint8)


SCALINGS: Mapping[str, tuple[np.ndarray, np.ndarray]] = {
    "": (255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])),
    ":imagenet": (255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])),
    ":unit": (np.zeros(3), np.full(3, 255.0)),
    ":signed": (np.full(3, 127.5), np.full(3, 127.5)),
    ":bytes": (np.zeros(3), np.ones(3)),
}


@pytest.mark.parametrize("pixels", SCALINGS)
@pytest.mark.parametrize("shape", [("N", 3, SIDE, SIDE), ("N", SIDE, SIDE, 3)])
def test_the_features_are_those_of_the_file(
    tmp_path: Path, pixels: str, shape: tuple[int | str, ...]
) -> None:
    path = write(tmp_path / "features.onnx", shape)
    encoder = build_encoder(f"onnx:{path}{pixels}")
    assert (encoder.preprocessing, encoder.dimensions) == (Preprocessing(SIDE, SIDE, "rgb"), 12)
    features = TorchEncoder(encoder).embed_prepared(pictures())
    np.testing.assert_allclose(features, expected(pictures(), *SCALINGS[pixels]), atol=2e-5)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.UINT8])
@pytest.mark.parametrize(
    "names", [("image", "embedding"), ("embedding", "image"), ("pixels_as_float", "features")]
)
def test_a_file_may_use_the_names_of_the_added_tensors(
    tmp_path: Path, kind: int, names: tuple[str, str]
) -> None:
    source, result = names
    nodes = [
        helper.make_node("Cast", [source], ["numbers"], "cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["numbers", "axes"], [result], "mean", keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info(source, kind, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array([1, 2], np.int64), "axes")],
    )
    path = tmp_path / "means.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    features = TorchEncoder(build_encoder(f"onnx:{path}:bytes")).embed_prepared(pictures())
    means = pictures().mean(axis=(1, 2))
    np.testing.assert_allclose(features, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)


def test_its_cost_is_that_of_its_convolutions(tmp_path: Path) -> None:
    encoder = build_encoder(f"onnx:{write(tmp_path / 'features.onnx')}")
    first, second = (torch.from_numpy(WEIGHTS[name]) for name in ("first", "second"))
    with FlopCounterMode(display=False) as counter:
        torch.nn.functional.conv2d(
            torch.nn.functional.conv2d(torch.zeros(1, 3, SIDE, SIDE), first, stride=2, padding=1),
            second,
            padding=1,
        )
    assert count_macs(encoder) == counter.get_total_flops() // 2


def test_a_copy_and_a_saved_run_need_no_file(tmp_path: Path) -> None:
    path = write(tmp_path / "my features.onnx")
    encoder = build_encoder(f"onnx:{path}")
    TorchEncoder(encoder).embed_prepared(pictures())
    name = f"onnx:{path}"
    path.unlink()
    saved = build_encoder(name, encoder.state_dict())
    saved.load_state_dict(encoder.state_dict())
    for other in (copy.deepcopy(encoder), saved):
        assert model_id(other) == model_id(encoder)
        np.testing.assert_array_equal(
            TorchEncoder(other).embed_prepared(pictures()), TorchEncoder(encoder).embed_prepared(pictures())
        )
    assert re.fullmatch("onnx-my-features-[0-9a-f]{12}", model_id(encoder))


@pytest.mark.parametrize("last", ["Relu", "Identity"])
def test_the_int8_file_makes_nearly_the_same_features(tmp_path: Path, last: str) -> None:
    """Also if a rectifier follows the last convolution: the quantizer takes it away and clips in its place."""
    encoder = build_encoder(f"onnx:{write(tmp_path / 'features.onnx', last=last)}")
    assert isinstance(encoder, OnnxExtractor)
    graph, out = OnnxGraph(encoder, tmp_path), tmp_path / "int8.onnx"
    graph.quantize(out, choose_ranges(graph, collect_statistics(graph, pictures()), "min-max"))
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    features = session.run(["embedding"], {"image": pictures()})[0]
    exact = TorchEncoder(encoder).embed_prepared(pictures())
    cosines = (features * exact).sum(axis=1) / np.linalg.norm(features, axis=1)
    assert cosines.min() > 0.999
    stored = [
        tensor for tensor in onnx.load(str(out)).graph.initializer if tensor.data_type == TensorProto.INT8
    ]
    assert sorted(np.prod(tensor.dims) for tensor in stored if len(tensor.dims) == 4) == [216, 864]


def test_a_name_says_file_side_and_pixels() -> None:
    assert ExtractorName.parse("onnx:a/b.onnx") == ExtractorName(Path("a/b.onnx"), None, "imagenet")
    assert ExtractorName.parse("onnx:C:/b@2.onnx@96:unit") == ExtractorName(Path("C:/b@2.onnx"), 96, "unit")


def test_files_that_are_no_extractors_are_explained(tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(b"damaged")
    write(tmp_path / "free.onnx", ("N", 3, "h", "w"))
    write(tmp_path / "four.onnx", ("N", 4, SIDE, SIDE))
    write(tmp_path / "old.onnx", opset=11)
    write(tmp_path / "whole.onnx", kind=TensorProto.INT64)
    write(tmp_path / "sequence.onnx", output=("N", 12, 256))
    write(tmp_path / "channels.onnx", ("N", "c", "h", "w"))
    model = onnx.load(write(tmp_path / "custom.onnx"))
    model.graph.node[-1].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(model, tmp_path / "custom.onnx")
    write(tmp_path / "huge.onnx", ("N", 3, 1024, 1024))
    write(tmp_path / "good.onnx")
    for text, message in {
        "missing.onnx": "does not exist",
        "damaged.onnx": "is not an ONNX file that can be used (",
        "free.onnx": f"states no size of its pictures: add it in pixels, such as onnx:{tmp_path}/free.onnx@224",
        "four.onnx": f"reads pictures (0, 4, {SIDE}, {SIDE}), with neither 1 nor 3 channels",
        "channels.onnx": "does not state its number of channels: export it with only the number of pictures dynamic",
        "custom.onnx": "cannot be run by onnxruntime ([ONNXRuntimeError] : 1 : FAIL : Fatal error: com.example:Relu",
        "old.onnx": "uses opset 11; int8 needs 13 or newer: export it again, or use onnx.version_converter",
        "whole.onnx": "reads INT64 of 4 dimensions; pictures are FLOAT or UINT8, (N, C, H, W) or (N, H, W, C)",
        "huge.onnx": "reads pictures of 1024x1024 pixels; 32 to 512 are possible",
        "good.onnx@64": f"reads pictures of {SIDE}x{SIDE} pixels, not 64x64",
    }.items():
        with pytest.raises(SettingsError, match=re.escape(message)):
            build_encoder(f"onnx:{tmp_path}/{text}")
    assert build_encoder(f"onnx:{tmp_path}/free.onnx@40").preprocessing == Preprocessing(40, 40, "rgb")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([1, 3 * SIDE * SIDE], r"cannot embed two pictures of 36 x 36 pixels together .*dynamic batch"),
        ([-1, 3 * SIDE * SIDE * 2], r"returns the features of one picture for two: .*dynamic batch"),
    ],
)
def test_a_file_for_one_picture_at_a_time_is_explained(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], shape: list[int], message: str
) -> None:
    nodes = [
        helper.make_node("Reshape", ["picture", "shape"], ["flat"], "reshape"),
        helper.make_node("MatMul", ["flat", "w"], ["features"], "product"),
    ]
    constants = [
        numpy_helper.from_array(np.array(shape, np.int64), "shape"),
        numpy_helper.from_array(np.ones((shape[1], 4), np.float32), "w"),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 4])],
        constants,
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        tmp_path / "one.onnx",
    )
    with pytest.raises(SettingsError, match=message):
        build_encoder(f"onnx:{tmp_path}/one.onnx")
    assert capfd.readouterr() == ("", "")  # onnxruntime does not print the error as well
