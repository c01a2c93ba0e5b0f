"""The baseline of the scenes: the published features, and the limit that follows from pictures."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.models.bundle import choose_acceptance
from edge_siamese.recognition.support import SupportSet
from export.data.composition import Light, drawn_background
from export.encoders.efficientnet_lite import weights_installed
from export.evaluation import baseline, scene_video
from export.evaluation.baseline import ImageNetFeatures, imagenet_baseline
from export.evaluation.scene_recording import SceneRecorder, SceneWatcher
from export.evaluation.scene_video import VideoComposer
from export.training.network import TorchEncoder
from tests.export.turntables import HUES, write_turntable

pytestmark = pytest.mark.skipif(not weights_installed(), reason="needs the published weights")


def write_pictures(folder: Path, count: int) -> None:
    rng = np.random.default_rng(5)
    folder.mkdir()
    for number in range(count):
        Image.fromarray(drawn_background(rng, 80, 60)).save(folder / f"{number}.png")


def test_the_features_are_those_before_the_classes_of_imagenet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageNetFeatures, "side", 59)
    network = ImageNetFeatures()
    network.load_published_weights()
    assert network.dimensions == 1280
    assert {name.split(".")[0] for name in network.state_dict()} == {"stem", "blocks", "head"}


def test_one_percent_of_the_pictures_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageNetFeatures, "side", 59)
    write_pictures(tmp_path / "pictures", 110)
    contender = imagenet_baseline(tmp_path / "pictures")
    assert (contender.name, contender.focus, contender.is_baseline) == ("nearest neighbor", "center", True)
    assert contender.settings.registration.collisions == "allow"
    network = ImageNetFeatures()
    network.load_published_weights()
    images = np.random.default_rng(1).integers(0, 256, (3, 59, 59, 3), dtype=np.uint8)
    expected = TorchEncoder(network).embed_prepared(images)
    assert contender.encoder.embed_prepared(images) == pytest.approx(expected, abs=1e-4)
    impostors, head = contender.bundle.impostors, contender.bundle.head
    assert impostors is not None and impostors.shape == (110, 1280)
    assert np.linalg.norm(impostors, axis=1) == pytest.approx(np.ones(110), abs=1e-5)
    write_turntable(tmp_path / "objects", [0, HUES // 2])
    view = Image.open(next((tmp_path / "objects" / "object-0").glob("*.webp"))).convert("RGB")
    support = SupportSet.of({"it": contender.encoder.embed(np.asarray(view))}, 1280)
    acceptance = choose_acceptance(
        contender.bundle, false_accept_rate=contender.settings.recognition.false_accept_rate
    )
    assert acceptance.is_measured and acceptance.false_accept_rate == 0.01
    limit = head.distance_at(acceptance.general_threshold(support, head))
    assert int((support.distances(head, impostors)[:, 0] <= limit).sum()) == 1


def test_an_engine_watches_with_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ImageNetFeatures, "side", 59)
    monkeypatch.setattr(scene_video, "BACKGROUNDS", 1)
    write_turntable(tmp_path / "objects", [0])
    composer = VideoComposer(tmp_path / "objects")
    # Pictures of the empty place: of these, about one in a hundred may pass for the object.
    (tmp_path / "pictures").mkdir()
    for number, shot in enumerate(composer.empty_shots(0, Light(), 110, 0)):
        Image.fromarray(shot.pixels).save(tmp_path / "pictures" / f"{number}.png")
    contender = imagenet_baseline(tmp_path / "pictures")
    visit = list(composer.shots(composer.visit(0, 0, 0, np.random.default_rng(0))))
    with closing(SceneRecorder(contender)) as recorder, closing(SceneWatcher(contender)) as watcher:
        uid = watcher.register(recorder.press(visit))
        assert uid is not None
        watched = watcher.watch(recorder.record(visit))
        assert not watched.was_present and [found for found, _ in watched.appeared] == [uid]
    assert caplog.messages == []


def test_too_few_pictures_are_an_error(tmp_path: Path) -> None:
    write_pictures(tmp_path / "few", 3)
    with pytest.raises(
        DataError, match=f"few has 3 pictures; the baseline's limit needs {baseline.MIN_PICTURES}"
    ):
        imagenet_baseline(tmp_path / "few")
