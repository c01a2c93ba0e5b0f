"""tflite-runtime and ai-edge-litert, its successor: run TFLite files."""

from __future__ import annotations

import base64
import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import EncoderError, first_line
from edge_siamese.recognition.imaging import Bytes, Floats

# The smallest TFLite file: one graph without tensors and operators.
_EMPTY_MODEL = base64.b64decode(
    "GAAAAFRGTDMAAA4AFAAQAAQADAAAAAgADgAAADgAAAA4AAAACAAAAAMAAAABAAAAEAAA"
    "AAwAFAAQAAgABAAMAAwAAAAQAAAADAAAAAgAAAAEAAAAAAAAAAEAAAAIAAAABAAEAAQAAAA="
)


class TfliteGraph:
    """A TFLite file with one input, uint8, int8 or float32 (1, H, W, C), and one output, (1, D)."""

    def __init__(self, package: ModuleType, path: Path, threads: int, content: bytes | None = None) -> None:
        self._path = path
        self._package = package.__name__.split(".")[0]
        try:
            with _silent_stderr():
                model = {"model_path": str(path)} if content is None else {"model_content": content}
                self._interpreter: Any = package.Interpreter(**model, num_threads=threads)
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
        self._values = _input_values(self._input, path)
        # An interpreter owns one set of tensors, so two threads must not use it at the same time.
        self._lock = threading.Lock()

    @staticmethod
    def check_package(package: ModuleType) -> None:
        """See `Graph.check_package`; opens an empty model.

        Next to numpy 2, tflite-runtime can be imported and then fails on every file.
        """
        with _silent_stderr():
            package.Interpreter(model_content=_EMPTY_MODEL)

    def run(self, images: Bytes) -> Floats:
        """See `Graph.run`."""
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


def _input_values(tensor: dict[str, Any], path: Path) -> npt.NDArray[Any]:
    """Return (256,): the value that the graph reads for each byte of an image.

    With scale 1 and zero point -128 it is the byte minus 128.
    """
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


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard the line that the library prints from C++ when it opens a file; a crash is still reported."""
    try:
        original = os.dup(2)
    except OSError:  # a service may run without standard error
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    sys.stderr.flush()
    os.dup2(null, 2)
    # Only if the interpreter has enabled it, as in the service: code that enables it may have chosen another file.
    by_default = "faulthandler" in sys._xoptions or os.environ.get("PYTHONFAULTHANDLER")
    if reports_crashes := bool(by_default) and faulthandler.is_enabled():
        faulthandler.enable(original)
    try:
        yield
    finally:
        os.dup2(original, 2)
        if reports_crashes:
            faulthandler.enable(2)
        os.close(original)
        os.close(null)
