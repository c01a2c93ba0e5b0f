"""Edits options in the text of a settings file, and keeps comments, order and all other lines."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from edge_siamese.errors import SettingsError
from edge_siamese.validation import format_toml, parse_toml

_HEADER = re.compile(r"\s*\[\s*([\w-]+)\s*\]\s*(#.*)?$")


def set_options(text: str, changes: Mapping[str, Any]) -> str:
    """Set options in TOML text.

    An option that the file sets is replaced in place, and so is one that is commented out (`#kind = "auto"`). Other options
    are added at the start of their table, and missing tables at the end of the text.

    Args:
        text: TOML that can be parsed.
        changes: values by dotted key, such as `camera.kind`.

    Raises:
        SettingsError: an option is written in a form that is not supported, such as an inline table.
    """
    expected = parse_toml(text)
    lines = text.splitlines()
    tables: dict[str, list[tuple[str, Any]]] = {}
    for key, value in changes.items():
        table, _, name = key.partition(".")
        expected.setdefault(table, {})[name] = list(value) if isinstance(value, tuple) else value
        tables.setdefault(table, []).append((name, value))
    for table, options in tables.items():
        for name, value in reversed(options):  # each one goes to the start of its table
            _set_line(lines, table, name, f"{name} = {format_toml(value)}")
    changed = "".join(f"{line}\n" for line in lines)
    try:
        succeeded = tomllib.loads(changed) == expected
    except tomllib.TOMLDecodeError:
        succeeded = False
    if not succeeded:
        wanted = ", ".join(f"{key} = {format_toml(value)}" for key, value in changes.items())
        raise SettingsError(
            f"the file cannot be changed automatically; set these options in an editor: {wanted}"
        )
    return changed


def _set_line(lines: list[str], table: str, name: str, line: str) -> None:
    tables = {number: match[1] for number, text in enumerate(lines) if (match := _HEADER.match(text))}
    header = next((number for number, title in tables.items() if title == table), None)
    if header is None:
        lines += [*([""] if lines else []), f"[{table}]", line]
        return
    end = min((number for number in tables if number > header), default=len(lines))
    active, commented = re.compile(rf"\s*{name}\s*="), re.compile(rf"#\s?{name}\s*=")
    for pattern in (active, commented):
        for number in range(header + 1, end):
            if pattern.match(lines[number]):
                lines[number] = line
                return
    lines.insert(header + 1, line)
