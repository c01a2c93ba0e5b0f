"""Strange pictures: what the training pictures show, recoloured, cut into shapes and pasted onto other grounds.

They have no class. A network that is trained for a few kinds of things keeps what it knew of all others by answering to
such pictures as before (Li and Hoiem, "Learning without Forgetting", 2016), and the stranger they are, the more it keeps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from export.data.looks import Draws

LEAST, MOST = 0.25, 0.95
"""Sides of a shape, as shares of the picture's."""
WHITE_GROUNDS, PLAIN_GROUNDS = 0.4, 0.3
"""Shares of the pictures whose ground is white, and of one colour; the ground of the others is another picture."""


def pasted(pixels: Tensor, draws: Draws) -> Tensor:
    """One strange picture for each picture, float32 (N, 3, H, W) in 0..255, of it and of its neighbour in the batch."""
    thing, other = _recoloured(_cut(pixels, draws), draws), _recoloured(_cut(pixels.roll(1, 0), draws), draws)
    white = torch.full_like(pixels, 255.0)
    plain = draws.uniform(0.0, 255.0, 3, 1, 1).expand_as(pixels)
    kind = draws.uniform(0.0, 1.0)
    ground = torch.where(kind < WHITE_GROUNDS + PLAIN_GROUNDS, plain, other)
    ground = torch.where(kind < WHITE_GROUNDS, white, ground)
    shape = _shape(pixels.shape[2], pixels.shape[3], draws)
    return ground + (thing - ground) * shape


def _cut(pixels: Tensor, draws: Draws) -> Tensor:
    """A part of each picture at any scale, turned by anything."""
    angle = draws.uniform(0.0, 2.0 * math.pi, 1)
    size = draws.uniform(math.log(0.15), 0.0, 1).exp()
    cosine, sine = (angle.cos() * size).squeeze(1), (angle.sin() * size).squeeze(1)
    maps = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    shift = draws.uniform(-0.6, 0.6, 2, 1)
    grid = F.affine_grid(torch.cat([maps, shift], dim=2), list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _recoloured(pixels: Tensor, draws: Draws) -> Tensor:
    """Colours mixed into others, some of them turned to their opposites, in another light."""
    turned = torch.stack([pixels.roll(shift, 1) for shift in range(3)])
    which = (draws.uniform(0.0, 3.0).long().clamp(max=2)).expand_as(pixels)
    mixed = torch.gather(turned, 0, which[None])[0]
    mixed = torch.lerp(pixels, mixed, draws.uniform(0.0, 1.0))
    mixed = torch.where(draws.chance(0.15), 255.0 - mixed, mixed)
    mean = mixed.mean(dim=(1, 2, 3), keepdim=True)
    lit = (mean + (mixed - mean) * draws.uniform(0.6, 1.5)) * draws.uniform(-0.5, 0.5).exp()
    grey = lit.mean(dim=1, keepdim=True)
    return (grey + (lit - grey) * draws.uniform(0.0, 1.6)).clamp(0.0, 255.0)


def _shape(height: int, width: int, draws: Draws) -> Tensor:
    """(N, 1, H, W) in 0..1: a star-like blob with a wavy or angular border, anywhere."""
    rows = torch.linspace(-1.0, 1.0, height)[:, None] - draws.uniform(-0.35, 0.35)
    columns = torch.linspace(-1.0, 1.0, width)[None, :] - draws.uniform(-0.35, 0.35)
    angle = torch.atan2(rows, columns) + draws.uniform(0.0, 2.0 * math.pi)
    stretch = draws.uniform(-0.7, 0.7).exp()
    distance = ((rows * stretch) ** 2 + (columns / stretch) ** 2).sqrt()
    border = draws.uniform(LEAST, MOST)
    for waves in (2, 3, 5):
        border = border * (
            1.0 + draws.uniform(0.0, 0.25) * torch.cos(waves * angle + draws.uniform(0.0, 6.3))
        )
    return ((border - distance) * (min(height, width) / 3.0)).clamp(0.0, 1.0)
