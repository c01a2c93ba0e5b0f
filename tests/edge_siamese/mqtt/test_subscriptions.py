"""Who is given what, and what the broker is asked for."""

from __future__ import annotations

from edge_siamese.mqtt.subscriptions import Subscription, Subscriptions

LASTING = Subscription(print, lasting=True)
PASSING = Subscription(print, lasting=False)


def test_what_lasts_is_asked_for_with_each_connection_and_what_does_not_is_gone_with_it() -> None:
    found = Subscriptions()
    assert found.add("a/+", LASTING)
    assert not found.add("b/#", PASSING)
    assert found.asked() == []
    found.connected()
    assert found.add("b/#", PASSING)
    assert found.asked() == [("a/+", True), ("b/#", True)]
    assert found.asked() == []
    found.add("b/#", PASSING)
    assert found.asked() == [("b/#", True)]
    found.lost()
    assert found.get("b/#") is None
    found.connected()
    assert found.asked() == [("a/+", True)]


def test_what_is_no_longer_wanted_is_said_so_to_a_broker_that_is_there() -> None:
    found = Subscriptions()
    found.add("a", LASTING)
    found.remove("a")
    found.connected()
    assert found.asked() == []
    found.add("a", PASSING)
    found.asked()
    found.remove("a")
    found.remove("never there")
    assert found.asked() == [("a", False)]


def test_a_message_goes_to_those_whose_pattern_matches() -> None:
    found = Subscriptions()
    found.add("a/+", LASTING)
    found.add("a/b", PASSING)
    assert found.of("a/b", lambda pattern, topic: pattern == "a/+") == [LASTING]
    found.connected()
    found.add("a/b", PASSING)
    assert found.of("a/b", lambda pattern, topic: True) == [LASTING, PASSING]
