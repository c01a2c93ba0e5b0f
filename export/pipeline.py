"""The pipeline from images to a verified bundle and a report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edge_siamese.models.bundle import Bundle
from export import records
from export.conversion.bundle import RUNTIMES, build_bundle, missing_formats, training_images
from export.conversion.quantize import COMPARED_IMAGES
from export.conversion.verification import Verification
from export.conversion.verify import verify
from export.data.images import Splits
from export.encoders import build_encoder
from export.evaluation.benchmark import Benchmark, benchmark
from export.evaluation.evaluate import Evaluation, baseline_accuracy, default_effort, evaluate
from export.evaluation.remote_runtime import open_encoder
from export.progress import stderr_console, working
from export.reporting.report import write_report
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


def run_pipeline(
    settings: TrainingSettings,
    splits: Splits,
    out: Path,
    int8_budget: float = 0.5,
    fresh: bool = False,
    rounds: int = 5,
    command: str = "",
) -> PipelineResult:
    """Train or resume, bundle, verify, evaluate, benchmark and report into `out`; progress goes to standard error."""
    console = stderr_console()
    trained = train(settings, splits, out / "train", fresh=fresh)
    console.print(trained.describe(), soft_wrap=True)
    network = load_run(out / "train")
    with working(console, "building the bundle") as say:
        built = build_bundle(network, splits, out / "bundle", int8_budget, say)
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
    effort = default_effort(network.macs)
    with working(console, "evaluating") as say:
        encoders = [
            TorchEncoder(network.module, network.model_id),
            *(open_encoder(bundle, runtime, "int8") for runtime in _runtimes(bundle)),
        ]
        for encoder in encoders:
            say(f"evaluating {encoder.runtime} {encoder.precision}")
            thresholds = bundle.manifest.thresholds
            evaluations.append(
                evaluate(
                    encoder, splits, head, thresholds=thresholds, command=command,
                    shapes=effort.shapes, episode_count=effort.episodes, per_class=effort.per_class,
                )
            )  # fmt: skip
        if (baseline := _starting_weights(settings, splits, network)) is not None:
            say("evaluating the starting weights")
            accuracy = baseline_accuracy(baseline, splits, head, evaluations[0], effort.per_class)
            evaluations = [replace(evaluation, baseline=accuracy) for evaluation in evaluations]
        records.write(out / "evaluation.json", evaluations)
    with working(console, "benchmarking") as say:
        table = benchmark(bundle, splits, rounds, command=command, progress=say)
        records.write(out / "benchmark.json", table)
    report = write_report(out)
    return PipelineResult(bundle, verification, tuple(evaluations), table, report)


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
