"""What the broker keeps is taken within bounds, whoever wrote it."""

from __future__ import annotations

import pytest

from edge_siamese.fleet import mirror
from edge_siamese.fleet.comparing import Known
from edge_siamese.fleet.fake import FakeBroker
from edge_siamese.fleet.inbox import Message
from edge_siamese.fleet.messages import Topics, encode_object, encode_view
from edge_siamese.fleet.mirror import Mirror
from edge_siamese.fleet.state import resolve
from edge_siamese.store.names import name_key
from tests.edge_siamese.fleet.test_state import OBJECTS, VIEWS, a_view, an_object

TOPICS = Topics("edge-siamese", "home")


def of_an_object(uid: str, **said: int) -> Message:
    return Message(TOPICS.of("objects", uid), encode_object(an_object("mug", **said)))


def of_a_view(uid: str, **said: int) -> Message:
    return Message(TOPICS.of("views", uid), encode_view(a_view(OBJECTS[0], **said)))


def made() -> Mirror:
    return Mirror(TOPICS, "hall", FakeBroker().transport())


def test_beyond_a_number_of_registers_new_ones_are_passed_over_and_that_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirror, "MOST", {"objects": 3, "views": 2})
    known = Known({OBJECTS[0]: an_object("mug")})
    reader = made()
    messages = [*(of_an_object(uid) for uid in OBJECTS), *(of_a_view(uid) for uid in VIEWS)]
    for _ in range(2):
        read = reader.read(messages, known, 0.0)
        known.objects |= read.changes.objects
        known.views |= read.changes.views
        assert (list(known.objects), list(known.views)) == (OBJECTS[:3], VIEWS[:2])
        assert (list(reader.objects), list(reader.views)) == (OBJECTS[:3], VIEWS[:2])
        assert not read.behind
    later = reader.read([of_an_object(OBJECTS[1], named=5), of_an_object(OBJECTS[5], named=5)], known, 0.0)
    assert list(later.changes.objects) == [OBJECTS[1]]
    assert caplog.messages == [
        "edge-siamese/fleet/home/objects is passed over: more than 3; the others are not taken",
        "edge-siamese/fleet/home/views is passed over: more than 2; the others are not taken",
    ]


def test_as_many_objects_of_one_name_as_are_taken_have_names_of_their_own() -> None:
    uids = [f"{number:032x}" for number in range(mirror.MOST["objects"])]
    views = {uid: a_view(uid) for uid in uids}
    named = resolve({uid: an_object("mug") for uid in uids}, views).objects
    assert named == resolve({uid: an_object("mug") for uid in reversed(uids)}, views).objects
    assert len({name_key(name) for name in named.values()}) == len(uids)
    assert named[uids[-1]] == f"mug ({len(uids)})"
