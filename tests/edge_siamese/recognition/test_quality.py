"""Quality of frames: each measure reacts to what it is named for, and to little else."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_siamese.errors import ImageError
from edge_siamese.recognition.imaging import Preprocessing
from edge_siamese.recognition.quality import GRID, MIN_CONTRAST, Quality, is_blank, make_grid, measure_quality

SEEN = Preprocessing(56, 56)
Picture = npt.NDArray[Any]


def drawing(
    side: int = 480, *, stroke: float = 0.02, size: float = 0.6, paper: int = 230, ink: int = 40
) -> Picture:
    """A ring with a bar across it, on a page; float64 (side, side), its edges one pixel soft."""
    y, x = (np.mgrid[:side, :side] - (side - 1) / 2) / side
    ring = np.abs(np.hypot(x, y) - size / 2)
    bar = np.hypot(np.maximum(np.abs(x) - size / 2, 0), y)
    distance = np.minimum(ring, bar) - stroke / 2
    return paper + (ink - paper) * np.clip(0.5 - distance * side, 0, 1)


def blurred(picture: Picture, sigma: float) -> Picture:
    """A Gaussian blur of `sigma` pixels, with repeated margins."""
    if sigma == 0:
        return picture
    reach = int(4 * sigma) + 1
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(picture, [(reach, reach) if axis == other else (0, 0) for other in (0, 1)], "edge")
        picture = np.apply_along_axis(np.convolve, axis, padded, kernel, "valid")
    return picture


def camera(picture: Picture, noise: float = 0.0, seed: int = 0) -> Picture:
    """As a camera gives it: noisy bytes."""
    noisy = picture + np.random.default_rng(seed).normal(0, noise, picture.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def quality(picture: Picture, before: Picture | None = None) -> Quality:
    return measure_quality(make_grid(picture, SEEN), None if before is None else make_grid(before, SEEN))


@pytest.mark.parametrize("stroke", [0.012, 0.03, 0.1])
@pytest.mark.parametrize("paper", [150, 230, 255])
def test_sharpness_falls_with_blur_whatever_stroke_and_paper(stroke: float, paper: int) -> None:
    page = drawing(stroke=stroke, paper=paper, ink=30)
    found = [quality(camera(blurred(page, sigma), 2.0)).sharpness for sigma in (0, 2, 4, 8, 16)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 45
    assert 16 < found[3] < 26
    assert found[4] < 18


def test_sharpness_hardly_depends_on_light_contrast_noise_and_the_cameras_resolution() -> None:
    reference = quality(camera(drawing())).sharpness
    y, x = np.mgrid[:480, :480] / 480
    for other in (
        camera(drawing() * 0.3),
        camera(drawing() * (1 - 0.4 * (x + y) / 2)),
        camera(drawing(ink=170), 2.0),
        camera(drawing(), 8.0),
        camera(drawing(240)),
        camera(drawing(960)),
    ):
        assert quality(other).sharpness == pytest.approx(reference, rel=0.2)


def test_a_blurred_frame_does_not_pass_for_a_sharp_one_by_its_noise() -> None:
    page = blurred(drawing(), 14)
    assert quality(camera(page)).sharpness == pytest.approx(quality(camera(page, 4.0)).sharpness, abs=2)


def test_one_color_has_neither_contrast_nor_sharpness() -> None:
    assert quality(np.full((480, 640), 130, np.uint8), np.full((480, 640), 90, np.uint8)) == Quality(
        sharpness=0.0, brightness=130.0, clipped_dark=0.0, clipped_bright=0.0, contrast=0.0, motion=0.0
    )


def test_contrast_is_that_of_details_and_not_of_light_that_falls_off() -> None:
    x = np.arange(480)[np.newaxis] / 480 + np.zeros((480, 1))
    assert quality(camera(150 + 100 * (x - 0.5))).contrast < 14
    assert quality(camera(drawing(ink=230), 8.0)).contrast < 14
    assert quality(camera(drawing(paper=230, ink=40, size=0.2))).contrast == pytest.approx(190, abs=10)


def test_brightness_and_clipping_are_of_the_part_that_the_encoder_sees() -> None:
    frame = np.zeros((480, 640), np.uint8)
    frame[:240, 80:560] = 255
    found = quality(frame)
    assert (found.brightness, found.clipped_dark, found.clipped_bright) == (127.5, 0.5, 0.5)
    assert measure_quality(
        make_grid(frame, Preprocessing(56, 56, fit="stretch"))
    ).brightness == pytest.approx(95.6, abs=0.2)


def test_a_drawing_on_white_paper_is_bright_and_full_of_contrast() -> None:
    found = quality(camera(drawing(paper=255, ink=0, size=0.3, stroke=0.01)))
    assert found.brightness > 245
    assert found.clipped_bright > 0.9
    assert found.contrast > 180


@pytest.mark.parametrize("size", [0.3, 0.6])
def test_motion_grows_with_the_shift(size: float) -> None:
    page = drawing(size=size)
    first = camera(page, 3.0, seed=1)
    found = [quality(camera(np.roll(page, shift, 1), 3.0), first).motion or 0 for shift in (0, 4, 8, 15, 30)]
    assert found == sorted(found)
    assert found[0] < 5
    assert found[1] < 15
    assert found[3] > 25


def test_motion_and_sharpness_are_at_most_100_percent() -> None:
    squares = np.kron(np.indices((16, 16)).sum(axis=0) % 2, np.ones((30, 30))) * 255.0
    found = quality(camera(255.0 - squares), camera(squares))
    assert 98 < (found.motion or 0) <= 100
    for seed in range(20):
        noise = np.random.default_rng(seed).integers(0, 2, (480, 480)) * 255.0
        found = quality(camera(noise), camera(np.roll(noise, 7)))
        assert (found.motion or 0) <= 100 and found.sharpness <= 100


def test_motion_is_not_the_light_that_changes() -> None:
    page = drawing()
    assert quality(camera(page - 12), camera(page)).motion == pytest.approx(0, abs=0.1)
    assert (quality(camera(page * 0.9), camera(page)).motion or 0) < 8
    assert quality(camera(page)).motion is None


def test_noise_on_a_blank_page_is_not_motion() -> None:
    blank = np.full((480, 480), 200.0)
    assert (quality(camera(blank, 5.0, seed=1), camera(blank, 5.0, seed=2)).motion or 0) < 25


@pytest.mark.parametrize(
    ("shape", "seen", "grid"),
    [
        ((480, 640), SEEN, (128, 128)),
        ((480, 640, 3), Preprocessing(224, 224, "rgb"), (128, 128)),
        ((100, 90, 4), SEEN, (128, 128)),
        ((3000, 4000, 1), SEEN, (128, 128)),
        ((480, 640), Preprocessing(60, 80), (96, 128)),
        ((1, 1), Preprocessing(10, 200), (32, 128)),
    ],
)
def test_grids_of_all_frames_have_the_shape_of_the_encoders_input(
    shape: tuple[int, ...], seen: Preprocessing, grid: tuple[int, int]
) -> None:
    frame = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = make_grid(frame, seen)
    assert (found.shape, max(found.shape)) == (grid, GRID)
    assert found.dtype == np.float32
    assert 0 <= found.min() and found.max() <= 255
    assert measure_quality(found, found).motion == 0


def test_means_over_pixels_are_exact() -> None:
    frame = np.full((2048, 2048), 255, np.uint8)
    frame[:, 1::2] = 253
    np.testing.assert_array_equal(make_grid(frame, SEEN), np.full((128, 128), 254))


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ImageError, match="uint8 with values 0 to 255, not float64"):
        make_grid(np.zeros((4, 4)), SEEN)


def test_a_large_frame_is_never_converted_as_a_whole() -> None:
    """The frame is binned as bytes: as float32 it would take 16 MB, which is what makes a measurement slow."""
    frame = np.random.default_rng(1).integers(0, 256, (2048, 2048), dtype=np.uint8)
    before = make_grid(frame, SEEN)
    tracemalloc.start()
    measure_quality(make_grid(frame, SEEN), before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_blank_picture_has_next_to_no_contrast() -> None:
    image = np.full((8, 8, 1), 90, np.uint8)
    assert is_blank(image)
    image[0, 0] = 90 + int(MIN_CONTRAST) - 1
    assert is_blank(image)
    image[0, 0] += 1
    assert not is_blank(image)
