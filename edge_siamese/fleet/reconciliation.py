"""Finds what was changed on this device since it was last alike with the fleet, and what the fleet has to change here.

Three are compared: the store, what was shown when it was last looked at, and what the registers say. Where the store
is neither as it was nor as the registers want it, somebody changed it here, and the change gets a stamp. So an undo,
an import, or a crash amid a change need no care of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from edge_siamese.fleet.messages import printable
from edge_siamese.fleet.state import Life, Name, ObjectState, Place, Resolved, ViewState, resolve
from edge_siamese.store.replication import Batch, ObjectRow, Snapshot, ViewContent, ViewRow, ViewWithContent


@dataclass(frozen=True, slots=True)
class ShownObject:
    """An object as the store had it."""

    there: bool
    name: str


@dataclass(frozen=True, slots=True)
class ShownView:
    """A view as the store had it."""

    owner: str
    alive: bool


@dataclass
class Known:
    """All that a device knows of its fleet."""

    objects: dict[str, ObjectState] = field(default_factory=dict)
    views: dict[str, ViewState] = field(default_factory=dict)
    shown_objects: dict[str, ShownObject] = field(default_factory=dict)
    shown_views: dict[str, ShownView] = field(default_factory=dict)


@dataclass(frozen=True)
class Changes:
    """Registers that were set anew."""

    objects: dict[str, ObjectState]
    views: dict[str, ViewState]

    def __len__(self) -> int:
        return len(self.objects) + len(self.views)


def local_changes(
    store: Snapshot, known: Known, stamp: Callable[[], str], *, restored: bool = False, complete: bool = True
) -> Changes:
    """What was changed on this device.

    A row that is missing tells nothing: the store may have been repaired or purged. Only one that is marked as deleted
    was deleted by somebody.

    Args:
        store: as it is.
        known: as it was, and what the fleet wants.
        stamp: gives a stamp for each change.
        restored: the store was brought back from a copy, so that what it has otherwise than before is not a change
            that anybody made.
        complete: all that the broker keeps was seen, so that what is not known is new.
    """
    resolved = resolve(known.objects, known.views)
    views: dict[str, ViewState] = {}
    left = {row.owner for row in store.views.values() if row.kind == "view" and not row.deleted}
    for uid, row in store.views.items():
        owner = store.objects[row.owner]
        view = known.views.get(uid)
        if view is None:
            if complete and not (row.deleted or owner.deleted):
                place = Place(stamp(), row.owner, True)
                views[uid] = ViewState(row.kind, printable(row.created), printable(row.source), place)
            continue
        base, now = known.shown_views.get(uid), ShownView(row.owner, not row.deleted)
        if base is None or restored or now in (base, ShownView(view.place.object, view.place.alive)):
            continue
        views[uid] = replace(view, place=Place(stamp(), now.owner, now.alive))
    objects: dict[str, ObjectState] = {}
    for uid, item in store.objects.items():
        state = known.objects.get(uid)
        if state is None:
            if complete and not item.deleted and uid in left:
                life = Life(stamp(), "alive")
                objects[uid] = ObjectState(printable(item.created), Name(stamp(), item.name), life)
            continue
        shown = known.shown_objects.get(uid)
        if shown is None or restored:
            continue
        new = state
        there, wanted = not item.deleted, uid in resolved.objects
        if there and not shown.there and not wanted and state.life.value != "alive":
            new = replace(new, life=Life(stamp(), "alive"))
        elif not there and shown.there and wanted and uid in left:
            # Without a view left it was merged, or its last view removed: the views say that.
            new = replace(new, life=Life(stamp(), "forgotten"))
        if there and item.name not in (shown.name, resolved.objects.get(uid)):
            new = replace(new, name=Name(stamp(), item.name))
        if new is not state:
            objects[uid] = new
    return Changes(objects, views)


def restamped(known: Known, stamp: Callable[[], str], is_late: Callable[[str], bool]) -> Changes:
    """What this device took or made while its clock was wrong by years, with stamps that others take."""
    objects: dict[str, ObjectState] = {}
    for uid, state in known.objects.items():
        if is_late(state.latest):
            name = replace(state.name, stamp=stamp()) if is_late(state.name.stamp) else state.name
            life = replace(state.life, stamp=stamp()) if is_late(state.life.stamp) else state.life
            objects[uid] = replace(state, name=name, life=life)
    views = {
        uid: replace(view, place=replace(view.place, stamp=stamp()))
        for uid, view in known.views.items()
        if is_late(view.latest)
    }
    return Changes(objects, views)


@dataclass(frozen=True)
class Missing:
    """What the store needs to be as the registers want it."""

    batch: Batch
    contents: list[str]
    """Views whose content has to be fetched first."""


def store_changes(
    store: Snapshot,
    known: Known,
    resolved: Resolved,
    contents: Mapping[str, ViewContent] = {},
) -> Missing:
    """What has to be changed in a store of which all changes are known.

    Args:
        store: as it is.
        known: the registers.
        resolved: what they say.
        contents: of views that have come.
    """
    batch = Batch()
    by_owner: dict[str, list[str]] = defaultdict(list)
    for uid, owner in resolved.views.items():
        if known.views[uid].kind == "view" and (uid in store.views or uid in contents):
            by_owner[owner].append(uid)
    there = {uid: name for uid, name in resolved.objects.items() if uid in by_owner}
    for uid, name in there.items():
        item = store.objects.get(uid)
        if item is None:
            batch.objects.append(ObjectRow(uid, name, known.objects[uid].created, False))
        elif item.deleted or item.name != name:
            batch.objects.append(item._replace(name=name, deleted=False))
    for uid, item in store.objects.items():
        if not item.deleted and uid in known.objects and uid not in there:
            batch.objects.append(item._replace(deleted=True))
    present = store.objects.keys() | there.keys()
    for uid, row in store.views.items():
        if uid in known.views and (new := _wanted(row, known.views[uid].place, present)) != row:
            batch.views.append(new)
    missing = []
    for uid, owner in resolved.views.items():
        if uid in store.views:
            continue
        if uid not in contents:
            # Of what an object is not, something is to be known once it is there.
            if owner in there or known.views[uid].kind == "view":
                missing.append(uid)
        elif owner in there:
            view = known.views[uid]
            row = ViewRow(uid, owner, view.kind, view.created, view.source, False)
            batch.new_views.append(ViewWithContent(row, contents[uid]))
    return Missing(batch, missing)


def _wanted(row: ViewRow, place: Place, present: Collection[str]) -> ViewRow:
    """A view's row as its register wants it; one whose object never came here is only hidden."""
    if place.object in present:
        return row._replace(owner=place.object, deleted=not place.alive)
    return row._replace(deleted=True)


def after(store: Snapshot, batch: Batch) -> Snapshot:
    """The store once a batch was applied."""
    objects = store.objects | {item.uid: item for item in batch.objects}
    views = store.views | {row.uid: row for row in batch.views}
    views |= {arrival.row.uid: arrival.row for arrival in batch.new_views}
    return Snapshot(store.revision + 1, objects, views)


def shown_by(store: Snapshot, known: Known) -> tuple[dict[str, ShownObject], dict[str, ShownView]]:
    """What a store shows of what the fleet knows, where that is not noted yet."""
    objects = {
        uid: ShownObject(not item.deleted, item.name)
        for uid, item in store.objects.items()
        if uid in known.objects
    }
    views = {
        uid: ShownView(row.owner, not row.deleted) for uid, row in store.views.items() if uid in known.views
    }
    return (
        {uid: item for uid, item in objects.items() if known.shown_objects.get(uid) != item},
        {uid: item for uid, item in views.items() if known.shown_views.get(uid) != item},
    )
