"""Scenes: what the engine makes of objects that return, of strangers, and of an empty scene."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Bytes, Floats, Preprocessing
from edge_siamese.settings import RecognitionSettings, RegistrationSettings, Settings
from export.evaluation import scenes
from export.evaluation.scenes import HEIGHT, MOVE_FRAMES, STAY_FRAMES, WIDTH, VideoComposer, measure_scenes
from tests.export.turntables import HUES, write_turntable

SETTINGS = Settings(
    recognition=RecognitionSettings(threshold=0.5), registration=RegistrationSettings(min_sharpness=0.0)
)


class HueEncoder:
    """Embeds the colors of saturated pixels, and nothing else."""

    runtime, precision, reason, model_id = "fake", "fp32", "requested", "hue"
    preprocessing = Preprocessing(32, 32, "rgb")
    dimensions = HUES + 1

    def embed_prepared(self, images: Bytes) -> Floats:
        """float32 (N, HUES + 1): a unit vector; the last number stands for no color."""
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
def few_backgrounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "BACKGROUNDS", 4)


@pytest.fixture
def model(bundle: Bundle) -> Any:
    return SimpleNamespace(head=SigmoidDistanceHead(12.0, 7.0), manifest=bundle.manifest, impostors=None)


def test_objects_of_their_own_color_are_recognized_from_all_sides(tmp_path: Path, model: Any) -> None:
    write_turntable(tmp_path, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    steps = list[str]()
    found = measure_scenes(
        model,
        HueEncoder(),
        VideoComposer(tmp_path),
        registered=(2, 3, 9),
        objects_in_all=3,
        strangers=4,
        settings=SETTINGS,
        advance=steps.append,
    )
    assert (found.model_id, found.objects, found.strangers, found.visits) == ("hue", 10, 4, 4)
    assert found.backgrounds == "drawn"
    assert found.skipped == ("9 objects: only 6 can be registered",)
    assert [(row.registered, row.presses, row.draws) for row in found.results] == [
        (2, 1, 2),
        (2, 3, 2),
        (3, 1, 1),
        (3, 3, 1),
    ]
    for row in found.results:
        assert (row.refused, row.strangers_per_hour.value, row.empty.value) == (0.0, 0.0, 0.0)
        assert [(r.pose, r.recognized.value, r.misnamed.value) for r in row.returns] == [
            ("within 45°", 1.0, 0.0),
            ("within 90°", 1.0, 0.0),
            ("any", 1.0, 0.0),
        ]
        # The sixth matching frame, of which the last ones of the arrival may be some.
        assert all(
            0.2 <= r.seconds[0] <= r.seconds[1] <= 0.7 and r.count == 2 * row.registered * row.draws
            for r in row.returns
        )
    assert "3 objects registered with 3 presses each" in steps


def test_strangers_that_look_like_a_registered_object_are_counted(tmp_path: Path, model: Any) -> None:
    """All are red: each stranger appears as the registered object, unless the next press is refused as a collision."""
    write_turntable(tmp_path, [0] * 6)
    found = measure_scenes(
        model,
        HueEncoder(),
        VideoComposer(tmp_path),
        registered=(1, 2),
        objects_in_all=1,
        strangers=6,
        settings=SETTINGS,
    )
    one, three, two, _ = found.results
    assert (one.refused, three.refused, two.refused) == (0.0, 0.0, 0.5)
    # Six strangers in a minute.
    assert one.strangers_per_hour.value == two.strangers_per_hour.value == 360.0
    assert two.returns[0].recognized.value == 0.5
    assert two.returns[0].misnamed.value == 0.5


def test_a_visit_arrives_stays_and_leaves(tmp_path: Path) -> None:
    write_turntable(tmp_path, [0])
    composer = VideoComposer(tmp_path, seed=3)
    visit = composer.visit(0, 6, np.random.default_rng(0), background=1)
    assert (visit.azimuth, visit.background) == (2, 1)
    frames = list(composer.frames(visit))
    assert len(frames) == MOVE_FRAMES + STAY_FRAMES + MOVE_FRAMES
    assert {frame.shape for frame in frames} == {(HEIGHT, WIDTH, 3)}

    def red(frame: Bytes) -> int:
        return int((frame[..., 0].astype(int) - frame[..., 1:].max(axis=2) > 100).sum())

    seen = [red(frame) for frame in frames]
    assert seen[0] == seen[-1] == 0
    assert min(seen[MOVE_FRAMES:-MOVE_FRAMES]) > 0.9 * max(seen) > 5000
    assert all((one == other).all() for one, other in zip(frames, composer.frames(visit), strict=True))
    (still, *_) = list(composer.frames(composer.visit(0, 0, np.random.default_rng(0), moves=False, stay=2)))
    assert red(still) > 0


def test_too_few_objects_are_an_error(tmp_path: Path, model: Any) -> None:
    write_turntable(tmp_path, [0, 1, 2])
    with pytest.raises(DataError, match="3 objects are too few: 5 have to be registered, and others shown"):
        measure_scenes(model, HueEncoder(), VideoComposer(tmp_path))
    with pytest.raises(DataError, match="render models into it with `python -m export render`"):
        VideoComposer(tmp_path / "nothing")
