"""The one preprocessing: exact values, equal bytes everywhere, clear refusals."""

import hashlib

import numpy as np
import pytest

from edge_siamese.errors import ImageError
from edge_siamese.recognition.imaging import (
    WEIGHT_SUM,
    Preprocessing,
    _bands,
    _column_bands,
    _weights,
    downscale,
    prepare,
    prepare_batch,
)

GRAY = Preprocessing(4, 4)


def test_an_image_of_the_right_size_is_left_as_it_is():
    image = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert np.array_equal(prepare(image, GRAY)[..., 0], image)


def test_halving_averages_four_pixels_and_rounds_to_nearest():
    image = np.array([[10, 20, 0, 255], [30, 41, 255, 0]], dtype=np.uint8)
    # 101 / 4 = 25.25 and 510 / 4 = 127.5, which rounds up.
    assert prepare(image, Preprocessing(1, 2))[0, :, 0].tolist() == [25, 128]


def test_area_weights_share_a_pixel_between_the_two_that_cover_it():
    # Three pixels to two: each takes one whole and half of the middle one.
    assert _weights(3, 2).tolist() == [[171, 85, 0], [0, 85, 171]]


@pytest.mark.parametrize(
    ("source", "target"), [(480, 56), (105, 56), (56, 105), (4000, 56), (7, 7), (1, 5), (641, 160)]
)
def test_weights_are_integers_that_sum_to_256(source, target):
    weights = _weights(source, target)
    assert np.array_equal(weights, np.round(weights)) and weights.min() >= 0
    assert set(weights.sum(axis=1)) == {WEIGHT_SUM}


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_flat_image_keeps_its_value_at_any_size(value):
    flat = np.full((117, 331, 3), value, dtype=np.uint8)
    assert set(np.unique(prepare(flat, Preprocessing(56, 56)))) == {value}
    assert set(np.unique(prepare(flat, Preprocessing(160, 160, "rgb")))) == {value}


def test_the_bytes_do_not_depend_on_the_order_of_summation():
    frame = np.random.default_rng(0).integers(0, 256, (480, 640), dtype=np.uint8)
    down, across = _weights(480, 56), _weights(480, 56)
    exact = down.astype(np.int64) @ frame[:, 80:560].astype(np.int64) @ across.T.astype(np.int64)
    expected = (exact + 32768) >> 16
    assert np.array_equal(prepare(frame, Preprocessing(56, 56))[..., 0], expected.astype(np.uint8))


@pytest.mark.parametrize("size", [(480, 639), (1083, 1921), (300, 299)])
def test_a_large_frame_is_resized_in_bands_to_the_same_bytes(size):
    frame = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    luma = (frame.astype(np.int64) @ [77, 150, 29] + 128) >> 8
    for target in ((56, 56), (61, 40)):
        down, across = (
            _weights(source, to).astype(np.int64) for source, to in zip(size, target, strict=True)
        )
        expected = (down @ luma @ across.T + 32768) >> 16
        assert np.array_equal(prepare(frame, Preprocessing(*target, fit="stretch"))[..., 0], expected)


@pytest.mark.parametrize(("height", "width"), [(163, 163), (40, 61), (500, 700)])
def test_each_color_is_resized_to_the_same_bytes_also_in_a_part_of_a_frame(height, width):
    frame = np.random.default_rng(2).integers(0, 256, (240, 330, 4), dtype=np.uint8)[3:200, 5:318]
    down, across = _weights(197, height).astype(np.int64), _weights(313, width).astype(np.int64)
    planes = [(down @ frame[..., channel] @ across.T + 32768) >> 16 for channel in range(3)]
    prepared = prepare(frame, Preprocessing(height, width, "rgb", "stretch"))
    assert np.array_equal(prepared, np.stack(planes, axis=2))


@pytest.mark.parametrize("rows", [1, 8, 56])
def test_bands_hold_every_weight_once(rows):
    whole = np.zeros((56, 480), np.float32)
    for targets, sources, weights in _bands(480, 56, rows):
        whole[targets, sources] += weights
    assert np.array_equal(whole, _weights(480, 56))


def test_bands_of_colors_read_only_their_own_channel():
    whole = np.zeros((56, 3, 480, 3), np.float32)
    numbers = whole.reshape(56 * 3, 480 * 3)
    for targets, sources, weights in _column_bands(480, 56, 3):
        numbers[targets, sources] += weights.T
    for channel in range(3):
        for other in range(3):
            expected = _weights(480, 56) if channel == other else np.zeros((56, 480))
            assert np.array_equal(whole[:, channel, :, other], expected)


def test_pinned_bytes_of_a_frame():
    rows, columns = np.mgrid[0:240, 0:320]
    frame = np.stack([rows % 256, columns % 256, (rows * columns) % 256], axis=2).astype(np.uint8)
    digest = hashlib.sha256(prepare(frame, Preprocessing(56, 56)).tobytes()).hexdigest()
    assert digest[:16] == "c81b15a5d5c5d759"
    digest = hashlib.sha256(prepare(frame, Preprocessing(96, 128, "rgb", "stretch")).tobytes()).hexdigest()
    assert digest[:16] == "cd8e125beddcf237"


def test_gray_is_bt601_luma():
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], dtype=np.uint8)
    assert prepare(colors, Preprocessing(1, 4))[0, :, 0].tolist() == [77, 149, 29, 255]


def test_crop_takes_the_largest_centered_part_and_stretch_takes_all():
    frame = np.zeros((4, 8), dtype=np.uint8)
    frame[:, 2:6] = 200
    assert set(np.unique(prepare(frame, GRAY))) == {200}
    assert prepare(frame, Preprocessing(4, 4, fit="stretch"))[0, :, 0].tolist() == [0, 200, 200, 0]


def test_an_alpha_channel_is_ignored_and_bool_is_black_and_white():
    rgba = np.dstack([np.full((4, 4, 3), 90, np.uint8), np.zeros((4, 4), np.uint8)])
    assert set(np.unique(prepare(rgba, GRAY))) == {90}
    assert prepare(np.eye(4, dtype=bool), GRAY)[0, :, 0].tolist() == [255, 0, 0, 0]


def test_a_batch_is_a_frame_an_array_or_a_list_of_any_sizes():
    frame = np.full((9, 7), 50, dtype=np.uint8)
    assert prepare_batch(frame, GRAY).shape == (1, 4, 4, 1)
    assert prepare_batch(np.stack([frame] * 5), GRAY).shape == (5, 4, 4, 1)
    assert prepare_batch(np.zeros((9, 7, 3), np.uint8), GRAY).shape == (1, 4, 4, 1)
    assert prepare_batch([frame, np.zeros((30, 20, 3), np.uint8)], GRAY).shape == (2, 4, 4, 1)
    assert prepare_batch([], GRAY).shape == (0, 4, 4, 1)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.float32), "an image must be uint8 with values 0 to 255, not float32"),
        (
            np.zeros((4,), np.uint8),
            r"an image has shape \(height, width\) or \(height, width, 1, 3 or 4\), not \(4,\)",
        ),
        (np.zeros((4, 4, 2), np.uint8), r"not \(4, 4, 2\)"),
        (np.zeros((0, 4), np.uint8), r"an image of shape \(0, 4\) has no pixels"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ImageError, match=message):
        prepare(image, GRAY)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((480, 640, 3), (144, 192, 3)),
        ((640, 480, 3), (192, 144, 3)),
        ((480, 640), (144, 192)),
        ((480, 640, 1), (144, 192)),
        ((480, 640, 4), (144, 192, 3)),
        ((100, 50, 3), (100, 50, 3)),
        ((1, 4000), (1, 192)),
    ],
)
def test_a_crop_is_the_whole_frame_at_its_aspect_and_never_enlarged(shape, expected):
    small = downscale(np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8), 192)
    assert small.shape == expected and small.dtype == np.uint8


def test_a_crop_averages_areas_and_is_no_window_into_the_frame():
    frame = np.kron(np.array([[10, 20], [30, 40]], np.uint8), np.ones((8, 8), np.uint8))
    assert downscale(frame, 2).tolist() == [[10, 20], [30, 40]]
    whole = downscale(frame, 99)
    frame[:] = 0
    assert whole[0, 0] == 10


def test_what_is_no_frame_is_refused():
    with pytest.raises(ImageError, match="an image has shape"):
        downscale(np.zeros(5, np.uint8), 192)
