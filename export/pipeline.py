"""The pipeline from images to a verified bundle and a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from edge_siamese import models
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.recognition.head import SigmoidDistanceHead
from export import records
from export.conversion.bundle import RUNTIMES, build_bundle, missing_formats, training_images
from export.conversion.quantize import COMPARED_IMAGES
from export.conversion.verification import Verification
from export.conversion.verify import verify
from export.data import load_splits
from export.data.data_card import DataCard
from export.data.folds import all_classes
from export.data.images import ImageSet, Splits
from export.data.sources import source_names
from export.encoders import build_encoder
from export.evaluation.benchmark import Benchmark, benchmark
from export.evaluation.class_analysis import MAX_CLASSES, analyze_classes
from export.evaluation.cross_validation import CrossValidationPlan, cross_validate
from export.evaluation.evaluate import Evaluation, baseline_accuracy, default_size, evaluate, subsample
from export.evaluation.remote_runtime import open_encoder
from export.evaluation.verdict import (
    SHIPPED,
    STARTING,
    TRAINED,
    Candidates,
    Verdict,
    advice_on,
    choose_candidate,
    decide,
)
from export.progress import stderr_console, working
from export.reporting.report import CLASSES, DATA_CARD, write_report
from export.training.network import TorchEncoder, TrainedNetwork, load_run
from export.training.settings import TrainingSettings
from export.training.train import load_initial_weights, train


@dataclass(frozen=True)
class PipelineResult:
    """Results of the pipeline."""

    bundle: Bundle
    verification: Verification
    evaluations: tuple[Evaluation, ...]
    benchmark: Benchmark
    report: Path
    verdict: Verdict | None = None
    """Which encoder to use; for folders of pictures."""


def run_pipeline(
    settings: TrainingSettings,
    splits: Splits,
    out: Path,
    int8_budget: float = 0.5,
    fresh: bool = False,
    rounds: int = 5,
    command: str = "",
    card: DataCard | None = None,
    folds: CrossValidationPlan | None = None,
) -> PipelineResult:
    """Train or resume, bundle, verify, evaluate, benchmark and report into `out`; progress goes to standard error."""
    console = stderr_console()
    is_folder = source_names(settings.data)[0].startswith("folder:")
    if is_folder and settings.steps and (advice := advice_on(splits.train.classes)):
        console.print(advice, soft_wrap=True)
    started = time.monotonic()
    trained = train(settings, splits, out / "train", fresh=fresh)
    seconds = max(
        trained.seconds, time.monotonic() - started
    )  # with what is not training, unless it was resumed
    console.print(trained.describe(), soft_wrap=True)
    if card is not None:
        records.write(out / DATA_CARD, card)
    caution = "" if card is None else card.caution if folds is None else card.caution_of_all
    verdict = None
    if folds is not None:
        console.print(folds.announce(seconds), soft_wrap=True, markup=False)
        verdict = _cross_validated(settings, splits, folds, out / "folds", fresh, caution)
    network = load_run(out / "train")
    with working(console, "building the bundle") as update:
        built = build_bundle(network, splits, out / "bundle", int8_budget, update)
    for record in built.quantization:
        console.print(record.summary(), soft_wrap=True)
    if missing := missing_formats(built.bundle.manifest):
        console.print(missing, soft_wrap=True)
    bundle, head = built.bundle, built.bundle.head
    with working(console, "verifying every file"):
        verification = verify(
            bundle, network, splits.validation, training_images(splits, COMPARED_IMAGES), int8_budget, command
        )
        records.write(out / "verification.json", verification)
    evaluations = []
    size = default_size(network.macs)
    with working(console, "evaluating") as update:
        encoders = [
            TorchEncoder(network.module, network.model_id),
            *(open_encoder(bundle, runtime, "int8") for runtime in _runtimes(bundle)),
        ]
        for encoder in encoders:
            update(f"evaluating {encoder.runtime} {encoder.precision}")
            thresholds = bundle.manifest.thresholds
            evaluations.append(
                evaluate(
                    encoder, splits, head, thresholds=thresholds, command=command,
                    shapes=size.shapes, episode_count=size.episodes, per_class=size.per_class,
                )
            )  # fmt: skip
        if (baseline := _starting_weights(settings, splits, network)) is not None:
            update("evaluating the starting weights")
            accuracy = baseline_accuracy(baseline, splits, head, evaluations[0], size.per_class)
            evaluations = [replace(evaluation, baseline=accuracy) for evaluation in evaluations]
        records.write(out / "evaluation.json", evaluations)
        if is_folder:
            if verdict is None:
                update("comparing with the starting weights and the shipped bundle")
                verdict = _verdict(settings, splits, bundle, baseline, caution)
            records.write(out / "verdict.json", verdict)
        update("comparing the held-out classes with each other")
        _write_class_analysis(out / CLASSES, splits, bundle, size.per_class, settings.seed)
    with working(console, "benchmarking") as update:
        table = benchmark(bundle, splits, rounds, command=command, progress=update)
        records.write(out / "benchmark.json", table)
    report = write_report(out)
    return PipelineResult(bundle, verification, tuple(evaluations), table, report, verdict)


def _cross_validated(
    settings: TrainingSettings,
    splits: Splits,
    folds: CrossValidationPlan,
    out: Path,
    fresh: bool,
    caution: str,
) -> Verdict:
    """Train the folds, and compare them with their starting weights and the shipped bundle on all classes."""
    console = stderr_console()
    shipped, skipped = _shipped_candidate(settings, all_classes(splits), all_classes)
    tested = cross_validate(
        settings, splits, folds, out, shipped, fresh=fresh,
        progress=lambda text: console.print(text, soft_wrap=True, markup=False),
    )  # fmt: skip
    return choose_candidate(tested, splits.train.classes, skipped, caution, folds.folds)


def _write_class_analysis(
    path: Path, splits: Splits, bundle: Bundle, per_class: int | None, seed: int
) -> None:
    """Write the results of each held-out class, where their number allows a table and a map."""
    images = subsample(splits.evaluation, per_class)
    if not 2 <= int((images.counts >= 2).sum()) <= MAX_CLASSES:
        path.unlink(missing_ok=True)  # from an earlier run
        return
    encoder = open_encoder(bundle, "auto", "int8")
    embeddings = encoder.embed_prepared(images.images)
    model = f"{encoder.precision} on {encoder.runtime}"
    records.write(path, analyze_classes(embeddings, images, bundle.head, model, seed))


def _verdict(
    settings: TrainingSettings, splits: Splits, bundle: Bundle, starting: TorchEncoder | None, caution: str
) -> Verdict:
    """Compare the bundle with its starting weights, and with the shipped bundle on the same pictures."""
    per_class = default_size(bundle.manifest.encoder.macs).per_class
    images = subsample(splits.evaluation, per_class)
    candidates = {TRAINED: (open_encoder(bundle, "auto", "int8").embed_prepared(images.images), bundle.head)}
    if starting is not None:
        head = SigmoidDistanceHead(scale=1.0, bias=0.0)
        candidates[STARTING] = starting.embed_prepared(images.images), head
    shipped, skipped = _shipped_candidate(
        settings, images, lambda other: subsample(other.evaluation, per_class)
    )
    return decide({**candidates, **shipped}, images, splits.train.classes, settings.seed, skipped, caution)


def _shipped_candidate(
    settings: TrainingSettings, images: ImageSet, pick: Callable[[Splits], ImageSet]
) -> tuple[Candidates, tuple[str, ...]]:
    """The shipped bundle on the same pictures at its size, which `pick` takes from the data; and why it is skipped."""
    shipped = load_bundle(models.shipped("objects"))
    same = pick(
        load_splits(source_names(settings.data)[0], shipped.manifest.input, seed=settings.seed, log=False)
    )
    if same.class_names != images.class_names or not np.array_equal(same.labels, images.labels):
        return {}, (f"{SHIPPED}: at its input size, a different set of pictures can be read",)
    encoder = open_encoder(shipped, "auto", "int8")
    return {SHIPPED: (encoder.embed_prepared(same.images), shipped.head)}, ()


def _runtimes(bundle: Bundle) -> list[str]:
    """The workstation's runtimes for the formats of a bundle."""
    formats = {model.format for model in bundle.manifest.models}
    return [RUNTIMES[format] for format in ("tflite", "onnx") if format in formats]


def _starting_weights(
    settings: TrainingSettings, splits: Splits, network: TrainedNetwork
) -> TorchEncoder | None:
    """The network before training; None if it was random, or if nothing else was kept.

    Only Euclidean distances can rank with the head of another network.
    """
    if settings.start == "random" or not network.provenance.get("step") or network.head is not None:
        return None
    module = build_encoder(settings.encoder)
    load_initial_weights(settings, splits, module)
    return TorchEncoder(module.eval(), "starting weights")
