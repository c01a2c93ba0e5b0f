"""The state publisher with a client that records messages, and its payloads."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from edge_siamese.daemon.event_bus import EventBus
from edge_siamese.errors import ControlError
from edge_siamese.events import KINDS, Event
from edge_siamese.mqtt.broker_limits import BrokerLimits
from edge_siamese.mqtt.client import Handler, ReceivedMessage
from edge_siamese.mqtt.discovery import DeviceDescription
from edge_siamese.mqtt.ownership import CONFLICT_MESSAGES, QUIET_SECONDS
from edge_siamese.mqtt.publisher import (
    CATALOG_EVENTS,
    PRESENCE_EVENTS,
    REMOVAL_SECONDS,
    STATE_SECONDS,
    ObjectState,
    RegionPresence,
    StatePublisher,
    event_payload,
    lost_payload,
    problem_of,
    state_payload,
)
from edge_siamese.mqtt.topics import Topics
from edge_siamese.recognition.tracking import Sighting
from edge_siamese.store import StoredObject
from edge_siamese.system import wall_clock
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
        self.on_done: dict[str, Callable[[bool], object]] = {}
        self.limits = BrokerLimits()
        self.announced = 0

    def max_payload(self, topic: str) -> int | None:
        return self.limits.max_payload(topic)

    def announce(self) -> None:
        self.announced += 1

    def enqueue(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        on_done: Callable[[bool], object] | None = None,
    ) -> bool:
        self.sent.append((topic, payload, retain))
        if on_done is not None:
            self.on_done[topic] = on_done
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
        self.region_names: tuple[str, ...] = ()
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
            "version": "1", "line": "fine", "uptime_s": 1.0, "objects": 0, "views": 0, "present": [], "regions": {},
            "registering": False,
        }  # fmt: skip


class Stage:
    """One `StatePublisher` whose turns the test makes, at a time that the test says."""

    def __init__(self, prefix: str = "homeassistant", snapshots: bool = True) -> None:
        self.actions, self.connection = Actions(), Connection()
        self.now, self.pictures = 100.0, 0
        self.publisher = StatePublisher(
            self.actions,  # type: ignore[arg-type]
            HALL,
            self.connection,  # type: ignore[arg-type]
            device=DeviceDescription("Hall", "Pi", "1", snapshots),
            prefix=prefix,
            snapshot=self.take_picture if snapshots else None,
            clock=lambda: self.now,
        )
        self.publisher._thread.run = lambda: None  # type: ignore[method-assign]
        self.publisher.start()

    def take_picture(self) -> str:
        self.pictures += 1
        raise ControlError("there is no picture")

    def turn(self, *events: Event, lost: int = 0) -> list[tuple[str, bytes, bool]]:
        """What one turn sends."""
        self.connection.sent.clear()
        for event in events:
            self.actions.bus.publish(event)
        self.publisher._step(self.publisher._events.get(0)[0], lost)
        return list(self.connection.sent)

    def hear(self, topic: str, payload: bytes, retain: bool = True) -> None:
        pattern = HALL.objects if topic.startswith(HALL.object("")) else topic
        self.connection.handlers[pattern](ReceivedMessage(topic, payload, retain))


def topics(sent: list[tuple[str, bytes, bool]]) -> list[str]:
    return [topic for topic, _, _ in sent]


def of(sent: list[tuple[str, bytes, bool]], topic: str) -> list[Any]:
    return [json.loads(payload) if payload else None for found, payload, _ in sent if found == topic]


def components(message: dict[str, Any], uid: str) -> dict[str, Any]:
    return {key: value for key, value in message["components"].items() if key.startswith(uid)}


def test_the_first_step_publishes_objects_discovery_and_state_retained() -> None:
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


def test_events_have_increasing_ids_and_are_not_retained() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    first, second = stage.turn(seen("appeared"), Event("camera", "the camera is running"))[:2]
    assert (first[0], first[2], second[0]) == (HALL.event, False, HALL.event)
    ids = [json.loads(payload)["id"] for _, payload, _ in (first, second)]
    session, number = ids[0].split("-")
    assert ids[1] == f"{session}-{int(number) + 1}"
    assert json.loads(first[1])["device"] == "hall"


def test_presence_changes_one_object_state() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug"), stored(PEN, "pen")]
    stage.turn()
    sent = stage.turn(seen("appeared"))
    assert topics(sent) == [HALL.event, HALL.object(MUG)]
    assert of(sent, HALL.object(MUG))[0]["present"] is True
    assert of(stage.turn(seen("left")), HALL.object(MUG))[0]["present"] is False
    assert stage.actions.asked == 1
    assert topics(stage.turn(seen("appeared", "c" * 32, "unknown"))) == [HALL.event]


def test_the_state_is_published_at_most_once_a_second() -> None:
    stage = Stage()
    stage.actions.known = []
    stage.turn()
    stage.actions.status = lambda: {**Actions().status(), "line": "other"}  # type: ignore[method-assign]
    assert HALL.state not in topics(stage.turn(Event("camera", "x")))
    assert 0 < stage.publisher._timeout() <= 1.0
    stage.now += 1
    assert of(stage.turn(), HALL.state)[0]["line"] == "other"
    assert 1 < stage.publisher._timeout() <= STATE_SECONDS


def test_snapshots_follow_appearances_while_connected() -> None:
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


def test_memory_is_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert stage.publisher._timeout() <= REMOVAL_SECONDS
    stage.now += REMOVAL_SECONDS
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
    stage.now += REMOVAL_SECONDS
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


def test_everything_is_published_again_after_a_connect() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    assert stage.turn() and not stage.turn()
    stage.connection.callbacks[0]()
    assert topics(stage.turn()) == [HALL.object(MUG), CONFIG, HALL.state]


def test_discovery_is_published_again_when_home_assistant_starts() -> None:
    stage = Stage()
    stage.actions.known = []
    stage.turn()
    for payload, told in ((b"offline", []), (b"online", [CONFIG])):
        stage.hear("homeassistant/status", payload, retain=False)
        assert topics(stage.turn()) == told


def test_another_prefix_listens_to_both_birth_topics() -> None:
    stage = Stage(prefix="ha")
    assert {"ha/status", "homeassistant/status", "ha/device/edge-siamese-hall/config"} <= set(
        stage.connection.handlers
    )


def test_retained_objects_that_were_forgotten_are_removed() -> None:
    stage = Stage()
    stage.actions.known = None
    stage.hear(HALL.object(PEN), b'{"name":"pen"}')
    stage.hear(HALL.object(MUG), b'{"name":"mug"}')
    former = {"components": {f"{PEN}_present": {"platform": "binary_sensor", "name": "pen"}}}
    stage.hear(CONFIG, json.dumps(former).encode())
    assert topics(stage.turn()) == [HALL.state]
    stage.actions.known = [stored(MUG, "mug")]
    stage.now += 10
    sent = stage.turn()
    removing, after = of(sent, CONFIG)
    assert components(removing, PEN) == {f"{PEN}_present": {"platform": "binary_sensor"}}
    assert not components(after, PEN)
    stage.now += REMOVAL_SECONDS
    assert [(topic, payload) for topic, payload, _ in stage.turn() if not payload] == [
        (HALL.object(PEN), b"")
    ]


def test_a_retained_discovery_message_may_arrive_late() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    (message,) = of(stage.turn(), CONFIG)
    stage.hear(CONFIG, json.dumps(message).encode())
    assert stage.turn() == []
    message["components"][f"{PEN}_present"] = {"platform": "binary_sensor"}
    stage.hear(CONFIG, json.dumps(message).encode())
    assert [retain for topic, _, retain in stage.turn() if topic == CONFIG] == [False, True]


def test_invalid_retained_discovery_is_overwritten() -> None:
    stage = Stage()
    for payload in (b"{", b"[]", b'{"components": 3}', b"\xff", b"null", b"", b"[" * 100_000):
        stage.hear(CONFIG, payload)
        stage.connection.callbacks[0]()
        assert CONFIG in topics(stage.turn())


# --- messages of other clients ---


@pytest.mark.parametrize("payload", [b"offline", b"", b"elsewhere"])
def test_a_foreign_availability_is_replaced(payload: bytes) -> None:
    stage = Stage()
    stage.turn()
    stage.hear(HALL.availability, b"online", retain=False)
    stage.turn()
    assert stage.connection.announced == 0
    stage.hear(HALL.availability, payload, retain=False)
    stage.turn()
    assert stage.connection.announced == 1
    assert stage.publisher.report()["conflict"] == ""  # it may have been the device's own last will


@pytest.mark.parametrize("topic", [HALL.state, HALL.object(MUG), CONFIG])
def test_foreign_messages_on_own_topics_are_replaced(topic: str) -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    own = stage.publisher._published[topic]
    stage.hear(topic, b'{"foreign": true}', retain=False)
    assert stage.turn() == [(topic, own, True)]
    stage.hear(topic, own, retain=False)  # as the broker sends it back
    stage.now += 10
    assert stage.turn() == []


def test_the_objects_of_another_device_are_removed() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    stage.hear(HALL.object(PEN), b"{}", retain=False)
    stage.hear(HALL.object("long" * 100), b"{}", retain=False)
    stage.turn()
    stage.now += REMOVAL_SECONDS
    assert stage.turn() == [(HALL.object(PEN), b"", True)]


def test_a_device_that_was_deleted_in_home_assistant_stays_deleted() -> None:
    stage = Stage()
    stage.turn()
    stage.hear(CONFIG, b"", retain=False)
    stage.now += 10
    assert stage.turn() == []


def test_two_devices_with_one_id_do_not_compete_and_are_reported() -> None:
    stage = Stage()
    stage.turn()
    answers = []
    for _ in range(60):
        stage.now += 1
        stage.hear(HALL.state, b'{"version": "other"}', retain=False)
        answers.append(HALL.state in topics(stage.turn()))
    assert [second for second, answer in enumerate(answers) if answer] == [0, 5, 15, 35]
    conflict = f"another client publishes to {HALL.state}: does another device use this device_id?"
    assert stage.publisher.report()["conflict"] == conflict
    events = [event for event in stage.actions.bus.latest(100) if event.text == conflict]
    assert [(event.kind, event.data["level"]) for event in events] == [("mqtt", "warning")]
    stage.now += QUIET_SECONDS
    stage.turn()
    assert stage.publisher.report()["conflict"] == ""


def test_what_another_device_left_is_noticed_at_the_next_connect() -> None:
    stage = Stage()
    stage.turn()
    for number in range(CONFLICT_MESSAGES + 1):
        stage.connection.callbacks[0]()
        stage.hear(HALL.state, b'{"version": "other"}')  # the first one may be of an earlier run
        stage.turn()
        assert bool(stage.publisher.report()["conflict"]) == (number == CONFLICT_MESSAGES)


def test_an_own_state_that_was_retained_is_not_foreign() -> None:
    stage = Stage()
    for _ in range(2 * CONFLICT_MESSAGES):
        sent = stage.turn()
        stage.connection.callbacks[0]()
        for payload in [payload for topic, payload, _ in sent if topic == HALL.state]:
            stage.hear(HALL.state, payload)
    assert stage.publisher.report()["conflict"] == ""


# --- limits of the broker ---


def test_a_small_broker_gets_the_entities_that_fit(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug"), stored(PEN, "pen")]
    whole = of(stage.turn(), CONFIG)[0]["components"]
    stage.connection.limits = BrokerLimits(max_packet_bytes=5000)
    stage.connection.callbacks[0]()
    removal, small = [payload for topic, payload, _ in stage.turn() if topic == CONFIG]
    assert len(removal) <= 5000
    kept = json.loads(small)["components"]
    assert len(small) <= 5000 and 0 < len(kept) < len(whole)
    assert stage.publisher.report()["entities_left_out"] == len(whole) - len(kept)
    stage.connection.callbacks[0]()
    stage.turn()
    assert caplog.text.count(f"Home Assistant shows {len(whole) - len(kept)} fewer entities") == 1


def test_without_retained_messages_home_assistant_gets_all_when_it_starts() -> None:
    stage = Stage()
    stage.connection.limits = BrokerLimits(retain=False)
    stage.actions.known = [stored(MUG, "mug")]
    first = stage.turn()
    stage.hear("homeassistant/status", b"online", retain=False)
    assert stage.turn() == first and stage.connection.announced == 1


def test_without_a_prefix_there_is_no_discovery() -> None:
    stage = Stage(prefix="")
    stage.actions.known = [stored(MUG, "mug")]
    assert topics(stage.turn()) == [HALL.object(MUG), HALL.state]
    assert list(stage.connection.handlers) == [HALL.availability, HALL.state, HALL.objects]


def test_lost_events_are_counted_and_objects_read_again() -> None:
    stage = Stage()
    stage.turn()
    asked = stage.actions.asked
    (told,) = of(stage.turn(lost=7), HALL.event)
    assert (told["kind"], told["count"]) == ("lost", 7)
    assert stage.actions.asked == asked + 1


def test_messages_of_the_broker_take_bounded_memory() -> None:
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
    kept = stage.publisher._news
    assert (len(kept.uids), kept.discovery) == (2000, None)
    assert not any(len(uid) > 64 for uid in kept.uids)
    events, lost = stage.publisher._events.get(0)
    assert ([event.text for event in events], lost) == ([str(number) for number in range(900)], 0)


def test_withdrawing_removes_every_retained_message() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    stage.connection.sent.clear()
    stage.publisher.close(1, withdraw=True)
    assert {(topic, payload, retain) for topic, payload, retain in stage.connection.sent} == {
        (topic, b"", True) for topic in (HALL.object(MUG), HALL.state, CONFIG)
    }


def test_closing_completes_a_pending_removal() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    stage.actions.known = []
    stage.turn(Event("forgotten", "x"))
    stage.connection.sent.clear()
    stage.publisher.close(1, withdraw=False)
    assert stage.connection.sent == [(HALL.object(MUG), b"", True)]


# --- payloads ---

CREATED = "2026-01-01T00:00:00.000+00:00"
STORED = StoredObject(1, MUG, "mug", CREATED, 2, 1, 2, 2)
MUG_STATE = ObjectState.from_stored(STORED)
STATUS: dict[str, Any] = {
    "version": "1.0.0",
    "line": "sees mug; 1 object; 9.8 frames/s",
    "uptime_s": 12.3,
    "fault": "",
    "model": {
        "model_id": "objects-1",
        "runtime": "tflite-runtime",
        "threshold": 0.7,
        "bundle": "/var/lib/secret",
    },
    "objects": 1,
    "views": 2,
    "present": ["mug"],
    "regions": {"shelf": ["mug"]},
    "registering": False,
    "camera": {"status": "running", "reason": "", "fps": 9.8123},
    "panel": {"problem": None, "stuck": False},
    "store": {"repair": None},
    "paths": {"state": "/var/lib/secret"},
}


def presence(kind: str, **data: Any) -> Event:
    return Event(kind, "text", "2026-02-02T00:00:00.000+00:00", {"uid": MUG_STATE.uid, "name": "mug", **data})  # type: ignore[arg-type]


def test_an_object_that_was_never_seen() -> None:
    assert asdict(MUG_STATE) == {
        "uid": MUG,
        "name": "mug",
        "present": False,
        "probability": None,
        "last_seen": None,
        "views": 2,
        "negatives": 1,
        "created": CREATED,
        "regions": {},
    }


def test_an_object_is_present_while_it_is_in_any_region() -> None:
    seen_at = "2026-01-05T00:00:00.000+00:00"
    sighting = Sighting("seen", MUG_STATE.uid, "mug", "s", 0.912345, 0.7, 3, 0.0, 1.0, "shelf")
    there = MUG_STATE.with_sightings([sighting], ["shelf", "door"], seen_at)
    assert (there.present, there.probability) == (True, 0.9123)
    assert there.regions == {"shelf": RegionPresence(True, 0.9123), "door": RegionPresence()}
    both = there.after_event(presence("appeared", probability=0.8, region="door"))
    assert (both.present, both.probability, both.regions["door"]) == (True, 0.8, RegionPresence(True, 0.8))
    one = both.after_event(presence("left", probability=0.9, region="shelf"))
    assert (one.present, one.regions["shelf"]) == (True, RegionPresence(False, 0.9))
    none = one.after_event(presence("left", probability=0.8, region="door"))
    assert not none.present
    # The regions have changed: what is no longer watched is not published.
    assert none.with_sightings([], ["door"], None).regions == {"door": RegionPresence(False, 0.8)}


def test_events_of_a_region_have_a_topic_and_new_regions_new_entities() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    stage.actions.region_names = ("shelf", "Küche 2")
    sent = stage.turn(Event("settings", "the regions are now: shelf, Küche 2"))
    (state,) = of(sent, HALL.object(MUG))
    assert state["regions"] == {
        "shelf": {"present": False, "probability": None},
        "Küche 2": {"present": False, "probability": None},
    }
    (config,) = of(sent, CONFIG)
    names = [part["name"] for part in components(config, MUG).values()]
    assert names == ["mug", "mug probability", "mug last seen", "mug shelf", "mug Küche 2"]
    appeared = Event(
        "appeared", "x", data={"uid": MUG, "name": "mug", "probability": 0.9, "region": "Küche 2"}
    )
    sent = stage.turn(appeared)
    assert topics(sent) == [HALL.event, f"{HALL.event}/Küche 2", HALL.object(MUG)]
    assert sent[0][1] == sent[1][1] and json.loads(sent[0][1])["region"] == "Küche 2"
    (state,) = of(sent, HALL.object(MUG))
    assert state["present"] and state["regions"]["Küche 2"] == {"present": True, "probability": 0.9}
    stage.actions.region_names = ()
    removing, after = of(stage.turn(Event("settings", "the whole picture is watched")), CONFIG)
    gone = [key for key in removing["components"] if key not in after["components"]]
    assert len(gone) == 4 and all("_in_" in key or key.startswith("region_") for key in gone)


def test_presence_events_update_the_state() -> None:
    there = MUG_STATE.after_event(presence("appeared", probability=0.97))
    assert (there.present, there.probability, there.last_seen) == (
        True,
        0.97,
        "2026-02-02T00:00:00.000+00:00",
    )
    left = there.after_event(
        Event("left", "", "2026-03-03T00:00:00.000+00:00", {"uid": MUG_STATE.uid, "name": "cup"})
    )
    assert (left.present, left.probability, left.last_seen, left.name) == (
        False, 0.97, "2026-02-02T00:00:00.000+00:00", "cup",
    )  # fmt: skip
    assert MUG_STATE.after_event(presence("left")).last_seen == "2026-02-02T00:00:00.000+00:00"


def test_presence_survives_reading_the_store() -> None:
    there = MUG_STATE.after_event(presence("appeared", probability=0.97))
    renamed = ObjectState.from_stored(StoredObject(1, MUG, "cup", CREATED, 3, 1, 3, 3), there)
    assert (renamed.name, renamed.views, renamed.present, renamed.probability) == ("cup", 3, True, 0.97)


@pytest.mark.parametrize("hours", [4000, -5])
def test_the_start_follows_a_clock_that_is_set_later(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    stage, now = Stage(), [1_769_904_001_000]
    monkeypatch.setattr(wall_clock, "unix_ms", lambda: now[0])
    assert of(stage.turn(), HALL.state)[0]["started"] == "2026-02-01T00:00:00.000+00:00"
    stage.now += STATE_SECONDS
    now[0] += 59_000  # a correction of the clock's rate: nothing to publish
    assert stage.turn() == []
    stage.now += STATE_SECONDS
    now[0] += hours * 3_600_000
    expected = {4000: "2026-07-17T16:00:59.000+00:00", -5: "2026-01-31T19:00:59.000+00:00"}[hours]
    assert of(stage.turn(), HALL.state)[0]["started"] == expected


@pytest.mark.parametrize("later", ["2031-01-01T00:00:00.000+00:00", "2026-01-01T00:00:00.000+00:00"])
def test_the_daemon_knows_when_an_object_was_seen_last_whatever_was_published(later: str) -> None:
    there = MUG_STATE.after_event(presence("appeared", probability=0.97))
    assert there.with_sightings([], [], later).last_seen == later
    assert there.with_sightings([], [], None).last_seen == "2026-02-02T00:00:00.000+00:00"


def test_the_current_sighting_updates_the_state() -> None:
    sighting = Sighting("seen", MUG_STATE.uid, "mug", "s", 0.912345, 0.7, 3, 0.0, 1.0)
    now = MUG_STATE.with_sightings([sighting], [], "2026-01-05T00:00:00.000+00:00")
    assert (now.present, now.probability, now.last_seen) == (True, 0.9123, "2026-01-05T00:00:00.000+00:00")
    later = now.with_sightings([], [], "2026-01-06T00:00:00.000+00:00")
    assert (later.present, later.probability, later.last_seen) == (
        False,
        0.9123,
        "2026-01-06T00:00:00.000+00:00",
    )
    assert MUG_STATE.with_sightings([], [], None).last_seen is None


def test_event_constants_are_kinds_of_events() -> None:
    assert set(PRESENCE_EVENTS) | set(CATALOG_EVENTS) <= set(KINDS)
    assert not set(PRESENCE_EVENTS) & set(CATALOG_EVENTS)


def test_an_event_has_an_id_and_the_device() -> None:
    assert event_payload(presence("appeared", probability=0.97), "ab-1", "hall") == {
        "kind": "appeared",
        "time": "2026-02-02T00:00:00.000+00:00",
        "text": "text",
        "uid": MUG,
        "name": "mug",
        "probability": 0.97,
        "id": "ab-1",
        "device": "hall",
    }
    assert lost_payload(3, "ab-2", "hall", "t")["count"] == 3


def test_the_state_contains_no_paths() -> None:
    found = state_payload(STATUS, started=CREATED, temperature_c=51.26, memory_mb=91.7)
    assert found == {
        "version": "1.0.0",
        "line": "sees mug; 1 object; 9.8 frames/s",
        "problem": "",
        "model": "objects-1",
        "runtime": "tflite-runtime",
        "threshold": 0.7,
        "objects": 1,
        "views": 2,
        "present": ["mug"],
        "regions": {"shelf": ["mug"]},
        "registering": False,
        "frames_per_second": 9.8,
        "temperature_c": 51.3,
        "memory_mb": 92,
        "started": CREATED,
    }
    assert "secret" not in str(found)


def test_unknown_values_are_null() -> None:
    bare = {**STATUS, "model": None, "camera": None, "panel": None, "fault": "loading the model"}
    found = state_payload(bare, started=CREATED, temperature_c=None, memory_mb=None)
    unknown = ("model", "runtime", "threshold", "frames_per_second", "temperature_c", "memory_mb")
    assert [found[key] for key in unknown] == [None] * 6
    assert found["problem"] == "loading the model"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({}, ""),
        ({"fault": "no model"}, "no model"),
        ({"camera": {"status": "stalled", "reason": "no frame for 3 s"}}, "no frames: no frame for 3 s"),
        ({"camera": {"status": "absent", "reason": "no camera"}}, "no frames: no camera"),
        ({"camera": {"status": "starting", "reason": ""}}, ""),
        ({"panel": {"problem": "no chip", "stuck": False}}, "the button: no chip"),
        ({"panel": {"problem": None, "stuck": True}}, "the button is stuck"),
        ({"store": {"repair": "1 view was lost"}}, "1 view was lost"),
    ],
)
def test_problems_in_order_of_importance(changes: dict[str, Any], problem: str) -> None:
    assert problem_of({**STATUS, **changes}) == problem
