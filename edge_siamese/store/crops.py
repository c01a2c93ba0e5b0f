"""Makes the small pictures that are kept of a view, and writes and reads them as PNG with zlib alone."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import PictureError
from edge_siamese.recognition.imaging import Bytes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_SIDE = 4096
"""Pixels of a picture's side, at most: a picture from elsewhere must not fill the memory."""
MAX_CROP_SIDE = 2048
"""Of a side in what comes from elsewhere, by a collection or the fleet: `crop_side` makes none that is larger."""
MAX_BYTES = 16 * 1024 * 1024
"""Of a PNG file, at most."""

_GRAY, _RGB = 0, 2
_UP = 2
# Pictures of a camera hardly get smaller beyond this level, and a slow processor does the work.
_LEVEL = 4


def encode_png(pixels: Bytes) -> bytes:
    """A picture as PNG: 8 bits, filter "up" in each row.

    Args:
        pixels: uint8 (h, w) or (h, w, 3), sides from 1 to `MAX_SIDE`.

    Raises:
        PictureError: the array is no such picture.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise PictureError(
            f"a picture to keep is uint8 (height, width) or (height, width, 3), "
            f"not {pixels.dtype} {pixels.shape}"
        )
    height, width = pixels.shape[:2]
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise PictureError(f"a picture to keep has sides from 1 to {MAX_SIDE} pixels, not {width} x {height}")
    rows = pixels.reshape(height, -1)
    filtered = np.empty((height, rows.shape[1] + 1), dtype=np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])  # modulo 256, as PNG wants it
    header = struct.pack(">IIBBBBB", width, height, 8, _GRAY if pixels.ndim == 2 else _RGB, 0, 0, 0)
    data = zlib.compress(filtered.tobytes(), _LEVEL)
    return SIGNATURE + b"".join(
        _chunk(kind, content) for kind, content in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def decode_png(data: bytes) -> Bytes:
    """A picture that `encode_png` wrote: uint8 (h, w) or (h, w, 3).

    Raises:
        PictureError: the data are damaged, or a PNG of another kind than those that are kept here.
    """
    width, height, channels, packed = _parts(data)
    filtered = _inflated(packed, height * (width * channels + 1)).reshape(height, -1)
    if (filtered[:, 0] != _UP).any():
        raise PictureError('a kept picture is a PNG with the filter "up" in each row, and this one is not')
    rows = np.cumsum(filtered[:, 1:], axis=0, dtype=np.uint8)
    return rows.reshape((height, width, 3) if channels == 3 else (height, width))


def size_of_png(data: bytes) -> tuple[int, int]:
    """Width and height of a picture that `encode_png` wrote, by its head: the pixels are not unpacked.

    Raises:
        PictureError: as for `decode_png`, but for what only the pixels show.
    """
    return _parts(data)[:2]


def is_whole(data: bytes) -> bool:
    """Whether the parts of a PNG are all there and their checksums are right; the pixels are not unpacked."""
    try:
        kinds = [kind for kind, _ in _chunks(data)]
    except PictureError:
        return False
    return kinds == [b"IHDR", b"IDAT", b"IEND"]


def _parts(data: bytes) -> tuple[int, int, int, bytes]:
    """Width, height, channels and packed pixels."""
    chunks = list(_chunks(data))
    if [kind for kind, _ in chunks] != [b"IHDR", b"IDAT", b"IEND"] or len(chunks[0][1]) != 13:
        raise PictureError("a kept picture is a PNG of one part (IHDR, IDAT, IEND), and this one is not")
    width, height, *kind = struct.unpack(">IIBBBBB", chunks[0][1])
    if kind not in ([8, _GRAY, 0, 0, 0], [8, _RGB, 0, 0, 0]):
        raise PictureError(
            "a kept picture is a PNG of 8 bits, gray or RGB, not interlaced, and this one is not"
        )
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise PictureError(f"a kept picture has sides from 1 to {MAX_SIDE} pixels, not {width} x {height}")
    return width, height, 3 if kind[1] == _RGB else 1, chunks[1][1]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk, their checksums being right."""
    if not data.startswith(SIGNATURE):
        raise PictureError("a kept picture is a PNG, and this is none")
    if len(data) > MAX_BYTES:
        raise PictureError(f"a kept picture has at most {MAX_BYTES} bytes, not {len(data)}")
    place = len(SIGNATURE)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        content, end = data[place + 8 : place + 8 + length], place + 12 + length
        checksum = zlib.crc32(data[place + 4 : place + 8 + length]).to_bytes(4, "big")
        if end > len(data) or data[end - 4 : end] != checksum:
            raise PictureError("a kept picture is damaged: a checksum is wrong")
        yield data[place + 4 : place + 8], content
        place = end


def _inflated(data: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Exactly so many bytes; never more, whatever the data promise."""
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise PictureError(f"a kept picture is damaged: {error}") from error
    if len(content) != size or not unpacker.eof or unpacker.unused_data:
        raise PictureError("a kept picture is damaged: its pixels are not as many as its header says")
    return np.frombuffer(content, dtype=np.uint8)
