"""Bursts of frames: the gates, their order and messages, agreement, and the stored view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from edge_siamese.cameras.camera import Frame
from edge_siamese.errors import ImageError
from edge_siamese.recognition.embedding import (
    VARIATIONS,
    encode_in_batches,
    mean_embedding,
    prepare_variations,
)
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.recognition.quality import Quality
from edge_siamese.recognition.registration import (
    MAX_VERDICTS,
    Burst,
    FrameVerdict,
    NewView,
    Reason,
    Refusal,
    collision,
    collision_refusal,
    refusal_reason,
    view_from_pictures,
)
from edge_siamese.recognition.support import SupportEntry, SupportSet
from edge_siamese.runtimes.fake import FAKE_HEAD, FakeEncoder
from edge_siamese.settings import RegistrationSettings
from tests.edge_siamese.recognition.test_quality import blurred, camera, drawing, quality

SETTINGS = RegistrationSettings()
ENCODER = FakeEncoder()
THRESHOLD = 0.5
GOOD = Quality(sharpness=40, brightness=120, clipped_dark=0, clipped_bright=0, contrast=150, motion=0)

RING = camera(drawing(256), 1.0)
DISC = camera(drawing(256, size=0.2, stroke=0.25), 1.0)
SOFT = camera(blurred(drawing(256), 10), 1.0)
NIGHT = camera(drawing(256) * 0.05, 1.0)
GLARE = camera(drawing(256, paper=300, ink=240), 1.0)
PAGE = camera(drawing(256, paper=200, ink=200), 2.0)


def frames(*pictures: Bytes, every: float = 0.1, start: float = 100.0) -> list[Frame]:
    return [Frame(picture, start + every * place, place) for place, picture in enumerate(pictures, 1)]


def burst(settings: RegistrationSettings = SETTINGS, threshold: float = THRESHOLD) -> Burst:
    return Burst(settings, ENCODER, FAKE_HEAD, threshold, started=100.0)


def add(burst: Burst, frame: Frame) -> FrameVerdict:
    return burst.add(frame.pixels, frame.time, frame.number)


def reasons(of: Burst, pictures: Sequence[Bytes]) -> list[Reason | None]:
    return [add(of, frame).reason for frame in frames(*pictures)]


def view_of(of: Burst) -> NewView:
    found = of.finish()
    assert isinstance(found, NewView), found
    return found


def refusal_of(of: Burst) -> Refusal:
    found = of.finish()
    assert isinstance(found, Refusal)
    return found


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"motion": None}, None),
        ({"brightness": 24.9, "contrast": 29.9, "sharpness": 0.0}, Reason.DARK),
        ({"brightness": 24.9, "contrast": 30.0}, None),
        ({"brightness": 250.1, "contrast": 29.9}, Reason.BRIGHT),
        ({"brightness": 250.1, "contrast": 30.0}, None),
        ({"clipped_bright": 0.51, "contrast": 29.9}, Reason.BRIGHT),
        ({"clipped_bright": 0.97, "brightness": 250.5, "contrast": 255.0}, None),
        ({"contrast": 13.9, "motion": 90.0}, Reason.NOTHING),
        ({"contrast": 14.0}, None),
        ({"motion": 25.1, "sharpness": 0.0}, Reason.MOVING),
        ({"motion": 25.0}, None),
        ({"sharpness": 21.9}, Reason.BLURRED),
        ({"sharpness": 22.0}, None),
    ],
)
def test_gates_stand_in_the_order_of_causes(change: dict[str, float], reason: Reason | None) -> None:
    assert refusal_reason(replace(GOOD, **change), SETTINGS) is reason


@pytest.mark.parametrize("stroke", [0.02, 0.1])
def test_a_frame_that_is_too_blurred_is_so_when_it_is_blurred_more(stroke: float) -> None:
    page = drawing(256, stroke=stroke)
    found = [refusal_reason(quality(camera(blurred(page, sigma))), SETTINGS) for sigma in range(0, 24, 2)]
    refused = [reason is not None for reason in found]
    assert refused == sorted(refused)
    assert (found[0], found[6]) == (None, Reason.BLURRED)


def test_a_frame_that_is_too_dark_is_so_when_there_is_less_light() -> None:
    for page in (drawing(256), drawing(256, paper=40, ink=250), drawing(256, paper=120, ink=60)):
        found = [refusal_reason(quality(camera(page * 0.85**step)), SETTINGS) for step in range(30)]
        refused = [reason is not None for reason in found]
        assert refused == sorted(refused)
        assert (found[0], found[-1]) == (None, Reason.DARK)


def test_reasons_say_what_to_do() -> None:
    assert Reason.DARK.sentence == "too dark: add light"
    assert len({reason.sentence for reason in Reason}) == len(Reason) == 8


def test_enough_good_frames_make_a_view() -> None:
    taken = burst()
    assert reasons(taken, [RING] * 4) == [None] * 4
    assert (taken.done, taken.good) == (False, 4)
    add(taken, frames(*[RING] * 5)[4])
    assert (taken.done, taken.good) == (True, 5)
    view = view_of(taken)
    expected = mean_embedding(
        encode_in_batches(prepare_variations(RING, ENCODER.preprocessing, VARIATIONS), ENCODER)
    )
    np.testing.assert_allclose(view.embedding, expected, atol=1e-6)
    assert np.linalg.norm(view.embedding) == pytest.approx(1, abs=1e-6)
    assert (view.source, [crop.shape for crop in view.crops]) == ("camera", [(192, 192)] * 3)


def test_frames_after_the_end_change_nothing() -> None:
    taken = burst(structs.replace(SETTINGS, frames=1))
    reasons(taken, [RING])
    before = view_of(taken)
    assert add(taken, frames(DISC, start=102)[0]).reason is Reason.MOVING
    assert (taken.good, len(taken.verdicts)) == (1, 1)
    np.testing.assert_array_equal(view_of(taken).embedding, before.embedding)


def test_bad_frames_are_told_from_good_ones() -> None:
    taken = burst()
    pictures = [NIGHT, GLARE, PAGE, SOFT, RING, RING, DISC, DISC]
    expected = [
        Reason.DARK, Reason.BRIGHT, Reason.NOTHING, Reason.MOVING, Reason.MOVING, None, Reason.MOVING, None,
    ]  # fmt: skip
    assert reasons(taken, pictures) == expected
    assert [verdict.reason for verdict in taken.verdicts] == expected
    assert [verdict.number for verdict in taken.verdicts] == list(range(1, 9))
    assert taken.verdicts[0].text == "too dark: add light"
    assert (taken.verdicts[5].text, taken.verdicts[5].good) == ("good", True)


@pytest.mark.parametrize(
    ("pictures", "reason", "text"),
    [
        ([NIGHT] * 20, Reason.DARK, "none of 20 frames were good enough; most were too dark: add light"),
        (
            [RING, RING] + [NIGHT] * 18,
            Reason.DARK,
            "2 of 20 frames were good enough; most were too dark: add light",
        ),
        (
            [PAGE] * 4 + [SOFT] * 4,
            Reason.NOTHING,
            "none of 8 frames were good enough; many showed nothing: hold something in front of the camera",
        ),
        ([SOFT] * 3, Reason.BLURRED, "none of 3 frames were good enough; most were blurred: "),
        ([RING, DISC] * 4, Reason.MOVING, "1 of 8 frames were good enough; most were moving: hold it still"),
        ([GLARE], Reason.BRIGHT, "the frame is not good enough: too bright; dim the light, or avoid the glare"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_most_frequent_reason(pictures: list[Bytes], reason: Reason, text: str) -> None:
    taken = burst()
    found = reasons(taken, pictures)
    refusal = refusal_of(taken)
    assert (refusal.reason, refusal.frames, refusal.good) == (reason, len(pictures), taken.good)
    assert refusal.text.startswith(text)
    assert refusal.reasons == {one: found.count(one) for one in set(found) if one is not None}


def test_half_of_the_frames_are_enough_when_the_time_is_over() -> None:
    for good, is_enough in ((2, False), (3, True)):
        taken = burst()
        reasons(taken, [RING] * good + [SOFT] * 4)
        assert not taken.tick(103.9)
        assert taken.tick(104.0)
        assert taken.done
        assert isinstance(taken.finish(), NewView) is is_enough


def test_the_time_of_a_frame_ends_a_burst_too() -> None:
    taken = burst()
    taken.add(RING, 104.0, 1)
    assert (taken.done, taken.good, taken.verdicts) == (True, 0, ())


def test_a_camera_without_frames_is_the_reason_then() -> None:
    taken = burst()
    assert taken.tick(104.0)
    assert refusal_of(taken) == Refusal(Reason.NO_FRAMES, "no frame arrived within 4 s: check the camera")
    reasons(slow := burst(), [RING])
    assert refusal_of(slow).text == "only 1 frame arrived within 4 s: check the camera"
    assert (refusal_of(slow).reason, refusal_of(slow).good) == (Reason.NO_FRAMES, 1)


def test_one_frame_that_shows_another_thing_is_left_out() -> None:
    calm = structs.replace(SETTINGS, max_motion=100.0)
    taken = burst(calm)
    reasons(taken, [RING, RING, DISC, RING, RING])
    view = view_of(taken)
    reasons(alone := burst(calm), [RING] * 5)
    np.testing.assert_allclose(view.embedding, view_of(alone).embedding, atol=1e-6)
    assert len(view.crops) == 3
    for crop in view.crops:
        np.testing.assert_array_equal(crop, view_of(alone).crops[0])


def test_frames_that_show_two_things_make_no_view() -> None:
    taken = burst(structs.replace(SETTINGS, max_motion=100.0))
    reasons(taken, [RING, RING, RING, DISC, DISC])
    refusal = refusal_of(taken)
    assert (refusal.reason, refusal.frames, refusal.good) == (Reason.UNSTEADY, 5, 5)
    assert refusal.text == (
        "the 5 good frames do not show one object: show one object only, and keep hands away"
    )


def test_no_threshold_makes_a_frame_unlike_itself() -> None:
    taken = burst(structs.replace(SETTINGS, frames=1), threshold=1.0)
    reasons(taken, [RING])
    assert isinstance(taken.finish(), NewView)


def test_the_sharpest_frames_are_kept_as_pictures() -> None:
    steps = [camera(blurred(drawing(256), sigma)) for sigma in (4, 2, 0, 1, 3)]
    taken = burst(structs.replace(SETTINGS, crops_per_view=2, crop_side=1000))
    reasons(taken, steps)
    assert taken.done
    kept = view_of(taken).crops
    np.testing.assert_array_equal(kept, [steps[2], steps[3]])


def test_pictures_are_not_kept_if_they_are_not_wanted() -> None:
    taken = burst(structs.replace(SETTINGS, keep_crops=False))
    reasons(taken, [RING] * 5)
    assert view_of(taken).crops == ()


def test_pictures_held_and_verdicts_remembered_are_bounded() -> None:
    taken = burst(structs.replace(SETTINGS, frames=100, crops_per_view=3, timeout_s=60))
    reasons(taken, [SOFT] * (MAX_VERDICTS + 5) + [RING] * 50)
    assert len(taken.verdicts) == MAX_VERDICTS
    assert refusal_of(burst()).reason is Reason.NO_FRAMES
    assert len(taken._collector.crops) == 3 + 25


def test_a_frame_that_is_no_image_stops_the_burst_but_loses_nothing() -> None:
    taken = burst()
    reasons(taken, [RING] * 3)
    with pytest.raises(ImageError, match="not float64"):
        taken.add(np.zeros((8, 8)), 101.0, 4)
    assert isinstance(taken.finish(), NewView)


def pictures(*given: Bytes, told: list[FrameVerdict] | None = None) -> NewView | Refusal:
    on_refused = None if told is None else told.append
    return view_from_pictures(given, ENCODER, SETTINGS, FAKE_HEAD, THRESHOLD, on_refused)


def test_one_good_picture_is_a_view() -> None:
    told: list[FrameVerdict] = []
    view = pictures(SOFT, RING, told=told)
    assert isinstance(view, NewView)
    assert (view.source, len(view.crops)) == ("picture", 1)
    assert [(verdict.number, verdict.reason) for verdict in told] == [(1, Reason.BLURRED)]
    alone = pictures(RING)
    assert isinstance(alone, NewView)
    np.testing.assert_allclose(view.embedding, alone.embedding, atol=1e-6)


def test_pictures_that_are_not_good_enough_are_refused() -> None:
    refusal = pictures(PAGE)
    assert isinstance(refusal, Refusal)
    assert refusal.text == (
        "the picture is not good enough: nothing to see; hold something in front of the camera"
    )
    refusal = pictures(RING, DISC)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.text) == (
        Reason.UNSTEADY,
        "the 2 good pictures do not show one object: register pictures of different sides one by one",
    )
    with pytest.raises(ValueError, match="a view needs at least one picture"):
        pictures()


def test_a_new_view_that_would_be_recognized_collides() -> None:
    ring, disc = (ENCODER.embed(picture)[0] for picture in (RING, DISC))
    none = np.empty((0, ENCODER.dimensions), np.float32)
    support = SupportSet.build(
        [SupportEntry("u1", "ring", (1,), ring[np.newaxis], none), SupportEntry("u2", "disc", (2,), disc[np.newaxis], none)],
        ENCODER.dimensions,
    )  # fmt: skip
    near = ENCODER.embed(camera(drawing(256), 3.0, seed=5))[0]
    assert collision(near, support, FAKE_HEAD, THRESHOLD) == "ring"
    assert collision(near, support, FAKE_HEAD, THRESHOLD, except_uid="u1") is None
    assert collision(near, support, FAKE_HEAD, THRESHOLD, except_uid="u2") == "ring"
    assert collision(near, support, FAKE_HEAD, THRESHOLD, except_uid="gone") == "ring"
    assert collision(near, SupportSet.empty(ENCODER.dimensions), FAKE_HEAD, THRESHOLD) is None
    refusal = collision_refusal("ring")
    assert refusal.reason is Reason.COLLISION
    assert (
        refusal.text
        == 'it looks like "ring", which is registered: add a view to that object, or forget it first'
    )


def test_the_view_is_recognized_in_a_frame() -> None:
    taken = burst()
    reasons(taken, [RING] * 5)
    distance = np.linalg.norm(view_of(taken).embedding - ENCODER.embed(RING)[0])
    assert FAKE_HEAD.probability(distance) > 0.5
