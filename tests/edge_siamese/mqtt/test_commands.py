"""Commands by MQTT: read strictly, carried out one after the other, answered."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_siamese.daemon.api import Change, Client, Line
from edge_siamese.errors import ControlError, Refused, SupportError
from edge_siamese.mqtt.commands import MAX_BYTES, WAITING, Command, Commands, read_command
from edge_siamese.mqtt.subscriptions import Incoming
from edge_siamese.store import StoredObject
from tests.edge_siamese.daemon.running import until

MUG = StoredObject(1, "a" * 32, "mug", "2026-01-01T00:00:00.000+00:00", 1, 0, 1, 1)


@pytest.mark.parametrize(
    ("name", "payload", "expected"),
    [
        ("register", b"", Command("register")),
        ("register", b"  ", Command("register")),
        ("register", b"{}", Command("register")),
        ("register", b'{"name": "mug", "force": true}', Command("register", {"name": "mug", "force": True})),
        ("register", b'{"name": "mug", "view": true}', Command("register", {"name": "mug", "view": True})),
        ("forget", b'{"name": "mug", "id": "7"}', Command("forget", {"name": "mug"}, "7")),
        (
            "rename",
            '{"name":"mug","new":"Täßchen"}'.encode(),
            Command("rename", {"name": "mug", "new": "Täßchen"}),
        ),
        ("undo", b'{"registrations": false}', Command("undo", {"registrations": False})),
        ("wrong", b'{"moment": "abc"}', Command("wrong", {"moment": "abc"})),
        ("snapshot", b"", Command("snapshot")),
    ],
)
def test_a_command_is_empty_or_a_json_object(name: str, payload: bytes, expected: Command) -> None:
    assert read_command(name, payload) == expected


@pytest.mark.parametrize(
    ("name", "payload", "error"),
    [
        ("forgot", b"", "there is no command 'forgot'; did you mean \"forget\"?"),
        (
            "register",
            b"mug",
            "a command is empty or a JSON object: not valid JSON: Expecting value at line 1, column 1",
        ),
        ("register", b"[1]", 'a command is empty or a JSON object, such as {"name": "mug"}'),
        ("register", b"null", 'a command is empty or a JSON object, such as {"name": "mug"}'),
        ("register", b"\xff", "a command is UTF-8 text"),
        ("register", b'{"name": 3}', '"name" is a text'),
        ("register", b'{"force": "yes"}', '"force" is true or false'),
        ("register", b'{"force": 1}', '"force" is true or false'),
        ("register", b'{"nam": "mug"}', '"register" takes no \'nam\'; did you mean "name"?'),
        ("register", b'{"view": true}', 'a view needs the "name" of an object that is registered'),
        (
            "register",
            b'{"name": "a", "name": "b"}',
            "a command is empty or a JSON object: name: duplicate key",
        ),
        ("forget", b"", '"forget" needs "name"'),
        ("rename", b'{"name": "mug"}', '"rename" needs "new"'),
        ("snapshot", b'{"name": "mug"}', "\"snapshot\" takes no 'name'"),
        ("undo", b'{"id": 7}', '"id" is a text of 1 to 64 characters'),
        ("undo", json.dumps({"id": "x" * 65}).encode(), '"id" is a text of 1 to 64 characters'),
        ("undo", b"{" + b" " * MAX_BYTES, f"a command has at most {MAX_BYTES} bytes, not {MAX_BYTES + 1}"),
        ("x" * 500, b"", f"there is no command {'x' * 40!r}"),
    ],
)
def test_anything_else_is_refused_and_said_why(name: str, payload: bytes, error: str) -> None:
    assert read_command(name, payload).error.startswith(error)


def test_what_is_refused_keeps_its_id_where_that_can_be_read() -> None:
    assert read_command("forget", b'{"id": "7"}').id == "7"
    assert read_command("forget", b'{"id": "7", "x": 1}').id == "7"


class Actions:
    """Does as told, and remembers; `hold` keeps it from going on."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.hold = threading.Event()
        self.hold.set()

    def register(self, name: str | None, view: bool, force: bool, client: Client) -> Change:
        self.hold.wait(5)
        self.asked.append((name, view, force, client.source))
        if name == "blur":
            raise Refused("too blurred; hold still", reason="blurred")
        return Change('"mug" is registered', MUG)

    def forget(self, name: str) -> Change:
        self.asked.append(("forget", name))
        if name != "mug":
            raise SupportError(f'there is no object "{name}"')
        return Change('"mug" is forgotten', MUG)

    def rename(self, name: str, new: str) -> Change:
        self.asked.append(("rename", name, new))
        return Change('"mug" is now called "mug"', MUG)

    def undo(self, registrations: bool) -> Line:
        self.asked.append(("undo", registrations))
        return Line("undone: mug")

    def wrong(self, name: str | None, moment: str | None) -> Change:
        self.asked.append(("wrong", name, moment))
        raise RuntimeError("a defect")


class Room:
    """Commands with what they ask, and what they answer."""

    def __init__(self) -> None:
        self.actions, self.replies = Actions(), list[dict[str, Any]]()
        self.commands = Commands(self.actions, self.replies.append, self.snapshot)  # type: ignore[arg-type]

    def snapshot(self) -> str:
        raise ControlError("there is no picture")

    def give(self, name: str, payload: bytes = b"", retain: bool = False) -> None:
        self.commands.take(Incoming(f"p/d/command/{name}", payload, retain))

    def reply(self, name: str, payload: bytes = b"") -> dict[str, Any]:
        before = len(self.replies)
        self.give(name, payload)
        until(lambda: len(self.replies) > before)
        return self.replies[-1]


@contextmanager
def room() -> Iterator[Room]:
    made = Room()
    made.commands.start()
    try:
        yield made
    finally:
        made.actions.hold.set()
        made.commands.close(5)


def test_commands_are_done_and_answered() -> None:
    named = {"object": {"uid": MUG.uid, "name": "mug"}}
    with room() as found:
        done = found.reply("register", b'{"name": "mug", "force": true, "id": "7"}')
        assert done == {"command": "register", "id": "7", "ok": True, "text": '"mug" is registered', **named}
        assert found.actions.asked[-1] == ("mug", False, True, "mqtt")
        assert found.reply("register")["ok"]
        assert found.actions.asked[-1] == (None, False, False, "mqtt")
        assert found.reply("register", b'{"name": "mug", "view": true}')["ok"]
        assert found.actions.asked[-1] == ("mug", True, False, "mqtt")
        assert found.reply("forget", b'{"name": "mug"}') == {
            "command": "forget", "ok": True, "text": '"mug" is forgotten', **named,
        }  # fmt: skip
        assert found.reply("rename", b'{"name": "cup", "new": "mug"}')["text"] == 'it is called "mug" now'
        assert found.reply("undo") == {"command": "undo", "ok": True, "text": "undone: mug"}
        assert found.actions.asked[-1] == ("undo", False)


def test_what_cannot_be_done_is_answered_too() -> None:
    with room() as found:
        assert found.reply("register", b'{"name": "blur"}') == {
            "command": "register", "ok": False, "error": "too blurred; hold still", "reason": "blurred",
        }  # fmt: skip
        assert found.reply("forget", b'{"name": "cup"}') == {
            "command": "forget", "ok": False, "error": 'there is no object "cup"',
        }  # fmt: skip
        assert found.reply("snapshot")["error"] == "there is no picture"
        assert found.reply("undo", b"{") == {
            "command": "undo", "ok": False, "error": found.replies[-1]["error"],
        }  # fmt: skip


def test_a_defect_ends_neither_the_thread_nor_silently() -> None:
    with room() as found:
        assert (
            found.reply("wrong")["error"] == "it failed by an error that was not foreseen; the log says more"
        )
        assert found.reply("undo")["ok"]


def test_a_retained_command_is_not_carried_out() -> None:
    with room() as found:
        found.give("forget", b'{"name": "mug"}', retain=True)
        assert found.replies == [
            {
                "command": "forget",
                "ok": False,
                "error": "a retained command is not carried out: publish it without retain",
            }
        ]
        found.give("forget", b"", retain=True)
        assert found.reply("undo")["ok"]
        assert found.actions.asked == [("undo", False)]
        assert len(found.replies) == 2


def test_so_many_commands_wait_and_no_more() -> None:
    with room() as found:
        found.actions.hold.clear()
        found.give("register")
        until(lambda: found.commands._waiting.empty())
        for number in range(WAITING):
            found.give("undo", b'{"id": "%d"}' % number)
        assert found.replies == []
        found.give("undo", b'{"id": "late"}')
        assert found.replies == [
            {
                "command": "undo",
                "id": "late",
                "ok": False,
                "error": "8 commands wait already; try again later",
            }
        ]
        found.actions.hold.set()
        until(lambda: len(found.replies) == WAITING + 2)
        assert [reply.get("id") for reply in found.replies[2:]] == [str(number) for number in range(WAITING)]


def test_closing_does_not_wait_for_a_command_that_hangs() -> None:
    made = Room()
    made.commands.start()
    made.actions.hold.clear()
    made.give("register")
    until(lambda: made.commands._waiting.empty())
    made.commands.close(0.05)
    made.actions.hold.set()


def test_what_was_never_started_can_be_closed() -> None:
    Room().commands.close(1)
