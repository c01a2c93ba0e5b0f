"""`python -m export report`: write the report of a pipeline's directory anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_siamese.errors import SettingsError
from export.reporting.report import REPORT, read_inputs, write_report
from export.reporting.tables import full_tables, side_by_side, summary_table

EXAMPLE = f"""\
examples:
  python -m export report build/omniglot
  python -m export report build/omniglot --out omniglot.html
  python -m export report build/omniglot --markdown
  python -m export report build/omniglot build/photos --side-by-side

What is missing in the directory is left out. The report is one file ({REPORT} in the directory, unless told
otherwise) that opens without network."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", type=Path, nargs="+", metavar="DIR", help="the --out of a pipeline")
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--out", type=Path, metavar="FILE", help=f"where to write it (default: {REPORT} in DIR)"
    )
    either.add_argument(
        "--markdown", action="store_true", help="print the figures as Markdown tables, and write no report"
    )
    either.add_argument(
        "--side-by-side",
        action="store_true",
        help="print one Markdown table of all files of several pipelines, beside what is published on Omniglot",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.side_by_side:
        print(side_by_side([(path.name, read_inputs(path)) for path in arguments.paths]), end="")
        return 0
    if len(arguments.paths) > 1:
        raise SettingsError("a report is of one directory; several are for --side-by-side")
    (path,) = arguments.paths
    if arguments.markdown:
        inputs = read_inputs(path)
        print(summary_table(inputs), full_tables(inputs), sep="\n", end="")
    else:
        print(write_report(path, arguments.out))
    return 0
