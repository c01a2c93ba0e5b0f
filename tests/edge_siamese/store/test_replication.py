"""A store that is read as a whole and changed past its log: what came from elsewhere, an undo here leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_siamese.errors import StoreError
from edge_siamese.pictures import encode_png
from edge_siamese.store import SupportStore
from edge_siamese.store.replication import (
    Batch,
    ObjectRow,
    StoreChangedError,
    ViewContent,
    ViewRow,
    ViewWithContent,
    apply_batch,
    read_content,
    read_snapshot,
    revision,
)
from edge_siamese.store.undo_log import MAX_UNDOS, change_data
from tests.edge_siamese.store.samples import MODEL, NOW, names, open_store, picture, vector, view

MUG, PEN, KEY = (f"{number:032x}" for number in range(3))
SIDE, TOP = (f"{number:032x}" for number in range(10, 12))
CONTENT = ViewContent(MODEL, vector(1).tobytes(), (encode_png(picture(1)),))


def arrival(uid: str = SIDE, owner: str = MUG, content: ViewContent = CONTENT) -> ViewWithContent:
    return ViewWithContent(ViewRow(uid, owner, "view", NOW, "camera", False), content)


def batch_of_a_mug() -> Batch:
    return Batch([ObjectRow(MUG, "mug", NOW, False)], [], [arrival()])


def changes(store: SupportStore) -> int:
    found: int = store._database.read("SELECT count(*) FROM changes WHERE kind != 'replicated'")[0][0]
    return found


def test_an_object_comes_with_all_of_it_and_without_an_entry_in_the_log(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        before = revision(store)
        assert apply_batch(store, batch_of_a_mug(), before) == 0
        assert revision(store) == before + 1
        (known,) = store.objects()
        assert (known.uid, known.name, known.views, known.embedded, known.created) == (MUG, "mug", 1, 1, NOW)
        (entry,) = store.entries()
        assert entry.embeddings.tolist() == [vector(1).tolist()]
        assert store.crop(entry.view_ids[0]).tolist() == picture(1).tolist()
        assert read_content(store, SIDE) == CONTENT
        assert changes(store) == 0
        assert store.undo() is None


def test_a_snapshot_has_what_is_deleted_too(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        mug, pen = store.register("mug", view(1)), store.register("pen", view(2))
        store.add_view("mug", view(3))
        first = store.views("mug")[0]
        store.remove_view("mug", first.id)
        store.forget("pen")
        found = read_snapshot(store)
        assert found.revision == revision(store)
        assert found.objects == {
            mug.uid: ObjectRow(mug.uid, "mug", NOW, False),
            pen.uid: ObjectRow(pen.uid, "pen", NOW, True),
        }
        assert [(row.owner, row.deleted) for row in found.views.values()] == [
            (mug.uid, True),
            (pen.uid, False),
            (mug.uid, False),
        ]
        assert found.views[first.uid] == ViewRow(first.uid, mug.uid, "view", NOW, "camera", True)


def test_names_may_be_swapped_and_views_moved_in_one_batch(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        mug, pen = store.register("mug", view(1)), store.register("pen", view(2))
        (side,) = store.views("mug")
        now = read_snapshot(store)
        batch = Batch(
            [now.objects[mug.uid]._replace(name="pen"), now.objects[pen.uid]._replace(name="mug")],
            [now.views[side.uid]._replace(owner=pen.uid)],
        )
        apply_batch(store, batch, now.revision)
        assert {item.uid: (item.name, item.views) for item in store.objects()} == {
            mug.uid: ("pen", 0),
            pen.uid: ("mug", 2),
        }


def test_what_is_deleted_stays_for_a_return_and_goes_with_a_purge(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        apply_batch(store, batch_of_a_mug(), revision(store))
        store.register("pen", view(2))
        now = read_snapshot(store)
        apply_batch(store, Batch([now.objects[MUG]._replace(deleted=True)]), now.revision)
        assert names(store) == ["pen"]
        now = read_snapshot(store)
        assert now.objects[MUG].deleted
        apply_batch(store, Batch([now.objects[MUG]._replace(deleted=False)]), now.revision)
        assert names(store) == ["mug", "pen"]
        now = read_snapshot(store)
        apply_batch(store, Batch([now.objects[MUG]._replace(deleted=True)]), now.revision)
        for number in range(210):
            store.rename("pen", f"pen {number}")
            store.rename(f"pen {number}", "pen")
        assert MUG not in read_snapshot(store).objects
        assert read_content(store, SIDE) is None


def test_a_local_undo_takes_back_what_was_done_here_and_nothing_else(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.register("pen", view(2))
        apply_batch(store, batch_of_a_mug(), revision(store))
        undone = store.undo()
        assert undone is not None
        assert undone.text == 'undone: "pen" is no longer registered'
        assert store.undo() is None
        assert names(store) == ["mug"]


def test_what_was_deleted_elsewhere_an_undo_of_an_older_change_does_not_bring_back(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        mug = store.register("mug", view(1))
        store.rename("mug", "cup")
        now = read_snapshot(store)
        apply_batch(store, Batch([now.objects[mug.uid]._replace(deleted=True)]), now.revision)
        assert store.undo() is None
        assert names(store) == []


def test_a_store_that_has_changed_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        before = revision(store)
        store.register("pen", view(2))
        with pytest.raises(StoreChangedError):
            apply_batch(store, batch_of_a_mug(), before)
        assert names(store) == ["pen"]
        assert revision(store) == before + 1


def test_a_batch_that_cannot_be_has_changed_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.register("pen", view(2))
        batch = Batch([ObjectRow(MUG, "mug", NOW, False), ObjectRow(KEY, "PEN", NOW, False)], [], [arrival()])
        with pytest.raises(StoreError, match="nothing was changed"):
            apply_batch(store, batch, revision(store))
        assert names(store) == ["pen"]


def test_pictures_are_kept_where_they_are_wanted_or_needed(tmp_path: Path) -> None:
    other = replace(CONTENT, model_id="other-1")
    with open_store(tmp_path, keep_crops=False) as store:
        batch = Batch([ObjectRow(MUG, "mug", NOW, False)], [], [arrival(), arrival(TOP, content=other)])
        assert apply_batch(store, batch, revision(store)) == 1
        side, top = store.views("mug")
        assert (side.crops, top.crops) == (0, 1)
        assert store.unembedded() == [top.id]
        counts = store.counts()
        assert (counts.unembedded, counts.dormant) == (1, 0)


def test_without_pictures_the_embedding_of_another_model_waits_for_that_model(tmp_path: Path) -> None:
    asleep = ViewContent("other-1", vector(5).tobytes(), ())
    with open_store(tmp_path) as store:
        batch = Batch([ObjectRow(MUG, "mug", NOW, False)], [], [arrival(), arrival(TOP, content=asleep)])
        assert apply_batch(store, batch, revision(store)) == 0
        assert store.counts().dormant == 1
        assert read_content(store, TOP) == asleep
    with open_store(tmp_path, model_id="other-1") as store:
        assert [known.embedded for known in store.objects()] == [1]


def test_an_embedding_of_another_length_is_not_taken_for_one_of_the_model(tmp_path: Path) -> None:
    short = replace(CONTENT, vector=vector(1, 5).tobytes())
    with open_store(tmp_path, keep_crops=False) as store:
        assert (
            apply_batch(
                store,
                Batch([ObjectRow(MUG, "mug", NOW, False)], [], [arrival(content=short)]),
                revision(store),
            )
            == 1
        )
        (known,) = store.views("mug")
        assert (known.crops, store.unembedded()) == (1, [known.id])


def counted(store: SupportStore, table: str) -> int:
    found: int = store._database.read(f"SELECT count(*) FROM {table}")[0][0]
    return found


def rename(store: SupportStore, name: str) -> None:
    """A batch that shows."""
    now = read_snapshot(store)
    apply_batch(store, Batch([now.objects[PEN]._replace(name=name)]), now.revision)


def test_on_a_device_that_only_receives_what_was_forgotten_goes_after_200_changes(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        apply_batch(store, batch_of_a_mug(), revision(store))
        pens = [arrival(f"{number:032x}", PEN) for number in range(50, 80)]
        apply_batch(store, Batch([ObjectRow(PEN, "pen", NOW, False)], [], pens), revision(store))
        now = read_snapshot(store)
        hidden = [now.views[pen.row.uid]._replace(deleted=True) for pen in pens[1:]]
        apply_batch(store, Batch([now.objects[MUG]._replace(deleted=True)], hidden), now.revision)
        for number in range(MAX_UNDOS - 1):
            rename(store, f"pen {number}")
        assert (counted(store, "crops"), counted(store, "objects")) == (31, 2)
        rename(store, "pencil")  # at most 20 views at a time
        assert counted(store, "crops") == 11
        rename(store, "pen")
        assert (counted(store, "crops"), counted(store, "views"), counted(store, "embeddings")) == (1, 1, 1)
        assert names(store) == ["pen"]
        rename(store, "pencil")
        assert counted(store, "objects") == 1
        assert counted(store, "changes") <= MAX_UNDOS


def test_what_comes_from_elsewhere_takes_nothing_from_what_can_be_undone_here(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        apply_batch(
            store, Batch([ObjectRow(PEN, "pen", NOW, False)], [], [arrival(TOP, PEN)]), revision(store)
        )
        store.register("mug", view(1))
        store.register("key", view(2))
        store.forget("key")
        for number in range(MAX_UNDOS + 50):
            rename(store, f"pen {number}")
        store.register("cup", view(3))
        told = []
        while (undone := store.undo()) is not None:
            told.append(undone.text)
        assert told == [
            'undone: "cup" is no longer registered',
            'undone: "key" is registered again',
            'undone: "key" is no longer registered',
            'undone: "mug" is no longer registered',
        ]


def test_a_repair_takes_the_count_for_what_it_is() -> None:
    assert change_data("replicated", "{}") == {}
    assert change_data("replicated", "{") is None
    assert change_data("replicated", "[" * 200 + "]" * 200) is None


def test_an_embedding_that_is_not_of_unit_length_is_computed_again(tmp_path: Path) -> None:
    with open_store(tmp_path, unit_length=True) as store:
        batch = Batch([ObjectRow(MUG, "mug", NOW, False)], [], [arrival()])
        assert apply_batch(store, batch, revision(store)) == 1
        assert (store.entries(), store.unembedded()) == ([], [1])
