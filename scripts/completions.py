"""Generates the shell completions in edge_siamese/cli/completions from the command line's parser.

python scripts/completions.py            write them
python scripts/completions.py --check    exit with 1 if one is out of date
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edge_siamese.cli.completion import FILES  # noqa: E402
from edge_siamese.cli.main import build_parser  # noqa: E402
from scripts import fish  # noqa: E402
from scripts.command_line import DIRECTORY_METAVARS, FILE_METAVARS, read  # noqa: E402
from scripts.generated import write_or_check  # noqa: E402

FOLDER = ROOT / "edge_siamese" / "cli" / "completions"


def main(arguments: list[str]) -> int:
    """Write the files, or compare them with --check."""
    return write_or_check(
        {FOLDER / name: completion(shell) for shell, name in FILES.items()},
        arguments,
        "scripts/completions.py",
        ROOT,
    )


def completion(shell: str) -> str:
    """Return the script for one shell; it is the same on every machine."""
    if shell == "fish":
        return fish.completion(read())
    parser = build_parser()
    for action in actions(parser):
        if action.choices and not isinstance(action.choices, dict):
            action.choices = sorted(action.choices)  # the order of runtimes is the machine's
        metavar = str(action.metavar or "")
        if metavar in DIRECTORY_METAVARS:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif metavar in FILE_METAVARS or metavar.startswith("FILE."):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    lines = shtab.complete(parser, shell).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the options and arguments of a parser and of its subcommands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from actions(subparser)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
