"""Errors of other libraries, described in one line."""

from __future__ import annotations

import unicodedata

import pytest

from edge_siamese.errors import (
    BundleNotFound,
    EdgeSiameseError,
    EncoderError,
    NoSuchObject,
    SandboxError,
    error_of_kind,
    first_line,
    printable,
)


def test_errors_become_one_line() -> None:
    assert first_line(ValueError("\n  first  \nsecond")) == "first"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 200


def test_the_first_error_of_a_chain_is_described() -> None:
    error = RuntimeError("the camera failed")
    error.__cause__ = OSError("no buffers")
    assert first_line(error) == "no buffers"


@pytest.mark.parametrize("kind", [EdgeSiameseError, BundleNotFound, NoSuchObject, EncoderError])
def test_a_message_is_one_line_without_control_characters(kind: type[EdgeSiameseError]) -> None:
    assert str(kind("no bundle at /a\x1b[2J\x9bK\u202eb")) == r"no bundle at /a\x1b[2J\x9bK\u202eb"
    assert str(kind("two\n\r\n   lines\u2028here")) == "two lines here"
    assert str(kind("")) == ""


def test_printable_escapes_what_a_terminal_acts_on_and_keeps_text() -> None:
    text = "Tasse ☕ naïve\u00a0日本 \U0001f469\u200d\U0001f52c"
    assert printable(text) == text
    for code in (
        *range(32),
        *range(127, 160),
        0xAD,
        0x200E,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        0xFEFF,
    ):
        assert printable(chr(code)) == ascii(chr(code))[1:-1] != chr(code)
    assert printable("\ud800\u2029") == r"\ud800\u2029"
    everything = printable("".join(map(chr, range(0x110000))))
    assert {unicodedata.category(c) for c in everything if c not in "\u200c\u200d"}.isdisjoint(
        {"Cc", "Cf", "Cs", "Zl", "Zp"}
    )


def test_an_error_of_another_process_keeps_a_known_class() -> None:
    assert type(error_of_kind("BundleNotFound", "gone", EncoderError)) is BundleNotFound
    for kind in ("OSError", "printable", "unicodedata", None, 3):
        error = error_of_kind(kind, "gone", EncoderError)
        assert (type(error), str(error)) == (EncoderError, "gone")
    assert SandboxError("x: SIGSEGV", "SIGSEGV").reason == "SIGSEGV"
