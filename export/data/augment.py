"""Distorts batches of prepared images as other hands would have drawn or held them; on torch, a batch at a time.

Everything geometric (the symmetry, the affine map, the elastic field) is one displacement field and one bilinear
sampling, so that an image is blurred once. Distances are in pixels of a 105-pixel image, as in Koch 2015, and scale
with the size of the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from export.data.photometric import CameraLook, Draws, InkLook, Look

REFERENCE_SIZE = 105
SYMMETRIES = 8
"""Quarter turns and their mirror images: the symmetries of the square."""


@dataclass(frozen=True)
class Augmentation:
    """Each distortion is drawn from its range with `probability`, and otherwise left out."""

    rotation: float = 0.0
    """Degrees, either way."""
    shear: float = 0.0
    """Horizontal and vertical, either way."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Drawn for each axis on its own."""
    shift: float = 0.0
    """Pixels of a 105-pixel image, either way, on each axis."""
    probability: float = 0.5
    elastic: float = 0.0
    """Standard deviation of a smooth random displacement, in pixels of a 105-pixel image."""
    elastic_nodes: int = 5
    """The displacement is drawn on a grid of so many nodes a side and interpolated."""
    crop: tuple[float, float] = (1.0, 1.0)
    """Share of the image's area that is cut out anywhere in it (Szegedy et al., 2015)."""
    aspect: float = 1.0
    """The cut's sides differ by at most this factor, either way."""
    mirror: bool = False
    """Half of the images are mirrored."""
    look: Look | None = None
    """What comes after the geometry."""


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    # Koch 2015, section 3.3: "theta in [-10, 10], rho in [-0.3, 0.3], s in [0.8, 1.2], t in [-2, 2]", each with p 0.5.
    "koch": Augmentation(rotation=10.0, shear=0.3, scale=(0.8, 1.2), shift=2.0, probability=0.5),
    "strong": Augmentation(
        rotation=12.0, shear=0.25, scale=(0.75, 1.2), shift=6.0, probability=0.9, elastic=3.0, elastic_nodes=5
    ),
    "ink": Augmentation(
        rotation=12.0, shear=0.25, scale=(0.75, 1.2), shift=6.0, probability=0.9, elastic=3.0, elastic_nodes=5,
        look=InkLook(),
    ),
    "photo": Augmentation(
        rotation=15.0, probability=0.9, crop=(0.3, 1.0), aspect=4 / 3, mirror=True, look=CameraLook()
    ),
}  # fmt: skip


def augment(
    pixels: Tensor,
    recipe: Augmentation,
    generator: torch.Generator,
    symmetry: Tensor | None = None,
    paper: float | None = 255.0,
    part: tuple[int, int] = (0, 1),
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Distort a batch, or a worker's part of it.

    Args:
        pixels: float32 (N, C, H, W) in 0..255.
        recipe: what to draw from.
        generator: a CPU generator; the result is a function of it and of the arguments.
        symmetry: int64 (N,) in 0..7, the symmetry of the square to apply to each image before it is distorted.
        paper: the value outside of the image; None mirrors the image at its border.
        part: (i, n): the images are the i-th of n equal parts of a batch. The distortions of the whole batch are
            drawn, so that its parts together are distorted as the whole would have been.
        size: (H', W') of the result; None for that of the images.

    Returns:
        float32 (N, C, H', W').
    """
    height, width = size or (pixels.shape[2], pixels.shape[3])
    same_size = (height, width) == tuple(pixels.shape[2:])
    if recipe == AUGMENTATIONS["none"] and symmetry is None and same_size:
        return pixels
    count = len(pixels)
    index, parts = part
    own = slice(index * count, (index + 1) * count)
    maps = _affine_maps(parts * count, recipe, generator)[own]
    shifts = _shifts(parts * count, recipe, generator)[own]
    if symmetry is not None:
        maps = _symmetry_maps()[symmetry.cpu()] @ maps
    if recipe.crop != (1.0, 1.0) or recipe.mirror:
        maps, shifts = _cut_out(maps, shifts, recipe, Draws(generator, count, part))
    # theta maps places of the result to places of the source; distances are halves of the image's side.
    theta = torch.cat([maps, shifts], dim=2)
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    if recipe.elastic > 0.0:
        nodes = _elastic_nodes(parts * count, recipe, generator)[own]
        grid = grid + _elastic_field(nodes, height, width)
    grid = grid.to(pixels.device)
    if paper is None:
        sampled = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    else:
        sampled = F.grid_sample(pixels - paper, grid, padding_mode="zeros", align_corners=False) + paper
    if recipe.look is None:
        return sampled
    return recipe.look.apply(sampled.cpu(), Draws(generator, count, part)).to(pixels.device)


def _uniform(
    count: int, low: float, high: float, recipe: Augmentation, generator: torch.Generator, neutral: float
) -> Tensor:
    """(count,) values in [low, high], or `neutral` where the coin says so."""
    values = torch.rand(count, generator=generator) * (high - low) + low
    applied = torch.rand(count, generator=generator) < recipe.probability
    return torch.where(applied, values, torch.full_like(values, neutral))


def _affine_maps(count: int, recipe: Augmentation, generator: torch.Generator) -> Tensor:
    """(count, 2, 2): rotation after shear after scale."""
    turn = math.radians(recipe.rotation)
    angle = _uniform(count, -turn, turn, recipe, generator, 0.0)
    shear_x = _uniform(count, -recipe.shear, recipe.shear, recipe, generator, 0.0)
    shear_y = _uniform(count, -recipe.shear, recipe.shear, recipe, generator, 0.0)
    scale_x = _uniform(count, *recipe.scale, recipe, generator, 1.0)
    scale_y = _uniform(count, *recipe.scale, recipe, generator, 1.0)
    one = torch.ones(count)
    rotation = _stack(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
    shear = _stack(one, shear_x, shear_y, one)
    # A larger character is a smaller step in the source.
    scale = _stack(1.0 / scale_x, 0 * one, 0 * one, 1.0 / scale_y)
    return rotation @ shear @ scale


def _shifts(count: int, recipe: Augmentation, generator: torch.Generator) -> Tensor:
    """(count, 2, 1), in halves of the image's side."""
    reach = recipe.shift * 2.0 / REFERENCE_SIZE
    x = _uniform(count, -reach, reach, recipe, generator, 0.0)
    y = _uniform(count, -reach, reach, recipe, generator, 0.0)
    return torch.stack([x, y], dim=1).unsqueeze(2)


def _cut_out(maps: Tensor, shifts: Tensor, recipe: Augmentation, draws: Draws) -> tuple[Tensor, Tensor]:
    """The maps and shifts of an image of which a part is enlarged to the whole, perhaps mirrored."""
    area, log_aspect = draws.uniform(*recipe.crop, 1), math.log(recipe.aspect)
    aspect = draws.uniform(-log_aspect, log_aspect, 1).exp()
    sides = torch.cat([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp(max=1.0)
    center = draws.uniform(-1.0, 1.0, 2) * (1.0 - sides)
    if recipe.mirror:
        sides = sides * torch.where(draws.uniform(0.0, 1.0, 1) < 0.5, torch.tensor([[-1.0, 1.0]]), 1.0)
    return maps @ torch.diag_embed(sides), shifts + center.unsqueeze(2)


def _elastic_nodes(count: int, recipe: Augmentation, generator: torch.Generator) -> Tensor:
    """(count, nodes, nodes, 2): random displacements, in halves of the image's side."""
    nodes = torch.randn(count, recipe.elastic_nodes, recipe.elastic_nodes, 2, generator=generator)
    # Each image has its own strength, so that undistorted ones remain among them.
    strength = torch.rand(count, 1, 1, 1, generator=generator) * recipe.elastic * 2.0 / REFERENCE_SIZE
    return nodes * strength


def _elastic_field(nodes: Tensor, height: int, width: int) -> Tensor:
    """(N, nodes, nodes, 2) to (N, height, width, 2): the smooth field through the displacements at the nodes."""
    rows, columns = _spline_basis(height, nodes.shape[1]), _spline_basis(width, nodes.shape[1])
    return torch.einsum("yi,nijc,xj->nyxc", rows, nodes, columns)


@lru_cache(maxsize=16)
def _spline_basis(size: int, nodes: int) -> Tensor:
    """(size, nodes): cubic interpolation from evenly spaced nodes, the first and last on the border, as a matrix."""
    unit = torch.eye(nodes)[:, None, None, :]
    rows = F.interpolate(
        unit.expand(nodes, 1, nodes, nodes), size=(nodes, size), mode="bicubic", align_corners=True
    )
    return rows[:, 0, 0, :].T.contiguous()


def _symmetry_maps() -> Tensor:
    """(8, 2, 2): four quarter turns, and the same of the mirror image."""
    turns = [torch.tensor([[c, -s], [s, c]]) for c, s in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))]
    mirror = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    return torch.stack(turns + [turn @ mirror for turn in turns])


def _stack(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], dim=1), torch.stack([c, d], dim=1)], dim=1)
