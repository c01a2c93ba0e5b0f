"""What a fleet knows of its objects, how two such states become one, and what every device has to show of it.

All that can change is kept in registers: a value and the stamp of the change that set it. Of two values the one with
the later stamp stays, whoever brings it, however often and in whatever order; so devices that have seen the same
changes hold the same registers. What is to be shown follows from the registers alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from edge_siamese.store.names import NameAllocator, name_key

LifeValue = Literal["alive", "forgotten"]
ViewKind = Literal["view", "negative"]


@dataclass(frozen=True, order=True, slots=True)
class Name:
    """What somebody wants an object to be called; two objects may want the same."""

    stamp: str
    value: str


@dataclass(frozen=True, order=True, slots=True)
class Life:
    """Whether somebody has forgotten an object. One that is alive is there for as long as it has a view: so a merge
    only moves views, and of what others add to the former object meanwhile nothing is lost."""

    stamp: str
    value: LifeValue


@dataclass(frozen=True, order=True, slots=True)
class Place:
    """Whose view it is, and whether it is there."""

    stamp: str
    object: str
    alive: bool


@dataclass(frozen=True, slots=True)
class ObjectState:
    """The registers of one object."""

    created: str
    """When it was registered: UTC, ISO 8601."""
    name: Name
    life: Life

    @property
    def latest(self) -> str:
        """The latest of its stamps."""
        return max(self.name.stamp, self.life.stamp)

    def merged(self, other: ObjectState) -> ObjectState:
        """The later value of each register. Equal stamps with other values, of two devices with one id, are settled
        by the values, so that all settle them alike."""
        created = min(self.created, other.created)
        return ObjectState(created, max(self.name, other.name), max(self.life, other.life))


@dataclass(frozen=True, slots=True)
class ViewState:
    """The register of one view or negative, and what never changes of it."""

    kind: ViewKind
    created: str
    source: str
    place: Place

    @property
    def latest(self) -> str:
        """Its stamp."""
        return self.place.stamp

    def merged(self, other: ViewState) -> ViewState:
        """As for objects."""
        fixed = min(
            (self.kind, self.created, self.source),
            (other.kind, other.created, other.source),
        )
        return ViewState(*fixed, max(self.place, other.place))


@dataclass(frozen=True)
class Resolved:
    """What every device has to show."""

    objects: Mapping[str, str]
    """uid to name: those that are there."""
    views: Mapping[str, str]
    """uid to the object's uid: the views and negatives of these."""


def resolve(objects: Mapping[str, ObjectState], views: Mapping[str, ViewState]) -> Resolved:
    """What there is, by the registers alone: equal registers give equal results on all devices."""
    holders = {view.place.object for view in views.values() if view.place.alive and view.kind == "view"}
    there = {uid: state for uid, state in objects.items() if state.life.value == "alive" and uid in holders}
    named = _named((state.name, uid) for uid, state in there.items())
    seen = {
        uid: view.place.object
        for uid, view in views.items()
        if view.place.alive and view.place.object in there
    }
    return Resolved(named, seen)


_key = lru_cache(maxsize=20_000)(name_key)


def _named(wanted: Iterable[tuple[Name, str]]) -> dict[str, str]:
    """uid to a name of its own: who wanted it first has it, the others get a number.

    Those with the name that they want go first, so that a number never takes a name away that somebody chose.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    late: list[tuple[Name, str]] = []
    for name, uid in sorted(wanted):
        if (key := _key(name.value)) in taken:
            late.append((name, uid))
        else:
            taken.add(key)
            found[uid] = name.value
    allocator = NameAllocator(taken)
    for name, uid in late:
        given = allocator.free_name(name.value)
        taken.add(_key(given))
        found[uid] = given
    return found
