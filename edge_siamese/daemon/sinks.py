"""Event sinks: journal, JSON Lines file, and hook command."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from edge_siamese.daemon.event_bus import SINK_QUEUE, ProblemLog, Sink
from edge_siamese.events import Event
from edge_siamese.settings import Settings
from edge_siamese.system.command import CommandRunner, command_problem
from edge_siamese.system.wall_clock import local_time
from edge_siamese.validation import SchemaError, parse_json

FILE_NAME = "events.jsonl"
RETRY_SECONDS = 30.0
HOOK_QUEUE = 32

# Priorities in the journal; all other kinds are informational (6).
_PRIORITIES = {"seen": 7, "refused": 5}
_PRIORITY_OF_LEVEL = {"error": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}

LOG = logging.getLogger(__name__)


def open_sinks(settings: Settings) -> list[Sink]:
    """Return the sinks that are turned on; nothing is opened before the first event."""
    sinks: list[Sink] = [JournalSink()]
    if settings.events.file:
        sinks.append(FileSink(settings.state_directory / FILE_NAME, settings.events.max_file_bytes))
    if settings.events.hook:
        sinks.append(HookSink(settings.events.hook, settings.events.hook_timeout_s))
    return sinks


class JournalSink:
    """Writes a human-readable line: to the journal with a priority, else to standard output with the time."""

    name = "journal"
    queue = SINK_QUEUE

    def __init__(self, out: TextIO | None = None, *, journal: bool | None = None) -> None:
        self._journal = in_journal() if journal is None else journal
        self._out = out or (sys.stderr if self._journal else sys.stdout)

    def take(self, event: Event) -> None:
        text = " ".join(event.text.split())
        start = (
            f"<{_priority(event)}>" if self._journal else f"{local_time(event.time, '%Y-%m-%d %H:%M:%S')}  "
        )
        line = start + text
        encoding = self._out.encoding or "utf-8"
        print(line.encode(encoding, "replace").decode(encoding), file=self._out, flush=True)

    def interrupt(self) -> None:
        """Do nothing: a write to a terminal cannot be interrupted."""

    def close(self) -> None:
        """Do nothing: the stream belongs to the process."""


def in_journal() -> bool:
    """Return whether stderr goes to the journal: `JOURNAL_STREAM` names its device and inode."""
    try:
        state = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError, AttributeError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{state.st_dev}:{state.st_ino}"


def _priority(event: Event) -> int:
    return _PRIORITY_OF_LEVEL.get(str(event.data.get("level")), _PRIORITIES.get(event.kind, 6))


class FileSink:
    """Appends lines of JSON to a file, each in one write; a full file is renamed to `.1`.

    Lines are not synced one by one, which would wear a memory card. A power cut may lose the last half minute, and leave
    half a line, after which the next event starts a new line.
    """

    name = "event file"
    queue = SINK_QUEUE

    def __init__(self, path: Path, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._clock = clock
        self._file = -1
        self._torn = False
        self._retry_at = float("-inf")
        self._lost = 0

    def take(self, event: Event) -> None:
        line = json.dumps(event.to_dict(), ensure_ascii=False, separators=(",", ":")).encode(
            "utf-8", "replace"
        )
        if self._clock() < self._retry_at:
            self._lost += 1
            return
        try:
            self._append(line + b"\n")
        except OSError as error:
            if self._retry_at == float("-inf"):
                LOG.warning("%s cannot be written: %s", self._path, error.strerror or error)
            self._lost += 1
            self._retry_at = self._clock() + RETRY_SECONDS
            self._close_file()
            return
        if self._lost:
            LOG.warning("%s can be written again; %d events are missing", self._path, self._lost)
        self._retry_at, self._lost = float("-inf"), 0

    def interrupt(self) -> None:
        """Do nothing: a write to a disk cannot be interrupted."""

    def close(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.fsync(self._file)
            self._close_file()

    def _append(self, line: bytes) -> None:
        self._open()
        size = os.fstat(self._file).st_size
        if size and size + len(line) > self._max_bytes:
            os.fsync(self._file)
            os.replace(self._path, self._path.with_name(f"{self._path.name}.1"))
            self._close_file()
            self._open()
        if self._torn:
            line = b"\n" + line
        written = os.write(self._file, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self) -> None:
        if self._file >= 0:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._file), self._path.stat()):
                    return
            self._close_file()  # the file was moved or removed
        self._path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
        self._file = os.open(self._path, flags, 0o640)
        size = os.fstat(self._file).st_size
        self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read_events(path: Path, count: int) -> list[dict[str, Any]]:
    """Read the last events from an event file and its predecessor, oldest first; incomplete lines are skipped.

    Args:
        path: `events.jsonl`, which may be missing.
        count: maximum number of events.

    Raises:
        OSError: the file exists and cannot be read.
    """
    events: list[dict[str, Any]] = []
    for part in (path, path.with_name(f"{path.name}.1")):
        try:
            lines = part.read_bytes().splitlines()
        except FileNotFoundError:
            continue
        for line in reversed(lines):
            if len(events) >= count:
                return events[::-1]
            try:
                value = parse_json(line)
            except SchemaError:
                continue
            if isinstance(value, dict) and "kind" in value:
                events.append(value)
    return events[::-1]


def hook_problem(command: tuple[str, ...]) -> str:
    """Why a hook cannot be run, as `HookSink` logs it; empty if it can."""
    problem = command_problem(command)
    return f"the hook {problem}" if problem else ""


class HookSink:
    """Runs a command for each event, one at a time, with the event as a line of JSON on standard input."""

    name = "hook"
    queue = HOOK_QUEUE

    def __init__(
        self, command: tuple[str, ...], timeout_s: float, *, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = command
        self._timeout_s = timeout_s
        self._problems = ProblemLog(LOG)
        self._runner = CommandRunner(environment)

    def take(self, event: Event) -> None:
        line = json.dumps(event.to_dict(), ensure_ascii=False) + "\n"
        problem = self._runner.run(
            self._command, line.encode("utf-8", "replace"), self._timeout_s, _variables(event)
        )
        if problem:
            self._problems.report(f"the hook {problem}")
        elif not self._runner.interrupted:
            self._problems.resolve(f"the hook {self._command[0]} works again")

    def interrupt(self) -> None:
        self._runner.interrupt()

    def close(self) -> None:
        self._runner.close()


def _variables(event: Event) -> dict[str, str]:
    name = str(event.data.get("name") or "").replace("\0", " ")
    return {"EDGE_SIAMESE_EVENT": event.kind, "EDGE_SIAMESE_NAME": name.encode("utf-8", "replace").decode()}
