"""Reading a TFLite file: its tensors, its operators and what of them is floating point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema

from export.conversion.flatbuffer import TfliteFile, TfliteOperator, TfliteTensor, read_tflite

MODELS = Path(__file__).parents[2] / "models"
OPERATORS = [("DEPTHWISE_CONV_2D", (0, 5, 4), (6,)), ("CONV_2D", (6, 2, 3), (7,)), ("RESHAPE", (7, 1), (8,))]


def written(
    path: Path, codes: Sequence[tuple[int, int]], inputs: Sequence[int], data: bytes = b"\1" * 4
) -> Path:
    """A file of one operator a code (old field, new field), all of which read `inputs` and write tensor 1."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs = 3, [graph]
    model.buffers = [schema.BufferT(), schema.BufferT(), schema.BufferT()]
    model.buffers[2].data = list(data)
    model.operatorCodes = []
    for old, new in codes:
        code = schema.OperatorCodeT()
        code.deprecatedBuiltinCode, code.builtinCode, code.version = old, new, 1
        model.operatorCodes.append(code)
    graph.tensors = []
    for name, buffer, shape in (("image", 0, [1, 2]), ("sum", 1, []), ("weight", 2, [1])):
        tensor = schema.TensorT()
        tensor.name, tensor.buffer, tensor.shape, tensor.type = name, buffer, shape, schema.TensorType.INT8
        graph.tensors.append(tensor)
    graph.operators = []
    for index in range(len(codes)):
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = index, list(inputs), [1]
        graph.operators.append(operator)
    graph.inputs, graph.outputs = [0], [1]
    builder = schema.flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


@pytest.mark.parametrize(
    ("precision", "type", "bias"), [("fp32", "FLOAT32", "FLOAT32"), ("int8", "INT8", "INT32")]
)
def test_tensors_and_operators_are_read_as_they_are_written(precision: str, type: str, bias: str) -> None:
    file = read_tflite(MODELS / f"encoder.{precision}.tflite")
    assert [(o.name, o.inputs, o.outputs) for o in file.operators] == OPERATORS
    assert (file.inputs, file.outputs) == ((0,), (8,))
    assert [(t.type, t.shape, t.constant) for t in file.tensors] == [
        (type, (1, 12, 12, 1), False),
        ("INT32", (2,), True),
        (type, (8, 5, 5, 6), True),
        (bias, (8,), True),
        (bias, (6,), True),
        (type, (1, 3, 3, 6), True),
        (type, (1, 5, 5, 6), False),
        (type, (1, 1, 1, 8), False),
        (type, (1, 8), False),
    ]
    assert file.tensors[0].name == "serving_default_args_0"
    assert file.tensors[8].name == "serving_default_output_0_output"


def test_float_operators_are_named_with_the_tensor_that_makes_them_float() -> None:
    assert read_tflite(MODELS / "encoder.int8.tflite").float_operators() == []
    found = read_tflite(MODELS / "encoder.fp32.tflite").float_operators()
    assert found[0] == "DEPTHWISE_CONV_2D (serving_default_args_0)"
    assert [text.split()[0] for text in found] == ["DEPTHWISE_CONV_2D", "CONV_2D", "RESHAPE"]


@pytest.mark.parametrize("type", ["FLOAT16", "FLOAT32", "FLOAT64", "BFLOAT16"])
def test_one_float_tensor_on_either_side_makes_an_operator_float(type: str) -> None:
    tensors = tuple(TfliteTensor(name, "INT8", (1,), False) for name in "abc")
    operators = (TfliteOperator("ADD", (0, 1), (2,)), TfliteOperator("MUL", (0,), (1,)))
    file = TfliteFile(tensors, operators, (0,), (2,))
    assert file.float_operators() == []
    assert replace(file, tensors=(*tensors[:2], replace(tensors[2], type=type))).float_operators() == [
        "ADD (c)"
    ]
    both = replace(file, tensors=(tensors[0], replace(tensors[1], type=type), tensors[2]))
    assert both.float_operators() == ["ADD (b)", "MUL (b)"]


def test_the_code_of_an_operator_is_the_larger_of_the_old_and_the_new_field(tmp_path: Path) -> None:
    old, both, new = (3, 0), (3, 3), (127, schema.BuiltinOperator.BROADCAST_TO)
    file = read_tflite(written(tmp_path / "codes.tflite", [old, both, new], [0]))
    assert [operator.name for operator in file.operators] == ["CONV_2D", "CONV_2D", "BROADCAST_TO"]


def test_inputs_that_an_operator_does_not_have_are_left_out(tmp_path: Path) -> None:
    file = read_tflite(written(tmp_path / "absent.tflite", [(9, 9)], [0, 2, -1]))
    assert file.operators == (TfliteOperator("FULLY_CONNECTED", (0, 2), (1,)),)


def test_a_tensor_is_constant_if_its_values_are_in_the_file(tmp_path: Path) -> None:
    file = read_tflite(written(tmp_path / "constant.tflite", [(0, 0)], [0, 2]))
    assert [(t.name, t.shape, t.constant) for t in file.tensors] == [
        ("image", (1, 2), False),
        ("sum", (), False),
        ("weight", (1,), True),
    ]
    empty = read_tflite(written(tmp_path / "empty.tflite", [(0, 0)], [0, 2], data=b""))
    assert not any(tensor.constant for tensor in empty.tensors)
