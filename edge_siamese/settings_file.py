"""The settings file: where it is found, how it is read, and which line sets each option."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_origin

from msgspec import Meta, structs

from edge_siamese.errors import SettingsError, printable
from edge_siamese.settings import Settings, user_directory
from edge_siamese.system.files import expand_path
from edge_siamese.validation import SchemaError, convert, line_of, parse_toml

SYSTEM_CONFIG = Path("/etc/edge-siamese/config.toml")
MAX_FILE_BYTES = 256 * 1024


@dataclass(frozen=True)
class SettingsOrigin:
    """Origin of the settings in use."""

    file: Path | None
    """None: there was no file."""
    digest: str
    """`Settings.digest` of the file when it was read."""
    problem: str = ""
    """Why the latest attempt to reload the file failed; empty if it did not."""


@dataclass(frozen=True)
class SettingsFile:
    """Settings, and where each of them comes from."""

    settings: Settings
    file: Path | None
    """None: there is no file, and all values are defaults."""
    lines: dict[str, int]
    """Line of the file for each option that it sets, by dotted key, such as `camera.kind`."""


def load_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read settings from a file. Arguments and errors are those of `read_settings`."""
    return read_settings(path).settings


def read_settings(path: str | os.PathLike[str] | None = None) -> SettingsFile:
    """Read settings from a file, with the lines that set them.

    Args:
        path: a TOML file. None: the file in the environment variable `EDGE_SIAMESE_CONFIG`, else
            /etc/edge-siamese/config.toml or ~/.config/edge-siamese/config.toml, else the defaults.

    Raises:
        SettingsError: the file is missing or not TOML, an option is unknown or its value is not allowed.
    """
    file = expand_path(path) if path else default_config()
    if file is None:
        return SettingsFile(Settings(), None, {})
    data = read_settings_text(file)
    settings = parse_settings(data, str(file), file.absolute().parent)
    return SettingsFile(settings, file, {key: line_of(key, data) or 1 for key in keys_of(parse_toml(data))})


def read_settings_text(file: Path) -> bytes:
    """Return the bytes of a settings file.

    Raises:
        SettingsError: it is missing, not a file, too large, or cannot be read.
    """
    try:
        return _read(file)
    except FileNotFoundError as error:
        raise SettingsError(f"{file}: there is no such file") from error
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or "out of memory"
        raise SettingsError(f"{file} cannot be read: {reason}") from error


def options_of(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield the dotted key and the value of each option, in the order of the reference, such as `regions[0].name`."""
    for table in structs.fields(Settings):
        for name, record in _tables(table.name, getattr(settings, table.name)):
            for field in structs.fields(type(record)):
                yield f"{name}.{field.name}", getattr(record, field.name)


def keys_of(values: Mapping[str, Any]) -> list[str]:
    """The dotted keys of the options that valid TOML sets."""
    return [
        f"{name}.{option}"
        for table, value in values.items()
        for name, options in _tables(table, value)
        for option in options
    ]


def _tables(name: str, value: Any) -> list[tuple[str, Any]]:
    """The dotted keys and the values of a table, or of a list of tables."""
    if isinstance(value, (list, tuple)):
        return [(f"{name}[{index}]", one) for index, one in enumerate(value)]
    return [(name, value)]


def new_config() -> Path:
    """The settings file that a command creates if none is named: the system's for root, else the user's.

    Raises:
        SettingsError: this user has no home directory.
    """
    if path := default_config():
        return path
    if os.geteuid() == 0:
        return SYSTEM_CONFIG
    if user := user_directory("XDG_CONFIG_HOME", ".config"):
        return user / "config.toml"
    raise SettingsError(
        f"user {os.geteuid()} has no home directory for the settings: name a file with --config"
    )


def default_config() -> Path | None:
    """The settings file that is read by default; None if there is none."""
    if path := os.environ.get("EDGE_SIAMESE_CONFIG"):
        return expand_path(path)
    candidates = [SYSTEM_CONFIG]
    if user := user_directory("XDG_CONFIG_HOME", ".config"):
        candidates.append(user / "config.toml")
    return next((path for path in candidates if _exists(path)), None)


def parse_settings(
    text: str | bytes, source: str = "config.toml", base: str | os.PathLike[str] | None = None
) -> Settings:
    """Parse settings from TOML text.

    Args:
        text: TOML; bytes are UTF-8.
        source: the file's name, for errors.
        base: directory that relative paths refer to; None: the current one.

    Raises:
        SettingsError: see `load_settings`.
    """
    try:
        return _with_paths(convert(parse_toml(text), Settings), base)
    except SchemaError as error:
        line = line_of(error.key, text) if error.key else None
        place = f" (at line {line})" if line else ""
        raise SettingsError(printable(f"{source}: {error}{place}")) from error


def _read(file: Path) -> bytes:
    """Read a settings file; raises SettingsError if it is not a regular file or is too large."""
    mode = file.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
        raise SettingsError(f"{file} cannot be read: it is {kind}, not a file")
    with file.open("rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(f"{file} cannot be read: it has more than {MAX_FILE_BYTES} bytes")
    return data


def _with_paths(settings: Settings, base: str | os.PathLike[str] | None) -> Settings:
    """Expand all paths; raises `SchemaError` for one that cannot exist."""
    tables: dict[str, Any] = {}
    for table in structs.fields(Settings):
        record, values = getattr(settings, table.name), {}
        if isinstance(record, tuple):
            continue  # regions, which have no paths
        for field in structs.fields(table.type):
            rule = _path_rule(field.type)
            value = getattr(record, field.name)
            if rule and value:
                program, *arguments = value if isinstance(value, tuple) else (value,)
                if program and (rule == "always" or "/" in program):
                    try:
                        program = str(expand_path(program, base))
                    except SettingsError as error:
                        raise SchemaError(f"{table.name}.{field.name}", str(error)) from error
                values[field.name] = (program, *arguments) if isinstance(value, tuple) else program
        tables[table.name] = structs.replace(record, **values)
    return structs.replace(settings, **tables)


def _path_rule(hint: Any) -> str:
    if get_origin(hint) is not Annotated:
        return ""
    return next(
        (item.extra["path"] for item in hint.__metadata__ if isinstance(item, Meta) and item.extra), ""
    )


def _exists(path: Path) -> bool:
    """Whether a path exists, or may exist in a directory that this user cannot search."""
    try:
        path.lstat()
        return True
    except PermissionError:
        return True
    except OSError:
        return False
