"""Recordings: video processed by the daemon's engine, up to the embedding of each frame.

The encoder takes most of the time of a measurement. So an engine without registered objects processes all video once, in
chronological order, and decides itself which frames to encode. Engines with registered objects replay the embeddings
(`SceneWatcher`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import structs

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.engine import Engine
from edge_siamese.events import Event
from edge_siamese.models.bundle import Bundle, choose_acceptance
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.embedding import MAX_BATCH_SIZE, Encoder
from edge_siamese.recognition.imaging import Bytes, Floats, Preprocessing
from edge_siamese.recognition.registration import NewView, collision
from edge_siamese.settings import Settings
from edge_siamese.store import SupportStore
from export.evaluation.scene_video import ARRIVED, EMPTY_BEFORE, FRAME_RATE, Shot

PRESS_DELAY = 3
"""Frames in which an object stands still before the button is pressed."""
EMPTY_STRIDE = 5
"""Every fifth frame of an empty place is encoded: the frames differ by noise and drift only."""
SETTLE_SECONDS = 75
"""Time for which the camera watches a new place before the first visit."""
BETWEEN_SECONDS = 4.0
"""Time between two visits, without frames."""


@dataclass(frozen=True)
class Contender:
    """A way to recognize objects: an encoder with its thresholds, and the daemon's settings."""

    name: str
    """For example the name of the bundle."""
    bundle: Bundle
    """Source of head, thresholds and impostors."""
    encoder: Encoder
    settings: Settings = field(default_factory=Settings)
    is_baseline: bool = False

    @property
    def focus(self) -> str:
        """The part of a frame that the encoder reads: `center` or `foreground`."""
        return self.settings.camera.focus


@dataclass(frozen=True, eq=False)
class Recording:
    """A visit as the engine saw it."""

    embeddings: Floats
    """float32 (N, D)."""
    rows: npt.NDArray[np.int32]
    """(T,): the row of each frame in `embeddings`; -1 if it shows nothing that would be encoded."""


class _SimulatedDaemon:
    """An engine with an empty store, on a clock of its own."""

    def __init__(self, contender: Contender, encoder: Any, settings: Settings) -> None:
        model = contender.encoder
        self._store = SupportStore(None, model.model_id, model.dimensions)
        self._events = list[Event]()
        self._engine = Engine(settings, contender.bundle, encoder, self._store, publish=self._events.append)
        self._now, self._number = 1000.0, 0

    def close(self) -> None:
        """Release the store."""
        self._store.close()

    def _show_frame(self, pixels: Bytes, seconds: float = 1 / FRAME_RATE) -> None:
        """Advance the clock by `seconds`, and show a frame."""
        self._now += seconds
        self._number += 1
        self._engine.process_frame(Frame(pixels, self._now, self._number))


class SceneRecorder(_SimulatedDaemon):
    """Records video with the engine of a contender, with nothing registered.

    Args:
        contender: its settings decide which frames are encoded.
    """

    def __init__(self, contender: Contender) -> None:
        self._encoder = contender.encoder
        self._gate = _GatedEncoder(contender.encoder)
        registration = structs.replace(contender.settings.registration, keep_crops=False)
        super().__init__(
            contender, self._gate, structs.replace(contender.settings, registration=registration)
        )

    def settle(self, shots: Iterable[Shot]) -> None:
        """Watch a new place, one frame a second, without encoding anything."""
        for shot in shots:
            self._show(shot, 1.0)

    def embed_place(self) -> Floats:
        """Embed the latest frame, of an empty place: float32 (1, D), or (0, D) if the engine would not encode it."""
        return self._embed([] if self._gate.image is None else [self._gate.image])

    def record(self, shots: Iterable[Shot]) -> Recording:
        """Watch a visit."""
        images, rows, held = list[Bytes](), list[int](), 0
        for shot in shots:
            image = self._show(shot)
            if image is None:
                rows.append(-1)
                continue
            if not shot.empty or held == 0:
                images.append(image)
            held = (held + 1) % EMPTY_STRIDE if shot.empty else 0
            rows.append(len(images) - 1)
        self._now += BETWEEN_SECONDS
        return Recording(self._embed(images), np.array(rows, np.int32))

    def press(self, shots: Sequence[Shot]) -> NewView | None:
        """Watch a visit, and press the button while the object stands still.

        Returns:
            The view that is registered if no other object looks like it; None if the frames are not good enough.
        """
        start = ARRIVED + PRESS_DELAY
        for shot in shots[:start]:
            self._show(shot)
        self._events.clear()
        self._engine.gesture(Gesture.PRESS, self._now)
        self._gate.is_open = True
        for position in range(start, len(shots)):
            if not self._engine.registrations.busy:
                break
            self._show(shots[position])
            start = position + 1
        self._gate.is_open = False
        for shot in shots[start:]:
            self._show(shot)
        self._now += max(BETWEEN_SECONDS, self._engine.registrations.settings.timeout_s)
        self._engine.tick(self._now)
        if not any(event.kind == "registered" for event in self._events):
            return None
        (entry,) = self._store.entries()
        self._engine.forget(entry.uid)
        return NewView(entry.embeddings[0], (), "button")

    def _show(self, shot: Shot, seconds: float = 1 / FRAME_RATE) -> Bytes | None:
        """Show a frame; returns the image that the engine would have encoded, if any."""
        self._gate.image = None
        self._show_frame(shot.pixels, seconds)
        return self._gate.image

    def _embed(self, images: Sequence[Bytes]) -> Floats:
        parts = [
            self._encoder.embed_prepared(np.stack(images[start : start + MAX_BATCH_SIZE]))
            for start in range(0, len(images), MAX_BATCH_SIZE)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self._encoder.dimensions), np.float32)


class _GatedEncoder:
    """An encoder that computes embeddings only while it is open, and keeps the latest image."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.is_open = False
        self.image: Bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def embed_prepared(self, images: Bytes) -> Floats:
        self.image = images[0]
        if self.is_open:
            return self._encoder.embed_prepared(images)
        return np.zeros((len(images), self._encoder.dimensions), np.float32)


@dataclass(frozen=True)
class Watched:
    """The engine's reports during a visit."""

    appeared: tuple[tuple[str, int], ...]
    """uid, and number of the frame, of all objects that appeared from the arrival on."""
    was_present: bool
    """Whether an object was reported as present before the arrival."""
    was_undecided: bool = False
    """Whether it was reported as one of two objects from the arrival on."""


class SceneWatcher(_SimulatedDaemon):
    """An engine that registers recorded views and replays recorded visits.

    Args:
        contender: the contender of the recordings.
    """

    def __init__(self, contender: Contender) -> None:
        encoder, settings, self._bundle = contender.encoder, contender.settings, contender.bundle
        self._registration = settings.registration
        recognition = settings.recognition
        self._pair_threshold = choose_acceptance(
            self._bundle, recognition.threshold, recognition.false_accept_rate
        ).threshold
        self._replay = _ReplayEncoder(encoder)
        # The recording decided which frames are encoded.
        settings = structs.replace(settings, camera=structs.replace(settings.camera, focus="center"))
        super().__init__(contender, self._replay, settings)

    def see_place(self, place: Floats) -> None:
        """Show the engine the empty place, as before an object comes to it and is registered.

        Args:
            place: what `SceneRecorder.embed_place` returned.
        """
        if self._engine.surroundings is not None:
            for embedding in place:
                self._engine.surroundings.add_place(embedding)
            self._engine.reload_objects()

    def register(self, view: NewView | None, to: str | None = None) -> str | None:
        """Register a view as the daemon does after a press.

        Args:
            view: the recorded one; None if its frames were not good enough.
            to: uid of the object that gets the view; None: a new object.

        Returns:
            The uid; None if the registration was refused.
        """
        if view is None:
            return None
        if self._registration.collisions == "refuse" and collision(
            view.embedding, self._engine.support, self._bundle.head, self._pair_threshold, to
        ):
            return None
        known = self._store.register(None, view) if to is None else self._store.add_view(to, view)
        self._engine.reload_objects()
        return known.uid

    def watch(self, recording: Recording) -> Watched:
        """Replay a visit; afterward, nothing is present."""
        appeared, was_present, was_undecided = list[tuple[str, int]](), False, False
        for number, row in enumerate(recording.rows):
            self._events.clear()
            if row >= 0:
                self._replay.next = recording.embeddings[row]
            self._show_frame(_NOTHING if row < 0 else _SOMETHING)
            if number < EMPTY_BEFORE:
                was_present = was_present or bool(self._engine.present)
                continue
            appeared += [
                (str(event.data["uid"]), number) for event in self._events if event.kind == "appeared"
            ]
            was_undecided = was_undecided or any(event.kind == "undecided" for event in self._events)
        # Longer than the gap after which the tracker ends all sightings.
        self._now += 60.0
        self._engine.tick(self._now)
        return Watched(tuple(appeared), was_present, was_undecided)


_NOTHING = np.zeros((2, 2), np.uint8)
"""An image without contrast, which no engine encodes."""
_SOMETHING = np.array([[0, 255], [255, 0]], np.uint8)


class _ReplayEncoder:
    """An encoder that returns a recorded embedding, whatever it is shown."""

    preprocessing = Preprocessing(*_SOMETHING.shape)

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.next = np.zeros(encoder.dimensions, np.float32)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def embed_prepared(self, images: Bytes) -> Floats:
        return np.repeat(self.next[np.newaxis], len(images), axis=0)
