"""Draws pictures of paper for the threshold of handwriting: impostors for a bundle, and strangers to measure it with."""

from __future__ import annotations

import argparse
from pathlib import Path

from export.data.paper import write_paper_pictures

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument(
    "--out", type=Path, default=Path("build/paper"), metavar="DIR", help="(default: build/paper)"
)
parser.add_argument(
    "--impostors", type=int, default=512, metavar="N", help="pictures for a bundle (default: 512)"
)
parser.add_argument(
    "--strangers", type=int, default=2048, metavar="N", help="pictures to measure with (default: 2048)"
)
parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")

if __name__ == "__main__":
    arguments = parser.parse_args()
    for role in ("impostors", "strangers"):
        count = getattr(arguments, role)
        write_paper_pictures(arguments.out / role, role, count, arguments.seed)
        print(f"{arguments.out / role}: {count} pictures")
