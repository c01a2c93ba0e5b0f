"""Augmentation of training images: geometric distortions, and the photometric ones that follow them.

All geometric distortions (symmetry, affine map, crop, elastic field) form one displacement field, so that an image is
interpolated only once. Distances are in pixels of a 105-pixel image, as in Koch 2015, and scale with the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from export.data.photometric import CameraAugmentation, Draws, InkAugmentation, PhotometricAugmentation

REFERENCE_SIZE = 105
SYMMETRIES = 8
"""Rotations by 90 degrees and their mirror images: the symmetries of the square."""


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the distortions, each of which is applied with `probability`."""

    rotation: float = 0.0
    """Degrees, in either direction."""
    shear: float = 0.0
    """Horizontal and vertical, in either direction."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Drawn separately for each axis."""
    shift: float = 0.0
    """Pixels of a 105-pixel image, in either direction on each axis."""
    probability: float = 0.5
    elastic: float = 0.0
    """Standard deviation of a smooth random displacement, in pixels of a 105-pixel image."""
    elastic_nodes: int = 5
    """Nodes per side of the grid on which the displacement is drawn."""
    crop: tuple[float, float] = (1.0, 1.0)
    """Fraction of the image area that is cropped, at a random position (Szegedy et al., 2015)."""
    aspect: float = 1.0
    """Largest aspect ratio of the crop, in either direction."""
    mirror: bool = False
    """Mirror half of the images."""
    photometric: PhotometricAugmentation | None = None
    """Applied after the geometric distortions."""


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    # Koch 2015, section 3.3: "theta in [-10, 10], rho in [-0.3, 0.3], s in [0.8, 1.2], t in [-2, 2]", each with p 0.5.
    "koch": Augmentation(rotation=10.0, shear=0.3, scale=(0.8, 1.2), shift=2.0, probability=0.5),
    "strong": Augmentation(
        rotation=12.0, shear=0.25, scale=(0.75, 1.2), shift=6.0, probability=0.9, elastic=3.0, elastic_nodes=5
    ),
    "ink": Augmentation(
        rotation=12.0, shear=0.25, scale=(0.75, 1.2), shift=6.0, probability=0.9, elastic=3.0, elastic_nodes=5,
        photometric=InkAugmentation(),
    ),
    "photo": Augmentation(
        rotation=15.0, probability=0.9, crop=(0.3, 1.0), aspect=4 / 3, mirror=True, photometric=CameraAugmentation()
    ),
}  # fmt: skip


def augment(
    pixels: Tensor,
    augmentation: Augmentation,
    generator: torch.Generator,
    symmetry: Tensor | None = None,
    fill: float | None = 255.0,
    part: tuple[int, int] = (0, 1),
    size: tuple[int, int] | None = None,
    min_crop: Tensor | None = None,
) -> Tensor:
    """Augment a batch, or a worker's part of it.

    Args:
        pixels: float32 (N, C, H, W) in 0..255.
        augmentation: the ranges to draw from.
        generator: a CPU generator; the result depends on its state and the arguments only.
        symmetry: int64 (N,) in 0..7, the symmetry of the square that is applied to each image first.
        fill: value outside the image; None reflects the image at its border.
        part: (i, n): the images are the i-th of n equal parts of a batch. The random numbers of the whole batch are drawn,
            so that its parts are distorted as in one batch.
        size: (H', W') of the result; None for the size of the images.
        min_crop: float32 (N,), the smallest fraction of the area of each image that is cropped; None for that of the
            augmentation.

    Returns:
        float32 (N, C, H', W').
    """
    height, width = size or (pixels.shape[2], pixels.shape[3])
    same_size = (height, width) == tuple(pixels.shape[2:])
    if augmentation == AUGMENTATIONS["none"] and symmetry is None and same_size:
        return pixels
    count = len(pixels)
    index, parts = part
    own = slice(index * count, (index + 1) * count)
    maps = _affine_maps(parts * count, augmentation, generator)[own]
    shifts = _shifts(parts * count, augmentation, generator)[own]
    if symmetry is not None:
        maps = _symmetry_maps()[symmetry.cpu()] @ maps
    if augmentation.crop != (1.0, 1.0) or augmentation.mirror:
        maps, shifts = _crop(maps, shifts, augmentation, Draws(generator, count, part), min_crop)
    # theta maps positions in the result to positions in the source, in units of half an image side.
    theta = torch.cat([maps, shifts], dim=2)
    grid = F.affine_grid(theta, [count, 1, height, width], align_corners=False)
    if augmentation.elastic > 0.0:
        nodes = _elastic_nodes(parts * count, augmentation, generator)[own]
        grid = grid + _elastic_field(nodes, height, width)
    grid = grid.to(pixels.device)
    if fill is None:
        sampled = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    else:
        sampled = F.grid_sample(pixels - fill, grid, padding_mode="zeros", align_corners=False) + fill
    if augmentation.photometric is None:
        return sampled
    return augmentation.photometric.apply(sampled.cpu(), Draws(generator, count, part)).to(pixels.device)


def _uniform(
    count: int,
    low: float,
    high: float,
    augmentation: Augmentation,
    generator: torch.Generator,
    neutral: float,
) -> Tensor:
    """(count,) values in [low, high], or `neutral` where the distortion is not applied."""
    values = torch.rand(count, generator=generator) * (high - low) + low
    applied = torch.rand(count, generator=generator) < augmentation.probability
    return torch.where(applied, values, torch.full_like(values, neutral))


def _affine_maps(count: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """(count, 2, 2): rotation after shear after scale."""
    turn = math.radians(augmentation.rotation)
    angle = _uniform(count, -turn, turn, augmentation, generator, 0.0)
    shear_x = _uniform(count, -augmentation.shear, augmentation.shear, augmentation, generator, 0.0)
    shear_y = _uniform(count, -augmentation.shear, augmentation.shear, augmentation, generator, 0.0)
    scale_x = _uniform(count, *augmentation.scale, augmentation, generator, 1.0)
    scale_y = _uniform(count, *augmentation.scale, augmentation, generator, 1.0)
    one = torch.ones(count)
    rotation = _stack(angle.cos(), -angle.sin(), angle.sin(), angle.cos())
    shear = _stack(one, shear_x, shear_y, one)
    # Enlarging means smaller steps in the source.
    scale = _stack(1.0 / scale_x, 0 * one, 0 * one, 1.0 / scale_y)
    return rotation @ shear @ scale


def _shifts(count: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """(count, 2, 1), in units of half an image side."""
    reach = augmentation.shift * 2.0 / REFERENCE_SIZE
    x = _uniform(count, -reach, reach, augmentation, generator, 0.0)
    y = _uniform(count, -reach, reach, augmentation, generator, 0.0)
    return torch.stack([x, y], dim=1).unsqueeze(2)


def _crop(
    maps: Tensor, shifts: Tensor, augmentation: Augmentation, draws: Draws, min_crop: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Combine maps and shifts with a random crop, enlarged to the whole image, and perhaps mirrored."""
    area, log_aspect = draws.uniform(*augmentation.crop, 1), math.log(augmentation.aspect)
    if min_crop is not None:
        low, high = augmentation.crop
        area = high - (high - area) * (high - min_crop[:, None]) / (high - low)
    aspect = draws.uniform(-log_aspect, log_aspect, 1).exp()
    sides = torch.cat([(area * aspect).sqrt(), (area / aspect).sqrt()], dim=1).clamp(max=1.0)
    center = draws.uniform(-1.0, 1.0, 2) * (1.0 - sides)
    if augmentation.mirror:
        sides = sides * torch.where(draws.uniform(0.0, 1.0, 1) < 0.5, torch.tensor([[-1.0, 1.0]]), 1.0)
    return maps @ torch.diag_embed(sides), shifts + center.unsqueeze(2)


def _elastic_nodes(count: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """(count, nodes, nodes, 2): random displacements, in units of half an image side."""
    nodes = torch.randn(count, augmentation.elastic_nodes, augmentation.elastic_nodes, 2, generator=generator)
    # Each image has its own strength, so that some remain nearly undistorted.
    strength = torch.rand(count, 1, 1, 1, generator=generator) * augmentation.elastic * 2.0 / REFERENCE_SIZE
    return nodes * strength


def _elastic_field(nodes: Tensor, height: int, width: int) -> Tensor:
    """(N, nodes, nodes, 2) to (N, height, width, 2): interpolation of the displacements at the nodes."""
    rows, columns = _spline_basis(height, nodes.shape[1]), _spline_basis(width, nodes.shape[1])
    return torch.einsum("yi,nijc,xj->nyxc", rows, nodes, columns)


@lru_cache(maxsize=16)
def _spline_basis(size: int, nodes: int) -> Tensor:
    """(size, nodes): matrix of cubic interpolation from evenly spaced nodes, the outer ones on the border."""
    unit = torch.eye(nodes)[:, None, None, :]
    rows = F.interpolate(
        unit.expand(nodes, 1, nodes, nodes), size=(nodes, size), mode="bicubic", align_corners=True
    )
    return rows[:, 0, 0, :].T.contiguous()


def _symmetry_maps() -> Tensor:
    """(8, 2, 2): four rotations by 90 degrees, then the same of the mirror image."""
    turns = [torch.tensor([[c, -s], [s, c]]) for c, s in ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))]
    mirror = torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    return torch.stack(turns + [turn @ mirror for turn in turns])


def _stack(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], dim=1), torch.stack([c, d], dim=1)], dim=1)
