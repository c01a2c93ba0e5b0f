"""Regions of the picture: whose turn it is, what each recognizes, and what stays when they change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edge_siamese.daemon.regions import Region
from edge_siamese.errors import ControlError, SettingsError
from edge_siamese.models.bundle import Bundle
from edge_siamese.panel.press_grammar import Gesture
from edge_siamese.recognition.imaging import Box, Bytes
from edge_siamese.settings import RegionSettings
from tests.edge_siamese.daemon.rig import DISC, PAGE, RING, SETTINGS, Rig

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0)
SHELF, DOOR = RegionSettings("shelf", LEFT), RegionSettings("door", RIGHT)


def side_by_side(left: Bytes, right: Bytes) -> Bytes:
    """A frame of 512x256; the shelf shows the left picture, the door the right one."""
    return np.hstack([left, right])


RigMaker = Callable[..., Rig]


@pytest.fixture
def make(tmp_path: Path, bundle: Bundle) -> Iterator[RigMaker]:
    made: list[Rig] = []

    def rig(*regions: RegionSettings, focus: str = "center", **recognition: Any) -> Rig:
        settings = structs.replace(
            SETTINGS,
            regions=regions,
            camera=structs.replace(SETTINGS.camera, focus=focus),
            recognition=structs.replace(SETTINGS.recognition, **recognition),
        )
        made.append(Rig(tmp_path / str(len(made)), bundle, settings))
        return made[-1]

    yield rig
    for each in made:
        each.store.close()


def count_runs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that the encoder reads, one number for each run."""
    runs: list[int] = []
    embed = rig.encoder.embed_prepared

    def counted(images: Bytes) -> Any:
        runs.append(len(images))
        return embed(images)

    monkeypatch.setattr(rig.encoder, "embed_prepared", counted)
    return runs


def happened(rig: Rig) -> list[tuple[str, str, str]]:
    """(kind, name, region) of the sightings since the last call."""
    found = [
        (event.kind, event.data["name"], event.data["region"])
        for event in rig.events
        if event.kind in ("appeared", "seen", "left")
    ]
    rig.events.clear()
    return found


def place(rig: Rig, name: str) -> Region:
    return rig.engine.region(name)


class TestTurns:
    @pytest.mark.parametrize(("per_frame", "expected"), [(1, [1] * 6), (2, [2] * 6), (8, [3] * 6)])
    def test_a_frame_costs_no_more_encoder_runs_than_the_budget(
        self, make: RigMaker, monkeypatch: pytest.MonkeyPatch, per_frame: int, expected: list[int]
    ) -> None:
        third = RegionSettings("all", (0.0, 0.0, 1.0, 1.0))
        rig = make(SHELF, DOOR, third, regions_per_frame=per_frame)
        runs = count_runs(rig, monkeypatch)
        each = []
        for _ in range(6):
            rig.show(side_by_side(RING, DISC))
            each.append(len(runs))
            runs.clear()
        assert each == expected
        counted = rig.observations.telemetry.counts().frames
        looks = sum(expected) // 3
        assert {region: counted["unknown", region] for region in ("shelf", "door", "all")} == {
            "shelf": looks, "door": looks, "all": looks,
        }  # fmt: skip

    def test_a_region_in_which_nothing_is_new_loses_its_turn(
        self, make: RigMaker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rig = make(SHELF, DOOR, focus="foreground")
        rig.show(*[side_by_side(PAGE, PAGE)] * 30)
        runs = count_runs(rig, monkeypatch)
        rig.show(*[side_by_side(PAGE, PAGE)] * 5)
        assert runs == []
        rig.show(*[side_by_side(PAGE, RING)] * 5)
        assert len(runs) == 5
        rules = [place(rig, name).state.recognition for name in ("shelf", "door")]
        assert [found and found.rule for found in rules] == ["nothing to see", "nothing registered"]

    def test_a_region_of_its_own_focus(self, make: RigMaker) -> None:
        rig = make(structs.replace(SHELF, focus="foreground"), DOOR, regions_per_frame=2)
        rig.show(*[side_by_side(PAGE, PAGE)] * 30)
        assert (place(rig, "shelf").state.part, place(rig, "door").state.part) == (
            None, Box(0, 256, 256, 256),
        )  # fmt: skip

    def test_slow_turns_do_not_end_sightings(self, make: RigMaker) -> None:
        camera = structs.replace(SETTINGS.camera, frame_rate=0.5)
        rig = make(SHELF, DOOR)
        rig.engine.use_regions((), 0.0)
        rig.engine.settings = structs.replace(rig.engine.settings, camera=camera)
        rig.engine.use_regions((SHELF, DOOR), 0.0)
        rig.learn("ring", side_by_side(RING, PAGE))
        rig.take()
        for _ in range(12):
            rig.show(side_by_side(PAGE, RING), every=2.0)
            rig.wait(3.9)  # more than five seconds from one turn to the next
        kinds = [kind for kind, _, _ in happened(rig)]
        assert kinds[0] == "appeared" and set(kinds[1:]) == {"seen"}
        assert rig.engine.present == ("ring",)


class TestEvents:
    def test_each_region_has_its_own_sightings(self, make: RigMaker) -> None:
        rig = make(SHELF, DOOR)
        assert rig.learn("ring", side_by_side(RING, PAGE), region="shelf").saved
        rig.take()
        rig.show(*[side_by_side(RING, PAGE)] * 4, *[side_by_side(RING, RING)] * 4)
        assert happened(rig) == [("appeared", "ring", "shelf"), ("appeared", "ring", "door")]
        assert rig.engine.present == ("ring",)
        assert [found.region for found in rig.engine.sightings] == ["shelf", "door"]
        assert len({found.sighting for found in rig.engine.sightings}) == 2
        rig.show(*[side_by_side(RING, PAGE)] * 8)
        assert happened(rig) == [("left", "ring", "door")]
        assert rig.engine.present == ("ring",)
        rig.engine.camera_lost(rig.now)
        assert rig.take() == [("left", 'ring left "shelf" after 1 s')]

    def test_the_text_names_the_region(self, make: RigMaker) -> None:
        rig = make(DOOR, seen_interval_s=0.2)
        rig.learn("ring", side_by_side(PAGE, RING))
        rig.take()
        rig.show(*[side_by_side(PAGE, RING)] * 5)
        assert [text for _, text in rig.take()] == [
            'ring appeared in "door" (p = 0.85)',
            'ring is still in "door", for 0 s now',
        ]

    def test_decisions_of_events_show_the_region(self, make: RigMaker) -> None:
        rig = make(SHELF, DOOR)
        rig.observations.decisions.enabled = True
        rig.learn("ring", side_by_side(RING, PAGE))
        rig.events.clear()
        rig.show(*[side_by_side(PAGE, RING)] * 4)
        (event,) = rig.events
        kept = rig.observations.decisions.get(event.data["decision"])
        assert event.data["region"] == "door"
        assert kept is not None and kept.recognition.name == "ring"
        np.testing.assert_array_equal(kept.crop.shape, (192, 192))

    def test_the_latest_recognition_of_any_region_is_rejected(self, make: RigMaker) -> None:
        rig = make(SHELF, DOOR)
        rig.learn("ring", side_by_side(RING, PAGE))
        rig.show(*[side_by_side(RING, RING)] * 4)
        rig.show(*[side_by_side(PAGE, RING)] * 2)
        rig.events.clear()
        rig.engine.reject_last(rig.now)
        assert sorted(happened(rig)) == [("left", "ring", "door"), ("left", "ring", "shelf")]
        assert rig.engine.present == ()
        with pytest.raises(ControlError, match="nothing was recognized recently"):
            rig.engine.reject_last(rig.now)

    def test_renamed_and_forgotten_objects_are_so_in_all_regions(self, make: RigMaker) -> None:
        rig = make(SHELF, DOOR)
        rig.learn("ring", side_by_side(RING, PAGE))
        rig.show(*[side_by_side(RING, RING)] * 4)
        rig.engine.rename("ring", "hoop")
        assert [found.name for found in rig.engine.sightings] == ["hoop", "hoop"]
        rig.events.clear()
        rig.engine.forget("hoop")
        assert happened(rig) == [("left", "hoop", "shelf"), ("left", "hoop", "door")]


class TestLimits:
    def test_a_region_has_its_own_threshold_and_numbers_of_frames(self, make: RigMaker) -> None:
        strict = structs.replace(DOOR, threshold=1.0)
        quick = structs.replace(SHELF, window_frames=1, appear_frames=1, leave_frames=0)
        rig = make(quick, strict, regions_per_frame=2)
        rig.learn("ring", side_by_side(RING, PAGE))
        rig.events.clear()
        noisy = (RING.astype(int) + 9).clip(0, 255).astype(np.uint8)
        rig.show(side_by_side(noisy, noisy))
        assert happened(rig) == [("appeared", "ring", "shelf")]
        rig.show(side_by_side(PAGE, noisy))
        assert happened(rig) == [("left", "ring", "shelf")]
        found = place(rig, "door").state.recognition
        assert found is not None and (found.nearest, found.rule) == ("ring", "below threshold")
        assert found.threshold == 1.0
        assert rig.engine.threshold == 0.5

    def test_regions_with_the_same_limits_share_them(self, make: RigMaker) -> None:
        rig = make(SHELF, DOOR, structs.replace(SHELF, name="strict", threshold=0.9))
        shelf, door, strict = rig.engine.regions
        assert shelf.rule is door.rule and shelf.rule is not strict.rule
        assert strict.rule.threshold == 0.9


class TestRegistration:
    def test_the_button_registers_in_the_first_region(self, make: RigMaker) -> None:
        rig = make(DOOR, SHELF)
        rig.press(*[side_by_side(RING, DISC)] * 3)
        registered = rig.events[-1]
        assert (registered.kind, registered.data["region"]) == ("registered", "door")
        rig.show(*[side_by_side(DISC, PAGE)] * 4)
        assert ("appeared", "object 1", "shelf") in happened(rig)

    def test_another_region_can_be_named(self, make: RigMaker) -> None:
        rig = make(DOOR, SHELF)
        assert rig.engine.region("SHELF").name == "shelf"
        assert rig.engine.region(None).name == "door"
        rig.learn("ring", side_by_side(RING, DISC), region="shelf")
        rig.show(*[side_by_side(DISC, RING)] * 4)
        assert ("appeared", "ring", "door") in happened(rig)
        with pytest.raises(ControlError, match='there is no region "attic"; regions: door, shelf'):
            rig.engine.region("attic")

    def test_without_regions_no_region_can_be_named(self, make: RigMaker) -> None:
        with pytest.raises(ControlError, match='there is no region ""; regions: none'):
            make().engine.region("")


class TestChanges:
    def test_a_region_that_stays_keeps_its_sightings(self, make: RigMaker) -> None:
        rig = make(SHELF, DOOR, regions_per_frame=2)
        rig.learn("ring", side_by_side(RING, PAGE))
        rig.show(*[side_by_side(RING, RING)] * 2)
        rig.events.clear()
        rig.engine.use_regions((structs.replace(DOOR, name="entrance"), SHELF), rig.now)
        assert happened(rig) == [("left", "ring", "door")]
        assert [region.name for region in rig.engine.regions] == ["entrance", "shelf"]
        rig.show(*[side_by_side(RING, RING)] * 2)
        assert happened(rig) == [("appeared", "ring", "entrance")]
        regions = {region for _, region in rig.observations.telemetry.counts().frames}
        assert regions == {"entrance", "shelf"}

    def test_new_limits_know_the_objects(self, make: RigMaker) -> None:
        rig = make()
        rig.learn("ring", RING)
        rig.engine.use_regions((structs.replace(SHELF, threshold=0.8),), rig.now)
        rig.show(*[side_by_side(RING, PAGE)] * 2)
        assert ("appeared", "ring", "shelf") in happened(rig)
        rig.engine.use_regions((), rig.now)
        assert happened(rig) == [("left", "ring", "shelf")]
        assert [region.name for region in rig.engine.regions] == [""]

    def test_limits_that_the_model_does_not_have_change_nothing(self, make: RigMaker) -> None:
        rig = make(SHELF)
        with pytest.raises(SettingsError, match="false-accept rate"):
            rig.engine.use_regions((structs.replace(DOOR, false_accept_rate=1e-8),), rig.now)
        assert [region.name for region in rig.engine.regions] == ["shelf"]

    def test_a_registration_in_progress_is_canceled(self, make: RigMaker) -> None:
        rig = make(SHELF)
        rig.do(Gesture.PRESS)
        rig.engine.use_regions((DOOR,), rig.now)
        assert not rig.engine.registrations.busy
        assert rig.take() == [("refused", "not registered: the registration was canceled")]


@pytest.mark.parametrize(
    ("box", "shape", "expected"),
    [
        ((0.5, 0.25, 0.25, 0.5), (480, 640), Box(120, 320, 240, 160)),
        ((0.95, 0.95, 0.05, 0.05), (3, 5), Box(2, 4, 1, 1)),
        ((0.0, 0.0, 1.0, 1.0), (481, 641), Box(0, 0, 481, 641)),
        ((0.333, 0.0, 0.667, 1.0), (100, 100), Box(0, 33, 100, 67)),
    ],
)
def test_a_region_lies_in_the_frame(make: RigMaker, box: Any, shape: tuple[int, int], expected: Box) -> None:
    rig = make(RegionSettings("some", box))
    assert rig.engine.regions.first.area(np.zeros(shape)) == expected
