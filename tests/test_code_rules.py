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
    modules("edge_siamese", "export", "scripts", "benchmarks"),
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
        for path in modules("edge_siamese", "export", "tests", "scripts", "benchmarks")
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert marked == []


def test_names_of_modules_are_specific() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert [path.name for path in modules("edge_siamese", "export") if path.stem in vague] == []
