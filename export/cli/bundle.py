"""`python -m export bundle`: build a bundle from a training run."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.cli.options import add_data_options, amount
from export.conversion.bundle import build_bundle, missing_formats
from export.evaluation.loading import splits_of
from export.progress import stderr_console, working
from export.training.network import load_run

EXAMPLE = """\
examples:
  python -m export bundle build/omniglot/train --out build/omniglot/bundle
  python -m export bundle build/photos/train --out build/photos/bundle --int8-budget 1"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="directory of the training run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="directory of the bundle")
    add_data_options(parser, default="what the network was trained on")
    add_budget(parser)


def add_budget(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--int8-budget", type=amount, default=0.5, metavar="POINTS",
        help="percentage points of one-shot accuracy that int8 may lose (default: 0.5)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    network = load_run(arguments.run)
    console = stderr_console()
    with working(console, "building the bundle") as update:
        _, splits = splits_of(network.provenance, network.preprocessing, arguments.data, arguments.data_root)
        built = build_bundle(network, splits, arguments.out, arguments.int8_budget, update)
    for record in built.quantization:
        print(record.summary())
    if missing := missing_formats(built.bundle.manifest):
        print(missing)
    print(f"{built.bundle.manifest.model_id} is in {arguments.out}")
    return 0
