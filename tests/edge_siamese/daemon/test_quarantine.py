"""Quarantine and fallbacks: the files in the state directory, the search for what fails, and starts that end early."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from edge_siamese.daemon.quarantine import (
    MAX_PARTS,
    Fallback,
    Part,
    Quarantine,
    StartCounter,
    failing_items,
    failing_parts,
    fallback_after,
    model_part,
    object_part,
    settings_part,
    view_part,
)
from edge_siamese.errors import ControlError
from edge_siamese.recognition.support import SupportEntry

NOW = "2026-11-24T10:00:00.000+00:00"


def entry(name: str, *views: int) -> SupportEntry:
    vectors = np.ones((len(views), 2), np.float32)
    return SupportEntry(name.ljust(32, "0"), name, views, vectors, vectors[:0])


def quarantine(place: Path) -> Quarantine:
    return Quarantine(place, now=lambda: NOW)


MUG, PEN = entry("mug", 1, 2), entry("pen", 3)


class TestSearch:
    @pytest.mark.parametrize("bad", [[], [0], [99], [3, 4, 50], [*range(100)]])
    def test_the_items_that_fail_are_found(self, bad: list[int]) -> None:
        assert failing_items(range(100), lambda some: not set(some) & set(bad)) == bad

    def test_of_items_that_fail_only_together_the_later_is_found(self) -> None:
        assert failing_items(range(8), lambda some: not {2, 6} <= set(some)) == [6]

    def test_one_of_a_thousand_takes_few_trials(self) -> None:
        trials = []

        def works(some: list[int]) -> bool:
            trials.append(len(some))
            return 700 not in some

        assert failing_items(range(1000), works) == [700]
        assert len(trials) <= 2 * 10 + 1

    def test_one_view_of_an_object_is_found(self) -> None:
        found = failing_parts(
            [MUG, PEN], lambda some: all(2 not in item.view_ids for item in some), "it failed"
        )
        assert found == [Part("view-2", "view", "2", 'view 2 of "mug"', "it failed")]

    def test_an_object_whose_views_all_fail_is_found_as_a_whole(self) -> None:
        found = failing_parts(
            [MUG, PEN], lambda some: MUG.uid not in [item.uid for item in some], "it failed"
        )
        assert found == [Part("object-mug00000", "object", MUG.uid, 'the object "mug"', "it failed")]

    def test_an_object_that_fails_by_its_negatives_is_found_as_a_whole(self) -> None:
        spoiled = SupportEntry(MUG.uid, "mug", (1, 2), MUG.embeddings, MUG.embeddings[:1])
        found = failing_parts(
            [spoiled, PEN], lambda some: not any(len(e.negatives) for e in some), "it failed"
        )
        assert [part.id for part in found] == ["object-mug00000"]


class TestFile:
    def test_parts_survive_a_restart_and_are_restored(self, tmp_path: Path) -> None:
        first = quarantine(tmp_path)
        first.add(view_part(MUG, 2, "it failed"))
        first.add(model_part("tiny-1", "no"))
        again = quarantine(tmp_path)
        assert [part.report() for part in again.parts] == [
            {
                "id": "view-2",
                "kind": "view",
                "name": 'view 2 of "mug"',
                "text": 'view 2 of "mug" is not used: it failed',
                "reason": "it failed",
                "time": NOW,
            },
            {
                "id": "model",
                "kind": "model",
                "name": "the model tiny-1",
                "text": "the model tiny-1 is not used: no",
                "reason": "no",
                "time": NOW,
            },
        ]
        assert again.restore("view-2").reference == "2"
        with pytest.raises(ControlError, match=r'"view-2" is not in quarantine.*edge-siamese quarantine'):
            again.restore("view-2")
        again.restore("model")
        assert list(tmp_path.iterdir()) == []

    def test_a_part_with_an_invalid_time_is_kept_without_it(self, tmp_path: Path) -> None:
        quarantine(tmp_path).add(view_part(MUG, 2, "it failed"))
        path = tmp_path / "quarantine.json"
        path.write_text(path.read_text().replace(NOW, "9999-12-31T23:59:59+00:00"))
        assert [(part.id, part.time) for part in quarantine(tmp_path).parts] == [("view-2", "")]

    def test_views_and_objects_in_quarantine_are_left_out(self, tmp_path: Path) -> None:
        kept = quarantine(tmp_path)
        assert kept.usable([MUG, PEN]) == [MUG, PEN]
        kept.add(view_part(MUG, 1, "no"))
        (mug, pen) = kept.usable([MUG, PEN])
        assert (mug.view_ids, mug.embeddings.shape, pen) == ((2,), (1, 2), PEN)
        kept.add(view_part(MUG, 2, "no"))
        assert kept.usable([MUG, PEN]) == [PEN]
        kept.add(object_part(PEN, "no"))
        assert kept.usable([MUG, PEN]) == []

    def test_a_full_quarantine_takes_the_store_as_a_whole(self, tmp_path: Path) -> None:
        kept = quarantine(tmp_path)
        kept.add(settings_part("d1", "no"))
        for number in range(MAX_PARTS):
            kept.add(view_part(MUG, number, "no"))
        assert [part.id for part in kept.parts] == ["settings", "store"]
        assert kept.usable([PEN]) == []

    def test_settings_in_quarantine_are_those_of_one_file(self, tmp_path: Path) -> None:
        kept = quarantine(tmp_path)
        kept.add(settings_part("d1", "no"))
        kept.drop("settings", keep="d1")
        assert kept.has("settings", "d1")
        kept.drop("settings", keep="d2")
        assert kept.parts == ()

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"parts": 7}',
            b'{"parts": [{"id": "x"}]}',
            b"null",
            b"9" * 5000,
            json.dumps({"parts": [], "more": 1}).encode(),
        ],
    )
    def test_a_damaged_file_counts_as_empty(
        self, tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("quarantine.json", "starts.json"):
            (tmp_path / name).write_bytes(content)
        kept = quarantine(tmp_path)
        assert kept.parts == ()
        assert StartCounter(tmp_path).early == 0
        assert f"{tmp_path / 'quarantine.json'} cannot be read and is ignored" in caplog.text
        kept.add(model_part("tiny", "no"))
        assert quarantine(tmp_path).has("model", "tiny")

    def test_a_disk_that_cannot_be_written_prevents_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        kept, starts = quarantine(tmp_path), StartCounter(tmp_path)
        monkeypatch.setattr("edge_siamese.daemon.quarantine.write_text_atomically", full)
        kept.add(model_part("tiny", "no"))
        assert kept.has("model", "tiny")
        assert starts.begin() == Fallback()
        starts.healthy()
        assert f"{tmp_path / 'quarantine.json'} cannot be written: No space left on device" in caplog.text


class TestStarts:
    def boot(self, place: Path, boot: str = "b1") -> StartCounter:
        (place / "boot_id").write_text(f"{boot}\n")
        return StartCounter(place, place / "boot_id")

    def test_after_three_early_ends_a_start_does_without_the_store_then_without_the_model(
        self, tmp_path: Path
    ) -> None:
        found = [self.boot(tmp_path).begin() for _ in range(9)]
        assert [(fallback.store, fallback.model) for fallback in found] == [
            *[(False, False)] * 3,
            *[(True, False)] * 2,
            *[(False, True)] * 2,
            *[(True, True)] * 2,
        ]
        assert [part.text for part in found[-1].parts()] == [
            "the object store is not used: 8 starts of the daemon ended early",
            "the installed model is not used: 8 starts of the daemon ended early",
        ]

    @pytest.mark.parametrize("early", [0, 1, 2])
    def test_fewer_early_ends_change_nothing(self, early: int) -> None:
        assert fallback_after(early).parts() == []

    def test_a_healthy_start_counts_from_zero(self, tmp_path: Path) -> None:
        for _ in range(3):
            self.boot(tmp_path).begin()
        starts = self.boot(tmp_path)
        assert starts.begin().store
        starts.healthy()
        starts.ended()
        assert not (tmp_path / "starts.json").exists()
        assert self.boot(tmp_path).begin() == Fallback()

    def test_a_start_that_is_stopped_does_not_count(self, tmp_path: Path) -> None:
        for _ in range(2):
            self.boot(tmp_path).begin()
        for _ in range(5):
            starts = self.boot(tmp_path)
            assert starts.begin() == Fallback(early_ends=2)
            starts.ended()

    def test_a_power_cut_does_not_count(self, tmp_path: Path) -> None:
        for number in range(9):
            assert self.boot(tmp_path, f"boot {number}").begin() == Fallback()

    def test_starts_forgotten_meanwhile_do_not_count(self, tmp_path: Path) -> None:
        for _ in range(3):
            self.boot(tmp_path).begin()
        starts = self.boot(tmp_path)
        starts.clear()
        assert starts.begin() == Fallback()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
    def test_a_read_only_state_directory_prevents_nothing(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        starts = StartCounter(tmp_path)
        assert starts.begin() == Fallback()
        starts.healthy()
