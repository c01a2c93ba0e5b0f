"""Regions that were drawn in the dashboard: kept through restarts, and never in the way of the settings."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edge_siamese.daemon import saved_regions
from edge_siamese.daemon.client import reload
from edge_siamese.daemon.saved_regions import SavedRegions, to_toml
from edge_siamese.errors import ControlError, SettingsError, StoreError
from edge_siamese.models.bundle import Bundle
from edge_siamese.settings import RecognitionSettings, RegionSettings
from edge_siamese.settings_file import parse_settings
from tests.edge_siamese.daemon.running import MUG, TABLE, Daemon, daemon_in, until

SHELF = RegionSettings("shelf", (0.1, 0.2, 0.3, 0.3334))
DOOR = RegionSettings(
    "Tür 2-a_b",
    (0.0, 0.0, 1.0, 1.0),
    "foreground",
    1e-05,
    0.5,
    window_frames=5,
    appear_frames=2,
    leave_frames=0,
)


def test_what_is_saved_is_read_again_and_valid_in_the_settings(tmp_path: Path) -> None:
    saved = SavedRegions(tmp_path / "state")
    assert saved.load(RecognitionSettings()) == ()
    saved.save((SHELF, DOOR))
    assert saved.load(RecognitionSettings()) == (SHELF, DOOR)
    assert parse_settings(saved.path.read_bytes()).regions == (SHELF, DOOR)
    assert parse_settings("[camera]\nframe_rate = 5\n" + to_toml((SHELF,))).regions == (SHELF,)
    saved.save(())
    assert saved.load(RecognitionSettings()) == ()
    assert os.listdir(saved.path.parent) == ["regions.toml"]


def test_a_file_that_is_damaged_or_contradicts_the_settings_is_named(tmp_path: Path) -> None:
    saved = SavedRegions(tmp_path)
    saved.save((structs.replace(SHELF, appear_frames=9),))
    with pytest.raises(
        SettingsError,
        match=r"regions\.toml: regions\[0\]\.appear_frames: must be at most window_frames \(8\)",
    ):
        saved.load(RecognitionSettings(window_frames=8))
    saved.path.write_bytes(saved.path.read_bytes()[:-30])
    with pytest.raises(SettingsError, match=r"regions\.toml: not valid TOML"):
        saved.load(RecognitionSettings())


def test_a_write_that_fails_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = SavedRegions(tmp_path)
    saved.save((SHELF,))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("edge_siamese.system.files.os.fsync", full)
    with pytest.raises(
        StoreError, match=r"the regions cannot be saved in .*regions\.toml: No space left on device"
    ):
        saved.save((DOOR,))
    assert saved.load(RecognitionSettings()) == (SHELF,)


# --- in a daemon ---


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    pytest.importorskip("onnxruntime")
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        made.stage.picture = np.hstack([MUG, TABLE])
        yield made.start().up()


def names(daemon: Daemon) -> list[str]:
    assert daemon.service.engine is not None
    return [region.name for region in daemon.service.engine.regions]


LEFT, RIGHT = (
    {"name": name, "box": box} for name, box in (("left", [0, 0, 0.5, 1]), ("right", [0.5, 0, 0.5, 1]))
)


def test_regions_are_watched_at_once_and_after_a_restart(daemon: Daemon) -> None:
    assert daemon.ask("regions") == {"regions": [], "registers": "", "editable": True, "file": ""}
    found = daemon.ask("set-regions", regions=[RIGHT, LEFT])
    assert (found["registers"], found["editable"]) == ("right", True)
    assert found["file"] == str(daemon.state / "regions.toml")
    assert daemon.events("settings") == ["the regions are now: right, left"]
    daemon.ask("register", name="mug", region="left")
    until(lambda: daemon.ask("status")["regions"] == {"right": [], "left": ["mug"]})
    assert daemon.ask("status")["line"].startswith("sees mug in left; 1 object; ")
    assert daemon.ask("explain", region="left")["name"] == "mug"
    assert daemon.ask("explain")["rule"] == "nothing to see"
    appeared = [event for event in daemon.ask("events") if event["kind"] == "appeared"]
    assert [event["region"] for event in appeared] == ["left"]
    daemon.stop()
    daemon.start().up()
    assert names(daemon) == ["right", "left"]
    assert daemon.ask("regions") == found
    daemon.ask("set-regions", regions=[])
    assert names(daemon) == [""] and daemon.events("settings") == ["the whole picture is watched"]
    reload(daemon.socket)
    assert names(daemon) == [""]


def test_regions_of_the_settings_replace_those_that_were_drawn(daemon: Daemon) -> None:
    daemon.ask("set-regions", regions=[LEFT])
    before = daemon.config.read_text()
    daemon.config.write_text(before + '[[regions]]\nname = "desk"\nbox = [0.0, 0.0, 0.5, 0.5]\n')
    assert not any(reload(daemon.socket)["loading"].values())
    until(lambda: names(daemon) == ["desk"])
    text = f"the regions of the settings are used, not those drawn in the dashboard ({daemon.state / 'regions.toml'})"
    assert text in daemon.events("settings")
    found = daemon.ask("regions")
    assert (found["editable"], found["file"], found["registers"]) == (False, str(daemon.config), "desk")
    with pytest.raises(ControlError, match=f"the regions are set in {daemon.config}; change them there"):
        daemon.ask("set-regions", regions=[RIGHT])
    # The drawn ones are still there.
    daemon.config.write_text(before)
    reload(daemon.socket)
    until(lambda: names(daemon) == ["left"])
    assert daemon.ask("regions")["editable"]


def test_regions_that_cannot_be_used_or_saved_change_nothing(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon.ask("set-regions", regions=[LEFT])
    for wrong, problem in (
        ([LEFT, {**RIGHT, "name": "Left"}], r'regions\[1\]\.name: "Left" is already the name of region 1'),
        (
            [{**RIGHT, "appear_frames": 9}],
            r"regions\[0\]\.appear_frames: must be at most window_frames \(3\)",
        ),
        ([{**RIGHT, "box": [0.5, 0, 0.6, 1]}], r"within the picture"),
        ([{**RIGHT, "name": "a\nb"}], r"must be 1 to 32 letters"),
    ):
        with pytest.raises(ControlError, match=problem):
            daemon.ask("set-regions", regions=wrong)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saved_regions, "write_text_atomically", full)
    with pytest.raises(StoreError, match="the regions cannot be saved"):
        daemon.ask("set-regions", regions=[RIGHT])
    assert names(daemon) == ["left"]
    assert [one["name"] for one in daemon.ask("regions")["regions"]] == ["left"]
    assert SavedRegions(daemon.state).load(RecognitionSettings())[0].name == "left"


def test_a_damaged_file_is_reported_and_the_whole_picture_watched(daemon: Daemon) -> None:
    daemon.ask("set-regions", regions=[LEFT])
    daemon.stop()
    path = daemon.state / "regions.toml"
    path.write_text("[[regions]\n")
    daemon.start().up()
    assert names(daemon) == [""]
    (text,) = daemon.events("settings")
    assert text.startswith(f"the regions drawn in the dashboard are not used: {path}: not valid TOML")
    daemon.ask("set-regions", regions=[RIGHT])
    assert SavedRegions(daemon.state).load(RecognitionSettings())[0].name == "right"


def test_regions_that_make_frames_fail_are_not_used(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    find = "edge_siamese.daemon.regions.Region.find_part"
    from edge_siamese.daemon.regions import Region

    work = Region.find_part

    def fail(region: Region, *arguments: Any, **keywords: Any) -> Any:
        if region.name:
            raise ZeroDivisionError("no")
        return work(region, *arguments, **keywords)

    monkeypatch.setattr(find, fail)
    daemon.ask("set-regions", regions=[LEFT])
    until(lambda: [part["id"] for part in daemon.ask("quarantine")["parts"]] == ["settings"])
    until(lambda: daemon.service.engine and names(daemon) == [""])
    monkeypatch.setattr(find, work)
    daemon.ask("set-regions", regions=[RIGHT])  # other regions are tried
    until(lambda: daemon.ask("quarantine")["parts"] == [])
    until(lambda: names(daemon) == ["right"])
