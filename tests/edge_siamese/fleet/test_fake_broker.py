"""The broker in memory."""

from __future__ import annotations

from edge_siamese.fleet.fake_broker import FakeBroker, matches


def test_it_retains_delivers_and_breaks_connections() -> None:
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


def test_patterns_match_as_in_mqtt() -> None:
    for pattern, topic in (("a/+", "a/b"), ("a/#", "a/b/c"), ("#", "a"), ("a/b", "a/b"), ("+/b", "a/b")):
        assert matches(pattern, topic)
    for pattern, topic in (("a/+", "a/b/c"), ("a/+", "a"), ("a/b", "a/c"), ("a", "a/b")):
        assert not matches(pattern, topic)
