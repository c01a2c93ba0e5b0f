"""Checks of what is installed and stored; they change nothing."""

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
from edge_siamese.doctor.findings import Context
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.recognition.registration import NewView
from edge_siamese.registry import RUNTIMES
from edge_siamese.settings import ModelSettings
from edge_siamese.store import SupportStore
from tests.edge_siamese.doctor.machines import SERVICE, levels, only, write


def test_a_writable_state_directory(context: Context) -> None:
    state = context.settings.state_directory
    found = list(installation.check_state(context))
    assert found[0] == Finding("state", "ok", f"root may write to {state}")
    assert levels(found) == [("state", "ok"), ("disk", "ok")]


def test_a_state_directory_of_another_account(context: Context) -> None:
    state = context.settings.state_directory
    state.chmod(0o755)
    found = next(iter(installation.check_state(replace(context, account=SERVICE))))
    assert found == Finding(
        "state",
        "error",
        f"edge-siamese may not write to {state}",
        f"sudo chown -R edge-siamese: {state}",
    )


def test_a_missing_or_invalid_state_directory(context: Context) -> None:
    state = context.settings.state_directory
    state.rmdir()
    assert next(iter(installation.check_state(context))).text == f"{state} is created when the daemon starts"
    state.touch()
    found = next(iter(installation.check_state(context)))
    assert (found.level, found.text) == ("error", f"{state} is not a directory")


@pytest.mark.parametrize(
    ("free", "level", "text"),
    [
        (2_500_000_000, "ok", "2.5 GB are free"),
        (120_000_000, "warning", "only 120 MB are free"),
        (3_000_000, "error", "only 3 MB are free"),
        (None, "unknown", "the free space"),
    ],
)
def test_disk(
    context: Context, monkeypatch: pytest.MonkeyPatch, free: int | None, level: str, text: str
) -> None:
    monkeypatch.setattr(installation, "disk_free", lambda _: free)
    found = list(installation.check_state(context))[1]
    assert (found.check, found.level, found.text.startswith(text)) == ("disk", level, True)


def test_runtime(context: Context) -> None:
    found = only(installation.check_runtime(context))
    assert (found.level, "onnxruntime" in found.text) == ("ok", True)
    settings = structs.replace(context.settings, model=ModelSettings(runtime="tflite-runtime"))
    found = only(installation.check_runtime(replace(context, settings=settings)))
    if "tflite-runtime (not installed)" in found.text:
        assert (found.level, found.remedy) == ("error", RUNTIMES["tflite-runtime"].install)


@pytest.mark.usefixtures("nothing_shipped")
def test_no_model(context: Context) -> None:
    assert only(installation.check_model(context)) == Finding(
        "model", "error", "no model is installed", "install one: edge-siamese model install BUNDLE"
    )


def test_no_model_but_the_shipped_one(context: Context, objects_shipped: Path) -> None:
    found = only(installation.check_model(context))
    assert (found.level, found.remedy) == ("ok", "")
    assert found.text.startswith("objects, shipped with edge-siamese: shipped-000000000000, int8 on ")
    assert ": intact, and its self-test passes" in found.text
    (objects_shipped / "golden.npz").unlink()
    found = only(installation.check_model(context))
    assert (found.level, found.remedy) == (
        "error",
        "install another model: edge-siamese model install BUNDLE; or reinstall edge-siamese",
    )


@pytest.mark.usefixtures("objects_shipped")
def test_a_shipped_model_named_in_the_settings(context: Context) -> None:
    named = replace(
        context, settings=structs.replace(context.settings, model=ModelSettings(bundle="objects"))
    )
    assert only(installation.check_model(named)).text.startswith("objects, shipped with edge-siamese: ")
    named = replace(
        context, settings=structs.replace(context.settings, model=ModelSettings(bundle="flowers"))
    )
    assert only(installation.check_model(named)) == Finding(
        "model",
        "error",
        "no bundle at flowers: no such directory; shipped bundles: objects",
        "correct `bundle` in [model]",
    )


def test_a_model_on_trial_is_tested(context: Context, bundle: Bundle) -> None:
    InstalledModels(context.settings.models).install(bundle.path, lambda _: None)
    found = list(installation.check_model(context))
    assert levels(found) == [("model", "warning"), ("model", "ok")]
    assert "is on trial: 0 starts" in found[0].text
    assert found[1].text.startswith(f"{bundle.manifest.model_id}, int8 on ")
    InstalledModels(context.settings.models).confirm()
    assert levels(installation.check_model(context)) == [("model", "ok")]


def test_a_damaged_model(context: Context, writable_bundle: Path) -> None:
    path = writable_bundle / "encoder.int8.onnx"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    settings = structs.replace(context.settings, model=ModelSettings(bundle=str(writable_bundle)))
    found = only(installation.check_model(replace(context, settings=settings)))
    assert (found.level, "encoder.int8.onnx" in found.text) == ("error", True)
    assert found.remedy.startswith("install it again: edge-siamese model install BUNDLE")
    shutil.rmtree(writable_bundle)
    assert only(installation.check_model(replace(context, settings=settings))).level == "error"


def test_an_unreadable_models_state(context: Context) -> None:
    write(context.settings.models / "state.json", "{")
    found = only(installation.check_model(context))
    assert (found.level, found.remedy) == ("error", "install one: edge-siamese model install BUNDLE")


def test_a_store(context: Context) -> None:
    assert only(installation.check_store(context)).text == "nothing is registered yet"
    view = NewView(np.ones(3, dtype=np.float32), (), "press")
    with SupportStore(context.settings.store, "m", 3) as store:
        store.register("mug", view)
        store.forget(store.register("pen", view).uid)
        # While the daemon has it open, too.
        assert only(installation.check_store(context)) == Finding(
            "store", "ok", "1 object, and all tables are intact"
        )
    before = context.settings.store.read_bytes()
    assert only(installation.check_store(context)).level == "ok"
    assert context.settings.store.read_bytes() == before


def test_damaged_rows_and_lost_changes(context: Context) -> None:
    with SupportStore(context.settings.store, "m", 3) as store:
        for number, name in enumerate(("mug", "pen"), 1):
            store.register(name, NewView(np.full(3, number, dtype=np.float32), (), "press"))
    change = "UPDATE embeddings SET vector = zeroblob(12) WHERE view_id = 1"
    sqlite3.connect(context.settings.store).executescript(change).connection.close()
    found = only(installation.check_store(context))
    assert (found.level, found.text) == ("warning", "damaged data: 1 embedding of registered views")
    assert found.remedy == ("restart the daemon: sudo systemctl restart edge-siamese; it repairs what it can")
    with SupportStore(context.settings.store, "m", 3) as store:
        assert len(store.findings) == 1
    found = only(installation.check_store(context))
    assert found.text == "1 view is damaged, and no pictures of it are stored"
    with SupportStore(context.settings.store, "m", 3) as store:
        store.forget("mug")
    assert only(installation.check_store(context)).level == "ok"
    change = "UPDATE facts SET value = '1' WHERE name = 'changes'"
    sqlite3.connect(context.settings.store).executescript(change).connection.close()
    assert only(installation.check_store(context)).text == "the last 2 changes are missing"


def test_a_damaged_store(context: Context) -> None:
    path = context.settings.store
    path.write_bytes(b"not a database" * 1000)
    found = only(installation.check_store(context))
    assert found == Finding(
        "store",
        "error",
        f"{path}: file is not a database",
        "restart the daemon, which repairs it: sudo systemctl restart edge-siamese",
    )
    path.unlink()
    sqlite3.connect(path).executescript("CREATE TABLE x (y)").connection.close()
    assert only(installation.check_store(context)).text == (
        f"{path}: not a store of edge-siamese, or incomplete"
    )
    with sqlite3.connect(path) as other:
        other.executescript("PRAGMA application_id = 1163087682; PRAGMA user_version = 99")
    found = only(installation.check_store(context))
    assert f"{path} was written by a newer release (version 99; this release reads" in found.text


def test_a_store_that_was_replaced_by_recovery(context: Context) -> None:
    aside = context.settings.store.with_name("objects.damaged-2026-11-24.db")
    aside.touch()
    found = list(installation.check_store(context))
    assert levels(found) == [("store", "warning"), ("store", "ok")]
    assert str(aside) in found[0].text


def test_unreadable_paths_are_unknown(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    for check in (installation.check_model, installation.check_store):
        found = only(check(context))
        assert (found.level, found.remedy) == (
            "unknown",
            "run it as root: sudo edge-siamese doctor",
        )
