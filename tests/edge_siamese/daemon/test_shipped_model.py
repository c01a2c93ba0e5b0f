"""A daemon on which no model was installed: it recognizes with the shipped one, also when that changes with the program."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.daemon import model_loader
from edge_siamese.errors import BundleNotFound, ModelError, ModelsInUse, SelfTestFailed
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.settings import ModelSettings, Settings
from tests.edge_siamese.daemon.running import (
    MUG,
    PEN,
    TABLE,
    Daemon,
    accept,
    daemon_without_a_model,
    load_current_model,
    model_of,
    until,
)
from tests.tiny_bundle import write_tiny_bundle

pytest.importorskip("onnxruntime")

SETTINGS = Settings(model=ModelSettings(runtime="onnxruntime"))


@pytest.fixture
def daemon(tmp_path: Path, objects_shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """Its settings name no model, and none is installed."""
    with daemon_without_a_model(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def models(tmp_path: Path) -> InstalledModels:
    return InstalledModels(tmp_path / "models")


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The ids of models that do not pass their self-test here; a test adds some."""
    ids: set[str] = set()
    proven = model_loader.load_tested_encoder

    def prove(bundle: Bundle, settings: Settings) -> Any:
        if bundle.manifest.model_id in ids:
            raise SelfTestFailed(f"{bundle.manifest.model_id}: other scores")
        return proven(bundle, settings)

    monkeypatch.setattr(model_loader, "load_tested_encoder", prove)
    return ids


def test_the_shipped_model_is_used_at_first_start_without_a_trial(
    daemon: Daemon, objects_shipped: Path
) -> None:
    daemon.start().up()
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    assert daemon.ask("status")["model"]["bundle"] == str(objects_shipped)
    assert daemon.events("started")[0].startswith("recognizing 0 objects with shipped-000000000000, ")
    assert daemon.events("model") == []
    daemon.service.call(daemon.service.loader.confirm)
    assert not daemon.models.directory.exists()


def test_the_shipped_model_is_used_if_the_state_of_the_models_is_damaged(
    daemon: Daemon, bundle: Bundle, objects_shipped: Path
) -> None:
    daemon.models.install(bundle.path, accept)
    path = daemon.models.directory / "state.json"
    path.write_bytes(b"\0" * 100)
    daemon.start().up()
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    status = daemon.ask("status")
    assert status["model"]["bundle"] == str(objects_shipped)
    problem = status["loading"]["model_problem"]
    assert problem.startswith(f"{path} cannot be read: ")
    assert problem.endswith(
        "; remove it and install a model again; using objects, shipped with edge-siamese instead"
    )
    assert problem in daemon.events("model")


@pytest.mark.usefixtures("nothing_shipped")
def test_without_a_shipped_model_a_damaged_state_is_an_error(models: InstalledModels) -> None:
    models.directory.mkdir()
    (models.directory / "state.json").write_text("{")
    with pytest.raises(ModelError, match=r"state\.json cannot be read: "):
        load_current_model(SETTINGS, models, pytest.fail)


def test_the_log_names_the_shipped_model(
    models: InstalledModels, objects_shipped: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger=model_loader.__name__):
        found = load_current_model(SETTINGS, models, pytest.fail)
    assert (found.bundle.path, found.installed) == (objects_shipped, False)
    assert caplog.messages == ["no model is installed; using objects, shipped with edge-siamese"]


def test_an_installed_model_takes_over_at_once(daemon: Daemon, bundle: Bundle) -> None:
    daemon.start().up()
    daemon.learn("mug", MUG)
    daemon.models.install(bundle.path, accept)
    daemon.ask("reload")
    until(lambda: model_of(daemon) == "tiny-0123456789ab")
    daemon.show(TABLE, None)
    daemon.show(MUG, "mug")
    until(lambda: daemon.models.state().confirmed)


def test_settings_may_name_another_shipped_one(daemon: Daemon, objects_shipped: Path) -> None:
    write_tiny_bundle(objects_shipped.with_name("glyphs"), model_id="glyphs-000000000000")
    daemon.configure("glyphs")
    daemon.start().up()
    assert model_of(daemon) == "glyphs-000000000000"


def test_an_unknown_name_is_a_fault(models: InstalledModels, objects_shipped: Path) -> None:
    named = Settings(model=ModelSettings(bundle="flowers"))
    told = r"^no bundle at flowers: no such directory; shipped bundles: objects$"
    with pytest.raises(BundleNotFound, match=told):
        load_current_model(named, models, pytest.fail)


def test_objects_are_reembedded_for_a_new_shipped_model(daemon: Daemon, objects_shipped: Path) -> None:
    daemon.start().up()
    for name, picture in (("mug", MUG), ("pen", PEN)):
        daemon.learn(name, picture)
    daemon.stop()
    shutil.rmtree(objects_shipped)
    write_tiny_bundle(objects_shipped, model_id="shipped-111111111111")
    daemon.start().up()
    objects = daemon.ask("objects")
    assert objects["model_id"] == model_of(daemon) == "shipped-111111111111"
    assert [(item["name"], item["embedded"]) for item in objects["objects"]] == [("mug", 1), ("pen", 1)]
    daemon.show(PEN, "pen")
    daemon.show(TABLE, None)
    daemon.show(MUG, "mug")


class TestAnInstalledModelFails:
    def test_a_failing_model_is_replaced_by_the_shipped_one_and_reported(
        self, daemon: Daemon, bundle: Bundle, failing: set[str]
    ) -> None:
        name = daemon.models.install(bundle.path, accept).name
        failing.add("tiny-0123456789ab")
        daemon.start().up()
        assert model_of(daemon) == "shipped-000000000000"
        assert daemon.events("model") == [
            f"{name} does not work (tiny-0123456789ab: other scores); using objects, shipped with edge-siamese instead"
        ]
        daemon.service.call(daemon.service.loader.confirm)
        state = daemon.models.state()
        assert (state.current, state.confirmed, state.rejected) == (name, False, {})
        failing.clear()  # it is tried again
        daemon.ask("reload")
        until(lambda: model_of(daemon) == "tiny-0123456789ab")

    def test_the_previous_model_is_preferred_over_the_shipped_one(
        self,
        models: InstalledModels,
        bundle: Bundle,
        failing: set[str],
        objects_shipped: Path,
        tmp_path: Path,
    ) -> None:
        models.install(bundle.path, accept)
        models.confirm()
        models.install(write_tiny_bundle(tmp_path / "second", model_id="second"), accept)
        failing.add("second")
        told: list[str] = []
        found = load_current_model(SETTINGS, models, told.append)
        assert (found.bundle.manifest.model_id, found.installed) == ("tiny-0123456789ab", True)
        failing.add("tiny-0123456789ab")
        found = load_current_model(SETTINGS, models, told.append)
        assert (found.bundle.manifest.model_id, found.installed) == ("shipped-000000000000", False)
        assert [line.endswith("is current again") for line in told] == [True, False]
        assert told[1].endswith("; using objects, shipped with edge-siamese instead")

    def test_if_the_shipped_model_fails_too_the_first_reason_is_reported(
        self, models: InstalledModels, bundle: Bundle, failing: set[str], objects_shipped: Path
    ) -> None:
        models.install(bundle.path, accept)
        failing.update({"tiny-0123456789ab", "shipped-000000000000"})
        with pytest.raises(ModelError, match=r"there is no other: tiny-0123456789ab: other scores$"):
            load_current_model(SETTINGS, models, pytest.fail)

    def test_models_locked_by_another_process_are_not_rejected(
        self,
        models: InstalledModels,
        bundle: Bundle,
        failing: set[str],
        objects_shipped: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def busy(*_: Any) -> Any:
            raise ModelsInUse("another process is changing the models")

        models.install(bundle.path, accept)
        models.confirm()
        models.install(write_tiny_bundle(tmp_path / "second", model_id="second"), accept)
        failing.add("second")
        monkeypatch.setattr(InstalledModels, "rollback", busy)
        with pytest.raises(ModelsInUse):
            load_current_model(SETTINGS, models, pytest.fail)


def test_a_failing_shipped_model_is_a_fault_with_its_reason(
    models: InstalledModels, failing: set[str], objects_shipped: Path
) -> None:
    failing.add("shipped-000000000000")
    with pytest.raises(SelfTestFailed, match=r"^shipped-000000000000: other scores$"):
        load_current_model(SETTINGS, models, pytest.fail)


def test_without_any_model_the_daemon_cannot_recognize(
    models: InstalledModels, nothing_shipped: Path
) -> None:
    write_tiny_bundle(nothing_shipped / "glyphs")
    with pytest.raises(ModelError, match=r"^no model is installed: edge-siamese model install BUNDLE$"):
        load_current_model(SETTINGS, models, pytest.fail)
