"""Composed pictures: cut-outs in front of backgrounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_siamese.errors import DataError
from export.data.composition import (
    SKIN,
    Light,
    Placement,
    draw_backgrounds,
    drawn_background,
    photographed,
    place,
)

GRAY = np.full((60, 80, 3), 100, np.uint8)


def disc(side: int = 40) -> np.ndarray:
    """A green disc with a transparent surrounding."""
    from_middle = (np.arange(side) - (side - 1) / 2) ** 2
    pixels = np.zeros((side, side, 4), np.uint8)
    pixels[from_middle[:, None] + from_middle < (side / 2) ** 2] = (0, 200, 0, 255)
    return pixels


def test_a_cut_out_is_placed_by_its_center_and_scaled_by_the_height() -> None:
    scene = place(GRAY, disc(), Placement(x=0.25, y=0.5, side=0.5), shadow=False)
    green = scene[..., 1] > 150
    rows, columns = np.nonzero(green)
    assert (rows.mean(), columns.mean()) == (pytest.approx(29.5, abs=0.6), pytest.approx(19.5, abs=0.6))
    assert np.ptp(rows) + 1 == pytest.approx(30, abs=1)
    assert (scene[~(scene != GRAY).any(axis=2)] == 100).all()
    assert (scene[0, 0] == 100).all() and (GRAY == 100).all()


def test_a_shadow_lies_below_and_a_hand_reaches_in_from_its_side() -> None:
    where = Placement(x=0.5, y=0.4, side=0.5)
    shadowed = place(GRAY, disc(), where)
    assert shadowed[40, 40, 0] < 90 and (shadowed[5, 5] == 100).all()
    left = place(GRAY, disc(), where, hand_from=-1.0, shadow=False)
    assert (left[:, :6] == SKIN).all(axis=2).any() and not (left[:, -6:] == SKIN).any()
    right = place(GRAY, disc(), where, hand_from=1.0, shadow=False)
    assert (right[:, -6:] == SKIN).all(axis=2).any() and not (right[:, :6] == SKIN).any()


def test_outside_of_the_picture_nothing_is_drawn() -> None:
    assert (place(GRAY, disc(), Placement(x=-0.5, y=0.5, side=0.5)) == GRAY).all()


def test_light_changes_exposure_and_warmth() -> None:
    noise = np.zeros(GRAY.shape, np.float32)
    assert photographed(GRAY, Light(), noise).tobytes() == GRAY.tobytes()
    assert photographed(GRAY, Light(1.5, 1.2), noise)[0, 0].tolist() == [180, 150, 125]
    assert photographed(GRAY, Light(9.0), noise).max() == 255
    assert photographed(GRAY, Light(), noise + 7)[0, 0, 0] == 107


def test_backgrounds_are_drawn_or_photographs(tmp_path: Path) -> None:
    drawn = drawn_background(np.random.default_rng(0), 80, 60)
    assert drawn.shape == (60, 80, 3) and drawn.std() > 5
    assert (drawn == drawn_background(np.random.default_rng(0), 80, 60)).all()
    assert len(draw_backgrounds(None, 80, 60, 3, np.random.default_rng(0))) == 3
    with pytest.raises(DataError, match="has no pictures"):
        draw_backgrounds(tmp_path, 80, 60, 3, np.random.default_rng(0))
    wide = np.zeros((50, 200, 3), np.uint8)
    wide[:, 80:120] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    (found,) = draw_backgrounds(tmp_path, 80, 60, 3, np.random.default_rng(0))
    assert found.shape == (60, 80, 3)
    assert found[:, 40].min() > 200 and found[:, :10].max() == 0
    (tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"damaged\.png"):
        draw_backgrounds(tmp_path, 80, 60, 3, np.random.default_rng(0))
