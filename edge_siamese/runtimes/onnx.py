"""ONNX Runtime: runs ONNX files."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edge_siamese.errors import EncoderError, first_line
from edge_siamese.recognition.imaging import Bytes, Floats
from edge_siamese.system.board import has_int8_dot_products

MAX_BATCH = 32
"""Images in one run: enough to keep the threads busy, few enough for the activations of a large encoder."""
_ERRORS_ONLY = 3
_NO_OVERFLOW = ("session.x64quantprecision", "1")
"""On x86 without int8 dot products, onnxruntime's fastest kernels add pairs of products in sixteen bits, where full-range
int8 weights overflow: embeddings of `objects` had a mean cosine of 0.87 to the correct ones. With this option they are
correct there too, and take 25 % more time. With int8 dot products nothing overflows; the option would double the time."""


class OnnxGraph:
    """An ONNX file with one input, uint8 (N, H, W, C), and one output, float32 (N, D)."""

    def __init__(
        self, onnxruntime: ModuleType, path: Path, threads: int, content: bytes | None = None
    ) -> None:
        # Before the first session: otherwise the search for a GPU warns on boards that have none.
        onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = _ERRORS_ONLY
        if not has_int8_dot_products():
            options.add_session_config_entry(*_NO_OVERFLOW)
        self._path = path
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path) if content is None else content, options, providers=["CPUExecutionProvider"]
            )
            (image,), (embedding,) = self._session.get_inputs(), self._session.get_outputs()
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise EncoderError(f"onnxruntime cannot load {path}: {first_line(error)}") from error
        if image.type != "tensor(uint8)" or len(image.shape) != 4 or len(embedding.shape) != 2:
            raise EncoderError(
                f"{path} reads {image.type} {image.shape} and returns {embedding.shape}; "
                "an encoder reads tensor(uint8) (N, H, W, C) and returns (N, D)"
            )
        self._names = image.name, embedding.name
        self.input_shape = tuple(image.shape[1:])
        self.dimensions = int(embedding.shape[1])

    @staticmethod
    def check_package(onnxruntime: ModuleType) -> None:
        """See `Graph.check_package`; a package that can be imported works."""

    def run(self, images: Bytes) -> Floats:
        """See `Graph.run`."""
        name, output = self._names
        result = np.empty((len(images), self.dimensions), dtype=np.float32)
        for start in range(0, len(images), MAX_BATCH):
            block = np.ascontiguousarray(images[start : start + MAX_BATCH])
            try:
                result[start : start + MAX_BATCH] = self._session.run([output], {name: block})[0]
            except Exception as error:
                raise EncoderError(f"onnxruntime failed on {self._path}: {first_line(error)}") from error
        return result
