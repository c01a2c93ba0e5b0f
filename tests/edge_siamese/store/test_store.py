"""What is registered stays registered, by one model's eyes at a time."""

import numpy as np
import pytest

from edge_siamese.errors import PictureError, StoreError, SupportError
from edge_siamese.recognition.registration import NewView
from edge_siamese.recognition.support import SupportSet
from edge_siamese.store import Counts, SupportStore
from edge_siamese.store.names import name_key
from tests.edge_siamese.store.samples import DIMENSIONS, MODEL, NOW, names, open_store, picture, vector, view


@pytest.fixture
def store(tmp_path):
    with open_store(tmp_path) as opened:
        yield opened


def test_an_object_is_there_after_the_store_was_reopened(tmp_path):
    with open_store(tmp_path) as store:
        mug = store.register("  Mug ", view(1))
        assert (mug.id, mug.name, mug.created) == (1, "Mug", NOW)
        assert (mug.views, mug.negatives, mug.embedded, mug.last_view) == (1, 0, 1, 1)
        assert store.add_view(mug.uid, view(2, source="picture")).views == 2
        more = store.add_negative("mug", view(3, crops=0))
        assert (more.views, more.negatives, more.embedded, more.last_view) == (2, 1, 2, 2)
    with open_store(tmp_path) as store:
        assert store.objects() == [more]
        assert store.object(mug.uid) == store.object("MUG") == more
        assert [(v.id, v.kind, v.created, v.source, v.crops) for v in store.views("mug")] == [
            (1, "view", NOW, "camera", 2),
            (2, "view", NOW, "picture", 2),
            (3, "negative", NOW, "camera", 0),
        ]
        assert np.array_equal(store.crop(2, 1), picture(21))
        assert store.repair is None
        assert store.counts() == Counts(objects=1, views=2, negatives=1, unembedded=0, dormant=0)


def test_entries_are_what_a_support_set_is_built_of(store):
    mug, pen = store.register("mug", view(1)), store.register("pen", view(2))
    store.add_negative(mug.uid, view(3))
    store.add_view(mug.uid, view(4))
    first, second = store.entries()
    assert (first.uid, first.name, first.view_ids) == (mug.uid, "mug", (1, 4))
    assert first.embeddings.dtype == first.negatives.dtype == np.float32
    assert np.array_equal(first.embeddings, [vector(1), vector(4)])
    assert np.array_equal(first.negatives, [vector(3)])
    assert (second.uid, second.view_ids, second.negatives.shape) == (pen.uid, (2,), (0, DIMENSIONS))
    support = SupportSet.build([first, second], DIMENSIONS)
    assert support.names == ("mug", "pen")


def test_an_empty_store_has_nothing(store):
    assert store.objects() == store.entries() == store.unembedded() == []
    assert store.undo() is None
    with pytest.raises(SupportError, match=r'^there is no object "mug"; nothing is registered$'):
        store.object("mug")


def test_a_name_is_given_once_whatever_its_case(store):
    store.register("Mug", view(1))
    for change in (lambda: store.register("mUG", view(2)), lambda: store.rename("pen", "MUG ")):
        if len(store.objects()) == 1:
            store.register("pen", view(3))
        with pytest.raises(
            SupportError, match=r"^there is already an object .*; choose another name, or add a view"
        ):
            change()
    assert names(store) == ["Mug", "pen"]
    assert store.rename("mug", "MUG").name == "MUG"
    assert store.rename("mug", "cup").name == "cup"
    assert store.register("Mug", view(4)).name == "Mug"


def test_an_unknown_name_gets_the_nearest_known_one(store):
    store.register("mug", view(1))
    with pytest.raises(SupportError, match=r'^there is no object "mugg"; did you mean "mug"\?$'):
        store.forget("mugg")


def test_half_a_character_names_nothing(store):
    store.register("mug", view(1))
    with pytest.raises(SupportError, match=r'^there is no object "\?ug"; did you mean "mug"\?$'):
        store.rename("\ud800ug", "x")


def test_numbers_are_never_given_twice(tmp_path):
    with open_store(tmp_path) as store:
        assert [store.register(None, view(n)).name for n in (1, 2)] == ["object 1", "object 2"]
        store.undo()
        assert store.register(None, view(3)).name == "object 3"
        store.forget("object 3")
        store.register("Object 4", view(4))
    with open_store(tmp_path) as store:
        assert store.register(None, view(5)).name == "object 5"
        assert store.register(None, view(6), template="Ding {number}").name == "Ding 6"
        with pytest.raises(SupportError, match=r'"\{number\}"'):
            store.register(None, view(7), template="thing")


@pytest.mark.parametrize(
    ("embedding", "problem"),
    [
        (np.zeros(7, np.float32), r"an embedding must have shape \(8,\), not \(7,\)"),
        (np.zeros((1, 8), np.float32), r"not \(1, 8\)"),
        (np.full(8, np.nan, np.float32), "numbers that are not finite"),
    ],
)
def test_an_embedding_of_another_model_changes_nothing(store, embedding, problem):
    bad = view(1)
    object.__setattr__(bad, "embedding", embedding)
    with pytest.raises(SupportError, match=problem):
        store.register(None, bad)
    assert store.objects() == []
    assert store.register(None, view(2)).name == "object 1"


def test_a_picture_that_is_none_changes_nothing(store):
    bad = view(1)
    object.__setattr__(bad, "crops", (picture(1), np.zeros((2, 2, 5), np.uint8)))
    with pytest.raises(PictureError):
        store.register("mug", bad)
    assert store.objects() == []


def test_pictures_are_not_kept_if_they_are_not_wanted(tmp_path):
    with open_store(tmp_path, keep_crops=False) as store:
        store.register("mug", view(1))
        assert store.views("mug")[0].crops == 0
        with pytest.raises(SupportError, match=r"^there is no picture 0 of view 1$"):
            store.crop(1)


def test_another_model_sees_what_it_knows_and_learns_the_rest(tmp_path):
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
        store.add_negative("mug", view(2))
        store.register("pen", view(3, crops=0))
        store.register("cup", view(4))
        store.forget("cup")
    with open_store(tmp_path, "tiny-2") as store:
        assert store.entries() == []
        assert store.counts() == Counts(objects=2, views=2, negatives=1, unembedded=2, dormant=1)
        assert store.counts().dormant == 1
        assert store.unembedded() == [1, 2, 4]
        assert [item.embedded for item in store.objects()] == [0, 0]
        with pytest.raises(SupportError, match="shape"):
            store.set_embeddings({1: vector(11), 2: np.zeros(3, np.float32)})
        assert store.unembedded() == [1, 2, 4]
        store.set_embeddings({1: vector(11), 2: vector(12), 4: vector(14), 99: vector(1)})
        assert store.unembedded() == []
        (mug,) = store.entries()
        assert np.array_equal(mug.embeddings, [vector(11)]) and np.array_equal(mug.negatives, [vector(12)])
        store.undo()
        assert [entry.name for entry in store.entries()] == ["mug", "cup"]
    with open_store(tmp_path) as store:  # the way back
        assert [entry.name for entry in store.entries()] == ["mug", "pen", "cup"]
        assert np.array_equal(store.entries()[0].embeddings, [vector(1)])


def test_embeddings_of_the_current_and_the_previous_model_are_kept(tmp_path):
    def models():
        with open_store(tmp_path, "any") as store:
            return sorted(row[0] for row in store._database.read("SELECT DISTINCT model_id FROM embeddings"))

    with open_store(tmp_path, "one") as store:
        store.register("mug", view(1))
    for model, expected in [("two", ["one", "two"]), ("three", ["three", "two"])]:
        with open_store(tmp_path, model) as store:
            store.set_embeddings({1: vector(5)})
            found = sorted(row[0] for row in store._database.read("SELECT DISTINCT model_id FROM embeddings"))
            assert found == expected
    # A model that was only looked at drops nothing.
    assert models() == ["three", "two"]


def test_learning_for_models_that_never_came_into_use_spares_the_one_that_is(store):
    """A second model is installed while the objects are still being embedded for the first one."""
    store.register("mug", view(1))
    store.register("pen", view(2))
    for model in ("two", "three"):
        with store.with_model(model, DIMENSIONS):
            store.set_embeddings({1: vector(5)})
    assert [entry.name for entry in store.entries()] == ["mug", "pen"]
    with store.with_model("three", DIMENSIONS):
        store.set_embeddings({2: vector(6)})
    store.use_model("three", DIMENSIONS)
    assert [entry.name for entry in store.entries()] == ["mug", "pen"]
    found = store._database.read("SELECT DISTINCT model_id FROM embeddings ORDER BY model_id")
    assert found == [("three",), (MODEL,)]


def test_numbers_that_a_disk_made_infinite_cost_their_view_alone(store):
    store.register("mug", view(1))
    store.register("pen", view(2))
    bad = np.full(DIMENSIONS, np.inf, "<f4").tobytes()
    store._database.connection.execute("UPDATE embeddings SET vector = ? WHERE view_id = 1", (bad,))
    (entry,) = store.entries()
    assert (entry.name, entry.view_ids) == ("pen", (2,))
    assert np.array_equal(entry.embeddings, [vector(2)])


@pytest.mark.parametrize("number", [np.nan, np.inf, 3e38, -3e38, 0.0])
def test_a_damaged_embedding_is_dropped_when_the_store_is_opened(tmp_path, number):
    """It is computed again from the pictures of its view, and the other objects are recognized meanwhile."""
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
        store.register("pen", view(2))
        bad = np.full(DIMENSIONS, number, "<f4").tobytes()
        store._database.connection.execute("UPDATE embeddings SET vector = ? WHERE view_id = 1", (bad,))
        assert [entry.name for entry in store.entries()] == ["pen"]
        assert store.suspect
    with open_store(tmp_path) as store:
        assert store.findings == (
            "the store had damaged data: 1 embedding of registered views; "
            "1 embedding to be computed again from stored pictures",
        )
        assert not store.suspect
        assert [entry.name for entry in store.entries()] == ["pen"]
        assert store.unembedded() == [1]
        store.set_embeddings({1: vector(1)})
        assert [entry.name for entry in store.entries()] == ["mug", "pen"]
    with open_store(tmp_path) as store:
        assert store.findings == ()


def test_embeddings_of_another_length_are_dropped_too(tmp_path):
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
        store._database.connection.execute("UPDATE embeddings SET vector = x'0000803f'")
    with open_store(tmp_path) as store:
        assert len(store.findings) == 1
        assert store.unembedded() == [1]


def test_only_one_process_has_a_store(tmp_path):
    with (
        open_store(tmp_path),
        pytest.raises(
            StoreError, match=r"objects\.db is in use by process \d+; use that process, or stop it"
        ),
    ):
        open_store(tmp_path)
    open_store(tmp_path).close()


def test_a_closed_store_says_so(tmp_path):
    store = open_store(tmp_path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match=r"is closed$"):
        store.objects()


def test_nobody_else_reads_the_pictures(tmp_path):
    with open_store(tmp_path) as store:
        store.register("mug", view(1))
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        files = {"objects.db", "objects.db-wal", "objects.db-shm", "objects.db.lock", "objects.db.changes"}
        assert set(modes) == files
        assert set(modes.values()) == {0o600}


def fill(store, count, dimensions):
    """So many objects, quickly."""
    vectors = np.random.default_rng(0).normal(size=(count, dimensions)).astype("<f4")
    with store._database.change() as connection:
        connection.executemany(
            "INSERT INTO objects (id, uid, name, key, created) VALUES (?, ?, ?, ?, ?)",
            ((n, f"{n:032x}", f"thing {n}", name_key(f"thing {n}"), NOW) for n in range(1, count + 1)),
        )
        connection.executemany(
            "INSERT INTO views (id, uid, object_id, kind, created, source) VALUES (?, ?, ?, 'view', ?, 'camera')",
            ((n, f"{n + (1 << 64):032x}", n, NOW) for n in range(1, count + 1)),
        )
        connection.executemany(
            "INSERT INTO embeddings VALUES (?1, ?2, ?3, row_checksum(?1, ?2, ?3))",
            ((n, store.model_id, row.tobytes()) for n, row in enumerate(vectors, 1)),
        )
        connection.executemany(
            "INSERT INTO changes (kind, object_id, view_id, data, checksum) "
            "VALUES ('registered', ?1, ?2, '{}', row_checksum('registered', ?1, ?2, '{}'))",
            ((n, n) for n in range(count - 200, count + 1)),
        )
    return vectors


def instructions(store, call):
    """The instructions that SQLite executes in a call, in hundreds: what the time depends on, on any machine."""
    count = 0

    def step():
        nonlocal count
        count += 1

    store._database.connection.set_progress_handler(step, 100)
    call()
    store._database.connection.set_progress_handler(None, 0)
    return count


def test_work_for_ten_thousand_objects_grows_linearly_and_a_registration_takes_constant_work(tmp_path):
    def measure(count):
        with SupportStore(tmp_path / f"{count}.db", MODEL, 128) as store:
            vectors = fill(store, count, 128)
        with SupportStore(tmp_path / f"{count}.db", MODEL, 128) as store:
            entries = store.entries()
            assert len(entries) == count
            assert np.array_equal(entries[count // 2].embeddings[0], vectors[count // 2])
            new = NewView(vector(1, 128), (picture(1, (144, 192, 3)),), "camera")
            store.register("first", new)
            loading = instructions(store, store.entries)
            registering = instructions(store, lambda: store.register("second", new))
            assert store.object("second").id == count + 2
            return loading, registering

    small, large = measure(1_000), measure(10_000)
    assert large[0] < 12 * small[0]
    assert large[1] <= small[1] + 10
