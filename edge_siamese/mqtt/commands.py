"""Commands that come by MQTT: strictly read, carried out one after the other on a thread of their own, and answered."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from edge_siamese.daemon.api import DaemonApi, SilentClient
from edge_siamese.errors import EdgeSiameseError, Refused
from edge_siamese.mqtt.subscriptions import Incoming
from edge_siamese.validation import SchemaError, nearest, parse_json

MAX_BYTES = 4096
"""Of a command's payload."""
MAX_NAME = 40
"""Characters of a command's name that are repeated where there is none of it."""
MAX_ID = 64
"""Characters of the id that who commands may give."""
WAITING = 8
"""Commands that may wait; more are refused."""

LOG = logging.getLogger(__name__)

_FIELDS: dict[str, dict[str, tuple[type, bool]]] = {
    "register": {"name": (str, False), "view": (bool, False), "force": (bool, False)},
    "forget": {"name": (str, True)},
    "rename": {"name": (str, True), "new": (str, True)},
    "undo": {"registrations": (bool, False)},
    "wrong": {"name": (str, False), "moment": (str, False)},
    "snapshot": {},
}
"""What each command takes: its type, and whether it is needed."""
_CALLED = {str: "a text", bool: "true or false"}


@dataclass(frozen=True)
class Command:
    """What somebody wants."""

    name: str
    words: dict[str, Any] = field(default_factory=dict)
    id: str | None = None
    """By which they know the reply."""
    error: str = ""
    """Why it cannot be read; empty if it can be carried out."""


def read_command(name: str, payload: bytes) -> Command:
    """A command from the last level of its topic and its payload, which is empty or a JSON object."""
    name = name[:MAX_NAME]
    fields = _FIELDS.get(name)
    if fields is None:
        return Command(name, error=f"there is no command {name!r}{nearest(name, list(_FIELDS))}")
    if len(payload) > MAX_BYTES:
        return Command(name, error=f"a command has at most {MAX_BYTES} bytes, not {len(payload)}")
    try:
        value = parse_json(payload.decode("utf-8")) if payload.strip() else {}
    except UnicodeDecodeError:
        return Command(name, error="a command is UTF-8 text")
    except SchemaError as error:
        return Command(name, error=f"a command is empty or a JSON object: {error}")
    if not isinstance(value, dict):
        return Command(name, error='a command is empty or a JSON object, such as {"name": "mug"}')
    number = value.pop("id", None)
    if number is not None and not (isinstance(number, str) and 0 < len(number) <= MAX_ID):
        return Command(name, error=f'"id" is a text of 1 to {MAX_ID} characters')
    return Command(name, value, number, _problem(name, fields, value))


def _problem(name: str, fields: dict[str, tuple[type, bool]], value: dict[str, Any]) -> str:
    for key, given in value.items():
        if key not in fields:
            short = key[:MAX_NAME]
            return f'"{name}" takes no {short!r}{nearest(short, [*fields, "id"])}'
        if not isinstance(given, fields[key][0]):
            return f'"{key}" is {_CALLED[fields[key][0]]}'
    for key, (_, needed) in fields.items():
        if needed and key not in value:
            return f'"{name}" needs "{key}"'
    if value.get("view") and "name" not in value:
        return 'a view needs the "name" of an object that is registered'
    return ""


def carry_out(
    command: Command, actions: DaemonApi, snapshot: Callable[[], str]
) -> tuple[bool, str, dict[str, Any]]:
    """Do it; whether it was done, what became of it in one line, and more for the reply.

    Args:
        command: what to do.
        actions: of the daemon.
        snapshot: takes a picture and publishes it; returns what to say.

    Raises:
        EdgeSiameseError: it cannot be done.
    """
    words = command.words
    match command.name:
        case "register":
            name, view = words.get("name"), words.get("view", False)
            try:
                saved = actions.register(name, view, words.get("force", False), client=SilentClient("mqtt"))
            except Refused as error:
                return False, str(error), {"reason": error.reason}
            return True, saved.text, {"object": {"uid": saved.object.uid, "name": saved.object.name}}
        case "forget":
            gone = actions.forget(words["name"]).object
            return True, f'"{gone.name}" is forgotten', {"object": {"uid": gone.uid, "name": gone.name}}
        case "rename":
            known = actions.rename(words["name"], words["new"]).object
            return (
                True,
                f'it is called "{known.name}" now',
                {"object": {"uid": known.uid, "name": known.name}},
            )
        case "undo":
            return True, actions.undo(words.get("registrations", False)).text, {}
        case "wrong":
            known = actions.wrong(words.get("name"), words.get("moment")).object
            text = f'that was not "{known.name}": the view is kept as a negative'
            return True, text, {"object": {"uid": known.uid, "name": known.name}}
        case _:
            return True, snapshot(), {}


class Commands:
    """The thread that carries commands out."""

    def __init__(
        self, actions: DaemonApi, reply: Callable[[dict[str, Any]], object], snapshot: Callable[[], str]
    ) -> None:
        """Nothing runs before `start`.

        Args:
            actions: of the daemon.
            reply: publishes what became of a command.
            snapshot: as for `carry_out`.
        """
        self._actions, self._reply, self._snapshot = actions, reply, snapshot
        self._waiting: queue.Queue[Command | None] = queue.Queue(WAITING)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="mqtt-commands", daemon=True)

    def start(self) -> None:
        """Carry out what comes from now on."""
        self._thread.start()

    def take(self, message: Incoming) -> None:
        """A message of a command's topic; never waits."""
        name = message.topic.rpartition("/")[2]
        if message.retain:
            # It would be carried out at each connection, whenever that is: nobody wants to forget an object so.
            if message.payload:
                self._refuse(
                    Command(name[:MAX_NAME]),
                    "a retained command is not carried out: publish it without retain",
                )
            return
        command = read_command(name, message.payload)
        if command.error:
            self._refuse(command, command.error)
            return
        try:
            self._waiting.put_nowait(command)
        except queue.Full:
            self._refuse(command, f"{WAITING} commands wait already; try again later")

    def close(self, timeout: float) -> None:
        """Carry out none any more; the one under way is left to itself after so many seconds."""
        self._closing = True
        with contextlib.suppress(queue.Full):  # then there is enough to wake it
            self._waiting.put_nowait(None)
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _refuse(self, command: Command, error: str, **more: Any) -> None:
        LOG.warning("the command %s by MQTT: %s", ascii(command.name), error)
        self._answer(command, {"ok": False, "error": error, **more})

    def _answer(self, command: Command, said: dict[str, Any]) -> None:
        self._reply({"command": command.name, **({} if command.id is None else {"id": command.id}), **said})

    def _run(self) -> None:
        while (command := self._waiting.get()) is not None and not self._closing:
            try:
                done, text, more = carry_out(command, self._actions, self._snapshot)
            except EdgeSiameseError as error:
                self._refuse(command, str(error))
            except Exception:
                LOG.exception("the command %s by MQTT failed", command.name)
                self._refuse(command, "it failed by an error that was not foreseen; the log says more")
            else:
                if done:
                    self._answer(command, {"ok": True, "text": text, **more})
                else:
                    self._refuse(command, text, **more)
