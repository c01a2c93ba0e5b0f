"""Draws what training and evaluation consume: verification pairs, few-shot episodes and class-balanced
batches.

All of them are functions of an `ImageSet` and a numpy Generator, and return indices into `ImageSet.images`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from edge_siamese.errors import DataError
from export.data.images import ImageSet

Indices = npt.NDArray[np.int64]

EPISODES_AT_ONCE = 512


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
    """One N-way K-shot task; row i of both arrays is the same class."""

    supports: Indices
    """(way, shot): indices into `ImageSet.images`."""
    queries: Indices
    """(way, queries), none of which is a support."""


def verification_pairs(images: ImageSet, count: int, rng: np.random.Generator) -> Pairs:
    """Half pairs of one class, half of two classes of one group, equally many of both from each group.

    As in Koch, Zemel, Salakhutdinov 2015, section 4.1: each alphabet is represented equally, the characters
    within it are drawn uniformly. The two pictures of a pair are by different drawers where drawers are
    known, so that neither half can be told by its pen. What does not divide evenly over the groups goes to
    groups chosen at random, one pair each; of an odd count, the half of two classes gets one more. Groups
    that cannot give pairs of both kinds are left out.

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
    first = np.where(same, index.twofold.draw(groups, rng), index.filled.draw(groups, rng))
    second = np.where(same, first, index.filled.draw_other(groups, first, rng))
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
    """N-way K-shot episodes (Vinyals et al., "Matching Networks for One Shot Learning", 2016).

    Args:
        images: classes to draw from; those with fewer than `shot + queries` pictures are never drawn.
        count: number of episodes.
        way: classes an episode.
        shot: supports a class.
        queries: queries a class.
        rng: decides all draws.
        within_group: draw all classes of an episode from one group (alphabet), the group uniformly among
            those with enough classes, as in the published Omniglot runs; otherwise from all classes alike.

    Raises:
        DataError: at the call, if there are too few classes or pictures.
    """
    if way < 2 or shot < 1 or queries < 1 or count < 1:
        raise DataError(
            f"episodes need at least 2 ways, 1 shot, 1 query and 1 episode, not {way}-way {shot}-shot, "
            f"{queries} queries, {count} episodes"
        )
    index = _index(images)
    rich = np.flatnonzero(index.counts >= shot + queries)
    pools = _Pools.of(rich, images.class_groups if within_group else np.zeros_like(images.class_groups))
    usable = np.flatnonzero(pools.sizes >= way)
    if not len(usable):
        most = int(pools.sizes.max(initial=0))
        where = "and any one group has" if within_group else "and there are"
        raise DataError(
            f"{images.name}: {way}-way episodes with {shot + queries} pictures a class need {way} such classes, "
            f"{where} {most} at most"
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
    for begin in range(0, count, EPISODES_AT_ONCE):
        rows = min(EPISODES_AT_ONCE, count - begin)
        groups = usable[rng.integers(0, len(usable), rows)]
        classes = pools.classes[
            pools.starts[groups][:, None] + _distinct(pools.sizes[groups], way, rng)
        ].ravel()
        chosen = index.starts[classes][:, None] + _distinct(index.counts[classes], shot + queries, rng)
        drawn = index.ordered[chosen].reshape(rows, way, shot + queries)
        for row in drawn:
            yield Episode(supports=row[:, :shot], queries=row[:, shot:])


class _Pools(NamedTuple):
    """Classes sorted by group, so that a draw from a group is an offset."""

    classes: Indices
    starts: Indices
    sizes: Indices

    @classmethod
    def of(cls, classes: Indices, class_groups: Indices) -> _Pools:
        groups = class_groups[classes]
        sizes = np.bincount(groups, minlength=int(class_groups.max(initial=0)) + 1).astype(np.int64)
        return cls(classes[np.argsort(groups, kind="stable")], np.cumsum(sizes) - sizes, sizes)

    def draw(self, groups: Indices, rng: np.random.Generator) -> Indices:
        """One class of each of the groups."""
        return self.classes[self.starts[groups] + rng.integers(0, self.sizes[groups])]

    def draw_other(self, groups: Indices, than: Indices, rng: np.random.Generator) -> Indices:
        """One class of each of the groups, different from `than`, which is in the same group."""
        where = np.empty(int(self.classes.max()) + 1, dtype=np.int64)
        where[self.classes] = np.arange(len(self.classes))
        sizes, starts = self.sizes[groups], self.starts[groups]
        return self.classes[starts + (where[than] - starts + rng.integers(1, sizes)) % sizes]


class _Index(NamedTuple):
    """What every draw needs of an image set: its pictures sorted by class and, within the class, by drawer."""

    ordered: Indices
    """(N,): indices of pictures."""
    keys: Indices
    """(N,): ascending; class and drawer of `ordered` in one number."""
    drawers_at_most: int
    starts: Indices
    counts: Indices
    filled: _Pools
    """Classes with a picture."""
    twofold: _Pools
    """Classes that can give two pictures by different drawers, where drawers are known."""
    pair_groups: Indices
    """Groups that can give both kinds of pairs."""
    labels: Indices
    drawers: Indices

    def key(self, classes: Indices, drawers: Indices) -> Indices:
        return classes * (self.drawers_at_most + 2) + drawers + 1


_INDICES: WeakKeyDictionary[ImageSet, _Index] = WeakKeyDictionary()


def _index(images: ImageSet) -> _Index:
    """Made once an image set: a batch is drawn at every step of training."""
    found = _INDICES.get(images)
    if found is None:
        found = _INDICES[images] = _make_index(images)
    return found


def _make_index(images: ImageSet) -> _Index:
    counts = np.bincount(images.labels, minlength=images.classes).astype(np.int64)
    ordered = np.lexsort((images.drawers, images.labels)).astype(np.int64)
    most = int(images.drawers.max(initial=-1))
    keys = images.labels[ordered] * (most + 2) + images.drawers[ordered] + 1
    # A picture by an unknown hand counts as a hand of its own.
    new_hand = np.diff(keys, prepend=-1).astype(bool) | (images.drawers[ordered] < 0)
    hands = np.bincount(images.labels[ordered][new_hand], minlength=images.classes)
    filled = _Pools.of(np.flatnonzero(counts > 0), images.class_groups)
    twofold = _Pools.of(np.flatnonzero(hands > 1), images.class_groups)
    return _Index(
        ordered=ordered,
        keys=keys,
        drawers_at_most=most,
        starts=np.cumsum(counts) - counts,
        counts=counts,
        filled=filled,
        twofold=twofold,
        pair_groups=np.flatnonzero((filled.sizes >= 2) & (twofold.sizes >= 1)),
        labels=images.labels,
        drawers=images.drawers,
    )


def _by_another_drawer(index: _Index, a: Indices, classes: Indices, rng: np.random.Generator) -> Indices:
    """A picture of each of the classes that is not by the drawer of `a`, nor `a` itself, where the class has one."""
    wanted = index.key(classes, index.drawers[a])
    begin = np.searchsorted(index.keys, wanted, side="left") - index.starts[classes]
    end = np.searchsorted(index.keys, wanted, side="right") - index.starts[classes]
    unknown = index.drawers[a] < 0
    if unknown.any():
        # Of an unknown hand only the picture itself is excluded, and only within its own class.
        place = np.empty(len(index.ordered), dtype=np.int64)
        place[index.ordered] = np.arange(len(index.ordered))
        own = place[a] - index.starts[classes]
        begin = np.where(unknown, np.where(index.labels[a] == classes, own, 0), begin)
        end = np.where(unknown, np.where(index.labels[a] == classes, own + 1, 0), end)
    only_that_drawer = end - begin >= index.counts[classes]
    begin, end = np.where(only_that_drawer, 0, begin), np.where(only_that_drawer, 0, end)
    # Draw among the others, then step over the excluded run.
    position = rng.integers(0, index.counts[classes] - (end - begin))
    position += np.where(position >= begin, end - begin, 0)
    return index.ordered[index.starts[classes] + position]


def _even_share(groups: Indices, count: int, rng: np.random.Generator) -> Indices:
    """(count,): each group equally often, the remainder to groups drawn without repetition."""
    whole, rest = divmod(count, len(groups))
    return np.concatenate([np.repeat(groups, whole), rng.permutation(groups)[:rest]])


def _distinct(sizes: Indices, take: int, rng: np.random.Generator) -> Indices:
    """For each row, `take` distinct numbers below its size, in random order: (rows, take).

    Floyd's algorithm (Bentley, Floyd, "Programming pearls: a sample of brilliance", 1987), over all rows at
    once: the work does not depend on the sizes.
    """
    chosen = np.full((len(sizes), take), -1, dtype=np.int64)
    for column in range(take):
        last = sizes - take + column
        drawn = rng.integers(0, last + 1)
        taken = (chosen[:, :column] == drawn[:, None]).any(axis=1)
        chosen[:, column] = np.where(taken, last, drawn)
    return rng.permuted(chosen, axis=1)
