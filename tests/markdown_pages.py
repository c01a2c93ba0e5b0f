"""Reads tables of Markdown pages."""

from __future__ import annotations

import re
from collections.abc import Iterator


def table_rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of all tables, heads and rules included."""
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)
