"""The outbox: order, bounds, coalescing, losses."""

from __future__ import annotations

from typing import Any

from edge_siamese.mqtt.outbox import MAX_ATTEMPTS, MAX_IN_FLIGHT, OVERHEAD_BYTES, Message, Outbox


def event(number: int) -> Message:
    return Message("a/event", b"%d" % number)


def state(topic: str, number: int) -> Message:
    return Message(topic, b"%d" % number, retain=True)


def sent(outbox: Outbox) -> list[bytes]:
    """The payloads of all that can be taken, which are acknowledged one by one."""
    found = []
    while (item := outbox.take()) is not None:
        number, message = item
        outbox.done(number)
        found.append(message.payload)
    return found


def test_messages_keep_their_order() -> None:
    outbox = Outbox()
    assert all(outbox.put(event(number)) for number in range(50))
    assert (len(outbox), outbox.bytes) == (50, sum(event(number).size for number in range(50)))
    assert sent(outbox) == [b"%d" % number for number in range(50)]
    assert (len(outbox), outbox.bytes, outbox.lost) == (0, 0, 0)


def test_retained_messages_of_a_topic_are_coalesced() -> None:
    outbox = Outbox()
    for number in range(1000):
        outbox.put(state("a/state", number))
        outbox.put(state("b/state", number))
    assert (len(outbox), outbox.lost) == (2, 0)
    assert sent(outbox) == [b"999", b"999"]


def test_a_replaced_state_moves_to_the_end() -> None:
    outbox = Outbox()
    for message in (state("a", 1), event(2), state("a", 3)):
        outbox.put(message)
    assert sent(outbox) == [b"2", b"3"]


def test_the_number_is_bounded_and_the_newest_are_kept() -> None:
    outbox = Outbox(max_messages=100)
    for number in range(5000):
        assert outbox.put(event(number))
    assert (len(outbox), outbox.lost) == (100, 4900)
    assert sent(outbox) == [b"%d" % number for number in range(4900, 5000)]


def test_bytes_are_bounded_as_well() -> None:
    large = Message("t", bytes(10_000))
    outbox = Outbox(max_bytes=5 * large.size)
    for _ in range(9):
        outbox.put(large)
    assert (len(outbox), outbox.bytes, outbox.lost) == (5, 5 * large.size, 4)
    assert large.size == 10_000 + 1 + OVERHEAD_BYTES


def test_events_are_dropped_before_states() -> None:
    outbox = Outbox(max_messages=3)
    for message in (state("a", 1), event(2), event(3), event(4), state("b", 5)):
        outbox.put(message)
    assert outbox.lost == 2
    assert sent(outbox) == [b"1", b"4", b"5"]
    for number in range(4):
        outbox.put(state(f"t/{number}", number))
    assert sent(outbox) == [b"1", b"2", b"3"]


def test_a_message_larger_than_the_outbox_displaces_nothing() -> None:
    outbox = Outbox(max_bytes=1000)
    outbox.put(event(1))
    assert not outbox.put(Message("t", bytes(1000)))
    assert (len(outbox), outbox.lost) == (1, 1)


def test_messages_in_flight_are_bounded() -> None:
    outbox = Outbox()
    for number in range(MAX_IN_FLIGHT + 5):
        outbox.put(event(number))
    taken = [outbox.take() for _ in range(MAX_IN_FLIGHT)]
    assert None not in taken
    assert outbox.take() is None
    assert outbox.take(MAX_IN_FLIGHT + 1) is not None
    first = taken[0]
    assert first is not None and outbox.done(first[0]) == event(0)
    assert outbox.done(first[0]) is None
    assert len(outbox) == MAX_IN_FLIGHT + 4


def test_qos_0_is_done_when_taken() -> None:
    outbox = Outbox()
    outbox.put(Message("t", b"", qos=0))
    assert outbox.take() is not None
    assert (len(outbox), outbox.bytes) == (0, 0)


def test_unacknowledged_messages_are_sent_again_first_and_in_order() -> None:
    outbox = Outbox()
    for number in range(6):
        outbox.put(event(number))
    for _ in range(3):
        outbox.take()
    outbox.disconnected()
    assert (len(outbox), outbox.lost) == (6, 0)
    assert sent(outbox) == [b"%d" % number for number in range(6)]


def test_a_newer_state_replaces_an_unacknowledged_one() -> None:
    outbox = Outbox()
    outbox.put(state("a", 1))
    outbox.take()
    outbox.put(state("a", 2))
    outbox.disconnected()
    assert (sent(outbox), outbox.lost) == ([b"2"], 0)
    outbox.put(state("a", 3))
    outbox.take()
    outbox.disconnected()
    outbox.put(state("a", 4))
    assert (sent(outbox), outbox.bytes) == ([b"4"], 0)


def test_messages_without_keep_end_with_the_connection_and_displace_nothing() -> None:
    outbox = Outbox(max_messages=3)
    passing = Message("t", b"passing", keep=False)
    outbox.put(event(1))
    assert outbox.put(passing) and outbox.put(passing) and not outbox.put(passing)
    outbox.take()
    outbox.take()
    outbox.disconnected()
    assert (sent(outbox), outbox.lost, outbox.bytes) == ([b"1"], 0, 0)
    outbox.put(passing)
    assert outbox.put(event(2)) and outbox.put(event(3)) and outbox.put(event(4))
    assert sent(outbox) == [b"2", b"3", b"4"]


def test_a_message_that_breaks_the_connection_repeatedly_is_dropped() -> None:
    outbox = Outbox()
    outbox.put(event(1))
    for _ in range(MAX_ATTEMPTS):
        assert outbox.take() is not None
        outbox.disconnected()
    assert (outbox.take(), outbox.lost, outbox.bytes) == (None, 1, 0)


def test_callbacks_learn_the_outcome() -> None:
    heard: list[tuple[str, bool]] = []

    def asked(name: str, **more: Any) -> Message:
        return Message(name, b"", on_done=lambda taken: heard.append((name, taken)), **more)

    outbox = Outbox(max_messages=3)
    for name in ("acknowledged", "refused", "replaced"):
        outbox.put(asked(name, retain=True))
    for taken in (True, False):
        item = outbox.take()
        assert item is not None
        outbox.done(item[0], taken)
    outbox.put(asked("replaced", retain=True))
    assert heard == [("acknowledged", True), ("refused", False)]
    heard.clear()
    for name in ("evicted", "second", "third"):
        outbox.put(asked(name))
    assert heard == [("evicted", False)]
    outbox.put(asked("too much", keep=False))
    assert heard[1:] == [("too much", False)]
    outbox.put(asked("large", keep=False))
    for _ in range(MAX_ATTEMPTS):
        assert outbox.take() is not None
        outbox.disconnected()
    assert ("replaced", False) in heard


def test_has_room_until_half_full() -> None:
    outbox = Outbox(max_messages=10)
    for number in range(5):
        assert outbox.has_room
        outbox.put(event(number))
    assert not outbox.has_room
    assert not Outbox(max_bytes=1000).put(Message("t", bytes(1000)))
    small = Outbox(max_bytes=2 * Message("t", bytes(600)).size)
    small.put(Message("t", bytes(600)))
    assert not small.has_room
