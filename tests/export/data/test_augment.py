"""Distortions: exact symmetries, Koch's ranges, a function of the generator alone."""

import math

import pytest
import torch

from export.data.augment import (
    AUGMENTATIONS,
    SYMMETRIES,
    Augmentation,
    _affine_maps,
    _elastic_field,
    _elastic_nodes,
    _shifts,
    augment,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_no_augmentation_is_the_identity():
    pixels = torch.rand(3, 1, 56, 56) * 255
    assert augment(pixels, AUGMENTATIONS["none"], generator()) is pixels


def test_symmetries_are_the_eight_of_the_square_and_exact():
    image = torch.arange(25.0).reshape(1, 1, 5, 5)
    turned = augment(image.repeat(8, 1, 1, 1), AUGMENTATIONS["none"], generator(), torch.arange(SYMMETRIES))[
        :, 0
    ]
    expected = {
        tuple(torch.rot90(side, k).flatten().tolist())
        for side in (image[0, 0], image[0, 0].flip(1))
        for k in range(4)
    }
    assert {tuple(t.round().flatten().tolist()) for t in turned} == expected
    assert torch.allclose(turned, turned.round(), atol=1e-4)
    assert torch.allclose(turned[0], image[0, 0], atol=1e-4)


def test_kochs_recipe_has_the_papers_ranges_and_applies_each_half_of_the_time():
    recipe = AUGMENTATIONS["koch"]
    rotation_only = Augmentation(rotation=recipe.rotation, probability=recipe.probability)
    maps = _affine_maps(4000, rotation_only, generator())
    angles = torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0]))
    assert 9.5 < float(angles.abs().max()) <= 10.0001
    assert float((angles == 0).float().mean()) == pytest.approx(0.5, abs=0.03)

    shear_only = _affine_maps(4000, Augmentation(shear=recipe.shear), generator())
    assert (
        0.29 < float(shear_only[:, 0, 1].abs().max()) <= 0.3
        and 0.29 < float(shear_only[:, 1, 0].abs().max()) <= 0.3
    )

    scales = 1.0 / _affine_maps(4000, Augmentation(scale=recipe.scale), generator())[:, 0, 0]
    assert 0.8 <= float(scales.min()) < 0.81 and 1.19 < float(scales.max()) <= 1.2001

    pixels = _shifts(4000, recipe, generator()) * 105 / 2
    assert 1.9 < float(pixels.abs().max()) <= 2.0001


def test_a_shift_moves_the_drawing_by_so_many_pixels():
    image = torch.full((1, 1, 105, 105), 255.0)
    image[0, 0, 50, 50] = 0.0
    moved = augment(image, Augmentation(shift=2.0, probability=1.0), generator(3))
    rows, columns = torch.meshgrid(torch.arange(105.0), torch.arange(105.0), indexing="ij")
    ink = 255.0 - moved[0, 0]
    shift = (
        _shifts(1, Augmentation(shift=2.0, probability=1.0), _skip_affine(generator(3)))[0, :, 0] * 105 / 2
    )
    assert float((ink * columns).sum() / ink.sum()) == pytest.approx(50.0 - float(shift[0]), abs=1e-3)
    assert float((ink * rows).sum() / ink.sum()) == pytest.approx(50.0 - float(shift[1]), abs=1e-3)


def _skip_affine(seeded):
    _affine_maps(1, Augmentation(shift=2.0, probability=1.0), seeded)
    return seeded


def test_the_elastic_field_is_smooth_and_as_strong_as_said():
    recipe = AUGMENTATIONS["strong"]
    field = _elastic_field(_elastic_nodes(500, recipe, generator()), 56, 56) * 105 / 2
    # A uniform strength up to s has a root mean square of s / sqrt(3); interpolation between nodes lowers it.
    spread = float(field.pow(2).mean().sqrt())
    assert 0.5 * recipe.elastic / math.sqrt(3) < spread < recipe.elastic / math.sqrt(3)
    step = float((field[:, 1:] - field[:, :-1]).abs().max())
    assert step < 2.0


@pytest.mark.parametrize("name", ["koch", "strong"])
def test_equal_generators_give_equal_images_with_paper_around(name):
    pixels = torch.full((8, 1, 56, 56), 255.0)
    pixels[:, :, 20:30, 25:28] = 0.0
    one, two = (augment(pixels, AUGMENTATIONS[name], generator(7), torch.arange(8)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, augment(pixels, AUGMENTATIONS[name], generator(8), torch.arange(8)))
    assert torch.allclose(one[:, :, 0, 0], torch.tensor(255.0))
    assert float(one.min()) >= -1e-3 and float(one.max()) <= 255.001


def test_without_paper_the_image_is_mirrored_at_its_border():
    pixels = torch.full((4, 3, 32, 32), 80.0)
    assert torch.allclose(
        augment(pixels, AUGMENTATIONS["strong"], generator(), fill=None), torch.tensor(80.0), atol=1e-3
    )


@pytest.mark.parametrize("recipe", ["koch", "strong"])
def test_the_parts_of_a_batch_are_distorted_as_the_whole(recipe):
    pixels, symmetry = torch.rand(6, 1, 20, 20) * 255, torch.arange(6)
    whole = augment(pixels, AUGMENTATIONS[recipe], generator(4), symmetry)
    parts = [
        augment(pixels[own], AUGMENTATIONS[recipe], generator(4), symmetry[own], part=(index, 3))
        for index, own in enumerate((slice(0, 2), slice(2, 4), slice(4, 6)))
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_pictures_can_have_a_smallest_crop_of_their_own():
    """A ramp from left to right shows how wide the crop is; with the augmentation's own limit nothing changes."""
    ramp = torch.linspace(0.0, 255.0, 64).expand(200, 1, 64, 64)
    crops = Augmentation(crop=(0.1, 1.0))
    own = augment(ramp, crops, generator(2))
    assert torch.allclose(
        augment(ramp, crops, generator(2), min_crop=torch.full((200,), 0.1)), own, atol=1e-3
    )
    least = torch.tensor([0.1, 0.64]).repeat(100)
    cropped = augment(ramp, crops, generator(2), min_crop=least)
    width = (cropped.amax(dim=(1, 2, 3)) - cropped.amin(dim=(1, 2, 3))) / 255.0
    assert 0.3 < float(width[0::2].min()) < 0.45
    assert 0.78 < float(width[1::2].min()) < 0.85
