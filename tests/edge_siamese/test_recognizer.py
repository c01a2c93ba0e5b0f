"""The recognizer: learns from one picture, names it in others, rejects the unknown."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest

from edge_siamese import Recognizer
from edge_siamese.errors import ImageError, PictureError, SettingsError, SupportError
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.manifest import Threshold, choose_threshold
from edge_siamese.recognition.decision import Recognition
from edge_siamese.runtimes.fake import FAKE_HEAD, FakeEncoder
from tests.tiny_network import pictures


def faint(image: np.ndarray, change: int = 6) -> np.ndarray:
    """The picture a little darker and with noise: another frame of the same thing."""
    noise = np.random.PCG64(3).random_raw(image.size).reshape(image.shape) % np.uint64(change)
    return (image.astype(np.int64) - noise.astype(np.int64)).clip(0, 255).astype(np.uint8)


def stating(bundle: Bundle, *thresholds: Threshold) -> Bundle:
    """The bundle with other thresholds."""
    return dataclasses.replace(bundle, manifest=dataclasses.replace(bundle.manifest, thresholds=thresholds))


@pytest.fixture
def recognizer() -> Recognizer:
    return Recognizer(FakeEncoder(), 0.8, head=FAKE_HEAD)


def test_objects_seen_once_are_recognized(recognizer: Recognizer) -> None:
    images = pictures(6)
    for index, image in enumerate(images[:5]):
        recognizer.register(f"object {index}", image)
    for index, image in enumerate(images[:5]):
        found = recognizer.recognize(faint(image))
        assert found.name == found.nearest == f"object {index}"
        assert found.probability > 0.9
        assert found.threshold == 0.8
        assert found.runner_up is not None
        assert found.margin > 0.5
    stranger = recognizer.recognize(images[5])
    assert stranger.name is None
    assert stranger.nearest is not None
    assert stranger.probability < 0.8


def test_a_bundle_brings_encoder_head_and_threshold(bundle: Bundle) -> None:
    pytest.importorskip("onnxruntime")
    recognizer = Recognizer(bundle, runtime="onnxruntime", threads=1)
    assert recognizer.threshold == 0.75
    assert recognizer.head is bundle.head
    assert recognizer.encoder.precision == "int8"
    assert Recognizer(bundle.path, false_accept_rate=1e-3, runtime="onnxruntime").threshold == 0.9
    assert Recognizer(bundle, 0.6, runtime="onnxruntime").threshold == 0.6
    first, second = pictures(2)
    recognizer.register("first", first)
    assert recognizer.recognize(first).probability == pytest.approx(1 / (1 + np.exp(-6)), abs=1e-3)
    assert recognizer.recognize(second).name is None


def test_several_views_are_one_object(recognizer: Recognizer) -> None:
    first, second, third = pictures(3)
    recognizer.register("thing", first, second)
    recognizer.register("thing", third)
    assert recognizer.support.views == (3,)
    found = [recognizer.recognize(image) for image in (first, second, third)]
    assert [(one.name, one.uid, one.view, one.rule) for one in found] == [
        ("thing", "thing", number, "recognized") for number in (1, 2, 3)
    ]


def test_a_forgotten_object_is_unknown(recognizer: Recognizer) -> None:
    first, second = pictures(2)
    recognizer.register("first", first)
    recognizer.register("second", second)
    recognizer.forget("first")
    found = recognizer.recognize(first)
    assert (found.name, found.nearest) == (None, "second")
    with pytest.raises(SupportError, match=r'^there is no object "first"; registered: second$'):
        recognizer.forget("first")


def test_pictures_may_be_files(recognizer: Recognizer, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(pictures(1)[0, ..., 0]).save(tmp_path / "thing.png")
    recognizer.register("thing", tmp_path / "thing.png")
    assert recognizer.recognize(str(tmp_path / "thing.png")).probability > 0.99
    with pytest.raises(PictureError, match=r"there is no such file$"):
        recognizer.recognize(tmp_path / "none.png")


def test_nothing_is_learned_from_a_bad_picture(recognizer: Recognizer) -> None:
    with pytest.raises(ImageError, match="uint8"):
        recognizer.register("thing", pictures(1)[0], np.zeros((4, 4)))
    assert len(recognizer.support) == 0
    with pytest.raises(SupportError, match=r'^"thing" needs at least one picture$'):
        recognizer.register("thing")


def test_objects_registered_at_once_are_all_kept(recognizer: Recognizer) -> None:
    images = pictures(12)
    threads = [
        threading.Thread(target=recognizer.register, args=(str(number), image))
        for number, image in enumerate(images)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(recognizer.support.names, key=int) == [str(number) for number in range(12)]


def test_what_an_encoder_alone_lacks() -> None:
    with pytest.raises(
        SettingsError, match=r"^an encoder has neither head nor threshold: give both, or a bundle$"
    ):
        Recognizer(FakeEncoder())
    with pytest.raises(SettingsError, match=r"^a threshold is a probability from 0 to 1, not 1.5$"):
        Recognizer(FakeEncoder(), 1.5, head=FAKE_HEAD)


def test_a_rate_that_the_bundle_does_not_state(bundle: Bundle) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(
        SettingsError, match=r"no threshold for a false-accept rate of 0\.2 \(stated: 0\.01, 0\.001\)"
    ):
        Recognizer(bundle, false_accept_rate=0.2, runtime="onnxruntime")
    with pytest.raises(SettingsError, match=r"\(stated: none\); give the threshold itself$"):
        Recognizer(stating(bundle), false_accept_rate=1e-2, runtime="onnxruntime")


def test_where_the_threshold_comes_from(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("onnxruntime")
    strict, stricter = Threshold(1e-3, 0.9, 0.1, 20_000), Threshold(1e-4, 0.95, 0.2, 20_000)
    for source, asked, expected in (
        (bundle, {}, (0.75, "stated for a false-accept rate of 0.01")),
        (bundle, {"false_accept_rate": 1e-3}, (0.9, "stated for a false-accept rate of 0.001")),
        (bundle, {"threshold": 0.6}, (0.6, "given")),
        (stating(bundle, strict, stricter), {}, (0.95, "stated for a false-accept rate of 0.0001")),
        (stating(bundle), {"threshold": 0.6}, (0.6, "given")),
    ):
        found = Recognizer(source, runtime="onnxruntime", **asked)
        assert (found.threshold, found.threshold_source) == expected
    assert Recognizer(FakeEncoder(), 0.8, head=FAKE_HEAD).threshold_source == "given"
    assert caplog.messages == []


def test_a_bundle_that_states_no_threshold_is_used_at_one_half_and_says_so(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    recognizer = Recognizer(stating(bundle), runtime="onnxruntime")
    assert (recognizer.threshold, recognizer.threshold_source) == (
        0.5,
        "assumed, since the bundle states none",
    )
    assert caplog.messages == [
        "tiny-0123456789ab states no threshold; using p = 0.5. Pass a threshold to choose another"
    ]
    first, second = pictures(2)
    recognizer.register("first", first)
    assert recognizer.recognize(first).name == "first"
    assert recognizer.recognize(second).name is None


def test_the_threshold_of_a_manifest_without_a_recognizer(bundle: Bundle) -> None:
    assert choose_threshold(bundle.manifest, 0.6, 1e-3) == (0.6, "given")
    assert choose_threshold(bundle.manifest, None, 1e-3) == (0.9, "stated for a false-accept rate of 0.001")
    with pytest.raises(SettingsError, match=r"no threshold for a false-accept rate of 0\.2"):
        choose_threshold(bundle.manifest, None, 0.2)


def test_with_nothing_registered_everything_is_unknown(recognizer: Recognizer) -> None:
    found = recognizer.recognize(pictures(1)[0])
    assert isinstance(found, Recognition)
    assert (found.name, found.rule, str(found)) == (
        None,
        "nothing registered",
        "unknown (nothing is registered)",
    )
