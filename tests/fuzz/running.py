"""Runs the inputs of a fuzz target in a child process, and reports what fails: errors, crashes, hangs, growth.

Input `n` of a target depends on the seed and `n` alone. Inputs that failed are written to files.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import logging
import mmap
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from edge_siamese.errors import MAX_MESSAGE, EdgeSiameseError
from edge_siamese.system.board import memory

ROOT = Path(__file__).parents[2]
MAX_CPU_SECONDS, MAX_SECONDS = 10.0, 120.0
"""Of one input: processor time of this process, and elapsed time, after which it hangs."""
MAX_GROWTH_MIB, MAX_MORE_FILES, MAX_MORE_THREADS = 24, 6, 4
"""Growth of a target's process after the first inputs. A leak of one for each input is far larger."""
MAX_FAILURES, MAX_CRASHES = 20, 20
"""Different failures and crashes after which a target ends."""
PROGRESS_SECONDS = 30.0
FAILED = 3
"""Exit status: inputs failed. A process that crashes or hangs ends with another one."""
_NUMBER = struct.Struct("=q")

Feed = Callable[[bytes], object]
"""Handles one input; raises `EdgeSiameseError` for what it refuses, and anything else is a failure."""
Make = Callable[[random.Random], bytes]
"""Makes an input."""


@dataclass(frozen=True)
class Target:
    """What is fuzzed."""

    name: str
    count: int
    """Inputs of `make fuzz`."""
    count_in_tests: int
    """Inputs of `make test`."""
    make: Make
    open: Callable[[Path], AbstractContextManager[Feed]]
    """Prepares the code under test in an empty directory."""
    foreseen: tuple[type[Exception], ...] = (EdgeSiameseError,)
    peak_mib: int = 0
    """Memory that one input may take for a while; 0: only growth counts."""


class Unforeseen(Exception):
    """The code under test did something that it should not."""


class _LoggedFailures(logging.Handler):
    """Keeps what the code under test logged with a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, EdgeSiameseError):
            self.found.append(record)

    def require_none(self) -> None:
        if self.found:
            record, self.found = self.found[0], []
            assert record.exc_info is not None
            raise Unforeseen(f"logged: {record.getMessage()}") from record.exc_info[1]


class Run:
    """Runs inputs of one target in this process."""

    def __init__(self, target: Target, seed: int, out: Path, progress: mmap.mmap | None = None) -> None:
        self.target, self.seed, self.out = target, seed, out
        self.failures: dict[str, int] = {}
        """How often each failure was seen, by its place."""
        self._progress = progress
        self._log = _LoggedFailures()
        self._slowest, self._accepted = (0.0, 0), 0
        self._say = partial(print, file=sys.stdout, flush=True)

    def input(self, number: int) -> bytes:
        """Input `number`."""
        return self.target.make(random.Random(f"{self.target.name} {self.seed} {number}"))

    def all(self, start: int, count: int) -> int:
        """Run inputs; return the exit status."""
        logging.getLogger().addHandler(self._log)
        logging.captureWarnings(True)
        directory, outer = Path(tempfile.mkdtemp(prefix="fuzz-")), tempfile.tempdir
        tempfile.tempdir = str(directory / "tmp")
        Path(tempfile.tempdir).mkdir()
        try:
            # What a daemon prints would hide what fails.
            with (
                open(os.devnull, "w") as null,
                redirect_stdout(null),
                redirect_stderr(null),
                self.target.open(directory) as feed,
            ):
                growth = self._run(feed, start, count)
        finally:
            faulthandler.cancel_dump_traceback_later()
            logging.getLogger().removeHandler(self._log)
            tempfile.tempdir = outer
            shutil.rmtree(directory, ignore_errors=True)
        self._say(
            f"{self.target.name}: {count} inputs, {self._accepted} accepted, {growth}, slowest {self._slowest[0]:.2f} s"
        )
        return FAILED if self.failures else 0

    def _run(self, feed: Feed, start: int, count: int) -> str:
        told, warm = time.monotonic(), start + max(min(50, count // 2), count // 10)
        before: _Size | None = None
        for number in range(start, start + count):
            if self._progress is not None:
                _NUMBER.pack_into(self._progress, 0, number)
            if number == warm:
                before = _Size.now()
            self._one(feed, number)
            if len(self.failures) >= MAX_FAILURES:
                break
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                self._say(f"{self.target.name}: {number - start + 1} of {count}")
        if self._progress is not None:
            _NUMBER.pack_into(self._progress, 0, start + count)
        after = _Size.now()
        before = before or after
        for problem in after.growth_since(before):
            self._report(f"growth: {problem}", start + count - 1, b"", problem)
        return f"{after.resident_mib - before.resident_mib:+.1f} MiB"

    def _one(self, feed: Feed, number: int) -> None:
        data = self.input(number)
        faulthandler.dump_traceback_later(MAX_SECONDS, exit=True)
        limited = self.target.peak_mib and _reset_peak()
        resident = _memory()[0] if limited else 0.0
        begun = time.process_time()
        try:
            try:
                feed(data)
                self._accepted += 1
            except self.target.foreseen as error:
                require_one_line(error)
            self._log.require_none()
            spent = time.process_time() - begun
            self._slowest = max(self._slowest, (spent, number))
            if spent > MAX_CPU_SECONDS:
                raise Unforeseen(f"one input took {spent:.1f} s of processor time")
            if limited and (peak := _memory()[1] - resident) > self.target.peak_mib:
                raise Unforeseen(f"one input took {peak:.0f} MiB of memory")
        except Exception as error:
            self._log.found.clear()
            self._report(_place(error), number, data, "".join(traceback.format_exception(error)))

    def _report(self, place: str, number: int, data: bytes, text: str) -> None:
        self.failures[place] = self.failures.get(place, 0) + 1
        if self.failures[place] == 1:
            path = save(self.out, self.target.name, self.seed, number, data, text)
            last = "\n".join(line[:300] for line in text.rstrip().splitlines()[-12:])
            self._say(f"{self.target.name}: input {number} of seed {self.seed} failed: {path}\n{last}")


@dataclass(frozen=True)
class _Size:
    """The size of this process."""

    resident_mib: float
    files: int
    threads: int
    temporary: int

    @classmethod
    def now(cls) -> _Size:
        gc.collect()
        _release_memory()
        return cls(
            _memory()[0],
            len(os.listdir("/proc/self/fd")),
            len(os.listdir("/proc/self/task")),
            len(os.listdir(tempfile.gettempdir())),
        )

    def growth_since(self, before: _Size) -> Iterator[str]:
        if self.resident_mib - before.resident_mib > MAX_GROWTH_MIB:
            yield f"memory: {before.resident_mib:.0f} to {self.resident_mib:.0f} MiB"
        if self.files - before.files > MAX_MORE_FILES:
            yield f"open files: {before.files} to {self.files}"
        if self.threads - before.threads > MAX_MORE_THREADS:
            yield f"threads: {before.threads} to {self.threads}"
        if self.temporary > before.temporary:
            yield f"temporary files: {before.temporary} to {self.temporary}"


def _memory() -> tuple[float, float]:
    found = memory()
    return (found.resident_mib, found.peak_mib) if found else (0.0, 0.0)


def _reset_peak() -> bool:
    """Start to measure the peak again; return whether the kernel can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _release_memory() -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def require_one_line(error: Exception) -> None:
    """Raise `Unforeseen` unless the message of an error is one line of moderate length."""
    text = str(error)
    if not text or len(text.splitlines()) > 1 or len(text) > MAX_MESSAGE:
        raise Unforeseen(f"the message is not one line for people: {text[:300]!r}") from error


def _place(error: BaseException) -> str:
    """Where an error was raised; identifies a failure."""
    cause = error.__cause__ if isinstance(error, Unforeseen) and error.__cause__ else error
    frames = traceback.extract_tb(cause.__traceback__)
    own = [
        frame for frame in frames if "/edge_siamese/" in frame.filename and "/tests/" not in frame.filename
    ]
    last = (own or frames or [None])[-1]
    return f"{type(cause).__name__} {re.sub('[0-9]+', 'N', str(cause))[:60] if not own else ''} {last}"


def save(out: Path, name: str, seed: int, number: int, data: bytes, text: str) -> Path:
    """Write a failed input, and its traceback beside it."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}-{seed}-{number}.bin"
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


# --- the parent ---


def run_target(
    target: Target, seed: int, start: int, count: int, out: Path, program: str = "tests.fuzz"
) -> int:
    """Run a target in child processes; after a crash, go on with the next input. Returns the exit status.

    `program` is the module that the children run.
    """
    result, crashes, end = 0, 0, start + count
    with tempfile.TemporaryFile() as file:
        file.truncate(_NUMBER.size)
        progress = mmap.mmap(file.fileno(), _NUMBER.size)
        while start < end:
            _NUMBER.pack_into(progress, 0, -1)
            options = {"seed": seed, "start": start, "count": end - start, "out": out, "child": file.fileno()}
            status = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    program,
                    target.name,
                    *(f"--{k}={v}" for k, v in options.items()),
                ],
                cwd=ROOT,
                pass_fds=(file.fileno(),),
            ).returncode
            (number,) = _NUMBER.unpack_from(progress, 0)
            if status in (0, FAILED) and number == end:
                return max(result, status)
            if number < 0:
                print(f"{target.name} cannot start: status {status}", flush=True)
                return FAILED
            text = f"the process ended with status {status}"
            path = save(out, target.name, seed, number, Run(target, seed, out).input(number), text)
            print(f"{target.name}: input {number} of seed {seed}: {text}: {path}", flush=True)
            result, crashes, start = FAILED, crashes + 1, number + 1
            if crashes >= MAX_CRASHES:
                break
    return result


def run_child(target: Target, seed: int, start: int, count: int, out: Path, progress: int) -> int:
    """Run a target in this process; `progress` is a file that says which input runs."""
    return Run(target, seed, out, mmap.mmap(progress, _NUMBER.size)).all(start, count)


def run_files(target: Target, paths: Sequence[Path], out: Path) -> int:
    """Run inputs of files, such as former failures, in this process."""
    inputs = [path.read_bytes() for path in paths]
    return Run(replace(target, make=lambda _: inputs.pop(0)), 0, out).all(0, len(inputs))
