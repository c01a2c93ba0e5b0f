"""Finished feature extractors: an ONNX file as it is, which is not trained.

The file reads pictures, float32 or uint8, (N, C, H, W) or (N, H, W, C) with 1 or 3 channels. It returns features (N, D), or
feature maps (N, D, h, w), which are averaged. Here it gets the input and the output of every encoder: uint8 (N, H, W, C) to
float32 (N, D). No well-maintained converter from ONNX to TFLite runs on this project's versions of Python, so a bundle of
such an encoder holds only ONNX files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, compose, helper, numpy_helper, shape_inference
from torch import Tensor

from edge_siamese.errors import SettingsError
from edge_siamese.recognition.imaging import Preprocessing
from export.encoder_names import MAX_SIDE, MIN_SIDE, ExtractorName, Pixels
from export.encoders.base import EncoderNetwork

INPUT, OUTPUT = "image", "embedding"
PIXELS_AS_FLOAT, NORMALIZED = "pixels_as_float", "pixels_of_the_file"
"""Tensors of the picture in float32: its bytes, and what the file reads."""
CHANNELS = (1, 3)
MIN_OPSET = 13
"""Quantization with a scale for each channel needs it."""
IR_VERSION = 10
"""Newer files are not read by the runtimes of devices."""
_OWN = "edge_siamese_"
"""Prefix of the names of added nodes and constants."""
_IMAGENET_MEAN, _IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class OnnxExtractor(EncoderNetwork):
    """Pixels (N, C, H, W), float32 in 0..255, to the features of an ONNX file (N, D).

    Args:
        name: `onnx:FILE[@SIDE][:PIXELS]`.
        saved: the file with its new input and output, uint8 (bytes,), from the weights of a run; None to read `FILE`.

    Raises:
        SettingsError: the file cannot be read, or is not a feature extractor.
    """

    normalization = "l2"
    formats = ("onnx",)
    trainable = False
    file: Tensor

    def __init__(self, name: str, saved: Tensor | None = None) -> None:
        super().__init__()
        self.name, self.parsed = name, ExtractorName.parse(name)
        self.citation = f"the ONNX file {self.parsed.path.name}, not trained here"
        if saved is None:
            model = _with_bytes(self.parsed)
            saved = torch.frombuffer(bytearray(model.SerializeToString()), dtype=torch.uint8)
        else:
            model = onnx.load_from_string(saved.cpu().numpy().tobytes())
        self.register_buffer("file", saved.clone())
        height, width, channels = (
            int(d.dim_value) for d in model.graph.input[0].type.tensor_type.shape.dim[1:]
        )
        self.preprocessing = Preprocessing(height, width, "gray" if channels == 1 else "rgb")
        self.dimensions = int(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
        self.weights = sum(math.prod(tensor.dims) for tensor in model.graph.initializer)
        self.macs = count_macs(model)
        self._session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}  # sessions cannot be copied

    def forward(self, pixels: Tensor) -> Tensor:
        if self._session is None:
            self._session = _session(self.file_bytes())
        images = pixels.permute(0, 2, 3, 1).round().to(torch.uint8).cpu().numpy()
        return torch.from_numpy(self._session.run([OUTPUT], {INPUT: images})[0]).to(pixels.device)

    def load_published_weights(self) -> None:
        """The file has its weights."""

    def file_bytes(self) -> bytes:
        """The file with its new input and output."""
        return self.file.cpu().numpy().tobytes()


def count_macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulate operations of convolutions and matrix products for one picture."""
    single = onnx.ModelProto()
    single.CopyFrom(model)
    single.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    single.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    del single.graph.value_info[:]
    graph = shape_inference.infer_shapes(single, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        shapes[value.name] = [int(d.dim_value) for d in value.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            total += math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
        elif node.op_type == "MatMul":
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
        elif node.op_type == "Gemm":
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            total += math.prod(shapes[node.output[0]]) * shapes[node.input[0]][0 if transposed else 1]
    return total


@dataclass(frozen=True)
class _Input:
    """What a file reads."""

    tensor: str
    is_float: bool
    channels_first: bool
    shape: tuple[int, int, int]
    """Height, width and channels."""


def _with_bytes(name: ExtractorName) -> onnx.ModelProto:
    """The model with the input and the output of an encoder."""
    model = _without_reserved_names(_read(name.path))
    graph, source = model.graph, _input_of(model, name)
    start = list(_scaled(graph, source, name.pixels))
    if start:
        start[-1].output[0] = NORMALIZED
        for node in graph.node:
            for index, tensor in enumerate(node.input):
                if tensor == source.tensor:
                    node.input[index] = NORMALIZED
    else:
        graph.node.insert(0, helper.make_node("Identity", [INPUT], [source.tensor], _OWN + "input"))
    nodes = [*start, *graph.node, *_pooled(graph, name.path)]
    del graph.node[:], graph.input[:], graph.output[1:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["N", *source.shape]))
    return _checked(model, name.path, source.shape)


def _without_reserved_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, with all of its names prefixed if a tensor has the name of one that is added, such as `embedding`."""
    graph = model.graph
    used = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        used.update(node.input, node.output)
    if used.isdisjoint((INPUT, OUTPUT, PIXELS_AS_FLOAT, NORMALIZED)):
        return model
    return compose.add_prefix(model, "file_")


def _input_of(model: onnx.ModelProto, name: ExtractorName) -> _Input:
    path = name.path
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise SettingsError(f"{path} has {len(inputs)} inputs; a feature extractor has one, for pictures")
    kind = inputs[0].type.tensor_type.elem_type
    shape = [int(d.dim_value) for d in inputs[0].type.tensor_type.shape.dim]
    if len(shape) != 4 or kind not in (TensorProto.FLOAT, TensorProto.UINT8):
        raise SettingsError(
            f"{path} reads {TensorProto.DataType.Name(kind)} of {len(shape)} dimensions; pictures are FLOAT or UINT8, "
            "(N, C, H, W) or (N, H, W, C)"
        )
    channels_first = shape[1] in CHANNELS
    if not channels_first and shape[3] not in CHANNELS:
        if not shape[1] or not shape[3]:
            raise SettingsError(
                f"{path} does not state its number of channels: export it with only the number of pictures dynamic"
            )
        raise SettingsError(f"{path} reads pictures {tuple(shape)}, with neither 1 nor 3 channels")
    channels, stated = (shape[1], shape[2:]) if channels_first else (shape[3], shape[1:3])
    height, width = (size or name.side or 0 for size in stated)
    if not height or not width:
        raise SettingsError(
            f"{path} states no size of its pictures: add it in pixels, such as onnx:{path}@224"
        )
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in (height, width)):
        raise SettingsError(
            f"{path} reads pictures of {width}x{height} pixels; {MIN_SIDE} to {MAX_SIDE} are possible"
        )
    if name.side and (height, width) != (name.side, name.side):
        raise SettingsError(f"{path} reads pictures of {width}x{height} pixels, not {name.side}x{name.side}")
    return _Input(inputs[0].name, kind == TensorProto.FLOAT, channels_first, (height, width, channels))


def _scaled(graph: onnx.GraphProto, source: _Input, pixels: Pixels) -> Iterator[onnx.NodeProto]:
    """Nodes from the bytes to what the file reads; none if it reads them as they are."""
    current = INPUT
    if source.is_float:
        yield helper.make_node("Cast", [INPUT], [PIXELS_AS_FLOAT], _OWN + "cast", to=TensorProto.FLOAT)
        current = PIXELS_AS_FLOAT
        for operation, values in zip(("Mul", "Add"), _scaling(pixels, source.shape[2]), strict=True):
            constant = f"{_OWN}{operation.lower()}"
            graph.initializer.append(numpy_helper.from_array(values, constant))
            yield helper.make_node(operation, [current, constant], [f"{constant}_output"], constant)
            current = f"{constant}_output"
    if source.channels_first:
        yield helper.make_node(
            "Transpose", [current], [_OWN + "planes"], _OWN + "transpose", perm=[0, 3, 1, 2]
        )


def _scaling(pixels: Pixels, channels: int) -> tuple[Any, Any]:
    """Factor and offset of the bytes, float32 (channels,) each."""
    mean, deviation = {
        "imagenet": (np.array(_IMAGENET_MEAN) * 255, np.array(_IMAGENET_DEVIATION) * 255),
        "unit": (np.zeros(3), np.full(3, 255.0)),
        "signed": (np.full(3, 127.5), np.full(3, 127.5)),
        "bytes": (np.zeros(3), np.ones(3)),
    }[pixels]
    if channels == 1:
        mean, deviation = mean.mean(keepdims=True), deviation.mean(keepdims=True)
    return (1.0 / deviation).astype(np.float32), (-mean / deviation).astype(np.float32)


def _pooled(graph: onnx.GraphProto, path: Path) -> list[onnx.NodeProto]:
    """Nodes from the first output of the graph to the embedding."""
    features = graph.output[0]
    rank = len(features.type.tensor_type.shape.dim)
    if rank == 4:
        return [
            helper.make_node("GlobalAveragePool", [features.name], [_OWN + "pooled"], _OWN + "pool"),
            helper.make_node("Flatten", [_OWN + "pooled"], [OUTPUT], _OWN + "flatten", axis=1),
        ]
    if rank == 2:
        return [helper.make_node("Identity", [features.name], [OUTPUT], _OWN + "embedding")]
    raise SettingsError(f"{path} returns {rank} dimensions; features are (N, D) or (N, D, h, w)")


def _read(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        missing = path if not path.exists() else f"{path} needs a file of weights that"
        raise SettingsError(f"{missing} does not exist ({str(error).splitlines()[0][:160]})") from None
    except Exception as error:  # the parser and the checker raise errors of several types
        raise SettingsError(f"{path} is not an ONNX file that can be used ({_reason(error)})") from error
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < MIN_OPSET:
        raise SettingsError(
            f"{path} uses opset {opset}; int8 needs {MIN_OPSET} or newer: export it again, or use onnx.version_converter"
        )
    model.ir_version = min(model.ir_version, IR_VERSION)
    return model


def _checked(model: onnx.ModelProto, path: Path, shape: tuple[int, ...]) -> onnx.ModelProto:
    """Run two pictures, and state the number of features."""
    graph = model.graph
    graph.output[0].CopyFrom(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", None]))
    images = np.random.default_rng(0).integers(0, 256, (2, *shape), dtype=np.uint8)
    try:
        session = _session(model.SerializeToString())
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise SettingsError(f"{path} cannot be run by onnxruntime ({_reason(error)})") from error
    try:
        features = session.run([OUTPUT], {INPUT: images})[0]
    except Exception as error:
        reason = _reason(error)
        raise SettingsError(
            f"{path} cannot embed two pictures of {shape[1]} x {shape[0]} pixels together ({reason}): export it with a "
            "dynamic batch dimension"
        ) from error
    if features.ndim == 2 and features.shape[0] == 1:
        raise SettingsError(
            f"{path} returns the features of one picture for two: export it with a dynamic batch dimension"
        )
    if features.shape[0] != 2 or features.dtype != np.float32 or not np.isfinite(features).all():
        raise SettingsError(
            f"{path} returns {features.dtype} {features.shape} for two pictures; float32 (2, D) is needed"
        )
    graph.output[0].CopyFrom(
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N", features.shape[1]])
    )
    return model


def _reason(error: Exception) -> str:
    """The first line of an error's message, at most 160 characters."""
    return (str(error).strip().splitlines() or ["no message"])[0][:160]


def _session(model: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised; do not print them as well
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
