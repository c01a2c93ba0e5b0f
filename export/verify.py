"""Proves that every file of a bundle, run by the device's own code, behaves like the trained network."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_siamese.bundle import Bundle
from edge_siamese.errors import SettingsError
from export.data.images import ImageSet
from export.evaluate import affordable
from export.graph import exported_encoder
from export.layers import compare_layers
from export.network import TorchEncoder, TrainedNetwork
from export.one_shot import one_shot_accuracy
from export.provenance import machine
from export.remote import encoders_for
from export.report_inputs import VerifiedFile
from export.to_onnx import OnnxGraph
from export.to_tflite import TfliteGraph

EPISODES = 4000
# A float file differs from the network by rounding alone.
LEAST_FLOAT_COSINE = 0.999


@dataclass(frozen=True)
class Verification:
    """What was compared and whether it agrees."""

    passed: bool
    model_id: str
    network_accuracy: float
    """One-shot accuracy of the trained network on the same trials."""
    int8_budget: float
    files: tuple[VerifiedFile, ...]
    missing: tuple[str, ...]
    """Runtimes that are not on this machine."""
    worst_layers: tuple[str, ...]
    """Of each int8 format that lost too much, the layer that is most to blame."""
    command: str
    machine: str


def verify(
    bundle: Bundle,
    network: TrainedNetwork,
    images: ImageSet,
    calibration_images: np.ndarray,
    int8_budget: float = 0.5,
    command: str = "",
) -> Verification:
    """Compare all files in all runtimes of this machine with the network.

    Args:
        bundle: what is verified.
        network: what it was made from.
        images: classes to measure one-shot accuracy on; validation classes, so that test classes stay unseen.
        calibration_images: uint8 (N, H, W, C), on which layers are compared when a file loses too much.
        int8_budget: points of one-shot accuracy that an int8 file may lose.
        command: what was typed, for the report.

    Raises:
        SettingsError: the bundle was made from other weights.
    """
    if bundle.manifest.model_id != network.model_id:
        raise SettingsError(
            f"{bundle.path} is of {bundle.manifest.model_id}, but {network.run} is "
            f"{network.model_id}; name its run with --run"
        )
    images = affordable(images, network.macs)
    expected = TorchEncoder(network.module, network.model_id).embed_prepared(images.images)
    accuracy = one_shot_accuracy(expected, images, bundle.head, EPISODES, seed=2)
    sample = np.random.default_rng(0).permutation(len(images))[:200]
    scores = bundle.head.score(expected[sample], expected[sample])
    files, failed = [], []
    encoders, missing = encoders_for(bundle)
    for encoder in encoders:
        found = encoder.embed_prepared(images.images)
        cosines = np.sum(found * expected, axis=1) / (
            np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        )
        measured = one_shot_accuracy(found, images, bundle.head, EPISODES, seed=2)
        loss = 100.0 * (accuracy - measured)
        format = "onnx" if encoder.runtime == "onnxruntime" else "tflite"
        difference = np.abs(bundle.head.score(found[sample], found[sample]) - scores).max()
        files.append(
            VerifiedFile(
                format, encoder.precision, encoder.runtime, float(cosines.min()), float(cosines.mean()),
                float(difference), measured, loss,
            )
        )  # fmt: skip
        exact = encoder.precision == "fp32" and cosines.min() < LEAST_FLOAT_COSINE
        if exact or (encoder.precision == "int8" and loss > int8_budget):
            failed.append((format, encoder.precision))
    worst = tuple(
        f"{format}: {worst_layer(bundle, network, format, calibration_images)}"
        for format in sorted({format for format, precision in failed if precision == "int8"})
    )
    return Verification(
        passed=not failed,
        model_id=network.model_id,
        network_accuracy=accuracy,
        int8_budget=int8_budget,
        files=tuple(files),
        missing=tuple(missing),
        worst_layers=worst,
        command=command or " ".join(["python -m export", *sys.argv[1:]]),
        machine=machine(),
    )


def worst_layer(bundle: Bundle, network: TrainedNetwork, format: str, images: np.ndarray) -> str:
    """The layer of an int8 file that quantization hurts most."""
    with tempfile.TemporaryDirectory() as directory:
        kind = OnnxGraph if format == "onnx" else TfliteGraph
        graph = kind(exported_encoder(network.module, quantizable=True), Path(directory))
        return compare_layers(graph, bundle.model_path(format, "int8"), images)[0].describe()
