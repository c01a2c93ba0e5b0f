"""The support set: the embeddings of the registered objects, in memory and immutable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import NoSuchObject, SupportError
from edge_siamese.recognition.head import SigmoidDistanceHead
from edge_siamese.recognition.imaging import Floats

Integers = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SupportEntry:
    """One object of a store."""

    uid: str
    """Identifies the object, whatever its name; unique."""
    name: str
    """Its name; not empty."""
    view_ids: tuple[int, ...]
    """The store's id of each view."""
    embeddings: Floats
    """float32 (V, D): its views, in the order of `view_ids`."""
    negatives: Floats
    """float32 (K, D): its negatives; K may be 0."""


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Objects with one or more views each, and their negatives.

    A change returns a new set, so a thread that scores frames never sees half a change. No array is writable.
    """

    names: tuple[str, ...]
    """The objects, in the order of registration."""
    views: tuple[int, ...]
    """The number of rows of `embeddings` of each object, at least one."""
    embeddings: Floats
    """float32 (M, D): all views of the first object, then all of the second, and so on."""
    uids: tuple[str, ...]
    """The uid of each object."""
    view_ids: Integers
    """(M,): the store's id of each view."""
    negatives: Floats
    """float32 (K, D): the negatives of the first object, then those of the second, and so on; many have none."""
    negative_owners: Integers
    """(K,): the position in `names` of the object of each negative; ascending."""
    limits: Floats
    """float32 (N,): the largest distance at which each object is recognized; inf if only the general threshold applies."""
    by_surroundings: Booleans
    """(N,): whether the limit follows from the camera's surroundings, not from negatives."""
    places: Floats
    """float32 (P, D): the empty places that the camera saw before objects came."""

    @classmethod
    def empty(cls, dimensions: int) -> SupportSet:
        """A set without objects, for embeddings of D dimensions."""
        return cls.build((), dimensions)

    @classmethod
    def build(
        cls, entries: Sequence[SupportEntry], dimensions: int, limits: npt.ArrayLike | None = None
    ) -> SupportSet:
        """A set of objects.

        Args:
            entries: entries without a view are skipped.
            dimensions: D.
            limits: (N,), one for each entry; None if only the general threshold applies.

        Raises:
            SupportError: an entry has no name, embeddings of another shape or with a number that is not finite, or not one
                id for each view; two entries have one uid; there is not one limit for each entry.
        """
        bounds = _limits(limits, len(entries))
        seen = [place for place, entry in enumerate(entries) if len(entry.embeddings)]
        entries = [entries[place] for place in seen]
        for entry in entries:
            _require_entry(entry, dimensions)
        uids = tuple(entry.uid for entry in entries)
        if len(set(uids)) < len(uids):
            twice = next(uid for place, uid in enumerate(uids) if uid in uids[:place])
            raise SupportError(f"two objects have one uid: {twice}")
        counts = [len(entry.negatives) for entry in entries]
        none = np.empty((0, dimensions), dtype=np.float32)
        result = cls(
            names=tuple(entry.name for entry in entries),
            views=tuple(len(entry.embeddings) for entry in entries),
            embeddings=_frozen(np.concatenate([none, *(entry.embeddings for entry in entries)])),
            uids=uids,
            view_ids=_frozen(
                np.array([number for entry in entries for number in entry.view_ids], dtype=np.int64)
            ),
            negatives=_frozen(
                np.concatenate([none, *(entry.negatives for entry in entries if len(entry.negatives))])
            ),
            negative_owners=_frozen(np.repeat(np.arange(len(entries), dtype=np.int64), counts)),
            limits=_frozen(bounds[seen]),
            by_surroundings=_frozen(np.zeros(len(seen), np.bool_)),
            places=_frozen(none.copy()),
        )
        if not (np.isfinite(result.embeddings).all() and np.isfinite(result.negatives).all()):
            damaged = next(
                entry.name
                for entry in entries
                if not (np.isfinite(entry.embeddings).all() and np.isfinite(entry.negatives).all())
            )
            raise SupportError(f'"{damaged}": the embedding has numbers that are not finite')
        return result

    @classmethod
    def of(cls, objects: Mapping[str, Iterable[npt.ArrayLike]], dimensions: int) -> SupportSet:
        """A set of objects by name, each with embeddings of shape (D,); the names are the uids."""
        entries, number = [], 0
        none = np.empty((0, dimensions), dtype=np.float32)
        for name, embeddings in objects.items():
            rows = [_row(name, embedding, dimensions) for embedding in embeddings]
            numbers = tuple(range(number + 1, number + len(rows) + 1))
            number += len(rows)
            entries.append(SupportEntry(name, name, numbers, np.array(rows, dtype=np.float32), none))
        return cls.build(entries, dimensions)

    def __len__(self) -> int:
        """The number of objects."""
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        """Whether there is an object of this name or uid."""
        return name in self.uids or name in self.names

    @property
    def dimensions(self) -> int:
        return int(self.embeddings.shape[1])

    @cached_property
    def starts(self) -> Integers:
        """(N + 1,): the row of `embeddings` where each object starts, and where the last one ends."""
        return _frozen(np.cumsum((0, *self.views), dtype=np.int64))

    @cached_property
    def half_norms(self) -> Floats:
        """(M,): half of the squared norm of each view, which is needed for every frame."""
        return _frozen(0.5 * np.einsum("md,md->m", self.embeddings, self.embeddings))

    def with_limits(self, limits: npt.ArrayLike, by_surroundings: Booleans | None = None) -> SupportSet:
        """The same objects with other limits, (N,); see `decision.object_limits` and `surroundings.tightened`."""
        if by_surroundings is None:
            by_surroundings = np.zeros(len(self), np.bool_)
        bounds = _frozen(_limits(limits, len(self)))
        return replace(self, limits=bounds, by_surroundings=_frozen(by_surroundings))

    def with_places(self, places: Floats) -> SupportSet:
        """The same objects with other empty places, float32 (P, D)."""
        return replace(self, places=_frozen(places.copy()))

    def without(self, name: str) -> SupportSet:
        """A set without the object of this name or uid; raises `NoSuchObject` if there is none."""
        place = self._place(name)
        rows, negatives = self.rows(place), self.negative_rows(place)
        owners = np.delete(self.negative_owners, negatives)
        return SupportSet(
            names=self.names[:place] + self.names[place + 1 :],
            views=self.views[:place] + self.views[place + 1 :],
            embeddings=_frozen(np.delete(self.embeddings, rows, axis=0)),
            uids=self.uids[:place] + self.uids[place + 1 :],
            view_ids=_frozen(np.delete(self.view_ids, rows)),
            negatives=_frozen(np.delete(self.negatives, negatives, axis=0)),
            negative_owners=_frozen(owners - (owners > place)),
            limits=_frozen(np.delete(self.limits, place)),
            by_surroundings=_frozen(np.delete(self.by_surroundings, place)),
            places=self.places,
        )

    def distances(self, head: SigmoidDistanceHead, queries: Floats) -> Floats:
        """The distances of queries (Q, D) to the nearest view of each object, float32 (Q, N)."""
        if not self.names:
            return np.empty((len(queries), 0), dtype=np.float32)
        return np.minimum.reduceat(head.distances(queries, self.embeddings), self.starts[:-1], axis=1)

    def ranks(self, head: SigmoidDistanceHead, query: Floats) -> Floats:
        """Numbers (M,) in the same order as the distances of a query (D,) to the views, and cheaper to compute."""
        if head.distance == "euclidean":
            # ||q - s||^2 = ||q||^2 + 2 (||s||^2 / 2 - q.s): the first term and the factor do not change the order.
            return self.half_norms - self.embeddings @ query
        return head.distances(query[np.newaxis], self.embeddings)[0]

    def rows(self, place: int) -> slice:
        """The rows of `embeddings` of an object, by its position in `names`."""
        return slice(int(self.starts[place]), int(self.starts[place + 1]))

    def negative_rows(self, place: int) -> slice:
        """The rows of `negatives` of an object, by its position in `names`."""
        first, last = np.searchsorted(self.negative_owners, (place, place + 1))
        return slice(int(first), int(last))

    def _place(self, name: str) -> int:
        """The position of an object in `names`, by uid or name."""
        for known in (self.uids, self.names):
            if name in known:
                return known.index(name)
        raise NoSuchObject(f'there is no object "{name}"; registered: {", ".join(self.names) or "none"}')


def _row(name: str, embedding: npt.ArrayLike, dimensions: int) -> Floats:
    """A checked copy of an embedding, (D,)."""
    row = np.array(embedding, dtype=np.float32)
    if not name.strip():
        raise SupportError("an object needs a name that is not empty")
    if row.shape != (dimensions,):
        raise SupportError(f'"{name}": the embedding must have shape ({dimensions},), not {row.shape}')
    if not np.isfinite(row).all():
        raise SupportError(f'"{name}": the embedding has numbers that are not finite')
    return row


def _require_entry(entry: SupportEntry, dimensions: int) -> None:
    """Check everything except finiteness, which is cheaper to check for all entries at once."""
    if not entry.name.strip():
        raise SupportError("an object needs a name that is not empty")
    for values in (entry.embeddings, entry.negatives):
        if values.ndim != 2 or (len(values) and values.shape[1] != dimensions):
            raise SupportError(
                f'"{entry.name}": the embeddings must have shape (any, {dimensions}), not {values.shape}'
            )
        if values.dtype != np.float32:
            raise SupportError(f'"{entry.name}": the embeddings must be float32, not {values.dtype}')
    if len(entry.view_ids) != len(entry.embeddings):
        raise SupportError(
            f'"{entry.name}" has {len(entry.embeddings)} views and {len(entry.view_ids)} ids of views'
        )


def _limits(limits: npt.ArrayLike | None, count: int) -> Floats:
    bounds = np.full(count, np.inf, np.float32) if limits is None else np.array(limits, dtype=np.float32)
    if bounds.shape != (count,) or np.isnan(bounds).any():
        raise SupportError(f"one limit for each of {count} objects is needed, not an array {bounds.shape}")
    return bounds


def _frozen(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values.setflags(write=False)
    return values
