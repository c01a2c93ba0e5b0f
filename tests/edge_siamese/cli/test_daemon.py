"""Commands on the daemon: `run` as a process that receives signals and is killed, and its clients."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_siamese.cli import daemon as commands
from edge_siamese.cli.main import main
from edge_siamese.daemon.client import request, stream
from edge_siamese.daemon.commands import EncodedPicture
from edge_siamese.daemon.service import Service
from edge_siamese.errors import CameraStalled, EdgeSiameseError
from edge_siamese.events import Event
from edge_siamese.models.bundle import Bundle
from edge_siamese.store import SupportStore
from tests.edge_siamese.daemon.running import CONFIG, MUG, Daemon, daemon_in, until

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[3]
KILLS = 20
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        made.start().up()
        made.service.call(lambda: made.service.bus.set_sinks([]))
        yield made


@pytest.fixture
def command(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: str) -> str:
        capsys.readouterr()
        assert main([*words, "--config", str(daemon.config)]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def config(tmp_path: Path, bundle: Bundle) -> Path:
    """Of a daemon that looks at a picture of a mug, without a panel."""
    pytest.importorskip("PIL.Image").fromarray(MUG).save(tmp_path / "mug.png")
    text = CONFIG.format(bundle=bundle.path, state=tmp_path / "state", runtime=tmp_path / "run")
    text = text.replace(
        "frame_rate = 240.0", f'frame_rate = 60.0\nkind = "files"\npath = "{tmp_path / "mug.png"}"'
    )
    path = tmp_path / "config.toml"
    path.write_text(text.replace('kind = "simulated"', 'kind = "none"'))
    return path


class TestStatus:
    def test_status_as_text(self, daemon: Daemon, command: Callable[..., str]) -> None:
        daemon.ask("register", name="mug", pictures=[EncodedPicture.encode(MUG)])
        daemon.show(MUG, "mug")
        lines = dict(line.split(None, 1) for line in command("status").splitlines())
        assert lines["now"].startswith("sees mug; 1 object; ")
        assert lines["model"] == "tiny-0123456789ab, int8 on onnxruntime"
        assert lines["threshold"] == "p >= 0.6000 (given)"
        assert lines["objects"] == "1 with 1 views"
        assert lines["camera"] == "a stage; running"
        assert lines["frames"].endswith(" dropped; 0 restarts")
        assert lines["panel"] == "simulated button and LED"
        assert lines["state"] == str(daemon.state)
        assert lines["up"].startswith("0 min ")
        assert "store" not in lines

    def test_status_names_settings_and_a_model_that_are_not_used(
        self, daemon: Daemon, command: Callable[..., str]
    ) -> None:
        assert daemon.service.loader.model is not None
        problem = "tiny-1 does not work (it crashes); using objects, shipped with edge-siamese instead"
        daemon.service.loader.model = replace(daemon.service.loader.model, problem=problem)
        daemon.service.origin = replace(daemon.service.origin, problem="c.toml: x: unknown key (at line 3)")
        lines = dict(line.split(None, 1) for line in command("status").splitlines())
        assert lines["settings"] == "the previous ones stay in use: c.toml: x: unknown key (at line 3)"
        assert lines["fallback"] == problem

    def test_status_of_a_camera_without_frames(self, daemon: Daemon, command: Callable[..., str]) -> None:
        daemon.stage.error = CameraStalled("it hangs")
        until(lambda: daemon.service.hardware.camera_down)
        assert "camera     a stage; stalled: it hangs\n" in command("status")

    def test_status_of_integrations(self, daemon: Daemon, command: Callable[..., str]) -> None:
        fleet = {"state": "reading", "collection": "home", "objects": 3, "problem": "the disk is full"}
        daemon.service.integrations.report = lambda: {  # type: ignore[method-assign]
            "dashboard": {"works": False, "state": "the port 8765 is taken"},
            "mqtt": {"works": True, "state": "connected to broker.lan", "fleet": fleet},
        }
        lines = dict(line.split(None, 1) for line in command("status").splitlines())
        assert lines["dashboard"] == "the port 8765 is taken"
        assert lines["mqtt"] == "connected to broker.lan"
        assert lines["fleet"] == "reading; collection home, 3 objects; the disk is full"

    def test_status_as_json(self, daemon: Daemon, command: Callable[..., str]) -> None:
        found = json.loads(command("status", "--json"))
        assert found["model"]["model_id"] == "tiny-0123456789ab"
        assert found["paths"] == {
            "config": str(daemon.config),
            "state": str(daemon.state),
            "socket": str(daemon.socket),
        }

    @pytest.mark.usefixtures("nothing_shipped")
    def test_status_without_a_model_is_no_error(
        self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        with daemon_in(tmp_path_factory.mktemp("bare"), monkeypatch) as bare:
            bare.configure("")
            bare.start()
            bare.told("model")
            capsys.readouterr()
            assert main(["status", "--config", str(bare.config)]) == 0
            out = capsys.readouterr().out
        remedy = "no model is installed: edge-siamese model install BUNDLE"
        assert f"now      {remedy}\nmodel    {remedy}\n" in out

    @pytest.mark.usefixtures("objects_shipped")
    def test_status_names_a_shipped_model(
        self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        with daemon_in(tmp_path_factory.mktemp("fresh"), monkeypatch) as fresh:
            fresh.configure("")
            fresh.start().up()
            capsys.readouterr()
            assert main(["status", "--config", str(fresh.config)]) == 0
            out = capsys.readouterr().out
        line = "shipped-000000000000, int8 on onnxruntime; objects, shipped with edge-siamese"
        assert re.search(rf"^model +{line}$", out, re.MULTILINE)

    def test_status_can_be_watched(
        self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for words in ([], ["--json"]):
            turns: list[float] = []

            def sleep(seconds: float, turns: list[float] = turns) -> None:
                turns.append(seconds)
                if len(turns) == 3:
                    raise KeyboardInterrupt

            # Not the module's own `sleep`: all other threads sleep by it.
            monkeypatch.setattr(commands, "time", SimpleNamespace(sleep=sleep, strftime=time.strftime))
            capsys.readouterr()
            assert main(["status", "--watch", *words, "--config", str(daemon.config)]) == 130
            lines = capsys.readouterr().out.splitlines()
            assert len(lines) == 3
            if words:
                assert json.loads(lines[0])["version"]
            else:
                assert "sees no known object" in lines[-1]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.9, "0 min 0 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (7265, "2 h 1 min")],
    )
    def test_uptime_is_formatted(self, seconds: float, text: str) -> None:
        assert commands._duration(seconds) == text


class TestEvents:
    def test_recent_events(self, command: Callable[..., str]) -> None:
        first, *_ = lines = command("events", "--count", "2").splitlines()
        assert len(lines) == 2
        assert first[10] == " "
        assert first[23] == "Z"
        assert first[26:].startswith("started         recognizing 0 objects with tiny-0123456789ab, ")
        assert [json.loads(line)["kind"] for line in command("events", "--json").splitlines()] == [
            "started",
            "camera",
        ]

    def test_events_are_followed_until_the_daemon_stops(
        self, daemon: Daemon, command: Callable[..., str]
    ) -> None:
        daemon.ask("register", name="mug", pictures=[EncodedPicture.encode(MUG)])

        def happen() -> None:
            until(lambda: daemon.service.bus._subscribers)
            daemon.ask("rename", name="mug", new="cup")
            daemon.service.bus.publish(Event("stopping", "the daemon is stopping"))
            time.sleep(0.05)
            daemon.service.stop()

        happening = threading.Thread(target=happen)
        happening.start()
        out = command("events", "--follow", "--count", "1")
        happening.join()
        texts = [line[42:] for line in out.splitlines()]
        assert texts[:3] == ['"mug" is registered', '"mug" is now called "cup"', "the daemon is stopping"]

    def test_lost_events_have_no_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        commands._print_event({"kind": "lost", "text": "3 events were lost", "count": 3}, False)
        assert capsys.readouterr().out == f"{'':24}  {'lost':14}  3 events were lost\n"


class TestReload:
    def test_reload_is_requested(self, daemon: Daemon, command: Callable[..., str]) -> None:
        assert command("reload") == f"the daemon uses {daemon.config} and tiny-0123456789ab\n"
        assert daemon.told("settings") == "the settings were read again"
        assert json.loads(command("reload", "--json")) == {"ok": True, "problem": "", "busy": False}

    def test_what_the_daemon_refused_is_not_confirmed(
        self, daemon: Daemon, capsys: pytest.CaptureFixture[str]
    ) -> None:
        good = daemon.config.read_text()
        known = daemon.service.settings
        asked: list[bool] = []

        def break_file() -> None:
            asked.append(True)
            daemon.config.write_text(good + "\n[camera]\n")
            Service.reload(daemon.service)

        daemon.service.reload = break_file  # type: ignore[method-assign,assignment]
        problem = f"{daemon.config}: not valid TOML: Cannot declare ('camera',) twice"
        assert main(["reload", "--config", str(daemon.config)]) == 1
        out, error = capsys.readouterr()
        assert (out, error.split(" (at")[0]) == (
            "", f"edge-siamese: the daemon does not use the new settings: {problem}"
        )  # fmt: skip
        assert asked and daemon.service.settings == known
        assert main(["reload", "--config", str(daemon.config)]) == 1
        assert capsys.readouterr().err.startswith(f"edge-siamese: {problem}")
        del daemon.service.reload
        daemon.config.write_text(good.replace('bundle = "', 'bundle = "/none'))
        assert main(["reload", "--config", str(daemon.config)]) == 1
        assert capsys.readouterr().err.startswith(
            "edge-siamese: the daemon does not use the new model: no bundle at /none"
        )


@pytest.mark.parametrize(
    "words",
    ["status", "events", "events --follow", "reload", "objects", "objects views a", "objects export a.zip",
     "objects remove-view a 1", "register a", "rename a b", "forget a", "merge a b", "undo", "wrong", "explain"],
)  # fmt: skip
def test_without_a_daemon_the_error_names_a_remedy(
    words: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words.split(), "--config", str(config)]) == 1
    assert capsys.readouterr() == (
        "",
        f"edge-siamese: the daemon is not running (nothing listens at {config.parent}/run/control.sock): "
        "sudo systemctl start edge-siamese, or edge-siamese run\n",
    )


class TestRun:
    def test_settings_can_be_checked(self, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["config", "check", "--config", str(config)]) == 0
        assert capsys.readouterr().out == f"{config}: the settings are valid\n"

    def test_invalid_settings_have_their_own_exit_status(
        self, config: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config.write_text("[camera]\nframe_rate = 1e9\n")
        assert main(["run", "--config", str(config)]) == 78
        assert capsys.readouterr() == (
            "",
            f"edge-siamese: {config}: camera.frame_rate: must be a number from 0.1 to 240, not 1000000000.0 (at line 2)\n",
        )

    def test_a_second_daemon_is_refused(
        self, daemon: Daemon, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        monkeypatch.setattr(commands, "_log_to_stderr", lambda: None)
        assert main(["run", "--config", str(daemon.config)]) == 1
        assert capsys.readouterr().err == (
            f"edge-siamese: another daemon is running: pid {os.getpid()} at {daemon.socket}\n"
        )


def test_status_does_not_import_numpy(config: Path) -> None:
    program = (
        "import sys; from edge_siamese.cli.main import main; "
        "main(sys.argv[1:]); print(sorted({'numpy', 'sqlite3', 'PIL'} & set(sys.modules)))"
    )
    for words in ("status", "events", "undo", "objects"):
        done = subprocess.run(
            [sys.executable, "-c", program, words, "--config", str(config)],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.stdout == "[]\n", words


def until_answered(config: Path) -> dict[str, Any]:
    """Wait until the daemon recognizes frames; its status."""

    def ask() -> Any:
        try:
            found = request(config.parent / "run" / "control.sock", "status")
        except EdgeSiameseError:
            return None
        return found if found["frames"] else None

    found: dict[str, Any] = until(ask, 30.0)
    return found


def test_signals_stop_and_reload_a_real_process(config: Path, tmp_path: Path) -> None:
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(tmp_path / "notify"))
    heard: list[bytes] = []
    threading.Thread(
        target=lambda: [heard.append(notify.recv(4096)) for _ in range(100_000)], daemon=True
    ).start()
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_siamese", "run", "--config", str(config)],
        env={**ENVIRONMENT, "NOTIFY_SOCKET": str(tmp_path / "notify")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    path = tmp_path / "run" / "control.sock"
    try:
        assert until_answered(config)["model"]["threshold"] == 0.6
        request(path, "register", name="mug")
        config.write_text(config.read_text().replace("threshold = 0.6", "threshold = 0.9"))
        process.send_signal(signal.SIGHUP)
        until(lambda: request(path, "status")["model"]["threshold"] == 0.9)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, err) == (0, "")
    texts = [line[21:] for line in out.splitlines()]
    assert texts[-1] == "the daemon is stopping"
    assert '"mug" is registered' in texts
    assert any(message.startswith(b"READY=1") for message in heard)
    assert any(message.startswith(b"STOPPING=1") for message in heard)
    with SupportStore(tmp_path / "state" / "objects.db", "tiny-0123456789ab", 8) as store:
        assert ([known.name for known in store.objects()], store.repair) == (["mug"], None)
    events = (tmp_path / "state" / "events.jsonl").read_text().splitlines()
    assert json.loads(events[-1])["kind"] == "stopping"


@pytest.fixture
def nursery() -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, "-m", "tests.edge_siamese.cli.nursery"]
    with subprocess.Popen(
        program,
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_killed_daemons_lose_no_acknowledged_change(
    nursery: subprocess.Popen[str], config: Path, tmp_path: Path
) -> None:
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    chance = random.Random(2026)
    path, sent = tmp_path / "run" / "control.sock", [EncodedPicture.encode(MUG)]
    acknowledged: dict[str, str] = {}
    asked = 0
    for turn in range(KILLS):
        nursery.stdin.write(f"{config}\n")
        word, pid = nursery.stdout.readline().split()
        assert word == "born"
        until_answered(config)
        killer = threading.Timer(chance.uniform(0.0, 0.1), os.kill, (int(pid), signal.SIGKILL))
        if not turn % 3:
            killer.start()
        try:
            while True:
                name, asked = f"thing {asked}", asked + 1
                found = request(path, "register", name=name, pictures=sent, force=True)
                acknowledged[name] = found["object"]["uid"]
                if killer.ident is None:  # after something was acknowledged, however busy this machine is
                    killer.start()
        except EdgeSiameseError:
            pass  # it is dead
        killer.join()
        assert nursery.stdout.readline() == f"dead {-signal.SIGKILL}\n"
    with SupportStore(tmp_path / "state" / "objects.db", "tiny-0123456789ab", 8) as store:
        kept = {known.name: known.uid for known in store.objects()}
        assert store.repair is None
        assert store.counts().unembedded == 0
    assert acknowledged.items() <= kept.items()
    assert len(kept) - len(acknowledged) <= KILLS
    assert len(acknowledged) >= KILLS * 2 // 3


def test_a_killed_daemon_does_not_block_the_next_start(
    nursery: subprocess.Popen[str], config: Path, tmp_path: Path
) -> None:
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    nursery.stdin.write(f"{config}\n{config}\n")
    pid = int(nursery.stdout.readline().split()[1])
    until_answered(config)
    os.kill(pid, signal.SIGKILL)
    assert nursery.stdout.readline() == f"dead {-signal.SIGKILL}\n"
    pid = int(nursery.stdout.readline().split()[1])
    until_answered(config)
    assert next(stream(tmp_path / "run" / "control.sock", "events", count=1))["result"] != []
    os.kill(pid, signal.SIGTERM)
    assert nursery.stdout.readline() == "dead 0\n"
    assert not (tmp_path / "run" / "control.sock").exists()


QUIET_LIBRARY = """
import logging, os, sys, threading
from edge_siamese.cli.daemon import _log_to_stderr
from edge_siamese.runtimes.tflite import _silent_stderr
_log_to_stderr()
with _silent_stderr():
    os.write(2, b"from a library\\n")
    thread = threading.Thread(target=lambda: (logging.warning("a log line"), print("an event", file=sys.stderr)))
    thread.start()
    thread.join()
"""


def test_no_line_is_lost_while_the_output_of_a_library_is_discarded() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET_LIBRARY], capture_output=True, text=True, check=True)
    first, second = done.stderr.splitlines()
    assert first.endswith("  a log line")
    assert second == "an event"
