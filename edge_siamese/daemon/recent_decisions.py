"""The latest decisions that events told of, with what the camera saw: so that they can be explained, or said to be wrong."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from dataclasses import dataclass

from edge_siamese.events import utc_now
from edge_siamese.recognition.decision import Recognition
from edge_siamese.recognition.imaging import Bytes, Floats

KEPT = 50
"""At most 5.5 MB with pictures of 192 x 192 in color."""


@dataclass(frozen=True, eq=False)
class RecentDecision:
    """A frame that made an object appear, or that showed it still there."""

    id: str
    """12 hexadecimal digits."""
    uid: str
    """Of the object."""
    name: str
    """What it was called then."""
    time: str
    """UTC, ISO 8601."""
    recognition: Recognition
    """How it was decided."""
    embedding: Floats
    """(D,), of the frame."""
    model_id: str
    """Whose embedding it is."""
    crop: Bytes
    """What the encoder saw, uint8 (h, w) or (h, w, 3)."""


class RecentDecisions:
    """The latest `KEPT` moments; the engine's thread adds, any thread reads."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether moments are kept: only where somebody can look at them."""
        self._kept: OrderedDict[str, RecentDecision] = OrderedDict()
        self._changing = threading.Lock()

    def add(
        self, recognition: Recognition, embedding: Floats, model_id: str, crop: Bytes, *, uid: str, name: str
    ) -> str:
        """Keep one more; its id."""
        moment = RecentDecision(
            secrets.token_hex(6), uid, name, utc_now(), recognition, embedding, model_id, crop
        )
        with self._changing:
            self._kept[moment.id] = moment
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return moment.id

    def get(self, number: str) -> RecentDecision | None:
        """The moment of this id, if it is kept still."""
        with self._changing:
            return self._kept.get(number)

    def latest(self) -> RecentDecision | None:
        """The newest one."""
        with self._changing:
            return next(reversed(self._kept.values()), None)

    def clear(self) -> None:
        """Keep none of them any more."""
        with self._changing:
            self._kept.clear()
