"""The daemon tests a model in a confined child before it opens it, once, and keeps recognizing if the model crashes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.daemon import model_loader
from edge_siamese.daemon.model_loader import load_tested_encoder, loading_current_model
from edge_siamese.errors import ModelCrashed, SandboxError
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.runtimes import confined_self_test
from edge_siamese.runtimes.confined_self_test import ConfinedChild, is_untrusted
from edge_siamese.settings import ModelSettings, Settings
from edge_siamese.system import sandbox
from tests.edge_siamese.daemon.running import (
    MUG,
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
def models(tmp_path: Path) -> InstalledModels:
    return InstalledModels(tmp_path / "models")


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories of the bundles that were tested in a child."""
    started: list[str] = []

    class Noted(ConfinedChild):
        def __init__(self, target: str, limits: Any, **arguments: Any) -> None:
            started.append(arguments["directory"])
            super().__init__(target, limits, **arguments)

    monkeypatch.setattr(confined_self_test, "ConfinedChild", Noted)
    return started


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device on which each model from elsewhere crashes its runtime, and would crash the daemon."""
    monkeypatch.setattr(confined_self_test, "__name__", "tests.edge_siamese.runtimes.dying")
    monkeypatch.setenv("PYTHONDYING", str(int(signal.SIGSEGV)))

    def load(bundle: Bundle, settings: Settings) -> Any:
        assert not is_untrusted(bundle), "the daemon opened a model that was not tested"
        return load_tested_encoder(bundle, settings)

    monkeypatch.setattr(model_loader, "load_tested_encoder", load)


def test_a_restart_with_a_tested_model_needs_no_child(
    models: InstalledModels, bundle: Bundle, children: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models.install(bundle.path, accept)
    models.confirm()
    for _ in range(3):
        assert load_current_model(SETTINGS, models, pytest.fail).installed
    assert len(children) == 1
    monkeypatch.setattr(confined_self_test, "__version__", "99")  # another release
    load_current_model(SETTINGS, models, pytest.fail)
    assert len(children) == 2
    load_current_model(Settings(model=ModelSettings(str(bundle.path), "onnxruntime")), models, pytest.fail)
    assert len(children) == 2  # the same bundle
    fp32 = Settings(model=ModelSettings(str(bundle.path), "onnxruntime", "fp32"))
    load_current_model(fp32, models, pytest.fail)
    assert len(children) == 3


def test_the_shipped_model_needs_no_child(
    models: InstalledModels, objects_shipped: Path, children: list[str]
) -> None:
    assert load_current_model(SETTINGS, models, pytest.fail).bundle.path == objects_shipped
    assert children == []
    assert not models.directory.exists()


def test_status_lines_come_while_the_child_works(models: InstalledModels, bundle: Bundle) -> None:
    models.install(bundle.path, accept)
    assert set(loading_current_model(SETTINGS, models, pytest.fail)) == {
        "testing the model tiny-0123456789ab"
    }


@pytest.mark.usefixtures("crashing")
class TestCrashingModels:
    def test_the_previous_model_replaces_it(
        self, models: InstalledModels, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = models.install(bundle.path, accept)
        models.confirm()
        monkeypatch.setattr(models, "outcome", lambda _: "" if models.current() == first.path else None)
        second = models.install(write_tiny_bundle(tmp_path / "second", model_id="second"), accept)
        monkeypatch.setattr(model_loader, "load_tested_encoder", load_tested_encoder)
        told: list[str] = []
        found = load_current_model(SETTINGS, models, told.append)
        assert found.bundle.path == first.path
        (line,) = told
        assert found.problem == line
        assert line.startswith(f"{second.name} was rejected (the int8 file of second crashes onnxruntime ")
        assert line.endswith(f": SIGSEGV); {first.name} is current again")

    def test_the_shipped_model_replaces_it_and_the_crash_is_not_repeated(
        self, models: InstalledModels, bundle: Bundle, objects_shipped: Path, children: list[str]
    ) -> None:
        name = models.install(bundle.path, accept).name
        for _ in range(3):
            told: list[str] = []
            found = load_current_model(SETTINGS, models, told.append)
            assert (found.bundle.path, found.installed) == (objects_shipped, False)
            (line,) = told
            assert found.problem == line
            assert line.startswith(
                f"{name} does not work (the int8 file of tiny-0123456789ab crashes onnxruntime "
            )
            assert line.endswith(": SIGSEGV); using objects, shipped with edge-siamese instead")
        assert len(children) == 1

    def test_a_model_that_the_settings_name_is_a_fault(self, models: InstalledModels, bundle: Bundle) -> None:
        named = Settings(model=ModelSettings(str(bundle.path), "onnxruntime"))
        with pytest.raises(ModelCrashed, match=r"crashes onnxruntime \S+: SIGSEGV$"):
            load_current_model(named, models, pytest.fail)


def test_a_child_that_cannot_be_started_rejects_no_model(
    models: InstalledModels, bundle: Bundle, objects_shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = models.install(bundle.path, accept).name
    with monkeypatch.context() as patch:
        patch.setattr(sandbox.sys, "executable", "/no/python")
        with pytest.raises(SandboxError):
            load_current_model(SETTINGS, models, pytest.fail)
    state = models.state()
    assert (state.current, state.rejected) == (name, {})
    assert load_current_model(SETTINGS, models, pytest.fail).installed


class TestDaemon:
    @pytest.fixture
    def daemon(
        self, tmp_path: Path, objects_shipped: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[Daemon]:
        with daemon_without_a_model(tmp_path, monkeypatch) as made:
            monkeypatch.setattr(model_loader, "is_untrusted", is_untrusted)
            yield made

    @pytest.mark.usefixtures("crashing")
    def test_it_recognizes_with_the_shipped_model_and_says_so(self, daemon: Daemon, bundle: Bundle) -> None:
        name = daemon.models.install(bundle.path, accept).name
        daemon.start().up()
        daemon.learn("mug", MUG)
        daemon.show(MUG, "mug")
        assert model_of(daemon) == "shipped-000000000000"
        line = daemon.events("model")[0]
        assert line.startswith(f"{name} does not work (the int8 file of tiny-0123456789ab")
        assert daemon.ask("status")["loading"]["model_problem"] == line

    def test_frames_are_recognized_while_a_new_model_is_tested(
        self, daemon: Daemon, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.start().up()
        held, polls = threading.Event(), []

        class Slow(ConfinedChild):
            def poll(self, seconds: float = 0.0) -> bool:
                polls.append(daemon.service.engine and daemon.service.engine.frames)
                return held.is_set() and super().poll(seconds)

        monkeypatch.setattr(confined_self_test, "ConfinedChild", Slow)
        daemon.models.install(bundle.path, accept)
        daemon.ask("reload")
        until(lambda: polls and polls[-1] > polls[0] + 5)
        assert model_of(daemon) == "shipped-000000000000"
        held.set()
        until(lambda: model_of(daemon) == "tiny-0123456789ab")
