"""Errors of other libraries, described in one line."""

from __future__ import annotations

from edge_siamese.errors import first_line


def test_errors_become_one_line() -> None:
    assert first_line(ValueError("\n  first  \nsecond")) == "first"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 200


def test_the_first_error_of_a_chain_is_described() -> None:
    error = RuntimeError("the camera failed")
    error.__cause__ = OSError("no buffers")
    assert first_line(error) == "no buffers"
