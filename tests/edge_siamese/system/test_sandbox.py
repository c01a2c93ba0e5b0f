"""A confined child: what it may not do, and how each way to end is reported."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.errors import BundleError, SandboxError
from edge_siamese.system import sandbox
from edge_siamese.system.sandbox import ConfinedChild, Limits

HERE = "tests.edge_siamese.system.confined:"
MIB = 1 << 20
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has an account to give up")


def confined(function: str, limits: Limits | None = None, **arguments: Any) -> Any:
    child = ConfinedChild(HERE + function, limits or Limits(memory_bytes=256 * MIB), **arguments)
    try:
        while not child.poll(1.0):
            pass
        return child.result()
    finally:
        child.close()


@pytest.fixture
def public_file() -> Iterator[Path]:
    """A file that every account may change, in a directory that every account may change."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)
        file = Path(place) / "file"
        file.write_bytes(b"content")
        file.chmod(0o666)
        yield file


def test_the_result_arrives() -> None:
    assert confined("echo", text="ä\n", number=3, nothing=None) == {
        "text": "ä\n",
        "number": 3,
        "nothing": None,
    }


def test_the_child_has_no_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = confined("account")
    assert found["no_new_privileges"] and found["session"]
    assert (found["core"], found["file"], found["directory"]) == ([0, 0], [0, 0], "/")
    assert "SECRET_TOKEN" not in found["environment"]
    assert "OMP_NUM_THREADS" in found["environment"]


@only_root
def test_root_becomes_nobody_without_groups() -> None:
    found = confined("account")
    assert len(set(found["user"])) == 1 and found["user"][0] not in (0, os.geteuid())
    assert 0 not in found["groups"]


@pytest.fixture(scope="module")
def filtered() -> None:
    if not confined("account")["filter"]:
        pytest.skip("this kernel has no system call filters")


@pytest.mark.usefixtures("filtered")
@pytest.mark.parametrize(
    "what",
    [
        "connect", "local socket", "program", "fork", "kill the parent", "create", "change", "append", "empty",
        "remove", "rename", "mode", "directory", "link",
    ],
)  # fmt: skip
def test_what_a_child_may_not_do(what: str, public_file: Path) -> None:
    outcome = confined("attempt", what=what, path=str(public_file))
    assert outcome == ("OSError" if what == "append" else "PermissionError")
    assert public_file.read_bytes() == b"content"
    assert [path.name for path in public_file.parent.iterdir()] == ["file"]


def test_threads_and_reading_work() -> None:
    assert confined("works") == [1]


@pytest.mark.parametrize(
    "number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGBUS]
)
def test_a_crash_is_one_error(number: signal.Signals) -> None:
    with pytest.raises(SandboxError, match=rf"^the library 1\.0: {number.name}$") as caught:
        confined("crash", number=int(number))
    assert caught.value.reason == number.name


def test_a_segmentation_fault_is_one_error() -> None:
    with pytest.raises(SandboxError, match=r"^the library 1\.0: SIGSEGV$"):
        confined("segmentation_fault")


@pytest.mark.parametrize("inside", [True, False])
def test_an_expected_error_keeps_its_class(inside: bool) -> None:
    with pytest.raises(BundleError) as caught:
        confined("refuse", confined=inside)
    escaped = r"\x1b[31m" if inside else ""
    assert str(caught.value) == f"the bundle{escaped} is damaged"


def test_an_unexpected_error_is_described() -> None:
    with pytest.raises(SandboxError, match=r"^unexpected KeyError: 'scale'$"):
        confined("fail")


def test_memory_is_limited() -> None:
    limits = Limits(memory_bytes=64 * MIB)
    assert confined("allocate", limits, mib=32) == 32 * MIB
    with pytest.raises(SandboxError, match=r"^it exceeded its memory limit$"):
        confined("allocate", limits, mib=96)


def test_processor_time_is_limited() -> None:
    with pytest.raises(SandboxError, match=r"^the library 1\.0: takes more than 1 s of processor time$"):
        confined("compute", Limits(processor_seconds=1))


def test_elapsed_time_is_limited() -> None:
    with pytest.raises(SandboxError, match=r"^the library 1\.0: no result within 3 s$"):
        confined("wait", Limits(seconds=3.0))


def test_a_long_answer_is_not_kept() -> None:
    with pytest.raises(SandboxError, match=r"^the library 1\.0: ended with status 0: x{100,200}$"):
        confined("chatter")


def test_a_child_that_leaves_is_reported_with_its_last_line() -> None:
    with pytest.raises(SandboxError) as caught:
        confined("leave", status=3)
    assert str(caught.value) == r"the library 1.0: ended with status 3: it\x07 went wrong"


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "[" * 5000 + "]" * 5000, "[" * 60_000, '{"result": NaN}', '{"result": 1, "result": 2}', "\xff"],
)  # fmt: skip
def test_a_reply_that_is_no_result(text: str) -> None:
    with pytest.raises(SandboxError, match=r"^the library 1\.0: ended with status 0$"):
        confined("reply", text=text)


def test_a_child_that_does_not_start_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        SandboxError, match=r"^the child process: ended with status 1: ImportError: no such library$"
    ):
        confined("no_start")
    monkeypatch.setattr(sandbox.sys, "executable", "/no/python")
    with pytest.raises(SandboxError, match=r"^a child process cannot be started: No such file or directory$"):
        confined("echo")


def test_a_caller_can_do_other_work_meanwhile_and_end_the_child() -> None:
    child = ConfinedChild(HERE + "wait")
    while not child.stage:
        assert not child.poll(0.1)
    assert child.stage == "the library 1.0"
    pid = child._process.pid
    child.close()
    child.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_nothing_is_imported_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "selectors.py").write_text("raise SystemExit('foreign code ran')\n")
    monkeypatch.chdir(tmp_path)
    assert confined("echo", number=1) == {"number": 1}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_program_is_well_formed(machine: str) -> None:
    program = sandbox._filter_program(machine)
    for index, (operation, if_true, if_false, _) in enumerate(program):
        if operation in (sandbox._EQUAL, sandbox._AT_LEAST, sandbox._ANY_BIT):
            assert index + 1 + max(if_true, if_false) < len(program)
    assert program[-1] == (sandbox._RETURN, 0, 0, sandbox._ALLOW)
    assert len(program) < 4096
