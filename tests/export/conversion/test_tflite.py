"""The TFLite route: the float file is the network, and the int8 file is integers from the bytes less 128 on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from edge_siamese.errors import ExportError
from export.conversion import tflite
from export.conversion.graph import exported_encoder
from export.conversion.quantize import choose_ranges, collect_statistics
from export.conversion.tflite import (
    TfliteFile,
    TfliteGraph,
    TfliteOperator,
    TfliteTensor,
    export_tflite,
    read_tflite,
)
from tests.export.conversion.test_onnx import (
    LAYERS,
    Broken,
    Tiny,
    assert_says_nothing_of_its_builder,
    embedded,
    pictures,
    tiny,
    use_own_streams,
    worst_cosine,
)

KINDS = ["DEPTHWISE_CONV_2D", "CONV_2D", "CONV_2D", "ADD", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"]


def interpreter(path: Path) -> Any:
    loaded = Interpreter(str(path), num_threads=1)
    loaded.allocate_tensors()
    return loaded


def run(path: Path, images: np.ndarray) -> np.ndarray:
    """Hand over what the documentation says: bytes, or bytes less 128 to an int8 input. Real numbers come back."""
    loaded = interpreter(path)
    (into,), (out,) = loaded.get_input_details(), loaded.get_output_details()
    shifted = images.astype(np.int16) - (128 if into["dtype"] == np.int8 else 0)
    results = []
    for image in shifted.astype(into["dtype"]):
        loaded.set_tensor(into["index"], image[None])
        loaded.invoke()
        results.append(loaded.get_tensor(out["index"])[0])
    values = np.array(results)
    if values.dtype == np.float32:
        return values
    scale, zero = out["quantization"]
    return ((values.astype(np.int32) - zero) * scale).astype(np.float32)


def quantization(path: Path, tensor: int) -> dict[str, Any]:
    details = {d["index"]: d for d in interpreter(path).get_tensor_details()}
    return dict(details[tensor]["quantization_parameters"])


def kinds(file: TfliteFile) -> list[str]:
    return [operator.name for operator in file.operators]


@pytest.fixture(scope="module")
def encoder() -> Tiny:
    return tiny()


@pytest.fixture(scope="module")
def float_file(encoder: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tflite") / "encoder.fp32.tflite"
    export_tflite(exported_encoder(encoder), path)
    return path


@pytest.fixture(scope="module")
def graph(encoder: Tiny, tmp_path_factory: pytest.TempPathFactory) -> TfliteGraph:
    return TfliteGraph(exported_encoder(encoder, quantizable=True), tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def ranges(graph: TfliteGraph) -> dict[str, tuple[float, float]]:
    return choose_ranges(graph, collect_statistics(graph, pictures(32, seed=5)), "min-max")


@pytest.fixture(scope="module")
def int8_file(
    graph: TfliteGraph, ranges: dict[str, tuple[float, float]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("int8") / "encoder.int8.tflite"
    graph.quantize(path, ranges)
    return path


def test_the_float_file_turns_bytes_into_the_embedding_of_the_network(
    encoder: Tiny, float_file: Path
) -> None:
    file = read_tflite(float_file)
    image, embedding = file.tensors[file.inputs[0]], file.tensors[file.outputs[0]]
    assert (image.type, image.shape) == ("UINT8", (1, 16, 16, 1))
    assert (embedding.type, embedding.shape) == ("FLOAT32", (1, 8))
    assert kinds(file) == ["CAST", *KINDS]
    images = pictures(7)
    np.testing.assert_allclose(run(float_file, images), embedded(encoder, images), rtol=0, atol=1e-5)


def test_the_graph_to_quantize_takes_the_same_bytes_as_float(encoder: Tiny, graph: TfliteGraph) -> None:
    file = read_tflite(graph.path)
    assert (file.tensors[file.inputs[0]].type, kinds(file)) == ("FLOAT32", KINDS)
    # The weights of the first layer have been put on their int8 grid: near the network, not equal to it.
    images = pictures(7)
    assert 0.999 < worst_cosine(run(graph.path, images), embedded(encoder, images))


def test_steps_are_called_as_the_encoder_calls_its_layers(graph: TfliteGraph) -> None:
    assert [step.name for step in graph.steps] == [*LAYERS[:3], "ADD after block.project.0", *LAYERS[3:]]
    assert [step.operation for step in graph.steps] == KINDS
    assert [step.weighted for step in graph.steps] == [True, True, True, False, True, True]
    stem, expand, project, total, pool, last = graph.steps
    assert (stem.inputs, expand.inputs) == ((graph.input,), (stem.output,))
    assert set(total.inputs) == {stem.output, project.output}
    assert (pool.inputs, last.inputs) == ((total.output,), (pool.output,))


def test_the_int8_file_is_integers_throughout(int8_file: Path) -> None:
    file = read_tflite(int8_file)
    assert file.float_operators() == []
    assert kinds(file) == KINDS
    assert {tensor.type for tensor in file.tensors} <= {"INT8", "INT32"}
    assert int8_file.stat().st_mode & 0o777 == 0o644


def test_the_int8_input_is_the_bytes_less_128(int8_file: Path) -> None:
    (into,) = interpreter(int8_file).get_input_details()
    assert (into["dtype"], into["quantization"]) == (np.int8, (1.0, -128))
    assert tuple(into["shape"]) == (1, 16, 16, 1)


def test_the_int8_file_stays_near_the_network(encoder: Tiny, int8_file: Path) -> None:
    images = pictures(16)
    assert worst_cosine(run(int8_file, images), embedded(encoder, images)) > 0.995
    # Bytes that are not shifted, or shifted by something else, are another picture.
    wrong = run(int8_file, images ^ 128)
    assert worst_cosine(wrong, embedded(encoder, images)) < 0.99


@pytest.mark.parametrize("step", range(6))
def test_each_channel_of_a_weight_has_a_scale_of_its_own(int8_file: Path, step: int) -> None:
    file = read_tflite(int8_file)
    operator = file.operators[step]
    weights = [i for i in operator.inputs if file.tensors[i].constant and file.tensors[i].type == "INT8"]
    if operator.name == "ADD":
        assert weights == []
        return
    (weight,) = weights
    found = quantization(int8_file, weight)
    channels = file.tensors[operator.outputs[0]].shape[-1]
    assert len(found["scales"]) == channels and len(np.unique(found["scales"])) == channels
    assert file.tensors[weight].shape[found["quantized_dimension"]] == channels
    assert not found["zero_points"].any()


def test_the_given_ranges_are_used(graph: TfliteGraph, tmp_path: Path) -> None:
    given = {step.output: (-1.25 * (i + 1), 3.0 * (i + 1)) for i, step in enumerate(graph.steps)}
    path = tmp_path / "given.tflite"
    graph.quantize(path, {**given, graph.input: (0.0, 255.0)})
    file = read_tflite(path)
    outputs = [operator.outputs[0] for operator in file.operators]
    for step, tensor in zip(graph.steps, outputs, strict=True):
        low, high = given[step.output]
        found = quantization(path, tensor)
        assert found["scales"].tolist() == pytest.approx([(high - low) / 255], rel=1e-6)
        # 75 of 255 steps are below zero.
        assert found["zero_points"].tolist() == [75 - 128]


def test_activations_are_real_numbers_of_either_file(
    graph: TfliteGraph, int8_file: Path, ranges: dict[str, tuple[float, float]]
) -> None:
    images = pictures(2)
    exact, rounded = list(graph.activations(images)), list(graph.quantized_activations(int8_file, images))
    assert (len(exact), len(rounded)) == (2, 2)
    stem = graph.steps[0].output
    low, high = ranges[stem]
    for image, floats, reals in zip(images, exact, rounded, strict=True):
        assert floats.keys() == reals.keys() == {graph.input, *(step.output for step in graph.steps)}
        # The shift by 128 is undone: both inputs are the bytes.
        np.testing.assert_array_equal(floats[graph.input][0], image)
        np.testing.assert_array_equal(reals[graph.input][0], image)
        assert floats[stem].dtype == reals[stem].dtype == np.float32
        assert 0.0 < float(np.abs(floats[stem] - reals[stem]).max()) <= 1.01 * (high - low) / 255


@pytest.mark.parametrize(
    ("layer", "operations"),
    [
        ("stem.0", ["DEQUANTIZE", "DEPTHWISE_CONV_2D", "QUANTIZE"]),
        ("block.expand.0", ["DEQUANTIZE", "CONV_2D", "QUANTIZE"]),
        ("ADD after block.project.0", ["DEQUANTIZE", "DEQUANTIZE", "ADD", "QUANTIZE"]),
        ("embedding", ["DEQUANTIZE", "FULLY_CONNECTED"]),
    ],
)
def test_a_float_layer_and_no_other_computes_in_float(
    graph: TfliteGraph,
    ranges: dict[str, tuple[float, float]],
    layer: str,
    operations: list[str],
    tmp_path: Path,
) -> None:
    path = tmp_path / "mixed.tflite"
    graph.quantize(path, ranges, [layer])
    file = read_tflite(path)
    assert [text.split()[0] for text in file.float_operators()] == operations
    assert file.tensors[file.inputs[0]].type == "INT8"
    assert file.tensors[file.outputs[0]].type == ("FLOAT32" if layer == "embedding" else "INT8")
    images = pictures(4)
    assert worst_cosine(run(path, images), run(graph.path, images)) > 0.995


def test_an_int8_file_with_float_operations_that_nobody_asked_for_is_refused(
    graph: TfliteGraph,
    ranges: dict[str, tuple[float, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tflite, "read_tflite", lambda path: read_tflite(graph.path))
    with pytest.raises(
        ExportError, match=r"^quantizing to TFLite int8 left DEPTHWISE_CONV_2D \(\S+\) in float32$"
    ):
        graph.quantize(tmp_path / "int8.tflite", ranges)
    graph.quantize(tmp_path / "int8.tflite", ranges, ["pool"])


def test_a_quantization_that_fails_is_one_quiet_line(
    graph: TfliteGraph, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_own_streams(monkeypatch)
    with pytest.raises(ExportError) as raised:
        graph.quantize(tmp_path / "int8.tflite", {graph.input: (0.0, 255.0)})
    message = str(raised.value)
    assert message.startswith("quantizing to TFLite int8 failed: ") and "\n" not in message
    assert not (tmp_path / "int8.tflite").exists()
    assert capfd.readouterr() == ("", "")


def test_a_conversion_that_fails_is_one_quiet_line_and_leaves_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_own_streams(monkeypatch)
    broken = exported_encoder(tiny(network=Broken), quantizable=True)
    with pytest.raises(ExportError) as raised:
        export_tflite(broken, tmp_path / "broken.tflite")
    message = str(raised.value)
    assert message.startswith("converting to TFLite failed: ") and message.endswith(
        "(--debug shows everything)"
    )
    assert "\n" not in message and len(message) < 300
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_files_say_nothing_of_the_machine_that_made_them(
    float_file: Path, int8_file: Path, graph: TfliteGraph
) -> None:
    for path in (float_file, int8_file, graph.path):
        assert_says_nothing_of_its_builder(path)


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
