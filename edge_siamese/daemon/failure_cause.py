"""Finds by trial why frames fail: the model, the settings, or objects and views."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.engine import Engine
from edge_siamese.errors import describe_error
from edge_siamese.recognition.decision import decide
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.recognition.imaging import Bytes, Floats, prepare
from edge_siamese.recognition.support import SupportEntry, SupportSet
from edge_siamese.settings import Settings, without_recognition_settings
from edge_siamese.store import SupportStore

LOG = logging.getLogger(__name__)

Cause = Literal["objects", "model", "settings", ""]


def find_cause(engine: Engine, frame: Frame) -> Cause:
    """Find by trial which part of an engine fails on a frame; changes only the quarantine of objects and views.

    Returns:
        "objects": they are in quarantine now; "model" or "settings"; "" if it is none of these.
    """
    encoder = engine.encoder
    try:
        image = prepare(frame.pixels, encoder.preprocessing)
    except Exception:
        return ""  # it is the camera
    try:
        embedding = encoder.embed_prepared(image[np.newaxis])[0]
        decide(SupportSet.empty(encoder.dimensions), engine.head, embedding, engine.threshold)
    except Exception:
        return "model"

    def works(settings: Settings, entries: Sequence[SupportEntry]) -> bool:
        return _works(engine, settings, entries, frame, embedding)

    if not works(engine.settings, ()):
        return "settings" if works(without_recognition_settings(engine.settings), ()) else ""
    entries = engine.quarantine.usable(engine.store.entries())
    reason = "frames could not be processed with it"
    found = engine.quarantine.add_failing(entries, lambda some: works(engine.settings, some), reason)
    return "objects" if found else ""


def _works(
    engine: Engine, settings: Settings, entries: Sequence[SupportEntry], frame: Frame, embedding: Floats
) -> bool:
    """Return whether an engine with these settings and objects processes a frame until its object appears."""
    encoder: Any = _SameEmbedding(engine.encoder, embedding)
    try:
        with SupportStore(
            None, encoder.model_id, encoder.dimensions, unit_length=encoder.unit_length
        ) as store:
            trial = Engine(settings, engine.bundle, encoder, store, publish=lambda _: None)
            trial.use_objects(entries)
            for number in range(settings.recognition.window_frames + 1):
                trial.process_frame(replace(frame, time=frame.time + number / settings.camera.frame_rate))
    except Exception as error:
        LOG.debug("a trial failed: %s", describe_error(error))
        return False
    return True


class _SameEmbedding:
    """An encoder that returns the same embedding for each image, which is enough for a trial."""

    def __init__(self, encoder: Encoder, embedding: Floats) -> None:
        self._encoder, self._embedding = encoder, embedding

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def embed_prepared(self, images: Bytes) -> Floats:
        return np.repeat(self._embedding[np.newaxis], len(images), axis=0)
