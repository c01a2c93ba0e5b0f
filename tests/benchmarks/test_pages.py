"""The pages state the figures that were measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.pages import PAGES, TABLES, fill


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_page_states_what_was_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert fill(text) == text, "run: make results"


def test_every_table_is_on_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert sorted(re.findall(r"<!-- table: (.+) -->", text)) == sorted(TABLES)


def test_tables_are_replaced_and_the_rest_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "TABLES", {"one": lambda: "| 1 |\n", "two": lambda: "| 2 |\n"})
    text = "a\n<!-- table: one -->\n\n<!-- end -->\nb\n<!-- table: two -->\n\nold\n\n<!-- end -->\nc\n"
    filled = "a\n<!-- table: one -->\n\n| 1 |\n\n<!-- end -->\nb\n<!-- table: two -->\n\n| 2 |\n\n<!-- end -->\nc\n"
    assert fill(text) == fill(filled) == filled
    with pytest.raises(KeyError, match="three"):
        fill("<!-- table: three -->\n<!-- end -->")
