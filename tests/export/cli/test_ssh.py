"""Scripts on devices: their input and output, and how failures are reported."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from edge_siamese.errors import ExportError
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import InstalledModels
from export.__main__ import main
from export.cli.ssh import Device, ScriptResult, run_script, ssh_options

from .conftest import script

ROOT = Path(__file__).parents[3]
DEVICE = Device("pi@door.local", sudo=False)

pytestmark = pytest.mark.usefixtures("ssh")


def test_a_script_gets_its_input_and_answers_with_its_last_line() -> None:
    data = bytes(range(256)) * 10_000
    assert run_script(DEVICE, "echo first; wc -c; echo warning >&2", 60, data) == ScriptResult(
        True, "2560000"
    )
    assert run_script(DEVICE, "cat >/dev/null", 60) == ScriptResult(True, "")


def test_output_that_is_data_is_not_read_as_text() -> None:
    data, sizes, output = bytes(range(256)) * 10_000, list[int](), io.BytesIO()
    result = run_script(
        DEVICE, "cat", 60, data, output=output, max_output_bytes=len(data), received=sizes.append
    )
    assert (result, output.getvalue(), sizes[-1]) == (ScriptResult(True, ""), data, len(data))
    result = run_script(DEVICE, "cat", 60, data, output=io.BytesIO(), max_output_bytes=len(data) - 1)
    assert result == ScriptResult(False, "it sends more than 2,559,999 bytes")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("echo 'edge-siamese: it is broken' >&2; exit 1", "it is broken"),
        ("echo only this; exit 1", "only this"),
        ("exit 1", "no message"),
        ("printf 'a\\033]0;b\\007\\n' >&2; exit 1", "a\\x1b]0;b\\x07"),
        ("head -c 3000000 /dev/zero | tr '\\0' x", "it sends more than 1,048,576 bytes"),
        (
            "echo 'sudo: a password is required' >&2; exit 1",
            "sudo: a password is required; allow sudo without a password, log in as root, or use --no-sudo",
        ),
    ],
)
def test_a_failure_is_one_line(text: str, problem: str) -> None:
    assert run_script(DEVICE, text, 60) == ScriptResult(False, problem)


def test_a_command_that_is_missing_is_named() -> None:
    result = run_script(DEVICE, "no-such-command", 60)
    assert not result.succeeded
    assert result.text.endswith("not found; is edge-siamese installed there?")


def test_a_host_that_cannot_be_reached_is_named() -> None:
    assert run_script(Device("pi@shelf.away"), "true", 60) == ScriptResult(
        False, "cannot connect: ssh: connect to host pi@shelf.away: timed out"
    )


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (
            "Users only.\nroot@door.local: Permission denied (publickey,password).",
            "root@door.local: Permission denied (publickey,password); name the key with --identity, or copy yours to the "
            "device with ssh-copy-id",
        ),
        (
            "Warning: Identity file no/key not accessible: No such file or directory.\n"
            "root@door.local: Permission denied (publickey).",
            "Identity file no/key not accessible: No such file or directory",
        ),
        ("Host key verification failed.", "the host key is not known; log in once with ssh, and accept it"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "the host key has changed; if the device was installed again, remove its old key with ssh-keygen -R",
        ),
        (
            "ssh: Could not resolve hostname door.local: Name or service not known",
            "ssh: Could not resolve hostname door.local: Name or service not known",
        ),
    ],
)
def test_a_connection_that_fails_has_one_line_with_the_remedy(
    tmp_path: Path, said: str, problem: str
) -> None:
    script(tmp_path / "bin" / "ssh", f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit 255\n")
    assert run_script(DEVICE, "true", 60) == ScriptResult(False, f"cannot connect: {problem}")


def test_a_script_that_does_not_end_is_stopped() -> None:
    assert run_script(DEVICE, "exec sleep 60", 0.2) == ScriptResult(False, "no answer within 0.2 s")


def test_root_needs_no_sudo(tmp_path: Path) -> None:
    script(tmp_path / "bin" / "id", "#!/bin/sh\necho $FAKE_ID\n")
    script(tmp_path / "bin" / "sudo", '#!/bin/sh\necho "sudo $*"\n')
    device = Device("pi@door.local", command="echo")
    assert device.as_root == "$as_root echo"
    assert run_script(device, f"FAKE_ID=0\n{device.as_root} mug", 60).text == "sudo -n echo mug"
    script(tmp_path / "bin" / "id", "#!/bin/sh\necho 0\n")
    assert run_script(device, f"{device.as_root} mug", 60).text == "mug"


def test_a_machine_without_ssh_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ExportError, match=r"^ssh is not installed: apt install openssh-client$"):
        run_script(DEVICE, "true", 60)


def test_options_are_arguments_of_ssh() -> None:
    assert ssh_options(22, "key", ["A=b", "C=d"]) == ("-p", "22", "-i", "key", "-o", "A=b", "-o", "C=d")
    assert ssh_options(None, None, []) == ()


@pytest.mark.system
def test_a_bundle_is_deployed(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[paths]\nstate = "{tmp_path}/state"\nruntime = "{tmp_path}/run"\n')
    device = script(
        tmp_path / "device",
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m edge_siamese "$@" --config {config}\n',
    )
    words = ["pi@door.local", "pi@shelf.away", "--command", str(device), "--no-sudo", "--json"]
    assert main(["deploy", str(bundle.path), *words]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [item["succeeded"] for item in found] == [True, False]
    (model,) = InstalledModels(tmp_path / "state" / "models").all()
    assert found[0]["text"] == f"{model.name} is now the current model; the daemon is not running"
