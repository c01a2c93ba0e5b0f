"""The object store of the daemon: opened, repaired, backed up and closed, whatever is wrong with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.daemon import engine_loader, store_lifecycle
from edge_siamese.daemon import service as service_module
from edge_siamese.daemon.store_lifecycle import StoreLifecycle
from edge_siamese.daemon.systemd import Notifier
from edge_siamese.errors import ControlError, StoreError
from edge_siamese.events import Event
from edge_siamese.models.bundle import Bundle
from edge_siamese.panel.led_signals import Signal
from edge_siamese.runtimes.fake import FakeEncoder
from edge_siamese.settings import PathSettings, RegistrationSettings, Settings
from edge_siamese.store import SupportStore
from tests.edge_siamese.daemon.running import CUP, MUG, PEN, Daemon, daemon_in, until
from tests.manual_clock import ManualClock


class TestLifecycle:
    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def events(self) -> list[Event]:
        return []

    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        return Settings(paths=PathSettings(str(tmp_path / "state"), str(tmp_path / "run")))

    @pytest.fixture
    def lifecycle(self, clock: ManualClock, events: list[Event]) -> Iterator[StoreLifecycle]:
        made = StoreLifecycle(Notifier({}), events.append, clock)
        yield made
        made.close()

    def test_a_store_is_opened_once_and_follows_the_settings(
        self, lifecycle: StoreLifecycle, settings: Settings
    ) -> None:
        store = lifecycle.open(settings, FakeEncoder())
        assert store.keep_crops
        other = Settings(paths=settings.paths, registration=RegistrationSettings(keep_crops=False))
        assert lifecycle.open(other, FakeEncoder()) is store
        assert not store.keep_crops
        assert (lifecycle.damaged, lifecycle.recently_repaired, lifecycle.repair) == (False, False, None)
        lifecycle.close()
        lifecycle.close()
        assert lifecycle.store is None
        lifecycle.back_up_if_due()

    @pytest.mark.parametrize(("large", "seconds"), [(False, 60.0), (True, 24 * 3600.0)])
    def test_a_backup_is_made_at_intervals_that_depend_on_the_size(
        self,
        lifecycle: StoreLifecycle,
        settings: Settings,
        clock: ManualClock,
        monkeypatch: pytest.MonkeyPatch,
        large: bool,
        seconds: float,
    ) -> None:
        made: list[float] = []
        monkeypatch.setattr(SupportStore, "backup", lambda store, limit_s: made.append(clock.now) or True)
        if large:
            monkeypatch.setattr(store_lifecycle, "LARGE_STORE_BYTES", 100)
        lifecycle.open(settings, FakeEncoder())
        for step in (59.0, 1.0, seconds - 1.0, 1.0):
            clock.now += step
            lifecycle.back_up_if_due()
        assert made == [1060.0, 1060.0 + seconds]

    @pytest.mark.parametrize(
        ("result", "message"),
        [
            (False, "no backup: copying the store took too long; use edge-siamese objects export"),
            (StoreError("the disk is full"), "no backup: the disk is full"),
            (PermissionError(13, "denied"), "no backup: [Errno 13] denied"),
        ],
    )
    def test_a_backup_that_fails_is_logged_and_made_later(
        self,
        lifecycle: StoreLifecycle,
        settings: Settings,
        clock: ManualClock,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        result: Any,
        message: str,
    ) -> None:
        def backup(*_: Any) -> Any:
            if isinstance(result, Exception):
                raise result
            return result

        lifecycle.open(settings, FakeEncoder())
        with monkeypatch.context() as patched:
            patched.setattr(SupportStore, "backup", backup)
            clock.now += 61.0
            lifecycle.back_up_if_due()
        assert caplog.messages == [message]
        clock.now += 61.0
        lifecycle.back_up_if_due()
        assert (settings.state_directory / "objects.backup.db").exists()

    def test_a_repair_is_reported_and_shown_for_a_minute(
        self, lifecycle: StoreLifecycle, settings: Settings, clock: ManualClock, events: list[Event]
    ) -> None:
        lifecycle.open(settings, FakeEncoder())
        lifecycle.close()
        settings.store.write_bytes(b"no database" * 1000)
        lifecycle.open(settings, FakeEncoder())
        assert [event.text for event in events] == [lifecycle.repair]
        assert lifecycle.recently_repaired
        clock.now += 60.0
        assert not lifecycle.recently_repaired


def store_in_use(*_: Any, **__: Any) -> Any:
    raise StoreError("objects.db is in use")


class TestDaemon:
    @pytest.fixture
    def daemon(self, tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
        pytest.importorskip("onnxruntime")
        with daemon_in(tmp_path, monkeypatch) as made:
            made.configure(bundle.path)
            yield made

    def test_a_damaged_store_is_repaired_reported_and_used(self, daemon: Daemon, bundle: Bundle) -> None:
        daemon.start().up()
        for name, picture in (("mug", MUG), ("pen", PEN)):
            daemon.learn(name, picture)
        daemon.stop()
        with SupportStore(daemon.state / "objects.db", bundle.manifest.model_id, 8) as store:
            assert store.backup()
        path = daemon.state / "objects.db"
        content = bytearray(path.read_bytes())
        content[100:200] = b"\xff" * 100
        path.write_bytes(content)
        daemon.start().up()
        repaired = daemon.events("store")
        assert len(repaired) == 1
        assert daemon.ask("status")["store"]["repair"] == repaired[0]
        assert [item["name"] for item in daemon.ask("objects")["objects"]] == ["mug", "pen"]
        until(lambda: daemon.service.hardware.background is Signal.FAULT_STORE)
        daemon.show(MUG, "mug")
        assert daemon.learn("cup", CUP)["object"]["name"] == "cup"

    def test_a_store_damaged_at_runtime_is_reopened(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service_module, "STATUS_SECONDS", 0.02)
        monkeypatch.setattr(engine_loader, "RETRY_SECONDS", 0.3)
        daemon.start().up()
        daemon.learn("mug", MUG)
        former = daemon.service.engine
        with monkeypatch.context() as patch:
            patch.setattr(store_lifecycle, "SupportStore", store_in_use)
            daemon.service.call(lambda: patch.setattr(SupportStore, "damaged", True))
            until(lambda: len(daemon.events("store")) == 2)
            assert daemon.events("store") == [
                "the store is damaged and is being repaired",
                "cannot recognize: objects.db is in use",
            ]
            until(lambda: daemon.service.hardware.background is Signal.FAULT_STORE)
            before = daemon.systemd.count("WATCHDOG=1")
            until(lambda: daemon.systemd.count("WATCHDOG=1") > before + 2)
        until(lambda: daemon.service.engine not in (None, former))
        assert daemon.service.engine.store is not former.store
        daemon.show(MUG, "mug")

    def test_an_unusable_state_directory_is_reported_and_retried(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_loader, "RETRY_SECONDS", 0.05)
        daemon.state.write_text("a file in the way")
        daemon.start()
        text = daemon.told("store")
        assert text.startswith("cannot recognize: ")
        assert str(daemon.state) in text
        until(lambda: daemon.service.hardware.background is Signal.FAULT_STORE)
        until(lambda: daemon.systemd.count("READY=1"))
        status = daemon.ask("status")
        assert (status["line"], status["model"], status["objects"]) == (status["fault"], None, 0)
        assert f"cannot recognize: {status['fault']}" == text
        with pytest.raises(ControlError, match=r"^the daemon cannot recognize: "):
            daemon.ask("objects")
        daemon.press()
        time.sleep(0.2)
        assert len(daemon.events("store")) == 1
        assert daemon.service.hardware.background is Signal.FAULT_STORE
        daemon.state.unlink()
        daemon.up()
        assert daemon.systemd.count("READY=1") == 1

    def test_a_store_in_use_by_another_process_is_not_touched(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(engine_loader, "RETRY_SECONDS", 0.05)
        with SupportStore(daemon.state / "objects.db", "other", 8):
            daemon.start()
            assert "is in use by process" in daemon.told("store")
        daemon.up()

    def test_a_store_failure_during_a_registration_reaches_the_client(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.start().up()

        def full(*_: Any) -> Any:
            raise StoreError("objects.db: the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(daemon.service.engine.store, "register", full)
            with pytest.raises(ControlError, match=r"^objects.db: the disk is full$"):
                daemon.learn("mug", MUG)
        assert daemon.learn("mug", MUG)["text"] == '"mug" is registered'

    def test_a_changed_store_is_backed_up(self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(store_lifecycle, "BACKUP_SECONDS", 0.1)
        monkeypatch.setattr(service_module, "STATUS_SECONDS", 0.05)
        daemon.start().up()
        until((daemon.state / "objects.backup.db").exists)
