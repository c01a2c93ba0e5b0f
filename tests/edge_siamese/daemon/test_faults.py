"""What fails in the running daemon: it is put into quarantine or reported, and everything else goes on."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon import engine_loader, faults, model_loader
from edge_siamese.daemon.engine import Engine
from edge_siamese.daemon.faults import FailureLog, FaultHandler
from edge_siamese.daemon.quarantine import StartCounter
from edge_siamese.daemon.store_lifecycle import StoreLifecycle
from edge_siamese.errors import ControlError, EncoderError
from edge_siamese.events import Event
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.panel.led_signals import Signal
from edge_siamese.recognition import decision
from edge_siamese.recognition.support import SupportSet
from edge_siamese.recognition.tracking import Tracker
from edge_siamese.settings import ModelSettings, PathSettings, RecognitionSettings, Settings
from edge_siamese.store import SupportStore
from tests.edge_siamese.daemon.running import MUG, PEN, TABLE, Daemon, accept, daemon_in, model_of, until
from tests.tiny_bundle import write_tiny_bundle

pytest.importorskip("onnxruntime")

ERRORS = [
    ZeroDivisionError("no"),
    MemoryError(),
    RecursionError("deep"),
    IndexError("no such"),
    sqlite3.Error("x"),
]


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setattr(faults, "FAILED_SECONDS", 0.05)
    monkeypatch.setattr(engine_loader, "RETRY_SECONDS", 0.1)
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        yield made


def engine_of(daemon: Daemon) -> Any:
    return until(lambda: daemon.service.engine)


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def quarantined(daemon: Daemon) -> list[str]:
    return [part["id"] for part in daemon.ask("quarantine")["parts"]]


def fail_with(monkeypatch: pytest.MonkeyPatch, bad: Callable[[SupportSet], bool]) -> None:
    """Make a decision fail while something bad is registered."""
    decide = decision.decide

    def decide_or_fail(support: SupportSet, *arguments: Any) -> Any:
        if bad(support):
            raise IndexError("list index out of range")
        return decide(support, *arguments)

    monkeypatch.setattr("edge_siamese.daemon.engine.decide", decide_or_fail)


class TestFrames:
    def test_an_object_that_makes_frames_fail_is_quarantined_and_the_others_are_recognized(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        daemon.start().up()
        daemon.learn("mug", MUG)
        pen = daemon.learn("pen", PEN)["object"]["uid"]
        daemon.show(PEN, "pen")
        fail_with(monkeypatch, lambda support: pen in support.uids)
        daemon.show(MUG, "mug")
        assert quarantined(daemon) == [f"object-{pen[:8]}"]
        assert (
            daemon.events("store")[-1]
            == 'the object "pen" is not used: frames could not be processed with it'
        )
        assert daemon.ask("status")["quarantine"][0]["id"] == f"object-{pen[:8]}"
        assert caplog.text.count("Traceback") == 1
        assert [item["name"] for item in daemon.ask("objects")["objects"]] == ["mug", "pen"]
        before = daemon.systemd.count("WATCHDOG=1")
        until(lambda: daemon.systemd.count("WATCHDOG=1") > before)
        # It stays so after a restart, until it is restored.
        daemon.stop()
        monkeypatch.undo()
        monkeypatch.setattr("edge_siamese.daemon.hardware.open_camera", daemon.stage.open)
        daemon.start().up()
        assert list(engine_of(daemon).support.names) == ["mug"]
        with pytest.raises(ControlError, match='"pen" is not in quarantine'):
            daemon.ask("restore", id="pen")
        text = daemon.ask("restore", id=f"object-{pen[:8]}")["text"]
        assert text == 'the object "pen" is used again'
        daemon.show(PEN, "pen")
        assert quarantined(daemon) == []

    def test_only_the_view_that_fails_is_quarantined(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.start().up()
        daemon.learn("mug", MUG)
        daemon.stage.picture = PEN
        daemon.ask("register", name="mug", view=True)
        first, second = [view["id"] for view in daemon.ask("views", name="mug")]
        fail_with(monkeypatch, lambda support: second in support.view_ids)
        daemon.show(MUG, "mug")
        until(lambda: quarantined(daemon) == [f"view-{second}"])
        until(lambda: engine_of(daemon).support.view_ids.tolist() == [first])

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    def test_one_frame_that_fails_is_skipped(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        daemon.start().up()
        engine = engine_of(daemon)
        failed: list[int] = []
        process = engine.process_frame

        def fail_once(*arguments: Any) -> None:
            if not failed:
                failed.append(1)
                raise error
            process(*arguments)

        monkeypatch.setattr(engine, "process_frame", fail_once)
        until(lambda: failed)
        frames = engine.frames
        until(lambda: engine.frames > frames + 3)
        assert daemon.service.engine is engine
        assert quarantined(daemon) == []
        assert daemon.events("model")[-1].startswith("a frame could not be processed: unexpected ")

    def test_a_state_of_the_engine_that_fails_is_replaced_by_a_new_engine(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.start().up()
        engine = engine_of(daemon)
        monkeypatch.setattr(engine.regions.first.tracker, "update", raising(IndexError("x")))
        until(lambda: daemon.service.engine not in (None, engine))
        daemon.up()
        assert quarantined(daemon) == []

    def test_settings_that_make_frames_fail_are_replaced_by_their_defaults_until_they_change(
        self, daemon: Daemon, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        update = Tracker.update

        def fail(tracker: Tracker, *arguments: Any) -> Any:
            if tracker._window.maxlen == 3:  # the number in the settings
                raise ZeroDivisionError("no")
            return update(tracker, *arguments)

        monkeypatch.setattr(Tracker, "update", fail)
        daemon.start()
        until(lambda: [part.id for part in daemon.service.faults.quarantine.parts] == ["settings"])
        until(lambda: daemon.service.engine and engine_of(daemon).settings.recognition.window_frames != 3)
        assert daemon.events("settings")[-1] == (
            "the part [recognition], [[regions]] and [registration] of the settings is not used: "
            "unexpected ZeroDivisionError: no"
        )
        daemon.configure(bundle.path, window_frames="window_frames = 4")
        daemon.service.reload()
        until(lambda: quarantined(daemon) == [])
        until(lambda: daemon.service.engine and daemon.service.engine.settings.recognition.window_frames == 4)

    def test_a_model_that_fails_on_each_frame_is_replaced_by_the_previous_one(
        self, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("tiny-good", "tiny-bad"):
            daemon.models.install(write_tiny_bundle(tmp_path / name, model_id=name), accept)
            daemon.models.confirm()
        daemon.configure("")
        daemon.start().up()
        assert model_of(daemon) == "tiny-bad"
        monkeypatch.setattr(
            engine_of(daemon).encoder, "embed_prepared", raising(EncoderError("the runtime failed"))
        )
        daemon.stage.picture = MUG
        until(lambda: model_of(daemon) == "tiny-good")
        daemon.up()
        assert "tiny-bad" in str(daemon.events("model"))
        assert [*daemon.models.state().rejected.values()] == ["the runtime failed"]

    def test_the_only_model_that_fails_leaves_the_daemon_alive_and_it_says_so(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(faults, "default", lambda: None)
        daemon.start().up()
        monkeypatch.setattr(engine_of(daemon).encoder, "embed_prepared", raising(MemoryError()))
        monkeypatch.setattr(engine_loader, "RETRY_SECONDS", 60.0)
        daemon.service.loader._retry_s = 60.0
        daemon.stage.picture = MUG
        until(lambda: daemon.service.fault == "frames cannot be processed: unexpected MemoryError")
        assert daemon.ask("status")["line"] == "frames cannot be processed: unexpected MemoryError"
        until(lambda: daemon.service.hardware.background is Signal.FAULT_MODEL)
        before = daemon.systemd.count("WATCHDOG=1")
        until(lambda: daemon.systemd.count("WATCHDOG=1") > before)


class TestLoading:
    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    @pytest.mark.parametrize("what", ["model", "store"])
    def test_an_unforeseen_error_is_reported_and_loading_is_tried_again(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, what: str, error: Exception
    ) -> None:
        place, name = (
            (engine_loader, "loading_current_model") if what == "model" else (StoreLifecycle, "open")
        )
        with monkeypatch.context() as patched:
            patched.setattr(place, name, raising(error))
            daemon.start()
            until(lambda: daemon.service.fault.startswith(f"unexpected {type(error).__name__}"))
            assert daemon.ask("status")["model"] is None
        daemon.up()
        assert daemon.service.fault == ""

    def test_an_installed_model_that_cannot_be_loaded_is_replaced_by_the_previous_one(
        self, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("tiny-good", "tiny-bad"):
            daemon.models.install(write_tiny_bundle(tmp_path / name, model_id=name), accept)
            daemon.models.confirm()
        load = model_loader.load_tested_encoder

        def fail(bundle: Bundle, settings: Any) -> Any:
            if bundle.manifest.model_id == "tiny-bad":
                raise MemoryError
            return load(bundle, settings)

        monkeypatch.setattr(model_loader, "load_tested_encoder", fail)
        daemon.configure("")
        daemon.start().up()
        assert model_of(daemon) == "tiny-good"

    def test_an_object_that_prevents_the_support_set_is_quarantined_at_the_start(
        self, daemon: Daemon, bundle: Bundle, caplog: pytest.LogCaptureFixture
    ) -> None:
        daemon.start().up()
        daemon.learn("mug", MUG)
        pen = daemon.learn("pen", PEN)["object"]["uid"]
        daemon.stop()
        bad = np.full(8, np.nan, np.float32)
        entries = SupportStore.entries

        def spoiled(store: SupportStore) -> Any:
            return [
                replace(item, embeddings=bad[np.newaxis]) if item.uid == pen else item
                for item in entries(store)
            ]

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(SupportStore, "entries", spoiled)
            daemon.start().up()
            daemon.show(MUG, "mug")
            assert quarantined(daemon) == [f"object-{pen[:8]}"]
            daemon.stop()


class TestOtherParts:
    @pytest.mark.parametrize(
        ("part", "place"),
        [
            ("button", "hardware.gestures"),
            ("LED", "hardware.show_background"),
            ("frames", "hardware.next_frame"),
            ("camera", "hardware.watch"),
            ("backup", "store.back_up_if_due"),
            ("model on trial", "loader.confirm"),
            ("engine", "engine.tick"),
        ],
    )
    def test_an_error_in_a_part_is_reported_once_and_the_daemon_goes_on(
        self,
        daemon: Daemon,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        part: str,
        place: str,
    ) -> None:
        daemon.start().up()
        target: Any = daemon.service
        *path, name = place.split(".")
        for step in path:
            target = getattr(target, step)
        with monkeypatch.context() as patched:
            patched.setattr(target, name, raising(ZeroDivisionError("no")))
            until(lambda: part in daemon.service.faults.failures.current)
            found = daemon.ask("status")["failures"]
            assert {"part": part, "text": "unexpected ZeroDivisionError: no"} in found
            until(lambda: daemon.ask("status"))
        assert caplog.text.count("Traceback") == 1
        until(lambda: daemon.ask("status")["failures"] == [])
        frames = engine_of(daemon).frames
        until(lambda: daemon.service.engine.frames > frames + 2)

    def test_a_listener_that_fails_does_not_stop_events(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.service.bus.listen(raising(ValueError("x")))
        daemon.learn("mug", MUG)
        daemon.show(MUG, "mug")
        assert daemon.told("registered") == '"mug" is registered'

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=["interrupt", "exit"])
    def test_the_end_of_the_process_is_not_taken_for_an_error(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        daemon.start().up()
        with pytest.raises(type(error)):
            daemon.service.faults.guard("model", "engine", raising(error))
        broken: Any = SimpleNamespace(process_frame=raising(error))
        with pytest.raises(type(error)):
            daemon.service._process_frame(broken, Frame(TABLE, 0.0, 1))


class TestFallbacks:
    def die_early(self, daemon: Daemon, times: int) -> None:
        """Starts of a process that is killed at once."""
        for _ in range(times):
            StartCounter(daemon.state).begin()

    def test_after_three_early_ends_it_runs_without_the_store_and_keeps_it(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.learn("mug", MUG)
        daemon.stop()
        before = (daemon.state / "objects.db").read_bytes()
        self.die_early(daemon, 3)
        daemon.start().up()
        daemon.stage.picture = MUG
        reason = "the object store is not used: 3 starts of the daemon ended early"
        assert daemon.told("store") == reason
        until(lambda: reason in daemon.ask("status")["line"])
        assert quarantined(daemon) == ["store"]
        for command, words in (("objects", {}), ("register", {"name": "pen"}), ("undo", {})):
            with pytest.raises(ControlError, match="the object store is not used"):
                daemon.ask(command, **words)
        until(lambda: daemon.service.hardware.background is Signal.FAULT_STORE)
        assert (daemon.state / "objects.db").read_bytes() == before
        assert daemon.ask("restore", id="store")["text"] == "the object store is used again"
        daemon.up()
        daemon.show(MUG, "mug")
        assert quarantined(daemon) == []

    def test_a_restart_after_a_healthy_fallback_uses_everything_again(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.stop()
        self.die_early(daemon, 4)
        daemon.start().up()
        assert quarantined(daemon) == ["store"]
        until(lambda: not (daemon.state / "starts.json").exists())
        daemon.stop()
        daemon.start().up()
        assert quarantined(daemon) == []

    def test_then_it_runs_with_the_shipped_model(
        self, daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shipped = write_tiny_bundle(tmp_path / "shipped", model_id="tiny-shipped")
        for module in (engine_loader, model_loader):
            monkeypatch.setattr(module, "default", lambda: shipped)
        self.die_early(daemon, 5)
        daemon.start().up()
        assert model_of(daemon) == "tiny-shipped"
        assert quarantined(daemon) == ["model"]
        until(lambda: daemon.service.hardware.background is Signal.FAULT_MODEL)
        assert daemon.ask("restore", id="model")["text"] == "the installed model is used again"
        until(lambda: model_of(daemon) == "tiny-0123456789ab")

    def test_a_new_model_that_ends_the_daemon_is_rejected_and_the_store_stays_in_use(
        self, daemon: Daemon, tmp_path: Path
    ) -> None:
        for name in ("tiny-good", "tiny-bad"):
            daemon.models.install(write_tiny_bundle(tmp_path / name, model_id=name), accept)
            if name == "tiny-good":
                daemon.models.confirm()
        for _ in range(3):
            self.die_early(daemon, 1)
            daemon.models.begin()
        daemon.configure("")
        daemon.start().up()
        assert model_of(daemon) == "tiny-good"
        assert quarantined(daemon) == []

    def test_a_start_that_is_stopped_at_once_does_not_count(self, daemon: Daemon) -> None:
        for _ in range(4):
            daemon.start()
            until(lambda: (daemon.state / "starts.json").exists())
            daemon.stop()
        daemon.start().up()
        assert quarantined(daemon) == []

    def test_frames_that_fail_are_not_a_healthy_start(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(faults, "FAILED_SECONDS", 1e9)
        monkeypatch.setattr(Engine, "process_frame", raising(ZeroDivisionError("no")))
        daemon.start()
        until(lambda: daemon.service.faults._failing)
        monkeypatch.setattr(faults, "HEALTHY_SECONDS", 0.0)
        until(lambda: daemon.service.faults._failing and daemon.service.faults._failing[0] > 30)
        assert (daemon.state / "starts.json").exists()
        before = daemon.systemd.count("WATCHDOG=1")
        count = daemon.service.faults._failing[0]  # type: ignore[index]
        until(lambda: daemon.service.faults._failing[0] > count + 10)  # type: ignore[index]
        assert daemon.systemd.count("WATCHDOG=1") == before


class TestDecisions:
    """What the handler decides, without a daemon."""

    @pytest.fixture
    def time(self) -> list[float]:
        return [100.0]

    @pytest.fixture
    def events(self) -> list[Event]:
        return []

    @pytest.fixture
    def handler(self, tmp_path: Path, events: list[Event], time: list[float]) -> FaultHandler:
        return FaultHandler(tmp_path, events.append, lambda: time[0])

    def remedy(self, handler: FaultHandler, cause: str, *, error: Exception = ERRORS[0]) -> str:
        engine: Any = None
        model: Any = SimpleNamespace(bundle=SimpleNamespace(path=Path("/models/tiny-1")))
        settings = Settings(model=ModelSettings("/models/tiny-1"))
        with patch.object(faults, "find_cause", return_value=cause):
            return handler.remedy(engine, Frame(TABLE, 0.0, 1), error, model, settings)

    def test_a_remedy_is_due_after_several_failures_over_a_while_in_a_row(
        self, handler: FaultHandler, time: list[float]
    ) -> None:
        def fail() -> bool:
            return handler.frame_failed(ERRORS[0])

        assert [fail() for _ in range(9)] == [False] * 9  # all at once
        time[0] += faults.FAILED_SECONDS
        assert fail()
        assert not fail()  # counted from zero
        time[0] += 1.0
        handler.frame_processed()
        time[0] += 1.0
        assert [fail() for _ in range(9)] == [False] * 9

    @pytest.mark.parametrize(
        ("causes", "remedies"),
        [
            (["objects", "objects"], ["reload", "reload"]),
            (["settings", ""], ["rebuild", "rebuild"]),
            (["model", ""], ["load", "rebuild"]),
            (["", ""], ["rebuild", "pause"]),
            (["", "settings", ""], ["rebuild", "rebuild", "rebuild"]),
            (["", "objects", ""], ["rebuild", "reload", "pause"]),
        ],
    )
    def test_the_remedy_follows_from_the_cause(
        self,
        handler: FaultHandler,
        monkeypatch: pytest.MonkeyPatch,
        causes: list[str],
        remedies: list[str],
    ) -> None:
        monkeypatch.setattr(faults, "default", lambda: Path("/models/shipped"))
        assert [self.remedy(handler, cause) for cause in causes] == remedies

    def test_the_only_model_is_not_put_into_quarantine(
        self, handler: FaultHandler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for shipped in (None, Path("/models/tiny-1")):
            monkeypatch.setattr(faults, "default", lambda shipped=shipped: shipped)
            assert self.remedy(handler, "model") == "pause"
        assert handler.parts == ()

    def test_a_search_that_fails_itself_finds_no_cause(
        self, handler: FaultHandler, events: list[Event]
    ) -> None:
        engine: Any = None
        model: Any = None
        with patch.object(faults, "find_cause", raising(MemoryError())):
            assert handler.remedy(engine, Frame(TABLE, 0.0, 1), ERRORS[0], model, Settings()) == "rebuild"
        assert [event.text for event in events] == ["search for the cause: unexpected MemoryError"]

    def test_settings_in_quarantine_are_replaced_until_they_change(self, handler: FaultHandler) -> None:
        given = Settings(recognition=RecognitionSettings(window_frames=9), paths=PathSettings("/a", "/b"))
        handler.use_settings("one")
        assert handler.usable(given) is given
        self.remedy(handler, "settings", error=ValueError("x"))
        assert handler.usable(given) == Settings(paths=PathSettings("/a", "/b"))
        assert [part["reason"] for part in handler.report()] == ["unexpected ValueError: x"]
        handler.use_settings("two")
        assert handler.usable(given) is given
        assert handler.parts == ()

    def test_a_start_is_healthy_after_a_while_unless_frames_fail(
        self, handler: FaultHandler, time: list[float], tmp_path: Path
    ) -> None:
        handler.begin(InstalledModels(tmp_path / "models"))
        handler.frame_failed(ERRORS[0])
        time[0] += faults.HEALTHY_SECONDS + 1
        handler.tick()
        assert (tmp_path / "starts.json").exists()
        handler.frame_processed()
        assert not (tmp_path / "starts.json").exists()


class TestFailures:
    def test_an_error_is_logged_once_and_reported_again_when_it_was_away(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        time = [0.0]
        failures = FailureLog(lambda: time[0])

        def fail(error: Exception) -> bool:
            try:
                raise error
            except Exception as caught:
                return failures.failed("panel", caught)

        assert fail(ZeroDivisionError("a")) is True
        assert failures.report() == [{"part": "panel", "text": "unexpected ZeroDivisionError: a"}]
        for _ in range(5):
            time[0] += 200.0
            assert fail(ZeroDivisionError("b")) is False
        failures.worked("panel")
        assert failures.report() == []
        time[0] += 601.0
        assert fail(ZeroDivisionError("c")) is True
        assert caplog.text.count("Traceback") == 1

    def test_an_error_for_users_is_logged_without_a_traceback(self, caplog: pytest.LogCaptureFixture) -> None:
        failures = FailureLog()
        assert failures.failed("model", EncoderError("the runtime failed"))
        assert [(record.levelno, record.message) for record in caplog.records] == [
            (logging.ERROR, "model: the runtime failed")
        ]
        assert "Traceback" not in caplog.text
