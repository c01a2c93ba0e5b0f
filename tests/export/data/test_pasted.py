"""Strange pictures: of the batch's own colours and shapes, but none of its pictures; equal for any number of workers."""

import torch

from export.data.looks import Draws
from export.data.pasted import _shape, pasted


def pictures(count=24):
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(5)) * 255


def draws(count, part=(0, 1)):
    return Draws(torch.Generator().manual_seed(1), count, part)


def test_each_picture_gives_another_one_in_range():
    strange = pasted(pictures(), draws(24))
    assert strange.shape == (24, 3, 32, 32) and 0.0 <= float(strange.min()) and float(strange.max()) < 255.01
    assert float((strange - pictures()).abs().mean(dim=(1, 2, 3)).min()) > 20
    assert torch.equal(strange, pasted(pictures(), draws(24)))


def test_grounds_are_white_plain_or_another_picture():
    strange = pasted(pictures(300), draws(300))
    shape = _shape(32, 32, draws(300))
    corners = strange[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert shape.shape == (300, 1, 32, 32) and 0.03 < float(shape.mean()) < 0.6
    white = (corners == 255.0).all(dim=1).any(dim=1)
    plain = (corners.amax(dim=2) - corners.amin(dim=2)).amax(dim=1) < 1e-3
    assert 0.3 < float(white.float().mean()) < 0.5
    assert 0.4 < float((white | plain).float().mean()) < 0.8


def test_shapes_are_in_one_piece_of_many_sizes():
    shapes = _shape(64, 64, draws(200))[:, 0] > 0.5
    areas = shapes.float().mean(dim=(1, 2))
    assert float(areas.min()) < 0.1 and float(areas.max()) > 0.4
    assert bool(shapes.flatten(1).any(dim=1).all())
