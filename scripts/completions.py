"""Writes the shell completions in systemd/completions from the command line's own parser.

python scripts/completions.py            write them
python scripts/completions.py --check    1 if one of them is not what would be written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edge_siamese.cli.main import build_parser  # noqa: E402
from scripts.generated import write_or_check  # noqa: E402

PLACE = ROOT / "systemd" / "completions"
FILES = {"bash": "edge-siamese.bash", "zsh": "_edge-siamese"}
"""Shells, and the names under which their packages look for completions."""
DIRECTORIES = ("BUNDLE",)
"""Metavariables of what is a directory; those with these words in them are files."""
OF_FILES = ("FILE", "PICTURE", "IMAGES.npy", "A", "B")


def main(arguments: list[str]) -> int:
    """Write the files, or compare them."""
    return write_or_check(
        {PLACE / name: completion(shell) for shell, name in FILES.items()},
        arguments,
        "scripts/completions.py",
        ROOT,
    )


def completion(shell: str) -> str:
    """The script for one shell; the same on every machine."""
    parser = build_parser()
    for action in actions(parser):
        if action.choices and not isinstance(action.choices, dict):
            action.choices = sorted(action.choices)  # the order of runtimes is the machine's
        metavar = str(action.metavar or "")
        if metavar in DIRECTORIES:
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif metavar in OF_FILES or metavar.startswith("FILE."):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    lines = shtab.complete(parser, shell).splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Options and arguments of a parser and of all below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions(below)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
