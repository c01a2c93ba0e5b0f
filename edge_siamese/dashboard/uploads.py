"""Uploaded pictures: scaled down, kept in memory for a few minutes, to register from or to recognize."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_siamese.dashboard.schemas import ApiError
from edge_siamese.pictures import read_uploaded_picture

Picture = npt.NDArray[np.uint8]

MAX_UPLOADS, KEPT_SECONDS = 12, 600.0
SIDE = 640
"""Pixels of the longer side: more than any encoder uses, and 1.2 MB in color."""


@dataclass(frozen=True, eq=False)
class Upload:
    """An uploaded picture."""

    id: str
    pixels: Picture
    """uint8 (h, w) or (h, w, 3)."""
    expires_at: float


class Uploads:
    """The latest uploaded pictures. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without pictures. `clock` returns seconds."""
        self._clock = clock
        self._uploads: OrderedDict[str, Upload] = OrderedDict()
        self._lock = threading.Lock()
        self._decoding = threading.Lock()

    def add(self, data: bytes) -> Upload:
        """Decode a picture and keep it; the oldest one is dropped.

        Raises:
            PictureError: it is not a picture, or too large.
        """
        with self._decoding:  # one at a time: decoding takes far more memory than the result
            pixels = read_uploaded_picture(data, SIDE)
        upload = Upload(secrets.token_hex(16), pixels, self._clock() + KEPT_SECONDS)
        with self._lock:
            self._drop_expired()
            self._uploads[upload.id] = upload
            while len(self._uploads) > MAX_UPLOADS:
                self._uploads.popitem(last=False)
        return upload

    def get(self, ids: Sequence[str]) -> list[Picture]:
        """Return the pictures of these ids; raises `ApiError` with 404 if one is no longer kept."""
        with self._lock:
            self._drop_expired()
            try:
                return [self._uploads[upload_id].pixels for upload_id in ids]
            except KeyError:
                message = "an uploaded picture is no longer kept; upload it again"
                raise ApiError(404, message, kind="NoUpload") from None

    def drop(self, ids: Sequence[str]) -> None:
        """Drop pictures that are no longer needed."""
        with self._lock:
            for upload_id in ids:
                self._uploads.pop(upload_id, None)

    def _drop_expired(self) -> None:
        now = self._clock()
        for upload in [upload for upload in self._uploads.values() if upload.expires_at < now]:
            del self._uploads[upload.id]
