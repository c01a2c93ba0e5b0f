"""The support set: the embeddings of the objects that were shown, in memory and immutable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import SupportError
from edge_siamese.head import SigmoidDistanceHead
from edge_siamese.runtimes.base import Floats


@dataclass(frozen=True, eq=False)
class SupportSet:
    """Objects by name, with one or more views each.

    A change gives a new set, so that a thread that scores frames never sees half a change.
    """

    names: tuple[str, ...]
    """The objects, in the order in which they were first shown."""
    views: tuple[int, ...]
    """How many rows of `embeddings` each object has."""
    embeddings: Floats
    """(M, D): all views of the first object, then all of the second, and so on. Not writable."""

    @classmethod
    def empty(cls, dimensions: int) -> SupportSet:
        """No object yet, for embeddings of D dimensions."""
        return cls((), (), _frozen(np.empty((0, dimensions), dtype=np.float32)))

    @classmethod
    def of(cls, objects: Mapping[str, Iterable[npt.ArrayLike]], dimensions: int) -> SupportSet:
        """A set of these objects: name to embeddings, each of shape (D,)."""
        result = cls.empty(dimensions)
        for name, embeddings in objects.items():
            for embedding in embeddings:
                result = result.with_view(name, embedding)
        return result

    def __len__(self) -> int:
        """How many objects there are."""
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    @property
    def dimensions(self) -> int:
        return int(self.embeddings.shape[1])

    def with_view(self, name: str, embedding: npt.ArrayLike) -> SupportSet:
        """A set in which the object has one more view.

        Args:
            name: of a known object or a new one.
            embedding: (D,), finite.

        Raises:
            SupportError: the name is empty, or the embedding has another length or a non-finite number.
        """
        row = np.asarray(embedding, dtype=np.float32)
        if not name.strip():
            raise SupportError("an object needs a name that is not empty")
        if row.shape != (self.dimensions,):
            raise SupportError(
                f'"{name}": the embedding must have shape ({self.dimensions},), not {row.shape}'
            )
        if not np.isfinite(row).all():
            raise SupportError(f'"{name}": the embedding has numbers that are not finite')
        if name not in self.names:
            embeddings = np.concatenate([self.embeddings, row[np.newaxis]])
            return SupportSet((*self.names, name), (*self.views, 1), _frozen(embeddings))
        index = self.names.index(name)
        views = tuple(count + (place == index) for place, count in enumerate(self.views))
        embeddings = np.insert(self.embeddings, self._rows(name).stop, row, axis=0)
        return SupportSet(self.names, views, _frozen(embeddings))

    def without(self, name: str) -> SupportSet:
        """A set in which the object is not.

        Raises:
            SupportError: it is not in this one either.
        """
        embeddings = np.delete(self.embeddings, self._rows(name), axis=0)
        kept = [(other, count) for other, count in zip(self.names, self.views, strict=True) if other != name]
        return SupportSet(
            tuple(other for other, _ in kept), tuple(count for _, count in kept), _frozen(embeddings)
        )

    def views_of(self, name: str) -> Floats:
        """(views, D): the embeddings of one object.

        Raises:
            SupportError: there is no such object.
        """
        return self.embeddings[self._rows(name)]

    def distances(self, head: SigmoidDistanceHead, queries: Floats) -> Floats:
        """(N, D) queries to (N, objects): the head's distance to the nearest view of each object."""
        if not self.names:
            return np.empty((len(queries), 0), dtype=np.float32)
        starts = np.cumsum((0, *self.views[:-1]))
        return np.minimum.reduceat(head.distances(queries, self.embeddings), starts, axis=1)

    def _rows(self, name: str) -> slice:
        """Where the views of an object stand in `embeddings`."""
        if name not in self.names:
            raise SupportError(f'there is no object "{name}"; registered: {", ".join(self.names) or "none"}')
        index = self.names.index(name)
        start = sum(self.views[:index])
        return slice(start, start + self.views[index])


def _frozen(embeddings: Floats) -> Floats:
    embeddings.setflags(write=False)
    return embeddings
