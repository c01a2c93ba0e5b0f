"""Support embeddings: variations of a picture, their mean, and the pictures that are kept."""

from __future__ import annotations

import numpy as np
import pytest

from edge_siamese.errors import ImageError
from edge_siamese.recognition.embedding import (
    MAX_BATCH_SIZE,
    MAX_IMAGES_PER_VIEW,
    VARIATIONS,
    Variation,
    embed_view,
    encode_in_batches,
    make_crop,
    mean_embedding,
    prepare_variations,
    variations_for,
)
from edge_siamese.recognition.imaging import Bytes, Floats, Preprocessing, prepare
from edge_siamese.runtimes.fake import FakeEncoder
from tests.edge_siamese.recognition.test_quality import camera, drawing

SEEN = Preprocessing(32, 32)
PICTURE = camera(drawing(256))


def spot(row: int, column: int) -> Bytes:
    """A black square around a place of a white page, both in pixels of 64."""
    picture = np.full((64, 64), 255, np.uint8)
    picture[row - 4 : row + 4, column - 4 : column + 4] = 0
    return picture


def center(image: Bytes) -> tuple[float, float]:
    """(row, column) of the ink of an image, in its own pixels."""
    ink = 255.0 - image[..., 0]
    rows, columns = np.mgrid[: ink.shape[0], : ink.shape[1]] + 0.5
    return float((ink * rows).sum() / ink.sum()), float((ink * columns).sum() / ink.sum())


def test_the_first_image_is_what_recognition_reads() -> None:
    images = prepare_variations(PICTURE, SEEN, VARIATIONS)
    assert images.shape == (5, 32, 32, 1)
    np.testing.assert_array_equal(images[0], prepare(PICTURE, SEEN))
    assert prepare_variations(PICTURE, SEEN, ()).shape == (1, 32, 32, 1)


def test_no_change_is_the_area_average() -> None:
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    same, without = prepare_variations(frame, Preprocessing(32, 32, "rgb"), [Variation()])
    assert np.abs(same.astype(int) - without).max() <= 1


@pytest.mark.parametrize(
    ("variation", "row", "column"),
    [
        (Variation(right=0.25), 8.0, 24.0),
        (Variation(down=-0.125), 4.0, 16.0),
        (Variation(zoom=1.5), 4.0, 16.0),
        (Variation(zoom=0.5), 12.0, 16.0),
        (Variation(rotation=90), 16.0, 24.0),
        (Variation(rotation=-90), 16.0, 8.0),
    ],
)
def test_variations_move_the_content_where_they_say(variation: Variation, row: float, column: float) -> None:
    found = center(prepare_variations(spot(16, 32), SEEN, [variation])[1])
    assert found == pytest.approx((row, column), abs=0.1)


def test_contrast_and_brightness_are_about_the_mean_and_stay_bytes() -> None:
    flat = prepare_variations(PICTURE, SEEN, [Variation(contrast=0.0), Variation(brightness=2.0)])
    assert np.ptp(flat[1]) == 0
    assert flat[1, 0, 0, 0] == round(float(prepare(PICTURE, SEEN).mean()))
    assert flat[2].max() == 255


@pytest.mark.parametrize(
    ("frames", "images"), [(1, 5), (5, 25), (9, 45), (10, 40), (16, 32), (23, 23), (100, 100)]
)
def test_many_frames_have_fewer_variations(frames: int, images: int) -> None:
    assert frames * (1 + len(variations_for(frames))) == images
    assert images <= max(MAX_IMAGES_PER_VIEW, frames)


def test_images_are_encoded_a_few_at_a_time() -> None:
    class Counting(FakeEncoder):
        def embed_prepared(self, images: Bytes) -> Floats:
            sizes.append(len(images))
            return super().embed_prepared(images)

    sizes: list[int] = []
    images = np.random.default_rng(0).integers(0, 256, (37, 32, 32, 1), dtype=np.uint8)
    found = encode_in_batches(images, Counting())
    assert sizes == [MAX_BATCH_SIZE, MAX_BATCH_SIZE, 5]
    np.testing.assert_allclose(found, FakeEncoder().embed_prepared(images), atol=1e-6)


def test_the_mean_of_unit_vectors_is_one_and_other_means_are_plain() -> None:
    units = np.array([[1, 0], [0, 1]], np.float32)
    np.testing.assert_allclose(mean_embedding(units), [0.5**0.5, 0.5**0.5], atol=1e-6)
    np.testing.assert_array_equal(mean_embedding(units * 4), [2, 2])
    assert mean_embedding(units).dtype == np.float32


def test_a_view_can_be_embedded_again_from_its_pictures() -> None:
    encoder = FakeEncoder()
    crop = make_crop(PICTURE, SEEN, 128)
    expected = mean_embedding(encode_in_batches(prepare_variations(crop, SEEN, VARIATIONS), encoder))
    np.testing.assert_array_equal(embed_view([crop], encoder), expected)
    np.testing.assert_allclose(embed_view([crop, crop], encoder), expected, atol=1e-6)
    assert float(expected @ encoder.embed(PICTURE)[0]) > 0.8


def test_nothing_cannot_be_embedded() -> None:
    with pytest.raises(ValueError, match="a view without pictures cannot be embedded"):
        embed_view([], FakeEncoder())
    with pytest.raises(ImageError, match="not float64"):
        embed_view([np.zeros((4, 4))], FakeEncoder())  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("shape", "seen", "side", "kept"),
    [
        ((480, 640), SEEN, 192, (192, 192)),
        ((480, 640, 3), SEEN, 192, (192, 192, 3)),
        ((480, 640, 4), Preprocessing(32, 32, fit="stretch"), 192, (144, 192, 3)),
        ((100, 100, 1), SEEN, 192, (100, 100)),
        ((64, 640), Preprocessing(32, 32, fit="stretch"), 2, (1, 2)),
    ],
)
def test_kept_pictures_are_what_the_encoder_sees_in_color_if_there_was_any(
    shape: tuple[int, ...], seen: Preprocessing, side: int, kept: tuple[int, ...]
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = make_crop(frame, seen, side)
    assert found.shape == kept
    assert found.dtype == np.uint8
    assert not np.shares_memory(found, frame)
