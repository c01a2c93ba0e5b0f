"""`edge-siamese init`: what it asks, writes and says, on machines with and without camera and button."""

from __future__ import annotations

import builtins
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_siamese.cli import init
from edge_siamese.cli.main import main
from edge_siamese.doctor.detection import FoundDevice
from edge_siamese.settings_file import load_settings, parse_settings
from tests.documented import commands
from tests.edge_siamese.doctor.machines import PI

PI_CAMERA = FoundDevice("picamera2", "the Raspberry Pi camera imx708")
WEBCAM = FoundDevice("usb", "C920 at /dev/v4l/by-id/c920", "/dev/v4l/by-id/c920")
HEADER = FoundDevice("gpio", "a button on GPIO 17 and an LED on GPIO 27 (pinctrl-bcm2835)")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> init.Machine:
    made = init.Machine(
        PI, [PI_CAMERA, WEBCAM], [HEADER], has_service=False, runtimes=["tflite-runtime 2.14.0"]
    )
    monkeypatch.setattr(init, "inspect_machine", lambda: made)
    return made


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Typed at a terminal, in this order; all have to be used."""
    typed: list[str] = []

    def read(prompt: str) -> str:
        print(prompt)
        if not typed:
            raise EOFError
        return typed.pop(0)

    monkeypatch.setattr(builtins, "input", read)
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda _: True})())
    yield typed
    assert typed == []


def test_enter_five_times_takes_what_was_found(
    tmp_path: Path, machine: init.Machine, answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "c.toml"
    answers += [""] * 5
    assert main(["init", "--config", str(file)]) == 0
    assert file.read_text() == f'{init.HEADER}\n[camera]\nkind = "picamera2"\n\n[panel]\nkind = "gpio"\n'
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.endswith("] ")] == [
        "1 to 4 [1] ", "1 to 3 [1] ", "1 to 2 [1] ", "1 to 3 [1] ", "[none] ",
    ]  # fmt: skip
    assert (
        "\n\nWhat does it recognize?\n  1. things, from photographs\n  2. handwriting\n1 to 2 [1] \n\nDashboard, a web page"
        in out
    )
    assert out.endswith(
        f"wrote {file}\n\nNext:\n"
        f"  1. check the settings: edge-siamese config check --config {file}\n"
        f"  2. start the daemon: edge-siamese run --config {file}\n"
        "  3. hold an object in front of the camera and press the button; "
        f"watch: edge-siamese events --follow --config {file}\n"
    )


def test_answers_are_numbers_or_names_and_wrong_ones_are_asked_again(
    tmp_path: Path, machine: init.Machine, answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    answers += ["9", "2", "none", "2", "network", "http://x", "mqtts://hall:secret@hub.local"]
    assert (
        main(["init", "--config", str(file), "--set", "camera.rotation=180", "--set", "paths.state=s"]) == 0
    )
    settings = load_settings(file)
    assert (settings.camera.kind, settings.camera.device) == ("usb", WEBCAM.device)
    assert (settings.camera.rotation, settings.panel.kind, settings.model.bundle) == (180, "none", "glyphs")
    assert (settings.dashboard.enabled, settings.dashboard.listen) == (True, "0.0.0.0")
    assert settings.mqtt.broker == "mqtts://hall:secret@hub.local"
    out = capsys.readouterr().out
    assert '"9" is not one of the choices' in out and "the broker " in out
    assert "secret" not in out
    assert f"2. set the dashboard's password: edge-siamese dashboard password --config {file}\n" in out
    assert f"and run: edge-siamese register NAME --config {file}; " in out


def test_options_answer_instead_of_people(
    tmp_path: Path, machine: init.Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    options = ["--yes", "--json", "--camera", "usb", "--button", "none", "--model", "glyphs"]
    options += ["--dashboard", "local", "--broker", "hub.local", "--sound", "speech"]
    assert main(["init", "--config", str(file), *options]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["file"], answer["written"]) == (str(file), True)
    assert answer["settings"]["camera.device"] == WEBCAM.device
    settings = load_settings(file)
    assert (settings.camera.kind, settings.panel.kind, settings.model.bundle) == ("usb", "none", "glyphs")
    assert (settings.dashboard.enabled, settings.dashboard.listen) == (True, "127.0.0.1")
    assert settings.mqtt.broker == "hub.local"
    assert (settings.sound.enabled, settings.sound.speech) == (True, ("espeak-ng", "--stdin"))


def test_without_a_terminal_it_needs_yes(
    tmp_path: Path, machine: init.Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    assert main(["init", "--config", str(file)]) == 1
    assert capsys.readouterr().err == (
        "edge-siamese: standard input is not a terminal: use --yes, and options for the answers\n"
    )
    assert not file.exists()


def test_a_file_that_exists_is_changed_only_with_consent(
    tmp_path: Path, machine: init.Machine, answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    text = '# mine\n[camera]\nkind = "files"\npath = "p" # keep\n[panel]\nkind = "none"\n'
    file.write_text(text)
    file.chmod(0o640)
    words = ["init", "--config", str(file), "--camera", "synthetic"]
    difference = (
        f'--- {file}\n+++ {file} (new)\n@@ -2,3 +2,3 @@\n [camera]\n-kind = "files"\n+kind = "synthetic"\n'
        ' path = "p" # keep\n'
    )
    assert main([*words, "--yes"]) == 1
    out, error = capsys.readouterr()
    assert out.endswith(difference)
    assert error == f"edge-siamese: {file} exists and differs; to change it, add --force\n"
    answers += ["", "", "", "", "n"]
    assert main(words) == 1
    assert capsys.readouterr().err == "edge-siamese: nothing was changed\n"
    assert file.read_text() == text
    answers += ["", "", "", "", "y"]
    assert main(words) == 0
    assert file.read_text() == text.replace('"files"', '"synthetic"')
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    capsys.readouterr()
    assert main([*words, "--yes", "--set", "camera.rotation=90", "--force"]) == 0
    assert difference not in capsys.readouterr().out
    assert load_settings(file).camera.rotation == 90


def test_the_same_answers_again_change_nothing(
    tmp_path: Path, machine: init.Machine, answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.toml"
    text = '[camera]\nkind = "usb"\ndevice = "/dev/video9"\n[mqtt]\nbroker = "hub.local"\n[panel]\nkind = "gpio"\n'
    file.write_text(text)
    answers += [""] * 5
    before = file.stat()
    assert main(["init", "--config", str(file)]) == 0
    out = capsys.readouterr().out
    assert "1 to 4 [/dev/video9] \n" in out and "[hub.local] \n" in out and f"unchanged: {file}\n" in out
    assert os.path.samestat(before, file.stat()) and file.read_text() == text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--set", "camera.knid=usb"], 'camera.knid: unknown key; did you mean "kind"? (at line 6)'),
        (["--set", "camera.rotation=45"], "camera.rotation: must be one of 0, 90, 180, 270, not 45"),
        (
            ["--set", "rotation"],
            '--set needs TABLE.OPTION=VALUE, such as camera.rotation=180, not "rotation"',
        ),
        (["--broker", "http://x"], "the broker "),
        (["--camera", "files"], 'camera.path: camera kind "files" needs the path'),
    ],
)
def test_wrong_options_write_nothing(
    tmp_path: Path,
    machine: init.Machine,
    options: list[str],
    problem: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    machine.cameras.clear()
    machine.buttons.clear()
    file = tmp_path / "c.toml"
    assert main(["init", "--config", str(file), "--yes", *options]) == 1
    error = capsys.readouterr().err
    assert problem in error and error.count("\n") == 1
    assert not file.exists()


def test_the_end_of_the_input_writes_nothing(
    tmp_path: Path, machine: init.Machine, answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    answers += ["", ""]
    assert main(["init", "--config", str(tmp_path / "c.toml")]) == 1
    assert capsys.readouterr().err == "edge-siamese: the input ended; nothing was changed\n"
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_the_first_step(
    tmp_path: Path, machine: init.Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.cameras.clear()
    machine.runtimes.clear()
    machine.buttons[:] = [FoundDevice("gpio", "the GPIO header", problem="install gpiod")]
    options = ["--yes", "--button", "gpio", "--json"]
    assert main(["init", "--config", str(tmp_path / "c.toml"), *options]) == 0
    assert json.loads(capsys.readouterr().out)["next"][:3] == [
        "install an inference runtime: pip install ai-edge-litert, or: pip install onnxruntime",
        "install gpiod",
        "connect a camera; the daemon finds it",
    ]


def test_an_installed_service_is_reloaded(machine: init.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has_service = True
    monkeypatch.setattr(init, "default_config", lambda: init.SYSTEM_CONFIG)
    steps = init.next_steps(init.Settings(), init.SYSTEM_CONFIG, machine, changed=True)
    assert steps[:2] == [
        "check the settings: sudo edge-siamese config check",
        "apply the settings: sudo systemctl reload-or-restart edge-siamese",
    ]


@pytest.mark.parametrize(
    ("camera", "button", "last"),
    [
        ("synthetic", "auto", "the scene presses the button itself; watch: "),
        ("synthetic", "none", "hold an object in front of the camera and run: edge-siamese register NAME"),
        ("usb", "auto", "hold an object in front of the camera and run: edge-siamese register NAME"),
        ("usb", "gpio", "hold an object in front of the camera and press the button; watch: "),
    ],
)
def test_the_last_step_says_how_to_register(
    machine: init.Machine, camera: str, button: str, last: str
) -> None:
    machine.buttons.clear()
    settings = parse_settings(f'[camera]\nkind = "{camera}"\n[panel]\nkind = "{button}"\n')
    assert init.next_steps(settings, Path("/c.toml"), machine, changed=True)[-1].startswith(last)


def test_a_folder_that_cannot_be_written_is_reported_before_the_first_question(
    tmp_path: Path, machine: init.Machine, answers: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    file = tmp_path / "file" / "c.toml"
    assert main(["init", "--config", str(file)]) == 1
    assert capsys.readouterr() == ("", f"edge-siamese: {file} cannot be written: Not a directory\n")


def test_this_machine_is_examined() -> None:
    machine = init.inspect_machine(
        run=lambda command: "LoadState=loaded\n" if command[0] == "systemctl" else None
    )
    assert machine.has_service
    assert machine.board.processors >= 1


def test_the_commands_of_the_guide_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for words in commands("docs/device.md", "edge-siamese init --config"):
        assert words[0] == "edge-siamese"
        assert main(words[1:]) == 0, words
    settings = load_settings("config.toml")
    assert (settings.camera.kind, settings.camera.frame_rate) == ("synthetic", 5.0)
    assert settings.dashboard.enabled
    assert "frame_rate = 5.0  # line 7\n" in capsys.readouterr().out
