"""Commands in odd environments: other encodings, closed or full output, no home, an unknown user, wrong runtimes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese import settings as settings_module
from edge_siamese.daemon.commands import EncodedPicture
from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import MUG, Daemon, daemon_in

ROOT = Path(__file__).parents[3]
NAME = "Tasse é 杯"
COMMAND = shlex.join([sys.executable, "-m", "edge_siamese"])


def shell(line: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of shell, in which `edge-siamese` is the command."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))
    }
    return subprocess.run(
        ["bash", "-c", line.replace("edge-siamese", COMMAND)],
        cwd=ROOT,
        env={**environment, **variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A daemon that knows an object whose name not every terminal can show."""
    pytest.importorskip("onnxruntime")
    bundle: Bundle = request.getfixturevalue("bundle")
    with pytest.MonkeyPatch.context() as patch, daemon_in(tmp_path_factory.mktemp("named"), patch) as made:
        made.configure(bundle.path)
        made.start().up()
        made.ask("register", name=NAME, pictures=[EncodedPicture.encode(MUG)])
        yield made


ENCODINGS: tuple[dict[str, str], ...] = (
    {"LANG": "C", "PYTHONIOENCODING": "ascii"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LANG": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
    {"LANG": "C.UTF-8", "PYTHONIOENCODING": "cp437"},
)


@pytest.mark.parametrize("variables", ENCODINGS, ids=lambda variables: "-".join(variables.values()))
def test_terminals_without_utf8(named: Daemon, variables: dict[str, str]) -> None:
    encoding = variables.get("PYTHONIOENCODING", "ascii")
    config = shlex.quote(str(named.config))
    done = shell(f"edge-siamese objects --config {config}", **variables)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = NAME.encode(encoding, "backslashreplace").decode(encoding)
    assert f"\n{shown} " in done.stdout.decode(encoding)
    done = shell(f"edge-siamese objects --json --config {config}", **variables)
    assert json.loads(done.stdout.decode("ascii"))["objects"][0]["name"] == NAME
    for line in (
        "events",
        "--help",
        "register --help",
        "model list",
        "info",
        "doctor",
        "explain 'nichts ü'",
        "info ./häuser",
    ):
        done = shell(
            f"edge-siamese {line}" + ("" if "--help" in line else f" --config {config}"), **variables
        )
        assert b"Traceback" not in done.stderr and b"Unicode" not in done.stderr, line
        assert done.stdout.decode(encoding) or done.stderr.count(b"\n") == 1, line


def test_an_argument_that_is_no_text_is_refused(named: Daemon) -> None:
    config = shlex.quote(str(named.config))
    done = shell(f"edge-siamese rename '{NAME}' $'caf\\xe9' --config {config}", LANG="C.UTF-8")
    assert (done.returncode, done.stdout, done.stderr) == (
        1, b"", b"edge-siamese: an argument contains '\\udce9', which is not text in the locale's encoding\n",
    )  # fmt: skip


@pytest.mark.parametrize("line", ["--help", "info glyphs", "info glyphs --json", "register --help"])
def test_output_that_nobody_reads(line: str) -> None:
    done = shell(f"edge-siamese {line} | true; echo ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED="1")
    # argparse itself ignores that its help cannot be written.
    assert (done.stdout, done.stderr) == (b"0\n" if "--help" in line else b"1\n", b"")
    done = shell(f"edge-siamese {line} >&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    done = shell(f"edge-siamese {line} > /dev/full")
    assert (done.returncode, done.stderr) == (
        1, b"edge-siamese: standard output cannot be written: No space left on device\n",
    )  # fmt: skip


def test_errors_that_nobody_reads() -> None:
    for redirection in ("2> /dev/full", "2>&-", ">&- 2>&-", "2> >(true)"):
        done = shell(f"edge-siamese info /none {redirection}")
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b""), redirection


def test_closed_input() -> None:
    done = shell("edge-siamese dashboard password <&-", EDGE_SIAMESE_CONFIG="/dev/null")
    assert done.returncode == 1 and done.stderr.count(b"\n") == 1
    done = shell("printf '\\xff\\n' | edge-siamese dashboard password --stdin", LANG="C.UTF-8")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)


@pytest.mark.parametrize("home", [{}, {"HOME": "/nonexistent"}])
def test_a_user_without_account_and_home(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, pwd\n"
        "def unknown(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\n"
        "pwd.getpwuid, os.geteuid, os.getuid = unknown, lambda: 54321, lambda: 54321\n"
    )
    variables = {"PYTHONPATH": str(tmp_path), **home}

    def run(line: str) -> tuple[int, str, str]:
        done = shell(f"unset {'' if home else 'HOME'} XDG_RUNTIME_DIR; edge-siamese {line}", **variables)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    assert run("info glyphs")[::2] == (0, "")
    for line in (
        "status",
        "model list",
        "dashboard",
        "reload",
        "config check",
        "info",
        *([] if home else ["run"]),
    ):
        status, _, error = run(line)
        assert "Traceback" not in error and "KeyError" not in error, line
        if not home and not settings_module.SYSTEM_STATE.is_dir():
            assert (status, error) == (
                78 if line.startswith("run") else 1,
                "edge-siamese: user 54321 has no home directory for the state: "
                "set `state` in [paths] of the settings\n",
            ), line
    status, out, error = run("doctor")
    assert "permissions" in out and error == ""


def test_a_temporary_directory_that_cannot_be_used(bundle: Bundle) -> None:
    done = shell(f"edge-siamese selftest {shlex.quote(str(bundle.path))}", TMPDIR="/none")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("runtime", ["tflite-runtime", "ai-edge-litert", "onnxruntime"])
def test_a_runtime_that_is_not_installed(
    runtime: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocker = tmp_path / "sitecustomize.py"
    blocker.write_text(
        "import sys\nfor name in ('tflite_runtime', 'ai_edge_litert', 'onnxruntime'):\n    sys.modules[name] = None\n"
    )
    (tmp_path / "c.toml").write_text(
        f'[model]\nruntime = "{runtime}"\nbundle = "glyphs"\n[camera]\nkind = "synthetic"\n[panel]\nkind = "none"\n'
        '[paths]\nstate = "state"\nruntime = "."\n'
    )
    for line in (
        f"selftest glyphs --runtime {runtime}",
        f"bench glyphs --runtime {runtime}",
        f"config check --config {tmp_path}/c.toml",
        f"model install {bundle.path} --config {tmp_path}/c.toml",
    ):
        done = shell(f"edge-siamese {line}", PYTHONPATH=str(tmp_path))
        assert done.returncode == 1, line
        assert done.stderr.startswith(b"edge-siamese: ") and done.stderr.count(b"\n") == 1, done.stderr
        assert runtime.encode() in done.stderr, line


def test_json_for_a_terminal_without_an_encoding(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from edge_siamese.cli.output import json_text

    assert json_text("é") == '"é"'
    monkeypatch.setattr(sys, "stdout", None)
    assert json_text("é") == r'"\u00e9"'
