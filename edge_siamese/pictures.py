"""Reads picture files: PNG, JPEG, WebP and whatever else Pillow knows; and writes JPEG."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import PictureError

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS, MOST_PIXELS_AT_ONCE = 50_000_000, 16_000_000
"""Of a picture from elsewhere: of a JPEG, which is read at an eighth of its size; and of all that is decoded whole."""
SENT_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""What is taken from elsewhere: the fewer decoders, the less can be wrong with them."""


def read_picture(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """The pixels of a picture file, as a person sees them.

    Turned the way the camera says (EXIF), transparent parts over white, 16 bits cut to 8.

    Returns:
        uint8, (h, w) for grey and black-and-white pictures, (h, w, 3) RGB for all others.

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
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=SENT_FORMATS) as file:
            # A progressive JPEG is held whole whatever size it is wanted in.
            whole = file.format not in ("JPEG", "MPO") or bool(file.info.get("progressive"))
            most = MOST_PIXELS_AT_ONCE if whole else MOST_PIXELS
            if file.width * file.height > most:
                raise PictureError(
                    f"{name} has {file.width} x {file.height} pixels; at most {most // 10**6} million are read"
                )
            if not whole:
                file.draft(None, (side, side))
            file.load()
            picture: Image.Image = file
            if max(file.size) > side and not file.mode.startswith("I"):
                if file.mode in ("P", "1"):  # their numbers cannot be averaged
                    picture = file.convert("RGBA")
                picture.thumbnail((side, side), Image.Resampling.BOX)
            pixels = _pixels(ImageOps.exif_transpose(picture))
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


def _pixels(picture: Image.Image) -> npt.NDArray[np.uint8]:
    from PIL import Image

    if picture.mode.startswith(
        "I"
    ):  # 16-bit grey; Pillow's own conversion to 8 bits clips instead of scaling
        return (np.asarray(picture, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)
    # Pillow 10.1 calls this `has_transparency_data`; Debian 12 has 9.4.
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
