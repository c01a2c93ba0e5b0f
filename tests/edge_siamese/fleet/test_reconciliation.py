"""Three-way reconciliation of store, registers and observations."""

from __future__ import annotations

import itertools

from msgspec.structs import replace

from edge_siamese.fleet.reconciliation import (
    FleetState,
    ObservedObject,
    ObservedView,
    Registers,
    local_changes,
    new_observations,
    plan_store_changes,
    snapshot_after,
)
from edge_siamese.fleet.state import Life, Name, Place, resolve
from edge_siamese.store.replication import Batch, ObjectRow, Snapshot, ViewContent, ViewRow
from tests.edge_siamese.fleet.test_state import CREATED, OBJECTS, VIEWS, a_view, an_object, stamp

MUG, PEN, KEY = OBJECTS[:3]
SIDE, TOP, NIB, NOT = VIEWS[:4]
CONTENT = ViewContent("tiny-1", b"1234", ())


def item(uid: str, name: str, deleted: bool = False) -> ObjectRow:
    return ObjectRow(uid, name, CREATED, deleted)


def row(uid: str, owner: str, deleted: bool = False, kind: str = "view") -> ViewRow:
    return ViewRow(uid, owner, kind, CREATED, "camera", deleted)


def snapshot(*rows: ObjectRow | ViewRow, revision: int = 5) -> Snapshot:
    return Snapshot(
        revision,
        {found.uid: found for found in rows if isinstance(found, ObjectRow)},
        {found.uid: found for found in rows if isinstance(found, ViewRow)},
    )


STORE = snapshot(item(MUG, "mug"), item(PEN, "pen"), row(SIDE, MUG), row(TOP, MUG), row(NIB, PEN))


def settled(store: Snapshot = STORE) -> FleetState:
    """A fleet that knows all of a store, which shows it."""
    known = FleetState(
        {uid: an_object(found.name) for uid, found in store.objects.items()},
        {uid: a_view(found.owner) for uid, found in store.views.items()},
    )
    known.observed_objects, known.observed_views = new_observations(store, known)
    return known


def changes(store: Snapshot, known: FleetState, **options: bool) -> Registers:
    numbers = itertools.count(100)
    return local_changes(store, known, lambda: stamp(next(numbers), "here"), **options)


def with_rows(*rows: ObjectRow | ViewRow) -> Snapshot:
    """The store with other rows."""
    other = snapshot(*rows)
    return Snapshot(6, STORE.objects | other.objects, STORE.views | other.views)


def test_new_objects_are_published_once_reading_is_complete() -> None:
    assert changes(STORE, FleetState(), complete=False) == Registers()
    found = changes(STORE, FleetState())
    assert found.objects.keys() == {MUG, PEN}
    assert found.views.keys() == {SIDE, TOP, NIB}
    assert found.objects[PEN].name.value == "pen"
    assert found.objects[PEN].life.value == "alive"
    assert found.views[TOP].place.object == MUG
    stamps = [view.place.stamp for view in found.views.values()] + [
        register.stamp for state in found.objects.values() for register in (state.name, state.life)
    ]
    assert len(set(stamps)) == 7


def test_an_unchanged_store_has_no_changes() -> None:
    assert changes(STORE, settled()) == Registers()


def test_each_change_sets_its_register() -> None:
    known = settled()
    forgotten = changes(with_rows(item(MUG, "mug", deleted=True)), known)
    assert forgotten == Registers(
        {MUG: replace(known.objects[MUG], life=Life(stamp(100, "here"), "forgotten"))}, {}
    )
    renamed = changes(with_rows(item(MUG, "cup")), known)
    assert renamed == Registers({MUG: replace(known.objects[MUG], name=Name(stamp(100, "here"), "cup"))}, {})
    removed = changes(with_rows(row(TOP, MUG, deleted=True)), known)
    assert removed == Registers({}, {TOP: a_view(MUG, alive=False).merged(removed.views[TOP])})
    assert removed.views[TOP].place == Place(stamp(100, "here"), MUG, False)


def test_a_merge_moves_views_only() -> None:
    found = changes(with_rows(item(MUG, "mug", deleted=True), row(SIDE, PEN), row(TOP, PEN)), settled())
    assert found.objects == {}
    assert {uid: view.place.object for uid, view in found.views.items()} == {SIDE: PEN, TOP: PEN}


def test_undo_restores_forgotten_objects() -> None:
    gone = with_rows(item(MUG, "mug", deleted=True))
    known = settled()
    known.objects[MUG] = an_object("mug", life="forgotten", lived=9)
    known.observed_objects[MUG] = ObservedObject(False, "mug")
    assert changes(gone, known) == Registers()
    back = changes(with_rows(item(MUG, "mug (2)")), known)
    assert back.objects[MUG].life.value == "alive"
    assert back.objects[MUG].name.value == "mug (2)"
    assert back.views == {}


def test_a_missing_row_is_not_a_deletion_and_is_fetched_again() -> None:
    known = settled()
    rest = snapshot(item(PEN, "pen"), row(NIB, PEN))
    assert changes(rest, known) == Registers()
    missing = plan_store_changes(rest, known, resolve(known.objects, known.views))
    assert missing.batch == Batch()
    assert sorted(missing.missing) == [SIDE, TOP]
    brought = plan_store_changes(rest, known, resolve(known.objects, known.views), {TOP: CONTENT})
    assert brought.batch.objects == [item(MUG, "mug")]
    assert [found.row for found in brought.batch.new_views] == [row(TOP, MUG)]
    assert brought.missing == [SIDE]


def test_differences_of_a_restored_store_are_no_changes() -> None:
    known = settled()
    known.objects[MUG] = an_object("mug", life="forgotten", lived=9)
    known.observed_objects[MUG] = ObservedObject(False, "mug")
    known.observed_views[TOP] = ObservedView(known.observed_views[TOP].owner, False)
    known.views[TOP] = a_view(MUG, placed=9, alive=False)
    copy = with_rows(item(KEY, "key"), row(NOT, KEY))
    found = changes(copy, known, restored=True)
    assert (found.objects.keys(), found.views.keys()) == ({KEY}, {NOT})
    batch = plan_store_changes(copy, known, resolve(known.objects, known.views)).batch
    assert batch.objects == [item(MUG, "mug", deleted=True)]
    assert batch.views == [row(TOP, MUG, deleted=True)]


def test_applied_remote_changes_are_not_local_changes() -> None:
    """As after a crash between the store's change and the note of it."""
    known = settled()
    known.objects[MUG] = an_object("cup", named=9)
    known.views[TOP] = a_view(PEN, placed=9)
    store = with_rows(item(MUG, "cup"), row(TOP, PEN))
    assert changes(store, known) == Registers()


def test_a_local_change_during_a_remote_one_is_detected() -> None:
    known = settled()
    known.objects[MUG] = an_object("cup", named=9)
    found = changes(with_rows(item(MUG, "pot")), known)
    assert found.objects[MUG].name.value == "pot"


def test_the_plan_applies_the_registers_to_the_store() -> None:
    known = settled()
    known.objects[MUG] = an_object("pen", named=9)
    known.objects[PEN] = an_object("pen", named=10)
    known.views[NIB] = a_view(PEN, placed=9)
    known.views[TOP] = a_view(PEN, placed=9)
    missing = plan_store_changes(STORE, known, resolve(known.objects, known.views))
    assert missing.batch.objects == [item(MUG, "pen"), item(PEN, "pen (2)")]
    assert missing.batch.views == [row(TOP, PEN)]
    store = snapshot_after(STORE, missing.batch)
    assert store.revision == 6
    assert len(plan_store_changes(store, known, resolve(known.objects, known.views)).batch) == 0


def test_a_view_is_hidden_until_its_object_arrives() -> None:
    known = settled()
    known.views[TOP] = a_view(KEY, placed=9)
    hidden = plan_store_changes(STORE, known, resolve(known.objects, known.views)).batch
    assert hidden == Batch([], [row(TOP, MUG, deleted=True)])
    store = snapshot_after(STORE, hidden)
    known.objects[KEY] = an_object("key")
    shown = plan_store_changes(store, known, resolve(known.objects, known.views)).batch
    assert shown == Batch([item(KEY, "key")], [row(TOP, KEY)])


def test_an_object_waits_for_a_view_to_recognize_it_by() -> None:
    known = FleetState({MUG: an_object("mug")}, {SIDE: a_view(MUG), NOT: a_view(MUG, kind="negative")})
    resolved = resolve(known.objects, known.views)
    empty = snapshot()
    waiting = plan_store_changes(empty, known, resolved)
    assert (waiting.batch, waiting.missing) == (Batch(), [SIDE])
    negative = plan_store_changes(empty, known, resolved, {NOT: CONTENT})
    assert (negative.batch, negative.missing) == (Batch(), [SIDE])
    ready = plan_store_changes(empty, known, resolved, {SIDE: CONTENT})
    assert (len(ready.batch.objects), len(ready.batch.new_views), ready.missing) == (1, 1, [NOT])
