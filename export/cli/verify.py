"""`python -m export verify`: prove that every file of a bundle behaves like the trained network."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge_siamese.errors import VerificationFailed
from edge_siamese.models.bundle import MANIFEST, load_bundle
from export import records
from export.cli.bundle import add_budget
from export.cli.options import add_data_options
from export.conversion.bundle import training_images
from export.conversion.quantize import COMPARED_IMAGES
from export.conversion.verify import Verification, verify
from export.evaluation.loading import splits_of
from export.progress import stderr_console, working
from export.training.network import load_run

EXAMPLE = """\
examples:
  python -m export verify build/omniglot
  python -m export verify build/omniglot/bundle --run build/omniglot/train --int8-budget 0.3 --json

Exits with 1, naming each file that does not behave like the network, and the worst layer of an int8 one."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle, or a pipeline's directory")
    parser.add_argument(
        "--run",
        type=Path,
        metavar="RUN",
        dest="training_run",
        help="its training run (default: train/ beside it)",
    )
    add_data_options(parser, default="what the network was trained on")
    add_budget(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to a file as well")
    parser.add_argument("--json", action="store_true", help="print JSON alone on standard output")


def run(arguments: argparse.Namespace) -> int:
    place = arguments.bundle / "bundle"
    bundle = load_bundle(place if (place / MANIFEST).is_file() else arguments.bundle)
    network = load_run(arguments.training_run or bundle.path.parent / "train")
    with working(stderr_console(), "comparing"):
        _, splits = splits_of(network.provenance, network.preprocessing, arguments.data, arguments.data_root)
        images = training_images(splits, COMPARED_IMAGES)
        found = verify(bundle, network, splits.validation, images, arguments.int8_budget)
    if arguments.out:
        records.write(arguments.out, found)
    if arguments.json:
        print(records.dumps(found), end="")
    else:
        show(found)
    require(found)
    return 0


def require(found: Verification) -> None:
    """Raise VerificationFailed unless everything agrees."""
    if not found.passed:
        which = f": {'; '.join(found.failures)}" if found.failures else ""
        worst = f"; worst layer of {'; of '.join(found.worst_layers)}" if found.worst_layers else ""
        raise VerificationFailed(
            f"{found.model_id}: a file does not behave like the network within {found.int8_budget:g} points"
            f"{which}{worst}"
        )


def show(found: Verification) -> None:
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
    table.add_row("network, torch", "", "", "", f"{found.network_accuracy:.2%}", "")
    for file in found.files:
        table.add_row(
            f"{file.format} {file.precision}, {file.runtime}", f"{file.worst_cosine:.4f}", f"{file.mean_cosine:.4f}",
            f"{file.largest_score_difference:.4f}", f"{file.accuracy or 0:.2%}", f"{file.loss_points or 0:+.2f}",
        )  # fmt: skip
    console.print(table)
    for line in found.missing:
        console.print(f"left out: {line}", style="dim", markup=False, soft_wrap=True)
