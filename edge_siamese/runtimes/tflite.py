"""Wraps the two packages that run TFLite files: tflite-runtime, and ai-edge-litert, its successor."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import EncoderError
from edge_siamese.recognition.imaging import Bytes, Floats
from edge_siamese.runtimes.availability import Runtime, first_line

# The smallest TFLite file: one graph without tensors and operators.
_EMPTY_MODEL = base64.b64decode(
    "GAAAAFRGTDMAAA4AFAAQAAQADAAAAAgADgAAADgAAAA4AAAACAAAAAMAAAABAAAAEAAA"
    "AAwAFAAQAAgABAAMAAwAAAAQAAAADAAAAAgAAAAEAAAAAAAAAAEAAAAIAAAABAAEAAQAAAA="
)


class TfliteGraph:
    """A TFLite file with one image in, uint8, int8 or float32 (1, H, W, C), and one embedding out, (1, D)."""

    def __init__(self, package: ModuleType, path: Path, threads: int) -> None:
        self._path = path
        self._package = package.__name__.split(".")[0]
        try:
            with _quietly():
                self._interpreter: Any = package.Interpreter(model_path=str(path), num_threads=threads)
                self._interpreter.allocate_tensors()
            (self._input,), (self._output,) = (
                self._interpreter.get_input_details(),
                self._interpreter.get_output_details(),
            )
        except Exception as error:  # the bindings raise ValueError, RuntimeError, SystemError and others
            raise EncoderError(f"{self._package} cannot load {path}: {first_line(error)}") from error
        shape, shape_out = tuple(map(int, self._input["shape"])), tuple(map(int, self._output["shape"]))
        if len(shape) != 4 or shape[0] != 1 or len(shape_out) != 2:
            raise EncoderError(
                f"{path} turns {shape} into {shape_out}; an encoder turns (1, H, W, C) into (1, D)"
            )
        self.input_shape = shape[1:]
        self.dimensions = shape_out[1]
        self._values = _value_of_byte(self._input, path)
        # An interpreter owns one set of tensors, so two threads must not use it at once.
        self._lock = threading.Lock()

    def run(self, images: Bytes) -> Floats:
        result = np.empty((len(images), self.dimensions), dtype=np.float32)
        try:
            with self._lock:
                for index in range(len(images)):
                    self._interpreter.set_tensor(
                        self._input["index"], self._values[images[index : index + 1]]
                    )
                    self._interpreter.invoke()
                    result[index] = _dequantized(
                        self._interpreter.get_tensor(self._output["index"])[0], self._output
                    )
        except Exception as error:
            raise EncoderError(f"{self._package} failed on {self._path}: {first_line(error)}") from error
        return result


def _value_of_byte(tensor: dict[str, Any], path: Path) -> npt.NDArray[Any]:
    """(256,): what the graph reads for each byte; with scale 1 and zero point -128, the byte less 128."""
    dtype, (scale, zero_point) = np.dtype(tensor["dtype"]), tensor["quantization"]
    values = np.arange(256, dtype=np.float32)
    if dtype in (np.uint8, np.int8):
        if scale:
            values = np.rint(values / np.float32(scale)) + zero_point
        limits = np.iinfo(dtype)
        return values.clip(limits.min, limits.max).astype(dtype)
    if dtype == np.float32:
        return values
    raise EncoderError(f"{path} reads {dtype}; an encoder reads uint8, int8 or float32")


def _dequantized(values: npt.NDArray[Any], tensor: dict[str, Any]) -> Floats:
    scale, zero_point = tensor["quantization"]
    if values.dtype == np.float32 or not scale:
        return values.astype(np.float32)
    return (values.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)


def _check(package: ModuleType) -> None:
    """Open the empty model: tflite-runtime imports well beside numpy 2, and then fails on every file."""
    with _quietly():
        package.Interpreter(model_content=_EMPTY_MODEL)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Turn away the line of information that the library prints from C++ when it opens a file."""
    try:
        kept = os.dup(2)
    except OSError:  # a service may run without standard error
        yield
        return
    away = os.open(os.devnull, os.O_WRONLY)
    sys.stderr.flush()
    os.dup2(away, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(away)


AI_EDGE_LITERT = Runtime(
    name="ai-edge-litert",
    module="ai_edge_litert.interpreter",
    format="tflite",
    install="pip install ai-edge-litert",
    open=TfliteGraph,
    check=_check,
)
TFLITE_RUNTIME = Runtime(
    name="tflite-runtime",
    module="tflite_runtime.interpreter",
    format="tflite",
    install='pip install tflite-runtime "numpy<2" (CPython 3.11 or older)',
    open=TfliteGraph,
    check=_check,
)
