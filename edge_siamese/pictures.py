"""Picture files: reads every format that Pillow supports, with limits for uploads; writes JPEG and PNG.

Pillow is imported when the first picture is read or written, which keeps other starts short.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import PictureError

if TYPE_CHECKING:
    from PIL import Image, ImageFile

MAX_PIXELS, MAX_DECODED_PIXELS, MAX_WEBP_PIXELS = 50_000_000, 16_000_000, 6_000_000
"""Limits for uploaded pictures: of a JPEG, which is decoded at an eighth of its size; of formats that are decoded whole;
and of WebP, whose decoder holds the picture four times. Each takes at most 110 MB, besides the file itself."""
MAX_FILE_BYTES = 64 * 1024 * 1024
"""Bytes of a photograph that is read from a file."""
MAX_SIDE = 65_535
"""Pixels of a side of an uploaded picture: decoders hold whole rows."""
MAX_JPEG_SAMPLES = 48_000_000
"""Pixels times channels of a progressive JPEG, which is held whole at any output size."""
MAX_JPEG_WORK = 20 * MAX_JPEG_SAMPLES
"""Pixels times channels times scans of a JPEG: each scan of a progressive one passes over all of it."""
MAX_PNG_CHUNKS, MAX_PNG_EXTRA_BYTES = 1000, 8_000_000
"""Chunks of a PNG besides its pixels, and their bytes, which the decoder keeps."""
MAX_PNG_TEXT_BYTES = 4_000_000
"""Bytes of text chunks in a PNG."""
TILE_SIDE = 1024
"""Pixels: large pictures are reduced in tiles of this side."""
UPLOAD_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""Formats of uploaded pictures: fewer decoders are a smaller attack surface."""
PHOTOGRAPH_FORMATS = (*UPLOAD_FORMATS, "BMP", "PPM", "TIFF")
"""Formats of photographs in files."""

MAX_PNG_SIDE = 4096
"""Pixels of a side of a stored picture."""
MAX_PNG_BYTES = 16 * 1024 * 1024
"""Bytes of a stored picture."""
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
# Pictures from a camera hardly shrink beyond this level, and a slow processor does the work.
_PNG_LEVEL = 1

Picture: TypeAlias = "npt.NDArray[Any] | str | os.PathLike[str] | Image.Image"
"""A frame, uint8 (h, w) or (h, w, 1, 3 or 4); the path of a picture file; or a PIL image."""


def read_picture(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Read a picture file as viewers display it.

    It is rotated according to its EXIF data, transparent parts become white, and 16 bits become 8.

    Args:
        path: any format that Pillow supports.

    Returns:
        uint8, (h, w) for gray and black-and-white pictures, (h, w, 3) RGB for all others.

    Raises:
        PictureError: the file is missing, damaged or not a picture.
    """
    return _read_file(path, _pixels)


def read_cut_out(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """Read a picture file with its transparency; see `read_picture`.

    Returns:
        uint8 (h, w, 4) RGBA; opaque if the file has no transparency.

    Raises:
        PictureError: the file is missing, damaged or not a picture.
    """
    return _read_file(path, lambda picture: np.asarray(picture.convert("RGBA")))


def resize_cut_out(pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resize a cut-out, uint8 (h, w, 4); the colors of transparent pixels do not blend into others."""
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def _read_file(
    path: str | os.PathLike[str], convert: Callable[[Image.Image], npt.NDArray[np.uint8]]
) -> npt.NDArray[np.uint8]:
    """Read and convert a picture file, upright."""
    name = os.fspath(path)
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(name) as file:
            return convert(ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise PictureError(f"{name}: there is no such file") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a picture in a format that Pillow supports") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise PictureError(
            f"{name} cannot be read as a picture: {str(error) or type(error).__name__}"
        ) from error


def read_photograph(path: str | os.PathLike[str], side: int) -> npt.NDArray[np.uint8]:
    """Read a picture file reduced, in bounded memory and time; see `read_picture`.

    Args:
        path: in one of `PHOTOGRAPH_FORMATS`.
        side: maximum length of the result's longer side, in pixels.

    Raises:
        PictureError: the file is missing, damaged, too large or not a picture.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PictureError(f"{name} cannot be read as a picture: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise PictureError(f"{name} has more than {MAX_FILE_BYTES >> 20} MiB")
    return _read_bounded(data, side, name, PHOTOGRAPH_FORMATS)


def read_uploaded_picture(data: bytes, side: int, name: str = "the picture") -> npt.NDArray[np.uint8]:
    """Read an uploaded picture in bounded memory and time, whatever it contains.

    Its header is checked before it is decoded, and it is reduced immediately. Of an animation, the first frame is read.

    Args:
        data: content of the file.
        side: maximum length of the result's longer side, in pixels.
        name: name of the picture in error messages.

    Returns:
        uint8, (h, w) or (h, w, 3) RGB, as `read_picture` does.

    Raises:
        PictureError: its format is not in `UPLOAD_FORMATS`, or it is too large or damaged.
    """
    return _read_bounded(data, side, name, UPLOAD_FORMATS)


def _read_bounded(data: bytes, side: int, name: str, formats: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

    PngImagePlugin.MAX_TEXT_MEMORY = MAX_PNG_TEXT_BYTES  # 64 MB by default
    try:
        with Image.open(io.BytesIO(data), formats=formats) as file:
            max_pixels = _max_pixels(file, data)
            if file.width * file.height > max_pixels:
                raise PictureError(
                    f"{name} has {file.width} x {file.height} pixels; at most {max_pixels // 10**6} million are read"
                )
            if max(file.size) > MAX_SIDE:
                raise PictureError(
                    f"{name} has a side of {max(file.size)} pixels; at most {MAX_SIDE} are read"
                )
            _require_bounded_work(file, data, name)
            file.draft(None, (side, side))  # has an effect on JPEG only
            file.load()
            pixels = _pixels(ImageOps.exif_transpose(_reduced(file, side)))
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a {', '.join(formats[:-1])} or {formats[-1]}") from error
    except PictureError:
        raise
    except Exception as error:  # see `read_picture`
        raise PictureError(
            f"{name} cannot be read as a picture: {str(error) or type(error).__name__}"
        ) from error
    step = -(-max(pixels.shape[:2]) // side)
    return np.ascontiguousarray(pixels[::step, ::step])


def encode_jpeg(pixels: npt.NDArray[np.uint8], quality: int = 80, side: int = 0) -> bytes:
    """Encode a picture as JPEG.

    Args:
        pixels: uint8 (h, w) or (h, w, 3) RGB.
        quality: 1 to 95.
        side: maximum length of the longer side in pixels, to which the picture is reduced; 0: no limit.
    """
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if side and max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.BOX)
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=quality)
    return written.getvalue()


def to_pixels(picture: Picture) -> npt.NDArray[Any]:
    """Return the pixels of a file or a PIL image as `read_picture` does; an array is returned unchanged.

    Raises:
        PictureError: see `read_picture`.
    """
    if isinstance(picture, (str, os.PathLike)):
        return read_picture(picture)
    from PIL import Image, ImageOps

    if isinstance(picture, Image.Image):
        return _pixels(ImageOps.exif_transpose(picture))
    return np.asarray(picture)


def encode_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Encode a picture as PNG, without loss.

    Args:
        pixels: uint8 (h, w) or (h, w, 3) RGB, sides from 1 to `MAX_PNG_SIDE`.

    Raises:
        PictureError: the array is not such a picture.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise PictureError(
            f"a stored picture is uint8 (height, width) or (height, width, 3), not {pixels.dtype} {pixels.shape}"
        )
    _require_png_size(pixels.shape[1], pixels.shape[0])
    from PIL import Image

    written = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(written, "PNG", compress_level=_PNG_LEVEL)
    return written.getvalue()


def decode_png(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode a PNG that `encode_png` could have written, in bounded memory; checksums are verified first.

    Returns:
        uint8 (h, w) or (h, w, 3) RGB.

    Raises:
        PictureError: the data are damaged, too large, or a PNG of another kind: 16 bits, a palette, transparency,
            interlacing or animation.
    """
    _check_png(data)
    with _open_png(data) as image:
        try:
            return np.array(image)
        except Exception as error:  # see `read_picture`
            raise PictureError(f"a stored picture is damaged: {error or type(error).__name__}") from error


def png_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels of a stored PNG, from its header.

    Raises:
        PictureError: see `decode_png`; damage in the pixels is not detected.
    """
    with _open_png(data) as image:
        return image.size


def is_intact_png(data: bytes) -> bool:
    """Whether a stored PNG is complete and its checksums are right; the pixels are not decoded."""
    try:
        _check_png(data)
    except PictureError:
        return False
    return True


def _check_png(data: bytes) -> None:
    with _open_png(data) as image:
        try:
            image.verify()
        except Exception as error:  # see `read_picture`
            raise PictureError(f"a stored picture is damaged: {error or type(error).__name__}") from error


def _open_png(data: bytes) -> Image.Image:
    """Parse the header of a stored PNG and check its size and kind."""
    from PIL import Image, PngImagePlugin, UnidentifiedImageError

    PngImagePlugin.MAX_TEXT_MEMORY = MAX_PNG_TEXT_BYTES  # 64 MB by default
    if len(data) > MAX_PNG_BYTES:
        raise PictureError(f"a stored picture has at most {MAX_PNG_BYTES} bytes, not {len(data)}")
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG",))
    except UnidentifiedImageError as error:
        raise PictureError("a stored picture is a PNG, and this is not one") from error
    except Exception as error:  # see `read_picture`
        raise PictureError(f"a stored picture is damaged: {error or type(error).__name__}") from error
    _require_png_size(image.width, image.height)
    if not data.endswith(_PNG_END):
        raise PictureError("a stored picture is damaged: its end is missing")
    layout = image.tile[0][3] if image.tile else None
    if layout not in ("L", "RGB") or "interlace" in image.info or getattr(image, "n_frames", 1) != 1:
        raise PictureError("a stored picture is a PNG of 8 bits, gray or RGB, one frame, not interlaced")
    return image


def _require_png_size(width: int, height: int) -> None:
    if not (1 <= height <= MAX_PNG_SIDE and 1 <= width <= MAX_PNG_SIDE):
        raise PictureError(
            f"a stored picture has sides from 1 to {MAX_PNG_SIDE} pixels, not {width} x {height}"
        )


def _max_pixels(file: ImageFile.ImageFile, data: bytes) -> int:
    if file.format == "WEBP":
        return MAX_WEBP_PIXELS
    if file.format not in ("JPEG", "MPO"):
        return MAX_DECODED_PIXELS
    if _is_single_scan(data):
        return MAX_PIXELS
    return min(MAX_DECODED_PIXELS, MAX_JPEG_SAMPLES // len(file.getbands()))


def _require_bounded_work(file: ImageFile.ImageFile, data: bytes, name: str) -> None:
    """Raise `PictureError` for a JPEG with too many scans, or a PNG with too much besides its pixels."""
    if file.format in ("JPEG", "MPO"):
        # Within compressed data, FF is followed by 00 or a restart marker, so this counts scans, and those of previews.
        scans = data.count(b"\xff\xda")
        if scans > 1 and scans * file.width * file.height * len(file.getbands()) > MAX_JPEG_WORK:
            raise PictureError(f"{name} has {scans} scans, too many for {file.width} x {file.height} pixels")
    elif file.format == "PNG":
        chunks, extra = 0, 0
        position = len(b"\x89PNG\r\n\x1a\n")
        while position + 8 <= len(data):
            size = int.from_bytes(data[position : position + 4])
            if data[position + 4 : position + 8] not in (b"IDAT", b"fdAT"):
                chunks, extra = chunks + 1, extra + size
            position += size + 12
            if chunks > MAX_PNG_CHUNKS or extra > MAX_PNG_EXTRA_BYTES:
                raise PictureError(
                    f"{name} has too much besides its pixels: more than {MAX_PNG_CHUNKS} chunks or "
                    f"{MAX_PNG_EXTRA_BYTES // 10**6} MB"
                )


def _is_single_scan(data: bytes) -> bool:
    """Return whether a JPEG has all its channels in one scan: only then does its decoder hold just a few rows."""
    position, channels = 2, 0
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        content = position + 4
        if marker in (0xC0, 0xC1):
            channels = data[content + 5] if content + 5 < len(data) else 0
        elif marker == 0xDA:
            return content < len(data) and data[content] == channels
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return False


def _reduced(file: Image.Image, side: int) -> Image.Image:
    """Reduce a picture to about this longer side, in tiles, so that little memory is needed besides the picture."""
    from PIL import Image

    if max(file.size) <= side:
        return file
    if file.mode.startswith("I"):  # 16-bit gray: Pillow cannot average it, or only at 32 bits
        step = -(-max(file.size) // side)
        return file.resize((-(-file.width // step), -(-file.height // step)), Image.Resampling.NEAREST)
    # Palette indices cannot be averaged.
    mode = {"P": "RGBA", "PA": "RGBA", "1": "L"}.get(file.mode, file.mode)
    step = max(file.size) // side
    reduced = Image.new(mode, (-(-file.width // step), -(-file.height // step)))
    reduced.info = {k: v for k, v in file.info.items() if k != "transparency" or mode == file.mode}
    tile = max(1, TILE_SIDE // step) * step
    for top in range(0, file.height, tile):
        for left in range(0, file.width, tile):
            box = left, top, min(left + tile, file.width), min(top + tile, file.height)
            reduced.paste(file.crop(box).convert(mode).reduce(step), (left // step, top // step))
    reduced.thumbnail((side, side), Image.Resampling.BOX)
    return reduced


def _pixels(picture: Image.Image) -> npt.NDArray[np.uint8]:
    """Convert to uint8 (h, w) or (h, w, 3) RGB, with transparent parts in white."""
    from PIL import Image

    if picture.mode == "F":
        raise PictureError("its values are floating point, whose scale is unknown; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        # 16-bit gray; Pillow's conversion to 8 bits clips instead of scaling.
        values = np.asarray(picture)
        if values.size and not 0 <= values.min() <= values.max() < 1 << 16:
            raise PictureError("its values have 32 bits, whose scale is unknown; save it with 8 or 16 bits")
        return (np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8)
    # Pillow 10.1 calls this `has_transparency_data`; Debian 12 has 9.4.
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
