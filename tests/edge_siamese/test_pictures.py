"""Reading picture files: the pixels that a person sees, or one line."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.errors import ImageError, PictureError
from edge_siamese.pictures import read_picture

Image = pytest.importorskip("PIL.Image")

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
RGB = np.stack([GREY, GREY + 5, GREY + 10], axis=2)


def saved(path: Path, pixels: Any, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_grey_and_colour(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "grey.png", GREY)), GREY)
    np.testing.assert_array_equal(read_picture(str(saved(tmp_path / "rgb.png", RGB))), RGB)
    assert read_picture(saved(tmp_path / "photo.jpg", RGB)).shape == (3, 4, 3)
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "rgb.webp", RGB, lossless=True)), RGB)


def test_black_and_white(tmp_path: Path) -> None:
    pixels = read_picture(saved(tmp_path / "ink.png", GREY > 100))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.where(GREY > 100, 255, 0))


def test_sixteen_bits_are_cut_to_eight(tmp_path: Path) -> None:
    path = saved(tmp_path / "deep.png", GREY.astype(np.uint16) * 256 + 255)
    np.testing.assert_array_equal(read_picture(path), GREY)


def test_transparency_is_over_white(tmp_path: Path) -> None:
    pixels = np.dstack([RGB, np.full((3, 4), 255, np.uint8)])
    pixels[0, 0] = (7, 7, 7, 0)
    expected = RGB.copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "cut-out.png", pixels)), expected)


def test_a_palette_becomes_colours(tmp_path: Path) -> None:
    Image.fromarray(RGB).quantize(12).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "palette.png"), RGB)


def test_a_turned_photo_is_turned_back(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn a quarter clockwise
    path = saved(tmp_path / "upright.png", GREY, exif=exif)
    np.testing.assert_array_equal(read_picture(path), np.rot90(GREY, -1))


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=f"^{tmp_path}/none.png: there is no such picture$"):
        read_picture(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ImageError, match=r"text\.png is not a picture in a format that Pillow knows$"):
        read_picture(tmp_path / "text.png")
    whole = saved(tmp_path / "whole.jpg", np.repeat(np.repeat(RGB, 40, 0), 40, 1)).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PictureError, match=r"half\.jpg cannot be read as a picture: .*[Tt]runcated"):
        read_picture(tmp_path / "half.jpg")
    with pytest.raises(PictureError, match="cannot be read as a picture"):
        read_picture(tmp_path)


def test_without_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(
        PictureError, match=r"^a\.png: reading pictures needs Pillow: pip install pillow, or apt"
    ):
        read_picture("a.png")
