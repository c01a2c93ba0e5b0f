"""A bundle so small that tests may run it in every runtime that reads ONNX."""

from __future__ import annotations

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.models.manifest import (
    VERSION,
    EmbeddingInfo,
    EncoderInfo,
    HeadInfo,
    Manifest,
    ModelFile,
    Precision,
    Threshold,
)
from edge_siamese.recognition.imaging import Preprocessing

INPUT = Preprocessing(8, 8)
DIMENSIONS = 16


@pytest.fixture(scope="session")
def onnx_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Its fp32 and int8 files are the same random projection of the pixels; p = sigmoid(6 - 8 d)."""
    directory = tmp_path_factory.mktemp("onnx") / "bundle"
    directory.mkdir()
    model = _projection().SerializeToString()
    files = []
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    for precision in precisions:
        name = f"encoder.{precision}.onnx"
        (directory / name).write_bytes(model)
        files.append(
            ModelFile(name, len(model), hashlib.sha256(model).hexdigest(), "onnx", precision, None, "uint8")
        )
    manifest = Manifest(
        version=VERSION,
        model_id="projection-0123456789ab",
        created="2026-01-02T03:04:05+00:00",
        encoder=EncoderInfo("projection", 64 * DIMENSIONS, 64 * DIMENSIONS, "none"),
        input=INPUT,
        embedding=EmbeddingInfo(DIMENSIONS, "l2"),
        head=HeadInfo("euclidean", 8.0, 6.0, None),
        thresholds=(Threshold(0.01, 0.8, 0.1, 10_000),),
        models=tuple(files),
        attachments=(),
        metrics={},
        provenance={"settings": {"data": "glyphs", "seed": 3}},
    )
    (directory / "manifest.json").write_text(manifest.to_json())
    return load_bundle(directory)


def _projection() -> onnx.ModelProto:
    """uint8 (N, 8, 8, 1) to float32 (N, 16), not normalized."""
    weights = np.random.default_rng(0).normal(size=(64, DIMENSIONS)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["pixels"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "projection",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", *INPUT.shape])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIMENSIONS])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
