"""Verifies that every file of a bundle, run by the device's code, behaves like the trained network."""

from __future__ import annotations

import math
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np

from edge_siamese.errors import SettingsError, VerificationFailed
from edge_siamese.models.bundle import Bundle
from edge_siamese.runtimes.selection import runtime_format
from export.conversion.bundle import quantizable_graph
from export.conversion.quantize import Loss, compare_layers
from export.conversion.verification import Verification, VerifiedFile
from export.data.images import ImageSet
from export.evaluation.evaluate import subsample_for
from export.evaluation.remote_runtime import encoders_for
from export.provenance import machine
from export.training.network import TorchEncoder, TrainedNetwork
from export.training.validation import one_shot_trials

EPISODES = 4000
# A float file differs from the network only by rounding. Embeddings of positive numbers always have a cosine near 1, so
# the scores are bounded as well.
MIN_FLOAT_COSINE = 0.999
MAX_FLOAT_SCORE_DIFFERENCE = 0.01


def verify(
    bundle: Bundle,
    network: TrainedNetwork,
    images: ImageSet,
    calibration_images: np.ndarray,
    int8_budget: float = 0.5,
    command: str = "",
) -> Verification:
    """Compare all files, in all runtimes of this machine, with the network.

    Args:
        bundle: the bundle to verify.
        network: the network that it was made from.
        images: classes for one-shot accuracy; validation classes, so that evaluation classes stay unseen.
        calibration_images: uint8 (N, H, W, C), for the comparison of layers when a file loses too much.
        int8_budget: points of one-shot accuracy that an int8 file may lose.
        command: the command line, for the report.

    Raises:
        SettingsError: the bundle was made from other weights, or the budget is not a finite number.
        VerificationFailed: embeddings of the network itself are not finite.
    """
    if not math.isfinite(int8_budget):
        raise SettingsError(f"the int8 budget must be a number of points, not {int8_budget}")
    if bundle.manifest.model_id != network.model_id:
        raise SettingsError(
            f"{bundle.path} contains {bundle.manifest.model_id}, but {network.run} contains "
            f"{network.model_id}; name its run with --run"
        )
    images = subsample_for(images, network.macs)
    expected = TorchEncoder(network.module, network.model_id).embed_prepared(images.images)
    if not np.isfinite(expected).all():
        raise VerificationFailed(
            f"{network.model_id}: an embedding of the network itself is not finite: it has diverged; "
            "train again with a lower learning rate"
        )
    trials = one_shot_trials(expected, images, bundle.head, EPISODES, seed=2)
    sample = np.random.default_rng(0).permutation(len(images))[:200]
    scores = bundle.head.score(expected[sample], expected[sample])
    files = []
    failures: dict[tuple[str, str], list[str]] = {}
    encoders, missing = encoders_for(bundle)
    for encoder in encoders:
        embeddings = encoder.embed_prepared(images.images)
        cosines = _cosines(embeddings, expected)
        own = one_shot_trials(embeddings, images, bundle.head, EPISODES, seed=2)
        loss = Loss.between(trials, own)
        difference = np.abs(bundle.head.score(embeddings[sample], embeddings[sample]) - scores).max()
        file = VerifiedFile(
            format=runtime_format(encoder.runtime),
            precision=encoder.precision,
            runtime=encoder.runtime,
            worst_cosine=float(cosines.min()),
            mean_cosine=float(cosines.mean()),
            largest_score_difference=float(difference),
            accuracy=own.accuracy,
            loss_points=loss.points,
            loss_low=loss.low,
            loss_high=loss.high,
        )
        files.append(file)
        if reason := _failure(file, loss, int8_budget):
            failures.setdefault((file.format, file.precision), []).append(f"{file.runtime}: {reason}")
    run = {(file.format, file.precision) for file in files}
    untested = [m for m in bundle.manifest.models if (m.format, m.precision) not in run]
    worst = tuple(
        f"{format}: {worst_layer(bundle, network, format, calibration_images)}"
        for format in sorted({format for format, precision in failures if precision == "int8"})
    )
    return Verification(
        passed=not failures and not untested,
        model_id=network.model_id,
        network_accuracy=trials.accuracy,
        ways=trials.ways,
        classes=len(np.unique(trials.classes)),
        int8_budget=int8_budget,
        files=tuple(files),
        missing=tuple(missing),
        worst_layers=worst,
        command=command or shlex.join(["python", "-m", "export", *sys.argv[1:]]),
        machine=machine(),
        failures=(
            *(
                f"{format} {precision} on {reason}"
                for (format, precision), reasons in failures.items()
                for reason in reasons
            ),
            *(
                f"{model.format} {model.precision}: no runtime on this machine can run it"
                for model in untested
            ),
        ),
    )


def _failure(file: VerifiedFile, loss: Loss, int8_budget: float) -> str:
    """Why a file fails, or an empty string if it passes. NaN fails every comparison."""
    if file.precision == "int8":
        return "" if loss.within(int8_budget) else f"lost {loss.points:.2f} points of one-shot accuracy"
    if not file.worst_cosine >= MIN_FLOAT_COSINE:
        return f"worst cosine {file.worst_cosine:.4f}, below {MIN_FLOAT_COSINE}"
    if not file.largest_score_difference <= MAX_FLOAT_SCORE_DIFFERENCE:
        return f"p differs by {file.largest_score_difference:.4f}, more than {MAX_FLOAT_SCORE_DIFFERENCE}"
    return ""


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosines of (N, D) and (N, D), of shape (N,); 0 for a vector of zeros."""
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.sum(a * b, axis=1) / np.where(norms == 0, 1, norms))


def worst_layer(bundle: Bundle, network: TrainedNetwork, format: str, images: np.ndarray) -> str:
    """Describe the layer of an int8 file that adds the most quantization noise."""
    with tempfile.TemporaryDirectory() as directory:
        graph = quantizable_graph(network.module, format, Path(directory))
        return compare_layers(graph, bundle.model_path(format, "int8"), images)[0].describe()
