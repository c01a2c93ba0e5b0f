"""The support set: the embeddings of the objects that were shown, in memory and immutable."""

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


@dataclass(frozen=True, eq=False)
class SupportEntry:
    """One object as a store hands it over."""

    uid: str
    """Which object it is, whatever it is called; unique."""
    name: str
    """What people call it; not empty."""
    view_ids: tuple[int, ...]
    """The store's number of each view."""
    embeddings: Floats
    """(V, D): its views, in the order of `view_ids`."""
    negatives: Floats
    """(K, D): examples of what it is not; K may be 0."""


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Objects with one or more views each, and examples of what they are not.

    A change gives a new set, so that a thread that scores frames never sees half a change. No array is writable.
    """

    names: tuple[str, ...]
    """The objects, in the order in which they were first shown."""
    views: tuple[int, ...]
    """How many rows of `embeddings` each object has; at least one."""
    embeddings: Floats
    """(M, D): all views of the first object, then all of the second, and so on."""
    uids: tuple[str, ...]
    """Of the objects; those of `of` and `with_view` are their names."""
    view_ids: Integers
    """(M,): the number of each view, by which a store knows it."""
    negatives: Floats
    """(K, D): the negatives of the first object, then those of the second, and so on; many have none."""
    negative_owners: Integers
    """(K,): the place in `names` of the object that each negative is not; never falling."""
    limits: Floats
    """(N,): the largest distance at which each object is recognized; inf: the general threshold alone decides."""

    @classmethod
    def empty(cls, dimensions: int) -> SupportSet:
        """No object yet, for embeddings of D dimensions."""
        return cls.build((), dimensions)

    @classmethod
    def build(
        cls, entries: Sequence[SupportEntry], dimensions: int, limits: npt.ArrayLike | None = None
    ) -> SupportSet:
        """A set of all these objects at once.

        Args:
            entries: those without a view are left out: there is nothing to recognize them by.
            dimensions: D.
            limits: (N,), one for each entry; None: the general threshold decides alone.

        Raises:
            SupportError: an entry has no name, embeddings of another shape or with a non-finite number, or not one
                number for each view; two entries have one uid; there is not one limit for each entry.
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
        """A set of these objects: name to embeddings, each of shape (D,)."""
        entries, number = [], 0
        none = np.empty((0, dimensions), dtype=np.float32)
        for name, embeddings in objects.items():
            rows = [_row(name, embedding, dimensions) for embedding in embeddings]
            numbers = tuple(range(number + 1, number + len(rows) + 1))
            number += len(rows)
            entries.append(SupportEntry(name, name, numbers, np.array(rows, dtype=np.float32), none))
        return cls.build(entries, dimensions)

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        """Whether there is an object of this name or uid."""
        return name in self.uids or name in self.names

    @property
    def dimensions(self) -> int:
        return int(self.embeddings.shape[1])

    @cached_property
    def starts(self) -> Integers:
        """(N + 1,): the row of `embeddings` where each object begins, and where the last one ends."""
        return _frozen(np.cumsum((0, *self.views), dtype=np.int64))

    @cached_property
    def half_norms(self) -> Floats:
        """(M,): half the squared length of each view, which scoring needs for every frame."""
        return _frozen(0.5 * np.einsum("md,md->m", self.embeddings, self.embeddings))

    def entry(self, name: str) -> SupportEntry:
        """All that is known of one object, by name or uid; raises `SupportError` if there is none."""
        place = self._place(name)
        rows, negatives = self.rows(place), self.negative_rows(place)
        return SupportEntry(
            self.uids[place],
            self.names[place],
            tuple(self.view_ids[rows].tolist()),
            self.embeddings[rows],
            self.negatives[negatives],
        )

    def with_entry(self, entry: SupportEntry, limit: float = np.inf) -> SupportSet:
        """A set in which this object is, instead of the one with the same uid or as a new one.

        Costs a copy of the arrays, far less than a new `build`. Raises `SupportError` as `build` does.
        """
        added = SupportSet.build((entry,), self.dimensions, (limit,))
        place = self.uids.index(entry.uid) if entry.uid in self.uids else len(self)
        return self._spliced(place, min(place + 1, len(self)), added)

    def with_view(self, name: str, embedding: npt.ArrayLike) -> SupportSet:
        """A set in which the object has one more view; its limit stays.

        Args:
            name: of a known object or a new one, whose uid is its name.
            embedding: (D,), finite.

        Raises:
            SupportError: the name is empty, or the embedding has another length or a non-finite number.
        """
        row = _row(name, embedding, self.dimensions)[np.newaxis]
        number = int(self.view_ids.max(initial=0)) + 1
        if name not in self:
            return self.with_entry(SupportEntry(name, name, (number,), row, row[:0]))
        old = self.entry(name)
        embeddings = np.concatenate([old.embeddings, row])
        new = SupportEntry(old.uid, old.name, (*old.view_ids, number), embeddings, old.negatives)
        return self.with_entry(new, float(self.limits[self._place(name)]))

    def with_limits(self, limits: npt.ArrayLike) -> SupportSet:
        """The same objects with other limits, (N,): see `decision.object_limits`."""
        return replace(self, limits=_frozen(_limits(limits, len(self))))

    def without(self, name: str) -> SupportSet:
        """A set in which the object is not.

        Args:
            name: or uid.

        Raises:
            SupportError: it is not in this one either.
        """
        place = self._place(name)
        return self._spliced(place, place + 1, SupportSet.empty(self.dimensions))

    def views_of(self, name: str) -> Floats:
        """(views, D): the embeddings of one object.

        Raises:
            SupportError: there is no such object.
        """
        return self.embeddings[self.rows(self._place(name))]

    def distances(self, head: SigmoidDistanceHead, queries: Floats) -> Floats:
        """(N, D) queries to (N, objects): the head's distance to the nearest view of each object."""
        if not self.names:
            return np.empty((len(queries), 0), dtype=np.float32)
        return np.minimum.reduceat(head.distances(queries, self.embeddings), self.starts[:-1], axis=1)

    def ranks(self, head: SigmoidDistanceHead, query: Floats) -> Floats:
        """(D,) to (M,): numbers that stand in the order of the views' distances, and cost less than these."""
        if head.distance == "euclidean":
            # ||q - s||^2 = ||q||^2 + 2 (||s||^2 / 2 - q.s): the first term and the factor change no order.
            return self.half_norms - self.embeddings @ query
        return head.distances(query[np.newaxis], self.embeddings)[0]

    def rows(self, place: int) -> slice:
        """Where the views of an object stand in `embeddings`, by its place in `names`."""
        return slice(int(self.starts[place]), int(self.starts[place + 1]))

    def negative_rows(self, place: int) -> slice:
        """Where the negatives of an object stand in `negatives`, by its place in `names`."""
        first, last = np.searchsorted(self.negative_owners, (place, place + 1))
        return slice(int(first), int(last))

    def _place(self, name: str) -> int:
        """Of an object in `names`, by uid or name."""
        for known in (self.uids, self.names):
            if name in known:
                return known.index(name)
        raise NoSuchObject(f'there is no object "{name}"; registered: {", ".join(self.names) or "none"}')

    def _spliced(self, start: int, stop: int, other: SupportSet) -> SupportSet:
        """A set with the objects of another one in the places from start to before stop."""
        rows = slice(int(self.starts[start]), int(self.starts[stop]))
        first, last = np.searchsorted(self.negative_owners, (start, stop))
        later = self.negative_owners[last:] + (len(other) - (stop - start))
        return SupportSet(
            names=(*self.names[:start], *other.names, *self.names[stop:]),
            views=(*self.views[:start], *other.views, *self.views[stop:]),
            embeddings=_joined(self.embeddings, rows.start, rows.stop, other.embeddings),
            uids=(*self.uids[:start], *other.uids, *self.uids[stop:]),
            view_ids=_joined(self.view_ids, rows.start, rows.stop, other.view_ids),
            negatives=_joined(self.negatives, first, last, other.negatives),
            negative_owners=_frozen(
                np.concatenate([self.negative_owners[:first], other.negative_owners + start, later])
            ),
            limits=_joined(self.limits, start, stop, other.limits),
        )


def _row(name: str, embedding: npt.ArrayLike, dimensions: int) -> Floats:
    """A checked embedding of its own, (D,)."""
    row = np.array(embedding, dtype=np.float32)
    if not name.strip():
        raise SupportError("an object needs a name that is not empty")
    if row.shape != (dimensions,):
        raise SupportError(f'"{name}": the embedding must have shape ({dimensions},), not {row.shape}')
    if not np.isfinite(row).all():
        raise SupportError(f'"{name}": the embedding has numbers that are not finite')
    return row


def _require_entry(entry: SupportEntry, dimensions: int) -> None:
    """Everything but finiteness, which is cheaper to check of all entries at once."""
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
            f'"{entry.name}" has {len(entry.embeddings)} views and {len(entry.view_ids)} numbers of views'
        )


def _limits(limits: npt.ArrayLike | None, count: int) -> Floats:
    bounds = np.full(count, np.inf, np.float32) if limits is None else np.array(limits, dtype=np.float32)
    if bounds.shape != (count,) or np.isnan(bounds).any():
        raise SupportError(f"one limit for each of {count} objects is needed, not an array {bounds.shape}")
    return bounds


def _joined(values: npt.NDArray[Any], start: int, stop: int, instead: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return _frozen(np.concatenate([values[:start], instead, values[stop:]]))


def _frozen(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values.setflags(write=False)
    return values
