"""The installation that commands act on: that of the running daemon, whichever settings file it was started with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_siamese import settings as settings_module
from edge_siamese import settings_file
from edge_siamese.cli.main import main
from edge_siamese.daemon.client import find_installation, find_socket, request
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.doctor import examine
from edge_siamese.errors import SettingsError
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.settings_file import load_settings
from tests.edge_siamese.daemon.running import Daemon, daemon_in

pytest.importorskip("onnxruntime")

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file of the machine: it has the daemon's socket, and another state directory."""
    path = tmp_path / "etc" / "config.toml"
    path.parent.mkdir()
    path.write_text(f'[paths]\nstate = "{tmp_path}/other"\nruntime = "{tmp_path}/run"\n')
    monkeypatch.setattr(settings_file, "SYSTEM_CONFIG", path)
    monkeypatch.delenv("EDGE_SIAMESE_CONFIG", raising=False)
    return path


@pytest.fixture
def daemon(
    tmp_path: Path, default: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Daemon]:
    """It was started with a file of its own."""
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        made.start().up()
        made.service.call(lambda: made.service.bus.set_sinks([]))
        yield made


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([*words])
        return (status, *capsys.readouterr())

    return run


def test_without_an_option_the_daemon_is_asked(daemon: Daemon, default: Path) -> None:
    found = find_installation()
    assert (found.file, found.settings.state_directory) == (daemon.config, daemon.state)
    assert (found.running, found.unreachable, found.difference) == (True, "", "")
    assert found.settings.recognition == load_settings(daemon.config).recognition
    assert find_socket() == daemon.socket


def test_commands_change_the_installation_of_the_daemon(
    daemon: Daemon, command: Command, bundle: Bundle, tmp_path: Path
) -> None:
    daemon.configure("")
    assert request(daemon.socket, "reload") and command("reload")[0] == 0
    status, out, _ = command("model", "install", str(bundle.path))
    name = daemon.models.state().current
    assert (status, out.splitlines()[1]) == (0, f"{name} is now the current model; the daemon uses it")
    assert InstalledModels(tmp_path / "other" / "models").all() == []
    (listed, *_) = json.loads(command("model", "list", "--json")[1])
    assert (listed["name"], listed["used"]) == (name, True)
    assert command("info")[1].splitlines()[0].endswith(bundle.manifest.model_id)
    assert command("dashboard", "password", "--generate")[0] == 0
    assert CredentialsFile(daemon.state).current().password is not None
    assert not (tmp_path / "other").exists()
    assert command("status")[1].count(str(daemon.state)) == 1


@pytest.mark.parametrize("how", ["option", "environment"])
def test_a_file_that_is_given_has_to_be_that_of_the_daemon(
    how: str, daemon: Daemon, default: Path, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ["--config", str(default)] if how == "option" else []
    if how == "environment":
        monkeypatch.setenv("EDGE_SIAMESE_CONFIG", str(default))
    refusal = (
        f"edge-siamese: the daemon at {daemon.socket} uses {daemon.state}, and {default} names {tmp_path}/other: "
        f"pass its settings (--config {daemon.config}), or restart it\n"
    )
    for line in (
        "model list",
        "model install x",
        "model rollback",
        "dashboard",
        "dashboard password --generate",
    ):
        assert command(*line.split(), *words) == (1, "", refusal), line
    assert not (tmp_path / "other").exists()
    # What the daemon carries out goes to its socket, which both files name.
    assert command("objects", *words)[0] == 0


def test_a_file_that_has_changed_is_told_and_not_used(daemon: Daemon, command: Command) -> None:
    words = ("--config", str(daemon.config))
    off = f"the dashboard is off; set enabled = true in [dashboard] of {daemon.config}\n"
    assert command("dashboard", *words) == (1, "", off)
    daemon.config.write_text(daemon.config.read_text() + "[dashboard]\nenabled = true\n")
    changed = f"{daemon.config} has changed since the daemon read it: edge-siamese reload"
    assert command("dashboard", *words) == (1, "", f"the dashboard is off; {changed}\n")
    findings = {finding.check: finding for finding in examine(daemon.config)}
    assert (findings["settings"].level, findings["settings"].text) == ("warning", changed)
    assert findings["integrations"].text == "dashboard, MQTT and metrics are off"
    assert "dashboard" not in findings


def test_new_paths_need_a_restart(daemon: Daemon, command: Command) -> None:
    daemon.config.write_text(daemon.config.read_text().replace(f"{daemon.state}", f"{daemon.state}2"))
    assert command("reload", "--config", str(daemon.config))[0] == 0
    assert "new paths take effect after a restart" in daemon.events("settings")
    found = find_installation()
    assert found.settings.state_directory == daemon.state
    with pytest.raises(SettingsError, match=r"restart it$"):
        find_installation(daemon.config)


def test_a_faulty_file_does_not_hide_the_daemon(
    daemon: Daemon, default: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings_module, "SYSTEM_RUNTIME", daemon.socket.parent)
    default.write_text("[camera\n")
    assert command("status")[0] == 0
    assert find_installation().settings.state_directory == daemon.state
    with pytest.raises(SettingsError, match=r"^.*etc/config.toml: not valid TOML"):
        find_installation(default)
    daemon.config.write_text("[camera\n")
    found = find_installation(daemon.config)
    assert found.settings.state_directory == daemon.state
    assert found.difference.startswith(
        f"the daemon still uses its previous settings: {daemon.config}: not valid TOML: "
    )


def test_without_a_daemon_the_file_is_used(default: Path, tmp_path: Path) -> None:
    found = find_installation()
    assert (found.file, found.settings.state_directory) == (default, tmp_path / "other")
    assert not found.running and found.unreachable.startswith("the daemon is not running")
    default.write_text("[camera\n")
    with pytest.raises(SettingsError, match=r"config.toml: not valid TOML"):
        find_socket()


def test_passwords_stay_in_the_daemon(daemon: Daemon) -> None:
    daemon.config.write_text(
        daemon.config.read_text() + '[mqtt]\nbroker = "mqtt://hall:secret@127.0.0.1:1"\n'
    )
    assert main(["reload", "--config", str(daemon.config)]) == 0
    answer = request(daemon.socket, "settings")
    assert answer["values"]["mqtt"]["broker"] == "mqtt://hall@127.0.0.1:1"
    assert "secret" not in json.dumps(answer)
    found = find_installation(daemon.config)
    assert found.difference == ""
