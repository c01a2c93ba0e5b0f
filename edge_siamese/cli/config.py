"""Commands for the settings file: check it, show the settings in effect, and show differences."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from edge_siamese.cli.output import print_json, print_line
from edge_siamese.daemon.client import request
from edge_siamese.errors import EdgeSiameseError, printable
from edge_siamese.settings import Settings
from edge_siamese.settings_file import SettingsFile, options_of, read_settings
from edge_siamese.system.files import expand_path
from edge_siamese.system.network import without_password
from edge_siamese.validation import SchemaError, convert, format_toml

SETTINGS_TIMEOUT_SECONDS = 5.0
"""Time limit for asking the daemon which settings it uses."""


def check(options: argparse.Namespace) -> int:
    """Print the problems of the settings and of the files and devices in them; returns 1 if there are any."""
    from edge_siamese.cli.check import find_problems  # imports numpy

    read = _read(options)
    settings, name = read.settings, str(read.file or "the defaults")
    _ = settings.state_directory, settings.socket  # raise an error without a home directory
    running = False
    if options.values_only:
        problems = []
    else:
        with suppress(EdgeSiameseError):
            answer = request(settings.socket, "settings", timeout=SETTINGS_TIMEOUT_SECONDS)
            running = answer["file"] == str(read.file.absolute() if read.file else "")
        problems = [printable(problem) for problem in find_problems(settings, running=running)]
    note = "; camera, panel and ports were not tested, because the daemon is running" if running else ""
    if options.json:
        print_json(
            {"ok": not problems, "file": str(read.file or ""), "problems": problems, "running": running}
        )
    elif not problems:
        print_line(f"{name}: the settings are valid{note}")
    else:
        for problem in problems:
            print(f"edge-siamese: {problem}", file=sys.stderr)
    return 1 if problems else 0


def show(options: argparse.Namespace) -> int:
    """Print all settings in effect as TOML, each with its source; returns 0."""
    read = _read(options)
    values = dict(options_of(_without_secrets(read.settings)))
    if options.json:
        print_json(
            {
                "file": str(read.file or ""),
                "state": str(read.settings.state_directory),
                "socket": str(read.settings.socket),
                "settings": {
                    key: {"value": value, "source": _source(read, key), "line": read.lines.get(key)}
                    for key, value in values.items()
                },
            }
        )
        return 0
    print_line(f"# {read.file or 'There is no settings file: these are the defaults.'}")
    print_line(f"# state directory: {read.settings.state_directory}; control socket: {read.settings.socket}")
    table = ""
    for key, value in values.items():
        new_table, _, name = key.partition(".")
        if new_table != table:
            table = new_table
            heading, _, index = table.partition("[")
            print(f"\n[[{heading}]]" if index else f"\n[{heading}]")
        line = f"#{name} is not set" if value is None else f"{name} = {format_toml(value)}"
        source = f"line {read.lines[key]}" if key in read.lines else "default"
        print_line(f"{line}  # {source}")
    return 0


def diff(options: argparse.Namespace) -> int:
    """Print the settings that differ from the defaults, and from those that the running daemon uses; returns 0."""
    read = _read(options)
    values = dict(options_of(_without_secrets(read.settings)))
    defaults = dict(options_of(Settings()))
    changed = {key: value for key, value in values.items() if value != defaults.get(key)}
    used, unreachable = _used_by_daemon(read.settings)
    other = {key: value for key, value in (used or {}).items() if value != values.get(key)}
    if options.json:
        print_json(
            {
                "file": str(read.file or ""),
                "defaults": {
                    key: {"value": value, "default": defaults.get(key), "line": read.lines.get(key)}
                    for key, value in changed.items()
                },
                "daemon": None
                if used is None
                else {key: {"value": values.get(key), "daemon": value} for key, value in other.items()},
                "unreachable": unreachable,
            }
        )
        return 0
    if changed:
        print_line(f"{read.file} differs from the defaults:")
    else:
        print_line(f"{read.file or 'without a file, the settings'}: no difference from the defaults")
    for key, value in changed.items():
        line = f", line {read.lines[key]}" if key in read.lines else ""
        print_line(f"  {key} = {_format(value)} (default: {_format(defaults.get(key))}{line})")
    if used is None:
        print_line(f"no comparison with the daemon: {unreachable}")
    elif other:
        print_line("the running daemon uses other values; to apply the file: edge-siamese reload")
        for key, value in other.items():
            print_line(f"  {key} = {_format(value)} (file: {_format(values.get(key))})")
    else:
        print("the running daemon uses the same values")
    return 0


def _read(options: argparse.Namespace) -> SettingsFile:
    return read_settings(expand_path(options.config).absolute() if options.config else None)


def _source(read: SettingsFile, key: str) -> str:
    return "file" if key in read.lines else "default"


def _without_secrets(settings: Settings) -> Settings:
    from msgspec import structs

    mqtt = structs.replace(settings.mqtt, broker=without_password(settings.mqtt.broker))
    return structs.replace(settings, mqtt=mqtt)


def _used_by_daemon(settings: Settings) -> tuple[Mapping[str, Any] | None, str]:
    """Return the options that the daemon at the socket uses, or None and why they are not known."""
    try:
        answer = request(settings.socket, "settings", timeout=SETTINGS_TIMEOUT_SECONDS)
        return dict(options_of(convert(answer["values"], Settings))), ""
    except EdgeSiameseError as error:
        return None, str(error)
    except (SchemaError, LookupError, TypeError):
        return None, "the daemon runs another release"


def _format(value: Any) -> str:
    return "not set" if value is None else format_toml(value)
