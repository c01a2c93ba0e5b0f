"""How commands print: columns that line up, and JSON that machines read."""

from __future__ import annotations

import pytest

from edge_siamese.cli.output import print_json, print_pairs, print_table


def test_pairs_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_pairs({"a": 1, "longer": "two words"})
    assert capsys.readouterr().out == "a       1\nlonger  two words\n"


def test_columns_of_numbers_are_right_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "views", "note"), [("mug", "1", ""), ("pencil", "1,200", "x")])
    assert capsys.readouterr().out == (
        "name    views  note\n------  -----  ----\nmug         1\npencil  1,200  x\n"
    )


def test_a_table_without_rows_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "n"), [])
    assert capsys.readouterr().out == "name  n\n----  -\n"


def test_json_keeps_unicode_and_refuses_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "Tasse ☕"})
    assert capsys.readouterr().out == '{\n  "name": "Tasse ☕"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json(float("nan"))
