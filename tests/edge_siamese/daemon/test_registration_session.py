"""Registrations: how each one ends, what is shown and reported, and that nothing is reported before it is on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.registration_session import SIGNALS, RegistrationRequest, RegistrationResult
from edge_siamese.errors import ControlError, EncoderError, ImageError, StoreError, SupportError
from edge_siamese.models.bundle import Bundle
from edge_siamese.panel.led_signals import Signal
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.recognition.registration import Reason
from tests.edge_siamese.daemon.rig import DISC, GLARE, NIGHT, PAGE, RING, SOFT, Rig


@pytest.fixture
def rig(tmp_path: Path, bundle: Bundle) -> Iterator[Rig]:
    made = Rig(tmp_path, bundle)
    yield made
    made.store.close()


def end_of(
    rig: Rig, request: RegistrationRequest, pictures: list[Bytes], seconds: float = 2.0
) -> RegistrationResult:
    """How a registration ends that sees these pictures, and then nothing until its time is over."""
    said: list[RegistrationResult] = []
    rig.engine.registrations.begin(request, rig.now, said.append)
    rig.show(*pictures)
    if not said:
        rig.wait(seconds)
    (learned,) = said
    assert not rig.engine.registrations.busy
    assert rig.holds == [True, False]
    return learned


def test_a_registration_reports_each_frame_and_the_outcome(rig: Rig) -> None:
    said: list[RegistrationResult] = []
    progress: list[dict[str, Any]] = []
    rig.engine.registrations.begin(RegistrationRequest("ring"), rig.now, said.append, progress.append)
    assert rig.engine.registrations.busy
    rig.show(RING, NIGHT, RING, RING, RING)
    assert progress == [
        {"frame": 1, "good": True, "text": "good"},
        {"frame": 2, "good": False, "text": "too dark: add light"},
        {"frame": 3, "good": False, "text": "moving: hold it still"},
        {"frame": 4, "good": True, "text": "good"},
        {"frame": 5, "good": True, "text": "good"},
    ]
    known = rig.store.object("ring")
    assert said == [RegistrationResult(True, '"ring" is registered', known)]
    (event,) = rig.events
    assert (event.kind, event.text) == ("registered", '"ring" is registered')
    assert event.data == {"uid": known.uid, "name": "ring", "views": 1, "source": "command"}
    (view,) = rig.store.views("ring")
    assert (view.kind, view.source, view.crops) == ("view", "command", 1)


@pytest.mark.parametrize(
    ("pictures", "settings", "reason", "signal"),
    [
        ([NIGHT] * 4, {}, Reason.DARK, Signal.DARK),
        ([GLARE] * 4, {}, Reason.BRIGHT, Signal.BRIGHT),
        ([SOFT] * 4, {}, Reason.BLURRED, Signal.BLURRED),
        ([RING, DISC] * 4, {"frames": 5}, Reason.MOVING, Signal.MOVING),
        ([PAGE] * 4, {}, Reason.NOTHING, Signal.FAILED),
        ([RING, RING, DISC, DISC], {"frames": 4, "max_motion": 100.0}, Reason.UNSTEADY, Signal.FAILED),
        ([], {}, Reason.NO_FRAMES, Signal.FAILED),
    ],
    ids=lambda value: value.name if isinstance(value, Reason) else "",
)
def test_each_refusal_has_its_signal(
    tmp_path: Path,
    bundle: Bundle,
    pictures: list[Bytes],
    settings: dict[str, Any],
    reason: Reason,
    signal: Signal,
) -> None:
    rig = Rig(tmp_path, bundle, **settings)
    result = end_of(rig, RegistrationRequest("thing"), pictures)
    assert (result.saved, result.object, result.reason) == (False, None, reason.problem)
    assert rig.lit() == [Signal.REGISTERING, signal]
    (event,) = rig.events
    assert (event.kind, event.text) == ("refused", f"not registered: {result.text}")
    assert event.data == {"reason": reason.problem, "source": "command"}
    assert rig.names == []


def test_reasons_with_their_own_signal() -> None:
    assert set(Reason) - set(SIGNALS) == {Reason.NOTHING, Reason.UNSTEADY, Reason.NO_FRAMES}


def test_a_registration_without_frames_times_out(rig: Rig) -> None:
    said: list[RegistrationResult] = []
    rig.engine.registrations.begin(RegistrationRequest("thing"), rig.now, said.append)
    rig.wait(1.9)
    assert said == []
    rig.wait(0.1)
    assert [result.text for result in said] == ["no frame arrived within 2 s: check the camera"]
    rig.wait(5.0)
    assert len(said) == 1


def test_a_frame_from_before_the_request_is_ignored(rig: Rig) -> None:
    said: list[RegistrationResult] = []
    progress: list[dict[str, Any]] = []
    rig.engine.registrations.begin(RegistrationRequest("ring"), rig.now, said.append, progress.append)
    rig.number = 1
    rig.engine.process_frame(Frame(DISC, rig.now - 0.05, rig.number))  # of an object that was just taken away
    rig.show(RING, RING, RING)
    assert [told["frame"] for told in progress] == [2, 3, 4]
    assert [result.saved for result in said] == [True]


def test_a_collision_is_refused_with_the_name(rig: Rig) -> None:
    rig.learn("ring", RING)
    rig.take()
    rig.lit()
    result = rig.learn("hoop", RING)
    text = 'it looks like "ring", which is registered: add a view to that object, or forget it first'
    assert (result.saved, result.text, result.reason, result.collides) == (
        False,
        text,
        "already known",
        "ring",
    )
    assert rig.lit() == [Signal.REGISTERING, Signal.COLLISION]
    assert rig.events[0].data == {"reason": "already known", "source": "command", "name": "ring"}
    assert rig.names == ["ring"]


def test_force_registers_despite_a_collision(rig: Rig) -> None:
    rig.learn("ring", RING)
    assert rig.learn("hoop", RING, force=True).saved
    assert rig.names == ["ring", "hoop"]


def test_settings_can_allow_collisions(tmp_path: Path, bundle: Bundle) -> None:
    rig = Rig(tmp_path, bundle, collisions="allow")
    rig.learn("ring", RING)
    assert rig.learn("hoop", RING).saved


def test_a_view_may_look_like_its_own_object_but_not_like_another(rig: Rig) -> None:
    ring = rig.learn("ring", RING).object
    disc = rig.learn("disc", DISC).object
    assert ring is not None
    assert disc is not None
    added = rig.learn(None, RING, target=ring.uid)  # type: ignore[arg-type]
    assert (added.saved, added.text) == (True, '"ring" has 2 views now')
    assert rig.lit()[-1] is Signal.VIEW_SAVED
    refused = rig.learn(None, RING, target=disc.uid)  # type: ignore[arg-type]
    assert (refused.saved, refused.collides) == (False, "ring")


def test_one_registration_runs_at_a_time(rig: Rig) -> None:
    rig.engine.registrations.begin(RegistrationRequest("ring"), rig.now)
    with pytest.raises(ControlError, match=r"^another registration is in progress; try again in a moment$"):
        rig.engine.registrations.begin(RegistrationRequest("disc"), rig.now)
    rig.show(*[RING] * 3)
    assert rig.names == ["ring"]


@pytest.mark.parametrize("name", ["ring", "RING ", "", "a\nb"])
def test_an_invalid_name_is_refused_at_once(rig: Rig, name: str) -> None:
    rig.learn("ring", RING)
    rig.lit()
    with pytest.raises(SupportError):
        rig.engine.registrations.begin(RegistrationRequest(name), rig.now)
    assert (rig.engine.registrations.busy, rig.lit(), rig.holds) == (False, [], [True, False])


def test_a_name_taken_meanwhile_is_reported_at_the_end(rig: Rig) -> None:
    said: list[RegistrationResult] = []
    rig.engine.registrations.begin(RegistrationRequest("ring"), rig.now, said.append)
    rig.show(RING, RING)
    rig.engine.registrations.from_pictures([DISC], RegistrationRequest("ring", source="picture"), rig.now)
    rig.show(RING)
    assert [result.reason for result in said] == ["failed"]
    assert said[0].text.startswith('there is already an object "ring"')
    assert rig.lit() == [Signal.REGISTERING, Signal.SAVED, Signal.FAILED]


def test_a_target_forgotten_meanwhile_is_reported_at_the_end(rig: Rig) -> None:
    ring = rig.learn("ring", RING).object
    assert ring is not None
    said: list[RegistrationResult] = []
    rig.engine.registrations.begin(RegistrationRequest(target=ring.uid), rig.now, said.append)
    rig.engine.forget("ring")
    rig.show(*[RING] * 3)
    assert (said[0].saved, said[0].reason) == (False, "failed")
    assert said[0].text.startswith("there is no object")
    assert rig.names == []


def raising(error: Exception) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def test_a_store_failure_is_reported_and_the_engine_continues(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(rig.store, "register", raising(StoreError("objects.db: the disk is full")))
        result = end_of(rig, RegistrationRequest("ring"), [RING] * 3)
    assert result == RegistrationResult(False, "objects.db: the disk is full", reason="failed")
    assert rig.lit() == [Signal.REGISTERING, Signal.FAILED]
    assert rig.take() == [("refused", "not registered: objects.db: the disk is full")]
    rig.show(RING, RING)
    assert rig.engine.latest is not None
    assert rig.learn("ring", RING).saved
    assert rig.lit() == [Signal.REGISTERING, Signal.SAVED]


def test_an_unexpected_error_is_reported_and_raised(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[RegistrationResult] = []
    rig.engine.registrations.begin(RegistrationRequest("ring"), rig.now, said.append)
    rig.show(RING, RING)
    monkeypatch.setattr(rig.store, "register", raising(EncoderError("the runtime failed")))
    with pytest.raises(EncoderError):
        rig.show(RING)
    assert said == [RegistrationResult(False, "the runtime failed", reason="failed")]
    assert (rig.engine.registrations.busy, rig.lit()[-1]) == (False, Signal.FAILED)


def test_a_frame_that_fails_does_not_end_a_registration(rig: Rig) -> None:
    said: list[RegistrationResult] = []
    rig.engine.registrations.begin(RegistrationRequest("ring"), rig.now, said.append)
    with pytest.raises(ImageError):
        rig.show(RING.astype(np.float32))
    rig.show(*[RING] * 3)
    assert [result.saved for result in said] == [True]


def test_a_canceled_registration_is_reported_and_saves_nothing(rig: Rig) -> None:
    said: list[RegistrationResult] = []
    rig.engine.registrations.begin(RegistrationRequest("ring"), rig.now, said.append)
    rig.show(RING)
    rig.engine.registrations.cancel()
    rig.engine.registrations.cancel()
    assert said == [RegistrationResult(False, "the registration was canceled", reason="ended")]
    assert (rig.names, rig.holds) == ([], [True, False])


class TestPictures:
    def test_one_good_picture_is_enough(self, rig: Rig) -> None:
        result = rig.engine.registrations.from_pictures(
            [SOFT, RING], RegistrationRequest("ring", source="picture"), rig.now
        )
        assert (result.saved, result.text) == (True, '"ring" is registered')
        assert [view.source for view in rig.store.views("ring")] == ["picture"]
        assert (rig.lit(), rig.holds) == ([Signal.SAVED], [])
        rig.show(RING, RING)
        assert rig.engine.present == ("ring",)

    def test_a_bad_picture_is_refused(self, rig: Rig) -> None:
        result = rig.engine.registrations.from_pictures(
            [NIGHT], RegistrationRequest("ring", source="picture"), rig.now
        )
        assert result.text == "the picture is not good enough: too dark; add light"
        assert rig.events[0].data == {"reason": "too dark", "source": "picture"}

    def test_a_picture_of_a_registered_object_is_refused(self, rig: Rig) -> None:
        rig.learn("ring", RING)
        request = RegistrationRequest("hoop", source="picture")
        assert rig.engine.registrations.from_pictures([RING], request, rig.now).collides == "ring"
        assert rig.engine.registrations.from_pictures([RING], replace(request, force=True), rig.now).saved

    def test_a_taken_name_is_an_error_at_once(self, rig: Rig) -> None:
        rig.learn("ring", RING)
        with pytest.raises(SupportError, match=r'^there is already an object "ring"'):
            rig.engine.registrations.from_pictures([DISC], RegistrationRequest("ring"), rig.now)

    def test_pictures_do_not_disturb_a_running_registration(self, rig: Rig) -> None:
        said: list[RegistrationResult] = []
        rig.engine.registrations.begin(RegistrationRequest("ring"), rig.now, said.append)
        rig.show(RING)
        assert rig.engine.registrations.from_pictures([DISC], RegistrationRequest("disc"), rig.now).saved
        rig.show(RING, RING)
        assert [result.saved for result in said] == [True]
        assert rig.names == ["disc", "ring"]
