"""The daemon's life on a thread: systemd, requests, faults that pass, and ends that are quick and clean."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.daemon import service as service_module
from edge_siamese.daemon.registration_session import RegistrationRequest
from edge_siamese.daemon.service import EXIT_OK, EXIT_RESTART
from edge_siamese.errors import (
    CameraEnded,
    CameraStalled,
    ControlError,
    DaemonNotRunning,
    EncoderError,
    StoreError,
    SupportError,
)
from edge_siamese.models.bundle import Bundle
from edge_siamese.panel.led_signals import Signal
from edge_siamese.store import SupportStore
from tests.edge_siamese.daemon.running import CUP, MUG, PEN, TABLE, Daemon, daemon_in, until

pytest.importorskip("onnxruntime")


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        yield made


def engine_of(daemon: Daemon) -> Any:
    assert daemon.service.engine is not None
    return daemon.service.engine


class TestLife:
    def test_it_registers_recognizes_and_keeps(self, daemon: Daemon, bundle: Bundle) -> None:
        daemon.start().up()
        assert daemon.learn("mug", MUG)["text"] == '"mug" is registered'
        daemon.show(MUG, "mug")
        daemon.show(TABLE, None)
        daemon.stop()
        assert daemon.status == EXIT_OK
        assert daemon.events("stopping") == ["the daemon stops"]
        with SupportStore(daemon.state / "objects.db", bundle.manifest.model_id, 8) as store:
            assert [known.name for known in store.objects()] == ["mug"]
            assert store.repair is None
        daemon.start().up()
        daemon.show(MUG, "mug")
        assert daemon.events("started")[0].startswith("recognizing 1 object with tiny-0123456789ab, ")

    def test_the_button_does_what_the_light_says(self, daemon: Daemon) -> None:
        shown: list[Signal] = []
        daemon.start().up()
        console = daemon.service.hardware.console
        assert console is not None
        show = console.show
        console.show = lambda signal: (shown.append(signal), show(signal))  # type: ignore[method-assign,assignment,func-returns-value]
        daemon.stage.picture = MUG
        daemon.press()
        daemon.told("registered")
        daemon.show(MUG, "object 1")
        until(lambda: daemon.service.hardware.background is Signal.RECOGNIZED)
        daemon.press(0.3)
        daemon.told("undone")
        until(lambda: daemon.service.hardware.background is Signal.READY)
        assert shown == [Signal.LOOKING, Signal.SAVED, Signal.UNDONE]
        assert daemon.stage.holds == [True, False]

    def test_systemd_hears_that_it_is_ready_how_it_is_and_that_it_ends(self, daemon: Daemon) -> None:
        daemon.start().up()
        until(lambda: any("STATUS=sees no known object" in message for message in daemon.systemd.heard))
        until(lambda: daemon.systemd.count("WATCHDOG=1") > 3)
        daemon.stop()
        until(lambda: daemon.systemd.count("STOPPING=1"))
        assert daemon.systemd.count("READY=1") == 1

    def test_the_watchdog_is_for_frames_and_for_a_camera_that_is_not_there(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.stage.error = CameraStalled("the camera gave no frame for 0.2 s")
        assert daemon.told("camera") == "the camera runs: a stage"
        until(lambda: daemon.service.hardware.camera_down)
        until(lambda: daemon.service.hardware.background is Signal.FAULT_CAMERA)
        time.sleep(0.02)  # what was sent before is heard
        before = daemon.systemd.count("WATCHDOG=1")
        time.sleep(0.2)
        assert daemon.systemd.count("WATCHDOG=1") == before
        assert daemon.ask("status")["line"] == "no frames: the camera gave no frame for 0.2 s"
        daemon.stage.absent = True
        until(lambda: daemon.ask("status")["camera"]["status"] == "absent")
        until(lambda: daemon.systemd.count("WATCHDOG=1") > before + 2)
        daemon.stage.absent, daemon.stage.error = False, None
        until(lambda: daemon.events("camera")[-1] == "the camera runs: a stage")
        until(lambda: daemon.service.hardware.background is Signal.READY)
        assert daemon.events("camera")[1:3] == [
            "no frames: the camera gave no frame for 0.2 s",
            "no frames: there is no camera",
        ]

    def test_what_was_there_leaves_with_the_camera(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.learn("mug", MUG)
        daemon.show(MUG, "mug")
        daemon.stage.error = CameraStalled("the camera gave no frame for 0.2 s")
        assert daemon.told("left").startswith("mug left")

    def test_frames_that_cannot_be_used_are_told_once_and_keep_the_watchdog_waiting(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.start().up()

        def fail(*_: Any) -> Any:
            raise EncoderError("the runtime failed")

        monkeypatch.setattr(engine_of(daemon).encoder, "embed_prepared", fail)
        daemon.stage.picture = MUG
        assert daemon.told("model") == "a frame could not be processed: the runtime failed"
        frames = engine_of(daemon).frames
        until(lambda: engine_of(daemon).frames > frames + 2)
        before = daemon.systemd.count("WATCHDOG=1")
        until(lambda: engine_of(daemon).frames > frames + 6)
        assert daemon.systemd.count("WATCHDOG=1") == before
        assert len(daemon.events("model")) == 1
        monkeypatch.undo()
        until(lambda: daemon.systemd.count("WATCHDOG=1") > before)


class TestEnding:
    def test_a_camera_that_hangs_delays_nothing(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.stage.hangs = True
        until(lambda: daemon.stage.stuck)
        daemon.press()  # which asks a camera that hangs to hold its exposure
        until(lambda: engine_of(daemon).registrations.busy)
        assert daemon.ask("status")["registering"] is True
        daemon.stop()
        assert daemon.status == EXIT_OK

    def test_whoever_waits_for_a_registration_is_told_of_the_end(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.stage.error = CameraStalled("no frame")
        said: list[str] = []

        def ask() -> None:
            try:
                daemon.ask("register", name="mug")
            except ControlError as error:
                said.append(str(error))

        asking = threading.Thread(target=ask)
        asking.start()
        until(lambda: engine_of(daemon).registrations.busy)
        daemon.stop()
        asking.join(2)
        assert said == ["the registration was canceled"]

    def test_the_end_of_files_is_the_end(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.stage.error = CameraEnded("the folder has come to its end")
        daemon.thread.join(30)
        assert daemon.status == EXIT_OK
        assert daemon.events("camera")[-1] == "the camera has ended: the folder has come to its end"

    def test_a_registration_is_finished_before_that(self, daemon: Daemon) -> None:
        daemon.start().up()

        def begin() -> None:
            daemon.stage.error = CameraEnded("the folder has come to its end")
            engine_of(daemon).registrations.begin(RegistrationRequest("mug"), time.monotonic())

        daemon.service.call(begin)
        daemon.thread.join(5)
        assert daemon.status == EXIT_OK
        (refused,) = daemon.events("refused")
        assert refused.endswith("arrived within 1 s: check the camera")

    def test_two_threads_that_hang_in_the_driver_ask_for_a_new_process(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("edge_siamese.cameras.supervisor.MARGIN_SECONDS", 0.05)
        daemon.start().up()
        daemon.stage.hangs = True
        daemon.thread.join(8)
        assert daemon.status == EXIT_RESTART
        assert "the camera does not recover in this process; restarting" in caplog.messages

    def test_an_error_that_nobody_foresaw_ends_it_with_its_place_in_the_log(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        daemon.start().up()

        def fail(*_: Any) -> Any:
            raise ZeroDivisionError("one over nothing")

        monkeypatch.setattr(engine_of(daemon), "process_frame", fail)
        daemon.thread.join(30)
        assert isinstance(daemon.error, ZeroDivisionError)
        assert "in _process_frame" in caplog.text
        with pytest.raises(DaemonNotRunning):
            daemon.ask("status")
        assert not daemon.socket.exists()
        daemon.start().up()  # nothing is locked


class TestCalls:
    def test_a_call_is_done_between_two_frames_and_its_error_comes_back(self, daemon: Daemon) -> None:
        daemon.start().up()
        assert daemon.service.call(threading.current_thread) is daemon.thread
        with pytest.raises(SupportError, match="no such"):
            daemon.service.call(lambda: (_ for _ in ()).throw(SupportError("no such")))
        with pytest.raises(CameraStalled, match="its own time"):
            daemon.service.call(lambda: (_ for _ in ()).throw(CameraStalled("its own time")))

    def test_what_is_not_come_to_in_time_is_never_done(self, daemon: Daemon) -> None:
        daemon.start().up()
        held, done = threading.Event(), threading.Event()
        running = threading.Event()
        holder = threading.Thread(target=lambda: daemon.service.call(lambda: (running.set(), held.wait())))
        holder.start()
        assert running.wait(30)
        with pytest.raises(ControlError, match=r"^the daemon was too busy for 0\.02 s$"):
            daemon.service.call(done.set, timeout=0.02)
        held.set()
        holder.join()
        assert daemon.service.call(lambda: True)
        assert not done.is_set()

    def test_what_takes_long_is_said_to_go_on(self, daemon: Daemon) -> None:
        daemon.start().up()
        held = threading.Event()
        with pytest.raises(
            ControlError, match=r"^the daemon is still working on it; check the result later$"
        ):
            daemon.service.call(lambda: held.wait(), timeout=1.0)
        held.set()

    def test_a_daemon_that_ends_says_so_to_who_waits(self, daemon: Daemon) -> None:
        daemon.start().up()
        said: list[str] = []
        held = threading.Event()

        def ask(function: Any) -> None:
            try:
                daemon.service.call(function)
            except ControlError as error:
                said.append(str(error))

        running = threading.Event()
        first = threading.Thread(target=ask, args=(lambda: (running.set(), held.wait()),))
        first.start()
        assert running.wait(30)
        second = threading.Thread(target=ask, args=(lambda: None,))
        second.start()
        until(lambda: not daemon.service._calls._waiting.empty())
        daemon.service.stop()
        held.set()
        for thread in (first, second):
            thread.join(30)
        assert said == ["the daemon is stopping"]
        daemon.stop()
        ask(lambda: None)
        assert said == ["the daemon is stopping"] * 2

    def test_many_that_ask_do_not_keep_frames_from_being_seen(self, daemon: Daemon) -> None:
        daemon.start().up()
        over = threading.Event()

        def insist() -> None:
            while not over.is_set():
                daemon.service.call(lambda: None)

        threads = [threading.Thread(target=insist) for _ in range(3)]
        for thread in threads:
            thread.start()
        frames = engine_of(daemon).frames
        until(lambda: engine_of(daemon).frames > frames + 5)
        over.set()
        for thread in threads:
            thread.join()


def store_in_use(*_: Any, **__: Any) -> Any:
    raise StoreError("objects.db is in use")


class TestStore:
    def test_a_second_daemon_is_refused(self, daemon: Daemon) -> None:
        daemon.start().up()
        other = service_module.Service(daemon.service.settings, daemon.config)
        with pytest.raises(ControlError, match=rf"^another daemon runs: pid \d+ at {daemon.socket}$"):
            other.run()
        assert daemon.ask("status")["fault"] == ""

    def test_a_damaged_store_is_repaired_told_and_used(self, daemon: Daemon, bundle: Bundle) -> None:
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

    def test_a_store_that_turns_out_to_be_damaged_is_opened_anew(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service_module, "STATUS_SECONDS", 0.02)
        monkeypatch.setattr(service_module, "RETRY_SECONDS", 0.3)
        daemon.start().up()
        daemon.learn("mug", MUG)
        former = engine_of(daemon)
        with monkeypatch.context() as patch:
            patch.setattr("edge_siamese.daemon.service.SupportStore", store_in_use)
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
        assert engine_of(daemon).store is not former.store
        daemon.show(MUG, "mug")

    def test_a_state_directory_that_cannot_be_is_told_and_tried_again(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service_module, "RETRY_SECONDS", 0.05)
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

    def test_a_store_that_another_process_has_is_left_alone(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(service_module, "RETRY_SECONDS", 0.05)
        with SupportStore(daemon.state / "objects.db", "other", 8):
            daemon.start()
            assert "is in use by process" in daemon.told("store")
        daemon.up()

    def test_a_store_that_fails_while_it_learns_is_told_to_who_asked(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        daemon.start().up()

        def full(*_: Any) -> Any:
            raise StoreError("objects.db: the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(engine_of(daemon).store, "register", full)
            with pytest.raises(ControlError, match=r"^objects.db: the disk is full$"):
                daemon.learn("mug", MUG)
        assert daemon.learn("mug", MUG)["text"] == '"mug" is registered'

    def test_what_a_daemon_before_left_half_way_is_cleared_away(self, daemon: Daemon) -> None:
        for name in ("incoming", "outgoing"):
            (daemon.state / name).mkdir(parents=True)
            (daemon.state / name / "half.zip").write_bytes(b"x")
        daemon.start().up()
        assert not (daemon.state / "incoming").exists()
        assert not (daemon.state / "outgoing").exists()

    def test_the_store_is_copied_when_it_has_changed(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edge_siamese.daemon.service.BACKUP_SECONDS", 0.1)
        monkeypatch.setattr(service_module, "STATUS_SECONDS", 0.05)
        daemon.start().up()
        until((daemon.state / "objects.backup.db").exists)
