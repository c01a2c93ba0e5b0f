"""MQTT commands: parsing, execution, replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_siamese.daemon.api import Change, Client, DaemonApi, Line
from edge_siamese.daemon.commands import (
    NoArguments,
    ObjectArguments,
    RegisterArguments,
    RenameArguments,
    UndoArguments,
    WrongArguments,
)
from edge_siamese.errors import ControlError, Refused, SupportError
from edge_siamese.mqtt.client import ReceivedMessage
from edge_siamese.mqtt.commands import (
    LOG_SECONDS,
    MAX_BYTES,
    MAX_LOGGED,
    MAX_QUEUED,
    CommandRequest,
    CommandRunner,
    RefusalLog,
    parse_request,
)
from edge_siamese.store import StoredObject
from tests.edge_siamese.daemon.running import until

MUG = StoredObject(1, "a" * 32, "mug", "2026-01-01T00:00:00.000+00:00", 1, 0, 1, 1)


@pytest.mark.parametrize(
    ("name", "payload", "expected"),
    [
        ("register", b"", CommandRequest("register", RegisterArguments())),
        ("register", b"  ", CommandRequest("register", RegisterArguments())),
        ("register", b"{}", CommandRequest("register", RegisterArguments())),
        (
            "register",
            b'{"name": "mug", "force": true}',
            CommandRequest("register", RegisterArguments("mug", force=True)),
        ),
        (
            "register",
            b'{"name": "mug", "view": true}',
            CommandRequest("register", RegisterArguments("mug", view=True)),
        ),
        ("forget", b'{"name": "mug", "id": "7"}', CommandRequest("forget", ObjectArguments("mug"), "7")),
        (
            "rename",
            '{"name":"mug","new":"Täßchen"}'.encode(),
            CommandRequest("rename", RenameArguments("mug", "Täßchen")),
        ),
        ("undo", b'{"registrations": false}', CommandRequest("undo", UndoArguments())),
        ("wrong", b'{"decision": "abc"}', CommandRequest("wrong", WrongArguments(decision="abc"))),
        ("snapshot", b"", CommandRequest("snapshot", NoArguments())),
    ],
)
def test_valid_requests_are_parsed(name: str, payload: bytes, expected: CommandRequest) -> None:
    assert parse_request(name, payload) == expected


@pytest.mark.parametrize(
    ("name", "payload", "error"),
    [
        ("forgot", b"", "there is no command 'forgot'; did you mean \"forget\"?"),
        (
            "register",
            b"mug",
            "register: not valid JSON: Expecting value at line 1, column 1",
        ),
        ("register", b"[1]", 'register: must be empty or a JSON object, such as {"name": "mug"}'),
        ("register", b"null", 'register: must be empty or a JSON object, such as {"name": "mug"}'),
        ("register", b"\xff", "register: not UTF-8 text"),
        ("register", b'{"name": 3}', "register: name: must be a string or null, not 3"),
        ("register", b'{"force": "yes"}', 'register: force: must be true or false, not "yes"'),
        ("register", b'{"force": 1}', "register: force: must be true or false, not 1"),
        ("register", b'{"nam": "mug"}', 'register: nam: unknown key; did you mean "name"?'),
        ("register", b'{"view": true}', "register: name: a view needs the name of a registered object"),
        (
            "register",
            b'{"name": "a", "name": "b"}',
            "register: name: duplicate key",
        ),
        ("forget", b"", "forget: name: missing"),
        ("rename", b'{"name": "mug"}', "rename: new: missing"),
        ("snapshot", b'{"name": "mug"}', "snapshot: name: unknown key"),
        ("register", b'{"pictures": []}', "register: pictures: unknown key"),
        ("merge", b"{}", "there is no command 'merge'"),
        ("undo", b'{"id": 7}', "undo: id: must be a string of 1 to 64 characters, not 7"),
        (
            "undo",
            json.dumps({"id": "x" * 65}).encode(),
            "undo: id: must be a string of 1 to 64 characters, not ",
        ),
        (
            "undo",
            b"{" + b" " * MAX_BYTES,
            f"undo: {MAX_BYTES + 1} bytes; at most {MAX_BYTES} are accepted",
        ),
        ("x" * 500, b"", f"there is no command {'x' * 40!r}"),
    ],
)
def test_invalid_requests_are_refused_with_a_reason(name: str, payload: bytes, error: str) -> None:
    assert parse_request(name, payload).error.startswith(error)


def test_a_refused_request_keeps_its_id() -> None:
    assert parse_request("forget", b'{"id": "7"}').id == "7"
    assert parse_request("forget", b'{"id": "7", "x": 1}').id == "7"


def test_refusals_are_logged_at_a_bounded_rate(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    refusals = RefusalLog(lambda: now)
    for number in range(1000):
        refusals.note("x\n\x1b[2J", f"reason {number}\x1b[2J{'x' * 5000}")
    assert len(caplog.records) == MAX_LOGGED
    assert "MQTT command 'x\\n\\x1b[2J' refused: reason 0\\x1b[2Jxxx" in caplog.text
    assert max(map(len, caplog.text.splitlines())) < 500
    now += LOG_SECONDS
    refusals.note("undo", "again")
    assert [record.getMessage() for record in caplog.records[MAX_LOGGED:]] == [
        f"{1000 - MAX_LOGGED} more MQTT commands were refused",
        "MQTT command 'undo' refused: again",
    ]


class Api(DaemonApi):
    """Records calls; `hold` blocks a registration."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.hold = threading.Event()
        self.hold.set()

    def register(  # type: ignore[override]
        self, name: str | None, view: bool, force: bool, pictures: Any, region: str | None, *, client: Client
    ) -> Change:
        self.hold.wait(5)
        self.asked.append((name, view, force, region, client.source))
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
        return Change('"cup" is now called "mug"', MUG)

    def undo(self, registrations: bool = False) -> Line:
        self.asked.append(("undo", registrations))
        return Line("undone: mug")

    def wrong(self, name: str | None = None, decision: str | None = None) -> Change:
        self.asked.append(("wrong", name, decision))
        raise RuntimeError("a defect")


class Room:
    """Commands with what they ask, and what they answer."""

    def __init__(self) -> None:
        self.api, self.replies = Api(), list[dict[str, Any]]()
        self.commands = CommandRunner(self.api, self.replies.append, self.snapshot)

    def snapshot(self) -> str:
        raise ControlError("there is no picture")

    def give(self, name: str, payload: bytes = b"", retain: bool = False) -> None:
        self.commands.submit(ReceivedMessage(f"p/d/command/{name}", payload, retain))

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
        made.api.hold.set()
        made.commands.close(5)


def test_commands_run_and_are_answered() -> None:
    named = {"object": {"uid": MUG.uid, "name": "mug"}}
    with room() as found:
        done = found.reply("register", b'{"name": "mug", "force": true, "id": "7"}')
        assert done == {"command": "register", "id": "7", "ok": True, "text": '"mug" is registered', **named}
        assert found.api.asked[-1] == ("mug", False, True, None, "mqtt")
        assert found.reply("register")["ok"]
        assert found.api.asked[-1] == (None, False, False, None, "mqtt")
        assert found.reply("register", b'{"name": "mug", "view": true, "region": "shelf"}')["ok"]
        assert found.api.asked[-1] == ("mug", True, False, "shelf", "mqtt")
        assert found.reply("forget", b'{"name": "mug"}') == {
            "command": "forget", "ok": True, "text": '"mug" is forgotten', **named,
        }  # fmt: skip
        assert found.reply("rename", b'{"name": "cup", "new": "mug"}')["text"] == '"cup" is now called "mug"'
        assert found.reply("undo") == {"command": "undo", "ok": True, "text": "undone: mug"}
        assert found.api.asked[-1] == ("undo", False)


def test_failed_commands_are_answered() -> None:
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


def test_an_unexpected_error_is_answered_and_the_thread_continues() -> None:
    with room() as found:
        assert found.reply("wrong")["error"] == "unexpected error; see the log"
        assert found.reply("undo")["ok"]


def test_a_retained_command_is_not_run() -> None:
    with room() as found:
        found.give("forget", b'{"name": "mug"}', retain=True)
        assert found.replies == [
            {
                "command": "forget",
                "ok": False,
                "error": "retained commands are not run; publish without retain",
            }
        ]
        found.give("forget", b"", retain=True)
        assert found.reply("undo")["ok"]
        assert found.api.asked == [("undo", False)]
        assert len(found.replies) == 2


def test_the_queue_of_commands_is_bounded() -> None:
    with room() as found:
        found.api.hold.clear()
        found.give("register")
        until(lambda: found.commands._queue.empty())
        for number in range(MAX_QUEUED):
            found.give("undo", b'{"id": "%d"}' % number)
        assert found.replies == []
        found.give("undo", b'{"id": "late"}')
        assert found.replies == [
            {
                "command": "undo",
                "id": "late",
                "ok": False,
                "error": "8 commands are waiting; try again later",
            }
        ]
        found.api.hold.set()
        until(lambda: len(found.replies) == MAX_QUEUED + 2)
        assert [reply.get("id") for reply in found.replies[2:]] == [
            str(number) for number in range(MAX_QUEUED)
        ]


def test_closing_does_not_wait_for_a_command_that_hangs() -> None:
    made = Room()
    made.commands.start()
    made.api.hold.clear()
    made.give("register")
    until(lambda: made.commands._queue.empty())
    made.commands.close(0.05)
    made.api.hold.set()


def test_an_unstarted_runner_can_be_closed() -> None:
    Room().commands.close(1)
