"""`python -m export verify`: compare every file of a bundle with the trained network."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge_siamese.errors import VerificationFailed
from export.cli.bundle import add_budget
from export.cli.options import add_bundle_argument, add_data_options, add_output_options, output
from export.conversion.bundle import training_images
from export.conversion.quantize import COMPARED_IMAGES
from export.conversion.verification import Verification
from export.conversion.verify import verify
from export.evaluation.loading import open_bundle, splits_of
from export.progress import stderr_console, working
from export.training.network import load_run

EXAMPLE = """\
examples:
  python -m export verify build/omniglot
  python -m export verify build/omniglot/bundle --run build/omniglot/train --int8-budget 0.3 --json

Exits with 1 if a file does not behave like the network, and names the file and the worst layer of an int8 file."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_bundle_argument(parser)
    parser.add_argument(
        "--run",
        type=Path,
        metavar="RUN",
        dest="training_run",
        help="the bundle's training run (default: train/ next to the bundle)",
    )
    add_data_options(parser, default="what the network was trained on")
    add_budget(parser)
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    bundle = open_bundle(arguments.bundle)
    network = load_run(arguments.training_run or bundle.path.parent / "train")
    with working(stderr_console(), "comparing"):
        _, splits = splits_of(network.provenance, network.preprocessing, arguments.data, arguments.data_root)
        images = training_images(splits, COMPARED_IMAGES)
        result = verify(bundle, network, splits.validation, images, arguments.int8_budget)
    output(arguments, result, show)
    require(result)
    return 0


def require(result: Verification) -> None:
    """Raise VerificationFailed unless every file behaves like the network."""
    if not result.passed:
        which = f": {'; '.join(result.failures)}" if result.failures else ""
        worst = f"; worst layer of {'; of '.join(result.worst_layers)}" if result.worst_layers else ""
        raise VerificationFailed(
            f"{result.model_id}: a file does not behave like the network within {result.int8_budget:g} points"
            f"{which}{worst}"
        )


def show(result: Verification) -> None:
    """Print the comparison."""
    console = Console(highlight=False)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for title in (
        "file and runtime",
        "worst\ncosine",
        "mean\ncosine",
        "diff.\nof p",
        "one-shot",
        "lost\npoints",
    ):
        table.add_column(title, justify="left" if title.startswith("file") else "right", no_wrap=True)
    table.add_row("network, torch", "", "", "", f"{result.network_accuracy:.2%}", "")
    for file in result.files:
        table.add_row(
            f"{file.format} {file.precision}, {file.runtime}", f"{file.worst_cosine:.4f}", f"{file.mean_cosine:.4f}",
            f"{file.largest_score_difference:.4f}", f"{file.accuracy or 0:.2%}", f"{file.loss_points or 0:+.2f}",
        )  # fmt: skip
    console.print(table)
    if result.ways:
        console.print(
            f"{result.ways}-way one-shot, chance {1 / result.ways:.1%}, {result.classes} classes", style="dim"
        )
    for line in result.missing:
        console.print(f"skipped: {line}", style="dim", markup=False, soft_wrap=True)
