"""Writes files that are made of something else, or says which of them are no longer what would be made."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_or_check(files: Mapping[Path, str], arguments: Sequence[str], script: str, root: Path) -> int:
    """Write what is stale, or with --check only say so.

    Args:
        files: what each should hold.
        arguments: of the command line.
        script: the one that makes them, as people run it.
        root: of the checkout.

    Returns:
        The exit status: 1 if something was found stale.
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
        print(f"not fresh: {', '.join(stale)}; run: python {script}", file=sys.stderr)
    return 1 if stale else 0
