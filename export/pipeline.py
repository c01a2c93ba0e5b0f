"""The pipeline from images to a verified bundle and a report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_siamese.models.bundle import Bundle
from export import records
from export.conversion.bundle import build_bundle, training_images
from export.conversion.quantize import COMPARED_IMAGES
from export.conversion.verification import Verification
from export.conversion.verify import verify
from export.data.images import Splits
from export.evaluation.benchmark import Benchmark, benchmark
from export.evaluation.evaluate import Evaluation, evaluate, usual_effort
from export.evaluation.remote_runtime import open_encoder
from export.progress import stderr_console, working
from export.reporting.report import write_report
from export.training.network import TorchEncoder, load_run
from export.training.settings import TrainingSettings
from export.training.train import train


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
    console.print(
        f"trained: one-shot {trained.validation_accuracy:.2%} on validation classes, {trained.seconds / 60:.1f} min"
    )
    network = load_run(out / "train")
    with working(console, "building the bundle") as say:
        built = build_bundle(network, splits, out / "bundle", int8_budget, say)
    for record in built.quantization:
        console.print(record.summary())
    bundle, head = built.bundle, built.bundle.head
    with working(console, "verifying every file"):
        verification = verify(
            bundle, network, splits.validation, training_images(splits, COMPARED_IMAGES), int8_budget, command
        )
        records.write(out / "verification.json", verification)
    evaluations = []
    effort = usual_effort(network.macs)
    with working(console, "evaluating") as say:
        encoders = [
            TorchEncoder(network.module, network.model_id),
            open_encoder(bundle, "ai-edge-litert", "int8"),
            open_encoder(bundle, "onnxruntime", "int8"),
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
        records.write(out / "evaluation.json", evaluations)
    with working(console, "benchmarking") as say:
        table = benchmark(bundle, splits, rounds, command=command, progress=say)
        records.write(out / "benchmark.json", table)
    report = write_report(out)
    return PipelineResult(bundle, verification, tuple(evaluations), table, report)
