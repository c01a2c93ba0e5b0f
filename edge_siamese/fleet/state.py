"""The replicated state of a fleet, how two replicas merge, and the objects that follow from it.

Everything that can change is a last-writer-wins register: a value and the stamp of the change that set it. Merging
keeps the value with the later stamp, so replicas that have seen the same changes are equal, in whatever order and
however often these arrived. Registers compare by stamp first; equal stamps, of two devices with the same id, are decided
by the value, so that all replicas decide alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, Literal

from msgspec import Meta

from edge_siamese.store.names import NameAllocator, name_key
from edge_siamese.validation import Record

LifeValue = Literal["alive", "forgotten"]
ViewKind = Literal["view", "negative"]
Part = Literal["objects", "views"]
Key = tuple[Part, str]
"""An object or a view, by its uid."""
Uid = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Text = Annotated[str, Meta(pattern=r"^[ -~]{0,80}\Z")]
"""Printable ASCII."""


class Name(Record, order=True):
    """The name given to an object by a user; two objects may have the same."""

    stamp: str
    value: str


class Life(Record, order=True):
    """Whether an object was forgotten. An object that is alive exists as long as it has a view. A merge only moves views,
    so views that other devices add to the merged object in the meantime are not lost."""

    stamp: str
    value: LifeValue


class Place(Record, order=True):
    """The object to which a view belongs, and whether the view still exists."""

    stamp: str
    object: Uid
    alive: bool


class ObjectState(Record):
    """The registers of one object."""

    created: Text
    """UTC, ISO 8601."""
    name: Name
    life: Life

    @property
    def latest(self) -> str:
        """The latest stamp."""
        return max(self.name.stamp, self.life.stamp)

    def merged(self, other: ObjectState) -> ObjectState:
        """Return the later value of each register."""
        created = min(self.created, other.created)
        return ObjectState(created, max(self.name, other.name), max(self.life, other.life))


class ViewState(Record):
    """The register of one view or negative, and its constant properties."""

    kind: ViewKind
    created: Text
    source: Text
    place: Place

    @property
    def latest(self) -> str:
        """The stamp."""
        return self.place.stamp

    def merged(self, other: ViewState) -> ViewState:
        """Return the later value of the register."""
        constants = min((self.kind, self.created, self.source), (other.kind, other.created, other.source))
        return ViewState(*constants, max(self.place, other.place))


@dataclass
class Registers:
    """Objects and views by uid."""

    objects: dict[str, ObjectState] = field(default_factory=dict)
    views: dict[str, ViewState] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.objects) + len(self.views)

    def part(self, part: Part) -> dict[str, Any]:
        """Return the objects or the views."""
        return self.objects if part == "objects" else self.views

    def all_keys(self) -> list[Key]:
        """Return the keys of all objects and views."""
        return [*(("objects", uid) for uid in self.objects), *(("views", uid) for uid in self.views)]


@dataclass(frozen=True)
class Resolved:
    """The objects and views that every device must have."""

    objects: Mapping[str, str]
    """Name by uid."""
    views: Mapping[str, str]
    """The object's uid by the view's; of views and negatives."""


def resolve(objects: Mapping[str, ObjectState], views: Mapping[str, ViewState]) -> Resolved:
    """Return the existing objects and views; equal registers give equal results on all devices."""
    owners = {view.place.object for view in views.values() if view.place.alive and view.kind == "view"}
    existing = {uid: state for uid, state in objects.items() if state.life.value == "alive" and uid in owners}
    names = _unique_names((state.name, uid) for uid, state in existing.items())
    owner_of = {
        uid: view.place.object
        for uid, view in views.items()
        if view.place.alive and view.place.object in existing
    }
    return Resolved(names, owner_of)


_cached_name_key = lru_cache(maxsize=20_000)(name_key)


def _unique_names(chosen: Iterable[tuple[Name, str]]) -> dict[str, str]:
    """Return a unique name for each uid: the earliest keeps the name, the others get a number.

    Numbers are assigned last, so that none takes a name that a user chose.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    duplicates: list[tuple[Name, str]] = []
    for name, uid in sorted(chosen):
        if (key := _cached_name_key(name.value)) in taken:
            duplicates.append((name, uid))
        else:
            taken.add(key)
            names[uid] = name.value
    allocator = NameAllocator(taken)
    for name, uid in duplicates:
        names[uid] = allocator.free_name(name.value)
        taken.add(_cached_name_key(names[uid]))
    return names
