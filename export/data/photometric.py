"""Photometric augmentation: light and camera for photographs, pen and paper for drawings.

It follows the geometric augmentation of `export.data.augment`. Pixel values are 0..255.
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
    """Random numbers of a batch, of which a worker takes its part; independent of the number of workers."""

    generator: torch.Generator
    count: int
    """Number of images in the part."""
    part: tuple[int, int] = (0, 1)
    """(i, n): the i-th of n equal parts."""

    def _own(self, values: Tensor) -> Tensor:
        start = self.part[0] * self.count
        return values[start : start + self.count]

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """(count, *shape) in [low, high]; (count, 1, 1, 1) without a shape."""
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


class PhotometricAugmentation(Protocol):
    """Interface of `Augmentation.photometric`."""

    def apply(self, pixels: Tensor, draws: Draws) -> Tensor:
        """float32 (N, C, H, W) in 0..255 to the same shape and range."""
        ...


@dataclass(frozen=True)
class CameraAugmentation:
    """Light, white balance, blur, noise and occlusion of photographs, drawn uniformly up to the given limits."""

    exposure: float = 0.4
    """Largest absolute natural logarithm of the brightness factor."""
    contrast: float = 0.35
    """Largest change of the contrast factor, in either direction."""
    saturation: float = 0.2
    """Largest change of the saturation factor, in either direction."""
    white_balance: float = 0.05
    """Largest absolute natural logarithm of the factor of each color."""
    blur: float = 0.2
    """Probability of blur."""
    noise: float = 6.0
    """Largest standard deviation of the pixel noise."""
    hole: float = 0.5
    """Probability that a square is hidden (DeVries and Taylor, "Cutout", 2017)."""
    hole_side: tuple[float, float] = (0.2, 0.6)
    """Side of that square, as a fraction of the image side."""

    def apply(self, pixels: Tensor, draws: Draws) -> Tensor:
        pixels = pixels * draws.uniform(-self.exposure, self.exposure).exp()
        pixels = _scale_around(pixels.mean(dim=(1, 2, 3), keepdim=True), pixels, draws, self.contrast)
        if pixels.shape[1] == 3:
            gray = (pixels * torch.tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
            pixels = _scale_around(gray, pixels, draws, self.saturation)
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
class InkAugmentation:
    """Stroke width, and photography of the paper, for dark drawings on white."""

    pen: float = 0.6
    """Probability that the strokes become thinner or thicker."""
    light: float = 0.5
    """Probability of a photographed look: paper below white, ink above black, shading, blur and noise."""
    paper: tuple[float, float] = (110.0, 255.0)
    ink: tuple[float, float] = (0.0, 0.55)
    """Value of ink, as a fraction of the paper's value."""
    shade: float = 0.25
    """Change of the light from the center to the border, in either direction, horizontally and vertically."""
    noise: float = 10.0
    """Largest standard deviation of the noise of the pixels."""
    blur: float = 0.3
    """Probability that a photographed drawing is out of focus."""

    def apply(self, pixels: Tensor, draws: Draws) -> Tensor:
        ink = self._change_stroke_width(1.0 - pixels / 255.0, draws)
        height, width = pixels.shape[2:]
        paper = draws.uniform(*self.paper)
        seen = paper * (1.0 - ink * (1.0 - draws.uniform(*self.ink)))
        across = torch.linspace(-1.0, 1.0, width) * draws.uniform(-self.shade, self.shade)
        down = torch.linspace(-1.0, 1.0, height)[:, None] * draws.uniform(-self.shade, self.shade)
        seen = seen * (1.0 + across + down)
        seen = torch.where(draws.chance(self.blur), _smooth(seen), seen)
        seen = seen + draws.normal_like(seen) * draws.uniform(0.0, self.noise)
        return torch.where(draws.chance(self.light), seen.clamp(0.0, 255.0), 255.0 * (1.0 - ink))

    def _change_stroke_width(self, ink: Tensor, draws: Draws) -> Tensor:
        """Threshold blurred ink: a high level makes strokes thin; a low one makes them thick, and bleeds into the paper."""
        once = F.avg_pool2d(ink, 3, 1, 1)
        spread = torch.where(draws.chance(0.5), F.avg_pool2d(once, 3, 1, 1), once)
        level, steepness = draws.uniform(0.1, 0.55), draws.uniform(2.5, 4.5)
        drawn = ((spread - level) * steepness + 0.5).clamp(0.0, 1.0)
        return torch.where(draws.chance(self.pen), drawn, ink)


def _scale_around(center: Tensor, pixels: Tensor, draws: Draws, change: float) -> Tensor:
    """Scale the distance of the pixels from a center."""
    return center + (pixels - center) * draws.uniform(1.0 - change, 1.0 + change)


def _smooth(pixels: Tensor) -> Tensor:
    """The mean of the 3x3 neighborhood."""
    return F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False)
