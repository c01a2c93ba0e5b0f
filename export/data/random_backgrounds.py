"""Random backgrounds for cut-outs in a training batch.

The objects of a batch share a few backgrounds, and consecutive pictures, such as two views of an object, have different
ones. So the background says nothing about the class.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from export.data.composition import drawn_background
from export.data.photometric import Draws

DRAWN_BACKGROUNDS = 300
"""Number of drawn backgrounds, half of them tables in front of a wall and half of them textures."""
DRAWN_SHARE = 0.4
PICTURES_PER_BACKGROUND = 6
"""Number of pictures of a batch for each background."""
CROP = (0.4, 1.0)
"""Side of the visible part of a background, as a fraction of the background's side."""
SIDE, MAX_OFFSET, ROLL = (0.6, 1.3), 0.2, 15.0
"""Side of a cut-out and distance of its center from the picture's, in sides of the picture; rotation in degrees."""
OBJECT_LIGHT, BACKGROUND_LIGHT = 0.35, 0.45
"""Largest absolute natural logarithm of the brightness factor."""
WARMTH = 0.08
"""Largest absolute natural logarithm of the factor for red; blue gets its inverse."""
BLUR, SHADOW = 0.5, 0.6
"""Probability of a blurred background, and darkest shadow."""
MIN_CROP = 0.75
"""Smallest area of a composed picture that augmentation may crop: the object must remain visible."""


class RandomBackgrounds:
    """Composes cut-outs with parts of drawn backgrounds and of the opaque training pictures.

    Args:
        images: all training pictures, uint8 (N, H, W, 4) RGBA.
        sources: int64 (N,), the source of each picture; opaque pictures of all sources are equally frequent.
        seed: seed of the drawn backgrounds.
    """

    def __init__(self, images: Tensor, sources: np.ndarray, seed: int) -> None:
        self.images = images
        opaque = (images[..., 3].amin(dim=(1, 2)) == 255).cpu().numpy()
        self.opaque = [
            torch.from_numpy(np.flatnonzero(opaque & (sources == source)))
            for source in np.unique(sources[opaque])
        ]
        rng = np.random.default_rng([seed, 13])
        height, width = images.shape[1:3]
        tables = [drawn_background(rng, width, height) for _ in range(DRAWN_BACKGROUNDS // 2)]
        textures = _textures(DRAWN_BACKGROUNDS - len(tables), height, width, int(rng.integers(2**31)))
        self.drawn = torch.cat([torch.from_numpy(np.stack(tables)), textures])

    def compose(
        self, pixels: Tensor, generator: torch.Generator, part: tuple[int, int] = (0, 1)
    ) -> tuple[Tensor, Tensor]:
        """Put the cut-outs of a batch, or of a worker's part of it, in front of backgrounds.

        Args:
            pixels: float32 (N, 4, H, W) in 0..255.
            generator: a CPU generator, from which the random numbers of the whole batch are drawn.
            part: (i, n): the pictures are the i-th of n equal parts of a batch.

        Returns:
            float32 (N, 3, H, W), with opaque pictures unchanged; and bool (N,): which pictures were composed.
        """
        device, count = pixels.device, len(pixels)
        index, parts = part
        draws = Draws(generator, count, part)
        pool = self._pool(max(2, parts * count // PICTURES_PER_BACKGROUND), generator)
        slots = torch.arange(index * count, (index + 1) * count) % len(pool)
        behind = self._background(pool[slots].permute(0, 3, 1, 2).float(), draws)
        foreground, alpha, shadow = self._foreground(pixels.cpu(), draws)
        scene = behind * (1.0 - shadow) * (1.0 - alpha) + foreground
        composed = (pixels[:, 3].amin(dim=(1, 2)) < 255).to(device)
        result = torch.where(composed[:, None, None, None], scene.to(device), pixels[:, :3])
        return result, composed

    def _pool(self, count: int, generator: torch.Generator) -> Tensor:
        """uint8 (count, H, W, 3): the backgrounds of a batch."""
        kinds, places = torch.rand(2, count, generator=generator).double()
        result = []
        for kind, where in zip(kinds.tolist(), places.tolist(), strict=True):
            if kind < DRAWN_SHARE or not self.opaque:
                result.append(self.drawn[int(where * len(self.drawn))])
            else:
                source = self.opaque[int((kind - DRAWN_SHARE) / (1.0 - DRAWN_SHARE) * len(self.opaque))]
                result.append(self.images[source[int(where * len(source))]][..., :3].cpu())
        return torch.stack(result)

    def _background(self, pixels: Tensor, draws: Draws) -> Tensor:
        count, _, height, width = pixels.shape
        side = draws.uniform(*CROP, 1)
        center = draws.uniform(-1.0, 1.0, 2) * (1.0 - side)
        mirror = torch.where(draws.uniform(0.0, 1.0, 1) < 0.5, -1.0, 1.0)
        zero = torch.zeros(count, 1)
        rows = torch.cat([side * mirror, zero, center[:, :1], zero, side, center[:, 1:]], dim=1)
        grid = F.affine_grid(rows.view(count, 2, 3), [count, 1, height, width], align_corners=False)
        seen = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
        blurred = F.avg_pool2d(seen, 5, 1, 2, count_include_pad=False)
        return torch.where(draws.chance(BLUR), blurred, seen) * _light(draws, BACKGROUND_LIGHT)

    def _foreground(self, pixels: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
        """The placed cut-outs, multiplied by their opacity; their opacity; and the strength of their shadows."""
        count, _, height, width = pixels.shape
        alpha = pixels[:, 3:] / 255.0
        layers = torch.cat([pixels[:, :3] * alpha, alpha], dim=1)
        step = 1.0 / draws.uniform(*SIDE, 1)
        turn = draws.uniform(-math.radians(ROLL), math.radians(ROLL), 1)
        shift = draws.uniform(-2.0 * MAX_OFFSET, 2.0 * MAX_OFFSET, 2) * step
        cos, sin = turn.cos() * step, turn.sin() * step
        rows = torch.cat([cos, -sin, shift[:, :1], sin, cos, shift[:, 1:]], dim=1).view(count, 2, 3)
        grid = F.affine_grid(rows, [count, 1, height, width], align_corners=False)
        placed = F.grid_sample(layers, grid, align_corners=False)
        opacity = placed[:, 3:].clamp(0.0, 1.0)
        coarse = F.avg_pool2d(opacity, 4)
        for _ in range(2):
            coarse = F.avg_pool2d(coarse, 7, 1, 3)
        offset = torch.cat([draws.uniform(-0.15, 0.15, 1), draws.uniform(-0.2, 0.0, 1)], dim=1)
        moved = torch.eye(2).expand(count, 2, 2)
        below = F.affine_grid(
            torch.cat([moved, offset[:, :, None]], dim=2), [count, 1, height, width], align_corners=False
        )
        shadow = F.grid_sample(coarse, below, align_corners=False) * draws.uniform(0.0, SHADOW)
        return placed[:, :3] * _light(draws, OBJECT_LIGHT), opacity, shadow


def _light(draws: Draws, reach: float) -> Tensor:
    """(N, 3, 1, 1): factors of red, green and blue."""
    warmth = draws.uniform(-WARMTH, WARMTH)
    colors = torch.cat([warmth, torch.zeros_like(warmth), -warmth], dim=1)
    return (draws.uniform(-reach, reach) + colors).exp()


def _textures(count: int, height: int, width: int, seed: int) -> Tensor:
    """uint8 (count, height, width, 3): colored noise of several scales."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.rand(count, 3, 1, 1, generator=generator) * 200.0 + 28.0
    result = base.expand(count, 3, height, width).clone()
    for nodes in (2, 4, 9, 20, 45):
        strength = torch.rand(count, 1, 1, 1, generator=generator) ** 2 * 45.0
        gray = torch.randn(count, 1, nodes, nodes, generator=generator)
        color = torch.randn(count, 3, nodes, nodes, generator=generator)
        color = color * torch.rand(count, 1, 1, 1, generator=generator) * 0.6
        result += strength * F.interpolate(gray + color, (height, width), mode="bicubic", align_corners=False)
    return result.clamp(0.0, 255.0).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
