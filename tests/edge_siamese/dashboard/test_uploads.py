"""Uploaded pictures: how many are kept, and for how long."""

from __future__ import annotations

import numpy as np
import pytest

from edge_siamese.dashboard.schemas import ApiError
from edge_siamese.dashboard.uploads import KEPT_SECONDS, MAX_UPLOADS, SIDE, Uploads
from edge_siamese.pictures import encode_jpeg

PICTURE = encode_jpeg(np.full((8, 8), 7, np.uint8))


def test_a_picture_can_be_used_for_ten_minutes() -> None:
    now = [0.0]
    uploads = Uploads(clock=lambda: now[0])
    upload = uploads.add(PICTURE)
    now[0] = KEPT_SECONDS
    assert uploads.get([upload.id])[0].shape == (8, 8)
    now[0] += 1.0
    with pytest.raises(ApiError, match="no longer kept"):
        uploads.get([upload.id])


def test_the_latest_pictures_are_kept_scaled_down() -> None:
    uploads = Uploads()
    first = uploads.add(PICTURE)
    others = [uploads.add(PICTURE) for _ in range(MAX_UPLOADS)]
    assert len(uploads.get([upload.id for upload in others])) == MAX_UPLOADS
    with pytest.raises(ApiError):
        uploads.get([first.id])
    large = uploads.add(encode_jpeg(np.zeros((2 * SIDE, SIDE), np.uint8)))
    assert uploads.get([large.id])[0].shape == (SIDE, SIDE // 2)
