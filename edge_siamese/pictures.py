"""Reads picture files: PNG, JPEG, WebP and whatever else Pillow knows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import PictureError

if TYPE_CHECKING:
    from PIL import Image


def read_picture(path: str | os.PathLike[str]) -> npt.NDArray[np.uint8]:
    """The pixels of a picture file, as a person sees them.

    Turned the way the camera says (EXIF), transparent parts over white, 16 bits cut to 8.

    Returns:
        uint8, (h, w) for grey and black-and-white pictures, (h, w, 3) RGB for all others.

    Raises:
        PictureError: the file is missing, damaged or not a picture, or Pillow is not installed.
    """
    name = os.fspath(path)
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise PictureError(
            f"{name}: reading pictures needs Pillow: pip install pillow, or apt install python3-pil"
        ) from error
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
