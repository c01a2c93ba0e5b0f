"""Rules for the text of modules that ruff does not check."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
UNFINISHED = re.compile(r"TODO|FIXME|XXX\b|raise NotImplementedError|mark\.xfail")


def modules(*folders: str) -> list[Path]:
    """The Python files of some folders of the checkout."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize(
    "path",
    modules("edge_siamese", "export", "examples", "scripts", "benchmarks"),
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_a_module_starts_with_a_sentence_that_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, "a module starts with a sentence that says what it is"
        assert docstring.split("\n\n")[0].rstrip().endswith((".", "?", ":")), (
            "its first paragraph is a sentence"
        )


def test_nothing_is_left_unfinished() -> None:
    marked = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in modules("edge_siamese", "export", "examples", "tests", "scripts", "benchmarks")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert marked == []


READERS = {
    "time": "ctime gmtime localtime strftime time time_ns",
    "datetime": "now today utcnow",
    "date": "today",
}
"""What reads the wall clock, by its owner."""


def reads_the_wall_clock(node: ast.AST) -> bool:
    if isinstance(node, ast.ImportFrom):
        return node.module == "time" and any(alias.name in READERS["time"].split() for alias in node.names)
    owner = getattr(node, "value", None)
    name = getattr(owner, "attr", getattr(owner, "id", ""))
    return isinstance(node, ast.Attribute) and node.attr in READERS.get(name, "").split()


def test_one_module_reads_the_wall_clock() -> None:
    """A clock that jumps measures nothing; see `edge_siamese/system/wall_clock.py`."""
    found = [
        path.relative_to(ROOT).as_posix()
        for path in modules("edge_siamese")
        if any(map(reads_the_wall_clock, ast.walk(ast.parse(path.read_text(encoding="utf-8")))))
    ]
    assert found == ["edge_siamese/system/wall_clock.py"]


def test_dates_of_files_are_only_compared_for_equality() -> None:
    """They are from the wall clock: the newer file may be the older one."""
    users = {
        path.relative_to(ROOT).as_posix()
        for path in modules("edge_siamese")
        if re.search(r"st_[acm]time|getmtime", path.read_text(encoding="utf-8"))
    }
    assert users == {
        "edge_siamese/cameras/files.py",
        "edge_siamese/dashboard/credentials.py",
        "edge_siamese/dashboard/server.py",
    }


def test_one_function_calls_msgspec_convert() -> None:
    """It guards msgspec against threads that use a type for the first time together."""
    calls = [
        f"{path.relative_to(ROOT).as_posix()} {line.strip()}"
        for path in modules("edge_siamese")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"msgspec\.(json\.|msgpack\.|toml\.)?(convert|decode|Decoder)\b", line)
    ]
    assert calls == [
        "edge_siamese/validation.py msgspec.convert(_NOTHING, type)",
        "edge_siamese/validation.py return msgspec.convert(value, type, strict=strict)",
    ]


def test_names_of_modules_are_specific() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert [path.name for path in modules("edge_siamese", "export") if path.stem in vague] == []
