"""Export to ONNX: the float file, and QDQ int8 files that onnxruntime runs in integers from the raw bytes on."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edge_siamese.errors import ExportError
from export.conversion.float_graph import Bytes, Floats, Format, GraphStep, Range, name_steps
from export.conversion.graph import ExportedEncoder, layers
from export.conversion.silence import in_child, preload, third_party
from export.encoders.onnx_extractor import NORMALIZED, OnnxExtractor

INPUT, OUTPUT = "image", "embedding"
OPSET = 18
BATCH = 8
WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
# Activation functions that the output range replaces: the quantized kernel saturates where they would clip.
ABSORBED = frozenset({"Relu", "Clip"})
# Operations that change no values (Pad adds zeros, which every quantization represents exactly).
MOVING = frozenset({"Pad", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
LAZY_MODULES = (
    "torch._dynamo",
    "torch.onnx._internal.exporter._core",
    "onnx.reference",
    "onnxscript.rewriter",
    "onnxscript.optimizer",
)
"""Modules that the converter imports on demand, which takes two seconds."""


def export_onnx(network: ExportedEncoder, path: Path) -> None:
    """Write the float graph: `image` uint8 (N, H, W, C) to `embedding` float32 (N, D), for any N.

    Raises:
        ExportError: the conversion failed.
    """
    example = torch.zeros((2, *network.preprocessing.shape), dtype=torch.uint8)

    def convert() -> None:
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("N")},),
            verbose=False,
        )
        if program is None:
            raise ExportError("converting to ONNX returned no program")
        model = program.model_proto
        _remove_metadata(model)
        onnx.save(model, str(path))

    preload("converting to ONNX", *LAZY_MODULES)
    in_child("converting to ONNX", convert, path)


def write_extractor(network: OnnxExtractor, path: Path) -> None:
    """Write a finished file with the input and the output of an encoder, simplified by onnxruntime.

    Raises:
        ExportError: onnxruntime cannot simplify it.
    """
    with tempfile.TemporaryDirectory() as directory, third_party("simplifying the ONNX file"):
        source = Path(directory) / "file.onnx"
        source.write_bytes(network.file_bytes())
        quant_pre_process(str(source), str(path), skip_symbolic_shape=True)
        model = onnx.load(str(path))
        _remove_metadata(model)
        for number, node in enumerate(model.graph.node):
            node.name = node.name or f"{node.op_type} {number}"
        onnx.save(model, str(path))


class OnnxGraph:
    """The float graph of a quantizable network, and the int8 files made from it.

    Args:
        network: from `exported_encoder(…, quantizable=True)`, or a finished file.
        directory: a temporary directory to work in.
    """

    format: Format = "onnx"
    full_integer = False

    def __init__(self, network: ExportedEncoder | OnnxExtractor, directory: Path) -> None:
        self.path = directory / "quantizable.fp32.onnx"
        if isinstance(network, OnnxExtractor):
            write_extractor(network, self.path)
        else:
            export_onnx(network, self.path)
        self._model = onnx.load(str(self.path))
        self._nodes = _activation_nodes(self._model)
        # The pixels of an extractor are scaled in float32, because its padded first convolution cannot take the scaling.
        self._scaling = _before(self._nodes, NORMALIZED)
        names = [] if isinstance(network, OnnxExtractor) else layers(network.encoder)
        self.steps = _steps(self._nodes, names, without=self._scaling)
        cast = next((node for node in self._nodes if node.op_type == "Cast"), None)
        if cast is None:
            raise ExportError("the ONNX graph has no cast of the pixels to float32")
        self.input = str(cast.output[0])

    def activations(self, images: Bytes) -> Iterator[dict[str, Floats]]:
        names = [str(node.output[0]) for node in self._nodes[self._nodes.index(self._producer(self.input)) :]]
        return _run(self._model, {name: name for name in names}, images)

    def quantized_activations(self, path: Path, images: Bytes) -> Iterator[dict[str, Floats]]:
        model = onnx.load(str(path))
        produced = {str(name) for node in model.graph.node for name in node.output}
        outputs = {}
        for step in self.steps:
            # The DequantizeLinear node of a quantized activation has its real values.
            for name in (f"{step.output}_DequantizeLinear_Output", step.output):
                if name in produced:
                    outputs[step.output] = name
                    break
        return _run(model, outputs, images)

    def quantize(self, out: Path, ranges: Mapping[str, Range], float_layers: Collection[str] = ()) -> None:
        # The quantization of a rectified product replaces the rectifier, so it has to stay.
        product = next(step for step in reversed(self.steps) if step.weighted)
        rectified = self._producer(product.output).op_type in ABSORBED
        excluded = self._excluded(float_layers) + [node.name for node in self._scaling]
        overrides: dict[str, list[dict[str, Any]]] = {
            name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
            for name, (low, high) in ranges.items()
        }
        first, *_ = self.activations(np.zeros((1, *self._image_shape()), dtype=np.uint8))
        overrides = {name: value for name, value in overrides.items() if name in first}
        if self._scaling:
            for node in self._scaling[:-1]:
                overrides.pop(str(node.output[0]), None)
        else:
            overrides[self.input] = [
                {
                    "scale": np.array(1, np.float32),
                    "zero_point": np.array(0, np.uint8),
                    "quant_type": QuantType.QUInt8,
                }
            ]

        def convert() -> None:
            quantize_static(
                str(self.path),
                str(out),
                _OneImage(self._image_shape()),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                # The vector instructions of x86 multiply unsigned by signed bytes, and only for this combination does
                # onnxruntime fuse all operations of these graphs.
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=excluded,
                extra_options={"TensorQuantOverrides": overrides, "QuantizeBias": True},
            )
            model = onnx.load(str(out))
            if not self._scaling:
                _connect_bytes(model, self.input)
            if not rectified:
                _keep_output_in_float(model)
            _prevent_fusion(model, excluded)
            _drop_unused_constants(model)
            _remove_metadata(model)
            onnx.checker.check_model(model)
            onnx.save(model, str(out))

        in_child("quantizing to ONNX int8", convert, out)

    def _excluded(self, float_layers: Collection[str]) -> list[str]:
        """Names of the nodes that stay in float32: the given layers, and all nodes after the last matrix product."""
        outputs = {step.output for step in self.steps if step.name in float_layers}
        last = max((i for i, step in enumerate(self.steps) if step.weighted), default=len(self.steps))
        outputs |= {step.output for step in self.steps[last + 1 :]}
        names = []
        for output in outputs:
            node = self._producer(output)
            names.append(node.name)
            if node.op_type in ABSORBED:
                names.append(self._producer(str(node.input[0])).name)
        return names

    def _producer(self, tensor: str) -> onnx.NodeProto:
        return next(node for node in self._nodes if tensor in node.output)

    def _image_shape(self) -> tuple[int, ...]:
        dimensions = self._model.graph.input[0].type.tensor_type.shape.dim
        return tuple(int(d.dim_value) for d in dimensions[1:])


class _OneImage(CalibrationDataReader):  # type: ignore[misc]
    """One blank image: the quantizer requires calibration data, but its ranges are overridden."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._remaining = [{INPUT: np.zeros((1, *shape), dtype=np.uint8)}]

    def get_next(self) -> dict[str, Any] | None:
        return self._remaining.pop() if self._remaining else None


def _activation_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes whose output depends on the image, in execution order."""
    known = {INPUT}
    nodes = []
    for node in model.graph.node:
        if known & set(node.input) and node.op_type != "Shape":
            known |= set(node.output)
            nodes.append(node)
    return nodes


def _before(nodes: list[onnx.NodeProto], tensor: str) -> list[onnx.NodeProto]:
    """The nodes up to the one that makes a tensor; none if no node does."""
    index = next((index for index, node in enumerate(nodes) if tensor in node.output), -1)
    return nodes[: index + 1]


def _steps(
    nodes: list[onnx.NodeProto], layer_names: list[str], without: Sequence[onnx.NodeProto] = ()
) -> tuple[GraphStep, ...]:
    """The nodes after the cast; `ABSORBED` ones are part of the node before, `MOVING` ones are left out."""
    alias: dict[str, str] = {}
    operations: list[tuple[str, bool, str, tuple[str, ...], str]] = []
    activations: set[str] = {INPUT}
    for node in nodes:
        source, output = str(node.input[0]), str(node.output[0])
        if node in without:
            pass
        elif node.op_type in MOVING or node.op_type == "Cast":
            alias[output] = output if node.op_type == "Cast" else alias.get(source, source)
        elif node.op_type in ABSORBED and operations and operations[-1][4] == source:
            kind, weighted, name, inputs, _ = operations[-1]
            operations[-1] = kind, weighted, name, inputs, output
        else:
            inputs = tuple(alias.get(str(i), str(i)) for i in node.input if str(i) in activations)
            operations.append((str(node.op_type), node.op_type in WEIGHTED, str(node.name), inputs, output))
        activations.add(output)
    names = name_steps(
        [(kind, weighted) for kind, weighted, *_ in operations],
        layer_names,
        [name for _, _, name, *_ in operations],
    )
    return tuple(
        GraphStep(name, kind, inputs, output, weighted)
        for name, (kind, weighted, _, inputs, output) in zip(names, operations, strict=True)
    )


def _run(model: onnx.ModelProto, outputs: Mapping[str, str], images: Bytes) -> Iterator[dict[str, Floats]]:
    """Run a graph and return inner tensors; `outputs` maps reported names to names in the graph."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    del copied.graph.output[:]
    for tensor in dict.fromkeys(outputs.values()):
        copied.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Fusions would remove the requested tensors.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with third_party("running the ONNX graph"):
        session = onnxruntime.InferenceSession(
            copied.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    for start in range(0, len(images), BATCH):
        with third_party("running the ONNX graph"):
            values = session.run(list(outputs.values()), {INPUT: images[start : start + BATCH]})
        yield dict(zip(outputs, values, strict=True))


def _connect_bytes(model: onnx.ModelProto, pixels: str) -> None:
    """Connect the first DequantizeLinear to the uint8 image.

    With scale 1 and zero point 0 the bytes are the quantized values; a cast to float32 and back costs as much as a
    layer.
    """
    graph = model.graph
    cast = next(node for node in graph.node if node.op_type == "Cast" and pixels in node.output)
    for quantizer in [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == pixels]:
        _rename(graph, str(quantizer.output[0]), str(cast.input[0]))
        graph.node.remove(quantizer)
    if not any(pixels in node.input for node in graph.node):
        graph.node.remove(cast)
    del graph.value_info[:]


def _keep_output_in_float(model: onnx.ModelProto) -> None:
    """Remove the quantization after the last matrix product, whose kernel can return float32: faster and more accurate."""
    graph = model.graph
    product = next(node for node in reversed(graph.node) if node.op_type in WEIGHTED)
    quantizer = next(
        (n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == product.output[0]), None
    )
    if quantizer is None:
        return
    dequantizer = next(
        n for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] == quantizer.output[0]
    )
    inner, outer = str(product.output[0]), str(dequantizer.output[0])
    graph.node.remove(quantizer)
    graph.node.remove(dequantizer)
    if outer == OUTPUT:
        product.output[0] = OUTPUT
    else:
        _rename(graph, outer, inner)


def _prevent_fusion(model: onnx.ModelProto, float_nodes: Collection[str]) -> None:
    """Insert a Clip before float layers, to the range of the activation, which changes nothing.

    Otherwise onnxruntime quantizes any convolution between a DequantizeLinear and a QuantizeLinear, with one scale for all
    channels.
    """
    graph = model.graph
    dequantizers = {str(node.output[0]): node for node in graph.node if node.op_type == "DequantizeLinear"}
    constants = {str(tensor.name): onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for index, node in reversed(list(enumerate(graph.node))):
        source = (
            dequantizers.get(str(node.input[0]))
            if node.name in float_nodes and node.op_type in WEIGHTED
            else None
        )
        if source is None:
            continue
        scale, zero = float(constants[source.input[1]]), int(constants[source.input[2]])
        bounds = []
        for side, level in (("low", 0), ("high", 255)):
            bounds.append(f"{node.name}_{side}")
            value = np.array((level - zero) * scale, dtype=np.float32)
            graph.initializer.append(onnx.numpy_helper.from_array(value, bounds[-1]))
        clipped = f"{node.name}_input"
        graph.node.insert(
            index, onnx.helper.make_node("Clip", [node.input[0], *bounds], [clipped], f"{node.name}_shield")
        )
        graph.node[index + 1].input[0] = clipped


def _drop_unused_constants(model: onnx.ModelProto) -> None:
    used = {str(name) for node in model.graph.node for name in node.input}
    for constant in [c for c in model.graph.initializer if c.name not in used]:
        model.graph.initializer.remove(constant)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _remove_metadata(model: onnx.ModelProto) -> None:
    """Remove stack traces and file names of this machine from the graph."""
    for node in model.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
