"""The state publisher with thousands of objects, and a broker that rejects messages."""

from __future__ import annotations

from collections.abc import Callable

from edge_siamese.events import Event
from edge_siamese.mqtt.outbox import MAX_MESSAGES, Message, Outbox
from edge_siamese.mqtt.publisher import BATCH_SECONDS, REMOVAL_SECONDS, REPUBLISH_SECONDS, STATE_SECONDS
from tests.edge_siamese.mqtt.test_publisher import CONFIG, HALL, MUG, PEN, Connection, Stage, stored, topics

MANY = 3000


class Queued(Connection):
    """Has a connection's outbox, and a broker that takes all of it when the test says so."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.broker: dict[str, bytes] = {}
        self.events = 0
        super().__init__()

    @property
    def has_room(self) -> bool:
        return self.outbox.has_room

    @has_room.setter
    def has_room(self, _: bool) -> None:
        pass

    def enqueue(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        on_done: Callable[[bool], object] | None = None,
    ) -> bool:
        return self.outbox.put(Message(topic, payload, retain, on_done=on_done))

    def deliver(self) -> int:
        """How much went out."""
        count = 0
        while (item := self.outbox.take()) is not None:
            number, message = item
            self.outbox.done(number)
            if message.retain:
                self.broker[message.topic] = message.payload
            self.events += message.topic == HALL.event
            count += 1
        return count


class Hall(Stage):
    """The same with an outbox."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = self.publisher._client = Queued()  # type: ignore[assignment]

    def run(self, *events: Event) -> None:
        for event in events:
            self.actions.bus.publish(event)
        self.publisher._step(*self.publisher._events.get(0))


def many() -> list[str]:
    return [f"{number:032x}" for number in range(MANY)]


def test_thousands_of_objects_displace_no_event() -> None:
    stage = Hall()
    stage.actions.known = [stored(uid, uid) for uid in many()]
    stage.run(*(Event("camera", str(number)) for number in range(900)))
    turns = 0
    while stage.publisher._timeout() <= BATCH_SECONDS and turns < 10:
        assert len(stage.queue.outbox) <= MAX_MESSAGES // 2 + 3
        stage.queue.deliver()
        stage.now += BATCH_SECONDS
        stage.run(Event("camera", "more"))
        turns += 1
    stage.queue.deliver()
    assert 3 <= turns < 10
    told = stage.queue.broker
    assert {HALL.object(uid) for uid in many()} | {CONFIG, HALL.state} == set(told)
    assert stage.queue.outbox.lost == 0
    assert stage.queue.events == 900 + turns


def test_batches_pause_while_disconnected() -> None:
    stage = Hall()
    stage.actions.known = [stored(uid, uid) for uid in many()]
    stage.queue.connected = False
    stage.run()
    assert stage.publisher._timeout() == STATE_SECONDS
    stage.actions.known = stage.actions.known[:-10]
    stage.run(Event("forgotten", "x"))
    stage.now += REMOVAL_SECONDS
    stage.run()
    assert stage.publisher._timeout() > BATCH_SECONDS
    stage.queue.connected = True
    stage.publisher._on_connected()
    for _ in range(6):
        stage.run()
        stage.queue.deliver()
        stage.now += BATCH_SECONDS
    kept = {topic for topic, payload in stage.queue.broker.items() if payload and "/objects/" in topic}
    assert kept == {HALL.object(uid) for uid in many()[:-10]}
    assert stage.queue.outbox.lost == 0


def test_thousands_of_objects_are_removed() -> None:
    stage = Hall()
    stage.actions.known = [stored(uid, uid) for uid in many()]
    for _ in range(6):
        stage.run()
        stage.queue.deliver()
        stage.now += BATCH_SECONDS
    stage.actions.known = []
    stage.run(Event("forgotten", "x"))
    stage.queue.deliver()
    stage.now += REMOVAL_SECONDS
    for _ in range(6):
        stage.run()
        stage.queue.deliver()
    assert {payload for topic, payload in stage.queue.broker.items() if "/objects/" in topic} == {b""}
    assert stage.queue.outbox.lost == 0


def test_rejected_states_are_published_again_after_a_while() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug"), stored(PEN, "pen")]
    stage.turn()
    stage.connection.on_done[HALL.object(MUG)](False)
    stage.connection.on_done[HALL.object(PEN)](True)
    assert HALL.object(MUG) not in topics(stage.turn(Event("camera", "x")))
    stage.now += REPUBLISH_SECONDS
    assert topics(stage.turn()) == [HALL.object(MUG)]
    stage.now += REPUBLISH_SECONDS
    assert stage.turn() == []


def test_a_rejected_removal_is_sent_again() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    stage.actions.known = []
    stage.turn(Event("forgotten", "x"))
    stage.now += REMOVAL_SECONDS
    assert (HALL.object(MUG), b"", True) in stage.turn()
    stage.connection.on_done[HALL.object(MUG)](False)
    stage.now += REPUBLISH_SECONDS
    stage.turn()
    stage.now += REMOVAL_SECONDS
    assert stage.turn() == [(HALL.object(MUG), b"", True)]


def test_an_object_forgotten_before_it_was_published_again_is_removed() -> None:
    stage = Stage()
    stage.actions.known = [stored(MUG, "mug")]
    stage.turn()
    stage.connection.has_room = False
    stage.connection.callbacks[0]()
    stage.hear(HALL.object(MUG), b"{}")
    stage.turn()
    stage.actions.known = []
    stage.turn(Event("forgotten", "x"))
    stage.now += REMOVAL_SECONDS
    assert (HALL.object(MUG), b"", True) not in stage.turn()
    stage.connection.has_room = True
    assert (HALL.object(MUG), b"", True) in stage.turn()
