"""Wraps onnxruntime."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edge_siamese.errors import EncoderError
from edge_siamese.recognition.imaging import Bytes, Floats
from edge_siamese.runtimes.availability import Runtime, first_line

# Images in one run: enough to keep the threads busy, few enough for the activations of a large encoder.
BATCH = 32
_ERRORS_ONLY = 3
_NO_OVERFLOW = ("session.x64quantprecision", "1")
"""On x86 without int8 dot products (AVX2 alone), onnxruntime's fastest kernels add pairs of products in sixteen bits, where
full-range int8 weights overflow: embeddings of `objects` had a mean cosine of 0.87 to the right ones. With this they are
right there too, for a quarter more time; other processors do not heed it."""


class OnnxGraph:
    """uint8 (N, H, W, C) named "image" to float32 (N, D)."""

    def __init__(self, onnxruntime: ModuleType, path: Path, threads: int) -> None:
        # Before the first session, or the search for a GPU warns on boards that have none.
        onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry(*_NO_OVERFLOW)
        self._path = path
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            (image,), (embedding,) = self._session.get_inputs(), self._session.get_outputs()
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise EncoderError(f"onnxruntime cannot load {path}: {first_line(error)}") from error
        if image.type != "tensor(uint8)" or len(image.shape) != 4 or len(embedding.shape) != 2:
            raise EncoderError(
                f"{path} reads {image.type} {image.shape} and gives {embedding.shape}; "
                "an encoder reads tensor(uint8) (N, H, W, C) and gives (N, D)"
            )
        self._names = image.name, embedding.name
        self.input_shape = tuple(image.shape[1:])
        self.dimensions = int(embedding.shape[1])

    def run(self, images: Bytes) -> Floats:
        name, output = self._names
        result = np.empty((len(images), self.dimensions), dtype=np.float32)
        for start in range(0, len(images), BATCH):
            block = np.ascontiguousarray(images[start : start + BATCH])
            try:
                result[start : start + BATCH] = self._session.run([output], {name: block})[0]
            except Exception as error:
                raise EncoderError(f"onnxruntime failed on {self._path}: {first_line(error)}") from error
        return result


ONNXRUNTIME = Runtime(
    name="onnxruntime",
    module="onnxruntime",
    format="onnx",
    install="pip install onnxruntime",
    open=OnnxGraph,
)
