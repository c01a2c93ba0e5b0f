"""Output of the commands: lines, JSON, aligned pairs, tables, log lines and errors, on any terminal.

Control characters are escaped, and so are characters that the encoding of the terminal lacks.
"""

from __future__ import annotations

import codecs
import io
import json
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TextIO

from edge_siamese.errors import EdgeSiameseError, describe_error, is_printable, printable


class LogFormatter(logging.Formatter):
    """Formats log lines without control characters: one line for each message, tracebacks aside."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return printable(super().formatMessage(record))

    def formatException(self, error: Any) -> str:  # noqa: N802
        return "\n".join(map(printable, super().formatException(error).split("\n")))


def prepare_output() -> None:
    """Make standard output and standard error accept any text; output to a closed one is discarded."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush_output() -> None:
    """Write what is buffered.

    Raises:
        EdgeSiameseError: a disk is full or fails. What is left is discarded.
        BrokenPipeError: the reader has closed the pipe.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:  # ValueError: the file was closed
        discard_output()
        reason = getattr(error, "strerror", None) or error
        raise EdgeSiameseError(f"standard output cannot be written: {reason}") from error


def discard_output(stream: TextIO | None = None) -> None:
    """Discard unwritten output, by default that of standard output; Python would report the error again at exit."""
    with suppress(OSError, ValueError):
        descriptor = os.open(os.devnull, os.O_WRONLY)
        os.dup2(descriptor, (stream or sys.stdout).fileno())
        os.close(descriptor)


def print_error(error: Exception) -> None:
    """Print an error as one line on standard error; for an unexpected one, its type as well."""
    if isinstance(error, OSError) and not isinstance(error, EdgeSiameseError) and error.strerror:
        message = f"{os.fsdecode(error.filename)}: {error.strerror}" if error.filename else error.strerror
    elif isinstance(error, (EdgeSiameseError, OSError)):
        message = str(error)
    else:
        message = f"{describe_error(error)} (--debug shows where)"
    try:
        print(f"edge-siamese: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        discard_output(sys.stderr)


def print_line(text: str) -> None:
    """Print one line, which may contain untrusted text."""
    print(printable(text))


def print_json(value: Any) -> None:
    """Print JSON. Characters that a terminal would act on, or cannot show, are escaped, which changes no value."""
    print(json_text(value, indent=2))


def json_text(value: Any, indent: int | None = None) -> str:
    """Return JSON without control, bidirectional and other format characters."""
    try:
        unicode = codecs.lookup(getattr(sys.stdout, "encoding", None) or "ascii").name.startswith("utf")
    except LookupError:
        unicode = False
    text = json.dumps(value, indent=indent, ensure_ascii=not unicode, allow_nan=False)
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
