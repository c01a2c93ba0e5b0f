"""Reads picture files: PNG, JPEG, WebP and whatever else Pillow knows; and writes JPEG."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import PictureError

if TYPE_CHECKING:
    from PIL import Image, ImageFile

MAX_PIXELS, MAX_PIXELS_AT_ONCE, MAX_PIXELS_OF_WEBP = 50_000_000, 16_000_000, 6_000_000
"""Of a picture from elsewhere: of a JPEG that is read at an eighth of its size; of what is decoded whole; and of WebP,
whose decoder holds it four times. Each takes 110 MB at most."""
MAX_SIDE = 65_535
"""Pixels of a side, as of a JPEG: decoders hold rows."""
MAX_SAMPLES = 48_000_000
"""Pixels times colors of a JPEG in several passes, which is held whole whatever size it is wanted in."""
MAX_TEXT = 4_000_000
"""Bytes that a PNG may say besides its pixels."""
TILE = 1024
"""Pixels of the sides of the parts in which a picture gets smaller."""
SENT_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What is taken from elsewhere: the fewer decoders, the less can be wrong with them."""


def read_picture(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """The pixels of a picture file, as a person sees them.

    Turned the way the camera says (EXIF), transparent parts over white, 16 bits cut to 8.

    Returns:
        uint8, (h, w) for gray and black-and-white pictures, (h, w, 3) RGB for all others.

    Raises:
        PictureError: the file is missing, damaged or not a picture, or Pillow is not installed.
    """
    name = os.fspath(path)
    _require_pillow(name)
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(name) as file:
            return _pixels(ImageOps.exif_transpose(file))
    except FileNotFoundError as error:
        raise PictureError(f"{name}: there is no such picture") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a picture in a format that Pillow knows") from error
    except (
        Exception
    ) as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and others
        raise PictureError(
            f"{name} cannot be read as a picture: {str(error) or type(error).__name__}"
        ) from error


def read_sent_picture(data: bytes, side: int, name: str = "the picture") -> npt.NDArray[np.uint8]:
    """The pixels of a picture that came from elsewhere, so that whatever it is costs little memory and time.

    It is looked at before it is decoded, and gets smaller at once. Of moving pictures, the first one is taken.

    Args:
        data: of the file.
        side: the longer side of the result is at most so many pixels.
        name: what it is called in errors.

    Returns:
        uint8, (h, w) or (h, w, 3) RGB, as `read_picture` does.

    Raises:
        PictureError: it is none of `SENT_FORMATS`, too large, or damaged, or Pillow is not installed.
    """
    _require_pillow(name)
    from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

    PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT  # 64 MB by itself
    try:
        with Image.open(io.BytesIO(data), formats=SENT_FORMATS) as file:
            most = _most_pixels(file, data)
            if file.width * file.height > most:
                raise PictureError(
                    f"{name} has {file.width} x {file.height} pixels; at most {most // 10**6} million are read"
                )
            if max(file.size) > MAX_SIDE:
                raise PictureError(
                    f"{name} has a side of {max(file.size)} pixels; at most {MAX_SIDE} are read"
                )
            file.draft(None, (side, side))  # which only a JPEG can
            file.load()
            pixels = _pixels(ImageOps.exif_transpose(_reduced(file, side)))
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a {', '.join(SENT_FORMATS[:-1])} or {SENT_FORMATS[-1]}") from error
    except PictureError:
        raise
    except Exception as error:  # see `read_picture`
        raise PictureError(
            f"{name} cannot be read as a picture: {str(error) or type(error).__name__}"
        ) from error
    step = -(-max(pixels.shape[:2]) // side)
    return np.ascontiguousarray(pixels[::step, ::step])


def encode_jpeg(pixels: npt.NDArray[np.uint8], quality: int = 80, side: int = 0) -> bytes:
    """A picture as JPEG.

    Args:
        pixels: uint8 (h, w) or (h, w, 3) RGB.
        quality: 1 to 95.
        side: if its longer side has more pixels than this, it is made smaller; 0: never.

    Raises:
        PictureError: Pillow is not installed.
    """
    _require_pillow("the picture")
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if side and max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.BOX)
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=quality)
    return written.getvalue()


def _require_pillow(name: str) -> None:
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise PictureError(
            f"{name}: reading pictures needs Pillow: sudo apt install python3-pil, or, in an environment of your "
            "own, pip install pillow"
        ) from error


def _most_pixels(file: ImageFile.ImageFile, data: bytes) -> int:
    if file.format == "WEBP":
        return MAX_PIXELS_OF_WEBP
    if file.format not in ("JPEG", "MPO"):
        return MAX_PIXELS_AT_ONCE
    if _is_one_pass(data):
        return MAX_PIXELS
    return min(MAX_PIXELS_AT_ONCE, MAX_SAMPLES // len(file.getbands()))


def _is_one_pass(data: bytes) -> bool:
    """Whether a JPEG has all its colors in one scan: then its decoder holds some rows of it at a time, else all."""
    place, colors = 2, 0
    while place + 4 <= len(data) and data[place] == 0xFF:
        kind = data[place + 1]
        if kind == 0xFF:  # a byte that only fills
            place += 1
            continue
        content = place + 4
        if kind in (0xC0, 0xC1):
            colors = data[content + 5] if content + 5 < len(data) else 0
        elif kind == 0xDA:
            return content < len(data) and data[content] == colors
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
    return False


def _reduced(file: Image.Image, side: int) -> Image.Image:
    """A picture of about this longer side, in little memory besides the one that is there."""
    from PIL import Image

    if max(file.size) <= side:
        return file
    if file.mode.startswith("I"):  # 16-bit gray: Pillow averages it not, or only at 32 bits
        step = -(-max(file.size) // side)
        return file.resize((-(-file.width // step), -(-file.height // step)), Image.Resampling.NEAREST)
    # Their numbers cannot be averaged.
    mode = {"P": "RGBA", "PA": "RGBA", "1": "L"}.get(file.mode, file.mode)
    step = max(file.size) // side
    made = Image.new(mode, (-(-file.width // step), -(-file.height // step)))
    made.info = {k: v for k, v in file.info.items() if k != "transparency" or mode == file.mode}
    tile = max(1, TILE // step) * step
    for top in range(0, file.height, tile):
        for left in range(0, file.width, tile):
            box = left, top, min(left + tile, file.width), min(top + tile, file.height)
            made.paste(file.crop(box).convert(mode).reduce(step), (left // step, top // step))
    made.thumbnail((side, side), Image.Resampling.BOX)
    return made


def _pixels(picture: Image.Image) -> npt.NDArray[np.uint8]:
    from PIL import Image

    if picture.mode.startswith("I"):
        # 16-bit gray; Pillow's own conversion to 8 bits clips instead of scaling.
        return (np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8)
    # Pillow 10.1 calls this `has_transparency_data`; Debian 12 has 9.4.
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
