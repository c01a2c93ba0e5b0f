"""`python -m export benchmark`: compare formats, precisions and runtimes of a bundle."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from export.cli.options import add_bundle_argument, add_data_options, add_output_options, output, positive
from export.evaluation.benchmark import (
    HEAVY_RUNS,
    MIN_SPEED_UP,
    ROUNDS,
    RUNS,
    Benchmark,
    BenchmarkRow,
    benchmark,
    int8_failures,
    int8_not_judged,
)
from export.evaluation.loading import open_bundle, splits_of
from export.progress import stderr_console, working

EXAMPLE = f"""\
examples:
  python -m export benchmark build/omniglot
  python -m export benchmark build/omniglot/bundle --no-accuracy --rounds 9
  python -m export benchmark glyphs --json

Latency is measured from a prepared image to its embedding, on one thread, in a new process for each round. Each round
measures all rows. The exit status is 1 if the processor has int8 dot products and int8 is not at least
{MIN_SPEED_UP} times as fast as fp32 of the same round, in the median of the rounds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle_argument(parser)
    add_data_options(parser, default="what the network was trained on")
    parser.add_argument(
        "--no-accuracy", action="store_true", help="do not measure accuracy, which needs the data"
    )
    parser.add_argument(
        "--rounds", type=positive, default=ROUNDS, metavar="N", help=f"number of rounds (default: {ROUNDS})"
    )
    parser.add_argument(
        "--runs",
        type=positive,
        metavar="N",
        help=f"timed images per round (default: {RUNS}, or {HEAVY_RUNS} for a large encoder)",
    )
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    bundle = open_bundle(arguments.bundle)
    console = stderr_console()
    splits = None
    if not arguments.no_accuracy:
        with working(console, "reading the data"):
            manifest = bundle.manifest
            _, splits = splits_of(manifest.provenance, manifest.input, arguments.data, arguments.data_root)
    with working(console, "measuring") as update:
        result = benchmark(bundle, splits, arguments.rounds, arguments.runs, progress=update)
    output(arguments, result, show)
    if reason := int8_not_judged(result):
        print(f"the speed of int8 is not judged: {reason}", file=sys.stderr)
    problems = int8_failures(result)
    for line in problems:
        print(f"error: {line}", file=sys.stderr)
    return 1 if problems else 0


def show(result: Benchmark, console: Console | None = None) -> None:
    """Print the table."""
    console = console or Console(highlight=False)
    console.print(f"\n[bold]{result.model_id}[/bold]  {result.rows[0].macs / 1e6:.1f} MMAC per image")
    table = Table(box=None, header_style="dim", pad_edge=False)
    table.add_column("file and runtime", no_wrap=True)
    for title in ("size\nMB", "p50\nms", "p95\nms", "over\nfp32", "one-shot\n%", "memory\nMiB", "import\nms"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in result.rows:
        table.add_row(
            f"{row.format} {row.precision}\n[dim]{row.runtime} {row.version}[/dim]",
            f"{row.file_bytes / 1e6:.3g}",
            f"[bold]{_three_digits(row.p50_ms)}[/bold]",
            _three_digits(row.p95_ms),
            _speed_up(row),
            _accuracy(row),
            f"{row.peak_memory_mb:.0f}",
            f"{row.import_ms:.0f}",
        )
    console.print(table)
    for row in result.rows:
        if row.note:
            console.print(
                f"[yellow]{row.format} {row.precision} on {row.runtime}: {row.note}[/yellow]", soft_wrap=True
            )
    for line in result.missing:
        console.print(f"skipped: {line}", style="dim", markup=False, soft_wrap=True)
    rounds = "1 round" if result.rounds == 1 else f"{result.rounds} rounds"
    about = f"one thread, {rounds} of {result.runs} images, each in a new process; small print: range"
    if result.accuracy_of:
        about += f"; one-shot: {result.accuracy_of}"
    console.print(f"[dim]{about}; {result.machine}[/dim]", soft_wrap=True)


def _three_digits(value: float) -> str:
    """A number with about three digits: 0.147, 9.15, 50.5."""
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1}f}"


def _speed_up(row: BenchmarkRow) -> str:
    if row.speed_up is None:
        return ""
    return f"{row.speed_up:.2f}x\n[dim]{row.speed_up_low:.2f}-{row.speed_up_high:.2f}[/dim]"


def _accuracy(row: BenchmarkRow) -> str:
    if row.accuracy is None:
        return ""
    accuracy = row.accuracy
    return f"{100 * accuracy.value:.2f}\n[dim]{100 * accuracy.low:.1f}-{100 * accuracy.high:.1f}[/dim]"
