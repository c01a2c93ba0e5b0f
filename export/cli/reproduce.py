"""`python -m export reproduce`: the stated figures of the bundles that ship, measured again."""

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

Omniglot is fetched once, then cached; grocery photographs are cloned by hand, and the command says how. The tables go to
standard output as Markdown, with the command that measures each column. A folder of photographs is evaluated on its
sub-folder `evaluation`, or else on a fifth of its classes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "only", nargs="*", metavar="NAME", help="glyphs or objects (default: all that ships and is compared)"
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="a folder with omniglot/ and grocery/ in it (default: EDGE_SIAMESE_DATA)",
    )
    parser.add_argument(
        "--episodes", type=positive, metavar="N", help="of each kind (default: as the pages state them)"
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        type=named_data,
        metavar="NAME=DATA",
        help="objects, and the weights that it began with, on further photographs, such as market=folder:PATH",
    )
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--write", action="store_true", help="into benchmarks, as the figures to be stated")
    place.add_argument(
        "--out", type=Path, default=OUT, metavar="DIR", help="where the JSON goes (default: build/reproduce)"
    )


def named_data(text: str) -> tuple[str, str]:
    """`market=folder:photos` to its two parts."""
    match = re.fullmatch(r"([a-z0-9][a-z0-9-]*)=(.+)", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form NAME=DATA, such as market=folder:photos"
        )
    return match[1], match[2]


def run(arguments: argparse.Namespace) -> int:
    console = stderr_console()
    checks = chosen(arguments.only) + [check for one in arguments.also for check in further_checks(*one)]
    failed = []
    with working(console, "reproducing the stated figures") as say:
        for check, outcome in reproduce(
            checks,
            BENCHMARKS if arguments.write else arguments.out,
            arguments.data_root,
            arguments.episodes,
            say,
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
    """The standard checks of these names; all of them if none is named.

    Raises:
        SettingsError: there is no such check.
    """
    checks = standard_checks()
    known = [check.name for check in checks]
    if strange := [name for name in names if name not in known]:
        raise SettingsError(f"there are no figures called {strange[0]!r}; choose of {', '.join(known)}")
    return [check for check in checks if not names or check.name in names]
