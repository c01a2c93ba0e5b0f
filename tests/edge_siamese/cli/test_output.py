"""How commands print: columns that line up, and JSON that machines read."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from edge_siamese.cli.daemon import _Priorities
from edge_siamese.cli.output import (
    LogFormatter,
    json_text,
    print_json,
    print_line,
    print_pairs,
    print_table,
)


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


def test_control_characters_are_escaped_wherever_text_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    foreign = "a\x1b[31m\r\n\x9b2J\u202e\u2028☕"
    shown = r"a\x1b[31m\r\n\x9b2J\u202e\u2028☕"
    print_line(foreign)
    print_pairs({"model": foreign})
    print_table(("model",), [(foreign,)])
    assert capsys.readouterr().out == f"{shown}\nmodel  {shown}\nmodel\n{'-' * len(shown)}\n{shown}\n"


def test_json_has_no_characters_that_a_terminal_acts_on(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a\x9b": "\u202e\u2028\x7f\x1b\ud800☕"}
    print_json(value)
    text = capsys.readouterr().out
    assert text == '{\n  "a\\u009b": "\\u202e\\u2028\\u007f\\u001b\\ud800☕"\n}\n'
    assert json.loads(text) == value
    assert json_text(value) == text.replace("\n", "").replace("  ", "")


@pytest.mark.parametrize("formatter", [LogFormatter("%(message)s"), _Priorities("%(message)s")])
def test_a_log_message_is_one_line(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("two\nlines\x1b")
    except ValueError:
        error = sys.exc_info()
    record = logging.LogRecord("x", logging.ERROR, "", 0, "the model %s", ("a\n<0>b\x1b\u202e",), None)
    prefix = "<3>" if isinstance(formatter, _Priorities) else ""
    assert formatter.format(record) == prefix + r"the model a\n<0>b\x1b\u202e"
    record.exc_info = error
    first, *trace = formatter.format(record).split("\n")
    assert first == prefix + r"the model a\n<0>b\x1b\u202e"
    assert trace[-1] == prefix + r"lines\x1b"
