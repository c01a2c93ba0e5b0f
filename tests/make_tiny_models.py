"""Writes tests/models, the tiny encoder in all formats; run it with the workstation's packages after a change.

python -m tests.make_tiny_models
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import litert_torch
import numpy as np
import onnx
import onnxruntime
import torch
from ai_edge_litert import interpreter as litert
from ai_edge_quantizer import quantizer, recipe
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization

from edge_siamese.runtimes.onnx import OnnxGraph
from edge_siamese.runtimes.tflite import TfliteGraph
from tests.tiny_network import DIMENSIONS, PREPROCESSING, forward, pictures, weights

MODELS = Path(__file__).with_name("models")


class _Graph(torch.nn.Module):
    """float (1, 12, 12, 1) of 0 to 255 to (1, 8)."""

    def __init__(self) -> None:
        super().__init__()
        first, second = map(torch.from_numpy, weights())
        self.first = torch.nn.Parameter(first, requires_grad=False)
        self.second = torch.nn.Parameter(second, requires_grad=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        pixels = image.permute(0, 3, 1, 2) * (1 / 127.5) - 1.0
        hidden = torch.relu(torch.nn.functional.conv2d(pixels, self.first, stride=2))
        return torch.nn.functional.conv2d(hidden, self.second).reshape(1, DIMENSIONS)


def _onnx() -> onnx.ModelProto:
    first, second = weights()
    constants = {
        "range": np.float32(127.5),
        "one": np.float32(1),
        "first": first,
        "second": second,
        "shape": np.array([-1, DIMENSIONS], dtype=np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["bytes"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["bytes"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "range"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["pixels"]),
        helper.make_node("Conv", ["pixels", "first"], ["edges"], strides=[2, 2]),
        helper.make_node("Relu", ["edges"], ["hidden"]),
        helper.make_node("Conv", ["hidden", "second"], ["column"]),
        helper.make_node("Reshape", ["column", "shape"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *PREPROCESSING.shape])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", DIMENSIONS])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


class _Calibration(quantization.CalibrationDataReader):
    def __init__(self) -> None:
        self._batches = iter([{"image": pictures(64, seed=5)}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def main() -> None:
    MODELS.mkdir(exist_ok=True)
    onnx.save(_onnx(), MODELS / "encoder.fp32.onnx")
    quantization.quantize_static(
        MODELS / "encoder.fp32.onnx",
        MODELS / "encoder.int8.onnx",
        _Calibration(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv"],
    )
    image = torch.zeros(1, *PREPROCESSING.shape)
    litert_torch.convert(_Graph().eval(), (image,)).export(str(MODELS / "encoder.fp32.tflite"))
    tool = quantizer.Quantizer(str(MODELS / "encoder.fp32.tflite"), recipe.static_wi8_ai8())
    calibration = [{"args_0": picture[np.newaxis].astype(np.float32)} for picture in pictures(64, seed=5)]
    # Black and white together, so that the input's scale is 1 and its zero point -128.
    calibration[0]["args_0"][0, 0, 0, 0], calibration[0]["args_0"][0, 0, 1, 0] = 0, 255
    quantized = tool.quantize(tool.calibrate({"serving_default": calibration}))
    quantized.export_model(str(MODELS / "encoder.int8.tflite"), overwrite=True)
    np.savez(
        MODELS / "int8.npz",
        **{
            "onnx-int8": OnnxGraph(onnxruntime, MODELS / "encoder.int8.onnx", 1).run(pictures(6, seed=1)),
            "tflite-int8": TfliteGraph(litert, MODELS / "encoder.int8.tflite", 1).run(pictures(6, seed=1)),
        },
    )
    for path in MODELS.iterdir():
        path.chmod(0o644)
        print(f"{path.name:24}{path.stat().st_size:7}")
    assert np.allclose(
        _Graph()(torch.from_numpy(pictures(1)).float()).numpy(), forward(pictures(1)), atol=1e-4
    )


if __name__ == "__main__":
    main()
