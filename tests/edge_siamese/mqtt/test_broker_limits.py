"""Limits of a broker: announced, learned, and kept by the client."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from edge_siamese.mqtt.broker_limits import (
    MIN_SUSPECT_BYTES,
    PACKET_TOO_LARGE,
    QOS_NOT_SUPPORTED,
    RECEIVE_MAXIMUM_EXCEEDED,
    RETAIN_NOT_SUPPORTED,
    SESSION_TAKEN_OVER,
    SUSPECT_SECONDS,
    WILDCARDS_NOT_SUPPORTED,
    BrokerLimits,
    LossObserver,
    packet_bytes,
)
from edge_siamese.mqtt.outbox import MAX_IN_FLIGHT
from tests.edge_siamese.daemon.running import until
from tests.edge_siamese.mqtt.scripted_broker import (
    ACCEPTED_5,
    ACCEPTED_311,
    ScriptedBroker,
    accepted_5,
    refused_5,
)
from tests.edge_siamese.mqtt.test_client import CountingPolicy, connection
from tests.manual_clock import ManualClock

AVAILABILITY = "p/x/availability"


def test_a_broker_that_announces_nothing_has_the_limits_of_mqtt() -> None:
    for properties in (None, SimpleNamespace()):
        assert BrokerLimits.announced(properties) == BrokerLimits(None, MAX_IN_FLIGHT, 2, True, True)
    assert BrokerLimits().describe() == ""
    assert BrokerLimits().max_payload("t") is None


def test_limits_are_described_in_one_line() -> None:
    limits = BrokerLimits(10_000, 1, 0, False, False)
    assert limits.describe() == (
        "messages of at most 10,000 bytes, 1 unacknowledged message, QoS 0 only, no retained messages, "
        "no wildcards in subscriptions"
    )
    assert BrokerLimits(max_in_flight=2, max_qos=1).describe() == "2 unacknowledged messages"


@pytest.mark.parametrize("limit", [20, 127, 128, 129, 130, 131, 16_385, 16_390, 2_097_160])
@pytest.mark.parametrize("qos", [0, 1])
def test_the_largest_payload_fills_a_packet(limit: int, qos: int) -> None:
    payload = BrokerLimits(limit).max_payload("tööpic", qos)
    assert payload is not None and payload >= 0
    assert packet_bytes("tööpic", payload, qos, mqtt5=True) <= limit
    assert packet_bytes("tööpic", payload + 1, qos, mqtt5=True) > limit


def test_a_packet_has_the_size_of_the_standard() -> None:
    # Fixed header 2, topic 2 + 3, packet id 2, properties 1, payload 4.
    assert packet_bytes("a/b", 4, 1, mqtt5=True) == 14
    assert packet_bytes("a/b", 4, 0, mqtt5=False) == 11
    assert BrokerLimits(8).max_payload("a/long/topic") == -1


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (RETAIN_NOT_SUPPORTED, BrokerLimits(retain=False)),
        (QOS_NOT_SUPPORTED, BrokerLimits(max_qos=0)),
        (WILDCARDS_NOT_SUPPORTED, BrokerLimits(wildcards=False)),
        (RECEIVE_MAXIMUM_EXCEEDED, BrokerLimits(max_in_flight=MAX_IN_FLIGHT // 2)),
        (SESSION_TAKEN_OVER, BrokerLimits()),
    ],
)
def test_reason_codes_narrow_the_limits(code: int, expected: BrokerLimits) -> None:
    assert BrokerLimits().after_error(code) == expected


def test_the_narrower_of_each_limit_counts() -> None:
    one, other = BrokerLimits(500, 20, 1, True, False), BrokerLimits(None, 5, 0, False, True)
    assert one.combine(other) == other.combine(one) == BrokerLimits(500, 5, 0, False, False)


# --- losses ---


def test_three_losses_in_a_row_after_a_large_packet_are_a_limit() -> None:
    observer = LossObserver(ManualClock(100.0))
    for _ in range(2):
        observer.sent(1, 100)
        observer.sent(2, 5000)
        assert observer.connection_ended() is None
        assert observer.suspicious
    observer.sent(2, 5000)
    assert observer.connection_ended() == 4999
    assert not observer.suspicious


@pytest.mark.parametrize(
    "between",
    [
        lambda observer, clock: observer.sent(3, MIN_SUSPECT_BYTES - 1),  # nothing large was sent
        lambda observer, clock: (observer.sent(3, 5000), observer.acknowledged(3)),
        lambda observer, clock: (observer.sent(3, 5000), observer.sent(4, 10), observer.acknowledged(4)),
        lambda observer, clock: (observer.sent(3, 5000), setattr(clock, "now", 101.0 + SUSPECT_SECONDS)),
    ],
)
def test_other_losses_are_no_limit(between: Callable[[LossObserver, ManualClock], object]) -> None:
    clock = ManualClock(100.0)
    observer = LossObserver(clock)
    for _ in range(2):
        observer.sent(1, 5000)
        assert observer.connection_ended() is None
    between(observer, clock)
    assert observer.connection_ended() is None and not observer.suspicious
    observer.sent(9, 5000)
    assert observer.connection_ended() is None


def test_a_broker_that_gives_the_reason_is_believed_at_once() -> None:
    observer = LossObserver(ManualClock(100.0))
    observer.sent(1, 5000)
    assert observer.connection_ended(PACKET_TOO_LARGE) == 4999
    observer.sent(1, 5000)
    assert observer.connection_ended(SESSION_TAKEN_OVER) is None


# --- the client ---


def test_messages_that_are_too_large_are_not_sent_and_the_rest_is(caplog: pytest.LogCaptureFixture) -> None:
    done: list[bool] = []
    with ScriptedBroker(accepted_5(size=100)) as broker, connection(broker.port) as (found, notices):
        broker.max_bytes = 100
        found.enqueue("p/x/config", bytes(200), retain=True, on_done=done.append)
        found.enqueue("p/x/event", b"1")
        found.start()
        until(lambda: broker.topics and "p/x/event" in broker.topics[0])
        assert found.max_payload("p/x/config") == 100 - 2 - 2 - len("p/x/config") - 2 - 1
        found.publish("p/x/snapshot", bytes(100), qos=0)
        found.publish("p/x/snapshot", bytes(300), qos=0)
        found.enqueue("p/x/event", b"2")
        until(lambda: broker.published[-1][1] == b"\x002")
        assert broker.topics == [[AVAILABILITY, "p/x/event", "p/x/event"]]
        report = found.report()
        assert (report["too_large"], report["lost"], report["connections"]) == (3, 0, 1)
        assert report["limits"] == "messages of at most 100 bytes"
        assert done == [False]
        assert notices == [
            (f"connected to the broker 127.0.0.1:{broker.port}", "info"),
            (
                f"the broker 127.0.0.1:{broker.port} has limits: messages of at most 100 bytes",
                "info",
            ),
        ]
    assert caplog.text.count("p/x/snapshot is not published: ") == 1


def test_the_limits_are_told_once() -> None:
    with ScriptedBroker(accepted_5(size=100)) as broker, connection(broker.port) as (found, notices):
        found.start()
        for number in (1, 2, 3):
            until(lambda number=number: found.report()["connections"] == number and found.connected)
            broker.drop()
        until(lambda: found.report()["connections"] == 4)
        assert sum("has limits" in text for text, _ in notices) == 1


def test_qos_and_retain_are_lowered() -> None:
    done: list[bool] = []
    with ScriptedBroker(accepted_5(max_qos=0, retain=0)) as broker:
        with connection(broker.port) as (found, _):
            found.enqueue("p/x/state", b"1", retain=True, on_done=done.append)
            found.start()
            until(lambda: len(broker.published) == 2)
            until(lambda: found.report()["queued"] == 0)
            assert done == [True]
            assert found.report()["limits"] == "QoS 0 only, no retained messages"
        until(lambda: broker.published[-1][1].endswith(b"offline"))
        assert {flags for _, _, flags in broker.published} == {0}


@pytest.mark.parametrize(
    ("code", "will"), [(RETAIN_NOT_SUPPORTED, (1, False)), (QOS_NOT_SUPPORTED, (0, True))]
)
def test_a_last_will_that_the_broker_refuses_is_lowered(code: int, will: tuple[int, bool]) -> None:
    with ScriptedBroker(refused_5(code), ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        found.start()
        until(lambda: found.connected)
        assert broker.wills == [(1, True), will]


def test_no_more_messages_are_unacknowledged_than_the_broker_allows() -> None:
    with ScriptedBroker(accepted_5(receive=2)) as broker, connection(broker.port) as (found, _):
        broker.acknowledge_later = []
        for number in range(5):
            found.enqueue("p/x/event", b"%d" % number)
        found.start()
        for number in range(6):
            until(lambda number=number: len(broker.published) >= min(6, number + 2))
            broker.release()
        until(lambda: found.report()["queued"] == 0)
        assert broker.most_unacknowledged == 2
        assert broker.topics == [[AVAILABILITY, *["p/x/event"] * 5]]


def test_without_wildcards_each_topic_is_subscribed(caplog: pytest.LogCaptureFixture) -> None:
    received: list[str] = []
    with ScriptedBroker(accepted_5(wildcards=0)) as broker, connection(broker.port) as (found, _):
        found.listen("c/+", lambda message: received.append(message.topic), topics=("c/register", "c/undo"))
        found.listen("o/+", lambda message: None)
        found.listen("s", lambda message: None)
        found.start()
        until(lambda: len(broker.subscribed) == 3)
        assert broker.subscribed == ["c/register", "c/undo", "s"]
        broker.send("c/undo", b"")
        until(lambda: received == ["c/undo"])
    assert "the broker allows no wildcards: not subscribed to o/+" in caplog.text


def test_the_keep_alive_of_the_broker_is_used() -> None:
    with ScriptedBroker(accepted_5(keep_alive=1)) as broker, connection(broker.port) as (found, _):
        found.start()
        until(lambda: broker.pings >= 2)
        assert found.report()["connections"] == 1


@pytest.mark.parametrize(
    ("accepted", "reason", "losses"), [(ACCEPTED_311, None, 3), (ACCEPTED_5, PACKET_TOO_LARGE, 1)]
)
def test_a_broker_that_ends_the_connection_gets_no_message_of_that_size_again(
    accepted: bytes, reason: int | None, losses: int
) -> None:
    with ScriptedBroker(accepted) as broker, connection(broker.port, CountingPolicy()) as (found, _):
        broker.max_bytes, broker.reason = 4000, reason
        for number in range(30):
            found.enqueue("p/x/event", b"%d" % number)
        found.enqueue("p/x/config", bytes(8000), retain=True)
        for number in range(30, 60):
            found.enqueue("p/x/event", b"%d" % number)
        found.start()
        until(lambda: found.report()["too_large"] == 1)
        until(lambda: found.report()["queued"] == 0)
        assert found.report()["connections"] == losses + 1
        sent = {payload.lstrip(b"\0") for topic, payload, _ in broker.published if topic == "p/x/event"}
        assert sent == {b"%d" % number for number in range(60)}  # none is lost with it
        assert found.report()["lost"] == 0
        size = packet_bytes("p/x/config", 8000, 1, mqtt5=accepted == ACCEPTED_5)
        assert found.report()["limits"] == f"messages of at most {size - 1:,} bytes"


def test_a_broker_that_ends_connections_of_mqtt_5_gets_mqtt_311() -> None:
    with ScriptedBroker(b"", ACCEPTED_311) as broker, connection(broker.port) as (found, _):
        found.start()
        until(lambda: found.connected)
        assert broker.versions == [5, 4]


def test_another_client_with_the_same_id_is_reported_and_left_alone() -> None:
    policy = CountingPolicy()
    with ScriptedBroker(ACCEPTED_5) as broker, connection(broker.port, policy) as (found, notices):
        found.start()
        until(lambda: found.connected)
        broker.disconnect(SESSION_TAKEN_OVER)
        until(lambda: found.report()["connections"] == 2)
        assert notices[1] == (
            f"the broker 127.0.0.1:{broker.port} ended the connection: another client has connected as es-x: "
            "does another device use this device_id?",
            "warning",
        )
        broker.disconnect(SESSION_TAKEN_OVER)
        until(lambda: found.report()["connections"] == 3)
        assert policy.minimums == [policy.refused, 2 * policy.refused]
