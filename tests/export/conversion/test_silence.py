"""Converters of other projects: unheard unless debugging, and their errors in one line."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator

import pytest

from edge_siamese.errors import DataError, ExportError
from export.conversion.silence import DEBUG_VARIABLE, debugging, third_party
from tests.export.conversion.test_onnx import use_own_streams


@pytest.fixture(autouse=True)
def not_debugging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "")


@pytest.fixture
def noise() -> Iterator[Callable[[], None]]:
    """Prints by every way there is."""
    handler = logging.StreamHandler(sys.__stderr__)
    log = logging.getLogger("a.converter")
    log.addHandler(handler)

    def make() -> None:
        print("to standard output")
        print("to standard error", file=sys.stderr)
        os.write(1, b"from C++\n")
        os.write(2, b"from C++\n")
        log.critical("a log")
        warnings.warn("a warning", stacklevel=1)

    yield make
    log.removeHandler(handler)


def convert(what: str, error: BaseException | None = None, noise: Callable[[], None] = lambda: None) -> None:
    """As a converter does: some noise, then perhaps an error."""
    with third_party(what):
        noise()
        if error is not None:
            raise error


def test_converters_are_not_heard_but_what_comes_before_and_after_is(
    noise: Callable[[], None], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_own_streams(monkeypatch)
    disabled = logging.root.manager.disable
    print("before")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert("converting", noise=noise)
    print("after", flush=True)
    os.write(2, b"after\n")
    assert capfd.readouterr() == ("before\nafter\n", "after\n")
    assert logging.root.manager.disable == disabled


def test_converters_are_heard_when_debugging(
    noise: Callable[[], None], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_own_streams(monkeypatch)
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with pytest.warns(UserWarning, match="a warning"):
        convert("converting", noise=noise)
    sys.stdout.flush()
    sys.stderr.flush()
    printed = capfd.readouterr()
    assert sorted(printed.out.splitlines()) == ["from C++", "to standard output"]
    assert sorted(printed.err.splitlines()) == ["a log", "from C++", "to standard error"]


@pytest.mark.parametrize(("value", "wanted"), [("", False), ("0", False), ("1", True), ("yes", True)])
def test_the_noise_is_wanted_when_the_variable_says_so(
    value: str, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, value)
    assert debugging() is wanted


def test_an_error_of_a_converter_becomes_one_line(
    noise: Callable[[], None], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_own_streams(monkeypatch)
    cause = TypeError("\n\n  no lowering for aten.roll  \n  File 'x.py', line 3\n")
    with pytest.raises(ExportError) as raised:
        convert("converting to X", cause, noise)
    assert str(raised.value) == (
        "converting to X failed: TypeError: no lowering for aten.roll (--debug shows everything)"
    )
    assert raised.value.__cause__ is cause
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ExportError, match=r"^c failed: ValueError: no message \(--debug"):
        convert("c", ValueError())
    with pytest.raises(ExportError) as raised:
        convert("c", ValueError("x" * 5000))
    assert len(str(raised.value)) < 260
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with pytest.raises(ExportError) as raised:
        convert("c", ValueError("short"))
    assert str(raised.value) == "c failed: ValueError: short"


@pytest.mark.parametrize("error", [DataError("own"), KeyboardInterrupt("stop")])
def test_own_errors_and_ctrl_c_pass_through_and_the_streams_are_back(
    error: BaseException,
    noise: Callable[[], None],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_own_streams(monkeypatch)
    with pytest.raises(type(error)) as raised:
        convert("converting", error, noise)
    assert raised.value is error
    print("heard", flush=True)
    os.write(2, b"heard\n")
    assert capfd.readouterr() == ("heard\n", "heard\n")
