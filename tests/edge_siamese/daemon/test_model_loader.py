"""Models come, fail and change, settings are read again: the daemon answers all the while, and never mixes models."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edge_siamese.daemon import engine_loader, model_loader
from edge_siamese.daemon import service as service_module
from edge_siamese.daemon.engine import Engine
from edge_siamese.daemon.model_loader import load_tested_encoder, reembed
from edge_siamese.errors import ControlError, ModelError, SelfTestFailed
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.models.manifest import Threshold
from edge_siamese.panel.led_signals import Signal
from edge_siamese.recognition.registration import NewView
from edge_siamese.settings import ModelSettings, Settings
from edge_siamese.store import SupportStore
from tests.edge_siamese.daemon.running import (
    CUP,
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
from tests.edge_siamese.signing import Key, make_key, needs_keygen
from tests.tiny_bundle import write_tiny_bundle

pytest.importorskip("onnxruntime")

SETTINGS = Settings(model=ModelSettings(runtime="onnxruntime"))


@pytest.fixture
def daemon(tmp_path: Path, nothing_shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """It takes the installed model, and there is none yet, and none is shipped."""
    with daemon_without_a_model(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A bundle of another model."""
    return write_tiny_bundle(tmp_path / "second", model_id="second")


@pytest.fixture
def picky(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which the model `second` does not pass its self-test."""
    proven = model_loader.load_tested_encoder

    def prove(bundle: Bundle, settings: Settings) -> Any:
        if bundle.manifest.model_id == "second":
            raise SelfTestFailed("int8 on onnxruntime: other scores")
        return proven(bundle, settings)

    monkeypatch.setattr(model_loader, "load_tested_encoder", prove)


class TestModels:
    def test_a_daemon_without_a_model_loads_one_once_installed(
        self, daemon: Daemon, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_loader, "RETRY_SECONDS", 60.0)
        daemon.start()
        until(lambda: daemon.systemd.count("READY=1"))
        remedy = "no model is installed: edge-siamese model install BUNDLE"
        assert daemon.ask("status")["line"] == remedy
        assert daemon.events("model") == [f"cannot recognize: {remedy}"]
        until(lambda: daemon.service.hardware.background is Signal.FAULT_MODEL)
        until(lambda: daemon.systemd.count("WATCHDOG=1") > 2)
        with pytest.raises(ControlError, match=rf"^the daemon cannot recognize: {remedy}$"):
            daemon.ask("register", name="mug")
        daemon.models.install(bundle.path, accept)
        daemon.ask("reload")
        daemon.up()
        assert model_of(daemon) == "tiny-0123456789ab"
        until(lambda: daemon.service.hardware.background is Signal.READY)
        assert daemon.systemd.count("READY=1") == 1

    def test_a_model_is_confirmed_after_it_has_worked(self, daemon: Daemon, bundle: Bundle) -> None:
        daemon.models.install(bundle.path, accept)
        assert not daemon.models.state().confirmed
        daemon.start().up()
        until(lambda: daemon.models.state().confirmed)

    def test_a_newer_model_is_not_confirmed_instead(
        self, daemon: Daemon, bundle: Bundle, second: Path
    ) -> None:
        daemon.models.install(bundle.path, accept)
        daemon.start().up()
        daemon.models.install(second, accept)
        until(lambda: (engine := daemon.service.engine) and engine.frames > 20)
        time.sleep(0.05)
        daemon.service.call(daemon.service.loader.confirm)
        assert not daemon.models.state().confirmed
        daemon.ask("reload")
        until(lambda: daemon.models.state().confirmed)
        assert model_of(daemon) == "second"

    def test_without_frames_a_model_is_confirmed_after_a_delay(
        self, daemon: Daemon, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service_module, "STATUS_SECONDS", 0.02)
        daemon.models.install(bundle.path, accept)
        daemon.stage.absent = True
        monkeypatch.setattr(engine_loader, "RETRY_SECONDS", 60.0)
        daemon.start()
        until(lambda: daemon.service.engine)
        daemon.service._started -= 100.0  # it has been up for long when the model comes
        time.sleep(0.1)
        assert not daemon.models.state().confirmed
        monkeypatch.setattr(engine_loader, "RETRY_SECONDS", 0.1)
        until(lambda: daemon.models.state().confirmed)

    @pytest.mark.usefixtures("picky")
    def test_a_model_that_fails_its_self_test_is_replaced_by_the_previous(
        self, daemon: Daemon, bundle: Bundle, second: Path
    ) -> None:
        former = daemon.models.install(bundle.path, accept)
        daemon.models.confirm()
        gone = daemon.models.install(second, accept)
        daemon.start().up()
        assert model_of(daemon) == "tiny-0123456789ab"
        assert daemon.events("model")[0] == (
            f"{gone.name} was rejected (int8 on onnxruntime: other scores); {former.name} is current again"
        )

    @pytest.mark.usefixtures("picky")
    def test_a_failing_model_does_not_replace_the_running_one(
        self, daemon: Daemon, bundle: Bundle, second: Path
    ) -> None:
        daemon.models.install(bundle.path, accept)
        daemon.start().up()
        daemon.learn("mug", MUG)
        until(lambda: daemon.models.state().confirmed)
        daemon.models.install(second, accept)
        daemon.ask("reload")
        assert "was rejected" in daemon.told("model")
        daemon.show(MUG, "mug")
        assert (model_of(daemon), daemon.models.state().confirmed) == ("tiny-0123456789ab", False)

    def test_an_invalid_bundle_in_the_settings_is_a_fault(self, daemon: Daemon) -> None:
        daemon.configure("/none")
        daemon.start()
        assert daemon.told("model") == "cannot recognize: no bundle at /none: no such directory"

    @pytest.mark.usefixtures("nothing_shipped", "picky")
    def test_no_working_model_is_a_fault(self, tmp_path: Path, second: Path) -> None:
        models = InstalledModels(tmp_path / "models")
        models.install(second, accept)
        told: list[str] = []
        with pytest.raises(ModelError, match=r"does not work, and there is no other: int8 on onnxruntime"):
            load_current_model(SETTINGS, models, told.append)
        assert told == []

    def test_a_read_only_models_directory_is_a_fault(
        self, daemon: Daemon, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: Any) -> Any:
            raise OSError(30, "Read-only file system", "models")

        daemon.models.install(bundle.path, accept)
        with monkeypatch.context() as patch:
            patch.setattr(InstalledModels, "begin", refuse)
            daemon.start()
            assert "Read-only file system" in daemon.told("model")
        daemon.up()


class TestChangingModels:
    def test_objects_are_reembedded_and_never_scored_across_models(
        self, daemon: Daemon, bundle: Bundle, second: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.configure(bundle.path)
        daemon.start().up()
        for name, picture in (("mug", MUG), ("pen", PEN), ("cup", CUP)):
            daemon.learn(name, picture)
        daemon.show(MUG, "mug")
        seen: list[tuple[str, str]] = []
        present: list[tuple[str, ...]] = []
        prepare, see, refresh = model_loader.prepare_picture, Engine.process_frame, Engine.refresh

        def slow(*words: Any) -> Any:
            time.sleep(0.04)
            present.append(daemon.service.engine.present if daemon.service.engine else ())
            return prepare(*words)

        def noted_see(engine: Engine, frame: Any, waited: float) -> None:
            seen.append((engine.encoder.model_id, engine.store.model_id))
            see(engine, frame, waited)

        def noted_refresh(engine: Engine) -> None:
            seen.append((engine.encoder.model_id, engine.store.model_id))
            refresh(engine)

        monkeypatch.setattr(model_loader, "prepare_picture", slow)
        monkeypatch.setattr(Engine, "process_frame", noted_see)
        monkeypatch.setattr(Engine, "refresh", noted_refresh)
        daemon.configure(second)
        daemon.ask("reload")
        until(lambda: present)
        until(lambda: model_of(daemon) == "second")
        until(lambda: seen and seen[-1] == ("second", "second"))
        assert {model for model, _ in seen} == {"tiny-0123456789ab", "second"}
        assert all(model == store for model, store in seen)
        assert len(present) >= 3
        assert set(present) == {("mug",)}  # the former engine recognized until the end
        daemon.show(TABLE, None)
        daemon.show(PEN, "pen")
        objects = daemon.ask("objects")
        assert [(item["name"], item["embedded"]) for item in objects["objects"]] == [
            ("mug", 1), ("pen", 1), ("cup", 1),
        ]  # fmt: skip
        assert objects["model_id"] == "second"

    def test_objects_registered_during_reembedding_are_reembedded(
        self, daemon: Daemon, bundle: Bundle, second: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.configure(bundle.path)
        daemon.start().up()
        daemon.learn("mug", MUG)
        prepare = model_loader.prepare_picture
        asked: list[Any] = []

        def meanwhile(*words: Any) -> Any:
            if not asked:
                asked.append(None)
                engine: Any = daemon.service.engine
                daemon.service.call(lambda: engine.registrations.from_pictures([PEN], _wish("pen"), 0.0))
            return prepare(*words)

        monkeypatch.setattr(model_loader, "prepare_picture", meanwhile)
        daemon.configure(second)
        daemon.ask("reload")
        until(lambda: model_of(daemon) == "second")
        daemon.show(PEN, "pen")

    def test_a_model_without_the_threshold_changes_nothing(
        self, daemon: Daemon, bundle: Bundle, tmp_path: Path
    ) -> None:
        odd = write_tiny_bundle(
            tmp_path / "odd", model_id="odd", thresholds=(Threshold(1e-4, 0.9, 0.1, 20_000),)
        )
        by_rate = {"threshold": "false_accept_rate = 0.01"}
        daemon.configure(bundle.path, **by_rate)
        daemon.start().up()
        daemon.learn("mug", MUG)
        daemon.configure(odd, **by_rate)
        daemon.ask("reload")
        text = until(lambda: [t for t in daemon.events("model") if "the previous model stays in use" in t])[0]
        assert "odd" in text or "0.01" in text
        assert daemon.service.engine is not None
        assert daemon.service.engine.store.model_id == "tiny-0123456789ab"
        daemon.learn("pen", PEN)
        daemon.show(PEN, "pen")

    def test_reembedding_continues_after_unreadable_views(
        self,
        tmp_path: Path,
        bundle: Bundle,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with SupportStore(tmp_path / "objects.db", "former", 8) as store:
            for name, picture in (("mug", MUG), ("pen", PEN)):
                store.register(name, NewView(np.ones(8, np.float32), (picture,), "camera"))
            count = store.picture_count
            monkeypatch.setattr(store, "picture_count", lambda view: 0 if view == 1 else count(view))
            monkeypatch.setattr(model_loader, "POLL_SECONDS", 30.0)
            encoder = load_tested_encoder(bundle, SETTINGS)
            recognizer = model_loader.LoadedModel(bundle, encoder, False)
            lines = list(reembed(store, recognizer))
            # One before each view, and one after each of the five images that the encoder runs on.
            assert lines == ["re-embedding the objects for tiny-0123456789ab: 0 of 2 views"] * 7
            assert caplog.messages[0].startswith("view 1 cannot be re-embedded: ")
            assert store.model_id == "former"
            store.use_model(encoder.model_id, 8)
            assert [known.embedded for known in store.objects()] == [0, 1]
            (line,) = reembed(store, recognizer)
            assert line.endswith("0 of 1 views")

    def test_imported_objects_are_embedded_from_their_pictures(
        self, daemon: Daemon, bundle: Bundle, second: Path, tmp_path: Path
    ) -> None:
        encoder = load_tested_encoder(bundle, SETTINGS)
        with SupportStore(tmp_path / "other.db", encoder.model_id, 8) as store:
            store.register("mug", NewView(encoder.embed([MUG])[0], (MUG,), "camera"))
            store.export_archive(tmp_path / "shelf.zip")
        daemon.configure(second)
        daemon.start().up()
        daemon.learn("pen", PEN)
        daemon.show(PEN, "pen")
        before = daemon.service.engine
        brought = daemon.service.api.import_(tmp_path / "shelf.zip", "rename")
        assert brought["unembedded"] == 1
        until(lambda: "mug" in daemon.service.engine.support.names)  # type: ignore[union-attr]
        # The model is the same, so present objects stay present, and their appearance is not reported again.
        assert daemon.service.engine is before
        assert before is not None
        assert before.present == ("pen",)
        daemon.show(MUG, "mug")
        assert len([text for text in daemon.events("appeared") if "pen" in text]) == 1


def _wish(name: str) -> Any:
    from edge_siamese.daemon.registration_session import RegistrationRequest

    return RegistrationRequest(name, source="picture")


class TestReloading:
    @pytest.fixture
    def running(self, daemon: Daemon, bundle: Bundle) -> Daemon:
        daemon.configure(bundle.path)
        daemon.start().up()
        daemon.learn("mug", MUG)
        daemon.show(MUG, "mug")
        return daemon

    def test_a_changed_setting_is_used(self, running: Daemon, bundle: Bundle) -> None:
        running.configure(bundle.path, threshold="threshold = 0.999")
        running.ask("reload")
        until(lambda: running.ask("status")["model"]["threshold"] == 0.999)
        running.show(MUG, None)
        assert running.events("settings") == ["the settings were read again"]
        assert running.stage.opened == ["gray"]

    @pytest.mark.parametrize("text", ["[camera]\nframe_rate = fast", "[camera]\nrat = 3.0", None])
    def test_an_invalid_settings_file_changes_nothing(self, running: Daemon, text: str | None) -> None:
        if text is None:
            running.config.unlink()
        else:
            running.config.write_text(text)
        running.ask("reload")
        assert running.told("settings").startswith(f"the previous settings stay in use: {running.config}: ")
        running.show(TABLE, None)
        running.show(MUG, "mug")

    def test_a_new_model_loads_despite_an_invalid_settings_file(
        self, daemon: Daemon, bundle: Bundle, second: Path
    ) -> None:
        daemon.models.install(bundle.path, accept)
        daemon.start().up()
        daemon.config.write_text("what?")
        daemon.models.install(second, accept)
        daemon.ask("reload")
        until(lambda: model_of(daemon) == "second")

    def test_another_camera_is_opened_at_once_even_if_the_model_fails(
        self, running: Daemon, bundle: Bundle, tmp_path: Path
    ) -> None:
        running.configure(tmp_path / "none", frame_rate="frame_rate = 100.0")
        running.ask("reload")
        until(lambda: len(running.stage.opened) == 2)
        until(lambda: any("the previous model stays in use" in text for text in running.events("model")))
        running.show(TABLE, None)
        running.show(MUG, "mug")

    def test_another_panel_is_opened_and_usable(self, running: Daemon, bundle: Bundle) -> None:
        running.configure(bundle.path, hold_s="hold_s = 2.5")
        console = running.service.hardware.console
        running.ask("reload")
        until(lambda: running.service.hardware.console is not console)
        until(lambda: not running.service.loader.busy)
        running.stage.picture = PEN
        running.press()
        running.told("registered")
        until(lambda: running.events("registered")[-1] == '"object 1" is registered')

    def test_changed_event_settings_apply_and_paths_stay(self, running: Daemon, bundle: Bundle) -> None:
        text = running.config.read_text().replace(str(running.state), str(running.state) + "2")
        running.config.write_text(text + "\n[events]\nfile = false\n")
        running.ask("reload")
        assert running.told("settings")
        until(lambda: running.events("settings")[0] == "new paths take effect after a restart")
        until(lambda: running.ask("status")["paths"]["state"] == str(running.state))
        size = (running.state / "events.jsonl").stat().st_size
        running.ask("rename", name="mug", new="cup")
        assert (running.state / "events.jsonl").stat().st_size == size

    def test_a_running_registration_is_canceled_and_reported(self, running: Daemon) -> None:
        said: list[Any] = []
        running.stage.picture = TABLE
        running.service.call(
            lambda: running.service.engine.registrations.begin(_wish("x"), time.monotonic(), said.append)  # type: ignore[union-attr]
        )
        running.ask("reload")
        until(lambda: said)
        assert said[0].reason == "ended"


def test_a_missing_bundle_is_a_fault_at_the_next_start(daemon: Daemon, second: Path) -> None:
    daemon.configure(second)
    daemon.start().up()
    shutil.rmtree(second)
    daemon.ask("reload")
    until(lambda: any("the previous model stays in use" in text for text in daemon.events("model")))
    daemon.stop()
    daemon.start()
    assert daemon.told("model").startswith("cannot recognize: no bundle at ")


def test_the_self_test_runs_on_the_configured_runtime(bundle: Bundle) -> None:
    encoder = load_tested_encoder(
        bundle, structs.replace(SETTINGS, model=structs.replace(SETTINGS.model, precision="fp32"))
    )
    assert (encoder.runtime, encoder.precision, encoder.threads) == ("onnxruntime", "fp32", 1)


@needs_keygen
class TestSignatures:
    """A daemon with trusted keys."""

    @pytest.fixture
    def keys(self, daemon: Daemon, tmp_path: Path) -> Key:
        key = make_key(tmp_path / "release")
        text = daemon.config.read_text()
        assert "[model]" in text
        daemon.config.write_text(text.replace("[model]", f'[model]\ntrusted_keys = ["{key.line}"]'))
        return key

    def test_a_model_that_was_changed_on_the_disk_is_not_loaded(
        self, daemon: Daemon, keys: Key, bundle: Bundle, tmp_path: Path, second: Path
    ) -> None:
        shutil.copytree(bundle.path, tmp_path / "first")
        for source in (tmp_path / "first", second):
            keys.sign(source)
            daemon.models.install(source, accept, [keys.line])
        path = daemon.models.current()
        assert path is not None
        manifest = path / "manifest.json"
        manifest.write_text(manifest.read_text() + " ")
        daemon.start().up()
        assert model_of(daemon) == "tiny-0123456789ab"
        assert any("was changed after it was signed" in line for line in daemon.events("model"))
        assert f"was rejected ({path}: " in daemon.ask("status")["loading"]["model_problem"]

    def test_an_unsigned_model_of_the_settings_is_not_loaded(
        self, daemon: Daemon, keys: Key, second: Path
    ) -> None:
        text = daemon.config.read_text()
        assert 'bundle = ""' in text
        daemon.config.write_text(text.replace('bundle = ""', f'bundle = "{second}"'))
        daemon.start()
        until(lambda: daemon.systemd.count("READY=1"))
        assert daemon.ask("status")["line"].startswith(
            f"{second} is not signed, and `trusted_keys` in [model]"
        )
        keys.sign(second)
        daemon.ask("reload")
        daemon.up()
        assert model_of(daemon) == "second"

    def test_a_missing_ssh_keygen_rejects_no_model(
        self, daemon: Daemon, keys: Key, second: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keys.sign(second)
        daemon.models.install(second, accept, [keys.line])
        path = os.environ["PATH"]
        monkeypatch.setenv("PATH", str(tmp_path))
        daemon.start()
        until(lambda: daemon.systemd.count("READY=1"))
        assert "ssh-keygen is needed to verify signatures" in daemon.ask("status")["line"]
        assert daemon.models.state().rejected == {}
        monkeypatch.setenv("PATH", path)
        daemon.ask("reload")
        daemon.up()
        assert model_of(daemon) == "second"
