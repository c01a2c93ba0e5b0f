"""The commands of edge-siamese as plain data, read from the parser: for completions and the manual page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edge_siamese.cli.main import build_parser  # noqa: E402

DIRECTORY_METAVARS = ("BUNDLE",)
FILE_METAVARS = ("FILE", "PICTURE", "IMAGES.npy", "A", "B")
COMMON = ("help", "config", "json", "debug")
"""Options that every command has."""


@dataclass(frozen=True)
class Argument:
    """An option or a positional argument."""

    name: str
    flags: tuple[str, ...]
    """Empty for a positional argument."""
    value: str
    """Placeholder of the value; empty for an option without one."""
    text: str
    choices: tuple[str, ...]
    """In alphabetical order; the order of runtimes is the machine's."""
    is_required: bool
    is_repeated: bool

    @property
    def files(self) -> Literal["", "file", "directory"]:
        """Kind of the value."""
        if self.value in DIRECTORY_METAVARS:
            return "directory"
        return "file" if self.value in FILE_METAVARS or self.value.startswith("FILE.") else ""


@dataclass(frozen=True)
class Command:
    """A command, or the program itself, whose words are empty."""

    words: tuple[str, ...]
    purpose: str
    example: str
    """A whole command line; empty if there is none."""
    arguments: tuple[Argument, ...]
    commands: tuple[Command, ...]

    @property
    def all(self) -> Iterator[Command]:
        """This command, and all below it."""
        yield self
        for command in self.commands:
            yield from command.all


def read() -> Command:
    """Return the program with all its commands."""
    return _command((), build_parser(), "")


def _command(words: tuple[str, ...], parser: argparse.ArgumentParser, purpose: str) -> Command:
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {choice.dest: choice.help or "" for action in inner for choice in action._choices_actions}
    below = [(name, sub) for action in inner for name, sub in action.choices.items()]
    return Command(
        words=words,
        purpose=purpose or parser.description or "",
        example=(parser.epilog or "").removeprefix("example: ") if words else "",
        arguments=tuple(_argument(action) for action in parser._actions if action not in inner),
        commands=tuple(_command((*words, name), sub, helps[name]) for name, sub in below),
    )


def _argument(action: argparse.Action) -> Argument:
    choices = tuple(sorted(map(str, action.choices or ())))
    takes_value = action.nargs != 0
    metavar = action.metavar or (f"{{{','.join(choices)}}}" if choices else action.dest.upper())
    return Argument(
        name=action.dest,
        flags=tuple(action.option_strings),
        value=str(metavar) if takes_value else "",
        text=(action.help or "").replace("%%", "%"),
        choices=choices,
        is_required=action.required,
        is_repeated=action.nargs == "+" or isinstance(action, argparse._AppendAction),
    )
