"""Writes a bundle with the tiny encoder of tests/models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
from msgspec import structs

from edge_siamese.models.bundle import GOLDEN, IMPOSTORS, MANIFEST, GoldenVectors, sha256
from edge_siamese.models.manifest import (
    VERSION,
    EmbeddingInfo,
    EncoderInfo,
    FileInfo,
    Format,
    HeadInfo,
    Manifest,
    ModelFile,
    Precision,
    Threshold,
)
from edge_siamese.recognition.embedding import unit_vectors
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import prepare
from tests.tiny_network import DIMENSIONS, PREPROCESSING, forward, pictures

MODELS = Path(__file__).with_name("models")
HEAD = SigmoidDistanceHead(scale=12.0, bias=6.0)
HEAD_WEIGHTS = np.linspace(-0.25, 1.5, DIMENSIONS, dtype=np.float32)
MODEL_ID = "tiny-0123456789ab"


def write_tiny_bundle(directory: Path, *, weighted: bool = False, **changes: Any) -> Path:
    """Write a bundle of the four tiny models.

    Args:
        directory: is made.
        weighted: a weighted L1 head on embeddings that are not normalized, as Koch's.
        changes: other values for fields of the manifest.
    """
    directory.mkdir(parents=True)
    models = []
    for format in get_args(Format):
        for precision in get_args(Precision):
            path = directory / f"encoder.{precision}.{format}"
            shutil.copyfile(MODELS / path.name, path)
            quantization = "per channel" if precision == "int8" else None
            dtype = "uint8" if format == "onnx" else "int8" if precision == "int8" else "float32"
            info = structs.asdict(describe(path))
            models.append(
                ModelFile(
                    **info, format=format, precision=precision, quantization=quantization, input_dtype=dtype
                )
            )
    head = HEAD
    if weighted:
        head = SigmoidDistanceHead(1.0, 4.0, "weighted_l1", HEAD_WEIGHTS)
        np.save(directory / "head_weights.npy", HEAD_WEIGHTS)
    golden_vectors(head, normalized=not weighted).save(directory / GOLDEN)
    np.save(directory / IMPOSTORS, impostors(normalized=not weighted).astype(np.float16))
    (directory / "MODEL_CARD.md").write_text("# Tiny\n")
    attachments = (GOLDEN, IMPOSTORS, "MODEL_CARD.md", *(["head_weights.npy"] if weighted else []))
    manifest = Manifest(
        version=VERSION,
        model_id=MODEL_ID,
        created="2026-01-02T03:04:05+00:00",
        encoder=EncoderInfo("tiny", 1254, 2550, "none: it is for tests"),
        input=PREPROCESSING,
        embedding=EmbeddingInfo(DIMENSIONS, "none" if weighted else "l2"),
        head=HeadInfo(head.distance, head.scale, head.bias, "head_weights.npy" if weighted else None),
        thresholds=(Threshold(1e-2, 0.75, 0.04, 20_000), Threshold(1e-3, 0.9, 0.11, 20_000)),
        models=tuple(models),
        attachments=tuple(describe(directory / name) for name in attachments),
        metrics={"one_shot": {"accuracy": 0.96}, "ece": 0.012},
        provenance={"data": "glyphs", "seed": 3},
    )
    (directory / MANIFEST).write_text(structs.replace(manifest, **changes).to_json())
    return directory


def describe(path: Path) -> FileInfo:
    """The manifest's line about a file."""
    return FileInfo(path.name, path.stat().st_size, sha256(path))


def impostors(normalized: bool = True) -> np.ndarray:
    """Embeddings of pictures that no test registers, by the network as it is written out."""
    embeddings = forward(pictures(40, seed=9))
    return unit_vectors(embeddings) if normalized else embeddings


def golden_vectors(head: SigmoidDistanceHead = HEAD, normalized: bool = True) -> GoldenVectors:
    """Golden vectors: of the network as it is written out, and of the int8 files when they were made."""
    images = pictures(6, seed=1)
    with np.load(MODELS / "int8.npz") as quantized:
        embeddings = {**dict.fromkeys(("network", "onnx-fp32", "tflite-fp32"), forward(images)), **quantized}
    if normalized:
        embeddings = {name: unit_vectors(values) for name, values in embeddings.items()}
    frame = np.random.default_rng(2).integers(0, 256, (31, 40, 3), dtype=np.uint8)
    return GoldenVectors(
        frame=frame,
        prepared_frame=prepare(frame, PREPROCESSING),
        images=images,
        embeddings=embeddings,
        scores=head.score(embeddings["network"], embeddings["network"]),
    )
