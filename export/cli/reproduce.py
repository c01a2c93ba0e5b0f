"""`python -m export reproduce`: measure the shipped bundles again."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from edge_siamese.errors import DataError, SettingsError
from export.cli.options import positive
from export.progress import stderr_console, working
from export.reproduce import BENCHMARKS, OUT, Check, advice, further_checks, reproduce, standard_checks

EXAMPLE = """\
examples:
  python -m export reproduce
  python -m export reproduce glyphs --episodes 500
  python -m export reproduce objects --data-root ~/data --also market=folder:photos/market

Omniglot is downloaded once and cached. The grocery photographs have to be cloned by hand; the command says how. It prints
Markdown tables with the command that measures each column. Of a folder of photographs the subfolder `evaluation` is used,
or else a fifth of its classes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="glyphs, objects or imagenet (default: all)")
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="directory with omniglot/ and grocery/ (default: EDGE_SIAMESE_DATA)",
    )
    parser.add_argument(
        "--episodes",
        type=positive,
        metavar="N",
        help="episodes of each kind (default: as in docs/results.md)",
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        type=named_data,
        metavar="NAME=DATA",
        help="measure objects and ImageNet's weights on further photographs, such as market=folder:PATH",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--write", action="store_true", help="write the JSON files to benchmarks/; then run `make results`"
    )
    output.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="DIR",
        help="directory of the JSON files (default: build/reproduce)",
    )


def named_data(text: str) -> tuple[str, str]:
    """Parse `market=folder:photos` to name and data."""
    match = re.fullmatch(r"([a-z0-9][a-z0-9-]*)=(.+)", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form NAME=DATA, such as market=folder:photos"
        )
    return match[1], match[2]


def run(arguments: argparse.Namespace) -> int:
    console = stderr_console()
    checks = chosen(arguments.names) + [
        check for name, data in arguments.also for check in further_checks(name, data)
    ]
    failed = []
    with working(console, "measuring") as update:
        for check, outcome in reproduce(
            checks,
            BENCHMARKS if arguments.write else arguments.out,
            arguments.data_root,
            arguments.episodes,
            update,
        ):
            if isinstance(outcome, str):
                print(outcome, flush=True)
                continue
            failed.append(check.name)
            how = f"; to get the data: {advice(check)}" if isinstance(outcome, DataError) else ""
            console.print(f"{check.name} was not measured: {outcome}{how}", soft_wrap=True)
    if failed:
        print(f"error: not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def chosen(names: list[str]) -> list[Check]:
    """The standard checks with these names, or all.

    Raises:
        SettingsError: a name is unknown.
    """
    checks = standard_checks()
    known = [check.name for check in checks]
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(f"there is no check named {unknown[0]!r}; choose from {', '.join(known)}")
    return [check for check in checks if not names or check.name in names]
