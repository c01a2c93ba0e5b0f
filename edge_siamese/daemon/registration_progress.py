"""The latest registration as it goes: each frame with its verdict and a small picture, for whoever watches."""

from __future__ import annotations

import secrets
import threading
from dataclasses import dataclass, replace

from edge_siamese.recognition.imaging import Bytes

MAX_FRAMES = 60
"""A registration that looks longer shows its latest frames."""
SIDE = 96
"""The longer side of a frame's picture, in pixels."""


@dataclass(frozen=True, eq=False)
class BurstFrame:
    """One frame that was looked at."""

    number: int
    """The frame's; of a picture: its place, from 1."""
    good: bool
    """Whether it was good enough to learn from."""
    text: str
    """Why not, and what to do; or `good`."""
    crop: Bytes
    """A small picture of it, uint8 (h, w) or (h, w, 3)."""


@dataclass(frozen=True, eq=False)
class BurstRecord:
    """One registration, up to now or to its end."""

    id: str
    """12 hexadecimal digits."""
    name: str | None
    """What the object is to be called; None for a name that counts up."""
    target: str | None
    """The uid of the object that gets a view; None for a new object."""
    source: str
    """Where the wish came from: button, command, picture, page, mqtt."""
    wanted: int
    """Good frames that it needs."""
    frames: tuple[BurstFrame, ...] = ()
    """In their order."""
    done: bool = False
    """Whether it has ended."""
    saved: bool = False
    """Whether something was learned."""
    text: str = ""
    """How it ended, in one line."""
    uid: str | None = None
    """Of the object that was saved."""


class RegistrationProgress:
    """Holds the latest registration; the engine's thread writes, any thread reads."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether frames are kept: only where somebody can look at them."""
        self.version = 0
        """Counts the changes, so that who watches sees that there was one."""
        self._latest: BurstRecord | None = None
        self._changing = threading.Lock()

    def latest(self) -> BurstRecord | None:
        """The one that is under way, or was last."""
        return self._latest

    def begin(self, *, name: str | None, target: str | None, source: str, wanted: int) -> None:
        """A registration begins."""
        self._put(BurstRecord(secrets.token_hex(6), name, target, source, wanted))

    def add(self, frame: BurstFrame) -> None:
        """It has looked at a frame."""
        if self._latest is not None and not self._latest.done:
            self._put(replace(self._latest, frames=(*self._latest.frames, frame)[-MAX_FRAMES:]))

    def end(self, *, saved: bool, text: str, uid: str | None) -> None:
        """It has ended."""
        if self._latest is not None and not self._latest.done:
            self._put(replace(self._latest, done=True, saved=saved, text=text, uid=uid))

    def clear(self) -> None:
        """Nobody watches any more."""
        self._put(None)

    def _put(self, record: BurstRecord | None) -> None:
        with self._changing:
            self._latest = record
            self.version += 1
