"""The commands that a page shows, so that tests can run them."""

from __future__ import annotations

import shlex
from pathlib import Path

ROOT = Path(__file__).parent.parent


def commands(page: str, first: str) -> list[list[str]]:
    """Return the words of each line of the `sh` block of a page whose first line starts with `first`; without comments."""
    text = (ROOT / page).read_text(encoding="utf-8")
    _, found, rest = text.partition(f"```sh\n{first}")
    assert found, f"{page} has no block that starts with: {first}"
    block = (first + rest.partition("\n```")[0]).replace("\\\n", " ")
    return [words for line in block.splitlines() if (words := shlex.split(line, comments=True))]
