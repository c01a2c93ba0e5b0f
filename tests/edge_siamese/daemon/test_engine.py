"""The engine: what a frame, a press and a request change in recognition, registrations, events and signals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edge_siamese.errors import (
    ControlError,
    EncoderError,
    ImageError,
    SettingsError,
    StoreError,
    SupportError,
)
from edge_siamese.models.bundle import Bundle
from edge_siamese.panel.led_signals import Signal
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.embedding import make_crop
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.recognition.registration import NewView
from tests.edge_siamese.daemon.rig import DISC, PAGE, RING, SETTINGS, Rig


@pytest.fixture
def rig(tmp_path: Path, bundle: Bundle) -> Iterator[Rig]:
    made = Rig(tmp_path, bundle)
    yield made
    made.store.close()


@pytest.fixture
def knowing(rig: Rig) -> Rig:
    """It knows a ring, and has said so."""
    assert rig.learn("ring", RING).saved
    rig.take()
    rig.lit()
    return rig


def broken(*_: Any, **__: Any) -> Any:
    raise StoreError("objects.db: the disk is full")


class TestFocus:
    """What is new in front of a static camera, with pictures of the ring on a larger page."""

    @pytest.fixture
    def watching(self, tmp_path: Path, bundle: Bundle) -> Iterator[Rig]:
        camera = structs.replace(SETTINGS.camera, focus="foreground")
        made = Rig(tmp_path, bundle, structs.replace(SETTINGS, camera=camera))
        made.show(*[self.scene()] * 30)
        yield made
        made.store.close()

    @staticmethod
    def scene(top: int | None = None, left: int = 0) -> Bytes:
        """A page of 640x480, with the ring at a place or without."""
        page = np.full((480, 640), 200, np.uint8)
        page[::16] = 150
        if top is not None:
            page[top : top + 256, left : left + 256] = RING
        return page

    def test_the_encoder_does_not_run_while_nothing_is_new(
        self, watching: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(watching.encoder, "embed_prepared", broken)
        watching.show(*[self.scene()] * 5)
        latest, view = watching.engine.latest, watching.engine.current_view
        assert latest is not None and latest.rule == "nothing to see"
        assert view is not None and view.regions[0].part is None
        with pytest.raises(StoreError):
            watching.show(self.scene(100, 100))

    def test_an_object_is_recognized_in_another_place(self, watching: Rig) -> None:
        watching.show(self.scene(96, 96))
        assert watching.learn("ring", self.scene(96, 96)).saved
        watching.take()
        watching.show(*[self.scene()] * 5, *[self.scene(144, 288)] * 3)
        assert [kind for kind, _ in watching.take()] == ["appeared"]
        view = watching.engine.current_view
        part = view and view.regions[0].part
        assert view is not None and part is not None
        assert abs(part.left + part.width / 2 - (288 + 128)) < 16
        assert view.frame.pixels.shape == (480, 640)

    def test_a_registered_object_that_stays_does_not_become_background(self, watching: Rig) -> None:
        watching.show(self.scene(100, 100))
        watching.learn("ring", self.scene(100, 100))
        watching.take()
        watching.show(*[self.scene(100, 100)] * 900)
        assert watching.engine.present == ("ring",)
        watching.show(*[self.scene()] * 5)
        assert watching.engine.present == ()

    def test_the_middle_is_registered_if_nothing_is_new(self, watching: Rig) -> None:
        """Such as a thing that has stood there since the start."""
        assert watching.learn("page", self.scene()).saved
        (view,) = watching.store.views("page")
        crop = make_crop(self.scene(), watching.encoder.preprocessing, 192)
        np.testing.assert_array_equal(watching.store.crop(view.id), crop)

    def test_what_was_wrong_is_kept_as_it_was_read(self, watching: Rig) -> None:
        watching.show(self.scene(96, 96))
        watching.learn("ring", self.scene(96, 96))
        watching.show(*[self.scene(96, 96)] * 3)
        watching.engine.reject_last(watching.now)
        view = watching.engine.current_view
        part = view and view.regions[0].part
        assert part is not None
        crop = make_crop(part.of(self.scene(96, 96)), watching.encoder.preprocessing, 192)
        np.testing.assert_array_equal(watching.store.crop(watching.store.views("ring")[-1].id), crop)


class TestSeeing:
    def test_nothing_is_recognized_without_objects(self, rig: Rig) -> None:
        rig.show(RING, RING, RING)
        assert rig.engine.latest is not None
        assert rig.engine.latest.rule == "nothing registered"
        assert (rig.take(), rig.engine.present, rig.engine.frames) == ([], (), 3)

    def test_an_object_appears_is_seen_and_leaves_in_one_sighting(self, knowing: Rig) -> None:
        knowing.show(RING)
        assert knowing.take() == []
        knowing.show(RING)
        assert knowing.engine.present == ("ring",)
        knowing.show(*[RING] * 50)
        knowing.show(*[PAGE] * 3)
        kinds = [event.kind for event in knowing.events]
        assert kinds == ["appeared", "seen", "left"]
        assert len({event.data["sighting"] for event in knowing.events}) == 1
        (uid,) = {event.data["uid"] for event in knowing.events}
        assert uid == knowing.store.object("ring").uid
        left = knowing.events[-1].data
        assert (left["name"], left["frames"], left["duration_s"]) == ("ring", 52, 5.1)
        assert 0.5 < left["probability"] <= 1
        assert knowing.engine.present == ()

    def test_another_sighting_has_another_id(self, knowing: Rig) -> None:
        knowing.show(*[RING] * 2, *[PAGE] * 3, *[RING] * 2)
        ids = [event.data["sighting"] for event in knowing.events]
        assert ids[0] == ids[1] != ids[2]

    def test_a_lost_camera_ends_all_sightings(self, knowing: Rig) -> None:
        knowing.show(RING, RING)
        knowing.engine.camera_lost(knowing.now)
        assert [kind for kind, _ in knowing.take()] == ["appeared", "left"]
        assert (knowing.engine.latest, knowing.engine.present) == (None, ())

    def test_sightings_end_without_frames(self, knowing: Rig) -> None:
        knowing.show(RING, RING)
        knowing.wait(4.9)
        assert [kind for kind, _ in knowing.take()] == ["appeared"]
        knowing.wait(0.2)
        assert [kind for kind, _ in knowing.take()] == ["left"]

    def test_a_slow_camera_does_not_end_sightings(self, tmp_path: Path, bundle: Bundle) -> None:
        slow = structs.replace(SETTINGS, camera=structs.replace(SETTINGS.camera, frame_rate=0.2))
        rig = Rig(tmp_path, bundle, slow, timeout_s=60.0)
        rig.learn("ring", RING)
        rig.take()
        rig.show(RING, RING, RING, every=5.5)
        assert [kind for kind, _ in rig.take()] == ["appeared", "seen"]

    def test_a_frame_that_cannot_be_encoded_changes_nothing(
        self, knowing: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        knowing.show(RING, RING)
        with monkeypatch.context() as patch:
            patch.setattr(knowing.encoder, "embed_prepared", lambda _: np.full((1, 64), np.nan, np.float32))
            with pytest.raises(EncoderError, match="not 64 finite numbers"):
                knowing.show(RING)
        with pytest.raises(ImageError):
            knowing.show(RING.astype(float))
        assert knowing.engine.present == ("ring",)

    @pytest.mark.parametrize("level", [0, 120, 255])
    def test_a_blank_frame_is_not_encoded(
        self, knowing: Rig, monkeypatch: pytest.MonkeyPatch, level: int
    ) -> None:
        """An encoder would take the dark of a night for anything, such as the object that is nearest to black."""
        noise = np.random.default_rng(0).integers(-3, 4, RING.shape)
        flat = np.clip(level + noise, 0, 255).astype(np.uint8)
        monkeypatch.setattr(knowing.encoder, "embed_prepared", lambda _: pytest.fail("it was encoded"))
        knowing.show(flat)
        assert knowing.engine.latest is not None
        assert knowing.engine.latest.rule == "nothing to see"
        assert str(knowing.engine.latest) == "unknown (nothing to see)"
        assert knowing.engine.latest.explain()[0].startswith(
            "There is nothing to see: the picture has no contrast"
        )

    def test_a_double_press_during_a_registration_rejects_nothing(self, knowing: Rig) -> None:
        knowing.show(RING, RING)
        knowing.take()
        knowing.press()
        before = knowing.store.object("ring").negatives
        knowing.engine.gesture(Gesture.DOUBLE_PRESS, knowing.now)
        assert knowing.store.object("ring").negatives == before

    def test_recognizing_a_picture_changes_no_state(self, knowing: Rig) -> None:
        found = knowing.engine.recognize(RING)
        assert (found.name, found.uid) == ("ring", knowing.store.object("ring").uid)
        assert (knowing.engine.latest, knowing.take(), knowing.engine.frame is None) == (None, [], False)

    def test_the_threshold_follows_the_false_accept_rate(self, tmp_path: Path, bundle: Bundle) -> None:
        by_rate = structs.replace(SETTINGS, recognition=structs.replace(SETTINGS.recognition, threshold=None))
        rig = Rig(tmp_path / "a", bundle, by_rate)
        assert rig.engine.threshold == 0.75
        assert rig.engine.threshold_source == "stated for a false-accept rate of 0.01"
        odd = structs.replace(
            by_rate, recognition=structs.replace(by_rate.recognition, false_accept_rate=0.5)
        )
        with pytest.raises(SettingsError, match=r"0\.5"):
            Rig(tmp_path / "b", bundle, odd)


class TestButton:
    def test_a_press_registers_the_object_in_front_of_the_camera(self, rig: Rig) -> None:
        rig.press()
        assert (rig.lit(), rig.holds) == ([Signal.REGISTERING], [True])
        rig.show(RING, RING)
        assert (rig.engine.registrations.busy, rig.names) == (True, [])
        rig.show(RING)
        assert (rig.lit(), rig.holds) == ([Signal.SAVED], [True, False])
        assert rig.take() == [("registered", '"object 1" is registered')]
        assert not rig.engine.registrations.busy
        rig.show(RING, RING)
        assert rig.engine.present == ("object 1",)

    def test_a_second_press_adds_a_view_and_a_later_press_registers_a_new_object(self, rig: Rig) -> None:
        rig.press(*[RING] * 3)
        rig.now += 7.5
        rig.press(*[DISC] * 3)
        assert rig.take()[1:] == [("view added", '"object 1" has 2 views now')]
        assert rig.lit() == [Signal.REGISTERING, Signal.SAVED, Signal.REGISTERING, Signal.VIEW_SAVED]
        rig.engine.forget("object 1")
        rig.now += 8.1
        rig.press(*[DISC] * 3)
        assert (rig.names, rig.lit()) == (["object 2"], [Signal.REGISTERING, Signal.SAVED])

    def test_no_view_is_added_to_a_forgotten_object(self, rig: Rig) -> None:
        rig.press(*[RING] * 3)
        rig.engine.forget("object 1")
        rig.press(*[RING] * 3)
        assert rig.names == ["object 2"]

    def test_presses_during_a_registration_are_ignored(self, rig: Rig) -> None:
        rig.press(RING)
        rig.press(RING)
        rig.press(RING)
        assert (rig.lit(), rig.names) == ([Signal.REGISTERING, Signal.SAVED], ["object 1"])

    def test_a_hold_undoes_the_registration(self, rig: Rig) -> None:
        rig.press(*[RING] * 3)
        rig.show(RING, RING)
        rig.take()
        rig.lit()
        rig.do(Gesture.HOLD)
        assert [event.kind for event in rig.events] == ["left", "undone"]
        assert rig.events[-1].text == 'undone: "object 1" is no longer registered'
        assert (rig.lit(), rig.names, rig.engine.present) == ([Signal.UNDONE], [], ())
        rig.show(RING, RING, RING)
        assert rig.engine.present == ()
        rig.do(Gesture.HOLD)
        assert rig.lit() == [Signal.NOTHING_TO_UNDO]

    def test_a_hold_undoes_registrations_only(self, knowing: Rig) -> None:
        knowing.engine.rename("ring", "hoop")
        knowing.do(Gesture.HOLD)
        assert (knowing.names, knowing.lit()) == ([], [Signal.UNDONE])

    def test_after_a_hold_a_press_registers_a_new_object(self, rig: Rig) -> None:
        rig.press(*[RING] * 3)
        rig.do(Gesture.HOLD)
        rig.press(*[RING] * 3)
        assert rig.names == ["object 2"]

    def test_a_hold_cancels_a_running_registration(self, rig: Rig) -> None:
        rig.press(RING, RING)
        rig.do(Gesture.HOLD)
        assert rig.lit() == [Signal.REGISTERING, Signal.UNDONE]
        assert rig.take() == [("refused", "not registered: the registration was canceled")]
        assert (rig.engine.registrations.busy, rig.holds, rig.names) == (False, [True, False], [])

    def test_a_double_press_rejects_the_last_recognition(self, knowing: Rig) -> None:
        knowing.show(RING, RING)
        knowing.take()
        knowing.do(Gesture.DOUBLE_PRESS)
        assert knowing.take() == [
            ("left", "ring left after 0 s"),
            ("negative added", 'that was not "ring": the view is kept as a negative'),
        ]
        assert knowing.lit() == [Signal.NEGATIVE_SAVED]
        knowing.show(RING, RING, RING)
        assert knowing.engine.latest is not None
        assert (knowing.engine.latest.name, knowing.engine.latest.rule) == (None, "nearer to a negative")
        assert knowing.engine.present == ()
        assert knowing.store.object("ring").negatives == 1
        negative = knowing.store.views("ring")[-1]
        assert (negative.kind, negative.source, negative.crops) == ("negative", "wrong", 1)

    def test_a_double_press_without_a_recognition_shows_on_the_led(self, rig: Rig) -> None:
        rig.do(Gesture.DOUBLE_PRESS)
        assert (rig.lit(), rig.take()) == ([Signal.NOTHING_TO_UNDO], [])

    def test_a_store_error_shows_on_the_led(self, knowing: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
        knowing.show(RING)
        monkeypatch.setattr(knowing.store, "add_negative", broken)
        monkeypatch.setattr(knowing.store, "undo", broken)
        knowing.do(Gesture.DOUBLE_PRESS)
        knowing.do(Gesture.HOLD)
        assert knowing.lit() == [Signal.FAILED, Signal.FAILED]


class TestChanging:
    def test_a_rename_updates_the_current_sighting(self, knowing: Rig) -> None:
        knowing.show(RING, RING)
        knowing.take()
        assert knowing.engine.rename("ring", "hoop").name == "hoop"
        assert knowing.engine.present == ("hoop",)
        knowing.show(*[PAGE] * 3)
        assert knowing.take() == [
            ("renamed", '"ring" is now called "hoop"'),
            ("left", "hoop left after 0 s"),
        ]

    def test_renaming_to_the_same_name_publishes_no_event(self, knowing: Rig) -> None:
        assert knowing.engine.rename("ring", "ring").name == "ring"
        assert knowing.take() == []

    def test_a_taken_name_changes_nothing(self, knowing: Rig) -> None:
        knowing.learn("disc", DISC)
        with pytest.raises(SupportError, match=r'there is already an object "Ring"'):
            knowing.engine.rename("disc", "Ring")
        with pytest.raises(SupportError, match=r'^there is no object "rink"; did you mean "ring'):
            knowing.engine.forget("rink")
        assert knowing.names == ["ring", "disc"]

    def test_a_forgotten_object_leaves_and_undo_restores_it(self, knowing: Rig) -> None:
        knowing.show(RING, RING)
        knowing.take()
        knowing.engine.forget("ring")
        assert [kind for kind, _ in knowing.take()] == ["left", "forgotten"]
        knowing.show(RING, RING, RING)
        assert knowing.take() == []
        assert knowing.engine.undo() == 'undone: "ring" is registered again'
        assert knowing.take() == [("undone", 'undone: "ring" is registered again')]
        knowing.show(RING, RING)
        assert [kind for kind, _ in knowing.take()] == ["appeared"]

    def test_undo_of_a_rename_updates_the_current_sighting(self, knowing: Rig) -> None:
        knowing.engine.rename("ring", "hoop")
        knowing.show(RING, RING)
        knowing.engine.undo()
        assert knowing.engine.present == ("ring",)

    def test_undo_ends_with_an_error(self, rig: Rig) -> None:
        with pytest.raises(ControlError, match=r"^there is nothing to undo$"):
            rig.engine.undo()
        assert rig.lit() == [Signal.NOTHING_TO_UNDO]

    def test_rejecting_with_a_name_checks_the_object(self, knowing: Rig) -> None:
        knowing.learn("disc", DISC)
        knowing.show(RING)
        with pytest.raises(ControlError, match=r'^"ring" was recognized last, not "disc"$'):
            knowing.engine.reject_last(knowing.now, "disc")
        with pytest.raises(SupportError, match=r'^there is no object "cup"'):
            knowing.engine.reject_last(knowing.now, "cup")
        knowing.engine.rename("ring", "hoop")
        with pytest.raises(ControlError, match=r'^"hoop" was recognized last, not "disc"$'):
            knowing.engine.reject_last(knowing.now, "disc")
        assert knowing.engine.reject_last(knowing.now, "hoop").negatives == 1

    def test_a_recognition_cannot_be_rejected_after_half_a_minute(self, knowing: Rig) -> None:
        knowing.show(RING)
        with pytest.raises(ControlError, match=r"^nothing was recognized recently that could be wrong$"):
            knowing.engine.reject_last(knowing.now + 30.1)
        assert knowing.engine.reject_last(knowing.now + 29.9).negatives == 1
        with pytest.raises(ControlError, match=r"^nothing was recognized recently"):
            knowing.engine.reject_last(knowing.now)

    def test_negatives_have_no_picture_if_crops_are_not_kept(self, tmp_path: Path, bundle: Bundle) -> None:
        rig = Rig(tmp_path, bundle, keep_crops=False)
        rig.learn("ring", RING)
        rig.show(RING)
        rig.engine.reject_last(rig.now)
        assert [view.crops for view in rig.store.views("ring")] == [0, 0]

    def test_imported_objects_are_recognized_and_undo_ends_their_sightings(
        self, knowing: Rig, tmp_path: Path, bundle: Bundle
    ) -> None:
        knowing.store.export_archive(tmp_path / "shelf.zip")
        other = Rig(tmp_path / "other", bundle)
        brought = other.engine.finish_import(other.store.import_archive(tmp_path / "shelf.zip"))
        assert (brought["objects"], brought["text"]) == (1, "imported: objects 1, views 1, negatives 0")
        other.show(RING, RING)
        assert other.engine.present == ("ring",)
        other.engine.undo()
        assert other.engine.present == ()
        assert [kind for kind, _ in other.take()] == ["imported", "appeared", "left", "undone"]

    def test_a_change_is_reported_even_if_the_store_cannot_be_read(
        self, knowing: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(knowing.store, "entries", broken)
            assert knowing.learn("disc", DISC).saved
            knowing.wait(0.1)
            knowing.wait(0.1)
        assert knowing.take() == [("registered", '"disc" is registered')]
        assert knowing.lit() == [Signal.REGISTERING, Signal.SAVED]
        assert caplog.messages == [
            "the objects cannot be read; recognizing the previous ones: objects.db: the disk is full"
        ]
        assert "disc" not in knowing.engine.support.names
        knowing.wait(0.1)
        assert "disc" in knowing.engine.support.names


def test_changes_are_on_disk_before_signals_and_events(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    database = rig.store._database
    change = type(database).change

    def noted(self: Any) -> Any:
        @contextmanager
        def inner() -> Iterator[Any]:
            with change(self) as connection:
                yield connection
            rig.log.append("committed")

        return inner()

    monkeypatch.setattr(type(database), "change", noted)
    rig.press(*[RING] * 3)
    rig.press(*[RING] * 3)
    rig.show(RING)
    rig.engine.reject_last(rig.now)
    rig.engine.rename("object 1", "ring")
    rig.engine.forget("ring")
    rig.engine.undo()
    assert rig.log == [
        "signal REGISTERING", "committed", "signal SAVED", "event registered",
        "signal REGISTERING", "committed", "signal VIEW_SAVED", "event view added",
        "committed", "signal NEGATIVE_SAVED", "event negative added",
        "committed", "event renamed",
        "committed", "event forgotten",
        "committed", "signal UNDONE", "event undone",
    ]  # fmt: skip


def test_a_new_engine_reads_an_existing_store(knowing: Rig, bundle: Bundle, tmp_path: Path) -> None:
    knowing.store.close()
    again = Rig(tmp_path, bundle)
    assert again.engine.support.names == ("ring",)
    again.show(RING, RING)
    assert again.engine.present == ("ring",)


def test_external_changes_appear_after_a_refresh(knowing: Rig) -> None:
    view = NewView(knowing.encoder.embed([DISC])[0], (), "picture")
    knowing.store.register("disc", view)
    assert knowing.engine.support.names == ("ring",)
    knowing.engine.refresh()
    assert knowing.engine.support.names == ("ring", "disc")
    assert knowing.engine.object("disc").views == 1


def test_the_report_describes_model_runtime_and_threshold(rig: Rig) -> None:
    rig.engine.bundle.path = Path("/models/tiny")  # type: ignore[misc]
    assert rig.engine.model_report() == {
        "model_id": "fake-32x32x1-64-0",
        "bundle": "/models/tiny",
        "runtime": "fake",
        "precision": "fp32",
        "reason": rig.encoder.reason,
        "threshold": 0.5,
        "threshold_source": "given",
        "input": {"height": 32, "width": 32, "color": "gray", "fit": "crop"},
    }


def test_look_alikes_are_undecided_and_make_an_event(rig: Rig) -> None:
    """Two objects registered from the same picture."""
    assert rig.learn("ring", RING).saved
    assert rig.learn("circle", RING, force=True).saved
    rig.take()
    rig.show(*[RING] * 10)
    assert rig.engine.latest is not None
    assert str(rig.engine.latest).startswith("ring or circle (p = ")
    ((kind, text),) = rig.take()
    assert (kind, text.partition(" (p")[0]) == ("undecided", "ring or circle: both are about equally close")
    assert rig.engine.present == ()
    with pytest.raises(ControlError, match="nothing was recognized recently"):
        rig.engine.reject_last(rig.now)


def test_look_alikes_are_named_if_the_settings_say_so(tmp_path: Path, bundle: Bundle) -> None:
    recognition = structs.replace(SETTINGS.recognition, min_preference=0.5)
    rig = Rig(tmp_path, bundle, structs.replace(SETTINGS, recognition=recognition))
    rig.learn("ring", RING)
    rig.learn("circle", RING, force=True)
    rig.show(*[RING] * 3)
    assert len(rig.engine.present) == 1
    rig.store.close()
