"""The surroundings in the daemon: what is learned from frames, kept on disk, and reported."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from msgspec import structs

from edge_siamese.daemon.engine import Engine
from edge_siamese.daemon.surroundings import (
    PENDING_SECONDS,
    UPDATE_SECONDS,
    WRITE_SECONDS,
    SurroundingsLearner,
)
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition import surroundings
from edge_siamese.recognition.imaging import Bytes, Floats
from edge_siamese.recognition.surroundings import tightened
from edge_siamese.runtimes.fake import FAKE_HEAD, FakeEncoder
from edge_siamese.settings import SurroundingsSettings
from edge_siamese.store.surroundings import SurroundingsFile
from tests.edge_siamese.daemon.rig import DISC, RING, SETTINGS, Rig


@pytest.fixture
def rig(tmp_path: Path, bundle: Bundle) -> Iterator[Rig]:
    made = Rig(tmp_path, bundle)
    yield made
    made.store.close()


def stranger(seed: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (32, 32), dtype=np.uint8)


def scenes(rig: Rig) -> Floats:
    assert rig.engine.surroundings is not None
    return rig.engine.surroundings.scenes


def wait_until_kept(rig: Rig) -> None:
    rig.wait(PENDING_SECONDS)


class TestLearning:
    def test_a_visit_is_one_scene_however_long_it_takes(self, rig: Rig) -> None:
        rig.show(*[stranger(1)] * 300, *[stranger(2)] * 20, *[stranger(1)] * 50, *[stranger(3)])
        wait_until_kept(rig)
        expected = rig.encoder.embed([stranger(1), stranger(2)])
        np.testing.assert_allclose(scenes(rig), expected, atol=1e-5)

    def test_a_scene_is_kept_after_a_minute(self, rig: Rig) -> None:
        rig.show(*[stranger(1)] * 10, stranger(2))
        rig.wait(PENDING_SECONDS - 0.2)
        assert len(scenes(rig)) == 0
        rig.wait(0.3)
        assert len(scenes(rig)) == 1

    def test_a_recognized_object_is_no_scene(self, rig: Rig) -> None:
        rig.learn("ring", RING)
        rig.show(*[RING] * 50, *[stranger(1)] * 2)
        wait_until_kept(rig)
        assert len(scenes(rig)) == 0

    def test_what_follows_a_recognized_object_is_none_while_it_is_present(self, rig: Rig) -> None:
        """It may be the object, turned: until it has left, and for the rest of this scene."""
        rig.learn("ring", RING)
        rig.show(*[RING] * 10, *[DISC] * 50, *[stranger(1)] * 10, stranger(2))
        wait_until_kept(rig)
        np.testing.assert_allclose(scenes(rig), rig.encoder.embed([stranger(1)]), atol=1e-5)

    def test_what_precedes_a_registration_is_forgotten(self, rig: Rig) -> None:
        rig.show(*[stranger(1)] * 10, *[RING] * 10)
        rig.learn("ring", RING)
        rig.show(*[stranger(2)] * 10, stranger(3))
        wait_until_kept(rig)
        np.testing.assert_allclose(scenes(rig), rig.encoder.embed([stranger(2)]), atol=1e-5)

    def test_a_lost_camera_ends_the_scene_without_a_trace(self, rig: Rig) -> None:
        rig.show(*[stranger(1)] * 10)
        rig.engine.camera_lost(rig.now)
        rig.show(stranger(2))
        wait_until_kept(rig)
        assert len(scenes(rig)) == 0

    def test_it_can_be_turned_off(self, tmp_path: Path, bundle: Bundle) -> None:
        settings = structs.replace(SETTINGS, surroundings=SurroundingsSettings(enabled=False))
        rig = Rig(tmp_path, bundle, settings)
        rig.show(*[stranger(1)] * 10, stranger(2))
        wait_until_kept(rig)
        assert rig.engine.surroundings is None
        assert rig.engine.surroundings_report().enabled is False
        assert rig.engine.clear_surroundings() == 0
        rig.store.close()


class TestPlaces:
    """Frames of 0.1 s. `stranger(1)` is the empty place."""

    @staticmethod
    def places(rig: Rig) -> Floats:
        assert rig.engine.surroundings is not None
        return rig.engine.surroundings.places

    def test_the_place_before_an_object_came_is_kept(self, rig: Rig) -> None:
        rig.show(*[stranger(1)] * 100, *[DISC] * 20, *[RING] * 5)
        rig.learn("ring", RING)
        np.testing.assert_allclose(self.places(rig), rig.encoder.embed([stranger(1)]), atol=1e-5)
        np.testing.assert_array_equal(rig.engine.support.places, self.places(rig))

    def test_a_place_that_stays_for_hours_is_one(self, rig: Rig) -> None:
        rig.show(*[stranger(1)] * 1230, *[RING] * 5)
        rig.learn("ring", RING)
        np.testing.assert_allclose(self.places(rig), rig.encoder.embed([stranger(1)]), atol=1e-5)

    def test_what_was_held_there_for_a_moment_is_no_place(self, rig: Rig) -> None:
        """It may be the object, in another pose."""
        rig.show(*[stranger(1)] * 99, *[RING] * 5)
        rig.learn("ring", RING)
        assert len(self.places(rig)) == 0

    def test_an_object_that_stood_there_all_the_time_is_no_place(self, rig: Rig) -> None:
        rig.show(*[stranger(1)] * 200, *[RING] * 301)
        rig.learn("ring", RING)
        assert len(self.places(rig)) == 0

    def test_a_recognized_object_is_no_place(self, rig: Rig) -> None:
        rig.learn("ring", RING)
        rig.show(*[RING] * 200, *[DISC] * 5)
        rig.learn("disc", DISC)
        assert len(self.places(rig)) == 0

    def test_a_further_view_brings_no_place(self, rig: Rig) -> None:
        known = rig.learn("ring", RING).object
        assert known is not None
        rig.show(*[stranger(1)] * 100, *[DISC] * 5)
        rig.learn("ring", DISC, target=known.uid)
        assert len(self.places(rig)) == 0

    def test_it_is_kept_through_a_restart(self, rig: Rig, tmp_path: Path) -> None:
        file = SurroundingsFile(tmp_path)
        learner = SurroundingsLearner(file, rig.encoder, FAKE_HEAD, 0.5)
        place = rig.encoder.embed([stranger(1)])[0]
        assert (learner.add_place(place), learner.add_place(place), learner.add_place(None)) == (
            True,
            False,
            False,
        )
        learner.save()
        again = SurroundingsLearner(file, rig.encoder, FAKE_HEAD, 0.5)
        np.testing.assert_allclose(again.places, place[None], atol=1e-3)
        again.clear()
        assert len(again.places) == 0


class TestLimits:
    @pytest.fixture
    def crowded(self, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
        """It knows a ring, and strangers that resemble the ring."""
        settings = structs.replace(SETTINGS, surroundings=SurroundingsSettings(tighten=True))
        rig = Rig(tmp_path, bundle, settings)
        yield self.fill(rig, monkeypatch)
        rig.store.close()

    @staticmethod
    def fill(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
        monkeypatch.setattr(surroundings, "MIN_SCENES", 8)
        rig.learn("ring", RING)
        rig.learn("disc", DISC)
        assert rig.engine.surroundings is not None
        view = rig.engine.support.embeddings[0]
        rng = np.random.default_rng(0)
        sides = rng.normal(size=(60, len(view))).astype(np.float32)
        sides -= (sides @ view)[:, None] * view
        sides /= np.linalg.norm(sides, axis=1, keepdims=True)
        angles = np.linspace(0.65, 1.0, 60, dtype=np.float32)[:, None]
        for scene in np.cos(angles) * view + np.sin(angles) * sides:
            rig.engine.surroundings.add(scene, rig.now)
        return rig

    def test_limits_follow_within_a_tick(self, crowded: Rig) -> None:
        assert not crowded.engine.support.by_surroundings.any()
        wait_until_kept(crowded)
        support = crowded.engine.support
        assert support.by_surroundings.tolist() == [True, False]
        general = FAKE_HEAD.distance_at(crowded.engine.threshold)
        assert 0.8 * general <= support.limits[0] < general

    def test_they_outlast_a_change_of_the_objects(self, crowded: Rig) -> None:
        wait_until_kept(crowded)
        crowded.engine.rename("ring", "circle")
        assert crowded.engine.support.by_surroundings.tolist() == [True, False]
        crowded.engine.forget("circle")
        assert crowded.engine.support.by_surroundings.tolist() == [False]

    def test_the_report_names_the_objects(self, crowded: Rig) -> None:
        before = crowded.engine.surroundings_report()
        assert [item.further for item in before.objects] == [None, None]
        wait_until_kept(crowded)
        report = crowded.engine.surroundings_report()
        assert (report.enabled, report.scenes) == (True, 60)
        ring, disc = report.objects
        assert (ring.name, ring.near, ring.tightened) == ("ring", True, True)
        assert (disc.name, disc.near, disc.tightened) == ("disc", False, False)
        assert ring.further is not None and 0.5 < ring.further < 0.99
        assert ring.text.endswith(" % of what this camera sees is further away")

    def test_by_default_the_objects_are_only_compared_and_only_on_request(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compare = Mock(wraps=tightened)
        monkeypatch.setattr("edge_siamese.daemon.surroundings.tightened", compare)
        wait_until_kept(self.fill(rig, monkeypatch))
        assert compare.call_count == 0
        assert not rig.engine.support.by_surroundings.any()
        assert np.isinf(rig.engine.support.limits).all()
        assert [(item.near, item.tightened) for item in rig.engine.surroundings_report().objects] == [
            (True, False),
            (False, False),
        ]

    def test_clearing_restores_the_limits(self, crowded: Rig) -> None:
        wait_until_kept(crowded)
        assert crowded.engine.clear_surroundings() == 60
        assert not crowded.engine.support.by_surroundings.any()
        assert crowded.engine.surroundings_report().scenes == 0


class TestFile:
    @pytest.fixture
    def learner(self, tmp_path: Path) -> SurroundingsLearner:
        return SurroundingsLearner(SurroundingsFile(tmp_path), FakeEncoder(), FAKE_HEAD, 0.5)

    @staticmethod
    def scene(seed: int) -> Floats:
        return FakeEncoder().embed([stranger(seed)])[0]

    def test_it_is_written_at_most_every_half_hour(
        self, learner: SurroundingsLearner, tmp_path: Path
    ) -> None:
        file, sizes = tmp_path / "surroundings.bin", []
        for minute in range(100):
            now = 60.0 * minute
            learner.add(self.scene(minute), now)
            learner.tick(now)
            sizes.append(file.stat().st_size if file.exists() else 0)
        writes = [minute for minute in range(1, 100) if sizes[minute] != sizes[minute - 1]]
        assert writes == [30, 60, 90]
        assert WRITE_SECONDS == 30 * 60

    def test_nothing_is_written_without_a_change(self, learner: SurroundingsLearner, tmp_path: Path) -> None:
        learner.save()
        learner.tick(0.0)
        learner.tick(10 * WRITE_SECONDS)
        assert list(tmp_path.iterdir()) == []

    def test_limits_change_at_most_once_a_minute(self, learner: SurroundingsLearner) -> None:
        changed = []
        for second in range(0, 300, 10):
            learner.add(self.scene(second), second)
            if learner.tick(second):
                changed.append(second)
        assert changed == [PENDING_SECONDS + UPDATE_SECONDS * number for number in range(4)]

    def test_a_failed_write_is_logged_and_repeated(
        self, learner: SurroundingsLearner, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "surroundings.bin").mkdir()
        learner.add(self.scene(1), 0.0)
        learner.tick(PENDING_SECONDS)
        learner.save()
        assert "the surroundings are not saved: " in caplog.text
        (tmp_path / "surroundings.bin").rmdir()
        learner.save()
        assert (tmp_path / "surroundings.bin").is_file()

    def engine(self, rig: Rig, file: SurroundingsFile, **settings: Any) -> Engine:
        return Engine(
            structs.replace(rig.settings, **settings),
            rig.engine.bundle,
            rig.encoder,
            rig.store,
            publish=lambda _: None,
            surroundings=file,
        )

    def test_the_next_engine_knows_them(self, rig: Rig, tmp_path: Path) -> None:
        file = SurroundingsFile(tmp_path)
        rig.engine = self.engine(rig, file)
        rig.show(*[stranger(1)] * 10, stranger(2))
        wait_until_kept(rig)
        rig.engine.close()
        assert len(scenes(rig)) == 1
        rig.engine = self.engine(rig, file)
        np.testing.assert_allclose(scenes(rig), rig.encoder.embed([stranger(1)]), atol=1e-3)

    def test_clearing_deletes_the_file(self, rig: Rig, tmp_path: Path) -> None:
        file = SurroundingsFile(tmp_path)
        file.save(rig.encoder.model_id, self.scene(1)[None], self.scene(2)[None])
        engine = self.engine(rig, file)
        assert engine.clear_surroundings() == 1
        assert not (tmp_path / "surroundings.bin").exists()
        engine.close()
        assert not (tmp_path / "surroundings.bin").exists()

    def test_turning_it_off_deletes_the_file(self, rig: Rig, tmp_path: Path) -> None:
        file = SurroundingsFile(tmp_path)
        file.save(rig.encoder.model_id, self.scene(1)[None], self.scene(2)[None])
        self.engine(rig, file, surroundings=SurroundingsSettings(enabled=False))
        assert not (tmp_path / "surroundings.bin").exists()

    def test_a_file_that_cannot_be_deleted_is_reported(
        self, rig: Rig, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "surroundings.bin").mkdir()
        with caplog.at_level(logging.WARNING):
            self.engine(rig, SurroundingsFile(tmp_path), surroundings=SurroundingsSettings(enabled=False))
        assert "surroundings.bin cannot be deleted" in caplog.text
