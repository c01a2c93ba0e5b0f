"""`python -m export report`: write the report of a pipeline's directory anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.markdown import full_tables, summary_table
from export.report import REPORT, write_report
from export.report_inputs import read_inputs

EXAMPLE = f"""\
examples:
  python -m export report build/omniglot
  python -m export report build/omniglot --out omniglot.html
  python -m export report build/omniglot --markdown

What is missing in the directory is left out. The report is one file ({REPORT} in the directory, unless told
otherwise) that opens without network."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="DIR", help="the --out of a pipeline")
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--out", type=Path, metavar="FILE", help=f"where to write it (default: {REPORT} in DIR)"
    )
    either.add_argument(
        "--markdown", action="store_true", help="print the figures as Markdown tables, and write no report"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        inputs = read_inputs(arguments.path)
        print(summary_table(inputs), full_tables(inputs), sep="\n", end="")
    else:
        print(write_report(arguments.path, arguments.out))
    return 0
