"""Cleanup of retained messages under former names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from edge_siamese.mqtt.cleanup import (
    FILE_NAME,
    MARKER,
    MAX_FORMER,
    PublishedTopics,
    RetainedCleanup,
    read_published_topics,
    write_published_topics,
)
from edge_siamese.mqtt.client import Handler, ReceivedMessage

HERE, ELSEWHERE = "here:0", "elsewhere:0"
OLD, OLDER, NEW = (PublishedTopics(HERE, "p", name, "ha") for name in ("old", "older", "new"))


class Broker:
    """A connection and its broker in one: all that is asked of it waits until `serve`."""

    def __init__(self, at_once: int = 1000) -> None:
        self.at_once = at_once
        self.kept: dict[str, bytes] = {}
        self.refuse: set[str] = set()
        self.has_room = True
        self.sent: list[str] = []
        self._to_do: list[Callable[[], object]] = []
        self._handlers: dict[str, Handler] = {}

    def enqueue(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        on_done: Callable[[bool], object] | None = None,
    ) -> bool:
        self.sent.append(topic)

        def arrive() -> None:
            taken = topic not in self.refuse
            if taken and not payload:
                self.kept.pop(topic, None)
            if on_done is not None:
                on_done(taken)

        self._to_do.append(arrive)
        return True

    def publish(self, topic: str, payload: bytes) -> bool:
        self._to_do.append(lambda: self._give(ReceivedMessage(topic, payload, False)))
        return True

    def listen(self, pattern: str, handler: Handler, subscribed: Callable[[], object]) -> None:
        def arrive() -> None:
            self._handlers[pattern] = handler
            found = [topic for topic in self.kept if topic.startswith(pattern[:-1])][: self.at_once]
            for topic in found:
                message = ReceivedMessage(topic, self.kept[topic], True)
                self._to_do.append(lambda message=message: self._give(message))  # type: ignore[misc]
            subscribed()

        self._to_do.append(arrive)

    def unsubscribe(self, pattern: str) -> None:
        del self._handlers[pattern]

    def _give(self, message: ReceivedMessage) -> None:
        for pattern, handler in list(self._handlers.items()):
            if message.topic.startswith(pattern[:-1]):
                handler(message)

    def keep(self, names: PublishedTopics, objects: int = 2) -> None:
        for topic in (*names.retained, *(names.topics.object(str(number)) for number in range(objects))):
            self.kept[topic] = b"{}"

    def serve(self, most: int = 100_000) -> None:
        for _ in range(most):
            if not self._to_do:
                return
            self._to_do.pop(0)()
        assert most < 100_000, "it does not end"


def begin(state: Path, broker: Broker, present: PublishedTopics = NEW) -> None:
    RetainedCleanup(state, broker, present).start()  # type: ignore[arg-type]


def test_former_names_are_forgotten_when_the_broker_has_removed_all_of_them(tmp_path: Path) -> None:
    write_published_topics(tmp_path, [OLD])
    broker = Broker()
    broker.keep(OLD)
    broker.keep(NEW)
    begin(tmp_path, broker)
    while broker.kept.keys() & {*OLD.retained, OLD.topics.object("0"), OLD.topics.object("1")}:
        assert read_published_topics(tmp_path) == (NEW, OLD)
        broker.serve(1)
    broker.serve()
    assert set(broker.kept) == {*NEW.retained, NEW.topics.object("0"), NEW.topics.object("1")}
    assert read_published_topics(tmp_path) == (NEW,)
    assert broker._handlers == {}


def test_a_daemon_that_ends_before_the_broker_answers_tries_again_at_each_start(tmp_path: Path) -> None:
    write_published_topics(tmp_path, [OLD])
    for _ in range(3):
        away = Broker()
        begin(tmp_path, away)
        assert set(OLD.retained) <= set(away.sent)
        assert read_published_topics(tmp_path) == (NEW, OLD)
    broker = Broker()
    broker.keep(OLD)
    begin(tmp_path, broker)
    broker.serve()
    assert (broker.kept, read_published_topics(tmp_path)) == ({}, (NEW,))
    again = Broker()
    begin(tmp_path, again)
    assert again.sent == []


def test_names_that_changed_several_times_are_all_removed(tmp_path: Path) -> None:
    for present in (OLDER, OLD, NEW):
        begin(tmp_path, Broker(), present)
    assert read_published_topics(tmp_path) == (NEW, OLD, OLDER)
    broker = Broker()
    broker.keep(OLD)
    broker.keep(OLDER)
    begin(tmp_path, broker)
    broker.serve()
    assert (broker.kept, read_published_topics(tmp_path)) == ({}, (NEW,))


def test_names_that_come_back_are_not_removed(tmp_path: Path) -> None:
    for present in (OLD, NEW, OLD):
        begin(tmp_path, Broker(), present)
    assert read_published_topics(tmp_path) == (OLD, NEW)
    broker = Broker()
    broker.keep(OLD)
    broker.keep(NEW)
    begin(tmp_path, broker, OLD)
    broker.serve()
    assert set(broker.kept) == {*OLD.retained, OLD.topics.object("0"), OLD.topics.object("1")}


def test_a_former_prefix_leaves_the_discovery_message_that_is_still_in_use(tmp_path: Path) -> None:
    former = PublishedTopics(HERE, "before", "new", "ha")
    write_published_topics(tmp_path, [former])
    broker = Broker()
    broker.keep(former)
    begin(tmp_path, broker)
    broker.serve()
    assert set(broker.kept) == {NEW.retained[0]} == {former.retained[0]}
    assert read_published_topics(tmp_path) == (NEW,)


def test_a_rejected_removal_is_remembered_for_the_next_start(tmp_path: Path) -> None:
    write_published_topics(tmp_path, [OLD])
    broker = Broker()
    broker.refuse = {OLD.topics.state}
    begin(tmp_path, broker)
    broker.serve()
    assert read_published_topics(tmp_path) == (NEW, OLD)


def test_thousands_of_objects_are_removed_in_rounds(tmp_path: Path) -> None:
    write_published_topics(tmp_path, [OLD, OLDER])
    broker = Broker(at_once=100)
    broker.keep(OLD, 450)
    broker.keep(OLDER, 50)
    begin(tmp_path, broker)
    broker.serve()
    assert (broker.kept, read_published_topics(tmp_path)) == ({}, (NEW,))


def test_a_dropped_marker_is_sent_again(tmp_path: Path) -> None:
    write_published_topics(tmp_path, [OLD])
    broker = Broker()
    broker.keep(OLD)
    publish, marks = broker.publish, []

    def forgetful(topic: str, payload: bytes) -> bool:
        assert topic == OLD.topics.object(MARKER)
        marks.append(payload)
        return len(marks) == 1 or publish(topic, payload)

    broker.publish = forgetful  # type: ignore[method-assign]
    begin(tmp_path, broker)
    broker.serve()
    assert (broker.kept, read_published_topics(tmp_path)) == ({}, (NEW,))


def test_names_at_another_broker_wait_until_it_is_configured_again(tmp_path: Path) -> None:
    write_published_topics(tmp_path, [NEW, OLD])
    there = PublishedTopics(ELSEWHERE, "p", "new", "ha")
    broker = Broker()
    begin(tmp_path, broker, there)
    broker.serve()
    assert broker.sent == []
    assert read_published_topics(tmp_path) == (there, OLD)
    begin(tmp_path, broker, NEW)
    broker.serve()
    assert set(broker.sent) == set(OLD.retained)
    assert read_published_topics(tmp_path) == (NEW,)


def test_the_latest_former_names_are_remembered(tmp_path: Path) -> None:
    for number in range(MAX_FORMER + 5):
        begin(tmp_path, Broker(), PublishedTopics(HERE, "p", str(number), "ha"))
    assert [found.device for found in read_published_topics(tmp_path)] == [
        str(number) for number in range(MAX_FORMER + 4, 3, -1)
    ]


def test_a_file_without_former_names_is_read_as_well(tmp_path: Path) -> None:
    value = {"broker": HERE, "prefix": "p", "device": "old", "discovery": "ha"}
    (tmp_path / FILE_NAME).write_text(json.dumps(value))
    assert read_published_topics(tmp_path) == (OLD,)
