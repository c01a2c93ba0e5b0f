"""Runs each fuzz target for a short time, and checks that failures are found."""

from __future__ import annotations

import os
import random
import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fuzz import running
from tests.fuzz.crashing import CRASHING
from tests.fuzz.running import Feed, Run, Target, run_target
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", list(TARGETS))
def test_nothing_unforeseen(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    status = run_target(TARGETS[name], 0, 0, TARGETS[name].count_in_tests, tmp_path)
    said = capfd.readouterr().out
    assert status == 0, said
    accepted = re.search(rf"^{name}: \d+ inputs, (\d+) accepted, ", said, re.MULTILINE)
    assert accepted is not None and int(accepted[1]) > 0, "all inputs are refused: they test too little"


@pytest.mark.parametrize("name", list(TARGETS))
def test_inputs_depend_on_seed_and_number(name: str) -> None:
    make = TARGETS[name].make
    inputs = [make(random.Random(f"{seed} {number}")) for seed in (0, 1) for number in range(20)]
    assert inputs == [make(random.Random(f"{seed} {number}")) for seed in (0, 1) for number in range(20)]
    assert len(set(inputs)) > 30


def fail(number: int) -> None:
    raise IndexError("no such row")


def refuse(number: int) -> None:
    raise ValueError("two\nlines")


KEPT: list[bytes] = []


def leak_files(number: int) -> None:
    os.dup(0)


def leak_memory(number: int) -> None:
    KEPT.append(bytes([number % 256]) * 1_000_000)


def leak_temporary_files(number: int) -> None:
    descriptor, _ = tempfile.mkstemp()
    os.close(descriptor)


END = threading.Event()


def leak_threads(number: int) -> None:
    threading.Thread(target=END.wait, daemon=True).start()


def take_memory(number: int) -> None:
    KEPT[:] = [bytes([number]) * (100_000_000 if number == 30 else 1)]


def target_of(function: Callable[[int], None], count: int = 60) -> Target:
    """A target whose inputs are their numbers."""

    @contextmanager
    def open_it(directory: Path) -> Iterator[Feed]:
        def feed(data: bytes) -> None:
            function(int(data))

        yield feed

    numbers = iter(range(count))
    foreseen = (ValueError,)
    return Target(
        function.__name__, count, count, lambda _: b"%d" % next(numbers), open_it, foreseen, peak_mib=50
    )


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (fail, "IndexError: no such row"),
        (refuse, "the message is not one line for people"),
        (leak_files, "open files: "),
        (leak_memory, "memory: "),
        (leak_temporary_files, "temporary files: "),
        (leak_threads, "threads: "),
        (take_memory, "one input took "),
    ],
)
def test_failures_are_found(
    function: Callable[[int], None], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    END.clear()
    try:
        assert Run(target_of(function), 0, tmp_path).all(0, 60) == running.FAILED
    finally:
        KEPT.clear()
        END.set()
    assert said in capsys.readouterr().out
    assert [path.suffix for path in tmp_path.iterdir()].count(".bin") == 1


def test_a_crash_is_reported_with_its_input(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The target ends its process at two of eight inputs; the others are run."""
    assert run_target(CRASHING, 0, 0, 20, tmp_path, "tests.fuzz.crashing") == running.FAILED
    inputs = [Run(CRASHING, 0, tmp_path).input(number) for number in range(20)]
    assert {inputs.count(b"3"), inputs.count(b"5")} & {0} == set()
    said = capfd.readouterr().out
    statuses = {b"3": -6, b"5": 0}
    for number, data in enumerate(inputs):
        if data in statuses:
            path = tmp_path / f"crashing-0-{number}.bin"
            assert path.read_bytes() == data
            assert (
                f"crashing: input {number} of seed 0: the process ended with status {statuses[data]}: {path}\n"
                in said
            )
    assert len(list(tmp_path.glob("*.bin"))) == inputs.count(b"3") + inputs.count(b"5")
