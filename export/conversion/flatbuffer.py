"""Reads the operators and tensors of a TFLite file as they are written in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ai_edge_litert import schema_py_generated as schema

FLOAT_TYPES = frozenset({"FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16"})


@dataclass(frozen=True)
class TfliteTensor:
    """A tensor of the main graph; its place in the list is its index in an interpreter."""

    name: str
    type: str
    """`INT8`, `FLOAT32`, …"""
    shape: tuple[int, ...]
    constant: bool
    """Its values are in the file."""


@dataclass(frozen=True)
class TfliteOperator:
    """An operator of the main graph; inputs and outputs are indices of tensors, absent ones left out."""

    name: str
    """`CONV_2D`, …"""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class TfliteFile:
    """The main graph of a file."""

    tensors: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOperator, ...]
    """In the order in which they run."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def float_operators(self) -> list[str]:
        """`NAME (TENSOR)` of each operator that reads or writes floating point; none in a full-integer file."""
        found = []
        for operator in self.operators:
            touched = [self.tensors[i] for i in (*operator.inputs, *operator.outputs)]
            floats = [tensor.name for tensor in touched if tensor.type in FLOAT_TYPES]
            if floats:
                found.append(f"{operator.name} ({floats[0]})")
        return found


def read_tflite(path: Path) -> TfliteFile:
    """Walk the flatbuffer; the weights themselves stay where they are."""
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
                # Old files keep the code in a byte, new ones in an integer; the larger one is meant.
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


def _vector(table: object, field: str) -> list[int]:
    length = getattr(table, f"{field}Length")()
    element = getattr(table, field)
    return [element(i) for i in range(length)]
