"""The wrapper of onnxruntime: batches, options, and one kind of error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.errors import EncoderError
from edge_siamese.runtimes.onnx import MAX_BATCH, OnnxGraph
from tests.tiny_bundle import MODELS
from tests.tiny_network import forward, pictures

onnxruntime = pytest.importorskip("onnxruntime")


def test_a_large_batch_is_run_in_blocks() -> None:
    graph = OnnxGraph(onnxruntime, MODELS / "encoder.fp32.onnx", threads=1)
    assert (graph.input_shape, graph.dimensions) == ((12, 12, 1), 8)
    images = pictures(2 * MAX_BATCH + 3)
    result = graph.run(images)
    assert result.shape == (2 * MAX_BATCH + 3, 8)
    np.testing.assert_allclose(result, forward(images), atol=1e-5)


@pytest.mark.parametrize(("dot_products", "entry"), [(False, "1"), (True, None)])
def test_overflow_is_prevented_only_where_it_can_happen(
    monkeypatch: pytest.MonkeyPatch, dot_products: bool, entry: str | None
) -> None:
    """With int8 dot products, the option would double the time."""
    monkeypatch.setattr("edge_siamese.runtimes.onnx.has_int8_dot_products", lambda: dot_products)
    entries: dict[str, str] = {}

    class Options(onnxruntime.SessionOptions):  # type: ignore[misc]
        def add_session_config_entry(self, name: str, value: str) -> None:
            entries[name] = value
            super().add_session_config_entry(name, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    graph = OnnxGraph(onnxruntime, MODELS / "encoder.int8.onnx", threads=1)
    assert entries.get("session.x64quantprecision") == entry
    assert graph.run(pictures(2)).shape == (2, 8)


def test_images_need_not_be_contiguous() -> None:
    graph = OnnxGraph(onnxruntime, MODELS / "encoder.fp32.onnx", threads=1)
    images = pictures(6)[::2, ::-1]
    np.testing.assert_allclose(graph.run(images), forward(images), atol=1e-5)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(EncoderError, match=f"^onnxruntime cannot load {tmp_path}/text.onnx: ") as caught:
        OnnxGraph(onnxruntime, tmp_path / "text.onnx", threads=1)
    assert "\n" not in str(caught.value)


def test_a_graph_that_is_no_encoder(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "relu",
        [value("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [value("y", onnx.TensorProto.FLOAT, ["n", 3])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, tmp_path / "relu.onnx")
    with pytest.raises(
        EncoderError, match=r"reads tensor\(float\) \['n', 3\] .*an encoder reads tensor\(uint8\)"
    ):
        OnnxGraph(onnxruntime, tmp_path / "relu.onnx", threads=1)


def test_a_run_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = OnnxGraph(onnxruntime, MODELS / "encoder.fp32.onnx", threads=1)

    class Failing:
        def run(self, *_: Any) -> Any:
            raise RuntimeError("bad allocation\nstack")

    monkeypatch.setattr(graph, "_session", Failing())
    with pytest.raises(EncoderError, match=r"^onnxruntime failed on .*encoder\.fp32\.onnx: bad allocation$"):
        graph.run(pictures(1))
