"""Every change can be undone, once, from the last to the first."""

import numpy as np
import pytest

from edge_siamese.store.undo_log import MAX_PURGED_VIEWS, MAX_UNDOS, Undone
from tests.edge_siamese.store.made import names, open_store, picture, vector, view


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path) as opened:
        yield opened


def state(store):
    """All that can be seen of a store, but for numbers that count up."""
    entries = [
        (entry.uid, entry.name, entry.view_ids, entry.embeddings.tolist(), entry.negatives.tolist())
        for entry in store.entries()
    ]
    return store.objects(), entries, store.counts()


def test_each_undo_leads_one_change_back_and_says_so(store):
    changes = [
        (
            lambda: store.register("mug", view(1)),
            'undone: "mug" is no longer registered',
            "registered",
            "mug",
        ),
        (
            lambda: store.add_view("mug", view(2)),
            'undone: removed the last view of "mug"',
            "view added",
            "mug",
        ),
        (
            lambda: store.add_negative("mug", view(3)),
            'undone: removed the last negative of "mug"',
            "negative added",
            "mug",
        ),
        (lambda: store.rename("mug", "cup"), 'undone: "cup" is named "mug" again', "renamed", "mug"),
        (lambda: store.forget("cup"), 'undone: "cup" is registered again', "forgotten", "cup"),
        (
            lambda: store.register("mug", view(4)),
            'undone: "mug" is no longer registered',
            "registered",
            "mug",
        ),
    ]
    states, uids = [], []
    for change, *_ in changes:
        states.append(state(store))
        uids.append(change().uid)
    for (_, text, kind, name), uid in zip(reversed(changes), reversed(uids), strict=True):
        assert store.undo() == Undone(text, kind, uid, name)
        assert state(store) == states.pop()
    assert store.undo() is None


def test_the_undo_of_forgetting_brings_everything_back(tmp_path):
    with open_store(tmp_path) as store:
        mug = store.register("mug", view(1))
        store.add_view("mug", view(2))
        before = state(store)
        store.forget("mug")
        assert state(store)[0] == []
    with open_store(tmp_path) as store:
        assert store.undo().kind == "forgotten"
        assert state(store) == before
        assert np.array_equal(store.crop(2, 1), picture(21))
        assert store.object("mug").uid == mug.uid


def test_the_button_takes_back_what_the_button_did(store):
    store.register("mug", view(1))
    store.register("pen", view(2))
    store.add_view("mug", view(3))
    store.rename("pen", "pencil")
    store.forget("mug")
    # The view went with its object, and so did the registration of it.
    assert store.undo(registrations_only=True).text == 'undone: "pencil" is no longer registered'
    assert store.undo(registrations_only=True) is None
    # The renaming of an object that is gone has nothing to undo.
    assert store.undo().text == 'undone: "mug" is registered again'
    assert store.undo(registrations_only=True).text == 'undone: removed the last view of "mug"'
    assert store.undo(registrations_only=True).text == 'undone: "mug" is no longer registered'
    assert store.undo() is None
    assert store.objects() == []


def test_the_order_is_that_of_the_changes_whatever_the_clock_says(tmp_path):
    times = iter(["2026-11-24", "1970-01-01", "1970-01-01", "2000-01-01", "2000-01-01", "1999-01-01"])
    with open_store(tmp_path) as store:
        store._now = lambda: next(times)
        store.register("mug", view(1))
        store.register("pen", view(2))
        assert names(store) == ["mug", "pen"]
        assert store.undo().name == "pen"


def count(store, table):
    return store._database.read(f"SELECT count(*) FROM {table}")[0][0]


def test_what_was_forgotten_long_ago_is_gone_a_little_at_a_time(store):
    kept = store.register("kept", view(1)).uid
    store.register("mug", view(2))
    for number in range(2 * MAX_PURGED_VIEWS):
        store.add_view("mug", view(number, crops=1))
    store.forget("mug")
    store._database.connection.execute("PRAGMA synchronous = OFF")  # only to be fast
    for number in range(MAX_UNDOS - 1):
        store.rename(kept, f"kept {number}")
        assert count(store, "views") == 2 + 2 * MAX_PURGED_VIEWS
    assert count(store, "changes") <= MAX_UNDOS
    for left in (1 + MAX_PURGED_VIEWS + 1, 2, 1):
        store.rename(kept, f"now {left}")
        assert count(store, "views") == count(store, "embeddings") == left
    assert count(store, "crops") == 2
    assert count(store, "objects") == 1
    undone = 0
    while store.undo():
        undone += 1
    assert undone == MAX_UNDOS
    assert names(store) == ["kept 1"]
    # The number of a view is never given again.
    store.add_view(kept, view(9))
    assert store.views(kept)[-1].id == 2 + 2 * MAX_PURGED_VIEWS + 1


def test_an_undone_registration_is_purged_as_well(store):
    store.register("mug", view(1))
    store.undo()
    store._database.connection.execute("PRAGMA synchronous = OFF")
    store.register("pen", view(2))
    for number in range(MAX_UNDOS):
        store.rename(store.objects()[0].uid, f"pen {number}")
    assert count(store, "objects") == count(store, "views") == 1
    assert np.array_equal(store.entries()[0].embeddings, [vector(2)])


def test_a_name_that_was_given_to_another_meanwhile_is_nearly_given_back(store):
    mug = store.register("mug", view(1))
    store.forget("mug")
    with store._database.change() as connection:  # as an import can
        connection.execute("INSERT INTO objects (uid, name, key, created) VALUES ('x', 'Mug', 'mug', 'now')")
    assert store.undo() == Undone('undone: "mug (2)" is registered again', "forgotten", mug.uid, "mug (2)")
