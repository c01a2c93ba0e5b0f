"""Every change can be undone, once, from the last to the first, whatever happened in between."""

import random

import numpy as np
import pytest

from edge_siamese.errors import SupportError
from edge_siamese.store import SupportStore
from edge_siamese.store.undo_log import MAX_PURGED_VIEWS, MAX_UNDOS, Undone
from tests.edge_siamese.store.samples import DIMENSIONS, MODEL, NOW, names, open_store, picture, vector, view


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path) as opened:
        opened._database.connection.execute("PRAGMA synchronous = OFF")  # only to be fast
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


# --- removed views, merges and the button ---


def ids(store, name):
    return [found.id for found in store.views(name)]


class TestRemoveView:
    def test_a_view_and_a_negative_go_and_come_back_with_all_they_had(self, store):
        mug = store.register("mug", view(1))
        store.add_view("mug", view(2))
        store.add_negative("mug", view(3))
        states = [state(store)]
        found = store.remove_view("MUG", 1)
        assert (found.uid, found.views, found.negatives, found.last_view) == (mug.uid, 1, 1, 2)
        assert found == store.object("mug")
        (entry,) = store.entries()
        assert np.array_equal(entry.embeddings, [vector(2)])
        states.append(state(store))
        assert store.remove_view(mug.uid, 3).negatives == 0
        assert store.entries()[0].negatives.shape == (0, 8)
        assert ids(store, "mug") == [2]
        for text in ("negative", "view"):
            told = f'undone: restored the removed {text} of "mug"'
            assert store.undo() == Undone(told, "view removed", mug.uid, "mug")
            assert state(store) == states.pop()
        assert np.array_equal(store.crop(1, 1), picture(11))

    @pytest.mark.parametrize("number", [0, -1, 2, 99, 2**80])
    def test_a_view_of_another_object_is_refused(self, store, number):
        store.register("mug", view(1))
        store.register("pen", view(2))
        store.add_view("mug", view(3))
        before = state(store)
        with pytest.raises(SupportError, match=rf'^"mug" has no view {number}; it has 1, 3$'):
            store.remove_view("mug", number)
        assert state(store) == before and count(store, "changes") == 3

    def test_a_view_goes_once_and_only_some_of_many_are_named(self, store):
        store.register("mug", view(1))
        for number in range(12):
            store.add_view("mug", view(number, crops=0))
        store.remove_view("mug", 2)
        with pytest.raises(SupportError, match=r"^\"mug\" has no view 2; it has 1, 3, (\d+, ){7}11, …$"):
            store.remove_view("mug", 2)
        with pytest.raises(SupportError, match=r'^there is no object "cup"'):
            store.remove_view("cup", 1)

    def test_the_only_view_stays(self, store):
        store.register("mug", view(1))
        store.add_negative("mug", view(2))
        with pytest.raises(
            SupportError,
            match=r'^view 1 is the only view of "mug"; forget the object instead, or add a view first$',
        ):
            store.remove_view("mug", 1)
        assert store.remove_view("mug", 2).negatives == 0
        store.add_view("mug", view(3))
        assert store.remove_view("mug", 1).last_view == 3

    def test_it_is_gone_for_good_after_two_hundred_changes(self, store):
        store.register("mug", view(1))
        store.add_view("mug", view(2))
        store.remove_view("mug", 1)
        for number in range(MAX_UNDOS - 1):
            store.rename(store.objects()[0].uid, f"mug {number}")
        assert count(store, "views") == 2
        store.rename(f"mug {MAX_UNDOS - 2}", "mug")
        assert count(store, "views") == count(store, "embeddings") == 1
        assert count(store, "crops") == 2
        while store.undo():
            pass
        assert (names(store), ids(store, "mug")) == (["mug"], [2])


class TestMerge:
    def test_two_objects_become_one_and_two_again(self, tmp_path):
        with open_store(tmp_path) as store:
            mug, pen = store.register("mug", view(1)), store.register("pen", view(2, source="picture"))
            store.add_negative("pen", view(3))
            store.add_view("mug", view(4))
            before = state(store)
            found = store.merge("mug", "PEN")
            assert (found.id, found.uid, found.name, found.created) == (2, pen.uid, "pen", NOW)
            assert (found.views, found.negatives, found.embedded, found.last_view) == (3, 1, 3, 4)
            assert store.objects() == [found]
            with pytest.raises(SupportError, match='no object "mug"'):
                store.object("mug")
            assert [(v.id, v.kind, v.source, v.crops) for v in store.views("pen")] == [
                (1, "view", "camera", 2),
                (2, "view", "picture", 2),
                (3, "negative", "camera", 2),
                (4, "view", "camera", 2),
            ]
            (entry,) = store.entries()
            assert np.array_equal(entry.embeddings, [vector(1), vector(2), vector(4)])
            assert np.array_equal(entry.negatives, [vector(3)])
        with open_store(tmp_path) as store:
            told = 'undone: "mug" is a separate object again'
            assert store.undo() == Undone(told, "merged", mug.uid, "mug")
            assert state(store) == before
            assert store.undo().kind == "view added"

    def test_an_object_is_not_merged_with_itself_or_with_none(self, store):
        store.register("mug", view(1))
        for into in ("MUG", store.object("mug").uid):
            with pytest.raises(
                SupportError, match=r'^"mug" cannot be merged with itself; name another object$'
            ):
                store.merge("mug", into)
        with pytest.raises(SupportError, match=r'^there is no object "cup"'):
            store.merge("mug", "cup")
        with pytest.raises(SupportError, match=r'^there is no object "cup"'):
            store.merge("cup", "mug")
        assert names(store) == ["mug"] and count(store, "changes") == 1

    def test_its_name_is_free_and_nearly_given_back(self, store):
        mug = store.register("mug", view(1))
        store.register("pen", view(2))
        store.merge("mug", "pen")
        with store._database.change() as connection:  # as an import can
            connection.execute(
                "INSERT INTO objects (uid, name, key, created) VALUES ('x', 'Mug', 'mug', 'now')"
            )
        told = 'undone: "mug (2)" is a separate object again'
        assert store.undo() == Undone(told, "merged", mug.uid, "mug (2)")

    def test_what_was_removed_before_stays_with_its_object(self, store):
        store.register("mug", view(1))
        store.add_view("mug", view(2))
        store.add_view("mug", view(3))
        store.undo()
        store.remove_view("mug", 1)
        before = state(store)
        store.register("pen", view(4))
        assert store.merge("mug", "pen").views == 2
        for _ in range(2):
            store.undo()
        assert state(store) == before
        assert store.undo().text == 'undone: restored the removed view of "mug"'
        assert ids(store, "mug") == [1, 2]

    def test_a_chain_of_them_comes_apart_link_by_link(self, store):
        states = []
        for number, name in enumerate(("mug", "pen", "cup", "jar")):
            store.register(name, view(number))
        changes = [
            lambda: store.merge("mug", "pen"),
            lambda: store.remove_view("pen", 1),
            lambda: store.merge("pen", "cup"),
            lambda: store.add_view("cup", view(9)),
            lambda: store.remove_view("cup", 2),
            lambda: store.rename("cup", "mug"),
            lambda: store.merge("jar", "mug"),
            lambda: store.forget("mug"),
        ]
        for change in changes:
            states.append(state(store))
            change()
        assert store.objects() == []
        while states:
            store.undo()
            assert state(store) == states.pop()

    def test_it_is_final_after_two_hundred_changes(self, store):
        store.register("mug", view(1))
        store.register("pen", view(2))
        store.merge("mug", "pen")
        for number in range(MAX_UNDOS):
            store.rename(store.objects()[0].uid, f"pen {number}")
        assert (count(store, "objects"), count(store, "views")) == (1, 2)
        undone = [store.undo().kind for _ in range(MAX_UNDOS)]
        assert (set(undone), store.undo()) == ({"renamed"}, None)
        assert (names(store), ids(store, "pen")) == (["pen"], [1, 2])
        assert store._database.read("PRAGMA foreign_key_check") == []


class TestTheButton:
    """It takes back registrations, views and negatives alone, in whatever order the rest was done."""

    def button(self, store):
        undone = store.undo(registrations_only=True)
        return undone and undone.text

    def test_it_leaves_merges_and_removals_alone(self, store):
        store.register("cup", view(1))
        store.register("mug", view(2))
        store.add_view("mug", view(3))
        store.register("pen", view(4))
        store.merge("mug", "pen")
        store.add_view("pen", view(5))
        store.remove_view("pen", 2)
        assert self.button(store) == 'undone: removed the last view of "pen"'
        assert (names(store), ids(store, "pen")) == (["cup", "pen"], [3, 4])
        # The registration of the mug, and its view, are the pen's.
        assert self.button(store) == 'undone: "pen" is no longer registered'
        assert self.button(store) == 'undone: "cup" is no longer registered'
        assert self.button(store) is None
        # In full: the view was removed from an object that is no more.
        assert store.undo().text == 'undone: "mug" is a separate object again'
        assert ids(store, "mug") == [2, 3]
        assert self.button(store) == 'undone: removed the last view of "mug"'
        assert self.button(store) == 'undone: "mug" is no longer registered'
        assert store.undo() is None

    def test_with_the_only_view_that_is_left_goes_the_object_and_comes_back_with_the_removed_one(self, store):
        mug = store.register("mug", view(1))
        store.add_negative("mug", view(2))
        store.add_view("mug", view(3))
        store.remove_view("mug", 1)
        store.remove_view("mug", 2)
        undone = store.undo(registrations_only=True)
        text = 'undone: removed the only view of "mug", and the object with it'
        assert undone == Undone(text, "view added", mug.uid, "mug")
        assert store.objects() == store.entries() == []
        assert self.button(store) is None
        assert store.undo().text == 'undone: restored the removed view of "mug"'
        assert ids(store, "mug") == [1]
        # The removal of the negative is the later one, and could not be undone while there was no object.
        assert store.undo().text == 'undone: restored the removed negative of "mug"'
        assert self.button(store) == 'undone: removed the last negative of "mug"'
        assert self.button(store) == 'undone: "mug" is no longer registered'
        assert store.undo() is None

    def test_a_removed_view_does_not_bring_back_an_object_whose_registration_was_undone(self, store):
        store.register("mug", view(1))
        store.add_view("mug", view(2))
        store.remove_view("mug", 2)  # the last change: what is deleted next gets its number
        assert self.button(store) == 'undone: "mug" is no longer registered'
        assert store.undo() is None
        assert store.objects() == []

    def test_what_was_deleted_elsewhere_does_not_come_back_with_a_removed_view(self, store):
        store.register("mug", view(1))
        store.add_view("mug", view(2))
        store.remove_view("mug", 1)
        with store._database.change() as connection:  # as another device of a collection does, past the log
            connection.execute("UPDATE objects SET deleted = 3")
        assert store.undo() is None

    def test_an_object_that_was_left_with_what_was_merged_goes_when_that_goes(self, store):
        store.register("mug", view(1))
        store.add_view("mug", view(2))
        store.register("pen", view(3))
        store.remove_view("mug", 1)
        store.merge("pen", "mug")
        store.forget("mug")
        store.undo()
        assert self.button(store) == 'undone: removed the last view of "mug"'
        assert ids(store, "mug") == [3]
        assert store.undo().text == 'undone: "pen" is a separate object again'
        assert [(item.name, item.views) for item in store.objects()] == [("pen", 1)]
        assert store.undo().text == 'undone: restored the removed view of "mug"'
        assert [(item.name, item.last_view) for item in store.objects()] == [("mug", 1), ("pen", 3)]

    def test_what_comes_back_without_a_view_waits_for_the_removed_one(self, store, tmp_path):
        store.register("mug", view(1))
        store.export_archive(tmp_path / "mug.zip")
        store.add_view("mug", view(2))
        store.remove_view("mug", 1)
        store.forget("mug")
        store.import_archive(tmp_path / "mug.zip")
        assert ids(store, "mug") == [1, 2]
        assert self.button(store) == 'undone: removed the last view of "mug"'
        assert store.undo().kind == "imported"
        # Forgetting it is undone as well, and gave back nothing that is seen.
        assert store.undo().text == 'undone: restored the removed view of "mug"'
        assert ids(store, "mug") == [1]
        assert store.undo().kind == "registered"
        assert store.undo() is None


class Model:
    """A store as plain dictionaries: number of an object -> name, {number of a view: (kind, seed)}."""

    def __init__(self):
        self.objects, self.former, self.last_object, self.last_view = {}, [], 0, 0

    def change(self, name, *words):
        self.former.append({n: (title, dict(views)) for n, (title, views) in self.objects.items()})
        getattr(self, name)(*words)

    def undo(self):
        self.objects = self.former.pop()

    def register(self, name, seed):
        self.last_object += 1
        self.objects[self.last_object] = (name, {})
        self.add("view", self.last_object, seed)

    def add(self, kind, number, seed):
        self.last_view += 1
        self.objects[number][1][self.last_view] = (kind, seed)

    def remove_view(self, number, view_id):
        del self.objects[number][1][view_id]

    def rename(self, number, name):
        self.objects[number] = (name, self.objects[number][1])

    def forget(self, number):
        del self.objects[number]

    def merge(self, number, into):
        self.objects[into][1].update(self.objects.pop(number)[1])

    def seen(self):
        return [
            (n, name, [(i, *views[i]) for i in sorted(views)])
            for n, (name, views) in sorted(self.objects.items())
        ]


SEEDS = {vector(seed).tobytes(): seed for seed in range(2_000)}


def seen(store):
    """The same of a store: what is reported, and what is recognized with it."""
    entries = {entry.uid: entry for entry in store.entries()}
    found = []
    for item in store.objects():
        entry, views = entries.pop(item.uid), store.views(item.uid)
        own = iter(SEEDS[row.tobytes()] for row in entry.embeddings)
        other = iter(SEEDS[row.tobytes()] for row in entry.negatives)
        rows = [(v.id, v.kind, next(own if v.kind == "view" else other)) for v in views]
        assert next(own, None) is next(other, None) is None
        assert entry.view_ids == tuple(v.id for v in views if v.kind == "view")
        assert (item.views, item.views + item.negatives) == (len(entry.view_ids), len(views))
        found.append((item.id, entry.name, rows))
    assert entries == {}
    return found


def act(chance, store, model, seed):
    """One change that can be made, in the store and in the model."""
    numbers, names_ = sorted(model.objects), {n: title for n, (title, _) in model.objects.items()}
    kinds = ["register", "add_view", "add_negative", "remove_view", "rename", "forget", "merge"]
    (kind,) = (
        chance.choices(kinds, (4, 6, 3, 6, 2, 1, 2 if len(numbers) > 1 else 0)) if numbers else ["register"]
    )
    if kind == "register":
        name = f"thing {seed}"
        store.register(name, view(seed, crops=1))
        return model.change("register", name, seed)
    number = chance.choice(numbers)
    name, views = model.objects[number]
    if kind in ("add_view", "add_negative"):
        getattr(store, kind)(name, view(seed, crops=1))
        return model.change("add", kind.removeprefix("add_"), number, seed)
    if kind == "remove_view":
        gone = chance.choice(sorted(views))
        if views[gone][0] == "view" and sum(what == "view" for what, _ in views.values()) == 1:
            with pytest.raises(SupportError, match="is the only view"):
                store.remove_view(name, gone)
            return None
        store.remove_view(name, gone)
        return model.change("remove_view", number, gone)
    if kind == "rename":
        store.rename(name, f"name {seed}")
        return model.change("rename", number, f"name {seed}")
    if kind == "forget":
        store.forget(name)
        return model.change("forget", number)
    into = chance.choice([other for other in numbers if other != number])
    store.merge(name, names_[into])
    return model.change("merge", number, into)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_done_every_undo_leads_exactly_one_change_back(store, seed):
    chance, model = random.Random(seed), Model()
    for turn in range(MAX_UNDOS + 30):
        if model.former and chance.random() < 0.2:
            store.undo()
            model.undo()
        else:
            act(chance, store, model, turn)
        assert seen(store) == model.seen()
    assert len(model.former) > 100
    while model.former:
        store.undo()
        model.undo()
        assert seen(store) == model.seen()
    assert store.undo() is None
    assert store._database.read("PRAGMA foreign_key_check") == []


def act_or_import(chance, store, place, turn):
    """A change of what is there, or what was there some time ago comes as a collection."""
    file = place / f"{chance.randrange(4)}.zip"
    if chance.random() < 0.1:
        store.export_archive(file)
    if chance.random() < 0.15 and file.exists():
        return store.import_archive(file, on_conflict=chance.choice(["rename", "skip", "merge"]))
    model = Model()  # only to choose from
    model.objects = {n: (name, {i: (kind, 0) for i, kind, _ in rows}) for n, name, rows in seen(store)}
    return act(chance, store, model, turn)


def require_no_empty_object(store):
    assert all(any(kind == "view" for _, kind, _ in rows) for *_, rows in seen(store))


@pytest.mark.parametrize("seed", range(6))
def test_imports_of_what_was_there_before_are_undone_as_exactly(store, tmp_path, seed):
    chance, states = random.Random(50 + seed), []
    for turn in range(170):
        if states and chance.random() < 0.2:
            store.undo()
            assert state(store) == states.pop()
        else:
            before, changes = state(store), count(store, "changes")
            act_or_import(chance, store, tmp_path, turn)
            if count(store, "changes") > changes:
                states.append(before)
        require_no_empty_object(store)
    assert len(states) > 40
    while states:
        store.undo()
        assert state(store) == states.pop()
    assert store.undo() is None


@pytest.mark.parametrize("seed", range(8))
def test_with_the_button_in_between_no_object_is_without_a_view_and_all_is_undone_in_the_end(
    store, tmp_path, seed
):
    chance = random.Random(100 + seed)
    pressed = steps = 0
    for turn in range(150):
        if chance.random() < 0.25:
            pressed += store.undo(registrations_only=chance.random() < 0.8) is not None
        else:
            act_or_import(chance, store, tmp_path, turn)
        require_no_empty_object(store)
    assert pressed > 15
    while store.undo():
        steps += 1
        require_no_empty_object(store)
    assert steps > 3
    assert store.objects() == store.entries() == []
    assert store._database.read("PRAGMA foreign_key_check") == []


@pytest.mark.parametrize("year", [1970, 2036], ids=["back", "ahead"])
def test_changes_are_undone_in_their_order_whatever_the_clock_says(tmp_path, year):
    times = iter([NOW, *[f"{year}-01-01T00:00:00.000+00:00"] * 50])
    with SupportStore(tmp_path / "objects.db", MODEL, DIMENSIONS, now=lambda: next(times)) as store:
        store.register("mug", view(1))
        store.register("pen", view(2))
        assert names(store) == ["mug", "pen"]
        assert store.undo().name == "pen"
        assert names(store) == ["mug"]
