"""A new command touches the table and the API; command line, socket, HTTP and MQTT follow by themselves."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "edge_siamese"

ARGUMENTS = '''
class NoteArguments(Record, frozen=True):
    """A note."""

    text: Annotated[str, argument("text of the note", metavar="TEXT")]
    urgent: Annotated[bool, argument("mark the note as urgent")] = False


# --- the table ---
'''
COMMAND = """COMMANDS = (
    Command(
        "note",
        NoteArguments,
        "Write a note to the event log.",
        "note",
        EVERYONE,
        http="POST /note",
        cli="note",
        example="'moved the camera'",
    ),
"""
METHOD = '''    # --- commands: objects ---

    def note(self, text: str, urgent: bool = False) -> Line:
        """Write a note to the event log."""
        return Line(f"noted: {text}{'!' if urgent else ''}")
'''
CHECK = """
import sys
from pathlib import Path
from types import SimpleNamespace
from edge_siamese.cli.main import main
from edge_siamese.daemon.api import DaemonApi
from edge_siamese.daemon.control_socket import ControlServer

home = Path(sys.argv[1])
(home / "config.toml").write_text(f'[paths]\\nstate = "{home}"\\nruntime = "{home}"\\n')
with ControlServer(home / "control.sock", DaemonApi(SimpleNamespace(settings=SimpleNamespace(state_directory=home))).handle):
    assert main(["note", "moved the camera", "--urgent", "--config", str(home / "config.toml")]) == 0
"""
HTTP = """
from edge_siamese.dashboard.app import ENDPOINTS
(found,) = [endpoint for endpoint in ENDPOINTS if endpoint.path == "/note"]
print(found.method, *found.body.__struct_fields__)
"""
MQTT = """
from edge_siamese.mqtt.commands import parse_request
found = parse_request("note", b'{"text": "moved"}')
print(found.error or found.arguments)
print(parse_request("note", b"").error)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with one more command."""
    root = tmp_path_factory.mktemp("tree")
    copy = root / "edge_siamese"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    replace(copy / "daemon" / "commands.py", "\n# --- the table ---\n", ARGUMENTS)
    replace(copy / "daemon" / "commands.py", "COMMANDS = (\n", COMMAND)
    replace(copy / "daemon" / "api.py", "    # --- commands: objects ---\n", METHOD)
    return root


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def run(tree: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def changed_files(tree: Path) -> list[str]:
    return sorted(
        str(path.relative_to(tree / "edge_siamese"))
        for path in (tree / "edge_siamese").rglob("*.py")
        if not filecmp.cmp(path, PACKAGE / path.relative_to(tree / "edge_siamese"), shallow=False)
    )


def test_adding_a_command_touches_two_modules(tree: Path) -> None:
    assert changed_files(tree) == ["daemon/api.py", "daemon/commands.py"]


def test_the_command_line_has_it(tree: Path) -> None:
    text = run(tree, "-m", "edge_siamese", "note", "--help")
    assert "Write a note to the event log." in text
    assert "text of the note" in text
    assert "--urgent" in text
    assert "example: edge-siamese note 'moved the camera'" in text


def test_the_control_socket_has_it(tree: Path, tmp_path: Path) -> None:
    assert run(tree, "-c", CHECK, str(tmp_path)) == "noted: moved the camera!\n"


def test_the_http_api_has_it(tree: Path) -> None:
    pytest.importorskip("starlette")
    assert run(tree, "-c", HTTP) == "POST text urgent\n"


def test_mqtt_has_it(tree: Path) -> None:
    text, missing = run(tree, "-c", MQTT).splitlines()
    assert text == "NoteArguments(text='moved', urgent=False)"
    assert missing == "note: text: missing"
