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
    SupportError,
)
from edge_siamese.models.bundle import Bundle
from edge_siamese.panel.led_signals import Signal
from edge_siamese.store import SupportStore
from tests.edge_siamese.daemon.running import MUG, TABLE, Daemon, daemon_in, until

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
    def test_objects_are_registered_recognized_and_persisted(self, daemon: Daemon, bundle: Bundle) -> None:
        daemon.start().up()
        assert daemon.learn("mug", MUG)["text"] == '"mug" is registered'
        daemon.show(MUG, "mug")
        daemon.show(TABLE, None)
        daemon.stop()
        assert daemon.status == EXIT_OK
        assert daemon.events("stopping") == ["the daemon is stopping"]
        with SupportStore(daemon.state / "objects.db", bundle.manifest.model_id, 8) as store:
            assert [known.name for known in store.objects()] == ["mug"]
            assert store.repair is None
        daemon.start().up()
        daemon.show(MUG, "mug")
        assert daemon.events("started")[0].startswith("recognizing 1 object with tiny-0123456789ab, ")

    def test_the_led_shows_the_effect_of_the_button(self, daemon: Daemon) -> None:
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
        assert shown == [Signal.REGISTERING, Signal.SAVED, Signal.UNDONE]
        assert daemon.stage.holds == [True, False]

    def test_systemd_is_notified_of_ready_status_and_stopping(self, daemon: Daemon) -> None:
        daemon.start().up()
        until(lambda: any("STATUS=sees no known object" in message for message in daemon.systemd.heard))
        until(lambda: daemon.systemd.count("WATCHDOG=1") > 3)
        daemon.stop()
        until(lambda: daemon.systemd.count("STOPPING=1"))
        assert daemon.systemd.count("READY=1") == 1

    def test_the_watchdog_is_fed_by_frames_and_without_a_camera(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.stage.error = CameraStalled("the camera gave no frame for 0.2 s")
        assert daemon.told("camera") == "the camera is running: a stage"
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
        until(lambda: daemon.events("camera")[-1] == "the camera is running: a stage")
        until(lambda: daemon.service.hardware.background is Signal.READY)
        assert daemon.events("camera")[1:3] == [
            "no frames: the camera gave no frame for 0.2 s",
            "no frames: there is no camera",
        ]

    def test_sightings_end_when_the_camera_is_lost(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.learn("mug", MUG)
        daemon.show(MUG, "mug")
        daemon.stage.error = CameraStalled("the camera gave no frame for 0.2 s")
        assert daemon.told("left").startswith("mug left")

    def test_unusable_frames_are_reported_once_and_do_not_feed_the_watchdog(
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
    def test_a_camera_that_hangs_does_not_delay_requests(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.stage.hangs = True
        until(lambda: daemon.stage.stuck)
        daemon.press()  # which asks a camera that hangs to hold its exposure
        until(lambda: engine_of(daemon).registrations.busy)
        assert daemon.ask("status")["registering"] is True
        daemon.stop()
        assert daemon.status == EXIT_OK

    def test_a_waiting_registration_gets_the_outcome_when_the_daemon_stops(self, daemon: Daemon) -> None:
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

    def test_the_daemon_exits_at_the_end_of_the_files(self, daemon: Daemon) -> None:
        daemon.start().up()
        daemon.stage.error = CameraEnded("the folder has come to its end")
        daemon.thread.join(30)
        assert daemon.status == EXIT_OK
        assert daemon.events("camera")[-1] == "the camera has ended: the folder has come to its end"

    def test_a_registration_finishes_before_the_daemon_exits(self, daemon: Daemon) -> None:
        daemon.start().up()

        def begin() -> None:
            daemon.stage.error = CameraEnded("the folder has come to its end")
            engine_of(daemon).registrations.begin(RegistrationRequest("mug"), time.monotonic())

        daemon.service.call(begin)
        daemon.thread.join(5)
        assert daemon.status == EXIT_OK
        (refused,) = daemon.events("refused")
        assert refused.endswith("arrived within 1 s: check the camera")

    def test_two_stuck_driver_threads_restart_the_process(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("edge_siamese.cameras.supervisor.MARGIN_SECONDS", 0.05)
        daemon.start().up()
        daemon.stage.hangs = True
        daemon.thread.join(8)
        assert daemon.status == EXIT_RESTART
        assert "the camera does not recover in this process; restarting" in caplog.messages

    def test_an_error_outside_of_all_parts_stops_the_daemon_with_a_traceback(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        daemon.start().up()

        def fail(*_: Any) -> Any:
            raise ZeroDivisionError("one over nothing")

        monkeypatch.setattr(daemon.service, "_run_once", fail)
        daemon.thread.join(30)
        assert isinstance(daemon.error, ZeroDivisionError)
        assert "one over nothing" in caplog.text
        with pytest.raises(DaemonNotRunning):
            daemon.ask("status")
        assert not daemon.socket.exists()
        daemon.start().up()  # nothing is locked


class TestCalls:
    def test_calls_run_between_frames_and_raise_their_errors(self, daemon: Daemon) -> None:
        daemon.start().up()
        assert daemon.service.call(threading.current_thread) is daemon.thread
        with pytest.raises(SupportError, match="no such"):
            daemon.service.call(lambda: (_ for _ in ()).throw(SupportError("no such")))
        with pytest.raises(CameraStalled, match="its own time"):
            daemon.service.call(lambda: (_ for _ in ()).throw(CameraStalled("its own time")))

    def test_a_call_that_timed_out_never_runs(self, daemon: Daemon) -> None:
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

    def test_a_call_that_is_still_running_is_reported(self, daemon: Daemon) -> None:
        daemon.start().up()
        held = threading.Event()
        with pytest.raises(
            ControlError, match=r"^the daemon is still working on it; check the result later$"
        ):
            daemon.service.call(lambda: held.wait(), timeout=1.0)
        held.set()

    def test_waiting_calls_fail_when_the_daemon_stops(self, daemon: Daemon) -> None:
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

    def test_many_requests_do_not_starve_frames(self, daemon: Daemon) -> None:
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


class TestStart:
    def test_a_second_daemon_is_refused(self, daemon: Daemon) -> None:
        daemon.start().up()
        other = service_module.Service(daemon.service.settings, daemon.config)
        with pytest.raises(ControlError, match=rf"^another daemon is running: pid \d+ at {daemon.socket}$"):
            other.run()
        assert daemon.ask("status")["fault"] == ""

    def test_leftovers_of_an_interrupted_daemon_are_removed(self, daemon: Daemon) -> None:
        for name in ("incoming", "outgoing"):
            (daemon.state / name).mkdir(parents=True)
            (daemon.state / name / "half.zip").write_bytes(b"x")
        daemon.start().up()
        assert not (daemon.state / "incoming").exists()
        assert not (daemon.state / "outgoing").exists()
