"""Writes docs/settings.md and systemd/config.toml from the dataclasses of the daemon's settings.

python scripts/settings_reference.py            write both
python scripts/settings_reference.py --check    1 if one of them is not what would be written
"""

from __future__ import annotations

import ast
import dataclasses
import sys
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edge_siamese.settings import Settings  # noqa: E402
from scripts.generated import write_or_check  # noqa: E402

PAGE = ROOT / "docs" / "settings.md"
FILE = ROOT / "systemd" / "config.toml"
WIDTH = 100
KINDS = {str: "text", int: "integer", float: "number", bool: "true or false"}
# What to show for an option that has no value unless one is given.
EXAMPLES = {"recognition.threshold": 0.99}

INTRODUCTION = """\
# Settings

<!-- Made by scripts/settings_reference.py from the daemon's settings. Do not edit. -->

The daemon reads one TOML file: the one that `--config` names, or else the environment variable `EDGE_SIAMESE_CONFIG`, or
else `/etc/edge-siamese/config.toml`, or else `~/.config/edge-siamese/config.toml`. Every option has a default, so the file
may be missing or empty. An unknown option, a value of another type, or one out of its range is refused with its name:
`edge-siamese run --check` reads the file and says what is wrong, and starts nothing.

After a change, `sudo systemctl reload edge-siamese` (or SIGHUP, or `edge-siamese reload`) reads the file again. The model
is loaded and tested anew; camera, panel and event sinks are opened anew where their options changed; objects stay. If the
file is wrong then, the former settings stay, and an event says why. Only `[paths]` needs a restart: `sudo systemctl restart
edge-siamese`.

```toml
[camera]
kind = "usb"
device = "/dev/v4l/by-id/usb-046d_HD_Pro_Webcam_C920-video-index0"
rate = 5

[recognition]
false_accept_rate = 0.001

[events]
hook = ["/usr/local/bin/on-event", "--quiet"]
```
"""

HEADER = """\
# The settings of edge-siamese: each option with its default, commented out. docs/settings.md is the same as a page.
# Check a change with: edge-siamese run --check
# Then let the daemon read it: sudo systemctl reload edge-siamese
"""


@dataclasses.dataclass(frozen=True)
class Option:
    """One field of one table."""

    table: str
    name: str
    default: Any
    kind: str
    """What a value is, with its range or its choices, such as `integer, 1 to 64`."""
    text: str
    """Its docstring, as one line."""

    @property
    def key(self) -> str:
        return f"{self.table}.{self.name}"


def main(arguments: list[str]) -> int:
    """Write both files, or compare them."""
    return write_or_check(
        {PAGE: page(), FILE: commented_file()}, arguments, "scripts/settings_reference.py", ROOT
    )


def tables() -> Iterator[tuple[str, str, list[Option]]]:
    """Name, docstring and options of each table.

    Raises:
        KeyError: a field has no docstring.
    """
    for table, cls in get_type_hints(Settings).items():
        hints, node = get_type_hints(cls), definition(cls)
        texts, ranges = docstrings(node), dict(bounds(node))
        options = [
            Option(
                table,
                field.name,
                field.default,
                kind(hints[field.name], ranges.get(field.name)),
                texts[field.name],
            )
            for field in dataclasses.fields(cls)
        ]
        yield table, " ".join((ast.get_docstring(node) or "").split()), options


def definition(cls: type) -> ast.ClassDef:
    """The class as it stands in its module."""
    tree = ast.parse(Path(str(sys.modules[cls.__module__].__file__)).read_text(encoding="utf-8"))
    (node,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == cls.__name__)
    return node


def docstrings(node: ast.ClassDef) -> dict[str, str]:
    """The string under each field, as one line."""
    found = {}
    for field, below in zip(node.body, node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def bounds(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Fields and their ranges, such as `1 to 64`, as `require_within` checks them."""
    names: dict[str, list[str]] = {}
    for found in ast.walk(node):
        if isinstance(found, ast.For) and isinstance(found.target, ast.Name):
            names[found.target.id] = [str(item) for item in ast.literal_eval(found.iter)]
    for found in ast.walk(node):
        if (
            isinstance(found, ast.Call)
            and isinstance(found.func, ast.Name)
            and found.func.id == "require_within"
        ):
            name, _, least, most = found.args
            fields = names[name.id] if isinstance(name, ast.Name) else [str(ast.literal_eval(name))]
            for field in fields:
                yield field, f"{bound(least)} to {bound(most)}"


def bound(node: ast.expr) -> str:
    """A number for people, or the option that sets the bound, such as `window`."""
    if any(isinstance(part, ast.Name) for part in ast.walk(node)):
        return f"`{ast.unparse(node).replace('self.', '')}`"
    value = eval(compile(ast.Expression(node), "bound", "eval"))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def kind(hint: Any, within: str | None) -> str:
    """What a value is."""
    origin = get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(f"`{toml(choice)}`" for choice in get_args(hint))
    if origin is tuple:
        return "list of texts"
    if origin in (Union, types.UnionType):
        hint = next(arm for arm in get_args(hint) if arm is not type(None))
    return f"{KINDS[hint]}, {within}" if within else KINDS[hint]


def toml(value: Any) -> str:
    """A default as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return f"[{', '.join(toml(item) for item in value)}]"
    return f"{value:_}" if isinstance(value, int) and value >= 100_000 else repr(value)


def page() -> str:
    """docs/settings.md."""
    parts = [INTRODUCTION]
    for table, purpose, options in tables():
        parts.append(f"\n## [{table}]\n\n{purpose}\n\n")
        parts.append("| option | default | value | meaning |\n|---|---|---|---|\n")
        for option in options:
            default = "not set" if option.default is None else f"`{toml(option.default)}`"
            cells = (f"`{option.name}`", default, option.kind, option.text)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def commented_file() -> str:
    """systemd/config.toml."""
    parts = [HEADER]
    for table, purpose, options in tables():
        parts.append(f"\n[{table}]\n{comment(purpose)}")
        for option in options:
            parts.append("\n" + comment(f"{option.text} ({option.kind.replace('`', '')})"))
            if option.default is None:
                example = EXAMPLES[option.key]
                parts.append(f"# Not set; for example:\n#{option.name} = {toml(example)}\n")
            else:
                parts.append(f"#{option.name} = {toml(option.default)}\n")
    return "".join(parts)


def comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, WIDTH - 2, break_on_hyphens=False))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
