"""Writes generated files, or checks that they are up to date."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_or_check(files: Mapping[Path, str], arguments: Sequence[str], script: str, root: Path) -> int:
    """Write the files that are out of date, or only report them with --check.

    Args:
        files: path and expected content of each file.
        arguments: command-line arguments.
        script: script to run, for the message.
        root: root of the checkout.

    Returns:
        The exit status: 1 if a file is out of date.
    """
    stale = []
    for path, text in files.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if "--check" in arguments:
            stale.append(path.relative_to(root).as_posix())
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(root)}")
    if stale:
        print(f"out of date: {', '.join(stale)}; run: python {script}", file=sys.stderr)
    return 1 if stale else 0
