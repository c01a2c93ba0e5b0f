"""Sample views, each determined by a number, and stores in a test directory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edge_siamese.recognition.registration import NewView
from edge_siamese.store import SupportStore

MODEL, DIMENSIONS = "tiny-1", 8
NOW = "2026-11-24T10:00:00.000+00:00"


def vector(number: int, dimensions: int = DIMENSIONS) -> np.ndarray:
    """The embedding of view `number`."""
    return np.random.default_rng(number).normal(size=dimensions).astype(np.float32)


def picture(number: int, shape: tuple[int, ...] = (12, 16, 3)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def view(number: int, crops: int = 2, source: str = "camera") -> NewView:
    pictures = tuple(picture(10 * number + place) for place in range(crops))
    return NewView(embedding=vector(number), crops=pictures, source=source)


def open_store(place: Path, model_id: str = MODEL, **options) -> SupportStore:
    """The store of a directory."""
    return SupportStore(place / "objects.db", model_id, DIMENSIONS, now=lambda: NOW, **options)


def names(store: SupportStore) -> list[str]:
    return [item.name for item in store.objects()]
