"""Pictures of one color each, as a tiny data set."""

from __future__ import annotations

import numpy as np

from export.data.images import ImageSet


def colored(name: str, side: int) -> ImageSet:
    """Four classes of six noisy pictures in one color, uint8 (24, side, side, 3)."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 6)
    colors = rng.integers(0, 256, (4, 1, 1, 3))
    noise = rng.integers(-9, 10, (24, side, side, 3))
    return ImageSet(
        name=name,
        images=np.clip(colors[labels] + noise, 0, 255).astype(np.uint8),
        labels=labels,
        class_names=tuple("abcd"),
        class_groups=np.zeros(4, dtype=np.int64),
        group_names=("colors",),
        drawers=np.full(24, -1),
    )
