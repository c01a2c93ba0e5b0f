"""Runs third-party converters: silenced, in a child process that may crash, with their errors in one line."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import json
import logging
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from edge_siamese.errors import EdgeSiameseError, ExportError

DEBUG_VARIABLE = "EDGE_SIAMESE_DEBUG"
MAX_LINE = 200
"""Characters of a message of a converter that are shown."""
MAX_OUTPUT_BYTES = 8192
"""Bytes at the end of a child's output that are searched for its last line."""
FULL = (errno.ENOSPC, errno.EDQUOT)
_PR_SET_PDEATHSIG = 1  # prctl(2)


def debugging() -> bool:
    """Whether their output is shown: `--debug` sets the environment variable."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


@contextlib.contextmanager
def third_party(action: str) -> Iterator[None]:
    """Run third-party code: drop its output, logs and warnings, and turn its errors into an `ExportError`.

    Converters also print from C++, so the file descriptors themselves are redirected.

    Args:
        action: the action, for the message, such as "converting to ONNX".

    Raises:
        ExportError: the code raised an error that is not one of this project.
    """
    try:
        with contextlib.nullcontext() if debugging() else _silence():
            yield
    except EdgeSiameseError:
        raise
    except Exception as error:
        raise ExportError(f"{action} failed: {_explain(error)}{_hint()}") from error


def preload(action: str, *modules: str) -> None:
    """Import modules that a converter imports on demand, so that its child processes inherit them.

    Modules that this version of the converter does not have are skipped.
    """
    with third_party(f"importing the modules of {action}"):
        for name in modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)


def in_child(action: str, work: Callable[[], object], out: Path) -> None:
    """Run a converter as `third_party` does, in a copy of this process, whose crash leaves this one alive.

    The child is forked, so it costs no imports of what is imported before, see `preload`. Only the files remain of its
    work. If this process uses a GPU, which does not survive a fork, or the system is not Linux, the converter runs here.

    Args:
        action: the action, for the message.
        work: the converter.
        out: the file that it writes; removed if the converter fails.

    Raises:
        ExportError: the converter failed or crashed; the message has the reason and its last line.
    """
    torch = sys.modules.get("torch")
    try:
        if sys.platform != "linux" or (torch is not None and torch.cuda.is_initialized()):
            with third_party(action):
                work()
            return
        _fork(action, work)
    except ExportError:
        out.unlink(missing_ok=True)
        raise


def _fork(action: str, work: Callable[[], object]) -> None:
    # In memory: the disk may be full.
    with (
        os.fdopen(os.memfd_create("output"), "w+b") as output,
        os.fdopen(os.memfd_create("error"), "w+b") as reply,
    ):
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python and JAX warn that threads do not survive a fork; none is used before it.
            warnings.simplefilter("ignore")
            child = os.fork()
        if child == 0:
            _run_and_exit(action, work, output.fileno(), reply.fileno())
        try:
            _, status = os.waitpid(child, 0)
        except BaseException:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise
        if status == 0:
            return
        reply.seek(0)
        if message := reply.read().decode("utf-8"):
            raise ExportError(str(json.loads(message)))
        raise ExportError(f"{action} failed: {_end(status)}{_last_line(output.fileno())}{_hint()}")


def _run_and_exit(action: str, work: Callable[[], object], output: int, reply: int) -> NoReturn:
    """The child: run the converter, write the message of an error, and end without the parent's cleanup."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if (torch := sys.modules.get("torch")) is not None:
            torch.set_num_threads(1)  # the pool of the parent's threads was not copied
        with third_party(action), contextlib.nullcontext() if debugging() else _redirected(output):
            work()
        status = 0
    except EdgeSiameseError as error:
        os.write(reply, json.dumps(str(error)).encode())
    except BaseException as error:  # a converter may also exit
        os.write(reply, json.dumps(f"{action} failed: {_explain(error)}{_hint()}").encode())
    finally:
        os._exit(status)


def _end(status: int) -> str:
    """Describe how a child ended, from its wait status."""
    if not os.WIFSIGNALED(status):
        return f"the converter exited with status {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    if number == signal.SIGKILL:
        return "the converter was killed, probably because memory ran out"
    return f"the converter crashed ({signal.Signals(number).name})"


def _last_line(output: int) -> str:
    """`; its last line: ...`, or an empty string if there is none."""
    size = os.fstat(output).st_size
    tail = os.pread(output, MAX_OUTPUT_BYTES, max(0, size - MAX_OUTPUT_BYTES)).decode("utf-8", "replace")
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return f"; its last line: {lines[-1][:MAX_LINE]}" if lines else ""


def _hint() -> str:
    return "" if debugging() else " (--debug shows everything)"


def _explain(error: BaseException) -> str:
    """One line about an error of a converter."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            where = (
                cause.filename or f"the temporary directory ({tempfile.gettempdir()}) or that of the results"
            )
            return f"no space left on the disk for {where}: free some, and run the same command again"
        cause = cause.__cause__ or cause.__context__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:MAX_LINE] if lines else 'no message'}"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    with os.fdopen(os.open(os.devnull, os.O_WRONLY), "wb") as sink, _redirected(sink.fileno()):
        yield


@contextlib.contextmanager
def _redirected(target: int) -> Iterator[None]:
    """Send both output streams to a file descriptor, and switch logs and warnings off."""
    sys.stdout.flush()
    sys.stderr.flush()
    originals = os.dup(1), os.dup(2)
    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        os.dup2(target, 1)
        os.dup2(target, 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), originals, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
            logging.disable(disabled)
