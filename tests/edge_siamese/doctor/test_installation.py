"""Checks of what is installed and stored; nothing is changed by looking."""

from __future__ import annotations

import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from edge_siamese.doctor import Finding, installation
from edge_siamese.doctor.findings import Scene
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.recognition.registration import NewView
from edge_siamese.settings import (
    ModelSettings,
)
from edge_siamese.store import SupportStore
from tests.edge_siamese.doctor.machines import SERVICE, levels, only, write


def test_a_state_directory_that_can_be_written(scene: Scene) -> None:
    state = scene.settings.state_directory
    found = list(installation.state(scene))
    assert found[0] == Finding("state", "ok", f"{state} can be written by root")
    assert levels(found) == [("state", "ok"), ("disk", "ok")]


def test_a_state_directory_of_somebody_else(scene: Scene) -> None:
    state = scene.settings.state_directory
    state.chmod(0o755)
    found = next(iter(installation.state(replace(scene, account=SERVICE))))
    assert found == Finding(
        "state",
        "error",
        f"{state} cannot be written by edge-siamese",
        f"sudo chown -R edge-siamese: {state}",
    )


def test_a_state_directory_that_is_missing_or_none(scene: Scene) -> None:
    state = scene.settings.state_directory
    state.rmdir()
    assert next(iter(installation.state(scene))).text == f"{state} is made when the daemon starts"
    state.touch()
    found = next(iter(installation.state(scene)))
    assert (found.level, found.text) == ("error", f"{state} is no directory")


@pytest.mark.parametrize(
    ("free", "level", "text"),
    [
        (2_500_000_000, "ok", "2.5 GB are free"),
        (120_000_000, "warning", "120 MB are free"),
        (3_000_000, "error", "3 MB are free"),
        (None, "unknown", "how much is free"),
    ],
)
def test_disk(scene: Scene, monkeypatch: pytest.MonkeyPatch, free: int | None, level: str, text: str) -> None:
    monkeypatch.setattr(installation, "disk_free", lambda _: free)
    found = list(installation.state(scene))[1]
    assert (found.check, found.level, found.text.startswith(text)) == ("disk", level, True)


def test_runtime(scene: Scene) -> None:
    found = only(installation.runtime(scene))
    assert (found.level, "onnxruntime" in found.text) == ("ok", True)
    settings = structs.replace(scene.settings, model=ModelSettings(runtime="tflite-runtime"))
    found = only(installation.runtime(replace(scene, settings=settings)))
    if "tflite-runtime (not installed)" in found.text:
        assert (found.level, found.remedy) == ("error", "pip install tflite-runtime")


@pytest.mark.usefixtures("nothing_shipped")
def test_no_model(scene: Scene) -> None:
    assert only(installation.model(scene)) == Finding(
        "model", "error", "no model is installed", "edge-siamese model install BUNDLE"
    )


def test_no_model_but_the_shipped_one(scene: Scene, objects_shipped: Path) -> None:
    found = only(installation.model(scene))
    assert (found.level, found.remedy) == ("ok", "")
    assert found.text.startswith("objects, shipped with edge-siamese: shipped-000000000000, int8 on ")
    assert ": whole, and its self-test passes" in found.text
    (objects_shipped / "golden.npz").unlink()
    found = only(installation.model(scene))
    assert (found.level, found.remedy) == (
        "error",
        "install another one: edge-siamese model install BUNDLE, or edge-siamese itself again",
    )


@pytest.mark.usefixtures("objects_shipped")
def test_a_shipped_model_that_the_settings_name(scene: Scene) -> None:
    named = replace(scene, settings=structs.replace(scene.settings, model=ModelSettings(bundle="objects")))
    assert only(installation.model(named)).text.startswith("objects, shipped with edge-siamese: ")
    named = replace(scene, settings=structs.replace(scene.settings, model=ModelSettings(bundle="flowers")))
    assert only(installation.model(named)) == Finding(
        "model",
        "error",
        "no bundle at flowers: no such directory; shipped ones are called: objects",
        "name another one in the settings: [model] bundle",
    )


def test_a_model_on_trial_proves_itself(scene: Scene, bundle: Bundle) -> None:
    InstalledModels(scene.settings.models).install(bundle.path, lambda _: None)
    found = list(installation.model(scene))
    assert levels(found) == [("model", "warning"), ("model", "ok")]
    assert "is on trial: 0 starts" in found[0].text
    assert found[1].text.startswith(f"{bundle.manifest.model_id}, int8 on ")
    InstalledModels(scene.settings.models).confirm()
    assert levels(installation.model(scene)) == [("model", "ok")]


def test_a_model_that_is_damaged(scene: Scene, writable_bundle: Path) -> None:
    path = writable_bundle / "encoder.int8.onnx"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    settings = structs.replace(scene.settings, model=ModelSettings(bundle=str(writable_bundle)))
    found = only(installation.model(replace(scene, settings=settings)))
    assert (found.level, "encoder.int8.onnx" in found.text) == ("error", True)
    assert found.remedy.startswith("install it again: edge-siamese model install BUNDLE")
    shutil.rmtree(writable_bundle)
    assert only(installation.model(replace(scene, settings=settings))).level == "error"


def test_a_state_of_models_that_cannot_be_read(scene: Scene) -> None:
    write(scene.settings.models / "state.json", "{")
    found = only(installation.model(scene))
    assert (found.level, found.remedy) == ("error", "edge-siamese model install BUNDLE")


def test_a_store(scene: Scene) -> None:
    assert only(installation.store(scene)).text == "nothing is registered yet"
    view = NewView(np.ones(3, dtype=np.float32), (), "press")
    with SupportStore(scene.settings.store, "m", 3) as store:
        store.register("mug", view)
        store.forget(store.register("pen", view).uid)
        # While the daemon has it open, too.
        assert only(installation.store(scene)) == Finding("store", "ok", "1 object, and its tables are whole")
    before = scene.settings.store.read_bytes()
    assert only(installation.store(scene)).level == "ok"
    assert scene.settings.store.read_bytes() == before


def test_a_damaged_store(scene: Scene) -> None:
    path = scene.settings.store
    path.write_bytes(b"not a database" * 1000)
    found = only(installation.store(scene))
    assert found == Finding(
        "store",
        "error",
        f"{path}: file is not a database",
        "it is repaired when the daemon starts: sudo systemctl restart edge-siamese",
    )
    path.unlink()
    sqlite3.connect(path).executescript("CREATE TABLE x (y)").connection.close()
    assert only(installation.store(scene)).text == (
        f"{path}: it is a database of another program, or not whole"
    )
    with sqlite3.connect(path) as other:
        other.executescript("PRAGMA application_id = 1163087682; PRAGMA user_version = 99")
    found = only(installation.store(scene))
    assert f"{path} was written by a newer release (layout 99; this one knows" in found.text


def test_a_store_that_was_set_aside(scene: Scene) -> None:
    aside = scene.settings.store.with_name("objects.damaged-2026-11-24.db")
    aside.touch()
    found = list(installation.store(scene))
    assert levels(found) == [("store", "warning"), ("store", "ok")]
    assert str(aside) in found[0].text


def test_what_this_user_may_not_read_is_left_open(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    for check in (installation.model, installation.store):
        found = only(check(scene))
        assert (found.level, found.remedy) == (
            "unknown",
            "look again as root: sudo edge-siamese doctor",
        )
