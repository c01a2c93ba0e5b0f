"""The wrapper of the TFLite packages: input types, dequantization, several threads, errors."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_siamese.errors import EncoderError
from edge_siamese.runtimes.selection import runtime_statuses
from edge_siamese.runtimes.tflite import TfliteGraph
from tests.edge_siamese.runtimes.damage import without_graphs
from tests.tiny_bundle import MODELS
from tests.tiny_network import forward, pictures


@pytest.fixture(params=["ai-edge-litert", "tflite-runtime"])
def package(request: pytest.FixtureRequest) -> ModuleType:
    """Each TFLite package that works here."""
    found = next(found for found in runtime_statuses() if found.name == request.param)
    if found.module is None:
        pytest.skip(str(found))
    return found.module


def test_real_files(package: ModuleType) -> None:
    images = pictures(5)
    exact = TfliteGraph(package, MODELS / "encoder.fp32.tflite", threads=1)
    assert (exact.input_shape, exact.dimensions) == ((12, 12, 1), 8)
    np.testing.assert_allclose(exact.run(images), forward(images), atol=1e-5)
    quantized = TfliteGraph(package, MODELS / "encoder.int8.tflite", threads=1).run(images)
    assert quantized.dtype == np.float32
    # 256 steps of 0.00355 around -14: what is outside of them is cut off.
    np.testing.assert_allclose(quantized, forward(images).clip(-0.4044, 0.5002), atol=0.03)


def test_threads_take_turns(package: ModuleType) -> None:
    graph = TfliteGraph(package, MODELS / "encoder.fp32.tflite", threads=1)
    images = pictures(200)
    results: dict[int, Any] = {}

    def work(number: int) -> None:
        results[number] = graph.run(images[number::4])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        np.testing.assert_allclose(results[number], forward(images[number::4]), atol=1e-5)


OPEN = """
import sys
from pathlib import Path
from edge_siamese.runtimes.selection import runtime_statuses
from edge_siamese.runtimes.tflite import TfliteGraph
module = next(found.module for found in runtime_statuses() if found.name == sys.argv[1])
TfliteGraph(module, Path(sys.argv[2]), threads=1)
"""


def test_a_crash_leaves_a_traceback(package: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "crashing.tflite"
    path.write_bytes(without_graphs((MODELS / "encoder.int8.tflite").read_bytes()))
    name = package.__name__.split(".")[0].replace("_", "-")
    command = [sys.executable, "-X", "faulthandler", "-c", OPEN, name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert "tflite.py" in done.stderr


def test_a_file_that_is_no_model(package: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "text.tflite").write_text("no model, and long enough to be read as a header of one")
    name = package.__name__.split(".")[0]
    with pytest.raises(EncoderError, match=f"^{name} cannot load {tmp_path}/text.tflite: "):
        TfliteGraph(package, tmp_path / "text.tflite", threads=1)


def pretended(
    image: dict[str, Any] | None = None, embedding: dict[str, Any] | None = None, output: Any = None
) -> tuple[ModuleType, list[Any]]:
    """A TFLite package whose graph has these tensors, and the images that it was given."""
    given: list[Any] = []

    class Interpreter:
        def __init__(self, model_path: str, num_threads: int) -> None:
            pass

        def allocate_tensors(self) -> None:
            pass

        def get_input_details(self) -> list[dict[str, Any]]:
            default = {
                "index": 0,
                "shape": np.array([1, 1, 4, 1]),
                "dtype": np.int8,
                "quantization": (1.0, -128),
            }
            return [{**default, **(image or {})}]

        def get_output_details(self) -> list[dict[str, Any]]:
            default = {"index": 9, "shape": np.array([1, 2]), "dtype": np.float32, "quantization": (0.0, 0)}
            return [{**default, **(embedding or {})}]

        def set_tensor(self, index: int, values: Any) -> None:
            assert index == 0
            given.append(values)

        def invoke(self) -> None:
            pass

        def get_tensor(self, index: int) -> Any:
            assert index == 9
            return np.array([[1, 2]], np.float32) if output is None else output

    module = ModuleType("pretended.interpreter")
    module.Interpreter = Interpreter  # type: ignore[attr-defined]
    return module, given


BYTES = np.array([0, 1, 128, 255], np.uint8).reshape(1, 1, 4, 1)


@pytest.mark.parametrize(
    ("dtype", "quantization", "expected"),
    [
        (np.int8, (1.0, -128), [-128, -127, 0, 127]),
        (np.int8, (0.9960784, -128), [-128, -127, 1, 127]),
        (np.int8, (2.0, -128), [-128, -128, -64, 0]),
        (np.int8, (1.0, 0), [0, 1, 127, 127]),
        (np.uint8, (0.0, 0), [0, 1, 128, 255]),
        (np.uint8, (1.0, 0), [0, 1, 128, 255]),
        (np.float32, (0.0, 0), [0, 1, 128, 255]),
    ],
)
def test_bytes_become_what_the_graph_reads(
    dtype: Any, quantization: tuple[float, int], expected: list[int]
) -> None:
    module, given = pretended(image={"dtype": dtype, "quantization": quantization})
    TfliteGraph(module, Path("m.tflite"), threads=1).run(np.repeat(BYTES, 3, axis=0))
    assert len(given) == 3
    assert given[2].dtype == dtype
    assert given[2].shape == (1, 1, 4, 1)
    assert given[2].ravel().tolist() == expected


def test_a_quantized_output_becomes_floats() -> None:
    embedding = {"dtype": np.int8, "quantization": (0.5, -20)}
    module, _ = pretended(embedding=embedding, output=np.array([[-128, 127]], np.int8))
    result = TfliteGraph(module, Path("m.tflite"), threads=1).run(BYTES)
    assert result.dtype == np.float32
    assert result.tolist() == [[-54.0, 73.5]]


@pytest.mark.parametrize(
    ("image", "embedding", "message"),
    [
        ({"dtype": np.int32}, None, "m.tflite reads int32; an encoder reads uint8, int8 or float32"),
        (
            {"shape": np.array([4, 1, 4, 1])},
            None,
            "m.tflite turns (4, 1, 4, 1) into (1, 2); an encoder turns",
        ),
        (None, {"shape": np.array([2])}, "m.tflite turns (1, 1, 4, 1) into (2,); an encoder turns"),
    ],
)
def test_a_graph_that_is_no_encoder(image: Any, embedding: Any, message: str) -> None:
    with pytest.raises(EncoderError) as caught:
        TfliteGraph(pretended(image, embedding)[0], Path("m.tflite"), threads=1)
    assert str(caught.value).startswith(message)


def test_a_run_that_fails() -> None:
    module, _ = pretended(output=np.zeros((1, 3), np.float32))
    with pytest.raises(EncoderError, match=r"^pretended failed on m\.tflite: could not broadcast"):
        TfliteGraph(module, Path("m.tflite"), threads=1).run(BYTES)


def test_opening_a_file_says_nothing_and_leaves_standard_error_as_it_was(
    package: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    TfliteGraph(package, MODELS / "encoder.fp32.tflite", threads=1)
    with pytest.raises(EncoderError):
        TfliteGraph(package, MODELS / "encoder.fp32.onnx", threads=1)
    assert capfd.readouterr().err == ""
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"
