"""Random backgrounds: the object stays, the background changes, and nothing depends on the number of workers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from export.data.random_backgrounds import RandomBackgrounds

SIDE = 48


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Twelve magenta squares on transparency, and twelve opaque pictures in shades of gray: uint8 (24, 48, 48, 4)."""
    pixels = torch.zeros(24, SIDE, SIDE, 4, dtype=torch.uint8)
    pixels[:12, 8:-8, 8:-8] = torch.tensor([230, 10, 230, 255], dtype=torch.uint8)
    pixels[12:, ..., :3] = (torch.arange(12, dtype=torch.uint8) * 20)[:, None, None, None]
    pixels[12:, ..., 3] = 255
    return pixels


@pytest.fixture(scope="module")
def backgrounds(images: torch.Tensor) -> RandomBackgrounds:
    """With drawn backgrounds in gray, which are no objects."""
    result = RandomBackgrounds(images, np.repeat([0, 1], 12), seed=5)
    result.drawn = result.drawn[..., :1].expand_as(result.drawn)
    return result


def batch(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float()


def composed(backgrounds: RandomBackgrounds, images: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return backgrounds.compose(batch(images), torch.Generator().manual_seed(seed))[0]


def is_magenta(pixels: torch.Tensor) -> torch.Tensor:
    red, green, blue = pixels.unbind(1)
    return (red > 2.5 * green) & (blue > 2.5 * green) & (red > 100)


def test_only_opaque_pictures_become_backgrounds(backgrounds: RandomBackgrounds) -> None:
    (opaque,) = backgrounds.opaque
    assert opaque.tolist() == list(range(12, 24))


def test_opaque_pictures_stay_as_they_are(backgrounds: RandomBackgrounds, images: torch.Tensor) -> None:
    pixels, changed = backgrounds.compose(batch(images), torch.Generator().manual_seed(1))
    assert changed.tolist() == [True] * 12 + [False] * 12
    assert torch.equal(pixels[12:], batch(images)[12:, :3])
    assert pixels.shape == (24, 3, SIDE, SIDE) and float(pixels.min()) >= 0.0


def test_each_object_is_visible_in_front_of_what_is_not_it(
    backgrounds: RandomBackgrounds, images: torch.Tensor
) -> None:
    """The square covers (2/3)^2 of its cut-out, whose side is 0.6 to 1.3 of the picture's."""
    covered = torch.cat(
        [is_magenta(composed(backgrounds, images, s)[:12]).float().mean((1, 2)) for s in range(8)]
    )
    assert 0.1 < float(covered.min()) and float(covered.max()) < 0.76
    assert 0.3 < float(covered.mean()) < 0.5


def test_neighbors_have_different_backgrounds_and_different_objects_the_same(
    images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    backgrounds = RandomBackgrounds(images, np.repeat([0, 1], 12), seed=5)
    seen = []
    original = backgrounds._background

    def noted(pixels: torch.Tensor, draws: object) -> torch.Tensor:
        seen.extend(pixels)
        return original(pixels, draws)  # type: ignore[arg-type]

    monkeypatch.setattr(backgrounds, "_background", noted)
    composed(backgrounds, images)
    assert all(not torch.equal(one, other) for one, other in pairwise(seen))
    assert torch.equal(seen[0], seen[4]) and torch.equal(seen[1], seen[5])


def test_a_batch_is_a_function_of_the_generator_and_workers_get_their_parts(
    backgrounds: RandomBackgrounds, images: torch.Tensor
) -> None:
    whole = composed(backgrounds, images, 7)
    assert torch.equal(whole, composed(backgrounds, images, 7))
    assert not torch.equal(whole, composed(backgrounds, images, 8))
    parts = [
        backgrounds.compose(part, torch.Generator().manual_seed(7), (rank, 2))[0]
        for rank, part in enumerate(batch(images).chunk(2))
    ]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-3)


def test_without_opaque_pictures_all_backgrounds_are_drawn(images: torch.Tensor) -> None:
    alone = RandomBackgrounds(images[:12], np.zeros(12, np.int64), seed=5)
    assert alone.opaque == []
    pixels, changed = alone.compose(batch(images)[:12], torch.Generator().manual_seed(1))
    assert bool(changed.all()) and bool(torch.isfinite(pixels).all())
