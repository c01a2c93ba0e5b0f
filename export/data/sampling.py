"""Sampling of verification pairs and few-shot episodes.

Samples are functions of an `ImageSet` and a numpy `Generator`; they are indices into `ImageSet.images`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from export.data.images import ImageSet, Indices

EPISODE_BATCH = 512


@dataclass(frozen=True, eq=False)
class Pairs:
    """Verification pairs, in random order."""

    a: Indices
    """(P,): indices into `ImageSet.images`."""
    b: Indices
    """(P,)."""
    same: npt.NDArray[np.bool_]
    """(P,): whether both are of one class."""

    def __len__(self) -> int:
        return len(self.same)


@dataclass(frozen=True, eq=False)
class Episode:
    """An N-way K-shot task; row i of both arrays belongs to the same class."""

    supports: Indices
    """(way, shot): indices into `ImageSet.images`."""
    queries: Indices
    """(way, queries): none of them is a support."""


def verification_pairs(images: ImageSet, count: int, rng: np.random.Generator) -> Pairs:
    """Pairs of the same class and of different classes of one group, half each, evenly from all groups.

    As in Koch 2015, section 4.1: each alphabet is represented equally, and the characters within it are drawn uniformly. If
    drawers are known, the pictures of a pair are by different drawers, so that the pen does not reveal the answer. A
    remainder goes to random groups, one pair each; with an odd count there is one more pair of different classes. Groups
    that cannot give both kinds of pairs are left out.

    Raises:
        DataError: no group has two classes and two pictures (by two drawers, where known) of one of them.
    """
    if count < 2:
        raise DataError(f"at least 2 verification pairs are needed, one of each kind, not {count}")
    index = _index(images)
    if not len(index.pair_groups):
        raise DataError(
            f"{images.name}: verification pairs need a group with at least two classes, one of them with two pictures"
            " by different drawers"
        )
    groups = np.concatenate(
        [
            _even_share(index.pair_groups, count // 2, rng),
            _even_share(index.pair_groups, count - count // 2, rng),
        ]
    )
    same = np.arange(count) < count // 2
    # One of the group's classes; a class that can give no two pictures serves only in pairs of two classes.
    first = np.where(same, index.pairable.draw(groups, rng), index.nonempty.draw(groups, rng))
    second = np.where(same, first, index.nonempty.draw_other(groups, first, rng))
    a = index.ordered[index.starts[first] + rng.integers(0, index.counts[first])]
    b = _by_another_drawer(index, a, second, rng)
    order = rng.permutation(count)
    return Pairs(a[order], b[order], same[order])


def episodes(
    images: ImageSet,
    count: int,
    way: int,
    shot: int,
    queries: int,
    rng: np.random.Generator,
    within_group: bool,
) -> Iterator[Episode]:
    """Draw N-way K-shot episodes (Vinyals et al., "Matching Networks for One Shot Learning", 2016).

    Args:
        images: classes to draw from; those with fewer than `shot + queries` pictures are skipped.
        count: number of episodes.
        way: classes per episode.
        shot: supports per class.
        queries: queries per class.
        rng: source of all random numbers.
        within_group: draw the classes of an episode from one group (alphabet), as in the published Omniglot runs; the group
            is drawn uniformly among those with enough classes. Otherwise draw from all classes.

    Raises:
        DataError: there are too few classes or pictures; raised by the call, not by the iterator.
    """
    if way < 2 or shot < 1 or queries < 1 or count < 1:
        raise DataError(
            f"episodes need at least 2 ways, 1 shot, 1 query and 1 episode, not {way}-way {shot}-shot, "
            f"{queries} queries, {count} episodes"
        )
    index = _index(images)
    large_enough = np.flatnonzero(index.counts >= shot + queries)
    pools = _Pools.of(
        large_enough, images.class_groups if within_group else np.zeros_like(images.class_groups)
    )
    usable = np.flatnonzero(pools.sizes >= way)
    if not len(usable):
        available = int(pools.sizes.max(initial=0))
        where = "and any one group has" if within_group else "and there are"
        raise DataError(
            f"{images.name}: {way}-way episodes with {shot + queries} pictures per class need {way} such classes, "
            f"{where} {available} at most"
        )
    return _episodes(index, pools, usable, count, way, shot, queries, rng)


def _episodes(
    index: _Index,
    pools: _Pools,
    usable: Indices,
    count: int,
    way: int,
    shot: int,
    queries: int,
    rng: np.random.Generator,
) -> Iterator[Episode]:
    for begin in range(0, count, EPISODE_BATCH):
        rows = min(EPISODE_BATCH, count - begin)
        groups = usable[rng.integers(0, len(usable), rows)]
        classes = pools.classes[
            pools.starts[groups][:, None] + _distinct(pools.sizes[groups], way, rng)
        ].ravel()
        chosen = index.starts[classes][:, None] + _distinct(index.counts[classes], shot + queries, rng)
        drawn = index.ordered[chosen].reshape(rows, way, shot + queries)
        for row in drawn:
            yield Episode(supports=row[:, :shot], queries=row[:, shot:])


class _Pools(NamedTuple):
    """Classes sorted by group, so that drawing from a group is drawing an offset."""

    classes: Indices
    starts: Indices
    sizes: Indices

    @classmethod
    def of(cls, classes: Indices, class_groups: Indices) -> _Pools:
        groups = class_groups[classes]
        sizes = np.bincount(groups, minlength=int(class_groups.max(initial=0)) + 1).astype(np.int64)
        return cls(classes[np.argsort(groups, kind="stable")], np.cumsum(sizes) - sizes, sizes)

    def draw(self, groups: Indices, rng: np.random.Generator) -> Indices:
        """Draw a class from each of the groups."""
        return self.classes[self.starts[groups] + rng.integers(0, self.sizes[groups])]

    def draw_other(self, groups: Indices, than: Indices, rng: np.random.Generator) -> Indices:
        """Draw a class from each of the groups, other than `than`, which is in the same group."""
        where = np.empty(int(self.classes.max()) + 1, dtype=np.int64)
        where[self.classes] = np.arange(len(self.classes))
        sizes, starts = self.sizes[groups], self.starts[groups]
        return self.classes[starts + (where[than] - starts + rng.integers(1, sizes)) % sizes]


class _Index(NamedTuple):
    """Pictures of an image set sorted by class and, within the class, by drawer."""

    ordered: Indices
    """(N,): indices of pictures."""
    keys: Indices
    """(N,): ascending; class and drawer of `ordered`, encoded as one number."""
    max_drawer: int
    starts: Indices
    counts: Indices
    nonempty: _Pools
    """Classes with a picture."""
    pairable: _Pools
    """Classes with two pictures, by different drawers if drawers are known."""
    pair_groups: Indices
    """Groups that can give both kinds of pairs."""
    labels: Indices
    drawers: Indices

    def key(self, classes: Indices, drawers: Indices) -> Indices:
        return classes * (self.max_drawer + 2) + drawers + 1


_INDICES: WeakKeyDictionary[ImageSet, _Index] = WeakKeyDictionary()


def _index(images: ImageSet) -> _Index:
    """The index of an image set, cached: a batch is drawn in every training step."""
    index = _INDICES.get(images)
    if index is None:
        index = _INDICES[images] = _make_index(images)
    return index


def _make_index(images: ImageSet) -> _Index:
    counts = np.bincount(images.labels, minlength=images.classes).astype(np.int64)
    ordered = np.lexsort((images.drawers, images.labels)).astype(np.int64)
    max_drawer = int(images.drawers.max(initial=-1))
    keys = images.labels[ordered] * (max_drawer + 2) + images.drawers[ordered] + 1
    # Each picture by an unknown drawer counts as a drawer of its own.
    is_new_drawer = np.diff(keys, prepend=-1).astype(bool) | (images.drawers[ordered] < 0)
    drawers = np.bincount(images.labels[ordered][is_new_drawer], minlength=images.classes)
    nonempty = _Pools.of(np.flatnonzero(counts > 0), images.class_groups)
    pairable = _Pools.of(np.flatnonzero(drawers > 1), images.class_groups)
    return _Index(
        ordered=ordered,
        keys=keys,
        max_drawer=max_drawer,
        starts=np.cumsum(counts) - counts,
        counts=counts,
        nonempty=nonempty,
        pairable=pairable,
        pair_groups=np.flatnonzero((nonempty.sizes >= 2) & (pairable.sizes >= 1)),
        labels=images.labels,
        drawers=images.drawers,
    )


def _by_another_drawer(index: _Index, a: Indices, classes: Indices, rng: np.random.Generator) -> Indices:
    """Draw a picture of each of the classes by another drawer than that of `a`, or at least not `a`, if there is one."""
    keys = index.key(classes, index.drawers[a])
    begin = np.searchsorted(index.keys, keys, side="left") - index.starts[classes]
    end = np.searchsorted(index.keys, keys, side="right") - index.starts[classes]
    unknown = index.drawers[a] < 0
    if unknown.any():
        # With unknown drawers only the picture itself is excluded, within its own class.
        place = np.empty(len(index.ordered), dtype=np.int64)
        place[index.ordered] = np.arange(len(index.ordered))
        own = place[a] - index.starts[classes]
        begin = np.where(unknown, np.where(index.labels[a] == classes, own, 0), begin)
        end = np.where(unknown, np.where(index.labels[a] == classes, own + 1, 0), end)
    only_that_drawer = end - begin >= index.counts[classes]
    begin, end = np.where(only_that_drawer, 0, begin), np.where(only_that_drawer, 0, end)
    # Draw among the others, then skip the excluded range.
    position = rng.integers(0, index.counts[classes] - (end - begin))
    position += np.where(position >= begin, end - begin, 0)
    return index.ordered[index.starts[classes] + position]


def _even_share(groups: Indices, count: int, rng: np.random.Generator) -> Indices:
    """(count,): each group equally often; the remainder are distinct random groups."""
    whole, rest = divmod(count, len(groups))
    return np.concatenate([np.repeat(groups, whole), rng.permutation(groups)[:rest]])


def _distinct(sizes: Indices, take: int, rng: np.random.Generator) -> Indices:
    """For each row, `take` distinct numbers below its size, in random order: (rows, take).

    Floyd's algorithm (Bentley, Floyd, "Programming pearls: a sample of brilliance", 1987) over all rows at once; its cost
    does not depend on the sizes.
    """
    chosen = np.full((len(sizes), take), -1, dtype=np.int64)
    for column in range(take):
        last = sizes - take + column
        drawn = rng.integers(0, last + 1)
        taken = (chosen[:, :column] == drawn[:, None]).any(axis=1)
        chosen[:, column] = np.where(taken, last, drawn)
    return rng.permuted(chosen, axis=1)
