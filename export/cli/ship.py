"""`python -m export ship`: put a bundle into the package, for the devices on which nobody installs a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_siamese import models
from export.conversion.ship import ship
from export.progress import stderr_console, working

EXAMPLE = """\
examples:
  python -m export ship build/omniglot --as glyphs

The directory is one that the pipeline left, with its verification. The copy has int8 files alone and fewer golden
vectors, and goes to edge_siamese/models/NAME; the wheel has it from then on. The same bundle gives the same bytes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a pipeline's directory")
    parser.add_argument(
        "--as",
        required=True,
        metavar="NAME",
        dest="name",
        help=f"what it is called; {models.DEFAULT} is the one that devices use by themselves",
    )


def run(arguments: argparse.Namespace) -> int:
    with working(stderr_console(), "proving the files"):
        done = ship(arguments.run, arguments.name, models.DIRECTORY)
    width = max(map(len, done.files))
    for name, size in done.files.items():
        print(f"{name:<{width}}  {size:>11,}")
    total = sum(done.files.values())
    print(
        f"{done.bundle.manifest.model_id} is in {done.bundle.path}: {total:,} bytes, of {done.former_bytes:,}; "
        f"{done.golden_images} golden images"
    )
    return 0
