"""Export to TFLite: the float file, and full-integer int8 files whose input is the image bytes minus 128."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema

from edge_siamese.errors import ExportError
from export.conversion.float_graph import Bytes, Floats, Format, GraphStep, Range, name_steps
from export.conversion.graph import ExportedEncoder, layers
from export.conversion.silence import in_child, preload, third_party

WEIGHTED = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
# Operations that change no values (PAD adds zeros, which every quantization represents exactly).
VALUE_PRESERVING = frozenset(
    {"PAD", "RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "CAST", "QUANTIZE", "DEQUANTIZE"}
)
FLOAT_TYPES = frozenset({"FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16"})


@dataclass(frozen=True)
class TfliteTensor:
    """A tensor of the main graph; its position is its index in an interpreter."""

    name: str
    type: str
    """`INT8`, `FLOAT32`, …"""
    shape: tuple[int, ...]
    constant: bool
    """Whether its values are in the file."""


@dataclass(frozen=True)
class TfliteOperator:
    """An operator of the main graph; inputs and outputs are indices of tensors, without absent ones."""

    name: str
    """`CONV_2D`, …"""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class TfliteFile:
    """The main graph of a file."""

    tensors: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOperator, ...]
    """In execution order."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def float_operators(self) -> list[str]:
        """`NAME (TENSOR)` of each operator that reads or writes floating point; none in a full-integer file."""
        result = []
        for operator in self.operators:
            tensors = [self.tensors[i] for i in (*operator.inputs, *operator.outputs)]
            floats = [tensor.name for tensor in tensors if tensor.type in FLOAT_TYPES]
            if floats:
                result.append(f"{operator.name} ({floats[0]})")
        return result


def read_tflite(path: Path) -> TfliteFile:
    """Read tensors and operators of a TFLite file, without the weights."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    operators = {
        value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)
    }
    types = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}
    tensors = []
    for index in range(graph.TensorsLength()):
        tensor = graph.Tensors(index)
        data = model.Buffers(tensor.Buffer())
        tensors.append(
            TfliteTensor(
                name=tensor.Name().decode(),
                type=types[tensor.Type()],
                shape=tuple(int(n) for n in _vector(tensor, "Shape")),
                constant=tensor.Buffer() != 0 and (data.DataLength() > 0 or data.Size() > 0),
            )
        )
    steps = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex())
        steps.append(
            TfliteOperator(
                # Old files store the code in a byte, new ones in an integer; the larger one is valid.
                name=operators[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())],
                inputs=tuple(int(i) for i in _vector(operator, "Inputs") if i >= 0),
                outputs=tuple(int(i) for i in _vector(operator, "Outputs") if i >= 0),
            )
        )
    return TfliteFile(
        tuple(tensors),
        tuple(steps),
        tuple(int(i) for i in _vector(graph, "Inputs")),
        tuple(int(i) for i in _vector(graph, "Outputs")),
    )


def export_tflite(network: ExportedEncoder, path: Path, pixels: torch.dtype = torch.uint8) -> None:
    """Write the float graph: an image (1, H, W, C) of the given type to an embedding float32 (1, D).

    Raises:
        ExportError: the conversion failed.
    """
    preload("converting to TFLite", "litert_torch")  # imports jax, which takes seconds

    def convert() -> None:
        import litert_torch

        example = torch.zeros((1, *network.preprocessing.shape), dtype=pixels)
        litert_torch.convert(network.eval(), (example,)).export(str(path))

    in_child("converting to TFLite", convert, path)


class TfliteGraph:
    """The float graph of a quantizable network, and the int8 files made from it.

    Args:
        network: from `exported_encoder(…, quantizable=True)`.
        directory: a temporary directory to work in.
    """

    format: Format = "tflite"
    full_integer = True

    def __init__(self, network: ExportedEncoder, directory: Path) -> None:
        self.path = directory / "quantizable.fp32.tflite"
        # The quantizer changes a float input to int8, but would keep a uint8 input with a cast after it.
        export_tflite(network, self.path, torch.float32)
        self._file = read_tflite(self.path)
        self.steps = _steps(self._file, layers(network.encoder))
        self.input = self._file.tensors[self._file.inputs[0]].name

    def activations(self, images: Bytes) -> Iterator[dict[str, Floats]]:
        yield from _run(self.path, self._file, images)

    def quantized_activations(self, path: Path, images: Bytes) -> Iterator[dict[str, Floats]]:
        yield from _run(path, read_tflite(path), images)

    def quantize(self, out: Path, ranges: Mapping[str, Range], float_layers: Collection[str] = ()) -> None:
        preload("quantizing to TFLite int8", "ai_edge_quantizer.quantizer", "ai_edge_quantizer.recipe")

        def convert() -> None:
            from ai_edge_quantizer import quantizer, recipe

            work = quantizer.Quantizer(str(self.path), recipe.static_wi8_ai8())
            for step in self.steps:
                if step.name in float_layers:
                    work.update_quantization_recipe(
                        f"^{re.escape(step.output)};$", quantizer.qtyping.TFLOperationName.ALL_SUPPORTED,
                        algorithm_key=quantizer.algorithm_manager.AlgorithmName.NO_QUANTIZE,
                    )  # fmt: skip
            ranks = {tensor.name: len(tensor.shape) for tensor in self._file.tensors}
            statistics = {
                name: {
                    side: np.full((1,) * ranks[name], value, dtype=np.float32)
                    for side, value in zip(("min", "max"), extremes, strict=True)
                }
                for name, extremes in ranges.items()
            }
            work.quantize(statistics).export_model(str(out), overwrite=True)

        in_child("quantizing to TFLite int8", convert, out)
        out.chmod(0o644)
        remaining = read_tflite(out).float_operators()
        if remaining and not float_layers:
            raise ExportError(f"quantizing to TFLite int8 left {remaining[0]} in float32")


def _steps(file: TfliteFile, layer_names: list[str]) -> tuple[GraphStep, ...]:
    alias: dict[int, int] = {}
    operations: list[tuple[str, bool, tuple[str, ...], str]] = []
    for operator in file.operators:
        inputs = [i for i in operator.inputs if not file.tensors[i].constant]
        output = operator.outputs[0]
        if operator.name in VALUE_PRESERVING and inputs:
            alias[output] = alias.get(inputs[0], inputs[0])
            continue
        names = tuple(file.tensors[alias.get(i, i)].name for i in inputs)
        operations.append((operator.name, operator.name in WEIGHTED, names, file.tensors[output].name))
    step_names = name_steps(
        [(kind, weighted) for kind, weighted, *_ in operations],
        layer_names,
        [name for *_, name in operations],
    )
    return tuple(
        GraphStep(name, kind, inputs, output, weighted)
        for name, (kind, weighted, inputs, output) in zip(step_names, operations, strict=True)
    )


def _run(path: Path, file: TfliteFile, images: Bytes) -> Iterator[dict[str, Floats]]:
    """Run a file image by image and read all activations, dequantized."""
    with third_party("running the TFLite graph"):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
        interpreter.allocate_tensors()
    details = {detail["index"]: detail for detail in interpreter.get_tensor_details()}
    indices = [*file.inputs, *(index for operator in file.operators for index in operator.outputs)]
    for image in images[:, np.newaxis]:
        index = file.inputs[0]
        if details[index]["dtype"] == np.int8:
            interpreter.set_tensor(index, (image.astype(np.int16) - 128).astype(np.int8))
        else:
            interpreter.set_tensor(index, image.astype(details[index]["dtype"]))
        interpreter.invoke()
        yield {file.tensors[i].name: _dequantize(interpreter.get_tensor(i), details[i]) for i in indices}


def _dequantize(values: Any, details: dict[str, Any]) -> Floats:
    if values.dtype != np.int8:
        return np.asarray(values, dtype=np.float32)
    scale, zero = details["quantization"]
    return ((values.astype(np.int32) - zero) * scale).astype(np.float32)


def _vector(table: object, field: str) -> list[int]:
    length = getattr(table, f"{field}Length")()
    element = getattr(table, field)
    return [element(i) for i in range(length)]
