"""Frozen dataclasses to JSON files and back: what one command measures, another shows.

A field with a default may be missing in a file: records of an earlier release are read as if it had its default.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from edge_siamese.errors import DataError
from edge_siamese.system.files import write_text_atomically
from edge_siamese.validation import SchemaError, parse_json, read_object

Record = TypeVar("Record")


def dumps(record: Any) -> str:
    """A dataclass, or a list of them, as JSON text.

    Raises:
        ValueError: a number is not finite.
    """
    value = [asdict(item) for item in record] if isinstance(record, list | tuple) else asdict(record)
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def write(path: Path, record: Any) -> None:
    """Write a dataclass, or a list of them, as a JSON file, whole or not at all."""
    write_text_atomically(path, dumps(record))


def read(kind: type[Record], path: Path) -> Record:
    """Read one dataclass.

    Raises:
        DataError: the file is missing, is not JSON, or is no such record.
    """
    return _read(kind, _parse(path), path)


def read_all(kind: type[Record], path: Path) -> tuple[Record, ...]:
    """Read a list of dataclasses; a single one counts as a list of one. Raises as `read` does."""
    value = _parse(path)
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    return tuple(_read(kind, item, path) for item in items)


def _parse(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read(kind: type[Record], value: Any, path: Path) -> Record:
    try:
        return read_object(value, kind, optional=True)
    except SchemaError as error:
        raise DataError(f"{path} was not written by this release ({error}); make it again") from error
