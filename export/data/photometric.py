"""Changes what pictures look like, not where things are: light and camera for photographs, pen and paper for drawings.

On torch, a batch at a time, after the geometry of `export.data.augment`; values are 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""


@dataclass(frozen=True)
class Draws:
    """Random numbers for a whole batch, of which a worker takes its part: equal, however many workers share it."""

    generator: torch.Generator
    count: int
    """Images of the part."""
    part: tuple[int, int] = (0, 1)
    """(i, n): the i-th of n equal parts."""

    def _own(self, values: Tensor) -> Tensor:
        start = self.part[0] * self.count
        return values[start : start + self.count]

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(count, *shape) in [low, high]; without a shape (count, 1, 1, 1), to multiply images with."""
        total = self.count * self.part[1]
        values = torch.rand(total, *(shape or (1, 1, 1)), generator=self.generator)
        return self._own(values) * (high - low) + low

    def chance(self, probability: float) -> Tensor:
        """bool (count, 1, 1, 1), true with the probability."""
        return self.uniform(0.0, 1.0) < probability

    def normal_like(self, images: Tensor) -> Tensor:
        """Standard normal numbers of the shape of the part's images, as (N, C, H, W)."""
        total = self.count * self.part[1]
        return self._own(torch.randn(total, *images.shape[1:], generator=self.generator))


class Look(Protocol):
    """What `Augmentation.look` holds."""

    def apply(self, pixels: Tensor, draws: Draws) -> Tensor:
        """float32 (N, C, H, W) in 0..255 to the same."""
        ...


@dataclass(frozen=True)
class CameraLook:
    """Light, white balance and a cheap lens, for color photographs; what stands is drawn evenly up to it."""

    exposure: float = 0.4
    """Natural logarithm of the factor of all values, either way."""
    contrast: float = 0.35
    """Change of the factor of the distance from the mean, either way."""
    saturation: float = 0.2
    """Change of the factor of the distance from gray, either way."""
    white_balance: float = 0.05
    """Natural logarithm of the factor of each color, either way."""
    blur: float = 0.2
    """Share of the images that lose their finest detail."""
    noise: float = 6.0
    """Largest standard deviation of the noise of the pixels."""
    hole: float = 0.5
    """Share of the images of which a square is hidden (DeVries and Taylor, "Cutout", 2017)."""
    hole_side: tuple[float, float] = (0.2, 0.6)
    """Of that square, as a share of the image's side."""

    def apply(self, pixels: Tensor, draws: Draws) -> Tensor:
        pixels = pixels * draws.uniform(-self.exposure, self.exposure).exp()
        pixels = _around(pixels.mean(dim=(1, 2, 3), keepdim=True), pixels, draws, self.contrast)
        if pixels.shape[1] == 3:
            gray = (pixels * torch.tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
            pixels = _around(gray, pixels, draws, self.saturation)
            pixels = pixels * draws.uniform(-self.white_balance, self.white_balance, 3, 1, 1).exp()
        pixels = torch.where(draws.chance(self.blur), _smooth(pixels), pixels)
        pixels = pixels + draws.normal_like(pixels) * draws.uniform(0.0, self.noise)
        return self._with_hole(pixels, draws).clamp(0.0, 255.0)

    def _with_hole(self, pixels: Tensor, draws: Draws) -> Tensor:
        height, width = pixels.shape[2:]
        half = draws.uniform(*self.hole_side) / 2.0
        rows = (torch.arange(height)[:, None] + 0.5) / height - draws.uniform(0.0, 1.0)
        columns = (torch.arange(width)[None, :] + 0.5) / width - draws.uniform(0.0, 1.0)
        hidden = (rows.abs() < half) & (columns.abs() < half) & draws.chance(self.hole)
        return torch.where(hidden, pixels.mean(dim=(2, 3), keepdim=True), pixels)


@dataclass(frozen=True)
class InkLook:
    """Other pens on other paper in another light, for dark drawings on white; `share` of the images each."""

    pen: float = 0.6
    """Share of the drawings whose strokes become thinner or thicker."""
    light: float = 0.5
    """Share of the drawings that are photographed: paper below white, ink above black, shade, blur and noise."""
    paper: tuple[float, float] = (110.0, 255.0)
    ink: tuple[float, float] = (0.0, 0.55)
    """As a share of the paper's value."""
    shade: float = 0.25
    """Change of the light from the middle to the border, either way, across and down."""
    noise: float = 10.0
    """Largest standard deviation of the noise of the pixels."""
    blur: float = 0.3
    """Share of the photographed drawings that are out of focus."""

    def apply(self, pixels: Tensor, draws: Draws) -> Tensor:
        ink = self._another_pen(1.0 - pixels / 255.0, draws)
        height, width = pixels.shape[2:]
        paper = draws.uniform(*self.paper)
        seen = paper * (1.0 - ink * (1.0 - draws.uniform(*self.ink)))
        across = torch.linspace(-1.0, 1.0, width) * draws.uniform(-self.shade, self.shade)
        down = torch.linspace(-1.0, 1.0, height)[:, None] * draws.uniform(-self.shade, self.shade)
        seen = seen * (1.0 + across + down)
        seen = torch.where(draws.chance(self.blur), _smooth(seen), seen)
        seen = seen + draws.normal_like(seen) * draws.uniform(0.0, self.noise)
        return torch.where(draws.chance(self.light), seen.clamp(0.0, 255.0), 255.0 * (1.0 - ink))

    def _another_pen(self, ink: Tensor, draws: Draws) -> Tensor:
        """Blurred ink, cut off at a level: a high one makes strokes thin; a low one thick, and grays the paper as ink that
        bleeds does."""
        once = F.avg_pool2d(ink, 3, 1, 1)
        spread = torch.where(draws.chance(0.5), F.avg_pool2d(once, 3, 1, 1), once)
        level, steepness = draws.uniform(0.1, 0.55), draws.uniform(2.5, 4.5)
        drawn = ((spread - level) * steepness + 0.5).clamp(0.0, 1.0)
        return torch.where(draws.chance(self.pen), drawn, ink)


def _around(center: Tensor, pixels: Tensor, draws: Draws, change: float) -> Tensor:
    """Pixels drawn towards the center, or away from it."""
    return center + (pixels - center) * draws.uniform(1.0 - change, 1.0 + change)


def _smooth(pixels: Tensor) -> Tensor:
    """The mean of the 3x3 neighborhood."""
    return F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False)
