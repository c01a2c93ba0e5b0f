"""Output of the commands: JSON, aligned pairs, and tables."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_pairs(pairs: dict[str, Any]) -> None:
    width = max(map(len, pairs))
    for name, value in pairs.items():
        print(f"{name:<{width}}  {value}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns of numbers are aligned to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [
        all(cell.replace(",", "").replace(".", "").isdecimal() for cell in column[1:]) for column in columns
    ]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = zip(row, widths, numeric, strict=True)
        print("  ".join(f"{cell:>{w}}" if right else f"{cell:<{w}}" for cell, w, right in cells).rstrip())
