"""`python -m export ship`: copy a bundle into the package, as a model that is shipped with it."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_siamese import models
from export.conversion.ship import ship
from export.progress import stderr_console, working

EXAMPLE = """\
examples:
  python -m export ship build/omniglot --as glyphs

The pipeline's directory has to contain its verification. The copy, in edge_siamese/models/NAME, has only the int8 files
and fewer golden vectors; it becomes part of the wheel. The same bundle gives the same bytes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="output directory of a pipeline")
    parser.add_argument(
        "--as",
        required=True,
        metavar="NAME",
        dest="name",
        help=f"name of the shipped bundle; {models.DEFAULT} is the default on devices",
    )


def run(arguments: argparse.Namespace) -> int:
    with working(stderr_console(), "verifying the files"):
        done = ship(arguments.run, arguments.name, models.DIRECTORY)
    width = max(map(len, done.files))
    for name, size in done.files.items():
        print(f"{name:<{width}}  {size:>11,}")
    total = sum(done.files.values())
    print(
        f"{done.bundle.manifest.model_id} is in {done.bundle.path}: {total:,} of {done.original_bytes:,} bytes; "
        f"{done.golden_images} golden images"
    )
    return 0
