"""Fuzzes the code that reads what others send: `make fuzz`, or `python -m tests.fuzz --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.fuzz.running import Target, run_child, run_files, run_target
from tests.fuzz.targets import TARGETS

OUT = Path(__file__).parents[2] / "build" / "fuzz"


def main(arguments: list[str] | None = None, targets: Mapping[str, Target] = TARGETS) -> int:
    """Run targets one after the other; the exit status is 0 if nothing failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(targets)}")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other inputs (default: 0)")
    parser.add_argument(
        "--start", type=int, default=0, metavar="N", help="number of the first input (default: 0)"
    )
    parser.add_argument(
        "--count", type=int, metavar="N", help="number of inputs (default: that of each target)"
    )
    parser.add_argument(
        "--file", type=Path, action="append", help="run this input of one target, such as a former failure"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help="where inputs that fail are written (default: build/fuzz)"
    )
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in options.targets:
        if name not in targets:
            parser.error(f"there is no target {name}; choose from {', '.join(targets)}")
    results = []
    for target in [targets[name] for name in options.targets] or targets.values():
        count = target.count if options.count is None else options.count
        if options.file:
            results.append(run_files(target, options.file, options.out))
        elif options.child is not None:
            results.append(run_child(target, options.seed, options.start, count, options.out, options.child))
        else:
            results.append(run_target(target, options.seed, options.start, count, options.out.absolute()))
    return max(results)


if __name__ == "__main__":
    sys.exit(main())
