"""What the engine notes for those who look: the latest frame, decisions that can be said to be wrong, registrations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_siamese.daemon.registration_session import RegistrationRequest
from edge_siamese.daemon.telemetry import MAX_DECISIONS, RecentDecisions
from edge_siamese.errors import ControlError
from edge_siamese.events import Event
from edge_siamese.models.bundle import Bundle
from edge_siamese.panel.led_signals import Signal
from edge_siamese.recognition.decision import blank_recognition
from edge_siamese.recognition.imaging import Box
from tests.edge_siamese.daemon.rig import DISC, NIGHT, PAGE, RING, Rig


@pytest.fixture
def rig(tmp_path: Path, bundle: Bundle) -> Iterator[Rig]:
    made = Rig(tmp_path, bundle)
    made.observations.decisions.enabled = made.observations.registrations.enabled = True
    yield made
    made.store.close()


def learn(rig: Rig, name: str, picture: np.ndarray) -> str:
    rig.engine.registrations.begin(RegistrationRequest(name), rig.now)
    rig.show(*[picture] * 3)
    return rig.store.object(name).uid


def test_the_current_view_has_frame_and_recognition(rig: Rig) -> None:
    assert rig.engine.current_view is None
    rig.show(RING)
    shown = rig.engine.current_view
    assert shown is not None
    assert shown.frame.number == 1
    (whole,) = shown.regions
    assert (whole.name, whole.area, whole.part) == ("", Box(0, 0, 256, 256), Box(0, 0, 256, 256))
    assert whole.recognition is not None
    assert whole.recognition.rule == "nothing registered"
    assert shown.present == ()
    uid = learn(rig, "ring", RING)
    learning = rig.engine.current_view
    assert learning is not None
    assert learning.registering
    assert learning.regions[0].recognition is None
    rig.show(RING, RING, RING)
    shown = rig.engine.current_view
    assert shown is not None
    assert [there.uid for there in shown.present] == [uid]
    rig.engine.camera_lost(rig.now)
    assert rig.engine.current_view is None


def test_the_current_view_is_updated_before_the_event(rig: Rig) -> None:
    learn(rig, "ring", RING)
    seen = []

    def look(event: Event) -> None:
        shown = rig.engine.current_view
        if event.kind == "appeared" and shown is not None:
            seen.append((shown.frame.number, [there.name for there in shown.present]))

    rig.engine._publish = look
    rig.show(RING, RING)
    assert seen == [(5, ["ring"])]


def test_each_stage_of_a_frame_is_timed(rig: Rig) -> None:
    rig.show(RING, PAGE)
    learn(rig, "ring", RING)
    rig.show(RING)
    counted = rig.observations.telemetry
    assert counted.counts().frames == {
        ("recognized", ""): 1,
        ("undecided", ""): 0,
        ("unknown", ""): 1,
        ("blank", ""): 1,
        ("registering", ""): 3,
    }
    counts = {stage: times.count for stage, times in counted.stages.items()}
    # A page without contrast is not embedded; what is learned from is timed as a whole.
    assert counts == {"wait": 6, "imaging": 3, "encode": 2, "decide": 2, "frame": 6}
    assert 0 < counted.stages["encode"].sum_s < counted.stages["frame"].sum_s


def test_an_earlier_decision_can_be_explained_and_rejected(rig: Rig) -> None:
    uid = learn(rig, "ring", RING)
    rig.show(RING, RING)
    (appeared,) = [event for event in rig.events if event.kind == "appeared"]
    decision = rig.observations.decisions.get(appeared.data["decision"])
    assert decision is not None
    assert (decision.uid, decision.name) == (uid, "ring")
    assert decision.recognition.explain()[0].startswith("This is ring: p = ")
    assert max(decision.crop.shape) == rig.settings.registration.crop_side
    rig.wait(1000)  # the button's half minute is over
    saved = rig.engine.reject_decision(decision.id)
    assert (saved.uid, saved.negatives) == (uid, 1)
    assert rig.signals[-1] is Signal.NEGATIVE_SAVED
    (negative,) = [view for view in rig.store.views(uid) if view.kind == "negative"]
    assert (rig.store.crop(negative.id) == decision.crop).all()
    rig.engine.undo()
    assert rig.store.object("ring").negatives == 0


def test_an_expired_decision_cannot_be_rejected(rig: Rig) -> None:
    uid = learn(rig, "ring", RING)
    rig.show(RING, RING)
    decision = rig.observations.decisions.latest()
    assert decision is not None
    with pytest.raises(ControlError, match="no longer kept"):
        rig.engine.reject_decision("0" * 12)
    rig.engine.forget(uid)
    with pytest.raises(ControlError, match='"ring" is no longer registered'):
        rig.engine.reject_decision(decision.id)


def test_decisions_are_not_kept_without_integrations(rig: Rig) -> None:
    rig.observations.decisions.enabled = rig.observations.registrations.enabled = False
    learn(rig, "ring", RING)
    rig.show(RING, RING)
    assert rig.observations.decisions.latest() is None
    assert rig.observations.registrations.latest() is None
    (appeared,) = [event for event in rig.events if event.kind == "appeared"]
    assert "decision" not in appeared.data


def test_the_oldest_decision_is_dropped() -> None:
    kept = RecentDecisions()
    nothing = blank_recognition(0.5)
    ids = [
        kept.add(nothing, np.zeros(2, np.float32), "m", np.zeros((2, 2), np.uint8), uid="u", name="n")
        for _ in range(MAX_DECISIONS + 1)
    ]
    assert kept.get(ids[0]) is None
    assert kept.get(ids[1]) is not None
    latest = kept.latest()
    assert latest is not None
    assert latest.id == ids[-1]


def test_a_registration_is_recorded_frame_by_frame(rig: Rig) -> None:
    rig.engine.registrations.begin(RegistrationRequest("ring", source="dashboard"), rig.now)
    record = rig.observations.registrations.latest()
    assert record is not None
    assert (record.name, record.source, record.needed, record.done) == ("ring", "dashboard", 3, False)
    rig.show(RING, NIGHT, RING, RING, RING)
    ended = rig.observations.registrations.latest()
    assert ended is not None
    assert ended.id == record.id
    assert [(frame.number, frame.good) for frame in ended.frames] == [
        (1, True),
        (2, False),
        (3, False),
        (4, True),
        (5, True),
    ]
    assert ended.frames[1].text == "too dark: add light"
    assert max(ended.frames[0].crop.shape) == 96
    assert (ended.done, ended.saved, ended.text) == (True, True, '"ring" is registered')
    assert ended.uid == rig.store.object("ring").uid


def test_registration_from_pictures_is_recorded_and_ends_with_the_refusal(rig: Rig) -> None:
    rig.engine.registrations.from_pictures(
        [NIGHT, NIGHT], RegistrationRequest("night", source="picture"), rig.now
    )
    ended = rig.observations.registrations.latest()
    assert ended is not None
    assert [frame.good for frame in ended.frames] == [False, False]
    assert (ended.done, ended.saved, ended.uid) == (True, False, None)
    assert ended.text.startswith("none of 2 pictures were good enough")
    rig.engine.registrations.begin(RegistrationRequest("ring"), rig.now)
    rig.engine.registrations.cancel()
    cancelled = rig.observations.registrations.latest()
    assert cancelled is not None
    assert cancelled.text == "the registration was canceled"


def test_pictures_do_not_replace_the_record_of_a_running_registration(rig: Rig) -> None:
    rig.engine.registrations.begin(RegistrationRequest("ring"), rig.now)
    rig.show(RING)
    rig.engine.registrations.from_pictures([DISC], RegistrationRequest("disc", source="picture"), rig.now)
    record = rig.observations.registrations.latest()
    assert record is not None
    assert (record.name, record.done, len(record.frames)) == ("ring", False, 1)


class TestChangesFromElsewhere:
    def test_forgotten_objects_leave_and_renamed_objects_get_their_name(self, rig: Rig) -> None:
        uid = learn(rig, "ring", RING)
        rig.show(RING, RING)
        rig.store.rename(uid, "circle")
        rig.engine.reload_objects(renamed=[uid])
        assert rig.engine.present == ("circle",)
        rig.store.forget(uid)
        rig.engine.reload_objects()
        assert rig.engine.present == ()
        assert rig.events[-1].kind == "left"


class TestViewsAndMerging:
    def test_a_removed_view_is_restored_by_undo(self, rig: Rig) -> None:
        uid = learn(rig, "ring", RING)
        first, second = rig.store.views(uid)[0], None
        rig.engine.registrations.begin(RegistrationRequest(target=uid), rig.now)
        rig.show(*[DISC] * 3)
        second = rig.store.views(uid)[1]
        after = rig.engine.remove_view("ring", second.id)
        assert after.views == 1
        assert len(rig.engine.support.embeddings) == 1
        event = rig.events[-1]
        assert (event.kind, event.text) == ("view removed", f'view {second.id} of "ring" is removed')
        assert event.data["view"] == second.id
        rig.engine.undo()
        assert [view.id for view in rig.store.views(uid)] == [first.id, second.id]

    def test_merging_combines_two_objects(self, rig: Rig) -> None:
        ring = learn(rig, "ring", RING)
        disc = learn(rig, "disc", DISC)
        rig.show(DISC, DISC)
        after = rig.engine.merge("disc", "ring")
        assert (after.uid, after.views) == (ring, 2)
        assert rig.engine.support.names == ("ring",)
        kinds = [event.kind for event in rig.events[-2:]]
        assert kinds == ["left", "merged"]
        event = rig.events[-1]
        assert event.text == '"disc" is now part of "ring", which has 2 views'
        assert (event.data["from"], event.data["from_name"]) == (disc, "disc")
        rig.show(DISC, DISC)
        assert rig.engine.present == ("ring",)
        rig.engine.undo()
        assert rig.engine.support.names == ("ring", "disc")


def test_a_decision_of_another_model_cannot_be_rejected(rig: Rig) -> None:
    learn(rig, "ring", RING)
    rig.show(RING, RING)
    decision = rig.observations.decisions.latest()
    assert decision is not None
    rig.observations.decisions._kept[decision.id] = replace(decision, model_id="another")
    with pytest.raises(ControlError, match="no longer kept"):
        rig.engine.reject_decision(decision.id)
