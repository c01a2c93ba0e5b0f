"""Learns the surroundings of the camera from the engine's frames, and keeps them on disk."""

from __future__ import annotations

import logging
from collections import deque
from typing import Annotated

from msgspec import Meta

from edge_siamese.daemon.regions import Region, Rule
from edge_siamese.errors import StoreError
from edge_siamese.recognition.decision import Acceptance
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Floats
from edge_siamese.recognition.support import SupportSet
from edge_siamese.recognition.surroundings import Fit, SceneSampler, Surroundings, tightened
from edge_siamese.settings import SurroundingsSettings
from edge_siamese.store.surroundings import SurroundingsFile
from edge_siamese.validation import Record

LOG = logging.getLogger(__name__)

PENDING_SECONDS = 60.0
"""A scene is kept after this time, if nothing is registered meanwhile: it may be the object that is registered next."""
UPDATE_SECONDS = 60.0
"""Shortest time between two changes to the limits of objects."""
WRITE_SECONDS = 1800.0
"""Shortest time between two writes of the file, which wear out the memory card: 13 MB a day at most. A power cut loses what
was learned since the last one."""


class ObjectSurroundings(Record, frozen=True):
    """How close the surroundings come to an object."""

    uid: str
    name: str
    further: Annotated[
        float | None,
        Meta(description="Estimated share of scenes further away than its limit; null: too few scenes."),
    ]
    near: Annotated[bool, Meta(description="Whether more scenes than allowed are within its limit.")]
    tightened: Annotated[bool, Meta(description="Whether its limit is stricter because of them.")]
    text: Annotated[str, Meta(description="Human-readable line.")]


class SurroundingsReport(Record, frozen=True):
    """What is known about the surroundings."""

    enabled: Annotated[bool, Meta(description="Whether they are learned.")]
    scenes: Annotated[int, Meta(description="Number of scenes that are kept.")]
    objects: Annotated[
        tuple[ObjectSurroundings, ...], Meta(description="All objects, in the order of their registration.")
    ]


class SurroundingsLearner:
    """Learns scenes, and writes them to a file occasionally; used from the engine's thread.

    Args:
        file: where they are kept.
        encoder: computes the embeddings. Scenes of another model are ignored.
        head: computes the distances.
        same: the distance within which two pictures show the same thing.
        tighten: whether objects that the surroundings come too close to get a stricter limit.
    """

    def __init__(
        self,
        file: SurroundingsFile,
        encoder: Encoder,
        head: SigmoidDistanceHead,
        same: float,
        tighten: bool = False,
    ) -> None:
        self._file, self._model_id, self._head, self._same = file, encoder.model_id, head, same
        self._tighten = tighten
        self._known = Surroundings(head, same, *file.load(encoder.model_id, encoder.dimensions))
        self._pending: deque[tuple[float, Floats]] = deque()
        self._is_saved, self._has_changed = True, False
        self._write_at = self._update_at = -float("inf")

    @property
    def scenes(self) -> Floats:
        """float32 (N, D): the embeddings that are kept."""
        return self._known.scenes

    @property
    def places(self) -> Floats:
        """float32 (P, D): the empty places that are kept."""
        return self._known.places

    def watch(self, region: Region, embedding: Floats | None, now: float) -> None:
        """Learn from what a region shows, after its recognition: an embedding, float32 (D,); None if nothing is new."""
        state = region.state
        state.sampler = state.sampler or SceneSampler(self._head, self._same)
        is_known = state.is_recognized or bool(region.tracker.present)
        self.add(state.sampler.add(embedding, is_known), now)

    def add_place(self, place: Floats | None) -> bool:
        """Keep the empty place before an object came; returns whether it is a new one. None: it is uncertain."""
        if place is None or not self._known.add_place(place):
            return False
        self._is_saved = False
        return True

    def apply_to(self, rule: Rule) -> None:
        """Set what the objects of a rule are recognized by: their limits, and the empty places."""
        support = self._compare(rule)[0] if self._tighten else rule.base_support
        rule.support = support.with_places(self.places)

    def _compare(self, rule: Rule) -> tuple[SupportSet, tuple[Fit, ...]]:
        """The objects of a rule with stricter limits, and how close the surroundings come to each; 0.1 ms per object."""
        rate = rule.acceptance.false_accept_rate
        return tightened(rule.base_support, self._head, rule.threshold, self.scenes, rate)

    def report(self, rule: Rule) -> SurroundingsReport:
        """Describe how close the surroundings come to each object of a rule."""
        support, fits = self._compare(rule)
        objects = tuple(
            ObjectSurroundings(uid, name, fit.further, fit.is_near, fit.is_near and self._tighten, fit.text)
            for uid, name, fit in zip(support.uids, support.names, fits, strict=True)
        )
        return SurroundingsReport(True, len(self.scenes), objects)

    def add(self, scene: Floats | None, now: float) -> None:
        """Keep a scene, unless something is registered soon. None: there is none."""
        if scene is not None:
            self._pending.append((now, scene))

    def discard_recent(self) -> None:
        """Forget the latest scenes: a registration begins, and they may show its object."""
        self._pending.clear()

    def tick(self, now: float) -> bool:
        """Advance the time; returns whether limits of objects have to be computed again."""
        if self._write_at == -float("inf"):
            self._write_at = now + WRITE_SECONDS
        while self._pending and now - self._pending[0][0] >= PENDING_SECONDS:
            if self._known.add(self._pending.popleft()[1]):
                self._is_saved, self._has_changed = False, True
        if now >= self._write_at and not self._is_saved:
            self._write_at = now + WRITE_SECONDS
            self.save()
        if not self._has_changed or now < self._update_at:
            return False
        self._has_changed, self._update_at = False, now + UPDATE_SECONDS
        return True

    def save(self) -> None:
        """Write what changed. It can be learned again, so an error is only logged."""
        if self._is_saved:
            return
        try:
            self._file.save(self._model_id, self._known.scenes, self._known.places)
            self._is_saved = True
        except StoreError as error:
            LOG.warning("the surroundings are not saved: %s", error)

    def clear(self) -> int:
        """Forget all scenes, also those on disk; returns their number. Raises `StoreError` if the file cannot be deleted."""
        self._file.delete()
        count = len(self._known)
        self._pending.clear()
        self._known.clear()
        self._is_saved, self._has_changed = True, False
        return count


def learner_for(
    settings: SurroundingsSettings,
    file: SurroundingsFile,
    encoder: Encoder,
    head: SigmoidDistanceHead,
    acceptance: Acceptance,
) -> SurroundingsLearner | None:
    """The learner of surroundings; None if the settings turn it off, which also deletes what was learned."""
    if not settings.enabled:
        try:
            file.delete()
        except StoreError as error:
            LOG.warning("%s", error)
        return None
    if not 0.0 < acceptance.threshold < 1.0:
        return None  # there is no distance within which two pictures show the same thing
    return SurroundingsLearner(file, encoder, head, head.distance_at(acceptance.threshold), settings.tighten)
