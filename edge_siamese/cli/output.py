"""Output of the commands: lines, JSON, aligned pairs, tables and log lines; control characters in them are escaped."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from edge_siamese.errors import is_printable, printable


class LogFormatter(logging.Formatter):
    """Formats log lines without control characters: one line for each message, tracebacks aside."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))

    def formatException(self, error: Any) -> str:  # noqa: N802
        return "\n".join(map(printable, super().formatException(error).split("\n")))


def print_line(text: str) -> None:
    """Print one line, which may contain text that others chose."""
    print(printable(text))


def print_json(value: Any) -> None:
    """Print JSON; characters that a terminal would act on are escaped, which changes no value."""
    print(json_text(value, indent=2))


def json_text(value: Any, indent: int | None = None) -> str:
    """Return JSON without control, bidirectional and other format characters."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(c if c == "\n" or is_printable(c) else json.dumps(c)[1:-1] for c in text)


def print_pairs(pairs: dict[str, Any]) -> None:
    width = max(map(len, pairs))
    for name, value in pairs.items():
        print(f"{name:<{width}}  {printable(str(value))}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns of numbers are aligned to the right."""
    rows = [[printable(cell) for cell in row] for row in rows]
    columns = list(zip(header, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [
        all(cell.replace(",", "").replace(".", "").isdecimal() for cell in column[1:]) for column in columns
    ]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = zip(row, widths, numeric, strict=True)
        print("  ".join(f"{cell:>{w}}" if right else f"{cell:<{w}}" for cell, w, right in cells).rstrip())
