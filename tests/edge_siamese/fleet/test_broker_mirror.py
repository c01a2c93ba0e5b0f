"""The mirror of the broker's registers, and the inbox."""

from __future__ import annotations

import threading

import pytest

from edge_siamese.fleet import broker_mirror
from edge_siamese.fleet.broker_mirror import (
    BrokerMirror,
    Connected,
    Inbox,
    Message,
    Overflow,
    Subscribed,
)
from edge_siamese.fleet.clock import LATEST_MS, Clock
from edge_siamese.fleet.fake_broker import FakeBroker
from edge_siamese.fleet.messages import Topics, encode_state
from edge_siamese.fleet.reconciliation import FleetState, restamp
from edge_siamese.fleet.state import Life, Name, ObjectState, Place, ViewState, resolve
from edge_siamese.store.names import name_key
from tests.edge_siamese.fleet.test_state import CREATED, OBJECTS, VIEWS, a_view, an_object

TOPICS = Topics("edge-siamese", "home")


def of_an_object(uid: str, **said: int) -> Message:
    return Message(TOPICS.of("objects", uid), encode_state(an_object("mug", **said)))


def of_a_view(uid: str, **said: int) -> Message:
    return Message(TOPICS.of("views", uid), encode_state(a_view(OBJECTS[0], **said)))


def made() -> BrokerMirror:
    return BrokerMirror(TOPICS, "hall", FakeBroker().transport())


def test_registers_are_bounded_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(broker_mirror, "MAX_REGISTERS", {"objects": 3, "views": 2})
    known = FleetState({OBJECTS[0]: an_object("mug")})
    reader = made()
    messages = [*(of_an_object(uid) for uid in OBJECTS), *(of_a_view(uid) for uid in VIEWS)]
    for _ in range(2):
        read = reader.read(messages, known, 0.0)
        known.objects |= read.changes.objects
        known.views |= read.changes.views
        assert (list(known.objects), list(known.views)) == (OBJECTS[:3], VIEWS[:2])
        assert (list(reader.retained.objects), list(reader.retained.views)) == (OBJECTS[:3], VIEWS[:2])
        assert not read.outdated
    later = reader.read([of_an_object(OBJECTS[1], named=5), of_an_object(OBJECTS[5], named=5)], known, 0.0)
    assert list(later.changes.objects) == [OBJECTS[1]]
    assert caplog.messages == [
        "edge-siamese/fleet/home/objects is skipped: more than 3; the others are not accepted",
        "edge-siamese/fleet/home/views is skipped: more than 2; the others are not accepted",
    ]


def test_the_maximum_of_objects_with_one_name_get_unique_names() -> None:
    uids = [f"{number:032x}" for number in range(broker_mirror.MAX_REGISTERS["objects"])]
    views = {uid: a_view(uid) for uid in uids}
    named = resolve({uid: an_object("mug") for uid in uids}, views).objects
    assert named == resolve({uid: an_object("mug") for uid in reversed(uids)}, views).objects
    assert len({name_key(name) for name in named.values()}) == len(uids)
    assert named[uids[-1]] == f"mug ({len(uids)})"


NOW = 1_790_000_001_000
LAST = f"{LATEST_MS - 1:013x}-ffff-evil"
EVIL = ObjectState(CREATED, Name(LAST, "ha"), Life(LAST, "forgotten"))
HIDDEN = ViewState("view", CREATED, "camera", Place(LAST, OBJECTS[0], False))


def at(now_ms: int) -> tuple[BrokerMirror, Clock]:
    clock = Clock("hall", lambda: now_ms)
    return BrokerMirror(TOPICS, "hall", FakeBroker().transport(), clock.is_ahead), clock


def test_stamps_from_the_future_are_skipped_and_overruled_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = FleetState({OBJECTS[0]: an_object("mug")}, {VIEWS[0]: a_view(OBJECTS[0])})
    reader, _ = at(NOW)
    evil = [
        Message(TOPICS.of("objects", OBJECTS[0]), encode_state(EVIL)),
        Message(TOPICS.of("views", VIEWS[0]), encode_state(HIDDEN)),
        Message(TOPICS.of("objects", OBJECTS[1]), encode_state(EVIL)),
    ]
    read = reader.read(evil, known, 0.0)
    assert len(read.changes) == 0
    assert read.outdated == {("objects", OBJECTS[0]), ("views", VIEWS[0])}
    assert not reader.shows(VIEWS[0])  # so its content goes out again as well
    # A device without a time of day takes it and gives it again: that must not go on for ever.
    assert not reader.read(evil, known, 0.0).outdated
    assert "is more than a year ahead of this device's clock" in caplog.text
    assert len(caplog.messages) == 3


def test_registers_accepted_without_a_time_of_day_are_restamped() -> None:
    known = FleetState({OBJECTS[0]: an_object("mug")}, {VIEWS[0]: a_view(OBJECTS[0])})
    evil = [
        Message(TOPICS.of("objects", OBJECTS[0]), encode_state(EVIL)),
        Message(TOPICS.of("views", VIEWS[0]), encode_state(HIDDEN)),
    ]
    reader, clock = at(12)
    read = reader.read(evil, known, 0.0)
    assert len(read.changes) == 2
    known.objects |= read.changes.objects
    known.views |= read.changes.views
    assert len(restamp(known, clock.next, clock.is_ahead)) == 0
    reader, clock = at(NOW)
    # What others have stands against it, though its stamps are earlier.
    read = reader.read([of_an_object(OBJECTS[0], named=5)], known, 0.0)
    assert read.changes.objects == {OBJECTS[0]: an_object("mug", named=5)}
    # What nobody else has is its own again.
    known.objects |= read.changes.objects
    restamped = restamp(known, clock.next, clock.is_ahead)
    assert restamped.objects == {}
    assert restamped.views == {
        VIEWS[0]: ViewState("view", CREATED, "camera", Place(f"{NOW:013x}-0000-hall", OBJECTS[0], False))
    }


# --- inbox ---


def test_the_inbox_keeps_order_and_can_be_woken() -> None:
    inbox = Inbox()
    inbox.put(Connected())
    inbox.put(Subscribed("a/+"))
    inbox.put(Message("a/b", b"1"))
    assert inbox.take(5) == [Connected(), Subscribed("a/+"), Message("a/b", b"1")]
    assert inbox.take(0) == []
    threading.Timer(0.05, inbox.wake).start()
    assert inbox.take(60) == []


def test_a_full_inbox_reports_one_overflow() -> None:
    inbox = Inbox(max_bytes=10_000)
    for _ in range(5):
        inbox.put(Message("t", 4000 * b"x"))
    inbox.put(Subscribed("t"))
    found = inbox.take(0)
    assert [type(item) for item in found] == [Message, Message, Overflow, Subscribed]
    inbox.put(Message("t", 4000 * b"x"))
    assert len(inbox.take(0)) == 1
    inbox.put(Message("t", 20_000 * b"x"))
    assert inbox.take(0) == [Overflow()]
