"""`config show`, `config diff` and `config check --values-only`; `test_check.py` has the other checks."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.cli.main import main
from edge_siamese.models.bundle import Bundle
from edge_siamese.settings import Settings
from edge_siamese.settings_file import options_of
from edge_siamese.validation import convert
from tests.edge_siamese.daemon.running import Daemon, daemon_in

pytest.importorskip("onnxruntime")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(
        '# mine\n[camera]\nkind = "files"\npath = "pictures"\n\n[mqtt]\nbroker = "mqtts://hall:secret@hub.local"\n'
        '[paths]\nstate = "s"\nruntime = "r"\n'
    )
    return path


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        yield made


def json_of(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main(["config", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_show_is_the_whole_file_as_it_is_understood(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "--config", str(config)]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    assert lines[:2] == [
        f"# {config}",
        f"# state directory: {config.parent}/s; control socket: {config.parent}/r/control.sock",
    ]
    assert 'kind = "files"  # line 3' in lines
    assert f'path = "{config.parent}/pictures"  # line 4' in lines
    assert "#threshold is not set  # default" in lines
    assert 'broker = "mqtts://hall@hub.local"  # line 7' in lines
    assert "secret" not in out
    shown = dict(options_of(convert(tomllib.loads(out), Settings)))
    assert len(shown) == sum(" = " in line or "is not set" in line for line in lines)
    assert shown["camera.path"] == f"{config.parent}/pictures"


def test_show_without_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edge_siamese.settings_file.default_config", lambda: None)
    answer = json_of(capsys, "show")
    assert answer["file"] == ""
    assert answer["settings"]["camera.kind"] == {"value": "auto", "source": "default", "line": None}
    assert {option["source"] for option in answer["settings"].values()} == {"default"}


def test_diff_from_the_defaults(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = json_of(capsys, "diff", "--config", str(config))
    assert answer["defaults"]["camera.kind"] == {"value": "files", "default": "auto", "line": 3}
    assert list(answer["defaults"]) == [
        "camera.kind", "camera.path", "mqtt.broker", "paths.state", "paths.runtime",
    ]  # fmt: skip
    assert answer["daemon"] is None
    assert answer["unreachable"].startswith("the daemon is not running")
    assert main(["config", "diff", "--config", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"{config} differs from the defaults:", '  camera.kind = "files" (default: "auto", line 3)',
    ]  # fmt: skip
    config.write_text("")
    assert main(["config", "diff", "--config", str(config)]) == 0
    assert capsys.readouterr().out.startswith(f"{config}: no difference from the defaults\n")


def test_diff_from_the_running_daemon(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.start().up()
    daemon.service.call(lambda: daemon.service.bus.set_sinks([]))
    words = ("diff", "--config", str(daemon.config))
    assert json_of(capsys, *words)["daemon"] == {}
    daemon.config.write_text(daemon.config.read_text().replace("frame_rate = 240.0", "frame_rate = 120.0"))
    answer = json_of(capsys, *words)
    assert (answer["daemon"], answer["unreachable"]) == (
        {"camera.frame_rate": {"value": 120.0, "daemon": 240.0}},
        "",
    )
    assert main(["config", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "the running daemon uses other values; to apply the file: edge-siamese reload",
        "  camera.frame_rate = 240.0 (file: 120.0)",
    ]


def test_check_of_values_alone(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["config", "check", "--config", str(config)]
    assert main([*words, "--values-only"]) == 0
    assert capsys.readouterr().out == f"{config}: the settings are valid\n"
    assert main([*words, "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert not answer["ok"] and any("pictures" in problem for problem in answer["problems"])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[camera]\n\nknid = 1\n", 'camera.knid: unknown key; did you mean "kind"? (at line 3)'),
        ("[camera]\nrotation = 45\n", "camera.rotation: must be one of 0, 90, 180, 270, not 45 (at line 2)"),
        ("[camera\n", "not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 8)"),
    ],
)
def test_every_command_names_the_line_of_an_error(
    config: Path, text: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(text)
    for words in (["check", "--values-only"], ["show"], ["diff"]):
        assert main(["config", *words, "--config", str(config)]) == 1
        assert capsys.readouterr() == ("", f"edge-siamese: {config}: {problem}\n")
