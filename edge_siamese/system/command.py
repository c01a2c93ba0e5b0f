"""Runs commands from the settings: without a shell, with a time limit, and with bounded output."""

from __future__ import annotations

import errno
import os
import select
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

GRACE_SECONDS = 0.5
"""Time between SIGTERM and SIGKILL for a command that takes too long."""
MAX_OUTPUT_BYTES = 4096
SYSTEMD_VARIABLES = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "JOURNAL_STREAM",
    "FDSTORE",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
)
"""Environment variables from systemd that are not passed to commands."""


def command_problem(command: Sequence[str]) -> str:
    """Why a command cannot be run, such as `aplay cannot be run: No such file or directory`; empty if it can."""
    program = command[0]
    if "/" not in program:
        code = 0 if shutil.which(program) else errno.ENOENT
    elif not os.path.exists(program):
        code = errno.ENOENT
    else:
        code = 0 if os.access(program, os.X_OK) and not os.path.isdir(program) else errno.EACCES
    return f"{program} cannot be run: {os.strerror(code)}" if code else ""


class CommandRunner:
    """Runs one command at a time. Used from one thread, except for `interrupt`."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Run nothing yet. `environment` replaces that of this process."""
        environment = os.environ if environment is None else environment
        self._environment = {
            name: value for name, value in environment.items() if name not in SYSTEMD_VARIABLES
        }
        self._interrupted = threading.Event()
        self._wake_read, self._wake_write = os.pipe()

    @property
    def interrupted(self) -> bool:
        """Whether no more commands are run."""
        return self._interrupted.is_set()

    def run(
        self,
        command: Sequence[str],
        text: bytes,
        timeout_s: float,
        variables: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command and wait for it.

        Args:
            command: the program and its arguments.
            text: its standard input.
            timeout_s: limit in seconds, after which it is killed with its children.
            variables: additional environment variables.

        Returns:
            What went wrong, starting with the program, such as `aplay failed with status 1: no soundcards found`; empty if
            nothing did, or if `interrupt` was called.
        """
        if self.interrupted:
            return ""
        with os.fdopen(os.memfd_create("input"), "wb+") as file:
            file.write(text)
            file.seek(0)
            try:
                # In its own session, so that its children can be killed with it.
                process = subprocess.Popen(
                    command,
                    stdin=file,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**self._environment, **(variables or {})},
                    cwd="/",
                    start_new_session=True,
                )
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                return f"{command[0]} cannot be run: {reason}"
        with process:
            output, in_time = self._wait(process, timeout_s)
        problem = _problem(process.returncode, output, None if in_time else timeout_s)
        return f"{command[0]} {problem}" if problem and not self.interrupted else ""

    def interrupt(self) -> None:
        """Kill a running command, and run no more; from any thread."""
        self._interrupted.set()
        with suppress(OSError):
            os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Release all resources; no command may be running."""
        self._interrupted.set()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _wait(self, process: subprocess.Popen[bytes], timeout_s: float) -> tuple[bytes, bool]:
        """Wait for a command; returns the end of its output and whether it ended in time.

        Waits for the process and not for the end of the output, which background processes may hold open.
        """
        assert process.stdout is not None
        stdout = process.stdout.fileno()
        os.set_blocking(stdout, False)
        deadline = time.monotonic() + timeout_s
        output, in_time = b"", True
        ended = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                for descriptor in (stdout, ended, self._wake_read):
                    selector.register(descriptor, selectors.EVENT_READ)
                while True:
                    ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
                    if stdout in ready:
                        part = _read(stdout)
                        output = (output + part)[-MAX_OUTPUT_BYTES:]
                        if not part:
                            selector.unregister(stdout)
                    if ended in ready:
                        break
                    if not ready or self._wake_read in ready or time.monotonic() >= deadline:
                        in_time = False
                        _kill(process, ended)
                        break
        finally:
            os.close(ended)
        return (output + _read(stdout))[-MAX_OUTPUT_BYTES:], in_time


def _problem(status: int, output: bytes, timeout_s: float | None) -> str:
    """Describe a failure; `timeout_s`: the limit that was exceeded."""
    lines = output.decode("utf-8", "replace").split("\n")
    last = next((f": {line.strip()[:200]}" for line in reversed(lines) if line.strip()), "")
    if timeout_s is not None:
        return f"took longer than {timeout_s:g} s and was killed{last}"
    if not status:
        return ""
    how = f"was killed by {signal_name(-status)}" if status < 0 else f"failed with status {status}"
    return f"{how}{last}"


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""


def _kill(process: subprocess.Popen[bytes], ended: int) -> None:
    """Kill a process group. Its id cannot be reused before `wait`."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    select.select([ended], [], [], GRACE_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def signal_name(number: int) -> str:
    """Name of a signal, such as `SIGKILL`, or `signal N` if it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
