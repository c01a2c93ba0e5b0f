"""Mistakes that are kept for training: with consent alone, bounded, written atomically, and deleted with their negatives."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_siamese.errors import StoreError, SupportError
from edge_siamese.pictures import decode_png
from edge_siamese.store import SupportStore, errors, mistakes
from edge_siamese.store.mistakes import Actual, KeptMistakes
from edge_siamese.store.undo_log import MAX_UNDOS
from tests.edge_siamese.store.samples import MODEL, NOW, open_store, picture, view

NOBODY = Actual(None, None)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SupportStore]:
    with open_store(tmp_path) as opened:
        opened.register("mug", view(1))
        opened.register("pen", view(2))
        yield opened


@pytest.fixture
def kept(tmp_path: Path) -> KeptMistakes:
    made = KeptMistakes(tmp_path)
    made.allow(True)
    return made


def reject(store: SupportStore, kept: KeptMistakes, number: int, actual: str | None = None) -> str:
    """Reject a picture that was taken for the mug; returns the uid of its negative."""
    mug = store.object("mug")
    shown = Actual.of(store, mug.uid, actual)
    store.add_negative("mug", view(number))
    kept.keep(store, mug.uid, picture(number), shown)
    return store.views("mug")[-1].uid


def files(kept: KeptMistakes) -> list[str]:
    assert kept.directory is not None
    return sorted(os.listdir(kept.directory)) if kept.directory.exists() else []


def test_a_mistake_is_kept_with_its_picture_and_what_it_shows(
    store: SupportStore, kept: KeptMistakes
) -> None:
    first, second = reject(store, kept, 3), reject(store, kept, 4, " PEN ")
    third = reject(store, kept, 5, "cup")
    found = list(kept.all())
    pen = store.object("pen").uid
    assert [(one.uid, one.actual, one.actual_uid) for one in found] == [
        (first, None, None), (second, "pen", pen), (third, "cup", None),
    ]  # fmt: skip
    assert {(one.created, one.model_id) for one in found} == {(NOW, MODEL)}
    assert np.array_equal(decode_png(found[1].picture), picture(4))
    assert files(kept) == [f"00000001-{first}.json", f"00000002-{second}.json", f"00000003-{third}.json"]
    assert kept.directory is not None
    assert {path.stat().st_mode & 0o777 for path in kept.directory.iterdir()} == {0o600}
    assert kept.directory.stat().st_mode & 0o777 == 0o700


def test_nothing_is_kept_without_consent(store: SupportStore, tmp_path: Path) -> None:
    for kept in (KeptMistakes(tmp_path), KeptMistakes(None)):
        reject(store, kept, 3)
        assert list(kept.all()) == []
    assert not (tmp_path / "mistakes").exists()


def test_withdrawn_consent_deletes_all(store: SupportStore, kept: KeptMistakes, tmp_path: Path) -> None:
    reject(store, kept, 3)
    kept.allow(False)
    assert not (tmp_path / "mistakes").exists()
    kept.allow(False)
    kept.allow(True)
    assert list(kept.all()) == []


def test_what_cannot_be_deleted_is_an_error(kept: KeptMistakes, tmp_path: Path) -> None:
    (tmp_path / "mistakes").write_text("a file")
    with pytest.raises(StoreError, match=r"/mistakes cannot be deleted: Not a directory$"):
        kept.allow(False)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Mug", '"mug" is what was recognized; name what it really was'),
        ("", "an object needs a name that is not empty"),
        ("a\nb", "has a control character"),
    ],
)
def test_a_name_that_cannot_be_is_refused(store: SupportStore, name: str, problem: str) -> None:
    with pytest.raises(SupportError, match=problem):
        Actual.of(store, store.object("mug").uid, name)


def test_the_oldest_go_first_beyond_the_limits(
    store: SupportStore, kept: KeptMistakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    uids = [reject(store, kept, number) for number in range(3, 6)]
    monkeypatch.setattr(mistakes, "MAX_MISTAKES", 3)
    uids.append(reject(store, kept, 6))
    assert [one.uid for one in kept.all()] == uids[1:]
    assert kept.directory is not None
    size = max(path.stat().st_size for path in kept.directory.iterdir())
    monkeypatch.setattr(mistakes, "MAX_BYTES", 2 * size + 10)
    uids.append(reject(store, kept, 7))
    assert [one.uid for one in kept.all()] == uids[-2:]
    monkeypatch.setattr(mistakes, "MAX_BYTES", 1)
    uids.append(reject(store, kept, 8))
    assert [one.uid for one in kept.all()] == uids[-1:]


def test_the_order_does_not_depend_on_the_clock_or_the_name(store: SupportStore, kept: KeptMistakes) -> None:
    reject(store, kept, 3)
    assert kept.directory is not None
    (name,) = files(kept)
    os.rename(kept.directory / name, kept.directory / name.replace("00000001", "99999999"))
    last = reject(store, kept, 4)
    assert [one.uid for one in kept.all()][-1] == last
    assert files(kept)[0].startswith("100000000-")


def test_a_write_that_fails_costs_the_mistake_alone(
    store: SupportStore, kept: KeptMistakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reject(store, kept, 3)
    monkeypatch.setattr(errors, "is_nearly_full", lambda _: True)
    assert kept.keep(store, store.object("mug").uid, picture(4), NOBODY) == (
        "the picture of a wrong recognition is not kept for training: the disk is nearly full: less than 64 MiB are free "
        f"in {tmp_path}"
    )
    reject(store, kept, 4)
    assert store.object("mug").negatives == 2
    assert len(list(kept.all())) == 1


def test_damaged_and_foreign_files_are_skipped(
    store: SupportStore, kept: KeptMistakes, caplog: pytest.LogCaptureFixture
) -> None:
    uids = [reject(store, kept, number) for number in range(3, 7)]
    assert kept.directory is not None
    damaged = [kept.directory / name for name in files(kept)]
    damaged[0].write_bytes(damaged[0].read_bytes()[:-20])
    value = json.loads(damaged[1].read_text())
    damaged[1].write_text(json.dumps(value | {"picture": value["picture"][:-60] + value["picture"][-20:]}))
    damaged[2].write_text(json.dumps(value | {"created": "yesterday"}))
    (kept.directory / "notes.txt").write_text("what a person left")
    (kept.directory / f".00000009-{uids[0]}.json.abcdefgh.tmp").write_text("{")
    assert [one.uid for one in kept.all()] == uids[3:]
    assert caplog.text.count("cannot be read and is skipped") == 3


def test_a_mistake_stays_as_long_as_an_undo_can_restore_its_negative(
    store: SupportStore, kept: KeptMistakes
) -> None:
    uid = reject(store, kept, 3, "cup")
    store.forget("mug")
    kept.prune(store)
    assert [one.uid for one in kept.all()] == [uid]
    for number in range(MAX_UNDOS + 1):
        store.rename("pen" if number % 2 == 0 else "quill", "quill" if number % 2 == 0 else "pen")
    kept.prune(store)
    assert list(kept.all()) == []


def test_what_cannot_be_pruned_now_is_pruned_later(
    store: SupportStore, kept: KeptMistakes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reject(store, kept, 3)

    def fail(_: object) -> set[str]:
        raise StoreError("the disk reported an error")

    with monkeypatch.context() as patched:
        patched.setattr(store, "existing_views", fail)
        kept.prune(store)
    assert "pictures of former negatives are not deleted: the disk reported an error" in caplog.text
    monkeypatch.setattr(store, "existing_views", lambda _: set())
    kept.prune(store)
    assert list(kept.all()) == []
