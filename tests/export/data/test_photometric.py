"""Photometric changes: within their ranges, without moving anything, and the same for any number of workers."""

import pytest
import torch

from export.data.augment import AUGMENTATIONS, augment
from export.data.photometric import CameraAugmentation, Draws, InkAugmentation

STILL = {
    "pen": 0.0,
    "light": 1.0,
    "paper": (255.0, 255.0),
    "ink": (0.0, 0.0),
    "shade": 0.0,
    "noise": 0.0,
    "blur": 0.0,
}
DARK = {
    "exposure": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "white_balance": 0.0,
    "blur": 0.0,
    "noise": 0.0,
    "hole": 0.0,
}


def draws(count, seed=0, part=(0, 1)):
    return Draws(torch.Generator().manual_seed(seed), count, part)


def drawing(count=64):
    pixels = torch.full((count, 1, 28, 28), 255.0)
    pixels[:, :, 6:22, 12:15] = 0.0
    return pixels


def colors(count=64, seed=1):
    return torch.rand(count, 3, 20, 20, generator=torch.Generator().manual_seed(seed)) * 200 + 20


@pytest.mark.parametrize(
    ("look", "pixels"), [(InkAugmentation(**STILL), drawing()), (CameraAugmentation(**DARK), colors())]
)
def test_a_look_without_ranges_changes_nothing(look, pixels):
    assert torch.allclose(look.apply(pixels, draws(64)), pixels, atol=1e-3)


def test_paper_and_ink_take_every_level_of_their_ranges():
    look = InkAugmentation(**{**STILL, "paper": (110.0, 255.0), "ink": (0.0, 0.5)})
    seen = look.apply(drawing(500), draws(500))[:, 0]
    paper, ink = seen[:, 0, 0], seen[:, 14, 13]
    assert 110 <= float(paper.min()) < 113 and 252 < float(paper.max()) <= 255
    share = ink / paper
    assert 0 <= float(share.min()) < 0.01 and 0.49 < float(share.max()) <= 0.5
    assert abs(float(torch.corrcoef(torch.stack([paper, share]))[0, 1])) < 0.15


def test_another_pen_makes_strokes_thinner_and_thicker():
    ink = 255.0 - InkAugmentation(**{**STILL, "pen": 1.0}).apply(drawing(200), draws(200))[:, 0]
    widths = (ink[:, 14] / 255.0).sum(dim=1)
    assert float(widths.min()) < 2.8 and float(widths.max()) > 6.0
    gray = ink[:, 0, 0]
    assert float(gray.min()) == 0.0 and float(gray.max()) < 70.0 and float((gray > 0).float().mean()) < 0.25


def test_only_the_share_of_drawings_is_photographed():
    seen = InkAugmentation(pen=0.0, light=0.3).apply(drawing(1000), draws(1000))
    same = (seen == drawing(1000)).flatten(1).all(dim=1).float().mean()
    assert float(same) == pytest.approx(0.7, abs=0.04)


def test_the_hole_is_a_square_of_the_mean():
    look = CameraAugmentation(**{**DARK, "hole": 1.0, "hole_side": (0.5, 0.5)})
    pixels = colors(300)
    hidden = (look.apply(pixels, draws(300)) - pixels).abs().amax(dim=1) > 1e-3
    areas = hidden.float().mean(dim=(1, 2))
    assert (
        float(areas.max()) == pytest.approx(0.25, abs=0.03) and float(areas.min()) > 0.04
    )  # cut off at the border
    one = next(h for h, area in zip(hidden, areas, strict=True) if float(area) > 0.24)
    rows, columns = one.any(dim=1).sum(), one.any(dim=0).sum()
    assert rows * columns == one.sum()


def test_light_changes_but_the_scene_stays():
    pixels = colors(50)
    seen = CameraAugmentation(blur=0.0, hole=0.0, noise=0.0).apply(pixels, draws(50))
    for before, after in zip(pixels, seen, strict=True):
        inside = (after > 0) & (after < 255)
        pair = torch.stack([before[1][inside[1]], after[1][inside[1]]])
        assert float(torch.corrcoef(pair)[0, 1]) > 0.6
    assert float((seen.mean(dim=(1, 2, 3)) / pixels.mean(dim=(1, 2, 3))).log().std()) > 0.1


def test_gray_photographs_have_no_colors_to_change():
    assert CameraAugmentation().apply(drawing(4), draws(4)).shape == (4, 1, 28, 28)


@pytest.mark.parametrize("name", ["ink", "photo"])
def test_parts_of_a_batch_look_as_the_whole_would(name):
    pixels = colors(12) if name == "photo" else drawing(12)
    whole = augment(pixels, AUGMENTATIONS[name], torch.Generator().manual_seed(3), fill=None, size=(16, 16))
    assert whole.shape[2:] == (16, 16) and 0.0 <= float(whole.min()) and float(whole.max()) < 255.01
    for index in range(3):
        own = slice(4 * index, 4 * index + 4)
        part = augment(
            pixels[own],
            AUGMENTATIONS[name],
            torch.Generator().manual_seed(3),
            fill=None,
            part=(index, 3),
            size=(16, 16),
        )
        assert torch.equal(part, whole[own])


def test_crops_show_a_part_enlarged_and_half_of_them_mirrored():
    ramp = torch.arange(40.0).repeat(40, 1).expand(400, 1, 40, 40)
    recipe = AUGMENTATIONS["photo"]
    cut = augment(
        ramp, type(recipe)(crop=(0.25, 1.0), mirror=True), torch.Generator().manual_seed(0), fill=None
    )
    slopes = (cut[:, 0, 20, 30] - cut[:, 0, 20, 10]) / 20.0
    assert float((slopes < 0).float().mean()) == pytest.approx(0.5, abs=0.08)
    assert 0.49 < float(slopes.abs().min()) < 0.55 and 0.95 < float(slopes.abs().max()) <= 1.01
