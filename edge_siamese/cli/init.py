"""The command `edge-siamese init`: looks at the machine, asks at most five questions, and writes the settings."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_siamese.cli.output import print_json, print_line
from edge_siamese.cli.settings_edit import set_options
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.doctor.detection import FoundDevice, find_buttons, find_cameras
from edge_siamese.doctor.findings import SERVICE
from edge_siamese.errors import SettingsError
from edge_siamese.settings import Settings
from edge_siamese.settings_file import (
    SYSTEM_CONFIG,
    default_config,
    keys_of,
    new_config,
    options_of,
    parse_settings,
    read_settings_text,
)
from edge_siamese.system.board import ROOT, Board, Run, read_board, run_command
from edge_siamese.system.files import expand_path, require_writable, write_text_atomically
from edge_siamese.system.network import parse_broker, without_password
from edge_siamese.validation import SchemaError, parse_toml

HEADER = """\
# Settings of edge-siamese. Options that are missing have their defaults.
# All settings:    edge-siamese config show
# Check a change:  edge-siamese config check
"""

Changes = dict[str, Any]
"""Values of settings by dotted key."""
SOUND: dict[str, Changes] = {
    "off": {"sound.enabled": False},
    "tones": {"sound.enabled": True, "sound.speech": ()},
    "speech": {"sound.enabled": True, "sound.speech": ("espeak-ng", "--stdin")},
}
"""Settings by the value of `--sound`."""


@dataclass(frozen=True)
class Choice:
    """An answer that can be chosen."""

    name: str
    """Its value in the command's option."""
    text: str
    changes: Changes


@dataclass(frozen=True)
class Question:
    """A question about one part of the device."""

    option: str
    """Name of the command's option that answers it."""
    text: str
    current: Callable[[Settings], str]
    """The name of the choice that settings contain."""
    choices: Sequence[Choice]
    """Empty: the answer is text."""
    parse: Callable[[str], Changes] | None = None
    """Converts text to settings."""


@dataclass
class Machine:
    """The devices connected to this machine."""

    board: Board
    cameras: list[FoundDevice]
    buttons: list[FoundDevice]
    has_service: bool
    """Whether systemd has the unit of the daemon."""
    runtimes: list[str] = field(default_factory=list)
    """The inference runtimes that work here."""


def init(options: argparse.Namespace) -> int:
    """Write a settings file for this machine, and print the next steps."""
    file = (expand_path(options.config) if options.config else new_config()).resolve()
    text, settings = _existing(file)
    _require_writable(file)
    if not options.yes and (sys.stdin is None or not sys.stdin.isatty()):
        raise SettingsError("standard input is not a terminal: use --yes, and options for the answers")
    machine = inspect_machine()
    if not options.json:
        _print_machine(machine, settings)
    keys_in_file = set() if text is None else _keys(text)
    changes = {} if options.set is None else _assignments(options.set)
    if options.sound is not None:
        changes = SOUND[options.sound] | changes
    for question in questions(machine, settings):
        changes = _answer(question, options, settings, keys_in_file) | changes
    new = propose(text, settings, changes, file)
    written = _write(file, text, new, options)
    result = parse_settings(new, str(file), file.parent)
    steps = next_steps(result, file, machine, changed=written)
    if options.json:
        shown = {key: value for key, value in changes.items() if key != "mqtt.broker"}
        if "mqtt.broker" in changes:
            shown["mqtt.broker"] = without_password(changes["mqtt.broker"])
        print_json({"file": str(file), "written": written, "settings": shown, "next": steps})
        return 0
    print_line(f"{'wrote' if written else 'unchanged:'} {file}")
    print("\nNext:")
    for number, step in enumerate(steps, 1):
        print_line(f"  {number}. {step}")
    return 0


def inspect_machine(root: Path = ROOT, run: Run = run_command) -> Machine:
    """Examine this machine; nothing is opened that a running daemon uses.

    Args:
        root: root of the file system.
        run: runs a command.
    """
    from edge_siamese.runtimes.selection import runtime_statuses  # importing all runtimes takes seconds

    board = read_board(root)
    state = run(("systemctl", "show", SERVICE, "--property=LoadState")) or ""
    return Machine(
        board=board,
        cameras=find_cameras(root, board),
        buttons=find_buttons(root, board, Settings().panel),
        has_service=state.strip() == "LoadState=loaded",
        runtimes=[str(status) for status in runtime_statuses() if status.usable],
    )


def questions(machine: Machine, settings: Settings) -> list[Question]:
    """Return the questions, with what was found on the machine as choices. The first choice is the suggestion."""
    return [
        Question("camera", "Which camera?", lambda s: _camera_name(s), _cameras(machine)),
        Question("button", "Which button?", lambda s: s.panel.kind, _buttons(machine)),
        Question(
            "model",
            "What does it recognize?",
            lambda s: s.model.bundle or "objects",
            (
                Choice("objects", "things, from photographs", {"model.bundle": ""}),
                Choice("glyphs", "handwriting", {"model.bundle": "glyphs"}),
            ),
            lambda text: {"model.bundle": text},
        ),
        Question(
            "dashboard",
            "Dashboard, a web page with the live picture?",
            _dashboard_name,
            (
                Choice("off", "no", {"dashboard.enabled": False}),
                Choice(
                    "local",
                    "on this device only",
                    {"dashboard.enabled": True, "dashboard.listen": "127.0.0.1"},
                ),
                Choice(
                    "network",
                    "on the network, with a password",
                    {"dashboard.enabled": True, "dashboard.listen": "0.0.0.0"},
                ),
            ),
        ),
        Question(
            "broker",
            "MQTT broker, such as broker.local? (- for none)",
            lambda s: s.mqtt.broker,
            (),
            _broker,
        ),
    ]


def propose(text: str | None, settings: Settings, changes: Changes, file: Path) -> str:
    """Return the new text of the settings file; it is valid.

    Args:
        text: the current text; None: there is no file.
        settings: its settings.
        changes: wanted values. Those that are in effect already are not written.
        file: for errors and relative paths.

    Raises:
        SettingsError: a value is not allowed, or the file cannot be changed automatically.
    """
    before = dict(options_of(settings))
    keys = [key for key in before if key in changes and changes[key] != before[key]]
    new = {key: changes[key] for key in (*keys, *(key for key in changes if key not in before))}
    start = HEADER if text is None else text
    result = set_options(start, new) if new else start
    parse_settings(result, str(file), file.parent)
    return result


def next_steps(settings: Settings, file: Path, machine: Machine, *, changed: bool) -> list[str]:
    """Return what to do after the settings are written, one line each."""
    is_default = file == (default_config() or new_config()).resolve()
    config = "" if is_default else f" --config {file}"
    sudo = "sudo " if machine.has_service and file == SYSTEM_CONFIG else ""
    steps = []
    if not machine.runtimes:
        steps.append("install an inference runtime: pip install ai-edge-litert, or: pip install onnxruntime")
    for device in (*machine.cameras, *machine.buttons):
        if device.problem and device.kind in (settings.camera.kind, settings.panel.kind):
            steps.append(device.problem)
    if settings.camera.kind == "auto" and not machine.cameras:
        steps.append("connect a camera; the daemon finds it")
    steps.append(f"check the settings: {sudo}edge-siamese config check{config}")
    if settings.dashboard.is_exposed and settings.dashboard.enabled and not _has_password(settings):
        steps.append(f"set the dashboard's password: {sudo}edge-siamese dashboard password{config}")
    if not sudo:
        steps.append(f"start the daemon: edge-siamese run{config}")
    elif changed:
        steps.append(f"apply the settings: sudo systemctl reload-or-restart {SERVICE}")
    if settings.dashboard.enabled:
        steps.append(f"open {settings.dashboard.url}")
    steps.append(_first_object(settings, machine, config))
    return steps


def _first_object(settings: Settings, machine: Machine, config: str) -> str:
    """Return how to register an object."""
    watch = f"watch: edge-siamese events --follow{config}"
    if settings.camera.kind == "synthetic" and settings.panel.kind in ("auto", "simulated"):
        return f"the scene presses the button itself; {watch}"
    if settings.panel.kind == "none" or (settings.panel.kind == "auto" and not machine.buttons):
        return f"hold an object in front of the camera and run: edge-siamese register NAME{config}; {watch}"
    return f"hold an object in front of the camera and press the button; {watch}"


def _existing(file: Path) -> tuple[str | None, Settings]:
    """Return the text of the settings file and its settings; None and the defaults without one."""
    if not file.exists():
        return None, Settings()
    data = read_settings_text(file)
    return data.decode("utf-8", "replace"), parse_settings(data, str(file), file.parent)


def _require_writable(file: Path) -> None:
    """Raise before the first question if the answers could not be saved."""
    try:
        require_writable(file.parent)
    except OSError as error:
        hint = "; run it with sudo, or name a file of your own with --config" if error.errno == 13 else ""
        raise SettingsError(f"{file} cannot be written: {error.strerror}{hint}") from error


def _keys(text: str) -> set[str]:
    return set(keys_of(parse_toml(text)))


def _assignments(texts: Sequence[str]) -> Changes:
    """Parse `--set camera.rotation=180`; text without quotes is taken as a string."""
    changes: Changes = {}
    known = dict(options_of(Settings()))
    for text in texts:
        key, separator, value = (part.strip() for part in text.partition("="))
        if not separator or "." not in key:
            raise SettingsError(f'--set needs TABLE.OPTION=VALUE, such as camera.rotation=180, not "{text}"')
        try:
            changes[key] = parse_toml(f"value = {value}")["value"]
        except SchemaError:
            changes[key] = value
        if isinstance(known.get(key), str) and not isinstance(changes[key], str):
            changes[key] = value
    return changes


def _answer(
    question: Question, options: argparse.Namespace, settings: Settings, keys_in_file: set[str]
) -> Changes:
    """Return the settings that answer a question: from the option, the file, the suggestion, or the user."""
    given = getattr(options, question.option)
    if question.option == "camera" and options.device:
        return {"camera.kind": "usb", "camera.device": options.device}
    if given is not None:
        return _changes_for(question, given)
    keys = {key for choice in question.choices for key in choice.changes} or {"mqtt.broker"}
    present = question.current(settings) if keys & keys_in_file else ""
    suggested = question.choices[0].name if question.choices else ""
    if options.yes:
        return {} if present or not suggested else _changes_for(question, suggested)
    answer = _ask(question, present or suggested)
    return {} if answer == present else _changes_for(question, answer)


def _changes_for(question: Question, answer: str) -> Changes:
    """Return the settings for the name of a choice, or for text."""
    for choice in question.choices:
        if answer in (choice.name, choice.changes.get("camera.kind")):
            return choice.changes
    if question.option == "camera":
        return {"camera.kind": answer}
    if question.option == "button":
        return {"panel.kind": answer}
    assert question.parse is not None
    return question.parse(answer)


def _ask(question: Question, default: str) -> str:
    """Ask until the answer can be understood; returns the name of a choice or text. An empty answer is the default."""
    names = [choice.name for choice in question.choices]
    print()
    print_line(question.text)
    for number, choice in enumerate(question.choices, 1):
        print_line(f"  {number}. {choice.text}")
    if default in names:
        prompt = f"1 to {len(names)} [{names.index(default) + 1}] "
    else:
        prompt = f"{f'1 to {len(names)} ' if names else ''}[{without_password(default) or 'none'}] "
    while True:
        answer = _input(prompt)
        if not answer or answer in names or answer == default:
            return answer or default
        if answer.isdecimal() and 1 <= int(answer) <= len(names):
            return names[int(answer) - 1]
        if names:
            print_line(f'  "{without_password(answer)}" is not one of the choices')
            continue
        try:
            _changes_for(question, answer)
            return answer
        except SettingsError as error:
            print_line(f"  {error}")


def _input(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        print()
        raise SettingsError("the input ended; nothing was changed") from None
    except UnicodeDecodeError:
        raise SettingsError("the answer is not text in the locale's encoding; nothing was changed") from None


def _write(file: Path, old: str | None, new: str, options: argparse.Namespace) -> bool:
    """Write the file unless it has this text already; an existing file is changed only with permission."""
    if new == old:
        return False
    if old is not None:
        if not options.json:
            _print_difference(file, old, new)
        if not options.force:
            if options.yes:
                raise SettingsError(f"{file} exists and differs; to change it, add --force")
            if _input("Change the file? [y/N] ").lower() not in ("y", "yes"):
                raise SettingsError("nothing was changed")
    try:
        status = file.stat() if old is not None else None
        write_text_atomically(file, new, like=status)
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror or error}") from error
    return True


def _print_difference(file: Path, old: str, new: str) -> None:
    lines = difflib.unified_diff(
        old.splitlines(), new.splitlines(), str(file), f"{file} (new)", lineterm="", n=1
    )
    for line in lines:
        print_line(without_password(line) if "broker" in line else line)


def _print_machine(machine: Machine, settings: Settings) -> None:
    print_line(f"This machine: {machine.board}")
    for what, devices in (("camera", machine.cameras), ("button", machine.buttons)):
        for device in devices:
            problem = f" ({device.problem})" if device.problem else ""
            print_line(f"  {what}: {device.description}{problem}")
        if not devices:
            print_line(f"  {what}: none found")
    print_line(f"  runtime: {', '.join(machine.runtimes) or 'none works'}")


def _cameras(machine: Machine) -> list[Choice]:
    choices: list[Choice] = []
    for device in machine.cameras:
        changes: Changes = {"camera.kind": device.kind}
        if device.device:
            changes["camera.device"] = device.device
        if changes not in [choice.changes for choice in choices]:
            choices.append(Choice(device.device or device.kind, device.description, changes))
    auto = "whichever is connected when the daemon starts"
    synthetic = "none: a drawn scene, to try things out"
    return [
        *choices,
        Choice("auto", auto, {"camera.kind": "auto"}),
        Choice("synthetic", synthetic, {"camera.kind": "synthetic"}),
    ]


def _camera_name(settings: Settings) -> str:
    return settings.camera.device if settings.camera.kind == "usb" else settings.camera.kind


def _buttons(machine: Machine) -> list[Choice]:
    usable = [device for device in machine.buttons if not device.problem]
    return [
        *(Choice(device.kind, device.description, {"panel.kind": device.kind}) for device in usable),
        Choice("auto", "whichever is connected when the daemon starts", {"panel.kind": "auto"}),
        Choice("none", "none: register with commands or the dashboard", {"panel.kind": "none"}),
    ]


def _broker(text: str) -> Changes:
    if text == "-":
        return {"mqtt.broker": ""}
    try:
        parse_broker(text)
    except ValueError as error:
        raise SettingsError(f"the broker {error}") from None
    return {"mqtt.broker": text}


def _dashboard_name(settings: Settings) -> str:
    if not settings.dashboard.enabled:
        return "off"
    return "network" if settings.dashboard.is_exposed else "local"


def _has_password(settings: Settings) -> bool:
    with suppress(SettingsError):
        return CredentialsFile(settings.state_directory).current().password is not None
    return False
