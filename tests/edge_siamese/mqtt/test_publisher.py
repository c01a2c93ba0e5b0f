"""What is told of a daemon, and what is removed: with a connection that only keeps what it is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from edge_siamese.daemon.event_bus import EventBus
from edge_siamese.errors import ControlError
from edge_siamese.events import Event
from edge_siamese.mqtt.discovery import Described
from edge_siamese.mqtt.publisher import GOODBYE_SECONDS, STATE_SECONDS, StatePublisher
from edge_siamese.mqtt.subscriptions import Handler, Incoming
from edge_siamese.mqtt.topics import Topics
from edge_siamese.store import StoredObject
from edge_siamese.system.board import Memory

HALL = Topics("p", "hall")
CONFIG = "homeassistant/device/edge-siamese-hall/config"
MUG, PEN = "a" * 32, "b" * 32


def stored(uid: str, name: str) -> StoredObject:
    return StoredObject(1, uid, name, "2026-01-01T00:00:00.000+00:00", 1, 0, 1, 1)


def seen(kind: str, uid: str = MUG, name: str = "mug") -> Event:
    return Event(kind, kind, data={"uid": uid, "name": name, "probability": 0.9})  # type: ignore[arg-type]


class Connection:
    """Keeps what is sent, and who listens."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes, bool]] = []
        self.handlers: dict[str, Handler] = {}
        self.callbacks: list[Callable[[], object]] = []
        self.connected = self.has_room = True
        self.ended: dict[str, Callable[[bool], object]] = {}

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        ended: Callable[[bool], object] | None = None,
    ) -> bool:
        self.sent.append((topic, payload, retain))
        if ended is not None:
            self.ended[topic] = ended
        return True

    def listen(self, pattern: str, handler: Handler) -> None:
        self.handlers[pattern] = handler

    def on_connected(self, callback: Callable[[], object]) -> None:
        self.callbacks.append(callback)


class Telemetry:
    def last_seen(self) -> dict[str, str]:
        return {PEN: "2026-01-02T00:00:00.000+00:00"}


class Actions:
    """A daemon with objects."""

    def __init__(self) -> None:
        self.bus, self.telemetry = EventBus(), Telemetry()
        self.known: list[StoredObject] | None = []
        self.asked = 0

    def objects(self) -> list[StoredObject]:
        self.asked += 1
        if self.known is None:
            raise ControlError("the daemon cannot recognize: no model")
        return self.known

    def current_view(self) -> None:
        return None

    def status(self) -> dict[str, Any]:
        return {
            "version": "1", "line": "fine", "uptime_s": 1.0, "objects": 0, "views": 0, "present": [], "learning": False,
        }  # fmt: skip


class Stage:
    """One `Telling` whose turns the test makes, at a time that the test says."""

    def __init__(self, prefix: str = "homeassistant", snapshots: bool = True) -> None:
        self.actions, self.connection = Actions(), Connection()
        self.now, self.pictures = 100.0, 0
        self.telling = StatePublisher(
            self.actions,  # type: ignore[arg-type]
            HALL,
            self.connection,  # type: ignore[arg-type]
            device=Described("Hall", "Pi", "1", snapshots),
            prefix=prefix,
            snapshot=self.take_picture if snapshots else None,
            clock=lambda: self.now,
        )
        self.telling._thread.run = lambda: None  # type: ignore[method-assign]
        self.telling.start()

    def take_picture(self) -> str:
        self.pictures += 1
        raise ControlError("there is no picture")

    def turn(self, *events: Event, lost: int = 0) -> list[tuple[str, bytes, bool]]:
        """What one turn sends."""
        self.connection.sent.clear()
        for event in events:
            self.actions.bus.publish(event)
        self.telling._turn(self.telling._news.get(0)[0], lost)
        return list(self.connection.sent)

    def hear(self, topic: str, payload: bytes, retain: bool = True) -> None:
        pattern = HALL.objects if topic.startswith(HALL.object("")) else topic
        self.connection.handlers[pattern](Incoming(topic, payload, retain))


def topics(sent: list[tuple[str, bytes, bool]]) -> list[str]:
    return [topic for topic, _, _ in sent]


def of(sent: list[tuple[str, bytes, bool]], topic: str) -> list[Any]:
    return [json.loads(payload) if payload else None for found, payload, _ in sent if found == topic]


def components(message: dict[str, Any], uid: str) -> dict[str, Any]:
    return {key: value for key, value in message["components"].items() if key.startswith(uid)}


def test_the_first_turn_tells_objects_discovery_and_state_all_retained() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug"), stored(PEN, "pen")]
    sent = stage.turn()
    assert topics(sent) == [HALL.object(MUG), HALL.object(PEN), CONFIG, HALL.state]
    assert all(retain for _, _, retain in sent)
    assert of(sent, HALL.object(PEN))[0]["last_seen"] == "2026-01-02T00:00:00.000+00:00"
    assert components(of(sent, CONFIG)[0], MUG)
    stage.now += STATE_SECONDS
    assert stage.turn() == []
    assert stage.actions.asked == 1


def test_events_are_told_once_each_with_ids_that_go_on_and_are_not_retained() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    first, second = stage.turn(seen("appeared"), Event("camera", "the camera runs"))[:2]
    assert (first[0], first[2], second[0]) == (HALL.event, False, HALL.event)
    ids = [json.loads(payload)["id"] for _, payload, _ in (first, second)]
    session, number = ids[0].split("-")
    assert ids[1] == f"{session}-{int(number) + 1}"
    assert json.loads(first[1])["device"] == "hall"


def test_an_object_that_appears_and_leaves_changes_its_state_at_once_and_nothing_else() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug"), stored(PEN, "pen")]
    stage.turn()
    sent = stage.turn(seen("appeared"))
    assert topics(sent) == [HALL.event, HALL.object(MUG)]
    assert of(sent, HALL.object(MUG))[0]["present"] is True
    assert of(stage.turn(seen("left")), HALL.object(MUG))[0]["present"] is False
    assert stage.actions.asked == 1
    assert topics(stage.turn(seen("appeared", "c" * 32, "unknown"))) == [HALL.event]


def test_the_state_is_told_a_second_after_something_happened_at_the_soonest() -> None:
    stage = Stage()
    stage.actions.known = []
    stage.turn()
    stage.actions.status = lambda: {**Actions().status(), "line": "other"}  # type: ignore[method-assign]
    assert HALL.state not in topics(stage.turn(Event("camera", "x")))
    assert 0 < stage.telling._pause() <= 1.0
    stage.now += 1
    assert of(stage.turn(), HALL.state)[0]["line"] == "other"
    assert 1 < stage.telling._pause() <= STATE_SECONDS


def test_pictures_are_taken_when_something_appears_and_there_is_a_connection() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn(seen("left"))
    assert stage.pictures == 0
    stage.turn(seen("appeared"), seen("appeared"))
    assert stage.pictures == 1
    stage.connection.connected = False
    stage.turn(seen("appeared"))
    assert stage.pictures == 1
    without = Stage(snapshots=False)
    without.turn(seen("appeared"))
    assert without.pictures == 0


def test_memory_is_in_a_million_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "edge_siamese.system.board.memory", lambda: Memory(resident_mib=100.0, peak_mib=120.0)
    )
    assert of(Stage().turn(), HALL.state)[0]["memory_mb"] == 105


def test_a_forgotten_object_is_removed_from_home_assistant_and_then_its_state() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug"), stored(PEN, "pen")]
    stage.turn()
    stage.actions.known = [stored(PEN, "pen")]
    sent = stage.turn(Event("forgotten", "x", data={"uid": MUG, "name": "mug"}))
    removing, after = of(sent, CONFIG)
    assert [retain for topic, _, retain in sent if topic == CONFIG] == [False, True]
    assert components(removing, MUG)[f"{MUG}_present"] == {"platform": "binary_sensor"}
    assert not components(after, MUG) and components(after, PEN)
    assert HALL.object(MUG) not in topics(sent)
    assert stage.telling._pause() <= GOODBYE_SECONDS
    stage.now += GOODBYE_SECONDS
    assert (HALL.object(MUG), b"", True) in stage.turn()
    assert HALL.object(MUG) not in topics(stage.turn())


def test_an_object_that_comes_back_at_once_is_not_removed() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    stage.actions.known = []
    stage.turn(Event("forgotten", "x"))
    stage.actions.known = [stored(MUG, "mug")]
    assert of(stage.turn(Event("undone", "x")), HALL.object(MUG))[0]["name"] == "mug"
    stage.now += GOODBYE_SECONDS
    assert not any(payload == b"" for _, payload, _ in stage.turn())


def test_a_renamed_object_keeps_its_ids() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    before = of(stage.turn(), CONFIG)[0]
    stage.actions.known = [stored(MUG, "cup")]
    (after,) = of(stage.turn(Event("renamed", "x")), CONFIG)
    assert after["components"][f"{MUG}_present"]["name"] == "cup"
    ids = [
        {key: value["unique_id"] for key, value in found["components"].items()} for found in (before, after)
    ]
    assert ids[0] == ids[1]


def test_with_each_connection_all_is_told_anew() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    assert stage.turn() and not stage.turn()
    stage.connection.callbacks[0]()
    assert topics(stage.turn()) == [HALL.object(MUG), CONFIG, HALL.state]


def test_home_assistant_that_has_started_is_told_anew() -> None:
    stage = Stage()
    stage.actions.known = []
    stage.turn()
    for payload, told in ((b"offline", []), (b"online", [CONFIG])):
        stage.hear("homeassistant/status", payload, retain=False)
        assert topics(stage.turn()) == told


def test_another_prefix_listens_to_both_topics_of_its_start() -> None:
    stage = Stage(prefix="ha")
    assert {"ha/status", "homeassistant/status", "ha/device/edge-siamese-hall/config"} <= set(
        stage.connection.handlers
    )


def test_what_the_broker_kept_of_objects_that_are_gone_is_removed_once_the_objects_are_known() -> None:
    stage = Stage()
    stage.actions.known = None
    stage.hear(HALL.object(PEN), b'{"name":"pen"}')
    stage.hear(HALL.object(MUG), b'{"name":"mug"}')
    stage.hear(HALL.object("c" * 32), b"{}", retain=False)
    former = {"components": {f"{PEN}_present": {"platform": "binary_sensor", "name": "pen"}}}
    stage.hear(CONFIG, json.dumps(former).encode())
    assert topics(stage.turn()) == [HALL.state]
    stage.actions.known = [stored(MUG, "mug")]
    stage.now += 10
    sent = stage.turn()
    removing, after = of(sent, CONFIG)
    assert components(removing, PEN) == {f"{PEN}_present": {"platform": "binary_sensor"}}
    assert not components(after, PEN)
    stage.now += GOODBYE_SECONDS
    assert [(topic, payload) for topic, payload, _ in stage.turn() if not payload] == [
        (HALL.object(PEN), b"")
    ]


def test_what_the_broker_kept_may_come_after_the_new_message() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    (message,) = of(stage.turn(), CONFIG)
    stage.hear(CONFIG, json.dumps(message).encode())
    assert stage.turn() == []
    message["components"][f"{PEN}_present"] = {"platform": "binary_sensor"}
    stage.hear(CONFIG, json.dumps(message).encode())
    assert [retain for topic, _, retain in stage.turn() if topic == CONFIG] == [False, True]


def test_rubbish_under_its_name_is_written_over_and_harms_nothing() -> None:
    stage = Stage()
    for payload in (b"{", b"[]", b'{"components": 3}', b"\xff", b"null", b"", b"[" * 100_000):
        stage.hear(CONFIG, payload)
        stage.connection.callbacks[0]()
        assert CONFIG in topics(stage.turn())


def test_without_discovery_home_assistant_is_neither_told_nor_listened_to() -> None:
    stage = Stage(prefix="")
    stage.actions.known = [stored(MUG, "mug")]
    assert topics(stage.turn()) == [HALL.object(MUG), HALL.state]
    assert list(stage.connection.handlers) == [HALL.objects]


def test_events_that_were_too_many_are_counted_and_the_objects_looked_at_again() -> None:
    stage = Stage()
    stage.turn()
    asked = stage.actions.asked
    (told,) = of(stage.turn(lost=7), HALL.event)
    assert (told["kind"], told["count"]) == ("lost", 7)
    assert stage.actions.asked == asked + 1


def test_however_much_the_broker_says_no_event_is_lost_and_little_is_kept() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    for number in range(900):
        stage.actions.bus.publish(Event("camera", str(number)))
    payload = bytes(4_000_000)
    for number in range(5000):
        stage.hear(HALL.object(f"{number:032x}"), payload)
        stage.hear(HALL.object("long" * 100 + str(number)), payload)
        stage.hear("homeassistant/status", payload, retain=False)
        stage.connection.callbacks[0]()
    stage.hear(CONFIG, bytes(5_000_000))
    kept = stage.telling._ear._heard
    assert (len(kept.uids), kept.discovery) == (2000, None)
    assert not any(len(uid) > 64 for uid in kept.uids)
    events, lost = stage.telling._news.get(0)
    assert ([event.text for event in events], lost) == ([str(number) for number in range(900)], 0)


def test_turned_off_for_good_it_leaves_nothing_behind() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    stage.connection.sent.clear()
    stage.telling.close(1, withdraw=True)
    assert {(topic, payload, retain) for topic, payload, retain in stage.connection.sent} == {
        (topic, b"", True) for topic in (HALL.object(MUG), HALL.state, CONFIG)
    }


def test_an_end_just_after_an_object_was_forgotten_removes_it_still() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    stage.actions.known = []
    stage.turn(Event("forgotten", "x"))
    stage.connection.sent.clear()
    stage.telling.close(1, withdraw=False)
    assert stage.connection.sent == [(HALL.object(MUG), b"", True)]
