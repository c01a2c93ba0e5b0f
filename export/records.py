"""Reads and writes results as JSON: one command measures them, another one shows them. Records are frozen dataclasses.

Fields with a default may be missing in a file, so records of an earlier release can be read.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edge_siamese.errors import DataError
from edge_siamese.system.files import write_text_atomically
from edge_siamese.validation import parse_json

Record = TypeVar("Record")


def valid_text(text: object) -> str:
    """Text that UTF-8 can encode: bytes of names and arguments that are not UTF-8 become `\\xNN`."""
    try:
        return str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that does not come from a file name
        return str(text).encode("utf-8", "replace").decode("utf-8")


def valid_values(value: Any) -> Any:
    """JSON values with `valid_text` applied to all texts."""
    if isinstance(value, dict):
        return {valid_text(key): valid_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [valid_values(item) for item in value]
    return valid_text(value) if isinstance(value, str) else value


def dumps(record: Any) -> str:
    """Format a dataclass, or a list of them, as JSON.

    Raises:
        ValueError: a number is not finite.
    """
    value = [asdict(item) for item in record] if isinstance(record, list | tuple) else asdict(record)
    return json.dumps(valid_values(value), indent=2, allow_nan=False) + "\n"


def write(path: Path, record: Any) -> None:
    """Write a dataclass, or a list of them, to a JSON file atomically."""
    write_text_atomically(path, dumps(record))


def read(kind: type[Record], path: Path) -> Record:
    """Read one dataclass.

    Raises:
        DataError: the file is missing, is not JSON, or is not such a record.
    """
    return _convert(_parse(path), kind, path)


def read_all(kind: type[Record], path: Path) -> tuple[Record, ...]:
    """Read a list of dataclasses, or a single one as a list of one. Raises the errors of `read`."""
    value = _parse(path)
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    return tuple(_convert(item, kind, path) for item in items)


def _parse(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _convert(value: Any, kind: type[Record], path: Path) -> Record:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DataError(f"{path} is not a record of this release ({error}); create it again") from error
