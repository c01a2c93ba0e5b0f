"""What comes from a connection waits in order, and no more of it than fits."""

from __future__ import annotations

import threading
import time

from edge_siamese.fleet.fake_broker import FakeBroker, matches
from edge_siamese.fleet.inbox import Connected, Inbox, Message, Overflow, Subscribed


def test_items_come_in_order_and_a_wake_ends_the_wait() -> None:
    inbox = Inbox()
    inbox.put(Connected())
    inbox.put(Subscribed("a/+"))
    inbox.put(Message("a/b", b"1"))
    assert inbox.take(5) == [Connected(), Subscribed("a/+"), Message("a/b", b"1")]
    assert inbox.take(0) == []
    began = time.monotonic()
    threading.Timer(0.05, inbox.wake).start()
    assert inbox.take(5) == []
    assert 0.03 < time.monotonic() - began < 3


def test_what_is_too_much_is_lost_and_the_reader_learns_of_it_once() -> None:
    inbox = Inbox(most_bytes=10_000)
    for _ in range(5):
        inbox.put(Message("t", 4000 * b"x"))
    inbox.put(Subscribed("t"))
    found = inbox.take(0)
    assert [type(item) for item in found] == [Message, Message, Overflow, Subscribed]
    inbox.put(Message("t", 4000 * b"x"))
    assert len(inbox.take(0)) == 1
    inbox.put(Message("t", 20_000 * b"x"))
    assert inbox.take(0) == [Overflow()]


def test_the_broker_in_memory_keeps_hands_on_and_breaks_off() -> None:
    broker = FakeBroker()
    one, other = broker.transport(), broker.transport()
    heard: list[tuple[str, bytes]] = []
    made: list[str] = []
    other.on_connected(lambda: made.append("connected"))
    assert one.publish("a/b", b"kept", retain=True)
    other.subscribe("a/+", lambda topic, payload: heard.append((topic, payload)), lambda: made.append("a/+"))
    assert one.publish("a/c", b"told")
    other.unsubscribe("a/+")
    one.publish("a/c", b"not told")
    assert heard == [("a/b", b"kept"), ("a/c", b"told")]
    broker.stop()
    assert not one.connected
    assert not one.publish("a/b", b"", retain=True)
    broker.start()
    assert made == ["a/+", "connected"]
    assert broker.retained == {"a/b": b"kept"}
    one.publish("a/b", b"", retain=True)
    assert broker.retained == {}
    broker.loss = 1.0
    assert one.publish("a/b", b"lost with the connection", retain=True)
    assert one.connected
    assert broker.retained == {}


def test_patterns_are_those_of_mqtt() -> None:
    for pattern, topic in (("a/+", "a/b"), ("a/#", "a/b/c"), ("#", "a"), ("a/b", "a/b"), ("+/b", "a/b")):
        assert matches(pattern, topic)
    for pattern, topic in (("a/+", "a/b/c"), ("a/+", "a"), ("a/b", "a/c"), ("a", "a/b")):
        assert not matches(pattern, topic)
