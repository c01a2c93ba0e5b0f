"""Three-way comparison of store, registers and the store as last observed.

Where the store matches neither the last observation nor the registers, it was changed on this device, and the change gets a
stamp. So undo, import and a crash during a change need no special code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from edge_siamese.fleet.messages import to_printable
from edge_siamese.fleet.state import Life, Name, ObjectState, Place, Registers, Resolved, ViewState, resolve
from edge_siamese.store.replication import Batch, ObjectRow, Snapshot, ViewContent, ViewRow, ViewWithContent


@dataclass(frozen=True, slots=True)
class ObservedObject:
    """State of an object in the store at the last observation."""

    exists: bool
    name: str


@dataclass(frozen=True, slots=True)
class ObservedView:
    """State of a view in the store at the last observation."""

    owner: str
    exists: bool


@dataclass
class FleetState(Registers):
    """A device's knowledge of its fleet: registers, and the store as last observed."""

    observed_objects: dict[str, ObservedObject] = field(default_factory=dict)
    observed_views: dict[str, ObservedView] = field(default_factory=dict)


def local_changes(
    store: Snapshot,
    known: FleetState,
    stamp: Callable[[], str],
    *,
    restored: bool = False,
    complete: bool = True,
) -> Registers:
    """Return registers for what was changed on this device.

    A missing row is no change: the store may have been repaired or purged. Only a row that is marked as deleted was
    deleted on purpose.

    Args:
        store: its current contents.
        known: registers and observations.
        stamp: returns a new stamp, called for each change.
        restored: whether the store was restored from a copy, so that its differences are not changes.
        complete: whether everything that the broker retains was read, so that unknown objects are new.
    """
    resolved = resolve(known.objects, known.views)
    with_views = {row.owner for row in store.views.values() if row.kind == "view" and not row.deleted}
    changes = Registers()
    for uid, row in store.views.items():
        view = known.views.get(uid)
        if view is None:
            if complete and not (row.deleted or store.objects[row.owner].deleted):
                place = Place(stamp(), row.owner, True)
                created, source = to_printable(row.created), to_printable(row.source)
                changes.views[uid] = ViewState(row.kind, created, source, place)
            continue
        before, now = known.observed_views.get(uid), ObservedView(row.owner, not row.deleted)
        desired = ObservedView(view.place.object, view.place.alive)
        if before is not None and not restored and now not in (before, desired):
            changes.views[uid] = replace(view, place=Place(stamp(), now.owner, now.exists))
    for uid, item in store.objects.items():
        state = known.objects.get(uid)
        if state is None:
            if complete and not item.deleted and uid in with_views:
                life = Life(stamp(), "alive")
                created = to_printable(item.created)
                changes.objects[uid] = ObjectState(created, Name(stamp(), item.name), life)
        elif (observed := known.observed_objects.get(uid)) is not None and not restored:
            new = _changed_object(
                item, state, observed, resolved.objects.get(uid), has_views=uid in with_views, stamp=stamp
            )
            if new is not state:
                changes.objects[uid] = new
    return changes


def _changed_object(
    row: ObjectRow,
    state: ObjectState,
    observed: ObservedObject,
    desired_name: str | None,
    *,
    has_views: bool,
    stamp: Callable[[], str],
) -> ObjectState:
    """Return the registers of a known object after the changes on this device; `state` itself if there are none."""
    new, exists, desired = state, not row.deleted, desired_name is not None
    if exists and not observed.exists and not desired and state.life.value != "alive":
        new = replace(new, life=Life(stamp(), "alive"))
    elif not exists and observed.exists and desired and has_views:
        # Without a view it was merged, or lost its last view, which the views' registers say.
        new = replace(new, life=Life(stamp(), "forgotten"))
    if exists and row.name not in (observed.name, desired_name):
        new = replace(new, name=Name(stamp(), row.name))
    return new


def restamp(known: Registers, stamp: Callable[[], str], is_ahead: Callable[[str], bool]) -> Registers:
    """Return the registers whose stamps are too far ahead, as after a wrong clock, with new stamps."""
    changes = Registers()
    for uid, state in known.objects.items():
        if is_ahead(state.latest):
            name = replace(state.name, stamp=stamp()) if is_ahead(state.name.stamp) else state.name
            life = replace(state.life, stamp=stamp()) if is_ahead(state.life.stamp) else state.life
            changes.objects[uid] = replace(state, name=name, life=life)
    for uid, view in known.views.items():
        if is_ahead(view.latest):
            changes.views[uid] = replace(view, place=replace(view.place, stamp=stamp()))
    return changes


@dataclass(frozen=True)
class StorePlan:
    """Changes to apply to the store."""

    batch: Batch
    missing: list[str]
    """Views whose content has to be fetched first."""


def plan_store_changes(
    store: Snapshot,
    known: FleetState,
    resolved: Resolved,
    contents: Mapping[str, ViewContent] = {},
) -> StorePlan:
    """Return the changes that bring the store in line with the registers; all local changes must be in the registers.

    Args:
        store: its current contents.
        known: the registers.
        resolved: what they resolve to.
        contents: fetched contents of views.
    """
    batch = Batch()
    by_owner: dict[str, list[str]] = defaultdict(list)
    for uid, owner in resolved.views.items():
        if known.views[uid].kind == "view" and (uid in store.views or uid in contents):
            by_owner[owner].append(uid)
    desired = {uid: name for uid, name in resolved.objects.items() if uid in by_owner}
    batch.objects.extend(_object_rows(store, known, desired))
    present = store.objects.keys() | desired.keys()
    for uid, row in store.views.items():
        if uid in known.views and (new := _desired_row(row, known.views[uid].place, present)) != row:
            batch.views.append(new)
    missing = []
    for uid, owner in resolved.views.items():
        if uid in store.views:
            continue
        view = known.views[uid]
        if uid not in contents:
            # Negatives are of use only once the object exists.
            if owner in desired or view.kind == "view":
                missing.append(uid)
        elif owner in desired:
            row = ViewRow(uid, owner, view.kind, view.created, view.source, False)
            batch.new_views.append(ViewWithContent(row, contents[uid]))
    return StorePlan(batch, missing)


def _object_rows(store: Snapshot, known: FleetState, desired: Mapping[str, str]) -> list[ObjectRow]:
    """Return rows of objects that have to be added, changed or deleted."""
    rows = []
    for uid, name in desired.items():
        item = store.objects.get(uid)
        if item is None:
            rows.append(ObjectRow(uid, name, known.objects[uid].created, False))
        elif item.deleted or item.name != name:
            rows.append(item._replace(name=name, deleted=False))
    for uid, item in store.objects.items():
        if not item.deleted and uid in known.objects and uid not in desired:
            rows.append(item._replace(deleted=True))
    return rows


def _desired_row(row: ViewRow, place: Place, present: Collection[str]) -> ViewRow:
    """Return a view's row according to its register; a view of an object that is not here yet is hidden."""
    if place.object in present:
        return row._replace(owner=place.object, deleted=not place.alive)
    return row._replace(deleted=True)


def snapshot_after(store: Snapshot, batch: Batch) -> Snapshot:
    """Return the store's contents after a batch."""
    objects = store.objects | {item.uid: item for item in batch.objects}
    views = store.views | {row.uid: row for row in batch.views}
    views |= {new.row.uid: new.row for new in batch.new_views}
    return Snapshot(store.revision + 1, objects, views)


def new_observations(
    store: Snapshot, known: FleetState
) -> tuple[dict[str, ObservedObject], dict[str, ObservedView]]:
    """Return the store's objects and views that are in the registers and differ from the last observation."""
    objects = {
        uid: ObservedObject(not item.deleted, item.name)
        for uid, item in store.objects.items()
        if uid in known.objects
    }
    views = {
        uid: ObservedView(row.owner, not row.deleted)
        for uid, row in store.views.items()
        if uid in known.views
    }
    return (
        {uid: item for uid, item in objects.items() if known.observed_objects.get(uid) != item},
        {uid: item for uid, item in views.items() if known.observed_views.get(uid) != item},
    )
