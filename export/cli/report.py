"""`python -m export report`: write the report of a pipeline's directory, or print its tables."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_siamese.errors import SettingsError
from export.reporting.report import REPORT, read_inputs, write_report
from export.reporting.tables import full_tables, side_by_side, summary_table

EXAMPLE = """\
examples:
  python -m export report build/omniglot
  python -m export report build/omniglot --out omniglot.html
  python -m export report build/omniglot --markdown
  python -m export report build/omniglot build/photos --side-by-side

The report is one file that opens without network. It leaves out what the directory does not have."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", type=Path, nargs="+", metavar="DIR", help="output directory of a pipeline")
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--out", type=Path, metavar="FILE", help=f"file of the report (default: {REPORT} in DIR)"
    )
    output.add_argument(
        "--markdown", action="store_true", help="print the figures as Markdown tables instead of a report"
    )
    output.add_argument(
        "--side-by-side",
        action="store_true",
        help="print one Markdown table of several pipelines next to published results on Omniglot",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.side_by_side:
        print(side_by_side([(path.name, read_inputs(path)) for path in arguments.paths]), end="")
        return 0
    if len(arguments.paths) > 1:
        raise SettingsError("a report is made from one directory; use --side-by-side for several")
    (path,) = arguments.paths
    if arguments.markdown:
        inputs = read_inputs(path)
        print(summary_table(inputs), full_tables(inputs), sep="\n", end="")
    else:
        print(write_report(path, arguments.out))
    return 0
