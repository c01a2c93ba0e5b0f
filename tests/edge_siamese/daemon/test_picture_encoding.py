"""Pictures in requests: the same on the other side, bounded on both, and nothing else is taken for one."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import numpy as np
import pytest

from edge_siamese.daemon.control_socket import MAX_REQUEST
from edge_siamese.daemon.picture_encoding import MAX_PIXEL_BYTES, decode_picture, encode_picture
from edge_siamese.errors import ImageError


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_a_picture_is_the_same_on_the_other_side(shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    value = encode_picture(pixels)
    assert value["shape"] == list(shape)
    assert np.array_equal(decode_picture(json.loads(json.dumps(value))), pixels)


def test_a_channel_that_says_nothing_is_not_sent() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(decode_picture(encode_picture(pixels)), pixels[..., :3])
    assert np.array_equal(decode_picture(encode_picture(pixels[..., :1])), pixels[..., 0])


def test_a_large_picture_becomes_smaller_by_a_whole_factor() -> None:
    pixels = np.zeros((3001, 4002, 3), dtype=np.uint8)
    pixels[:3, :3] = np.arange(9).reshape(3, 3, 1)  # mean 4
    sent = decode_picture(encode_picture(pixels))
    assert sent.shape == (1000, 1334, 3)
    assert sent[0, 0].tolist() == [4, 4, 4]
    assert int(sent.sum()) == 12


def test_several_pictures_share_a_request() -> None:
    pixels = np.zeros((1080, 1920, 3), dtype=np.uint8)
    assert [encode_picture(pixels, share)["shape"] for share in (1, 2, 5)] == [
        [1080, 1920, 3],
        [540, 960, 3],
        [360, 640, 3],
    ]


def test_what_is_no_picture_is_not_sent() -> None:
    with pytest.raises(ImageError, match=r"^a picture has to be uint8, not float64$"):
        encode_picture(np.zeros((2, 2)))
    with pytest.raises(ImageError, match=r"^a picture has shape .*, not \[2, 2, 2\]$"):
        encode_picture(np.zeros((2, 2, 2), dtype=np.uint8))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, 'a picture is an object with "shape" and "pixels"'),
        ({"shape": [1, 1]}, 'a picture is an object with "shape" and "pixels"'),
        ({"shape": [1, True], "pixels": "AA=="}, "a picture has shape [height, width] or"),
        ({"shape": [0, 4], "pixels": ""}, "a picture has shape [height, width] or"),
        ({"shape": [1, 1, 4], "pixels": ""}, "a picture has shape [height, width] or"),
        ({"shape": [65536, 1], "pixels": ""}, "a picture has shape [height, width] or"),
        ({"shape": "1x1", "pixels": ""}, "a picture has shape [height, width] or"),
        ({"shape": [65535, 65535], "pixels": ""}, "bytes; 6220800 can be sent"),
        ({"shape": [1, 1], "pixels": "A"}, "the pixels of a picture have to be base64"),
        ({"shape": [1, 1], "pixels": 7}, "the pixels of a picture have to be base64"),
        ({"shape": [1, 1], "pixels": "é"}, "the pixels of a picture have to be base64"),
        ({"shape": [1, 1], "pixels": "AAA="}, "a picture of shape (1, 1) has 1 bytes, not 2"),
    ],
)
def test_what_is_no_picture_is_not_taken(value: Any, error: str) -> None:
    with pytest.raises(ImageError, match=re.escape(error)):
        decode_picture(value)


def test_the_largest_picture_fits_a_request() -> None:
    assert len(base64.b64encode(bytes(MAX_PIXEL_BYTES))) < MAX_REQUEST - 64_000
