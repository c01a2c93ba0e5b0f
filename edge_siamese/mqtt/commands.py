"""Commands that arrive by MQTT: validated, run one at a time on their own thread, and answered."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from edge_siamese.daemon.api import DaemonApi, SilentClient
from edge_siamese.daemon.commands import Command, NoArguments, arguments_of, commands_for
from edge_siamese.errors import EdgeSiameseError, Refused, printable
from edge_siamese.mqtt.client import ReceivedMessage
from edge_siamese.validation import Record, SchemaError, convert, nearest, parse_json

MAX_BYTES = 4096
"""Size of a command's payload."""
MAX_NAME_LENGTH = 40
"""Characters of an unknown command's name that its reply repeats."""
MAX_ID_LENGTH = 64
MAX_QUEUED = 8
"""Commands that may wait; further ones are refused."""
MAX_LOGGED, LOG_SECONDS = 10, 60.0
"""Refused commands that are logged in this time; others are counted."""
MAX_LOGGED_LENGTH = 300
"""Characters of the reason."""
SNAPSHOT = "snapshot"
"""A command that only MQTT has."""
COMMANDS: dict[str, Command] = {
    **{command.name: command for command in commands_for("mqtt")},
    SNAPSHOT: Command(SNAPSHOT, NoArguments, "Publish a picture.", ""),
}

LOG = logging.getLogger(__name__)

_RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_LENGTH)]


def keys_of(command: Command) -> dict[str, bool]:
    """Return the keys of a command's payload, and whether each is required; pictures do not fit into one."""
    return {argument.name: argument.required for argument in arguments_of(command) if not argument.is_picture}


@dataclass(frozen=True)
class CommandRequest:
    """A command with its arguments."""

    name: str
    arguments: Record | None = None
    id: str | None = None
    """Repeated in the reply."""
    error: str = ""
    """Why it cannot be run; empty if it can."""


def parse_request(name: str, payload: bytes) -> CommandRequest:
    """Parse the last level of a command's topic and its payload, which is empty or a JSON object."""
    name = name[:MAX_NAME_LENGTH]
    command = COMMANDS.get(name)
    if command is None:
        return CommandRequest(name, error=f"there is no command {name!r}{nearest(name, COMMANDS)}")
    request_id = None
    try:
        value = parse_json(payload, max_bytes=MAX_BYTES) if payload.strip() else {}
        if not isinstance(value, dict):
            raise SchemaError("", 'must be empty or a JSON object, such as {"name": "mug"}')
        if "id" in value:
            request_id = convert(value.pop("id"), _RequestId, "id")
        for key in value.keys() - keys_of(command).keys():
            raise SchemaError(key[:MAX_NAME_LENGTH], f"unknown key{nearest(key, keys_of(command))}")
        return CommandRequest(name, command.parse(value), request_id)
    except SchemaError as error:
        return CommandRequest(name, id=request_id, error=f"{name}: {error}")


class RefusalLog:
    """Logs refused commands at a bounded rate, since anyone who may publish can cause any number of them. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Log nothing yet. `clock` returns seconds."""
        self._clock = clock
        self._since = -LOG_SECONDS
        self._logged = self._suppressed = 0
        self._lock = threading.Lock()

    def note(self, name: str, error: str) -> None:
        """Log or count a refused command."""
        with self._lock:
            if (now := self._clock()) - self._since >= LOG_SECONDS:
                self.flush()
                self._since, self._logged = now, 0
            if self._logged < MAX_LOGGED:
                self._logged += 1
                LOG.warning("MQTT command %s refused: %s", ascii(name), printable(error[:MAX_LOGGED_LENGTH]))
            else:
                self._suppressed += 1

    def flush(self) -> None:
        """Log the number of refused commands that were not logged."""
        if self._suppressed:
            LOG.warning("%d more MQTT commands were refused", self._suppressed)
        self._suppressed = 0


class CommandRunner:
    """The thread that runs commands."""

    def __init__(
        self, api: DaemonApi, reply: Callable[[dict[str, Any]], object], snapshot: Callable[[], str]
    ) -> None:
        """Prepare the runner; `start` starts its thread.

        Args:
            api: the daemon.
            reply: publishes the reply to a command.
            snapshot: publishes a picture and returns the text of the reply.
        """
        self._api, self._reply, self._snapshot = api, reply, snapshot
        self._queue: queue.Queue[CommandRequest | None] = queue.Queue(MAX_QUEUED)
        self._refusals = RefusalLog()
        self._failure = ""
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="mqtt-commands", daemon=True)

    def start(self) -> None:
        """Run commands from now on."""
        self._thread.start()

    def submit(self, message: ReceivedMessage) -> None:
        """Queue the command of a message, or refuse it; never blocks."""
        name = message.topic.rpartition("/")[2]
        if message.retain:
            # It would run at each connect, perhaps months later.
            if message.payload:
                self._refuse(
                    CommandRequest(name[:MAX_NAME_LENGTH]),
                    "retained commands are not run; publish without retain",
                )
            return
        request = parse_request(name, message.payload)
        if request.error:
            self._refuse(request, request.error)
            return
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            self._refuse(request, f"{MAX_QUEUED} commands are waiting; try again later")

    def close(self, timeout: float) -> None:
        """Run no further command; wait for the current one for at most `timeout` seconds."""
        self._closing = True
        with contextlib.suppress(queue.Full):  # then a queued command wakes the thread
            self._queue.put_nowait(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._refusals.flush()

    def _run(self) -> None:
        while (request := self._queue.get()) is not None and not self._closing:
            try:
                result = self._run_command(request)
            except Refused as error:
                self._refuse(request, str(error), reason=error.reason)
            except EdgeSiameseError as error:
                self._refuse(request, str(error))
            except Exception as error:
                if (failure := f"{request.name}: {type(error).__name__}: {error}") != self._failure:
                    LOG.exception("the MQTT command %s failed", request.name)
                self._failure = failure  # the same one is logged once
                self._refuse(request, "unexpected error; see the log")
            else:
                self._answer(request, {"ok": True, **result})

    def _run_command(self, request: CommandRequest) -> dict[str, Any]:
        if request.name == SNAPSHOT:
            return {"text": self._snapshot()}
        result = self._api.run(
            COMMANDS[request.name], request.arguments or NoArguments(), SilentClient("mqtt")
        )
        changed = result.get("object")
        return {
            "text": result["text"],
            **({"object": {"uid": changed["uid"], "name": changed["name"]}} if changed else {}),
        }

    def _refuse(self, request: CommandRequest, error: str, **more: Any) -> None:
        self._refusals.note(request.name, error)
        self._answer(request, {"ok": False, "error": error, **more})

    def _answer(self, request: CommandRequest, reply: dict[str, Any]) -> None:
        request_id = {} if request.id is None else {"id": request.id}
        self._reply({"command": request.name, **request_id, **reply})
