"""PNG with zlib alone: what is written can be read, here and elsewhere, and nothing else is taken."""

import io
import struct
import zlib

import numpy as np
import pytest

from edge_siamese.errors import ImageError, PictureError
from edge_siamese.recognition.imaging import reduced as crop
from edge_siamese.store.crops import MAX_SIDE, SIGNATURE, decode_png, encode_png, is_whole
from tests.edge_siamese.store.made import picture

SHAPES = [(1, 1), (1, 7), (9, 1), (13, 17), (1, 1, 3), (13, 17, 3), (64, 48, 3)]


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(header, data, *more):
    chunks = [chunk(b"IHDR", struct.pack(">IIBBBBB", *header)), chunk(b"IDAT", zlib.compress(data)), *more]
    return SIGNATURE + b"".join(chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_picture_comes_back_as_it_was(shape):
    pixels = picture(3, shape)
    data = encode_png(pixels)
    back = decode_png(data)
    assert back.dtype == np.uint8 and back.shape == shape
    assert np.array_equal(back, pixels)
    assert is_whole(data)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_other_programs_read_it(shape):
    image = pytest.importorskip("PIL.Image")
    pixels = picture(4, shape)
    with image.open(io.BytesIO(encode_png(pixels))) as opened:
        opened.load()
        assert opened.format == "PNG"
        assert opened.mode == ("L" if len(shape) == 2 else "RGB")
        assert np.array_equal(np.asarray(opened), pixels)


def test_a_strip_of_a_larger_array_is_written_too():
    pixels = picture(5, (20, 20, 3))[3:9, ::-2]
    assert np.array_equal(decode_png(encode_png(pixels)), pixels)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
    ids=["float", "four channels", "a line", "empty"],
)
def test_what_is_no_picture_is_not_written(pixels):
    with pytest.raises(PictureError, match=r"^a picture to keep "):
        encode_png(pixels)


def test_any_changed_byte_is_noticed():
    data = encode_png(picture(6, (5, 6, 3)))
    for place in range(len(data)):
        damaged = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
        with pytest.raises(PictureError):
            decode_png(damaged)
        assert not is_whole(damaged)


def test_any_missing_end_is_noticed():
    data = encode_png(picture(6, (5, 6)))
    for length in range(len(data)):
        with pytest.raises(PictureError):
            decode_png(data[:length])


GRAY = (4, 3, 8, 0, 0, 0, 0)
ROWS = b"\x02\x01\x02\x03\x04" * 3


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"GIF89a", "a kept picture is a PNG, and this is none"),
        (png((4, 3, 16, 0, 0, 0, 0), ROWS), "not interlaced, and this one is not"),
        (png((4, 3, 8, 3, 0, 0, 0), ROWS), "not interlaced, and this one is not"),
        (png((4, 3, 8, 0, 0, 0, 1), ROWS), "not interlaced, and this one is not"),
        (png(GRAY, b"\x00" + ROWS[1:]), 'with the filter "up" in each row'),
        (png(GRAY, ROWS, chunk(b"tEXt", b"a")), "of one part"),
        (png(GRAY, ROWS[:-1]), "its pixels are not as many as its header says"),
        (png(GRAY, ROWS + b"\x00"), "its pixels are not as many as its header says"),
        (
            png((MAX_SIDE + 1, 1, 8, 0, 0, 0, 0), ROWS),
            f"has sides from 1 to {MAX_SIDE} pixels, not 4097 x 1",
        ),
        (png((0, 3, 8, 0, 0, 0, 0), b""), f"has sides from 1 to {MAX_SIDE} pixels, not 0 x 3"),
        (SIGNATURE + b"\xff\xff\xff\xffIHDR", "a checksum is wrong"),
    ],
)
def test_other_pngs_are_refused(data, problem):
    with pytest.raises(PictureError, match=problem):
        decode_png(data)


def test_a_bomb_is_not_unpacked():
    bomb = png((4, 3, 8, 0, 0, 0, 0), bytes(50_000_000))
    assert len(bomb) < 60_000
    with pytest.raises(PictureError, match="its pixels are not as many"):
        decode_png(bomb)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((480, 640, 3), (144, 192, 3)),
        ((640, 480, 3), (192, 144, 3)),
        ((480, 640), (144, 192)),
        ((480, 640, 1), (144, 192)),
        ((480, 640, 4), (144, 192, 3)),
        ((100, 50, 3), (100, 50, 3)),
        ((1, 4000), (1, 192)),
    ],
)
def test_a_crop_is_the_whole_frame_at_its_aspect_and_never_enlarged(shape, expected):
    small = crop(picture(7, shape), 192)
    assert small.shape == expected and small.dtype == np.uint8


def test_a_crop_averages_areas_and_is_no_window_into_the_frame():
    frame = np.kron(np.array([[10, 20], [30, 40]], np.uint8), np.ones((8, 8), np.uint8))
    assert crop(frame, 2).tolist() == [[10, 20], [30, 40]]
    whole = crop(frame, 99)
    frame[:] = 0
    assert whole[0, 0] == 10


def test_what_is_no_frame_is_refused():
    with pytest.raises(ImageError, match="an image has shape"):
        crop(np.zeros(5, np.uint8), 192)
