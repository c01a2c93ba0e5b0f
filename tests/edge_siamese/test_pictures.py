"""Reading picture files: the pixels that a person sees, or a one-line error."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese import pictures
from edge_siamese.errors import ImageError, PictureError
from edge_siamese.pictures import (
    MAX_PNG_BYTES,
    MAX_PNG_SIDE,
    decode_png,
    encode_jpeg,
    encode_png,
    is_intact_png,
    png_size,
    read_cut_out,
    read_photograph,
    read_picture,
    read_uploaded_picture,
    resize_cut_out,
)

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


def test_a_cut_out_keeps_its_transparency(tmp_path: Path) -> None:
    pixels = np.dstack([RGB, GRAY])
    np.testing.assert_array_equal(read_cut_out(saved(tmp_path / "cup.png", pixels)), pixels)
    opaque = read_cut_out(saved(tmp_path / "photo.png", GRAY))
    np.testing.assert_array_equal(opaque, np.dstack([GRAY, GRAY, GRAY, np.full_like(GRAY, 255)]))
    with pytest.raises(PictureError, match=r"none\.webp: there is no such file$"):
        read_cut_out(tmp_path / "none.webp")


def test_a_cut_out_is_resized_without_the_colors_of_transparent_pixels() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0] = 255
    pixels[:, :4] = (0, 200, 0, 255)
    resized = resize_cut_out(pixels, 12, 16)
    assert resized.shape == (12, 16, 4)
    visible = resized[resized[..., 3] > 0]
    assert visible[:, 0].max() <= 2 and (visible[:, 1] > 190).all()


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
    with pytest.raises(PictureError, match=f"^{tmp_path}/none.png: there is no such file$"):
        read_picture(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("not a picture")
    with pytest.raises(ImageError, match=r"text\.png is not a picture in a format that Pillow supports$"):
        read_picture(tmp_path / "text.png")
    whole = saved(tmp_path / "whole.jpg", np.repeat(np.repeat(RGB, 40, 0), 40, 1)).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PictureError, match=r"half\.jpg cannot be read as a picture: .*[Tt]runcated"):
        read_picture(tmp_path / "half.jpg")
    with pytest.raises(PictureError, match="cannot be read as a picture"):
        read_picture(tmp_path)


def encoded(pixels: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


LARGE = np.kron(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5, np.ones((200, 200), np.uint8))


def test_sent_pictures_are_those_that_a_file_would_be() -> None:
    np.testing.assert_array_equal(read_uploaded_picture(encoded(GRAY, "PNG"), 64), GRAY)
    np.testing.assert_array_equal(read_uploaded_picture(encoded(RGB, "PNG"), 64), RGB)
    np.testing.assert_array_equal(read_uploaded_picture(encoded(RGB, "WEBP", lossless=True), 64), RGB)
    assert read_uploaded_picture(encoded(RGB, "JPEG"), 64).shape == (3, 4, 3)
    deep = GRAY.astype(np.uint16) * 256 + 255
    np.testing.assert_array_equal(read_uploaded_picture(encoded(deep, "PNG"), 64), GRAY)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF"])
def test_sent_pictures_get_smaller(kind: str) -> None:
    found = read_uploaded_picture(encoded(LARGE, kind), 160)
    assert found.shape[:2] == (120, 160)
    gray = found if found.ndim == 2 else found[..., 0]
    np.testing.assert_allclose(gray[10::20, 10::20], np.arange(48).reshape(6, 8) * 5, atol=6)


def test_a_large_picture_of_sixteen_bits_gets_smaller_too() -> None:
    assert read_uploaded_picture(encoded(LARGE.astype(np.uint16) * 256, "PNG"), 160).shape == (120, 160)


def test_sent_pictures_are_turned_as_the_camera_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP"):
        assert read_uploaded_picture(encoded(LARGE, kind, exif=exif), 160).shape[:2] == (160, 120), kind


def test_of_a_moving_picture_the_first_is_taken() -> None:
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.full((20, 20), value, np.uint8)) for value in (50, 200)]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert read_uploaded_picture(buffer.getvalue(), 64).max() == 50


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
        assert read_uploaded_picture(data, 100).shape == (100, 100)
    else:
        with pytest.raises(
            PictureError, match=r"^the picture has \d+ x \d+ pixels; at most \d\d million are read$"
        ):
            read_uploaded_picture(data, 100)


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
    # docs/security.md states this number.
    assert peak_kilobytes("read_uploaded_picture(data, 640)", tmp_path / "small", path) < 120_000 / 1.024


@pytest.mark.parametrize(
    ("mode", "kind"),
    [*((mode, "TIFF") for mode in ("1", "P", "RGB", "RGBA", "CMYK", "I;16")), ("RGB", "BMP"), ("RGB", "PPM")],
)
def test_the_largest_photograph_takes_little_memory(tmp_path: Path, mode: str, kind: str) -> None:
    options = {"compression": "tiff_deflate"} if kind == "TIFF" else {}
    for name, size in (("small", (8, 8)), ("large", (4000, 4000)), ("larger", (4000, 4001))):
        picture = Image.new("L", size).quantize(4) if mode == "P" else Image.new(mode, size, 1)
        picture.save(tmp_path / name, kind, **options)
    path = tmp_path / "large"
    call = "read_photograph(sys.argv[1 if len(data) < 2000 else 2], 640)"
    assert peak_kilobytes(call, tmp_path / "small", path) < 120_000 + path.stat().st_size // 1000
    assert 500 < max(read_photograph(path, 640).shape) <= 640
    with pytest.raises(PictureError, match=r"larger has 4000 x 4001 pixels; at most 16 million are read$"):
        read_photograph(tmp_path / "larger", 640)


def test_a_photograph_of_another_format(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(encoded(RGB, "TGA"))
    with pytest.raises(PictureError, match=r"photo\.png is not a JPEG, PNG, WEBP, GIF, BMP, PPM or TIFF$"):
        read_photograph(tmp_path / "photo.png", 640)


def peak_kilobytes(call: str, small: Path, large: Path) -> int:
    """How much more memory a call takes at its peak for a large file than for a small one, in kB.

    In a process of its own: tracemalloc does not see what Pillow allocates.
    """
    code = (
        "import sys\nfrom edge_siamese.pictures import decode_png, read_photograph, read_uploaded_picture\n"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
        f"data = open(sys.argv[1], 'rb').read()\n{call}\ndata = open(sys.argv[2], 'rb').read()\n"
        f"before = peak()\n{call}\nprint(peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, small, large], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


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
        read_uploaded_picture(data(), 640)


def test_a_jpeg_in_several_scans_is_held_whole() -> None:
    for pixels in (GRAY, RGB):
        assert pictures._is_single_scan(encoded(pixels, "JPEG"))
        assert not pictures._is_single_scan(encoded(pixels, "JPEG", progressive=True))
    data = encoded(RGB, "JPEG")
    scan = data.index(b"\xff\xda") + 4
    assert data[scan] == 3
    assert not pictures._is_single_scan(data[:scan] + b"\x01" + data[scan + 1 :])
    for end in range(scan + 1):
        assert not pictures._is_single_scan(data[:end])


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
        read_uploaded_picture(encoded(GRAY, "BMP"), 64, "photo")
    whole = encoded(LARGE, "JPEG")
    with pytest.raises(PictureError, match=r"^the picture cannot be read as a picture: .*[Tt]runcated"):
        read_uploaded_picture(whole[: len(whole) // 2], 64)


def test_jpeg_is_written() -> None:
    for pixels in (GRAY, RGB):
        with Image.open(io.BytesIO(encode_jpeg(pixels, 95))) as found:
            assert (found.format, found.size) == ("JPEG", (4, 3))
            assert np.abs(np.asarray(found).astype(int) - pixels).mean() < 8
    with Image.open(io.BytesIO(encode_jpeg(LARGE, side=160))) as found:
        assert found.size == (160, 120)


# --- stored pictures ---

SHAPES = [(1, 1), (1, 7), (9, 1), (13, 17), (1, 1, 3), (13, 17, 3), (64, 48, 3)]
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def noise(seed: int, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(header: tuple[int, ...], rows: bytes, *more: bytes) -> bytes:
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", *header)), *more, chunk(b"IDAT", zlib.compress(rows))]
    return SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_stored_picture_is_read_as_it_was_written(shape: tuple[int, ...]) -> None:
    pixels = noise(3, shape)
    data = encode_png(pixels)
    read = decode_png(data)
    assert read.dtype == np.uint8 and np.array_equal(read, pixels)
    assert png_size(data) == (shape[1], shape[0])
    assert is_intact_png(data)
    with Image.open(io.BytesIO(data)) as opened:
        assert (opened.format, opened.mode) == ("PNG", "L" if len(shape) == 2 else "RGB")


def test_stores_of_the_first_codec_are_read() -> None:
    """Rows with the filter `up`, one IDAT: what was written before Pillow wrote stored pictures."""
    assert decode_png(png(PNG_GRAY, PNG_ROWS)).tolist() == [[1, 2, 3, 4], [2, 4, 6, 8], [3, 6, 9, 12]]


def test_a_slice_of_a_larger_array_is_written() -> None:
    pixels = noise(5, (20, 20, 3))[3:9, ::-2]
    assert np.array_equal(decode_png(encode_png(pixels)), pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4), np.uint8),
        np.zeros((1, MAX_PNG_SIDE + 1), np.uint8),
    ],
    ids=["float", "four channels", "one dimension", "empty", "too wide"],
)
def test_an_array_that_is_not_a_picture_is_not_written(pixels: Any) -> None:
    with pytest.raises(PictureError, match=r"^a stored picture "):
        encode_png(pixels)


def test_any_changed_byte_of_a_stored_picture_is_noticed() -> None:
    data = encode_png(noise(6, (5, 6, 3)))
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        with pytest.raises(PictureError):
            decode_png(damaged)
        assert not is_intact_png(damaged)


def test_any_missing_end_of_a_stored_picture_is_noticed() -> None:
    data = encode_png(noise(6, (5, 6)))
    for length in range(len(data)):
        assert not is_intact_png(data[:length])
        with pytest.raises(PictureError):
            decode_png(data[:length])


PNG_GRAY = (4, 3, 8, 0, 0, 0, 0)
PNG_ROWS = b"\x02\x01\x02\x03\x04" * 3
OTHER_KIND = "8 bits, gray or RGB, one frame, not interlaced"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"GIF89a", "a stored picture is a PNG, and this is not one"),
        (encoded(GRAY, "JPEG"), "a stored picture is a PNG, and this is not one"),
        (png((4, 3, 16, 0, 0, 0, 0), bytes(27)), OTHER_KIND),
        (png((4, 3, 16, 2, 0, 0, 0), bytes(75)), OTHER_KIND),
        (png((4, 3, 1, 0, 0, 0, 0), bytes(6)), OTHER_KIND),
        (png((4, 3, 8, 4, 0, 0, 0), bytes(27)), OTHER_KIND),
        (png((4, 3, 8, 6, 0, 0, 0), bytes(51)), OTHER_KIND),
        (png((4, 3, 8, 3, 0, 0, 0), PNG_ROWS, chunk(b"PLTE", bytes(15))), OTHER_KIND),
        (png((4, 3, 8, 0, 0, 0, 1), PNG_ROWS), OTHER_KIND),
        (
            png(PNG_GRAY, PNG_ROWS, chunk(b"acTL", struct.pack(">II", 2, 0))),
            OTHER_KIND,
        ),
        (png(PNG_GRAY, PNG_ROWS[:-1]), "a stored picture is damaged"),
        (
            png((MAX_PNG_SIDE + 1, 1, 8, 0, 0, 0, 0), PNG_ROWS),
            f"has sides from 1 to {MAX_PNG_SIDE} pixels, not 4097 x 1",
        ),
        (png((0, 3, 8, 0, 0, 0, 0), b""), "a stored picture"),
        (SIGNATURE + b"\xff\xff\xff\xffIHDR", "a stored picture is"),
        (png(PNG_GRAY, PNG_ROWS) + bytes(MAX_PNG_BYTES), "at most 16777216 bytes"),
        (
            png(PNG_GRAY, PNG_ROWS, *[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000)))] * 5),
            "a stored picture is damaged: .*[Tt]ext",
        ),
        (
            png(PNG_GRAY, PNG_ROWS, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5_000_000)))),
            "a stored picture is damaged",
        ),
    ],
)
def test_other_pngs_are_refused(data: bytes, problem: str) -> None:
    with pytest.raises(PictureError, match=problem):
        decode_png(data)


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A hundred megabytes of pixels behind a header of 4 x 3: only those of the header are decoded."""
    bomb = png(PNG_GRAY, bytes(100_000_000))
    assert len(bomb) < 120_000
    (tmp_path / "bomb").write_bytes(bomb)
    (tmp_path / "small").write_bytes(png(PNG_GRAY, PNG_ROWS))
    assert peak_kilobytes("decode_png(data)", tmp_path / "small", tmp_path / "bomb") < 10_000


def test_the_largest_stored_picture_takes_little_memory(tmp_path: Path) -> None:
    """A picture from an archive has sides of 2048 pixels at most: 12 MB, and Pillow holds four bytes for a pixel."""
    (tmp_path / "small").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    (tmp_path / "large").write_bytes(encode_png(noise(1, (2048, 2048, 3))))
    assert peak_kilobytes("decode_png(data)", tmp_path / "small", tmp_path / "large") < 60_000


def test_a_jpeg_with_many_scans_is_refused_before_it_is_decoded() -> None:
    """Each scan passes over the whole picture: 0.3 MB can take a minute."""
    one = encoded(noise(3, (1200, 1600, 3)), "JPEG", progressive=True)
    assert read_uploaded_picture(one, 400).shape == (300, 400, 3)
    start = one.rindex(b"\xff\xda")
    end = one.rindex(b"\xff\xd9")
    many = one[:end] + one[start:end] * 200 + one[end:]
    with pytest.raises(PictureError, match=r"^it has 2\d\d scans, too many for 1600 x 1200 pixels$"):
        read_uploaded_picture(many, 400, "it")


@pytest.mark.parametrize("junk", [chunk(b"juNk", b"") * 1001, chunk(b"juNk", bytes(9_000_000))])
def test_a_png_with_much_besides_its_pixels_is_refused(junk: bytes) -> None:
    plain = encoded(noise(3, (20, 30)), "PNG")
    header = plain.index(b"IDAT") - 4
    assert read_uploaded_picture(plain[:header] + chunk(b"juNk", b"x") + plain[header:], 40).shape == (20, 30)
    with pytest.raises(
        PictureError, match="it has too much besides its pixels: more than 1000 chunks or 8 MB"
    ):
        read_uploaded_picture(plain[:header] + junk + plain[header:], 40, "it")


@pytest.mark.parametrize("name", [b"juNk", b"zTXt"])
def test_a_png_with_as_much_besides_its_pixels_as_is_read_takes_little_memory(
    tmp_path: Path, name: bytes
) -> None:
    Image.new("RGBA", (4000, 4000), 1).save(tmp_path / "plain", "PNG")
    Image.new("RGBA", (8, 8)).save(tmp_path / "small", "PNG")
    plain = (tmp_path / "plain").read_bytes()
    header = plain.index(b"IDAT") - 4
    text = b"k\0\0" + zlib.compress(bytes(950_000)) if name == b"zTXt" else bytes(7_900)
    junk = chunk(name, text) * (4 if name == b"zTXt" else 990)
    (tmp_path / "full").write_bytes(plain[:header] + junk + plain[header:])
    assert peak_kilobytes("read_uploaded_picture(data, 640)", tmp_path / "small", tmp_path / "full") < 120_000
