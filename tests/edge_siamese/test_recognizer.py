"""The recognizer: registers objects from one picture, names them in others, rejects the unknown, as the daemon does."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

import edge_siamese
from edge_siamese import Recognizer
from edge_siamese.errors import (
    BundleNotFound,
    ImageError,
    NoSuchObject,
    PictureError,
    SettingsError,
    StoreError,
    SupportError,
)
from edge_siamese.models.bundle import Bundle, choose_acceptance, load_bundle
from edge_siamese.models.manifest import Threshold, choose_threshold
from edge_siamese.recognition.decision import Recognition, decide, object_limits
from edge_siamese.recognition.embedding import embed_view
from edge_siamese.recognizer import CROP_SIDE
from edge_siamese.runtimes.fake import FAKE_HEAD, FakeEncoder
from edge_siamese.settings import RegistrationSettings
from edge_siamese.store import SupportStore
from tests.tiny_network import pictures


def faint(image: np.ndarray, change: int = 6) -> np.ndarray:
    """The picture a little darker and with noise: another frame of the same thing."""
    noise = np.random.PCG64(3).random_raw(image.size).reshape(image.shape) % np.uint64(change)
    return (image.astype(np.int64) - noise.astype(np.int64)).clip(0, 255).astype(np.uint8)


def stating(bundle: Bundle, *thresholds: Threshold) -> Bundle:
    """The bundle with other thresholds."""
    return dataclasses.replace(bundle, manifest=structs.replace(bundle.manifest, thresholds=thresholds))


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
    # The view is the mean over the picture and its variations, so that even the same picture is not at distance 0.
    query = recognizer.encoder.embed([first])
    expected = bundle.head.score(query, embed_view([first], recognizer.encoder)[np.newaxis])[0, 0]
    assert recognizer.recognize(first).probability == pytest.approx(expected, abs=1e-6)
    assert 0.9 < expected < 1 / (1 + np.exp(-6))
    assert recognizer.recognize(second).name is None


def test_several_views_are_one_object(recognizer: Recognizer) -> None:
    first, second, third = pictures(3)
    recognizer.register("thing", first, second)
    recognizer.register("thing", third)
    assert recognizer.support.views == (3,)
    found = [recognizer.recognize(image) for image in (first, second, third)]
    (uid,) = recognizer.support.uids
    assert [(one.name, one.uid, one.view, one.rule) for one in found] == [
        ("thing", uid, number, "recognized") for number in (1, 2, 3)
    ]


def test_a_forgotten_object_is_unknown(recognizer: Recognizer) -> None:
    first, second = pictures(2)
    recognizer.register("first", first)
    recognizer.register("second", second)
    recognizer.forget("first")
    found = recognizer.recognize(first)
    assert (found.name, found.nearest) == (None, "second")
    with pytest.raises(SupportError, match=r'^there is no object "first"$'):
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
        SettingsError, match=r"^an encoder has neither head nor threshold: pass both, or pass a bundle$"
    ):
        Recognizer(FakeEncoder())
    with pytest.raises(SettingsError, match=r"^a threshold is a probability from 0 to 1, not 1.5$"):
        Recognizer(FakeEncoder(), 1.5, head=FAKE_HEAD)


def test_a_rate_that_the_bundle_does_not_state(bundle: Bundle) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(
        SettingsError, match=r"no threshold for a false-accept rate of 0\.005 \(it has: 0\.01, 0\.001\)"
    ):
        Recognizer(bundle, false_accept_rate=0.005, runtime="onnxruntime")
    with pytest.raises(SettingsError, match=r"\(it has: none\); give the threshold itself$"):
        Recognizer(stating(bundle), false_accept_rate=1e-2, runtime="onnxruntime")


def test_where_the_threshold_comes_from(bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("onnxruntime")
    strict, stricter = Threshold(1e-3, 0.9, 0.1, 20_000), Threshold(1e-4, 0.95, 0.2, 20_000)
    few = "or stricter: none of 40 pictures of other things passes"
    for source, asked, expected in (
        (bundle, {}, (0.75, f"stated for a false-accept rate of 0.01, {few}")),
        (bundle, {"false_accept_rate": 1e-3}, (0.9, f"stated for a false-accept rate of 0.001, {few}")),
        (bundle, {"threshold": 0.6}, (0.6, "given")),
        (stating(bundle, strict, stricter), {}, (0.95, f"stated for a false-accept rate of 0.0001, {few}")),
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


def test_the_public_api_is_what_it_says() -> None:
    names = {
        "EdgeSiameseError",
        "Recognition",
        "Recognizer",
        "SigmoidDistanceHead",
        "load_bundle",
        "load_encoder",
    }
    assert set(edge_siamese.__all__) == set(dir(edge_siamese)) == names
    for name in names:
        assert getattr(edge_siamese, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'Recogniser'"):
        _ = edge_siamese.Recogniser
    public = {name for name in vars(Recognizer) if not name.startswith("_")}
    assert public == {
        *("names", "support", "threshold", "threshold_source"),
        *("register", "add_negative", "forget", "recognize", "save", "load"),
    }
    for name in public:
        assert len(getattr(Recognizer, name).__doc__) > 50


def test_a_shipped_bundle_is_known_by_its_name() -> None:
    pytest.importorskip("onnxruntime")
    recognizer = Recognizer("glyphs", runtime="onnxruntime", threads=1)
    bundle = load_bundle("glyphs")
    assert recognizer.encoder.model_id == bundle.manifest.model_id
    assert edge_siamese.load_encoder("glyphs", "onnxruntime").model_id == bundle.manifest.model_id
    with pytest.raises(BundleNotFound, match=r"^no bundle at glyph: no such directory; .*glyphs"):
        Recognizer("glyph")


def test_names_are_in_the_order_of_registration_and_equal_in_any_case(recognizer: Recognizer) -> None:
    first, second, third = pictures(3)
    assert recognizer.names == ()
    recognizer.register("Mug", first)
    recognizer.register("pen", second)
    recognizer.register("mug", third)
    assert recognizer.names == ("Mug", "pen")
    assert recognizer.support.views == (2, 1)
    recognizer.forget("MUG")
    assert recognizer.names == ("pen",)


def test_pil_images_are_pictures_too(recognizer: Recognizer) -> None:
    pil = pytest.importorskip("PIL.Image")
    gray, other = pictures(2)[..., 0]
    recognizer.register("thing", pil.fromarray(gray))
    recognizer.add_negative("thing", pil.fromarray(other))
    assert recognizer.recognize(gray).name == "thing"
    assert recognizer.recognize(pil.fromarray(gray).convert("RGB")).name == "thing"
    turned = pil.fromarray(np.rot90(gray))
    turned.getexif()[0x0112] = 6  # the camera was held upright
    assert recognizer.recognize(turned).probability == recognizer.recognize(gray).probability


def test_a_negative_rejects_what_is_nearer_to_it(recognizer: Recognizer) -> None:
    image = pictures(1)[0]
    wrong = faint(image, 120)
    recognizer.register("mug", image)
    assert recognizer.recognize(wrong).name == "mug"
    recognizer.add_negative("mug", wrong)
    found = recognizer.recognize(wrong)
    assert (found.name, found.nearest, found.rule) == (None, "mug", "nearer to a negative")
    assert recognizer.recognize(image).name == "mug"
    with pytest.raises(NoSuchObject, match=r'^there is no object "cup"'):
        recognizer.add_negative("cup", wrong)
    with pytest.raises(SupportError, match="needs at least one picture"):
        recognizer.add_negative("mug")


def test_a_picture_without_contrast_shows_nothing(recognizer: Recognizer) -> None:
    recognizer.register("mug", pictures(1)[0])
    found = recognizer.recognize(np.full((48, 48), 90, np.uint8))
    assert (found.name, found.rule, found.threshold) == (None, "nothing to see", 0.8)


def test_it_decides_as_the_daemon_does(bundle: Bundle, tmp_path: Path) -> None:
    """The daemon builds its support set from the same store, with the same limits, and calls the same function."""
    pytest.importorskip("onnxruntime")
    recognizer = Recognizer(bundle, runtime="onnxruntime", threads=1)
    images = pictures(8)
    for number, image in enumerate(images[:6]):
        recognizer.register(f"object {number}", image, faint(image))
    recognizer.add_negative("object 1", faint(images[1], 60))
    recognizer.save(tmp_path / "objects.zip")
    encoder, head = recognizer.encoder, recognizer.head
    with SupportStore(tmp_path / "objects.db", encoder.model_id, encoder.dimensions) as store:
        store.import_archive(tmp_path / "objects.zip")
        support, threshold = choose_acceptance(bundle).build_support(
            store.entries(), encoder.dimensions, head
        )
    np.testing.assert_array_equal(recognizer.support.limits, support.limits)
    assert recognizer.threshold == threshold >= 0.75
    for image in images:
        for query in (image, faint(image, 30), faint(image, 60)):
            embedding = encoder.embed([query])[0]
            expected = decide(support, head, embedding, threshold)
            # The ids of views are those of each store.
            found = dataclasses.replace(recognizer.recognize(query), view=expected.view)
            assert found == expected
    # A threshold that the user gives is stated for no rate: impostors do not change it.
    given = Recognizer(bundle, 0.75, runtime="onnxruntime", threads=1)
    given.load(tmp_path / "objects.zip")
    assert given.threshold == 0.75
    np.testing.assert_array_equal(given.support.limits, object_limits(support, head, 0.75))


def test_an_archive_goes_to_a_store_and_back(recognizer: Recognizer, tmp_path: Path) -> None:
    first, second, wrong = pictures(3)
    recognizer.register("mug", first, second)
    recognizer.add_negative("mug", wrong)
    recognizer.register("pen", second)
    recognizer.save(tmp_path / "python.zip")
    encoder = recognizer.encoder
    with SupportStore(tmp_path / "objects.db", encoder.model_id, encoder.dimensions) as store:
        result = store.import_archive(tmp_path / "python.zip")
        assert (result.objects, result.views, result.negatives, result.unembedded) == (2, 3, 1, 0)
        assert [view.crops for view in store.views("mug")] == [1, 1, 1]
        store.rename("pen", "pencil")
        store.export_archive(tmp_path / "device.zip")
        entries = store.entries()
    other = Recognizer(FakeEncoder(), 0.8, head=FAKE_HEAD)
    result = other.load(tmp_path / "device.zip")
    assert (result.objects, result.views, result.negatives) == (2, 3, 1)
    assert other.names == ("mug", "pencil")
    mine = other.support
    for place, theirs in enumerate(entries):
        assert mine.uids[place] == theirs.uid
        np.testing.assert_array_equal(mine.embeddings[mine.rows(place)], theirs.embeddings)
        np.testing.assert_array_equal(mine.negatives[mine.negative_rows(place)], theirs.negatives)
    assert other.load(tmp_path / "device.zip").known == 4
    assert recognizer.load(tmp_path / "device.zip").known == 4
    recognizer.forget("mug")
    recognizer.register("mug", first)
    fresh = Recognizer(FakeEncoder(), 0.8, head=FAKE_HEAD)
    fresh.register("MUG", second)
    assert fresh.load(tmp_path / "device.zip").renamed == (("mug", "mug (2)"),)
    assert fresh.names == ("MUG", "mug (2)", "pencil")


def test_views_of_another_model_are_embedded_from_their_pictures(
    recognizer: Recognizer, bundle: Bundle, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    image, other = pictures(2)
    recognizer.register("mug", image)
    recognizer.save(tmp_path / "objects.zip")
    learned = Recognizer(bundle, 0.75, runtime="onnxruntime", threads=1)
    assert learned.load(tmp_path / "objects.zip").unembedded == 1
    assert learned.recognize(image).name == "mug"
    assert learned.recognize(other).name is None
    without = Recognizer(FakeEncoder(), 0.8, head=FAKE_HEAD, keep_crops=False)
    without.register("mug", image)
    without.save(tmp_path / "small.zip")
    assert (tmp_path / "small.zip").stat().st_size < (tmp_path / "objects.zip").stat().st_size
    assert learned.load(tmp_path / "small.zip").skipped == 1


def test_a_damaged_archive_changes_nothing(recognizer: Recognizer, tmp_path: Path) -> None:
    recognizer.register("mug", pictures(1)[0])
    (tmp_path / "objects.zip").write_bytes(b"PK")
    with pytest.raises(StoreError, match="is damaged, or not an archive"):
        recognizer.load(tmp_path / "objects.zip")
    assert recognizer.names == ("mug",)
    assert recognizer.recognize(pictures(1)[0]).name == "mug"


def test_pictures_are_kept_as_the_daemon_keeps_them() -> None:
    assert CROP_SIDE == RegistrationSettings().crop_side
