"""Pictures inside JSON files and reports, as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edge_siamese.pictures import to_pixels

THUMBNAIL_SIDE = 64


def as_data_uri(image: npt.NDArray[np.uint8]) -> str:
    """A prepared image (H, W, 1 or 3) as a data URI: PNG for gray, JPEG for color."""
    if image.shape[2] == 1:
        return _encoded(Image.fromarray(image[..., 0]), "PNG", optimize=True)
    return _encoded(Image.fromarray(image), "JPEG", quality=88)


def thumbnail(picture: Path | npt.NDArray[np.uint8], side: int = THUMBNAIL_SIDE) -> str:
    """A small version of a picture file, or of a prepared image (H, W, 1 or 3), as a data URI: WebP.

    Args:
        picture: the picture; a file is cropped to its centered square, as the encoder sees it.
        side: pixels.
    """
    if isinstance(picture, Path):
        with Image.open(picture) as file:
            file.draft("RGB", (2 * side, 2 * side))
            small = Image.fromarray(to_pixels(file))
        edge = min(small.size)
        left, top = (small.width - edge) // 2, (small.height - edge) // 2
        small = small.crop((left, top, left + edge, top + edge))
    else:
        small = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    small = small.convert("RGB").resize((side, side), Image.Resampling.BOX)
    return _encoded(small, "WEBP", quality=60, method=6)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
