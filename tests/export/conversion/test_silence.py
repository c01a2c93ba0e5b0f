"""Converters of other projects: silent unless debugging, and their errors in one line."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_siamese.errors import DataError, ExportError
from export.conversion.silence import DEBUG_VARIABLE, debugging, in_child, third_party
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


# --- in a child process ---


def file_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "file"
    path.write_text(text)
    return path


def test_a_converter_in_a_child_leaves_its_file(tmp_path: Path, noise: Callable[[], None]) -> None:
    out, processes = tmp_path / "file", []

    def work() -> None:
        noise()
        processes.append(os.getpid())
        out.write_text(str(os.getpid()))

    in_child("converting", work, out)
    assert int(out.read_text()) != os.getpid() and processes == []  # not in this process


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "the converter was killed, probably because memory ran out"),
        (signal.SIGSEGV, "the converter crashed (SIGSEGV)"),
        (signal.SIGABRT, "the converter crashed (SIGABRT)"),
    ],
)
def test_a_converter_that_crashes_is_told_with_its_last_line(
    tmp_path: Path,
    number: signal.Signals,
    reason: str,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_own_streams(monkeypatch)
    out = file_of(tmp_path, "former")

    def work() -> None:
        out.write_text("half of a fi")
        print("loading")
        os.write(2, b"terminate called after bad_alloc\n\n")
        os.kill(os.getpid(), number)

    with pytest.raises(ExportError) as error:
        in_child("quantizing to TFLite int8", work, out)
    assert str(error.value) == (
        f"quantizing to TFLite int8 failed: {reason}; its last line: terminate called after bad_alloc "
        "(--debug shows everything)"
    )
    assert not out.exists()  # nothing half-written is left
    assert capfd.readouterr() == ("", "")


def test_a_converter_that_exits_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ExportError) as error:
        in_child("converting", lambda: os._exit(7), tmp_path / "file")
    assert (
        str(error.value) == "converting failed: the converter exited with status 7 (--debug shows everything)"
    )
    with pytest.raises(ExportError, match="converting failed: SystemExit: 3"):
        in_child("converting", lambda: sys.exit(3), tmp_path / "file")


def test_errors_of_a_child_are_those_of_third_party_code(tmp_path: Path) -> None:
    def unknown() -> None:
        raise ValueError("first line\nsecond line")

    def known() -> None:
        raise ExportError("the ONNX graph has no cast")

    with pytest.raises(ExportError) as error:
        in_child("converting", unknown, tmp_path / "file")
    assert str(error.value) == "converting failed: ValueError: first line (--debug shows everything)"
    with pytest.raises(ExportError, match=r"^the ONNX graph has no cast$"):
        in_child("converting", known, tmp_path / "file")


@pytest.mark.parametrize("run", ["child", "here"])
def test_a_full_disk_is_told_as_such(tmp_path: Path, run: str) -> None:
    def work() -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("the writer failed") from error

    def here() -> None:
        with third_party("converting"):
            work()

    with pytest.raises(ExportError) as error:
        in_child("converting", work, tmp_path / "file") if run == "child" else here()
    assert str(error.value) == (
        f"converting failed: no space left on the disk for the temporary directory ({tempfile.gettempdir()}) or that of the "
        "results: free some, and run the same command again (--debug shows everything)"
    )


def test_an_interrupted_converter_ends_with_its_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[int] = []
    waitpid = os.waitpid

    def interrupted(child: int, options: int) -> tuple[int, int]:
        if not children:
            children.append(child)
            raise KeyboardInterrupt
        return waitpid(child, options)

    monkeypatch.setattr(os, "waitpid", interrupted)
    with pytest.raises(KeyboardInterrupt):
        in_child("converting", lambda: signal.pause(), tmp_path / "file")
    with pytest.raises(ProcessLookupError):
        os.kill(children[0], 0)
