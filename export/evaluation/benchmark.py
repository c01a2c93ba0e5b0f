"""Compares formats, precisions and runtimes of a bundle: size, latency, accuracy, memory, import time.

Each measurement is a new process of the device's own `edge-siamese bench`, on one thread. Each round measures all
rows, so that other load on the machine affects all alike. int8 is compared with fp32 of the same runtime within a
round, and the speed-up is the median of those ratios.
"""

from __future__ import annotations

import datetime
import json
import shlex
import statistics
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from edge_siamese.errors import DataError, EncoderError
from edge_siamese.models.bundle import Bundle
from edge_siamese.system.board import has_int8_dot_products
from export.data.images import Splits
from export.evaluation.embeddings import embed_all
from export.evaluation.evaluate import is_heavy, subsample
from export.evaluation.one_shot import episode_result, official_trials
from export.evaluation.remote_runtime import EncoderVariant, available_variants, open_encoder, run_device
from export.provenance import machine
from export.training.validation import default_ways

ROUNDS = 5
RUNS = 300
HEAVY_RUNS = 40
THREADS = 1
MIN_SPEED_UP = 1.4
"""Speed-up of int8 over fp32, median of the rounds, on a processor with int8 dot products. Kernels that use them were 2.5 to
4.4 times as fast as fp32, others on the same processor about 1.2 times, so that noise does not decide."""
MIN_JUDGED_MS, MIN_JUDGED_ROUNDS = 0.2, 3
"""int8 is judged if the median latency of fp32 is at least this, over at least this many rounds: with smaller networks, the
overhead of the runtime dominates."""
ACCURACY_EPISODES = 500
ACCURACY_IMAGES_PER_CLASS = 6

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Accuracy:
    """One-shot accuracy of one row."""

    value: float
    low: float
    """95 % interval."""
    high: float


@dataclass(frozen=True)
class BenchmarkRow:
    """One file in one runtime."""

    format: str
    precision: str
    runtime: str
    version: str
    """Version of the runtime."""
    python: str
    """Version of the interpreter."""
    threads: int
    file_bytes: int
    macs: int
    """Multiply-accumulates for one image."""
    p50_ms: float
    """Median over the rounds of the median time from a prepared image to its embedding."""
    p95_ms: float
    """Median over the rounds of the 95th percentile."""
    round_p50_ms: tuple[float, ...]
    """The median latency in each round."""
    speed_up: float | None
    """Over fp32 of the same runtime: the median of the rounds' ratios; None for fp32."""
    speed_up_low: float | None
    """Smallest ratio of a round."""
    speed_up_high: float | None
    """Largest ratio of a round."""
    accuracy: Accuracy | None
    peak_memory_mb: float
    """Largest resident size of the process in MiB, interpreter and numpy included; median over the rounds."""
    import_ms: float
    """Import of the runtime; median over the rounds."""
    note: str
    """A remark for readers; may be empty."""


@dataclass(frozen=True)
class Benchmark:
    """The rows and how they were measured."""

    model_id: str
    rows: tuple[BenchmarkRow, ...]
    missing: tuple[str, ...]
    """Runtimes that are not installed on this machine."""
    accuracy_of: str
    """The trials or episodes of the accuracies; empty if none were measured."""
    rounds: int
    runs: int
    """Timed images per round."""
    command: str
    machine: str
    created: str


@dataclass(frozen=True)
class Measurement:
    """The figures of one process of `edge-siamese bench`."""

    version: str
    python: str
    p50_ms: float
    p95_ms: float
    import_ms: float
    peak_memory_mb: float


def benchmark(
    bundle: Bundle,
    splits: Splits | None = None,
    rounds: int = ROUNDS,
    runs: int | None = None,
    seed: int = 0,
    command: str = "",
    progress: Progress = lambda line: None,
) -> Benchmark:
    """Measure every file of a bundle in every runtime of this machine.

    Args:
        bundle: four files, or some of them.
        splits: data for the accuracies; None leaves them out.
        rounds: how often each row is measured.
        runs: timed images per round; None: 300, or 40 for a large encoder.
        seed: seed of the episodes if there are no official trials.
        command: the command line, for the report.
        progress: called with a line about each step.

    Raises:
        EncoderError: a measurement failed, or no runtime is installed.
    """
    usable, missing = available_variants(bundle)
    if not usable:
        raise EncoderError(f"no runtime can run this bundle here: {'; '.join(missing)}")
    runs = runs or (HEAVY_RUNS if is_heavy(bundle.manifest.encoder.macs) else RUNS)
    measured: dict[EncoderVariant, list[Measurement]] = {variant: [] for variant in usable}
    for number in range(rounds):
        for variant in usable:
            progress(
                f"round {number + 1} of {rounds}: {variant.format} {variant.precision} on {variant.runtime}"
            )
            measured[variant].append(measure(bundle, variant, runs))
    accuracies, accuracy_of = dict[EncoderVariant, Accuracy](), ""
    if splits is not None:
        for variant in usable:
            progress(f"accuracy of {variant.format} {variant.precision} on {variant.runtime}")
            accuracies[variant], accuracy_of = accuracy(bundle, variant, splits, seed)
    return Benchmark(
        model_id=bundle.manifest.model_id,
        rows=tuple(_row(bundle, variant, measured, accuracies.get(variant)) for variant in usable),
        missing=tuple(missing),
        accuracy_of=accuracy_of,
        rounds=rounds,
        runs=runs,
        command=command or shlex.join(["python", "-m", "export", *sys.argv[1:]]),
        machine=machine(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def measure(bundle: Bundle, variant: EncoderVariant, runs: int = RUNS) -> Measurement:
    """One fresh process of the device's benchmark, on one thread."""
    options = ["--runtime", variant.runtime, "--precision", variant.precision, "--threads", str(THREADS)]
    arguments = ["bench", str(bundle.path.resolve()), *options, "--encoder", "--runs", str(runs), "--json"]
    output = run_device(variant.python, arguments)
    try:
        values = json.loads(output)
        return Measurement(
            version=str(values["version"]),
            python=str(values.get("python", "")),
            p50_ms=float(values["p50_ms"]),
            p95_ms=float(values["p95_ms"]),
            import_ms=float(values["import_ms"] or 0.0),
            peak_memory_mb=float(values["peak_memory_mb"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise EncoderError(
            f"edge-siamese bench on {variant.python} did not print its figures: {error}"
        ) from error


def accuracy(bundle: Bundle, variant: EncoderVariant, splits: Splits, seed: int = 0) -> tuple[Accuracy, str]:
    """One-shot accuracy of one variant: the official trials, or else episodes over some evaluation images."""
    encoder = open_encoder(bundle, variant.runtime, variant.precision)
    if splits.official_runs:
        official, _ = official_trials(encoder, splits.official_runs, bundle.head)
        return Accuracy(official.accuracy, official.low, official.high), (
            f"{official.trials} official {official.way}-way one-shot trials (chance {100 * official.chance:.3g} %)"
        )
    images = subsample(splits.evaluation, ACCURACY_IMAGES_PER_CLASS, seed)
    try:
        way, within = default_ways(images), True
    except DataError:
        way, within = min(20, images.classes), False
    embeddings = embed_all(encoder, images.images)
    result, _ = episode_result(embeddings, images, bundle.head, way, 1, ACCURACY_EPISODES, within, seed=seed)
    scope = "within groups" if within else "across groups"
    return Accuracy(result.accuracy, *result.class_interval), (
        f"{result.episodes} {result.title} episodes {scope} (chance {100 * result.chance:.3g} %, {result.classes} classes)"
    )


def int8_failures(result: Benchmark) -> list[str]:
    """A line for each int8 file that is not `MIN_SPEED_UP` times as fast as fp32 in the same runtime.

    Empty if the speed cannot be judged; see `int8_not_judged`.
    """
    if not has_int8_dot_products():
        return []
    return [
        f"{row.format} int8 on {row.runtime} is {row.speed_up:.2f} times as fast as fp32; "
        f"at least {MIN_SPEED_UP} is expected of a processor with int8 dot products"
        for row in result.rows
        if row in _judged(result) and row.speed_up is not None and row.speed_up < MIN_SPEED_UP
    ]


def int8_not_judged(result: Benchmark) -> str:
    """Why the speed of int8 is not judged; empty if it is."""
    if not has_int8_dot_products():
        return "this processor has no int8 dot products"
    compared = [row.runtime for row in result.rows if row.speed_up is not None]
    if not compared:
        return "there is no fp32 file to compare with"
    if all(map(_lacks_int8_kernels, compared)):
        return "tflite-runtime has no accelerated int8 kernels on x86"
    if result.rounds < MIN_JUDGED_ROUNDS:
        return f"fewer than {MIN_JUDGED_ROUNDS} rounds"
    if not _judged(result):
        return f"the fp32 files take less than {MIN_JUDGED_MS} ms"
    return ""


def _judged(result: Benchmark) -> list[BenchmarkRow]:
    """The int8 rows whose speed can be judged."""
    fp32 = {(row.format, row.runtime): row.p50_ms for row in result.rows if row.precision == "fp32"}
    return [
        row
        for row in result.rows
        if row.speed_up is not None
        and not _lacks_int8_kernels(row.runtime)
        and result.rounds >= MIN_JUDGED_ROUNDS
        and fp32.get((row.format, row.runtime), 0.0) >= MIN_JUDGED_MS
    ]


def ratios(slow: Iterable[float], fast: Iterable[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of the rounds' ratios slow / fast."""
    each = [a / b for a, b in zip(slow, fast, strict=True)]
    return statistics.median(each), min(each), max(each)


def _row(
    bundle: Bundle,
    variant: EncoderVariant,
    measured: dict[EncoderVariant, list[Measurement]],
    accuracy_of_row: Accuracy | None,
) -> BenchmarkRow:
    own = measured[variant]
    latencies = tuple(measurement.p50_ms for measurement in own)
    float_variant = EncoderVariant(variant.format, "fp32", variant.runtime, variant.python)
    faster: tuple[float, float, float] | None = None
    if variant.precision != "fp32" and float_variant in measured:
        faster = ratios((m.p50_ms for m in measured[float_variant]), latencies)
    return BenchmarkRow(
        format=variant.format,
        precision=variant.precision,
        runtime=variant.runtime,
        version=own[0].version,
        python=own[0].python,
        threads=THREADS,
        file_bytes=bundle.manifest.model(variant.format, variant.precision).bytes,
        macs=bundle.manifest.encoder.macs,
        p50_ms=statistics.median(latencies),
        p95_ms=statistics.median(m.p95_ms for m in own),
        round_p50_ms=latencies,
        speed_up=faster[0] if faster else None,
        speed_up_low=faster[1] if faster else None,
        speed_up_high=faster[2] if faster else None,
        accuracy=accuracy_of_row,
        peak_memory_mb=statistics.median(m.peak_memory_mb for m in own),
        import_ms=statistics.median(m.import_ms for m in own),
        note=_note(variant, faster, bundle.manifest.model(variant.format, variant.precision).quantization),
    )


def _lacks_int8_kernels(runtime: str) -> bool:
    return runtime == "tflite-runtime" and "x86" in machine()


def _note(
    variant: EncoderVariant, faster: tuple[float, float, float] | None, quantization: str | None
) -> str:
    """Explain a row in which int8 is not faster than fp32."""
    if faster is None or faster[0] > 1.0:
        return ""
    text = f"int8 is not faster than fp32 here: {faster[0]:.2f} times as fast"
    if _lacks_int8_kernels(variant.runtime):
        return f"{text}; tflite-runtime has accelerated int8 kernels on Arm, but not on x86"
    return (
        f"{text}; this is the cost of the int8 operations of {variant.runtime} on this processor for a file quantized by "
        f"{quantization or 'an unknown method'}; provenance.quantization in the manifest lists the alternatives tried"
    )
