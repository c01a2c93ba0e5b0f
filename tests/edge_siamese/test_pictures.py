"""Reading picture files: the pixels that a person sees, or one line."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese import pictures
from edge_siamese.errors import ImageError, PictureError
from edge_siamese.pictures import encode_jpeg, read_picture, read_sent_picture

Image = pytest.importorskip("PIL.Image")

GRAY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
RGB = np.stack([GRAY, GRAY + 5, GRAY + 10], axis=2)


def saved(path: Path, pixels: Any, **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_gray_and_color(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "gray.png", GRAY)), GRAY)
    np.testing.assert_array_equal(read_picture(str(saved(tmp_path / "rgb.png", RGB))), RGB)
    assert read_picture(saved(tmp_path / "photo.jpg", RGB)).shape == (3, 4, 3)
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "rgb.webp", RGB, lossless=True)), RGB)


def test_black_and_white(tmp_path: Path) -> None:
    pixels = read_picture(saved(tmp_path / "ink.png", GRAY > 100))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.where(GRAY > 100, 255, 0))


def test_sixteen_bits_are_cut_to_eight(tmp_path: Path) -> None:
    path = saved(tmp_path / "deep.png", GRAY.astype(np.uint16) * 256 + 255)
    np.testing.assert_array_equal(read_picture(path), GRAY)


def test_transparency_is_over_white(tmp_path: Path) -> None:
    pixels = np.dstack([RGB, np.full((3, 4), 255, np.uint8)])
    pixels[0, 0] = (7, 7, 7, 0)
    expected = RGB.copy()
    expected[0, 0] = 255
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "cut-out.png", pixels)), expected)


def test_a_palette_becomes_colors(tmp_path: Path) -> None:
    Image.fromarray(RGB).quantize(12).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_picture(tmp_path / "palette.png"), RGB)


def test_a_turned_photo_is_turned_back(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn a quarter clockwise
    path = saved(tmp_path / "upright.png", GRAY, exif=exif)
    np.testing.assert_array_equal(read_picture(path), np.rot90(GRAY, -1))


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
        PictureError, match=r"^a\.png: reading pictures needs Pillow: sudo apt install python3-pil, or, in an"
    ):
        read_picture("a.png")


def encoded(pixels: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


LARGE = np.kron(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5, np.ones((200, 200), np.uint8))


def test_sent_pictures_are_those_that_a_file_would_be() -> None:
    np.testing.assert_array_equal(read_sent_picture(encoded(GRAY, "PNG"), 64), GRAY)
    np.testing.assert_array_equal(read_sent_picture(encoded(RGB, "PNG"), 64), RGB)
    np.testing.assert_array_equal(read_sent_picture(encoded(RGB, "WEBP", lossless=True), 64), RGB)
    assert read_sent_picture(encoded(RGB, "JPEG"), 64).shape == (3, 4, 3)
    deep = GRAY.astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(read_sent_picture(encoded(deep, "PNG"), 64), GRAY)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_sent_pictures_get_smaller(kind: str) -> None:
    found = read_sent_picture(encoded(LARGE, kind), 160)
    assert found.shape[:2] == (120, 160)
    gray = found if found.ndim == 2 else found[..., 0]
    np.testing.assert_allclose(gray[10::20, 10::20], np.arange(48).reshape(6, 8) * 5, atol=6)


def test_a_large_picture_of_sixteen_bits_gets_smaller_too() -> None:
    assert read_sent_picture(encoded(LARGE.astype(np.uint16) * 256, "PNG"), 160).shape == (120, 160)


def test_sent_pictures_are_turned_as_the_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        assert read_sent_picture(encoded(LARGE, kind, exif=exif), 160).shape[:2] == (160, 120), kind


def test_of_a_moving_picture_the_first_is_taken() -> None:
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.full((20, 20), value, np.uint8)) for value in (50, 200)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert read_sent_picture(buffer.getvalue(), 64).max() == 50


@pytest.mark.parametrize(
    ("shape", "kind", "options", "fine"),
    [
        ((5000, 5000), "JPEG", {}, True),
        ((5000, 5000), "JPEG", {"progressive": True}, False),
        ((5000, 5000), "PNG", {}, False),
        ((7100, 7100), "JPEG", {}, False),
    ],
)
def test_sent_pictures_have_bounds(
    shape: tuple[int, int], kind: str, options: dict[str, Any], fine: bool
) -> None:
    data = encoded(np.zeros(shape, np.uint8), kind, **options)
    if fine:
        assert read_sent_picture(data, 100).shape == (100, 100)
    else:
        with pytest.raises(
            PictureError, match=r"^the picture has \d+ x \d+ pixels; at most \d\d million are read$"
        ):
            read_sent_picture(data, 100)


@pytest.mark.parametrize(
    ("size", "mode", "kind", "options"),
    [
        *(((4000, 4000), mode, "PNG", {}) for mode in ("1", "L", "P", "RGB", "RGBA", "LA", "I;16")),
        ((4000, 4000), "P", "PNG", {"transparency": b"\x00\x80"}),
        ((4000, 4000), "RGB", "PNG", {"transparency": (0, 0, 0)}),
        ((65535, 244), "RGBA", "PNG", {}),
        ((4000, 4000), "P", "GIF", {"transparency": 0}),
        ((4000, 4000), "RGB", "JPEG", {"progressive": True, "subsampling": 0}),
        ((4000, 3000), "CMYK", "JPEG", {"progressive": True}),
        ((7000, 7000), "CMYK", "JPEG", {}),
        ((2400, 2400), "RGBA", "WEBP", {}),
        ((2400, 2400), "RGBA", "WEBP", {"lossless": True}),
    ],
)
def test_the_worst_that_is_read_takes_little_memory(
    tmp_path: Path, size: tuple[int, int], mode: str, kind: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "worst"
    picture = Image.new("L", size).quantize(4) if mode == "P" else Image.new(mode, size, 1)
    picture.save(path, kind, **options)
    picture.resize((8, 8)).save(tmp_path / "small", kind)
    # The peak of a process of its own: what Pillow takes is not seen by tracemalloc.
    code = (
        "import sys\nfrom edge_siamese.pictures import read_sent_picture\n"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        "read_sent_picture(open(sys.argv[1], 'rb').read(), 640)\ndata = open(sys.argv[2], 'rb').read()\n"
        "before = peak()\nread_sent_picture(data, 640)\nprint(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "small", path], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 120_000


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (
            lambda: encoded(np.zeros((1, 66_000), np.uint8), "PNG"),
            "has a side of 66000 pixels; at most 65535 are",
        ),
        (
            lambda: encoded(np.zeros((2500, 2500), np.uint8), "WEBP"),
            "2500 x 2500 pixels; at most 6 million are",
        ),
    ],
)
def test_what_would_take_much(data: Any, text: str) -> None:
    with pytest.raises(PictureError, match=text):
        read_sent_picture(data(), 640)


def test_a_jpeg_in_several_scans_is_held_whole() -> None:
    for pixels in (GRAY, RGB):
        assert pictures._is_one_pass(encoded(pixels, "JPEG"))
        assert not pictures._is_one_pass(encoded(pixels, "JPEG", progressive=True))
    data = encoded(RGB, "JPEG")
    scan = data.index(b"\xff\xda") + 4
    assert data[scan] == 3
    assert not pictures._is_one_pass(data[:scan] + b"\x01" + data[scan + 1 :])
    for end in range(scan + 1):
        assert not pictures._is_one_pass(data[:end])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK"])
def test_the_parts_of_a_picture_that_gets_smaller_fit(mode: str) -> None:
    x = np.linspace(0, 255, 1700)
    shade = np.add.outer(np.linspace(0, 255, 2300), x).astype(np.uint16) // 2
    picture = Image.fromarray(shade.astype(np.uint8)).convert("RGB" if mode in ("P", "CMYK") else mode)
    made = pictures._reduced(picture.convert(mode), 200)
    assert made.size == (148, 200)
    found = np.asarray(made.convert("L")).astype(int)
    expected = np.add.outer(np.linspace(0, 255, 200), np.linspace(0, 255, 148)) / 2
    wrong = np.abs(found - expected)
    assert wrong.mean() < 16 if mode in ("P", "1") else wrong.max() < 4  # dots, and few colors


def test_what_is_sent_and_is_no_picture() -> None:
    with pytest.raises(PictureError, match=r"^photo is not a JPEG, PNG, WEBP or GIF$"):
        read_sent_picture(encoded(GRAY, "BMP"), 64, "photo")
    whole = encoded(LARGE, "JPEG")
    with pytest.raises(PictureError, match=r"^the picture cannot be read as a picture: .*[Tt]runcated"):
        read_sent_picture(whole[: len(whole) // 2], 64)


def test_jpeg_is_written() -> None:
    for pixels in (GRAY, RGB):
        with Image.open(io.BytesIO(encode_jpeg(pixels, 95))) as found:
            assert (found.format, found.size) == ("JPEG", (4, 3))
            assert np.abs(np.asarray(found).astype(int) - pixels).mean() < 8
    with Image.open(io.BytesIO(encode_jpeg(LARGE, side=160))) as found:
        assert found.size == (160, 120)
