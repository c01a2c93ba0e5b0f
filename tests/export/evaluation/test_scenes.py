"""Scenes: what the engine makes of objects that return, of strangers, and of an empty place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from PIL import Image

from edge_siamese.errors import DataError, EncoderError
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Bytes, Floats, Preprocessing
from edge_siamese.settings import CameraSettings, RecognitionSettings, RegistrationSettings, Settings
from export.evaluation import scene_script, scene_video, scenes
from export.evaluation.scene_recording import (
    EMPTY_STRIDE,
    SETTLE_SECONDS,
    Contender,
    SceneRecorder,
    SceneWatcher,
)
from export.evaluation.scene_script import PRESS_FRAMES
from export.evaluation.scene_video import (
    ARRIVAL,
    ARRIVED,
    EMPTY_AFTER,
    HEIGHT,
    LEFT,
    MOVE_FRAMES,
    STAY_FRAMES,
    WIDTH,
    VideoComposer,
)
from export.evaluation.scenes import measure_scenes
from tests.export.turntables import HUES, write_turntable

SETTINGS = Settings(
    recognition=RecognitionSettings(threshold=0.5), registration=RegistrationSettings(min_sharpness=0.0)
)
FRAMES = LEFT + EMPTY_AFTER


class HueEncoder:
    """Embeds the colors of saturated pixels, and nothing else; counts the images."""

    runtime, precision, reason, model_id = "fake", "fp32", "requested", "hue"
    preprocessing = Preprocessing(32, 32, "rgb")
    dimensions = HUES + 1

    def __init__(self) -> None:
        self.images, self.most = 0, 10**9
        self.failure: BaseException = KeyboardInterrupt()

    def embed_prepared(self, images: Bytes) -> Floats:
        """float32 (N, HUES + 1): a unit vector; the last number stands for no color."""
        self.images += len(images)
        if self.images > self.most:
            raise self.failure
        result = np.zeros((len(images), self.dimensions), np.float32)
        for row, image in enumerate(images):
            vivid = image[(image.max(axis=2).astype(int) - image.min(axis=2)) > 110]
            if len(vivid) < 20:
                result[row, -1] = 1.0
                continue
            hues = np.asarray(Image.fromarray(vivid[None]).convert("HSV"))[0, :, 0] / 255 * HUES
            result[row, :HUES] = np.bincount(np.round(hues).astype(int) % HUES, minlength=HUES)
        return result / np.linalg.norm(result, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(scene_video, "BACKGROUNDS", 4)
    monkeypatch.setattr(scene_script, "SETTLE_SECONDS", 2)
    monkeypatch.setattr(scene_script, "PRESS_FRAMES", 12)
    monkeypatch.setattr(scene_script, "OBJECTS_PER_PLACE", 2)
    for module in (scenes, scene_script):
        monkeypatch.setattr(module, "POSES", {"within 45°": 45, "any": 180})
    monkeypatch.setenv("EDGE_SIAMESE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def model(bundle: Bundle) -> Any:
    return SimpleNamespace(head=SigmoidDistanceHead(12.0, 7.0), manifest=bundle.manifest, impostors=None)


def contender(model: Any, settings: Settings = SETTINGS, **more: Any) -> Contender:
    encoder: Any = HueEncoder()
    return Contender("hue", model, encoder, settings, **more)


def test_objects_of_their_own_color_are_recognized_from_all_sides(tmp_path: Path, model: Any) -> None:
    write_turntable(tmp_path, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    steps = dict[str, list[int]]()

    @contextmanager
    def progress(step: str, total: int) -> Iterator[Callable[[], None]]:
        steps[step] = [0, total]

        def advance() -> None:
            steps[step][0] += 1

        yield advance

    (found,) = measure_scenes(
        [contender(model)],
        VideoComposer(tmp_path),
        registered=(2, 3, 9),
        min_total_objects=4,
        strangers=3,
        progress=progress,
    )
    assert (found.name, found.model_id, found.focus, found.is_baseline) == ("hue", "hue", "center", False)
    # Four objects at two places, with three strangers each.
    assert (found.objects, found.strangers, found.visits) == (10, 4, 6)
    assert found.backgrounds == "drawn"
    assert found.skipped == ("9 objects: only 6 can be registered",)
    assert steps == {"recording video": [4 * 3 + 4 * 4 + 6] * 2, "recognizing": [2 * (2 + 1)] * 2}
    kinds = [(row.registered, row.presses, row.draws, row.views_refused) for row in found.results]
    assert kinds == [(2, 1, 2, None), (2, 3, 2, 0.0), (3, 1, 1, None), (3, 3, 1, 0.0)]
    for row in found.results:
        nothing = (row.objects_refused.value, row.strangers_per_hour.value, row.empty.value)
        assert nothing == (0.0, 0.0, 0.0)
        assert [(r.pose, r.recognized.value, r.misnamed.value) for r in row.returns] == [
            ("within 45°", 1.0, 0.0),
            ("any", 1.0, 0.0),
        ]
        # The sixth matching frame, of which the last ones of the arrival may be some.
        assert all(
            0.2 <= r.seconds[0] <= r.seconds[1] <= 0.7 and r.count == 2 * row.registered * row.draws
            for r in row.returns
        )
    # Four objects without a mistake prove little, and so does a minute without a false appearance.
    two, *_ = found.results
    assert (two.objects_refused.low, two.objects_refused.high) == pytest.approx((0.0, 0.489891), abs=1e-6)
    assert two.returns[0].recognized.low == pytest.approx(0.510109, abs=1e-6)
    assert two.strangers_per_hour.high == pytest.approx(60 * 3.688879, abs=1e-3)


def test_strangers_that_look_like_a_registered_object_are_counted(tmp_path: Path, model: Any) -> None:
    """All are red: each stranger appears as the registered object, unless the next press is refused as a collision."""
    write_turntable(tmp_path, [0] * 6)
    lenient = structs.replace(
        SETTINGS, registration=structs.replace(SETTINGS.registration, collisions="allow")
    )
    refusing, allowing = measure_scenes(
        [contender(model), contender(model, lenient, is_baseline=True)],
        VideoComposer(tmp_path),
        registered=(1, 2),
        min_total_objects=2,
        strangers=6,
    )
    one, three, two, two_of_three = refusing.results
    assert (one.objects_refused.value, three.objects_refused.value, two.objects_refused.value) == (0, 0, 0.5)
    # Views of one's own object are no collision; the second object gets none, because it was refused.
    assert (one.views_refused, three.views_refused, two_of_three.views_refused) == (None, 0.0, 0.0)
    assert one.strangers_per_hour.value == two.strangers_per_hour.value == 360.0
    assert two.returns[0].recognized.value == 0.5
    assert two.returns[0].misnamed.value == 0.5
    assert allowing.is_baseline
    assert [row.objects_refused.value for row in allowing.results] == [0.0] * 4
    # Two red objects are look-alikes; the views of one are not.
    assert [row.strangers_per_hour.value for row in allowing.results] == [360.0, 360.0, 0.0, 0.0]
    undecided = [row.strangers_undecided and row.strangers_undecided.value for row in allowing.results]
    assert undecided == [0.0, 0.0, 360.0, 360.0]
    pair = allowing.results[2].returns[0]
    assert (pair.recognized.value, pair.misnamed.value) == (0.0, 0.0)
    assert pair.undecided is not None and pair.undecided.value == 1.0


def test_familiar_strangers_come_first_and_are_not_counted(tmp_path: Path, model: Any) -> None:
    write_turntable(tmp_path, [0, 1, 2, 3])
    composer = VideoComposer(tmp_path)
    counts = [
        found.visits
        for familiar in (0, 2)
        for found in measure_scenes(
            [contender(model)], composer, registered=(1,), min_total_objects=1, strangers=3, familiar=familiar
        )
    ]
    assert counts == [3, 1]
    with pytest.raises(
        DataError,
        match=r"^3 of 3 visits of strangers at a place are familiar, so none is left to measure$",
    ):
        measure_scenes([contender(model)], composer, registered=(1,), strangers=3, familiar=3)


def test_the_watcher_learns_its_surroundings(tmp_path: Path, model: Any) -> None:
    write_turntable(tmp_path, [0, 1])
    composer = VideoComposer(tmp_path)
    recorder, watcher = SceneRecorder(contender(model)), SceneWatcher(contender(model))
    rng = np.random.default_rng(0)
    red, other = (recorder.record(composer.shots(composer.visit(number, 0, 1, rng))) for number in (0, 1))
    watcher.register(recorder.press(list(composer.shots(composer.visit(0, 0, 1, rng, PRESS_FRAMES)))))
    for recording in (red, other, red):
        watcher.watch(recording)
    scenes = watcher._engine.surroundings_report().scenes
    assert scenes == 2  # the other object, and the empty place
    recorder.close()
    watcher.close()


def test_an_empty_place_that_looks_like_an_object_is_counted_before_the_arrival(
    tmp_path: Path, model: Any
) -> None:
    write_turntable(tmp_path, [0])
    composer = VideoComposer(tmp_path)
    rng = np.random.default_rng(0)
    one = contender(model)
    recorder, watcher = SceneRecorder(one), SceneWatcher(one)
    visit = list(composer.shots(composer.visit(0, 0, 1, rng)))
    recording = recorder.record(visit)
    # The press comes too early: what is registered is the empty place.
    empty = list(composer.empty_shots(1, composer.light(1, rng), PRESS_FRAMES, 0))
    view = recorder.press(empty)
    assert view is not None and view.embedding[-1] == pytest.approx(1.0)
    uid = watcher.register(view)
    watched = watcher.watch(recording)
    ((again, number),) = watched.appeared  # after the departure
    assert watched.was_present and again == uid and number >= LEFT
    red = recorder.press(list(composer.shots(composer.visit(0, 0, 1, rng, PRESS_FRAMES))))
    other = watcher.register(red)
    assert other not in (None, uid)
    (first, number), (after, _) = watcher.watch(recording).appeared
    assert (first, after) == (other, uid) and ARRIVAL + 6 <= number <= ARRIVED + 6
    assert watcher.register(red) is None  # it is known
    assert watcher.register(red, to=other) == other
    recorder.close()
    watcher.close()


def test_each_frame_is_encoded_once_and_an_empty_place_now_and_then(tmp_path: Path, model: Any) -> None:
    write_turntable(tmp_path, [0])
    composer = VideoComposer(tmp_path)
    one = contender(model)
    encoder: Any = one.encoder
    recorder = SceneRecorder(one)
    visit = composer.visit(0, 0, 1, np.random.default_rng(0))
    recording = recorder.record(composer.shots(visit))
    moving = STAY_FRAMES + 2 * MOVE_FRAMES
    encoded = moving + -(-ARRIVAL // EMPTY_STRIDE) + -(-EMPTY_AFTER // EMPTY_STRIDE)
    assert (len(recording.rows), len(recording.embeddings), encoder.images) == (FRAMES, encoded, encoded)
    assert recording.rows.tolist()[: ARRIVED - 2] == [0] * 5 + [1] * 5 + [2] * 5 + [3, 4]
    assert (recording.embeddings[recording.rows[ARRIVED:-EMPTY_AFTER]][:STAY_FRAMES, 0] > 0.99).all()
    assert recording.embeddings[recording.rows[-1], -1] == 1.0
    # Nothing is encoded that the engine does not encode: frames without contrast, for example.
    dark = [scene_video.Shot(np.zeros((HEIGHT, WIDTH, 3), np.uint8), False)] * 3
    nothing = recorder.record(dark)
    assert (nothing.rows.tolist(), nothing.embeddings.shape) == ([-1, -1, -1], (0, HUES + 1))
    watcher = SceneWatcher(one)
    assert watcher.watch(nothing).appeared == ()
    encoder.images = 0
    recorder.settle(composer.shots(visit))
    assert encoder.images == 0
    assert recorder.press(dark * 20) is None
    recorder.close()
    watcher.close()


def test_with_the_focus_on_the_foreground_only_what_is_new_is_encoded(tmp_path: Path, model: Any) -> None:
    write_turntable(tmp_path, [0])
    composer = VideoComposer(tmp_path)
    foreground = structs.replace(SETTINGS, camera=CameraSettings(focus="foreground"))
    one = contender(model, foreground)
    assert one.focus == "foreground"
    recorder, watcher = SceneRecorder(one), SceneWatcher(one)
    rng = np.random.default_rng(0)
    for place in (1, 2):  # the camera is moved to the second one
        recorder.settle(composer.empty_shots(place, composer.light(place, rng), SETTLE_SECONDS, 0))
        recording = recorder.record(composer.shots(composer.visit(0, 0, place, rng)))
        assert (recording.rows[:ARRIVAL] == -1).all() and (recording.rows[-5:] == -1).all()
        still = recording.rows[ARRIVED : ARRIVED + STAY_FRAMES]
        assert (still >= 0).all() and (recording.embeddings[still, 0] > 0.99).all()
        view = recorder.press(list(composer.shots(composer.visit(0, 0, place, rng, PRESS_FRAMES))))
        assert view is not None and view.embedding[0] > 0.99
        if place == 1:
            uid = watcher.register(view)
        assert [found for found, _ in watcher.watch(recording).appeared] == [uid]
    recorder.close()
    watcher.close()


def test_a_visit_arrives_stays_and_leaves(tmp_path: Path) -> None:
    write_turntable(tmp_path, [0])
    composer = VideoComposer(tmp_path, seed=3)
    visit = composer.visit(0, 6, 1, np.random.default_rng(0))
    assert (visit.azimuth, visit.background) == (2, 1)
    shots = list(composer.shots(visit))
    assert [shot.empty for shot in shots] == [
        number < ARRIVAL or number >= FRAMES - EMPTY_AFTER for number in range(FRAMES)
    ]
    assert {shot.pixels.shape for shot in shots} == {(HEIGHT, WIDTH, 3)}

    def red(frame: Bytes) -> int:
        return int((frame[..., 0].astype(int) - frame[..., 1:].max(axis=2) > 100).sum())

    seen = [red(shot.pixels) for shot in shots]
    assert not any(seen[: ARRIVAL + 1]) and not any(seen[-EMPTY_AFTER - 1 :])
    assert min(seen[ARRIVED : ARRIVED + STAY_FRAMES]) > 0.9 * max(seen) > 5000
    again = composer.shots(visit)
    assert all((one.pixels == other.pixels).all() for one, other in zip(shots, again, strict=True))


def test_automatic_exposure_keeps_a_place_below_saturation(tmp_path: Path) -> None:
    write_turntable(tmp_path, [0])
    composer = VideoComposer(tmp_path)
    rng = np.random.default_rng(0)
    composer.backgrounds[0] = np.full((HEIGHT, WIDTH, 3), 230, np.uint8)
    composer.backgrounds[1] = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    bright = [composer.light(0, rng).exposure for _ in range(50)]
    dim = [composer.light(1, rng).exposure for _ in range(50)]
    assert max(bright) == pytest.approx(255 / 230 / 1.03) and min(bright) < 0.8
    assert min(dim) < 0.8 and max(dim) > 1.2


def test_too_few_objects_are_an_error(tmp_path: Path, model: Any) -> None:
    write_turntable(tmp_path, [0, 1, 2])
    with pytest.raises(
        DataError, match="3 objects are too few: at least 5 have to be registered, and others shown"
    ):
        measure_scenes([contender(model)], VideoComposer(tmp_path))
    with pytest.raises(DataError, match="render models into it with `python -m export render`"):
        VideoComposer(tmp_path / "nothing")


def test_what_was_recorded_before_is_not_encoded_again(
    tmp_path: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_turntable(tmp_path, [0, 1, 2, 3])

    def measure(*contenders: Contender) -> tuple[list[Any], list[int]]:
        found = measure_scenes(
            contenders, VideoComposer(tmp_path), registered=(1,), min_total_objects=2, strangers=1
        )
        encoders: list[Any] = [each.encoder for each in contenders]
        return [result.results for result in found], [encoder.images for encoder in encoders]

    (first,), (images,) = measure(contender(model))
    assert images > 100
    assert measure(contender(model, is_baseline=True)) == ([first], [0])
    # An interrupted measurement goes on with the place at which it stopped.
    monkeypatch.setattr(scene_script, "_code", lambda: "changed")
    stopping = contender(model)
    encoder: Any = stopping.encoder
    encoder.most = images - 1
    with pytest.raises(KeyboardInterrupt):
        measure(stopping)
    encoder.most, encoder.images = images, 0
    (result,), (rest,) = measure(stopping)
    assert result == first and 0 < rest < images


def test_a_contender_that_fails_stops_the_others(tmp_path: Path, model: Any) -> None:
    write_turntable(tmp_path, [0, 1, 2, 3])
    good, bad = contender(model), contender(model, is_baseline=True)
    encoder: Any = bad.encoder
    encoder.model_id, encoder.failure, encoder.most = "bad", EncoderError("it is damaged"), 40
    with pytest.raises(EncoderError, match="it is damaged"):
        measure_scenes(
            [good, bad], VideoComposer(tmp_path), registered=(1,), min_total_objects=1, strangers=1000
        )
    working: Any = good.encoder
    assert working.images < 5000
