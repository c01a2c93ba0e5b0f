"""`config check`: it prints the lines that `run` would, for everything that can fail at the start."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_siamese.cli.main import main
from edge_siamese.daemon.control_socket import ControlServer
from edge_siamese.errors import ControlError, NotReady
from edge_siamese.models.bundle import Bundle
from edge_siamese.runtimes.selection import runtime_statuses
from tests.edge_siamese.daemon.running import Daemon, daemon_in, until

pytest.importorskip("onnxruntime")

Check = Callable[[], tuple[int, list[str]]]
NONE = "no such file or directory"


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """Not started; its settings are without fault."""
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        made.config.write_text(made.config.read_text().replace("[camera]", '[camera]\nkind = "synthetic"'))
        yield made


@pytest.fixture
def check(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> Check:
    def run() -> tuple[int, list[str]]:
        capsys.readouterr()
        status = main(["config", "check", "--config", str(daemon.config)])
        out, error = capsys.readouterr()
        assert bool(out) == (status == 0)
        return status, [line.removeprefix("edge-siamese: ") for line in error.splitlines()]

    return run


@pytest.fixture
def taken() -> Iterator[int]:
    """A port at which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def reported(daemon: Daemon, count: int) -> list[str]:
    """The problems that the daemon publishes when it starts."""
    daemon.start()
    trouble = ("model", "store", "camera", "panel", "dashboard", "mqtt", "metrics")
    problems = ("cannot recognize: ", "no ")

    def lines() -> list[str]:
        return [text for text in daemon.events(*trouble) if text.startswith(problems)]

    until(lambda: len(lines()) >= count)
    return lines()


def test_settings_without_fault(daemon: Daemon, check: Check, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(daemon.home.rglob("*"))
    assert check() == (0, [])
    assert sorted(daemon.home.rglob("*")) == before, "it changes nothing"
    daemon.start().up()
    daemon.service.call(lambda: daemon.service.bus.set_sinks([]))
    capsys.readouterr()
    assert main(["config", "check", "--config", str(daemon.config)]) == 0
    assert capsys.readouterr().out == (
        f"{daemon.config}: the settings are valid; camera, panel and ports were not tested, "
        "because the daemon is running\n"
    )


@pytest.mark.parametrize(
    ("table", "text", "expected"),
    [
        ("model", 'bundle = "/none/x"', "cannot recognize: no bundle at /none/x: no such directory"),
        ("model", 'bundle = "flowers"', "cannot recognize: no bundle at flowers: no such directory"),
        (
            "model",
            'bundle = "{bundle}"\nruntime = "{missing}"',
            "cannot recognize: ",
        ),
        (
            "panel",
            'kind = "input"\ninput_device = "no-such-button"',
            'no button and no LED: there is no input device "no-such-button"',
        ),
        (
            "dashboard",
            'enabled = true\nlisten = "0.0.0.0"',
            "no dashboard: the dashboard needs a password, since it listens at 0.0.0.0",
        ),
        (
            "dashboard",
            'enabled = true\ncertificate = "no.pem"\nkey = "no.key"',
            "no dashboard: certificate {home}/no.pem and key {home}/no.key cannot be used: No such file or directory",
        ),
        (
            "dashboard",
            "enabled = true\nport = {taken}",
            "no dashboard: the dashboard cannot listen at 127.0.0.1, port {taken}: Address already in use; "
            "process {pid} ({name}) uses it: set another port in [dashboard]",
        ),
        (
            "dashboard",
            'enabled = true\nlisten = "192.0.2.1"\nport = 1024',
            "no dashboard: the dashboard needs a password",
        ),
        (
            "metrics",
            "enabled = true\nport = {taken}",
            "no metrics: cannot listen at 127.0.0.1, port {taken}: Address already in use; "
            "process {pid} ({name}) uses it: set another port in [metrics]",
        ),
        (
            "metrics",
            'enabled = true\nlisten = "192.0.2.1"',
            "no metrics: cannot listen at 192.0.2.1, port 9477: Cannot assign requested address",
        ),
        (
            "mqtt",
            'broker = "127.0.0.1"\nusername = "u"\npassword_file = "pw"',
            "no mqtt: {home}/pw: the password cannot be read: No such file or directory",
        ),
        (
            "mqtt",
            'broker = "127.0.0.1"\ntls = true\nca_file = "ca.pem"',
            "no mqtt: ca_file {home}/ca.pem cannot be used: No such file or directory",
        ),
    ],
)
def test_what_the_daemon_reports_is_found_before(
    table: str, text: str, expected: str, daemon: Daemon, bundle: Bundle, check: Check, taken: int
) -> None:
    if table in ("dashboard", "metrics", "mqtt"):
        pytest.importorskip({"dashboard": "uvicorn", "metrics": "prometheus_client", "mqtt": "paho"}[table])
    # No environment has all runtimes: tflite-runtime needs an old Python, ai-edge-litert a new numpy.
    missing = next(found.name for found in runtime_statuses() if not found.usable)
    tables = {
        "model": f'bundle = "{bundle.path}"',
        "camera": 'kind = "synthetic"',
        "panel": 'kind = "simulated"',
        "paths": f'state = "{daemon.state}"\nruntime = "{daemon.socket.parent}"',
        table: text.replace("{taken}", str(taken))
        .replace("{missing}", missing)
        .replace("{bundle}", str(bundle.path)),
    }
    daemon.config.write_text("".join(f"[{name}]\n{lines}\n" for name, lines in tables.items()))
    status, lines = check()
    name = Path("/proc/self/comm").read_text().strip()
    expected = (
        expected.replace("{home}", str(daemon.home))
        .replace("{taken}", str(taken))
        .replace("{pid}", str(os.getpid()))
        .replace("{name}", name)
    )
    assert (status, len(lines)) == (1, 1), lines
    assert lines[0].startswith(expected)
    assert lines == reported(daemon, 1)


def test_a_hook_that_cannot_be_run(
    daemon: Daemon, check: Check, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    for hook, reason in (
        ("/none/hook", "No such file or directory"),
        ("no-such-program", "No such file or directory"),
        ("./plain", "Permission denied"),
        ("./run", "Permission denied"),
    ):
        known = daemon.config.read_text()
        daemon.config.write_text(known + f'[events]\nhook = ["{hook}"]\n')
        program = str(tmp_path / hook) if hook.startswith(".") else hook
        expected = f"the hook {program} cannot be run: {reason}"
        assert check() == (1, [expected]), hook
        caplog.clear()
        daemon.start().up()
        until(lambda: any(record.getMessage() == expected for record in caplog.records))  # noqa: B023
        daemon.stop()
        daemon.config.write_text(known)


def test_damaged_credentials(daemon: Daemon, check: Check) -> None:
    pytest.importorskip("uvicorn")
    daemon.state.mkdir()
    (daemon.state / "dashboard.json").write_text("{")
    daemon.config.write_text(daemon.config.read_text() + "[dashboard]\nenabled = true\nport = 18765\n")
    status, (line,) = check()
    assert status == 1
    assert line.startswith(
        f"no dashboard: closed: {daemon.state}/dashboard.json is damaged (not valid JSON: "
    )
    daemon.start()
    reports = daemon.service.integrations.report
    until(lambda: reports().get("dashboard", {}).get("url"))
    assert line == f"no dashboard: {reports()['dashboard']['state']}"


def test_directories_that_cannot_be_made(daemon: Daemon, check: Check, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    known = daemon.config.read_text()
    daemon.config.write_text(known.replace(f'runtime = "{tmp_path}/run"', 'runtime = "file/run"'))
    expected = f"{tmp_path}/file/run/control.sock: the socket cannot be created: Not a directory"
    assert check() == (1, [expected])
    daemon.start().thread.join(30)
    assert isinstance(daemon.error, ControlError) and str(daemon.error) == expected
    long = "x" * 100
    daemon.config.write_text(known.replace(f'runtime = "{tmp_path}/run"', f'runtime = "{long}"'))
    expected = f"{tmp_path}/{long}/control.sock: the path of a socket may have 103 bytes at most: set [paths] runtime"
    assert check() == (1, [expected])
    daemon.start().thread.join(30)
    assert str(daemon.error) == expected
    daemon.config.write_text(known.replace(f'state = "{tmp_path}/state"', 'state = "file/state"'))
    status, lines = check()
    assert (status, lines) == (
        1,
        [
            f"cannot recognize: {tmp_path}/file/state/objects.db cannot be used, nothing was changed: Not a directory"
        ],
    )
    assert lines == reported(daemon, 1)


def test_another_daemon_at_the_socket(daemon: Daemon, check: Check) -> None:
    def refuse(*_: object) -> None:
        raise NotReady("busy")

    with ControlServer(daemon.socket, refuse):
        expected = f"another daemon is running: pid {os.getpid()} at {daemon.socket}"
        assert check() == (1, [expected])
        daemon.start().thread.join(30)
    assert str(daemon.error) == expected


def test_a_camera_that_cannot_be_opened(daemon: Daemon, check: Check) -> None:
    known = daemon.config.read_text().replace('kind = "synthetic"', 'kind = "files"\npath = "none"')
    daemon.config.write_text(known)
    status, (line,) = check()
    assert (status, line) == (
        1,
        f"no frames: {daemon.home}/none: there is no such file or folder; correct camera.path",
    )


def test_dashboard_and_metrics_at_one_port(daemon: Daemon, check: Check) -> None:
    daemon.config.write_text(
        daemon.config.read_text() + "[dashboard]\nenabled = true\nport = 9477\n[metrics]\nenabled = true\n"
    )
    status, (line,) = check()
    assert status == 1
    assert line.startswith(f"{daemon.config}: metrics.port: must differ from the port of the dashboard, 9477")
