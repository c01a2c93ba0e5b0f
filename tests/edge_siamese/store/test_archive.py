"""Objects travel from one store to another, whole or not at all, and nothing in a file is trusted."""

import json
import math
import os
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from edge_siamese.errors import StoreError, SupportError
from edge_siamese.pictures import encode_png, png_size
from edge_siamese.store import ImportResult, archive, bounded_zip
from edge_siamese.store import store as store_module
from edge_siamese.store.undo_log import MAX_UNDOS
from tests.edge_siamese.store.samples import MODEL, NOW, names, open_store, picture, vector, view

UID = "0123456789abcdef0123456789abcde"


@pytest.fixture
def source(tmp_path):
    with open_store(tmp_path / "source") as store:
        store.register("mug", view(1))
        store.add_view("mug", view(2, source="picture"))
        store.add_negative("mug", view(3))
        store.register("pen", view(4, crops=0))
        store.register("gone", view(5))
        store.forget("gone")
        yield store


@pytest.fixture
def target(tmp_path):
    with open_store(tmp_path / "target") as store:
        yield store


@pytest.fixture
def file(source, tmp_path):
    path = tmp_path / "objects.zip"
    assert source.export_archive(path) == 2
    return path


def imported(**counts):
    zero = dict.fromkeys(("objects", "views", "negatives", "known", "skipped", "unusable", "unembedded"), 0)
    return ImportResult(**{**zero, "renamed": (), **counts})


def contents(store):
    return [
        (e.uid, e.name, e.embeddings.tolist(), e.negatives.tolist(), [v.uid for v in store.views(e.uid)])
        for e in store.entries()
    ]


def test_everything_arrives_as_it_was(source, target, file):
    assert target.import_archive(file) == imported(objects=2, views=3, negatives=1)
    assert contents(target) == contents(source)
    assert [(v.kind, v.source, v.created, v.crops) for v in target.views("mug")] == [
        ("view", "camera", NOW, 2),
        ("view", "picture", NOW, 2),
        ("negative", "camera", NOW, 2),
    ]
    assert np.array_equal(target.crop(2, 1), picture(21))


def test_the_file_is_one_that_others_can_read(source, file, tmp_path):
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            "manifest.json",
            "embeddings.f32",
            *(f"crops/{number}-{place}.png" for number in (1, 2, 3) for place in (0, 1)),
        ]
        manifest = json.loads(archive.read("manifest.json"))
        assert {
            key: manifest[key] for key in ("format", "version", "model_id", "dimensions", "exported")
        } == {
            "format": "edge-siamese archive",
            "version": 1,
            "model_id": MODEL,
            "dimensions": 8,
            "exported": NOW,
        }
        rows = np.frombuffer(archive.read("embeddings.f32"), "<f4").reshape(-1, 8)
        assert np.array_equal(rows, [vector(1), vector(2), vector(3), vector(4)])
    source.export_archive(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == file.read_bytes()


def test_a_second_import_brings_only_what_is_new(source, target, file):
    target.import_archive(file)
    before = contents(target)
    assert target.import_archive(file) == imported(known=4)
    assert contents(target) == before
    source.add_view("mug", view(6))
    source.register("cup", view(7))
    source.rename("mug", "Mug of Anna")
    source.export_archive(file)
    assert target.import_archive(file) == imported(objects=1, views=2, known=4)
    assert names(target) == ["mug", "pen", "cup"]
    assert target.object("mug").views == 3


@pytest.mark.parametrize("turns", [1, 2])
def test_an_import_is_undone_as_a_whole(target, file, turns):
    target.register("cup", view(9))
    before = contents(target)
    for _ in range(turns):  # what was undone can come again
        target.import_archive(file)
        assert len(target.objects()) == 3
        undone = target.undo()
        assert undone.text == "undone: removed the imported 2 objects and 4 views"
        assert (undone.kind, undone.uid, undone.name) == ("imported", None, None)
        assert contents(target) == before
    assert target.undo().text == 'undone: "cup" is no longer registered'


def test_what_was_forgotten_comes_back_and_goes_again(target, file):
    target.import_archive(file)
    whole = contents(target)
    target.forget("mug")
    target.register("MUG", view(9))
    assert target.import_archive(file) == imported(objects=1, known=4)
    assert [item.name for item in target.objects()] == ["mug (2)", "pen", "MUG"]
    target.undo()
    assert names(target) == ["pen", "MUG"]
    target.undo()
    assert target.undo().kind == "forgotten"
    assert [entry[0] for entry in contents(target)] == [entry[0] for entry in whole]


def test_views_that_were_undone_come_back(source, target, file):
    target.import_archive(file)
    source.add_view("mug", view(6))
    source.export_archive(file)
    target.import_archive(file)
    target.undo()
    assert target.object("mug").views == 2
    assert target.import_archive(file) == imported(views=1, known=4)
    assert target.object("mug").views == 3


@pytest.mark.parametrize(
    ("policy", "result", "expected"),
    [
        (
            "rename",
            imported(objects=2, views=3, negatives=1, renamed=(("mug", "mug (2)"),)),
            {"Mug": 1, "mug (2)": 2, "pen": 1},
        ),
        ("skip", imported(objects=1, views=1, skipped=1), {"Mug": 1, "pen": 1}),
        ("merge", imported(objects=1, views=3, negatives=1), {"Mug": 3, "pen": 1}),
    ],
)
def test_a_name_that_is_taken_is_met_as_asked(target, file, policy, result, expected):
    target.register("Mug", view(9))
    before = contents(target)
    assert target.import_archive(file, on_conflict=policy) == result
    assert {item.name: item.views for item in target.objects()} == expected
    target.undo()
    assert contents(target) == before


def test_what_was_merged_here_is_not_taken_apart_by_a_collection(source, target, file):
    target.import_archive(file)
    target.merge("mug", "pen")
    merged = contents(target)
    assert target.import_archive(file) == imported(known=4)
    assert contents(target) == merged
    source.add_view("mug", view(6))
    source.export_archive(file)
    assert target.import_archive(file) == imported(views=1, known=4)
    assert (names(target), target.object("pen").views) == (["pen"], 4)
    target.undo()
    assert contents(target) == merged
    for number in range(MAX_UNDOS):  # until nobody remembers
        target.rename("pen" if not number else f"pen {number - 1}", f"pen {number}")
    assert target.import_archive(file) == imported(views=1, known=4)
    assert [item.views for item in target.objects()] == [4]


def test_what_was_merged_into_a_forgotten_object_comes_back_with_its_views(target, file):
    target.import_archive(file)
    target.register("cup", view(9))
    target.merge("mug", "cup")
    before = contents(target)
    target.forget("cup")
    assert target.import_archive(file) == imported(objects=1, views=2, negatives=1, known=1)
    assert [(item.name, item.views, item.negatives) for item in target.objects()] == [
        ("mug", 2, 1),
        ("pen", 1, 0),
    ]
    assert target.undo().text == "undone: removed the imported 1 object and 3 views"
    target.undo()
    assert contents(target) == before
    assert target.undo().kind == "merged"
    assert (target.object("mug").views, target.object("cup").views) == (2, 1)


def test_an_import_that_moved_views_is_undone_when_their_former_object_is_purged(target, file):
    target.import_archive(file)
    target.register("cup", view(9))
    target.merge("mug", "cup")
    target.forget("cup")
    target.import_archive(file)
    for number in range(MAX_UNDOS - 1):
        target.rename("pen" if not number else f"pen {number - 1}", f"pen {number}")
    assert target._database.read("SELECT count(*) FROM objects WHERE name = 'cup'") == [(0,)]
    for _ in range(MAX_UNDOS - 1):
        target.undo()
    assert target.undo().kind == "imported"
    assert target.undo() is None
    assert names(target) == ["pen"]
    assert target._database.read("PRAGMA foreign_key_check") == []


def test_a_removed_view_comes_back_and_one_that_was_merged_by_an_import_makes_no_empty_object(target, file):
    target.register("Mug", view(9))
    target.import_archive(file, on_conflict="merge")
    target.remove_view("mug", 2)
    assert target.import_archive(file) == imported(views=1, known=3)
    assert {item.name: item.views for item in target.objects()} == {"Mug": 3, "pen": 1}


def test_an_unknown_policy_is_refused(target, file):
    with pytest.raises(SupportError, match='on_conflict must be one of rename, skip, merge, not "replace"'):
        target.import_archive(file, on_conflict="replace")


def test_for_another_model_pictures_come_and_wait_to_be_learned(tmp_path, file):
    with open_store(tmp_path / "target", "tiny-2", keep_crops=False) as store:
        result = store.import_archive(file)
        assert result == imported(objects=1, views=2, negatives=1, skipped=1, unembedded=3)
        assert result.text == (
            "imported: objects 1, views 2, negatives 1; objects skipped 1; to be embedded from pictures 3"
        )
        assert store.entries() == []
        assert store.unembedded() == [1, 2, 3]
        assert np.array_equal(store.crop(1), picture(10))


def test_an_import_that_brings_nothing_leaves_nothing_to_undo(source, file):
    assert source.import_archive(file) == imported(known=4)
    assert source.undo().kind == "forgotten"


def rewritten(path, change=None, members=None, **options):
    """The file with another manifest, and members replaced, added or (None) left out."""
    with zipfile.ZipFile(path) as archive:
        data = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(data["manifest.json"])
    if change:
        change(manifest)
        data["manifest.json"] = json.dumps(manifest).encode()
    data.update(members or {})
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in data.items():
            if content is not None:
                archive.writestr(name, content)
    return path


def put(*keys, value):
    """A change of the manifest at these keys."""

    def change(manifest):
        for key in keys[:-1]:
            manifest = manifest[key]
        manifest[keys[-1]] = value

    return change


NAN_ROW = np.full(32, np.nan, "<f4").tobytes()
HUGE_ROW = np.full(32, 3e38, "<f4").tobytes()
ZERO_ROW = np.zeros(32, "<f4").tobytes()
HOSTILE = {
    "a newer version": (
        put("version", value=2),
        {},
        "it has version 2 of the format, and this release reads version 1",
    ),
    "an older version": (put("version", value=0), {}, "version: must be 1, not 0"),
    "another format": (put("format", value="x"), {}, 'format: must be one of "edge-siamese archive"'),
    "no dimensions": (
        put("dimensions", value=0),
        {},
        "dimensions: must be an integer from 1 to 65536, not 0",
    ),
    "wrong dimensions": (put("dimensions", value=7), {}, "has 128 bytes, not rows of 7 numbers"),
    "an unknown key": (put("extra", value=1), {}, "extra: unknown key"),
    "a bad name": (put("objects", 0, "name", value="a\nb"), {}, r"has a control character"),
    "a bad uid": (
        put("objects", 0, "uid", value="../../etc"),
        {},
        r"objects\[0\]\.uid: must be 32 hexadecimal digits",
    ),
    "a bad kind": (
        put("objects", 0, "views", 0, "kind", value="x"),
        {},
        'must be one of "view", "negative", not "x"',
    ),
    "a bad source": (
        put("objects", 0, "views", 0, "source", value="a\nb"),
        {},
        "must be one line of at most 80 characters",
    ),
    "no such day": (
        put("objects", 0, "created", value="2026-02-30T10:00:00+00:00"),
        {},
        r"objects\[0\]\.created: must be a UTC time in ISO 8601 from 1970 to 2099, not",
    ),
    "the year 9999": (
        put("objects", 0, "views", 0, "created", value="9999-12-31T23:59:59.999+00:00"),
        {},
        r"objects\[0\]\.views\[0\]\.created: must be a UTC time",
    ),
    "no time zone": (put("exported", value="2026-11-24T10:00:00"), {}, "exported: must be a UTC time"),
    "a uid twice": (
        lambda m: m["objects"][1].update(uid=m["objects"][0]["uid"]),
        {},
        "is used twice",
    ),
    "a picture twice": (
        put("objects", 1, "views", 0, "crops", value=["crops/1-0.png"]),
        {},
        "a picture is used twice",
    ),
    "too many pictures": (
        put("objects", 1, "views", 0, "crops", value=[f"{n}" for n in range(101)]),
        {},
        "must be a list of at most 100 items, not a list of 101",
    ),
    "a missing picture": (None, {"crops/3-1.png": None}, "the member 'crops/3-1.png' is missing"),
    "a picture of the system": (
        put("objects", 1, "views", 0, "crops", value=["/etc/passwd"]),
        {},
        "the member '/etc/passwd' is missing",
    ),
    "a picture that is too large": (
        None,
        {"crops/3-1.png": encode_png(np.zeros((1, 2049), np.uint8))},
        "'crops/3-1.png': sides of 2048 pixels at most, not 2049 x 1",
    ),
    "a damaged picture": (
        None,
        {"crops/3-1.png": b"PNG?"},
        "'crops/3-1.png': a stored picture is a PNG, and this is not one",
    ),
    "an embedding that is not there": (
        put("objects", 1, "views", 0, "embedding", value=4),
        {},
        "the embedding 4, of 4",
    ),
    "a negative row": (put("objects", 1, "views", 0, "embedding", value=-1), {}, "the embedding -1, of 4"),
    "no numbers": (None, {"embeddings.f32": NAN_ROW}, "embeddings.f32 has numbers that are not finite"),
    "huge numbers": (None, {"embeddings.f32": HUGE_ROW}, "embeddings.f32 has numbers that are .* too large"),
    "only zeros": (None, {"embeddings.f32": ZERO_ROW}, "embeddings.f32 has numbers that are .* all zero"),
    "half a row": (None, {"embeddings.f32": NAN_ROW[:-4]}, "has 124 bytes, not rows of 8 numbers"),
    "no embeddings": (None, {"embeddings.f32": None}, "the member 'embeddings.f32' is missing"),
    "no manifest": (None, {"manifest.json": None}, "the member 'manifest.json' is missing"),
    "no JSON": (None, {"manifest.json": b"{"}, "manifest.json: not valid JSON"),
    "no text": (None, {"manifest.json": b"\xff"}, "manifest.json: not UTF-8 text"),
    "a list": (None, {"manifest.json": b"[]"}, "must be an object, not a list"),
    "a tower": (None, {"manifest.json": b"[" * 100_000}, "manifest.json: more than 100 nested levels"),
    "a number that is none": (None, {"manifest.json": b'{"version": NaN}'}, "must be a finite number"),
}


@pytest.mark.parametrize("harm", HOSTILE)
def test_a_file_that_is_wrong_changes_nothing(target, file, harm):
    change, members, problem = HOSTILE[harm]
    target.register("cup", view(9))
    before = contents(target)
    rewritten(file, change, members)
    with pytest.raises(StoreError, match=problem) as error:
        target.import_archive(file)
    assert str(error.value).startswith(f"{file}: ") and str(error.value).endswith("; nothing was imported")
    assert "\n" not in str(error.value)
    assert contents(target) == before
    assert target.undo().text == 'undone: "cup" is no longer registered'


def test_a_bomb_is_refused_before_it_is_unpacked(target, file, monkeypatch):
    rewritten(file, members={"crops/3-1.png": bytes(20_000_000)}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(
        StoreError, match="has 20000000 bytes; at most 16777216 are read; nothing was imported"
    ):
        target.import_archive(file)
    monkeypatch.setattr(bounded_zip, "MAX_TOTAL_BYTES", 1 << 20)
    with pytest.raises(StoreError, match="it unpacks to more than 0 GiB"):
        target.import_archive(file)
    monkeypatch.setattr(bounded_zip, "MAX_MEMBERS", 7)
    with pytest.raises(StoreError, match="it has duplicate members, or too many"):
        target.import_archive(file)
    assert target.objects() == []


def test_a_member_that_stands_twice_is_refused(target, file):
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("manifest.json", "{}")
    with pytest.raises(StoreError, match="it has duplicate members"):
        target.import_archive(file)


def test_other_packings_are_refused(target, file):
    rewritten(file, compression=zipfile.ZIP_LZMA)
    with pytest.raises(
        StoreError,
        match=r"the member 'manifest\.json' is encrypted, or compressed by another method than deflate",
    ):
        target.import_archive(file)


def test_no_cut_and_no_changed_byte_is_taken_for_a_collection(target, file):
    data = file.read_bytes()
    choose = np.random.default_rng(0)
    for place in choose.integers(0, len(data), 40):
        file.write_bytes(data[:place])
        with pytest.raises(StoreError, match=r"nothing was imported$"):
            target.import_archive(file)
    taken = 0
    for place in choose.integers(0, len(data), 150):
        changed = bytearray(data)
        changed[place] ^= 0xFF
        file.write_bytes(changed)
        try:
            target.import_archive(file)
        except StoreError as error:
            assert "nothing was imported" in str(error)  # noqa: PT017
            assert target.objects() == []
        else:  # a byte that means nothing, such as the time of a member
            taken += 1
            assert target.object("mug").views == 2
            with target._database.change() as connection:
                for table in ("crops", "embeddings", "changes", "views", "objects"):
                    connection.execute(f"DELETE FROM {table}")
    assert taken < 30


def test_a_missing_file_is_named(target, tmp_path):
    with pytest.raises(StoreError, match=r"nowhere\.zip: there is no such file$"):
        target.import_archive(tmp_path / "nowhere.zip")
    with pytest.raises(StoreError, match=r"cannot be read: Is a directory; nothing was imported$"):
        target.import_archive(tmp_path)


def test_an_export_that_fails_leaves_the_file_before(source, file, monkeypatch):
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(StoreError, match=r"^the disk is full: .*objects\.zip could not be written"):
        source.export_archive(file)
    assert file.read_bytes() == before
    assert sorted(os.listdir(file.parent)) == ["objects.zip", "source"]


def test_a_list_of_members_that_would_fill_the_memory_is_not_read(target, tmp_path, monkeypatch):
    monkeypatch.setattr(bounded_zip._BoundedFile, "max_read_bytes", 1000)
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as written:
        for number in range(100):
            written.writestr(f"crops/{number}-0.png", b"")
    with pytest.raises(
        StoreError, match=r"many\.zip is damaged, or not an archive: its list of members has \d+ bytes"
    ):
        target.import_archive(path)
    assert target.objects() == []


def test_pictures_are_bounded_in_total_and_decoded_before_anything_is_written(target, file, monkeypatch):
    written = []
    monkeypatch.setattr(store_module, "import_archive", lambda *_, **__: written.append(_))
    with zipfile.ZipFile(file) as read:
        pixels = sum(
            math.prod(png_size(read.read(name))) for name in read.namelist() if name.startswith("crops/")
        )
    monkeypatch.setattr(bounded_zip, "MAX_TOTAL_PIXELS", pixels - 1)
    with pytest.raises(
        StoreError, match=rf"its pictures have more than {pixels - 1:,} pixels; nothing was imported$"
    ):
        target.import_archive(file)
    assert written == []


def test_reading_is_bounded_in_time(target, file, monkeypatch):
    now = [0.0]

    def decode(_):
        now[0] += 100.0

    monkeypatch.setattr(bounded_zip, "decode_png", decode)
    monkeypatch.setattr(bounded_zip, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(bounded_zip, "MAX_SECONDS", 150.0)
    with pytest.raises(StoreError, match=r"reading it takes more than 2\.5 minutes; nothing was imported$"):
        target.import_archive(file)
    assert now == [200.0]
    assert target.objects() == []


def test_an_import_that_fails_lets_others_change_the_store(target, file, monkeypatch):
    monkeypatch.setattr(archive, "insert_crops", lambda *_: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        target.import_archive(file)
    assert not target.busy
    assert target.objects() == []
    target.register("pen", view(3))
