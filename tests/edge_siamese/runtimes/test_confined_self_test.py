"""The self-test in a confined child: damaged, greedy and endless model files give one error and never end the process."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.errors import BundleError, ModelCrashed, SandboxError, SelfTestFailed
from edge_siamese.models import names, shipped
from edge_siamese.models.bundle import IMPOSTORS, MAX_IMPOSTORS, Bundle, load_bundle
from edge_siamese.runtimes import confined_self_test
from edge_siamese.runtimes.confined_self_test import is_untrusted, run_self_test, self_test_key
from edge_siamese.runtimes.selection import runtime_format
from edge_siamese.system import sandbox
from edge_siamese.system.sandbox import Limits
from tests.edge_siamese.runtimes.damage import damaged, outcome, relist
from tests.tiny_bundle import MODEL_ID

ROOT = Path(__file__).parents[3]
DAMAGED_FILES = 20
"""Of each runtime."""


def test_a_good_model_passes(bundle: Bundle, runtime: str) -> None:
    result = run_self_test(bundle, runtime, "int8", 1)
    assert result.report.passed
    assert (result.report.runtime, result.report.precision) == (runtime, "int8")
    assert result.reason == f"{runtime} {result.version}: requested"


def test_a_bundle_that_only_root_can_read_is_tested(
    writable_bundle: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in writable_bundle.iterdir():
        path.chmod(0o600)
    writable_bundle.chmod(0o700)
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        monkeypatch.setattr(confined_self_test, "_PUBLIC_TEMPORARY", Path(place))
        assert run_self_test(load_bundle(writable_bundle), runtime, "fp32", 1).report.passed
        assert os.listdir(place) == []


@pytest.mark.skipif("glyphs" not in names(), reason="the bundle glyphs is not here")
def test_damaged_models_end_in_an_error_or_pass(tmp_path: Path, runtime: str) -> None:
    directory = tmp_path / "bundle"
    shutil.copytree(shipped("glyphs"), directory)
    name = f"encoder.int8.{runtime_format(runtime)}"
    whole = (directory / name).read_bytes()
    outcomes: list[str] = []
    for seed in range(DAMAGED_FILES):
        damaged(directory, name, whole, seed)
        outcomes.append(outcome(directory, runtime))
    assert {type_name for type_name, _, _ in (text.partition(": ") for text in outcomes)} <= {
        "passed", "failed", "EncoderError", "ModelCrashed", "SelfTestFailed",
    }  # fmt: skip
    assert "passed" in outcomes
    assert any(text.startswith("EncoderError: ") for text in outcomes)
    assert all(len(text.splitlines()) == 1 for text in outcomes)


@pytest.fixture
def hostile(writable_bundle: Path) -> Callable[[Callable[[Any], Any]], Path]:
    """Writes a bundle whose int8 ONNX file is a graph that the test builds with `onnx.helper`."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")

    def write(nodes: Callable[[Any], Any], dimensions: int = 8) -> Path:
        helper, kinds = onnx.helper, onnx.TensorProto
        graph = helper.make_graph(
            nodes(helper),
            "hostile",
            [helper.make_tensor_value_info("image", kinds.UINT8, ["n", 12, 12, 1])],
            [helper.make_tensor_value_info("embedding", kinds.FLOAT, ["n", dimensions])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        (writable_bundle / "encoder.int8.onnx").write_bytes(model.SerializeToString())
        relist(writable_bundle, "encoder.int8.onnx")
        return writable_bundle

    return write


def constant(helper: Any, name: str, values: Any) -> Any:
    from onnx import numpy_helper

    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values, name))


def embedding_from(helper: Any, source: str, scale: float = 1.0) -> list[Any]:
    """Nodes that turn the shape of the images and a scalar into (n, 8) equal numbers."""
    return [
        helper.make_node("Shape", ["image"], ["count"], start=0, end=1),
        constant(helper, "eight", np.array([8], np.int64)),
        helper.make_node("Concat", ["count", "eight"], ["shape"], axis=0),
        helper.make_node("Expand", [source, "shape"], ["embedding"]),
    ]


def test_a_model_that_takes_all_memory(hostile: Any) -> None:
    directory = hostile(
        lambda helper: [
            constant(helper, "large", np.array([8 << 30], np.int64)),
            helper.make_node("ConstantOfShape", ["large"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
            *embedding_from(helper, "sum"),
        ]
    )
    text = outcome(directory, "onnxruntime")
    assert text.startswith(
        (f"EncoderError: onnxruntime failed on {directory}/encoder.int8.onnx: ", "ModelCrashed: ")
    )


def test_a_model_that_computes_forever(hostile: Any) -> None:
    def nodes(helper: Any) -> list[Any]:
        kinds = pytest.importorskip("onnx").TensorProto
        body = helper.make_graph(
            [
                helper.make_node("Identity", ["go_on"], ["still"]),
                helper.make_node("Identity", ["before"], ["after"]),
            ],
            "body",
            [
                helper.make_tensor_value_info("turn", kinds.INT64, []),
                helper.make_tensor_value_info("go_on", kinds.BOOL, []),
                helper.make_tensor_value_info("before", kinds.FLOAT, []),
            ],
            [
                helper.make_tensor_value_info("still", kinds.BOOL, []),
                helper.make_tensor_value_info("after", kinds.FLOAT, []),
            ],
        )
        return [
            constant(helper, "turns", np.array(2**62, np.int64)),
            constant(helper, "true", np.array(True)),
            constant(helper, "start", np.array(1.0, np.float32)),
            helper.make_node("Loop", ["turns", "true", "start"], ["end"], body=body),
            *embedding_from(helper, "end"),
        ]

    text = outcome(hostile(nodes), "onnxruntime", limits=Limits(processor_seconds=2))
    assert re.fullmatch(
        r"ModelCrashed: the int8 file of tiny-0123456789ab does not work on onnxruntime \S+: "
        r"takes more than 2 s of processor time",
        text,
    )


def test_a_model_that_returns_no_numbers(hostile: Any) -> None:
    directory = hostile(
        lambda helper: [constant(helper, "nan", np.array(np.nan, np.float32)), *embedding_from(helper, "nan")]
    )
    assert f"EncoderError: {directory}/encoder.int8.onnx returned numbers that are not finite" in outcome(
        directory, "onnxruntime"
    )


def test_a_model_that_says_the_same_of_everything(hostile: Any) -> None:
    directory = hostile(
        lambda helper: [constant(helper, "one", np.array(1, np.float32)), *embedding_from(helper, "one")]
    )
    assert outcome(directory, "onnxruntime") == "failed"


def test_a_model_of_another_shape(hostile: Any) -> None:
    def nodes(helper: Any) -> list[Any]:
        return [
            constant(helper, "one", np.array(1, np.float32)),
            constant(helper, "shape", np.array([3, 5], np.int64)),
            helper.make_node("Expand", ["one", "shape"], ["embedding"]),
        ]

    text = outcome(hostile(nodes), "onnxruntime")
    assert text.startswith(("EncoderError: onnxruntime failed on ", "ModelCrashed: "))
    text = outcome(hostile(nodes, 5), "onnxruntime")
    assert text.startswith("EncoderError: ") and text.endswith("to 8; export the bundle again")


class TestCrashes:
    """The child is a real one, and dies; the parent reports how."""

    @pytest.fixture(autouse=True)
    def dying(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(confined_self_test, "__name__", "tests.edge_siamese.runtimes.dying")

    @pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL])
    def test_a_signal_is_one_error(
        self, bundle: Bundle, runtime: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONDYING", str(int(number)))
        with pytest.raises(ModelCrashed) as caught:
            run_self_test(bundle, runtime, "int8", 1)
        assert re.fullmatch(
            rf"the int8 file of tiny-0123456789ab crashes {runtime} \S+: {number.name}", str(caught.value)
        )

    def test_a_kill_may_have_other_reasons(
        self, bundle: Bundle, runtime: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PYTHONDYING", str(int(signal.SIGKILL)))
        with pytest.raises(SelfTestFailed, match=r"SIGKILL, perhaps because memory ran out$") as caught:
            run_self_test(bundle, runtime, "int8", 1)
        assert type(caught.value) is SelfTestFailed


ON_A_DEVICE = """
import sys
from pathlib import Path
from tests.edge_siamese.runtimes.damage import damaged, outcome
directory, name = Path(sys.argv[1]), "encoder.int8.tflite"
whole = (directory / name).read_bytes()
for seed in range(12):
    damaged(directory, name, whole, seed)
    print(outcome(directory, "tflite-runtime"))
"""


@pytest.mark.system
def test_files_that_crash_tflite_runtime(
    device_python: Path, device_tflite: str, writable_bundle: Path
) -> None:
    if device_tflite != "tflite-runtime":
        pytest.skip("tflite-runtime needs CPython 3.11")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [str(device_python), "-c", ON_A_DEVICE, str(writable_bundle)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, cwd=ROOT)
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    crashes = [line for line in lines if line.startswith("ModelCrashed: ")]
    assert len(crashes) >= 3
    for line in crashes:
        assert re.fullmatch(
            r"ModelCrashed: the int8 file of tiny-0123456789ab crashes tflite-runtime \S+: SIG\w+", line
        )


@pytest.mark.parametrize(
    "reply", [None, 5, {}, {"report": {}, "version": "1", "reason": ""}, {"report": None}]
)
def test_a_reply_that_is_no_result(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, reply: Any) -> None:
    monkeypatch.setattr(confined_self_test.ConfinedChild, "result", lambda child: reply)
    with pytest.raises(ModelCrashed, match=f"^the reply of {MODEL_ID} is not a result of a self-test$"):
        run_self_test(bundle, "onnxruntime", "int8", 1)


def test_a_child_that_cannot_be_started_says_nothing_about_the_model(
    bundle: Bundle, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox.sys, "executable", "/no/python")
    with pytest.raises(SandboxError, match=r"^a child process cannot be started: "):
        run_self_test(bundle, runtime, "int8", 1)


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        (np.zeros((4, 8), np.float16), "not of unit length"),
        (np.full((4, 8), 9.0, np.float16), "not of unit length"),
        (np.full((4, 8), np.nan, np.float16), "numbers that are not finite"),
        (np.zeros((4, 7), np.float16), f"1 to {MAX_IMPOSTORS} embeddings of 8 numbers are needed"),
        (np.zeros((0, 8), np.float16), f"1 to {MAX_IMPOSTORS} embeddings of 8 numbers are needed"),
        (
            np.zeros((MAX_IMPOSTORS + 1, 8), np.float16),
            f"1 to {MAX_IMPOSTORS} embeddings of 8 numbers are needed",
        ),
        (np.zeros((4, 8), np.float32), "must be int8"),
        (np.array(["x"] * 8), "not a file of numpy arrays"),
    ],
)
def test_impostors_are_tested_too(writable_bundle: Path, stored: Any, problem: str) -> None:
    pytest.importorskip("onnxruntime")
    np.save(writable_bundle / IMPOSTORS, stored)
    relist(writable_bundle, IMPOSTORS)
    with pytest.raises(BundleError, match=problem) as caught:
        run_self_test(load_bundle(writable_bundle), "onnxruntime", "int8", 1)
    assert str(caught.value).startswith(f"{writable_bundle / IMPOSTORS}")


def test_shipped_bundles_are_trusted(bundle: Bundle, objects_shipped: Path) -> None:
    assert is_untrusted(bundle)
    assert not is_untrusted(load_bundle(objects_shipped))


def test_a_result_holds_for_one_model_runtime_and_release(
    bundle: Bundle, weighted_bundle: Bundle, tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [
        self_test_key(bundle, runtime, "int8"),
        self_test_key(bundle, runtime, "fp32"),
        self_test_key(weighted_bundle, runtime, "int8"),
    ]
    shutil.copytree(bundle.path, tmp_path / "copy")
    assert self_test_key(load_bundle(tmp_path / "copy"), runtime, "int8") == keys[0]
    monkeypatch.setattr(confined_self_test, "__version__", "99")
    keys.append(self_test_key(bundle, runtime, "int8"))
    assert len(set(keys)) == 4


def test_where_the_kernel_cannot_start_this_interpreter_the_model_is_tested_in_this_process(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in an emulated system without an entry for its programs."""
    pytest.importorskip("onnxruntime")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOEXEC, "Exec format error")

    monkeypatch.setattr("subprocess.Popen", refuse)
    assert run_self_test(bundle, "onnxruntime", "int8").report.passed
    assert caplog.messages == [
        "a child process cannot be started: Exec format error; the model is tested in this process"
    ]
