"""The encoder of a bundle: prepares images, runs the graph in a runtime, normalizes embeddings."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np

from edge_siamese.errors import EncoderError, ImageError
from edge_siamese.models.manifest import Manifest
from edge_siamese.recognition.embedding import unit_vectors
from edge_siamese.recognition.imaging import Bytes, Floats, Frames, prepare_batch


class Graph(Protocol):
    """A model file that a runtime has loaded; safe to run from several threads."""

    def __init__(self, package: ModuleType, path: Path, threads: int, content: bytes | None = None) -> None:
        """Load a file; raises `EncoderError`.

        Args:
            package: the imported library.
            path: path of the file; only for errors if there is `content`.
            threads: threads of the runtime.
            content: the bytes to load instead, which were verified; the file may have been replaced since.
        """

    @staticmethod
    def check_package(package: ModuleType) -> None:
        """Raise an error if the package can be imported but does not work."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(H, W, C)."""

    @property
    def dimensions(self) -> int:
        """D."""

    def run(self, images: Bytes) -> Floats:
        """Run the network.

        Args:
            images: uint8 (N, H, W, C).

        Returns:
            float32 (N, D), not normalized.

        Raises:
            EncoderError: the runtime failed.
        """


class GraphEncoder:
    """The encoder of a bundle, run by a graph; safe to use from several threads."""

    def __init__(
        self,
        graph: Graph,
        manifest: Manifest,
        path: Path,
        *,
        runtime: str,
        version: str,
        precision: str,
        threads: int,
        reason: str,
        import_seconds: float | None,
        load_seconds: float,
    ) -> None:
        expected = manifest.input.shape, manifest.embedding.dimensions
        if (tuple(graph.input_shape), graph.dimensions) != expected:
            raise EncoderError(
                f"{path} maps images of {graph.input_shape} to {graph.dimensions} numbers, "
                f"but the manifest says {expected[0]} to {expected[1]}; export the bundle again"
            )
        self.path = path
        self.runtime, self.version, self.precision, self.reason = runtime, version, precision, reason
        self.threads = threads
        self.import_seconds = import_seconds
        """Seconds that the import of the runtime took; None if it was imported before."""
        self.load_seconds = load_seconds
        """Seconds that the runtime took to load the file."""
        self.model_id = manifest.model_id
        self.preprocessing = manifest.input
        self.dimensions = graph.dimensions
        self._graph = graph
        self.unit_length = manifest.embedding.unit_length

    def __repr__(self) -> str:
        return f"<{self.model_id} {self.precision} on {self.runtime} {self.version}, threads={self.threads}>"

    def embed(self, images: Frames) -> Floats:
        """Frames of any sizes to float32 (N, D); see `recognition.embedding.Encoder.embed`."""
        return self.embed_prepared(prepare_batch(images, self.preprocessing))

    def embed_prepared(self, images: Bytes) -> Floats:
        """Prepared images, uint8 (N, H, W, C), to float32 (N, D)."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != self.preprocessing.shape:
            expected = ", ".join(map(str, self.preprocessing.shape))
            raise ImageError(f"prepared images are uint8 (n, {expected}), not {images.dtype} {images.shape}")
        if len(images) == 0:
            return np.empty((0, self.dimensions), dtype=np.float32)
        embeddings = self._graph.run(images)
        if not np.isfinite(embeddings).all():
            raise EncoderError(
                f"{self.path} returned numbers that are not finite on {self.runtime} {self.version}"
            )
        return unit_vectors(embeddings) if self.unit_length else embeddings


def default_threads() -> int:
    """Return the number of cores that this process may use, at most four: small encoders do not gain from more.

    On x86 two logical processors share a core, and the second one slows the first down.
    """
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = logical // 2 if platform.machine().lower() in ("x86_64", "amd64", "i686") else logical
    return max(1, min(4, cores))
