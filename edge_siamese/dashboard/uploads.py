"""Pictures that were sent to the dashboard, small, for a few minutes, in memory: to register from, or to look at."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_siamese.dashboard.exchange import Problem
from edge_siamese.pictures import read_uploaded_picture

Picture = npt.NDArray[np.uint8]

MOST, KEPT_SECONDS = 12, 600.0
SIDE = 640
"""Pixels of the longer side, as they are kept: more than any encoder looks at, 1.2 MB in color."""


@dataclass(frozen=True, eq=False)
class Upload:
    """One of them."""

    id: str
    pixels: Picture
    """uint8 (h, w) or (h, w, 3)."""
    until: float


class Uploads:
    """Those that are kept; any thread may ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """There are none; `clock` counts seconds."""
        self._clock = clock
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._changing = threading.Lock()
        self._decoding = threading.Lock()

    def add(self, data: bytes) -> Upload:
        """Read a picture and keep it; the oldest makes room.

        Raises:
            PictureError: it is none, or too large.
        """
        with (
            self._decoding
        ):  # one at a time: what a picture takes while it is decoded is much more than what is kept
            pixels = read_uploaded_picture(data, SIDE)
        made = Upload(secrets.token_hex(16), pixels, self._clock() + KEPT_SECONDS)
        with self._changing:
            self._forget_old()
            self._kept[made.id] = made
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return made

    def get(self, uploads: Sequence[str]) -> list[Picture]:
        """The pictures of these ids; raises `Problem` with 404 if one is not kept, or no more."""
        with self._changing:
            self._forget_old()
            try:
                return [self._kept[upload].pixels for upload in uploads]
            except KeyError:
                raise Problem(404, "a picture is not here any more; send it again", kind="NoUpload") from None

    def drop(self, uploads: Sequence[str]) -> None:
        """They are not needed any more."""
        with self._changing:
            for upload in uploads:
                self._kept.pop(upload, None)

    def _forget_old(self) -> None:
        now = self._clock()
        for upload in [known for known in self._kept.values() if known.until < now]:
            del self._kept[upload.id]
